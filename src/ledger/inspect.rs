//! Looks at a ledger that is not in use as opening it would, and changes nothing.

use std::sync::Arc;

use super::start::{Seal, Start};
use super::{Entry, Ledger, LedgerError, replay};
use crate::storage::Storage;

/// What [`Ledger::inspect`] has found.
#[derive(Debug, Clone, Default)]
pub struct Inspected {
    /// Bytes of a torn end, which opening it would cut off.
    pub torn_bytes: u64,
    /// The last run did not stop cleanly.
    pub unclean: bool,
    /// What opening it would be refused for, in words.
    pub refusals: Vec<String>,
}

impl<S: Storage> Ledger<S> {
    /// Checks every line of a ledger and hands each entry to `replay`, as [`Ledger::open_signed`] does, with
    /// all that vouches for it. An error where lines are damaged or the disk fails.
    pub fn inspect(
        storage: &Arc<S>,
        dir: &S::Dir,
        view: &str,
        seal: &Seal<S::Dir>,
        replay: &mut dyn FnMut(&Entry),
    ) -> Result<Inspected, LedgerError> {
        let mut start = Start::new(storage, dir, view, seal)?;
        let terms = replay::Terms { least: start.least(), ..replay::Terms::default() };
        let replay::Replayed { torn_bytes, unclean, .. } =
            replay::replay(&**storage, dir, terms, &mut |line| {
                start.line(line);
                replay(line.entry);
            })?;
        Ok(Inspected { torn_bytes, unclean, refusals: start.refusals() })
    }
}
