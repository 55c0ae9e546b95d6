//! Segments that leave while the power goes or the disk fails, at any step: what stays is a ledger that is
//! opened, the newest lines are in it, and what was to leave leaves the next time.

use super::pruned::{Keep, Needed, Pruner};
use super::signed_crash_tests::Machine;
use super::tests::operation;
use super::*;
use crate::storage::simulated::{Fault, Names};
use crate::types::TxId;

/// Three segments that may leave and the last, each with its paths.
fn four(names: Names) -> (Machine, Vec<String>) {
    let machine = Machine::new(names);
    let ledger = machine.open_to(None, &mut Vec::new()).unwrap();
    let mut paths = Vec::new();
    for part in 0..3 {
        for at in 0..3 {
            paths.push(format!("/{part}/{at}"));
        }
    }
    paths.push("/last".to_owned());
    for path in &paths {
        ledger.append(operation(path, true), Durability::Sync).unwrap();
        if path.ends_with("/2") {
            ledger.rotate().unwrap();
        }
    }
    ledger.close().unwrap();
    machine.storage.sync_all();
    (machine, paths)
}

fn copy(machine: &Machine) -> Machine {
    let storage = machine.storage.after_kill().shared();
    Machine { storage, state: machine.state.clone(), ledger: machine.ledger.clone() }
}

/// Opens it, and lets all go that may. Gives what was there, and how many segments left.
fn prune(machine: &Machine) -> Result<(Vec<String>, Result<usize, Errno>), LedgerError> {
    let mut found = Vec::new();
    let (ledger, opened) = machine.open_and_tell(None, &mut found)?;
    let keep = Keep { age: None, size: Some(1) };
    let storage = Arc::clone(&machine.storage);
    let mut pruner =
        Pruner::new(storage, machine.ledger.clone(), Arc::clone(&ledger), keep, opened.pruned);
    let nobody = |_: TxId| false;
    let needed = Needed { transaction: &nobody, ids: Default::default() };
    let left = pruner.prune(jiff::Timestamp::now(), &needed);
    drop(pruner);
    let _ = ledger.close();
    Ok((found, left))
}

#[test]
fn segments_that_leave_while_the_power_goes_leave_a_ledger_that_is_opened() {
    for names in [Names::Journal, Names::Independent] {
        let (machine, paths) = four(names);
        let whole = copy(&machine);
        let (found, left) = prune(&whole).unwrap();
        assert_eq!((found, left), (paths.clone(), Ok(3)));
        let steps = whole.storage.steps();
        for step in 0..=steps {
            for fault in [Fault::Crash, Fault::Errno(Errno::IO)] {
                let machine = copy(&machine);
                machine.storage.fail_at(step, fault);
                let _ = prune(&machine);
                let what = format!("{names:?}, {fault:?} at step {step}");
                let machine = machine.after_crash(step);
                let (found, left) =
                    prune(&machine).unwrap_or_else(|error| panic!("{what}: {error}"));
                // After a failed sync there is a newer segment than that of the last path.
                let is_last_there = found.contains(&paths[9]) || fault != Fault::Crash;
                assert!(is_last_there && paths.ends_with(&found), "{what}: {found:?}");
                assert!(left.is_ok(), "{what}: {left:?}");
                let (again, _) = prune(&machine).unwrap_or_else(|error| panic!("{what}: {error}"));
                assert!(found.ends_with(&again) && again.len() <= 1, "{what}: {again:?}");
            }
        }
    }
}
