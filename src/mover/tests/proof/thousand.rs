//! A daemon that finds a thousand transactions unfinished.

use super::*;
use crate::mover::tests::real::{RealWorld, real_world};

/// Leaves it as it is for the next start; where it is decided, no move is made.
fn leave<S: Storage>(mover: &Mover<S>, mut prepared: Prepared<S>, decided: bool) {
    prepared.ended = true;
    if decided {
        let commit = CrossingRecord {
            step: Step::Commit,
            moves: prepared.moves.iter().map(|placed| placed.step.clone()).collect(),
            ..prepared.record.clone()
        };
        mover.record(commit, Durability::Group).unwrap();
    }
}

/// Power goes while each is at another step; none of them is lost, and all end.
#[test]
fn a_thousand_unfinished_transactions_are_recovered() {
    const ALL: usize = 1_000;
    let world = new_world(Names::Journal, false);
    for number in 0..ALL {
        let name = format!("f{number}");
        let file = world.disk.create_file(&world.roots[0], OsStr::new(&name)).unwrap();
        world.disk.write_at(&file, name.as_bytes(), 0).unwrap();
    }
    world.disk.sync_all();
    let mut prepared = Vec::new();
    for number in 0..ALL {
        let (source, target) = (format!("f{number}"), format!("sub/g{number}"));
        prepared.push(world.mover.prepare(world.request(&source, &target)).unwrap());
    }
    // Half of them are decided, of which no move was made; the others are prepared.
    for (number, prepared) in prepared.into_iter().enumerate() {
        leave(&world.mover, prepared, number % 2 == 0);
    }
    world.mover.ledger.flush().unwrap();
    let found = world.disk.crash(1).shared();
    let world = start(found, false).unwrap();
    let began = std::time::Instant::now();
    let recovery = world.mover.recover();
    eprintln!("{ALL} unfinished transactions recovered in {:?}", began.elapsed());
    assert_eq!(recovery.completed.len(), ALL / 2, "{:?}", recovery.left_open);
    assert!(recovery.dead.is_empty() && recovery.left_open.is_empty());
    for number in 0..ALL {
        let crossed = number % 2 == 0;
        let wanted = Some(format!("f{number}").into_bytes());
        let ends = (world.get(0, &format!("f{number}")), world.get(1, &format!("sub/g{number}")));
        assert_eq!(ends, if crossed { (None, wanted) } else { (wanted, None) }, "{number}");
    }
}

/// On the file system of temporary folders, with all its syncs. `OCTROI_UNFINISHED` says how many; the suite
/// leaves a hundred, and time is measured by `scripts/prove.d/points`.
#[test]
fn unfinished_transactions_are_recovered_on_a_real_disk() {
    let all = std::env::var("OCTROI_UNFINISHED").map_or(100, |text| text.parse().unwrap());
    let world = real_world(None);
    let name = |number: usize| format!("f{number}");
    for number in 0..all {
        std::fs::write(world.path_of(0, &name(number)), name(number)).unwrap();
        let request = world.request_of(&name(number), Verify::Stream);
        leave(&world.mover, world.mover.prepare(request).unwrap(), number % 2 == 0);
    }
    world.mover.ledger.flush().unwrap();
    let world = world.restart();
    let began = std::time::Instant::now();
    let recovery = world.mover.recover();
    eprintln!("{all} unfinished transactions of a real disk recovered in {:?}", began.elapsed());
    assert_eq!(recovery.completed.len(), all / 2, "{:?}", recovery.left_open);
    assert!(recovery.dead.is_empty() && recovery.left_open.is_empty());
    let is_at = |world: &RealWorld, branch, number| world.path_of(branch, &name(number)).exists();
    for number in 0..all {
        let ends = (is_at(&world, 0, number), is_at(&world, 1, number));
        assert_eq!(ends, (number % 2 == 1, number % 2 == 0), "{number}");
    }
}
