//! A branch leaves and comes back while the daemon runs.

use super::*;

const OLD: &[u8] = b"what stood there";
/// A crossing takes fewer steps; a test that gets here hangs.
const STEPS_MAX: u64 = 500;

fn world() -> World {
    let world = new_world(Names::Independent, false);
    world.put(0, "f", &new_content());
    world.put(1, "sub/g", OLD);
    world
}

/// What the mover has of a branch, after it left.
fn leave(world: &World, index: u16) -> MoverBranch<Disk> {
    let branch = world.mover.branch(BranchIndex(index)).unwrap();
    world.mover.branch_left(BranchIndex(index));
    Arc::try_unwrap(branch).ok().expect("nobody else has it")
}

#[test]
fn nothing_crosses_while_a_branch_is_away() {
    for away in [0, 1] {
        let world = world();
        let branch = leave(&world, away);
        let refused = world.cross("f", "sub/g").unwrap_err();
        assert!(matches!(refused, CrossingError::Offline { .. }), "{refused}");
        assert_eq!(refused.errno(), Errno::IO);
        assert_eq!(world.mover.branch_returned(branch), Recovery::default());
        let crossed = world.cross("f", "sub/g").unwrap();
        leave(&world, away);
        let refused = world.undo(crossed.txid).unwrap_err();
        assert_eq!(refused.errno(), Errno::IO, "{refused}");
        assert!(world.mover.left_open().is_empty());
    }
}

/// It was away, perhaps in another view: what nobody knows there may be that one's last copy. A start after which it
/// was not away compares its checkpoint first, and sweeps.
#[test]
fn what_nobody_knows_stays_where_a_branch_returns() {
    let world = world();
    let stage = world.disk.open_dir(&world.roots[1], Path::new(".octroi/stage")).unwrap();
    let name = ulid::Ulid::from_parts(u64::MAX >> 20, 7).to_string();
    world.disk.create_file(&stage, OsStr::new(&name)).unwrap();
    world.disk.sync_all();
    let recovery = world.mover.branch_returned(leave(&world, 1));
    assert_eq!(recovery.unknown, [("b".to_owned(), Path::new("stage").join(&name))]);
    assert_eq!(world.private(1, "stage").len(), 1);
    assert_eq!(world.restart(false).mover.recover().swept, 1);
}

/// One or two calls of a crossing fail, as those of a dying disk, or of a daemon that has run out of
/// descriptors. What that leaves open is ended when the branch is back, without a restart; but what
/// could not be synced waits for one.
#[test]
fn what_a_failing_disk_left_open_is_ended_when_it_returns() {
    fails_and_returns(Errno::IO);
    fails_and_returns(Errno::MFILE);
}

fn fails_and_returns(errno: Errno) {
    let (mut waited, mut waited_longer, mut ended) = (0, 0, false);
    for step in 0..STEPS_MAX {
        for second in 0..4 {
            let world = world();
            let request = world.request("f", "sub/g");
            let first = world.disk.steps() + step;
            for step in [first, first + second] {
                world.disk.fail_at(step, Fault::Errno(errno));
            }
            let outcome = world.cross_as(request);
            ended = world.disk.steps() <= first;
            let both_failed = world.disk.steps() > first + second;
            if !both_failed || world.mover.ledger.accepts_mutations().is_err() {
                continue;
            }
            let context = format!("{errno:?} at step {step} and {second} later: {outcome:?}");
            let open = world.mover.left_open();
            waited += open.len();
            assert!(!matches!(outcome, Err(CrossingError::Dead { .. })), "{context}");
            if matches!(outcome, Err(CrossingError::LeftOpen { .. })) {
                assert_eq!(open.len(), 1, "{context}");
            }
            let unsynced = world.mover.unsynced.lock().clone();
            let mut world = world;
            let mut recovery = world.mover.branch_returned(leave(&world, 1));
            assert_eq!(recovery.left_open.len(), unsynced.len(), "{context}: {recovery:?}");
            let waits = world.mover.left_open();
            assert!(waits.iter().all(|one| unsynced.contains(&one.txid)), "{context}: {waits:?}");
            if !unsynced.is_empty() {
                waited_longer += 1;
                world = world.restart(false);
                recovery = world.mover.recover();
            }
            assert!(world.mover.left_open().is_empty(), "{context}");
            assert_eq!(
                recovery.completed.len() + recovery.reverted.len() + recovery.aborted.len(),
                open.len(),
                "{context}: {recovery:?}"
            );
            let ends = (world.get(0, "f"), world.get(1, "sub/g"));
            let crossed = ends == (None, Some(new_content()));
            assert!(
                crossed || ends == (Some(new_content()), Some(OLD.to_vec())),
                "{context}: neither before nor after"
            );
            assert!(world.private(1, "stage").is_empty(), "{context}: a copy was left");
        }
        if ended {
            assert!(waited > 3, "only {waited} crossings were left open in {step} steps");
            assert!(waited_longer > 0, "none that could not be synced was left open");
            return;
        }
    }
    panic!("a crossing does not end");
}

