//! The ledger's part of `octroi fsck`: its lines, key, signatures and their copies.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use super::Report;
use crate::config::Config;
use crate::daemon::copies;
use crate::ledger::checkpoint::Checkpoint;
use crate::ledger::note::NoteSigner;
use crate::ledger::start::KEY;
use crate::ledger::store::TreeStore;
use crate::ledger::verify::{Against, Source, verify};
use crate::ledger::{CheckpointCopy, Entry, Inspected, Ledger, Record, Seal};
use crate::mover::Journal;
use crate::storage::real::{RealDir, RealStorage};
use crate::types::{BranchUuid, counted};

/// What the ledger tells.
#[derive(Default)]
pub(super) struct Memory {
    pub journal: Journal,
    pub ids: BTreeMap<String, BranchUuid>,
    /// Lines were lost, perhaps with the ids of branches.
    pub lost: bool,
}

/// Where there is no state folder: whether branches say that there was one.
pub(super) fn look_for_another(config: &Config, report: &mut Report) -> bool {
    let path = config.state.display();
    let copies = copies::find(config, &[], &mut report.notes).copies;
    let places: Vec<String> =
        copies.into_iter().filter(|copy| !copy.adopted).map(|copy| copy.place).collect();
    if places.is_empty() {
        report.notes.push(format!("{path} is no state folder yet: the view was never mounted"));
        return false;
    }
    let text = format!("{path} is no state folder, and there was one: {}", places.join(", "));
    let advice = "the mount is refused; restore the state folder from a copy, or, where the branches come from \
                  another view or nothing of it is left, octroi mount --adopt NAME for each";
    report.find("ledger", text, advice);
    true
}

/// Looks at every line, and holds them against what vouches for them. None where they cannot be read.
pub(super) fn look(config: &Config, state: &Path, report: &mut Report) -> Option<Memory> {
    let path = state.join("ledger");
    let found = copies::find(config, &[], &mut report.notes);
    let copies = found.copies.clone();
    let mut memory = Memory::default();
    let mut lines = 0_u64;
    let mut remember = |entry: &Entry| {
        lines = lines.saturating_add(1);
        for (name, id) in entry.record.ids() {
            memory.ids.insert(name.to_owned(), id);
        }
        memory.lost |= matches!(entry.record, Record::Loss(_));
        memory.journal.apply(entry);
    };
    let open = |path: &Path| {
        RealDir::open(path).map_err(|errno| format!("cannot open {}: {errno}", path.display()))
    };
    let inspected = open(&path).and_then(|dir| {
        let seal = Seal { state: open(state)?, copies: copies.clone(), accept: None };
        let storage = Arc::new(RealStorage);
        let found = Ledger::inspect(&storage, &dir, &config.view, &seal, &mut remember);
        found.map_err(|error| error.to_string())
    });
    match inspected {
        Ok(inspected) => {
            let records = counted(lines, "record", "records");
            report.notes.push(format!("the ledger has {records}, all of which can be read"));
            if !inspected.refusals.is_empty() {
                memory.journal.lose_until(jiff::Timestamp::now());
            }
            tell(inspected, state, &copies, report);
            // As the mount has it.
            memory.journal.begin(jiff::Timestamp::now());
            found.doubt_others(&mut memory.journal, &memory.ids, |_| true);
            Some(memory)
        }
        Err(why) => {
            let text = why.split("\nhint: ").next().unwrap_or(&why);
            let advice = "without its ledger nothing else can be told or repaired; restore it, or see octroi \
                          audit accept-loss";
            report.find("ledger", text, advice);
            None
        }
    }
}

fn tell(inspected: Inspected, state: &Path, copies: &[CheckpointCopy], report: &mut Report) {
    let Inspected { torn_bytes, unclean, refusals } = inspected;
    if torn_bytes > 0 {
        let torn = counted(torn_bytes, "byte", "bytes");
        let text = format!("the ledger ends in {torn} that a crash has torn");
        report.find("ledger", text, "--repair cuts that off, as the next mount does");
    } else if unclean {
        let text = "the last run did not stop cleanly";
        report.find("ledger", text, "--repair records it, as the next mount does");
    }
    if refusals.is_empty() {
        return look_at_signatures(state, copies, report);
    }
    for refusal in refusals {
        let advice = "the mount is refused, and octroi audit verify tells more; restore the state folder from a \
                      copy, or see octroi audit accept-loss; a branch that comes from another view is taken \
                      with octroi mount --adopt NAME";
        report.find("ledger", refusal, advice);
    }
}

/// Holds the lines of a ledger that could be mounted against the signed tree and the copies in the branches.
fn look_at_signatures(state: &Path, copies: &[CheckpointCopy], report: &mut Report) {
    let advice = "octroi audit verify tells more; the mount is refused if it is not one that can be made again";
    let ledger = state.join("ledger");
    let text = match std::fs::read_to_string(state.join(KEY)) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let note = "the ledger has no key yet: the next mount begins to sign it";
            return report.notes.push(note.to_owned());
        }
        text => text.map_err(|error| error.to_string()),
    };
    let signer = text.and_then(|text| text.parse::<NoteSigner>().map_err(str::to_owned));
    let checked = signer.and_then(|signer| {
        let dir = RealDir::open(&ledger).map_err(|errno| errno.to_string())?;
        let tree = TreeStore::new(Arc::new(RealStorage), dir);
        let key = signer.verifier();
        // What a branch that is only read holds of another view is none of ours.
        let is_ours =
            |copy: &&CheckpointCopy| !copy.adopted || Checkpoint::open(&copy.note, key).is_ok();
        let copies: Vec<CheckpointCopy> = copies.iter().filter(is_ours).cloned().collect();
        let against = Against {
            key,
            checkpoint: tree.checkpoint().map_err(|errno| errno.to_string())?,
            copies: &copies,
            tiles: Some(&tree),
            witness: None,
        };
        verify(&Source::Folder(ledger.clone()), &against, &mut |_| {})
            .map_err(|error| error.to_string())
    });
    match checked {
        Ok(found) => {
            let (signed, key) = (found.signed.unwrap_or(0), &found.origin);
            let signed = counted(signed, "of them is", "of them are");
            let copies = counted(found.copies.len() as u64, "copy agrees", "copies agree");
            report.notes.push(format!("{signed} as {key} has signed them, and {copies}"));
            for problem in found.problems {
                report.find("ledger", format!("{}: {}", problem.place, problem.what), advice);
            }
        }
        Err(why) => {
            report.find("ledger", format!("its signatures cannot be checked: {why}"), advice)
        }
    }
}
