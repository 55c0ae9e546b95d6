//! What became a dead letter and stays where it is.

use super::letters::{OLD, letter_between};
use super::*;

fn lose(world: &World) {
    let loss = crate::ledger::record::LossRecord {
        why: "a test says so".to_owned(),
        uid: 0,
        found: Vec::new(),
        checkpoints: Vec::new(),
        first: 0,
        hashes: Vec::new(),
        key: None,
        kept: None,
    };
    world.mover.append(Record::Loss(Box::new(loss)), Durability::Sync).unwrap();
}

/// A loss of lines has taken what tells how a crossing ended: nothing is moved, least of all what its
/// author has taken back since.
#[test]
fn what_a_loss_makes_doubtful_waits_for_a_person() {
    let (world, txid) = letter_between(Names::Independent);
    let commit = world.mover.with_journal(|journal| journal.get(txid).unwrap().record.clone());
    let retry = later_step(&commit, Step::Retry, None, String::new());
    world.mover.record(retry, Durability::Sync).unwrap();
    // What came then is lost.
    lose(&world);
    let world = world.restart(false);
    let recovery = world.mover.recover();
    assert!(recovery.completed.is_empty() && recovery.dead.len() == 1, "{recovery:?}");
    assert_eq!(world.state(txid), Some(TransactionState::Dead));
    assert_eq!(world.private(0, "hold"), [new_content()], "it went on");
}

/// A person reads where everything is: there it must be found, also when the power goes then.
#[test]
fn what_became_a_letter_stays_where_it_is_when_the_power_goes() {
    let fresh = |names| {
        let world = new_world(names, false);
        world.put(0, "f", &new_content());
        world.put(1, "sub/g", OLD);
        let first = world.disk.steps();
        world.disk.keep_log();
        (world, first)
    };
    let renames = |world: &World| -> Vec<u64> {
        let log = world.disk.log();
        let found = log.iter().enumerate().filter(|(_, line)| line.contains(": rename"));
        found.map(|(at, _)| at as u64).collect()
    };
    let kept = |world: &World| {
        let mut places = world.places();
        // There the source's branch was tried out; what is removed may be back, and is swept.
        places.remove(2);
        places
    };
    let refused = Fault::Errno(Errno::ACCESS);
    // Whether two records share a sync is chance, and moves all later steps: until the faults strike renames.
    let refused_at = |names, steps: &[u64]| {
        for _ in 0..1000 {
            let (world, first) = fresh(names);
            steps.iter().for_each(|at| world.disk.fail_at(first + at, refused));
            let crossed = world.cross("f", "sub/g").map(drop);
            if steps.iter().all(|at| renames(&world).contains(at)) {
                return (world, crossed);
            }
        }
        panic!("the faults strike nothing");
    };
    for names in [Names::Journal, Names::Independent] {
        let (world, _) = fresh(names);
        world.cross("f", "sub/g").unwrap();
        let apply = *renames(&world).last().unwrap();
        let (world, crossed) = refused_at(names, &[apply]);
        assert!(matches!(crossed, Err(CrossingError::Reverted { .. })));
        let back: Vec<u64> = renames(&world).into_iter().filter(|at| *at > apply).collect();
        assert_eq!(back.len(), 2, "DISPLACE and RETIRE are taken back");
        for stops in back {
            let (world, crossed) = refused_at(names, &[apply, stops]);
            assert!(matches!(crossed, Err(CrossingError::Dead { .. })));
            let found = kept(&world);
            for seed in 0..20 {
                let world = start(world.disk.crash(seed).shared(), false).unwrap();
                assert!(kept(&world) == found, "{names:?} {stops} seed {seed}");
                assert_eq!(world.mover.with_journal(|journal| journal.dead().count()), 1);
            }
        }
    }
}

/// Of a transaction whose lines are lost nobody can tell whether its copy is the last one.
#[test]
fn a_copy_whose_lines_are_lost_stays_in_stage() {
    let world = new_world(Names::Journal, false);
    let (before, later) = (ulid::Ulid::generate(), ulid::Ulid::from_parts(u64::MAX >> 17, 7));
    for txid in [before, later] {
        world.put(0, &format!(".octroi/stage/{txid}"), b"perhaps the last copy");
    }
    lose(&world);
    let world = world.restart(false);
    assert_eq!(world.mover.recover().unknown.len(), 1);
    assert_eq!(
        world.private(0, "stage").len(),
        1,
        "one that began after the loss is none of those"
    );
}