#[test]
fn what_is_under_way_is_left_alone() {
    let world = world();
    let prepared = world.mover.prepare(world.request("f", "sub/g")).unwrap();
    assert!(world.mover.left_open().is_empty());
    // The request and the prepared crossing hold folders, not the branch.
    let branch = leave(&world, 0);
    assert_eq!(world.mover.branch_returned(branch), Recovery::default());
    assert_eq!(world.private(1, "stage").len(), 1, "the copy was swept away");
    world.mover.commit(prepared).unwrap();
    assert_eq!(world.get(1, "sub/g"), Some(new_content()));
}

#[test]
fn a_branch_that_returns_on_another_device_is_probed_anew() {
    let world = new_world(Names::Journal, true);
    world.put(0, "f", &new_content());
    assert!(world.cross("f", "sub/g").unwrap().same_filesystem);
    assert_eq!(world.mover.same_filesystem.lock().len(), 1);
    let branch = leave(&world, 0);
    world.mover.branch_returned(branch);
    assert_eq!(world.mover.same_filesystem.lock().len(), 0);
}

/// From some step of the roll-back on every step fails, the ledger's too: until ABORT is durable the copy
/// stays, for COMMIT may be; afterwards no fault leaves it there for long.
#[test]
fn the_copy_goes_only_after_abort_is_durable() {
    let mut kept = 0;
    for step in 0..STEPS_MAX {
        let world = world();
        std::mem::forget(world.mover.prepare(world.request("f", "sub/g")).unwrap());
        world.mover.active.lock().clear();
        let first = world.disk.steps() + step;
        (first..first + 50).for_each(|step| world.disk.fail_at(step, Fault::Errno(Errno::IO)));
        let recovery = world.mover.branch_returned(leave(&world, 1));
        let ended = world.disk.steps() <= first;
        world.disk.take_faults();
        let copies = world.private(1, "stage").len();
        assert!(
            copies == 1 || !recovery.aborted.is_empty(),
            "step {step}: the copy is gone, and {recovery:?}"
        );
        kept += copies;
        let after = start(world.disk.crash(step).shared(), false).unwrap();
        after.mover.recover();
        assert!(after.private(1, "stage").is_empty(), "step {step}: a copy was left");
        assert_eq!(after.get(0, "f"), Some(new_content()));
        if ended {
            assert!(kept > 1, "the copy was kept {kept} times in {step} steps");
            return;
        }
    }
    panic!("a recovery does not end");
}

/// What has no part on a branch that returns is left alone: its disks may hang.
#[test]
fn a_branch_that_returns_waits_for_no_other() {
    for decided in [false, true] {
        let world = world();
        world.put(1, "h", &new_content());
        let mut request = world.request("f", "sub/g");
        request.sources = vec![part(world.name(1, "h"), Verify::Readback)];
        request.target = world.name(2, "h");
        let mut prepared = world.mover.prepare(request).unwrap();
        let txid = prepared.txid;
        let mut commit = prepared.record.clone();
        commit.step = Step::Commit;
        commit.moves = prepared.moves.iter().map(|placed| placed.step.clone()).collect();
        prepared.ended = true;
        drop(prepared);
        if decided {
            world.mover.record(commit, Durability::Sync).unwrap();
        }
        assert_eq!(world.mover.branch_returned(leave(&world, 0)), Recovery::default());
        assert_eq!(world.mover.left_open().len(), 1, "decided: {decided}");
        let recovery = world.mover.branch_returned(leave(&world, 2));
        let ended = if decided { recovery.completed } else { recovery.aborted };
        assert_eq!(ended, [txid], "decided: {decided}");
        assert!(world.mover.left_open().is_empty());
    }
}
