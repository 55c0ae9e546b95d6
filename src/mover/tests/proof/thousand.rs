//! A daemon that finds a thousand transactions unfinished.

use super::*;

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
    for (number, mut prepared) in prepared.into_iter().enumerate() {
        prepared.ended = true;
        if number % 2 == 1 {
            continue;
        }
        let commit = CrossingRecord {
            step: Step::Commit,
            moves: prepared.moves.iter().map(|placed| placed.step.clone()).collect(),
            ..prepared.record.clone()
        };
        world.mover.record(commit, Durability::Group).unwrap();
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
