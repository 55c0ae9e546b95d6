//! Undos that are decided and not made: what recovery will make of them, what they need, and what is left.

use super::letters::OLD;
use super::*;
use crate::mover::inspect::Outlook;

/// An undo that is decided, of a crossing that replaced something, and none of its moves made.
fn decided_undo() -> (World, CrossingRecord) {
    let world = new_world(Names::Independent, false);
    world.put(0, "f", &new_content());
    world.put(1, "sub/g", OLD);
    let crossed = world.cross("f", "sub/g").unwrap();
    let mut prepared = world.mover.prepare_undo(AUTHOR, None, false, crossed.txid, &any()).unwrap();
    let mut decided = prepared.record.clone();
    decided.step = Step::Commit;
    decided.moves = prepared.moves.iter().map(|placed| placed.step.clone()).collect();
    prepared.ended = true;
    drop(prepared);
    world.mover.record(decided.clone(), Durability::Sync).unwrap();
    (world, decided)
}

/// The same as a dead letter.
fn dead_undo() -> (World, TxId) {
    let (world, decided) = decided_undo();
    let why = Some("a test says so".to_owned());
    let dead = later_step(&decided, Step::Dead, why, "EIO".to_owned());
    world.mover.record(dead, Durability::Sync).unwrap();
    (world, decided.txid)
}

fn purge_all(world: &World) -> Purged {
    let later = jiff::Timestamp::now() + jiff::SignedDuration::from_hours(1000);
    world.mover.purge(later, std::time::Duration::ZERO)
}

#[test]
fn what_an_undo_that_is_dead_needs_is_not_purged() {
    let (world, undo) = dead_undo();
    assert_eq!(purge_all(&world), Purged::default());
    assert_eq!(world.settle(undo, Settle::Retry), Ok(Settled::Done));
    assert_eq!(world.ends(), (Some(new_content()), Some(OLD.to_vec())));
}

/// Nobody can undo the crossing any more: what hold has of it may be the last copy.
#[test]
fn what_an_undo_would_have_brought_back_outlives_it() {
    let (world, undo) = dead_undo();
    let held = |world: &World| [world.private(0, "hold"), world.private(1, "hold")];
    let before = held(&world);
    assert_eq!(before, [[new_content()], [OLD.to_vec()]]);
    assert_eq!(world.settle(undo, Settle::Discard), Ok(Settled::Accepted));
    assert_eq!(purge_all(&world), Purged::default());
    let world = world.restart(false);
    assert_eq!(world.mover.recover().returned.len(), 2, "nobody is told of it");
    assert_eq!(purge_all(&world), Purged::default());
    assert_eq!(held(&world), before);
}

/// Its author is told so; an earlier crossing is not taken back in its stead.
#[test]
fn what_is_dead_is_still_the_last() {
    let (world, decided) = decided_undo();
    let last = || world.mover.with_journal(|journal| journal.last_of(AUTHOR.uid));
    assert_eq!(last(), decided.undoes);
    // The next one is decided, and then a dead letter.
    let mut next = decided.clone();
    (next.txid, next.undoes) = (TxId(ulid::Ulid::generate()), None);
    world.mover.record(next.clone(), Durability::Sync).unwrap();
    assert_eq!(last(), Some(next.txid));
    let dead = later_step(&next, Step::Dead, None, "EIO".to_owned());
    world.mover.record(dead, Durability::Sync).unwrap();
    assert_eq!(last(), Some(next.txid));
}

#[test]
fn what_recovery_will_make_of_it_is_told_before() {
    let (world, decided) = decided_undo();
    let unfinished = |outlook| vec![Irregularity::Unfinished(decided.txid, outlook)];
    assert_eq!(world.mover.inspect(), unfinished(Outlook::Ends));
    let folder = world.disk.open_dir(&world.roots[1], Path::new("sub")).unwrap();
    world.disk.unlink(&folder, OsStr::new("g")).unwrap();
    let found = world.mover.inspect();
    let [Irregularity::Unfinished(_, Outlook::NeedsPerson(why))] = found.as_slice() else {
        panic!("{found:?}")
    };
    assert!(why.contains("sub/g"), "{why}");
}
