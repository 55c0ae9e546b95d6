//! A transaction is begun only if its decision can be recorded: COMMIT says more than PREPARE, and a line of
//! the ledger is bounded, which a path below a deep folder is not. What comes after COMMIT always fits: its
//! texts are cut.

use super::Mover;
use super::error::CrossingError;
use super::progress::LOST_BYTES_MAX;
use crate::ledger::record::{Act, CrossingRecord, Move, Spot, Step};
use crate::ledger::{self, Record};
use crate::storage::Storage;
use crate::types::{Handle, Identity, Time};

/// Bytes of an `f_handle` (`MAX_HANDLE_SZ` of `open_by_handle_at(2)`).
const HANDLE_MAX: usize = 128;

impl<S: Storage> Mover<S> {
    /// ENAMETOOLONG where COMMIT of what `prepare` begins, with moves between these ends, could be too long
    /// for the ledger, or that of its undo. `lossy`: the copy may lose something, and COMMIT says what.
    pub(super) fn check_length<'a>(
        prepare: &CrossingRecord,
        ends: impl IntoIterator<Item = (&'a Spot, &'a Spot)>,
        lossy: bool,
    ) -> Result<(), CrossingError> {
        let handle = Handle { kind: i32::MIN, bytes: vec![0xff; HANDLE_MAX].into() };
        let time = Time { seconds: i64::MIN, nanos: 999_999_999 };
        let identity = Identity { handle, size: u64::MAX, mtime: time, ctime: time };
        let hash = "f".repeat(64);
        let longest = |(from, to): (&Spot, &Spot)| Move {
            act: Act::Displace,
            from: from.clone(),
            to: to.clone(),
            identity: identity.clone(),
            below: Some(hash.clone()),
        };
        let commit = CrossingRecord {
            step: Step::Commit,
            undoes: Some(prepare.txid),
            sha256: Some(hash.clone()),
            size: Some(u64::MAX),
            readback: Some("stream".to_owned()),
            lost: lossy.then(|| "x".repeat(LOST_BYTES_MAX)).into_iter().collect(),
            moves: ends.into_iter().map(longest).collect(),
            replaced: Some(identity.handle.clone()),
            // That of whoever takes it back may be so long that it is left out, and so may this one.
            exe: None,
            ..prepare.clone()
        };
        ledger::fits(&Record::Crossing(Box::new(commit)))
            .map_err(|errno| CrossingError::Ledger { errno })
    }
}
