//! Acceptances of a loss that a crash or an error cuts off at any step: the ledger stays refused until one
//! has come to its end, and no byte of what was there is gone.

use std::ffi::OsStr;
use std::path::Path;

use super::segment;
use super::signed_crash_tests::Machine;
use super::tests::operation;
use super::*;
use crate::storage::simulated::{Fault, Names, SimulatedDir, SimulatedStorage};

/// File names and bytes.
type Files = Vec<(String, Vec<u8>)>;

/// Four segments, of which the second has a bad line; and what they are.
fn damaged(names: Names) -> (Machine, Files) {
    let machine = Machine::new(names);
    let ledger = machine.open_to(None, &mut Vec::new()).unwrap();
    for path in ["/a", "/b", "/c", "/d"] {
        ledger.append(operation(path, true), Durability::Sync).unwrap();
        if path != "/d" {
            ledger.rotate().unwrap();
        }
    }
    ledger.close().unwrap();
    drop(ledger);
    let storage = &machine.storage;
    let file = storage.open_write(&machine.ledger, &segment::file_name(2)).unwrap();
    let text = bytes_of(&machine, &machine.ledger, "00000002.jsonl");
    let second = text.iter().position(|byte| *byte == b'\n').unwrap() + 20;
    storage.write_at(&file, b"X", second as u64).unwrap();
    storage.sync_all();
    let files = segments(&machine);
    assert_eq!(files.len(), 4);
    (machine, files)
}

fn bytes_of(machine: &Machine, dir: &SimulatedDir, name: &str) -> Vec<u8> {
    store::read_small(&*machine.storage, dir, OsStr::new(name)).unwrap().unwrap()
}

fn segments(machine: &Machine) -> Files {
    let numbers = segment::list(&*machine.storage, &machine.ledger).unwrap();
    let names = numbers.into_iter().map(|number| segment::file_name(number).into_string().unwrap());
    names.map(|name| (name.clone(), bytes_of(machine, &machine.ledger, &name))).collect()
}

/// All that the folders of evidence have, but sums; and whether one is unfinished.
fn evidence(machine: &Machine) -> (Files, bool) {
    let storage = &machine.storage;
    let Ok(folder) = storage.open_dir(&machine.state, Path::new("evidence")) else {
        return (Vec::new(), false);
    };
    let mut files = Vec::new();
    let mut begun = false;
    for number in storage.list(&folder).unwrap() {
        begun |= number.to_string_lossy().ends_with(".new");
        let one = storage.open_dir(&folder, Path::new(&number)).unwrap();
        for name in storage.list(&one).unwrap() {
            let name = name.into_string().unwrap();
            if !name.starts_with("SHA256SUMS") {
                files.push((name.clone(), bytes_of(machine, &one, &name)));
            }
        }
    }
    (files, begun)
}

fn accept(machine: &Machine) -> Result<(), LedgerError> {
    let accept = Acceptance { why: "a test".into(), uid: 7 };
    let ledger = machine.open_to(Some(accept), &mut Vec::new())?;
    let _ = ledger.close();
    Ok(())
}

fn losses(machine: &Machine) -> usize {
    let files = segments(machine);
    let lines = files.iter().flat_map(|(_, text)| text.split(|byte| *byte == b'\n'));
    let is_loss = |line: &[u8]| memchr::memmem::find(line, br#""kind":"loss""#).is_some();
    lines.filter(|line| is_loss(line)).count()
}

#[track_caller]
fn check(machine: &Machine, files: &Files, what: &str) {
    let before = losses(machine);
    match machine.open_to(None, &mut Vec::new()) {
        Ok(ledger) => {
            assert!(before > 0, "{what}: it is opened, and no loss is recorded");
            ledger.close().unwrap();
        }
        Err(LedgerError::NothingLost) => panic!("{what}"),
        Err(_) => accept(machine).unwrap_or_else(|error| panic!("{what}: {error}")),
    }
    assert!(losses(machine) > 0, "{what}");
    machine.check(&["/a".to_owned()], what);
    let (kept, begun) = evidence(machine);
    assert!(!begun, "{what}: it is unfinished");
    let now = segments(machine);
    for (name, bytes) in files {
        let stays = now.iter().any(|(other, text)| other == name && text.starts_with(bytes));
        let is_kept = kept.iter().any(|(_, text)| text == bytes);
        assert!(stays || is_kept, "{what}: {name} is gone");
    }
}

fn copy(machine: &Machine) -> Machine {
    let storage: Arc<SimulatedStorage> = machine.storage.after_kill().shared();
    Machine { storage, state: machine.state.clone(), ledger: machine.ledger.clone() }
}

#[test]
fn an_acceptance_that_is_cut_off_anywhere_is_taken_up_and_loses_nothing() {
    let no_space = Fault::Errno(Errno::NOSPC);
    for (names, faults) in [
        (Names::Journal, [Fault::Crash, no_space].as_slice()),
        (Names::Independent, &[Fault::Crash]),
    ] {
        let (machine, files) = damaged(names);
        let whole = copy(&machine);
        accept(&whole).unwrap();
        check(&whole, &files, "uninterrupted");
        assert_eq!(losses(&whole), 1);
        let steps = {
            let counted = copy(&machine);
            accept(&counted).unwrap();
            counted.storage.steps()
        };
        for step in 0..=steps {
            for fault in faults {
                let machine = copy(&machine);
                machine.storage.fail_at(step, *fault);
                let _ = accept(&machine);
                let what = format!("{names:?}, {fault:?} at step {step}");
                check(&machine.after_crash(step), &files, &what);
            }
        }
    }
}
