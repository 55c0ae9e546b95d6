//! What is discarded of a dead letter whose branch never comes back, and what is kept all the same.

use super::past::{Made, STEPS_MAX, dead_after, seen_twice};
use super::rests::{CROSSING, undone_and_dead};
use super::*;

fn private(world: &World, branch: usize) -> Vec<Vec<u8>> {
    [world.private(branch, "stage"), world.private(branch, "hold")].concat()
}

/// A branch never comes back: who says so ends what waits for it. What it has is kept should it come back all the same.
#[test]
fn what_waits_for_a_branch_that_never_comes_back_is_given_up() {
    let mut staged = 0;
    for (out, accepted) in [(0, false), (0, true), (1, false), (1, true)] {
        let context = format!("out: {out}, accepted: {accepted}");
        for (world, txid) in dead_after(CROSSING, out, |_| true) {
            if accepted {
                world.settle(txid, Settle::Accept).unwrap();
            }
            assert!(world.settle(txid, Settle::Discard).is_err(), "{context}");
            let (ends, kept) = (world.ends(), private(&world, out));
            assert_eq!(
                world.mover.kept_of(txid).len(),
                private(&world, 1 - out).len(),
                "{context}"
            );
            staged += world.private(out, "stage").len();
            assert_eq!(world.settle(txid, Settle::GiveUp), Ok(Settled::Accepted), "{context}");
            assert_eq!(world.ends(), ends, "{context}: users see another thing");
            assert_eq!(private(&world, 1 - out), [] as [Vec<u8>; 0], "{context}");
            assert!(world.settle(txid, Settle::GiveUp).is_err(), "{context}: it has ended");
            let world = world.restart(false);
            for _ in 0..2 {
                let returned = world.mover.recover().returned.len();
                assert_eq!(
                    (returned, private(&world, out)),
                    (kept.len(), kept.clone()),
                    "{context}"
                );
                assert_eq!(world.mover.inspect().len(), kept.len(), "{context}");
                assert_eq!(world.ends(), ends, "{context}");
            }
        }
    }
    assert!(staged > 0, "no copy was in stage of a branch that was given up");
}

/// It goes on waiting until its end is recorded; then all goes that the branches in the view have of it, and nothing else.
#[test]
fn power_loss_at_every_step_of_giving_up() {
    for step in 0..STEPS_MAX {
        let (world, txid) = dead_after(CROSSING, 1, |world| !world.private(0, "hold").is_empty())
            .into_iter()
            .find(|(world, _)| !world.private(1, "stage").is_empty())
            .unwrap();
        let (here, there) = (private(&world, 0), private(&world, 1));
        let waits = world.rest(txid);
        let first = world.disk.steps();
        world.disk.fail_at(first + step, Fault::Crash);
        let _ = world.settle(txid, Settle::GiveUp);
        for seed in 0..6 {
            let context = format!("step {step} seed {seed}");
            let world = World::on(world.disk.crash(seed), false).without(&[1]);
            world.mover.recover();
            assert_eq!(private(&world, 1), there, "{context}");
            match world.mover.with_journal(|journal| journal.get(txid).unwrap().purged) {
                true => assert!(private(&world, 0).is_empty(), "{context}: something was left"),
                false => {
                    assert_eq!(private(&world, 0), here, "{context}: gone without a record");
                    assert_eq!(world.rest(txid), waits, "{context}: it waits no more");
                    continue;
                }
            }
            let world = world.restart(false);
            world.mover.recover();
            assert_eq!(private(&world, 1), there, "{context}: gone with its branch's return");
        }
        if world.disk.steps() <= first + step {
            assert!(step > 4, "it took {step} steps only");
            return;
        }
    }
    panic!("it does not end");
}

