//! What a crash or an error at any step leaves of a signed ledger: no acknowledged record is lost, and
//! no checkpoint is ahead of the lines and tiles on the disk.

use std::ffi::OsStr;
use std::path::Path;

use super::checkpoint::Checkpoint;
use super::note::NoteSigner;
use super::signed_tests::tree;
use super::store::{TreeStore, read_small};
use super::tests::operation;
use super::*;
use crate::storage::simulated::{DeviceOptions, Fault, Names, SimulatedDir, SimulatedStorage};

/// A simulated machine with a state folder.
pub(super) struct Machine {
    pub storage: Arc<SimulatedStorage>,
    pub state: SimulatedDir,
    pub ledger: SimulatedDir,
}

impl Machine {
    pub fn new(names: Names) -> Self {
        let storage = SimulatedStorage::new(names);
        let state = storage.add_device(DeviceOptions::default());
        storage.create_dir(&state, OsStr::new("ledger")).unwrap();
        storage.sync_dir(&state).unwrap();
        let ledger = storage.open_dir(&state, Path::new("ledger")).unwrap();
        Self { storage: storage.shared(), state, ledger }
    }

    pub fn after_crash(&self, seed: u64) -> Self {
        let storage = self.storage.crash(seed).shared();
        Self { storage, state: self.state.clone(), ledger: self.ledger.clone() }
    }

    fn open(&self, found: &mut Vec<String>) -> Result<Arc<Ledger<SimulatedStorage>>, LedgerError> {
        self.open_to(None, found)
    }

    pub fn open_to(
        &self,
        accept: Option<Acceptance>,
        found: &mut Vec<String>,
    ) -> Result<Arc<Ledger<SimulatedStorage>>, LedgerError> {
        self.open_and_tell(accept, found).map(|(ledger, _)| ledger)
    }

    pub fn open_and_tell(
        &self,
        accept: Option<Acceptance>,
        found: &mut Vec<String>,
    ) -> Result<(Arc<Ledger<SimulatedStorage>>, Opened), LedgerError> {
        let seal = Seal { state: self.state.clone(), copies: Vec::new(), accept };
        let (storage, dir) = (Arc::clone(&self.storage), self.ledger.clone());
        let replay = &mut |entry: &Entry| {
            if let Record::Operation(operation) = &entry.record {
                found.push(operation.path.to_string());
            }
        };
        Ledger::open_signed(storage, dir, "lab", &seal, replay)
    }

    /// Two runs; gives what was promised.
    fn work(&self) -> Vec<String> {
        let mut promised = Vec::new();
        for run in 0..2 {
            let Ok(ledger) = self.open(&mut Vec::new()) else { return promised };
            for at in 0..2 {
                let path = format!("/{run}/{at}");
                let _ = ledger.append(operation(&format!("{path}/async"), true), Durability::Async);
                if ledger.append(operation(&path, true), Durability::Sync).is_ok() {
                    promised.push(path);
                }
            }
            let _ = ledger.close();
        }
        promised
    }

    fn file(&self, dir: &SimulatedDir, name: &str) -> Option<Vec<u8>> {
        read_small(&*self.storage, dir, OsStr::new(name)).unwrap()
    }

    /// Whatever checkpoint the disk holds, its lines and tiles are there.
    #[track_caller]
    pub fn check_checkpoint(&self, what: &str) {
        let Some(note) = self.file(&self.ledger, "checkpoint") else { return };
        let key = self.file(&self.state, "key").into_iter();
        let keys = key.chain(self.file(&self.state, "key.new"));
        let signers =
            keys.filter_map(|text| String::from_utf8(text).ok()?.parse::<NoteSigner>().ok());
        let mut opened = signers.filter_map(|key| Checkpoint::open(&note, key.verifier()).ok());
        let checkpoint = opened.next().unwrap_or_else(|| panic!("{what}: nobody signed it"));
        let mut lines: Vec<Vec<u8>> = Vec::new();
        for number in segment::list(&*self.storage, &self.ledger).unwrap() {
            let name = segment::file_name(number);
            let text = read_small(&*self.storage, &self.ledger, &name).unwrap().unwrap();
            for line in text.split_inclusive(|byte| *byte == b'\n') {
                let Some(line) = line.strip_suffix(b"\n") else { break };
                let Ok(decoded) = decode::decode(line) else { break };
                lines.truncate(decoded.entry.seq as usize);
                lines.push(line.to_vec());
            }
        }
        let size = checkpoint.size as usize;
        assert!(size <= lines.len(), "{what}: {size} signed, {} there", lines.len());
        let (builder, tiles) = tree(&lines[..size]);
        assert_eq!(builder.root(), checkpoint.root, "{what}");
        let store = TreeStore::new(Arc::clone(&self.storage), self.ledger.clone());
        for (id, hashes) in tiles {
            assert_eq!(store.read(id), Ok(Some(hashes)), "{what}: tile {}", id.path());
        }
    }

    #[track_caller]
    pub fn check(&self, promised: &[String], what: &str) {
        self.check_checkpoint(what);
        let mut found = Vec::new();
        let ledger = self.open(&mut found).unwrap_or_else(|error| panic!("{what}: {error}"));
        for path in promised {
            assert!(found.contains(path), "{what}: {path} was promised; there are {found:?}");
        }
        ledger.append(operation("/again", true), Durability::Sync).unwrap();
        ledger.close().unwrap();
        self.check_checkpoint(what);
        let again =
            self.open(&mut Vec::new()).unwrap_or_else(|error| panic!("{what}, again: {error}"));
        let key = self.file(&self.state, "key").expect("a key with its name");
        let key: NoteSigner = String::from_utf8(key).unwrap().parse().unwrap();
        let note = again.checkpoint().expect("signed");
        assert!(Checkpoint::open(&note, key.verifier()).is_ok(), "{what}");
    }
}

#[test]
fn a_crash_at_any_step_leaves_no_checkpoint_ahead_of_the_ledger() {
    for names in [Names::Journal, Names::Independent] {
        let machine = Machine::new(names);
        assert_eq!(machine.work().len(), 4);
        for step in 0..=machine.storage.steps() {
            let machine = Machine::new(names);
            machine.storage.fail_at(step, Fault::Crash);
            let promised = machine.work();
            for seed in 0..3 {
                let what = format!("{names:?}, step {step}, seed {seed}");
                machine.after_crash(seed).check(&promised, &what);
            }
        }
    }
}

#[test]
fn an_error_at_any_step_leaves_no_checkpoint_ahead_of_the_ledger() {
    for errno in [Errno::IO, Errno::NOSPC] {
        let machine = Machine::new(Names::Independent);
        machine.work();
        for step in 0..=machine.storage.steps() {
            let machine = Machine::new(Names::Independent);
            machine.storage.fail_at(step, Fault::Errno(errno));
            let promised = machine.work();
            for seed in 0..2 {
                let what = format!("{errno:?} at step {step}, seed {seed}");
                machine.after_crash(seed).check(&promised, &what);
            }
        }
    }
}