/// What an undo would bring back is the crossing's that it undoes, which nothing can undo any more: it may be the last
/// copy, wherever it is.
#[test]
fn what_an_undo_needs_is_kept_when_a_branch_of_it_is_given_up() {
    for out in [0, 1] {
        let (here, mut held) = (1 - out, 0);
        for (world, txid) in dead_after(Made::Undo, out, |_| true) {
            let kept = private(&world, out);
            let undone = world.mover.kept_of_undone(txid).len();
            held += if out == 0 { kept.len() } else { undone };
            assert_eq!(world.settle(txid, Settle::GiveUp), Ok(Settled::Accepted));
            let keep = std::time::Duration::from_secs(1);
            world.mover.purge(jiff::Timestamp::now() + 2 * keep, keep);
            assert_eq!(private(&world, here).len(), undone, "out: {out}");
            let world = world.restart(false);
            let recovery = world.mover.recover();
            world.mover.purge(jiff::Timestamp::now() + 2 * keep, keep);
            assert_eq!((private(&world, out), private(&world, here).len()), (kept.clone(), undone));
            assert_eq!(recovery.returned.len(), kept.len() + undone, "{recovery:?}");
        }
        assert!(held > 0, "out: {out}: nothing was in hold");
    }
}

/// What has been forgotten since may be the last copy all the same.
#[test]
fn what_is_older_than_the_ledger_stays_in_stage() {
    let world = new_world(Names::Journal, false);
    let old = ulid::Ulid::from_parts(0, 7);
    world.put(0, &format!(".octroi/stage/{old}"), b"the last copy");
    let told = [Irregularity::Unknown("a".to_owned(), Path::new("stage").join(old.to_string()))];
    assert_eq!(world.mover.inspect(), told);
    assert_eq!(world.mover.recover().unknown.len(), 1);
    assert_eq!(world.private(0, "stage"), [b"the last copy"]);
}

/// What is only offline is not given up.
#[test]
fn what_waits_for_a_branch_that_is_offline_is_not_given_up() {
    let (world, txid) = seen_twice(CROSSING, 0).swap_remove(0);
    let world = world.restart(false);
    let source = world.leave(0);
    let refused = world.settle(txid, Settle::GiveUp);
    assert!(matches!(refused, Err(LetterError::InVain { .. })), "{refused:?}");
    world.mover.branch_returned(source);
    assert_eq!(world.ends(), (None, Some(new_content())));
}

/// Also by a plain discard, for the branch that is out may have the last copy.
#[test]
fn what_hold_has_of_an_undone_crossing_outlives_a_discard() {
    let (world, txid) = undone_and_dead(false, |_, _| ());
    let undone =
        world.mover.with_journal(|journal| journal.get(txid).unwrap().record.undoes.unwrap());
    let name = format!(".octroi/hold/{undone}");
    world.put(0, &name, b"the last copy");
    let away = world.without(&[0]);
    assert_eq!(away.settle(txid, Settle::Discard), Ok(Settled::Accepted));
    let world = away.restart(false);
    world.mover.recover();
    let keep = std::time::Duration::from_secs(1);
    world.mover.purge(jiff::Timestamp::now() + 2 * keep, keep);
    assert!(world.private(0, "hold").contains(&b"the last copy".to_vec()));
}

/// Where the decision was lost nobody knows what there is of it.
#[test]
fn nothing_is_deleted_of_what_has_no_known_decision() {
    let world = new_world(Names::Journal, false);
    world.put(0, "f", &new_content());
    let other = world.cross("f", "f").unwrap().txid;
    let like = world.mover.with_journal(|journal| journal.get(other).unwrap().record.clone());
    let txid = TxId(ulid::Ulid::generate());
    let announced = CrossingRecord { txid, step: Step::Prepare, moves: Vec::new(), ..like };
    let dead = later_step(&announced, Step::Dead, None, "EIO".to_owned());
    for record in [announced, dead] {
        world.mover.record(record, Durability::Sync).unwrap();
    }
    world.put(0, &format!(".octroi/hold/{txid}"), b"the last copy");
    assert_eq!(world.settle(txid, Settle::Discard), Ok(Settled::Accepted));
    let world = world.restart(false);
    assert_eq!(world.mover.recover().returned.len(), 1);
    assert!(world.private(0, "hold").contains(&b"the last copy".to_vec()));
}
