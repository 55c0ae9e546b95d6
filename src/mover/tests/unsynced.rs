//! A source whose name and folder nobody ever synced: once the decision is durable, the crossing
//! is what makes it last.

use super::*;

/// A new file in a new folder, none of it synced, and the way that it takes.
fn fresh(names: Names, same: bool) -> World {
    let world = new_world(names, same);
    make_dirs(&world.disk, &world.roots[0], &["new"]);
    let dir = world.dir(0, "new/f");
    let file = world.disk.create_file(&dir, OsStr::new("f")).unwrap();
    world.disk.write_at(&file, b"fresh", 0).unwrap();
    world
}

#[test]
fn a_source_that_was_never_synced_is_found_after_power_loss() {
    for (names, same) in
        [(Names::Independent, false), (Names::Independent, true), (Names::Journal, false)]
    {
        for step in 0.. {
            let world = fresh(names, same);
            let request = world.request("new/f", "sub/g");
            let first = world.disk.steps();
            world.disk.fail_at(first + step, Fault::Crash);
            let acknowledged = world.cross_as(request).is_ok();
            if world.disk.steps() <= first + step {
                break;
            }
            for seed in step * 4..step * 4 + 4 {
                let after = start(world.disk.crash(seed).shared(), same).unwrap();
                let recovery = after.mover.recover();
                let context =
                    format!("{names:?} same={same} step {step} seed {seed}: {recovery:?}");
                assert!(recovery.dead.is_empty(), "{context}");
                let arrived = after.get(1, "sub/g").as_deref() == Some(b"fresh");
                assert!(arrived || !acknowledged, "{context}");
                let decided = !recovery.completed.is_empty();
                assert!(arrived || !decided, "{context}");
            }
        }
    }
}

/// What has no content has all the rest: kind, owner, mode, times and extended attributes.
#[test]
fn what_is_no_file_is_whole_after_power_loss() {
    for kind in [Kind::Symlink("elsewhere".into()), Kind::Fifo] {
        for seed in 0..8 {
            let world = new_world(Names::Independent, false);
            world.special(0, "f", &kind);
            let (disk, root, name) = (&*world.disk, &world.roots[0], OsStr::new("f"));
            disk.set_owner(root, name, 1000, 1001).unwrap();
            disk.set_xattr(root, name, OsStr::new("trusted.note"), b"kept").unwrap();
            let time = Time { seconds: -5, nanos: 1 };
            disk.set_times(root, name, time, time).unwrap();
            disk.sync_all();
            let all_of = |world: &World, branch, path: &str| {
                let (dir, name) = (world.dir(branch, path), Path::new(path).file_name().unwrap());
                let mut lines = Vec::new();
                describe(&world.disk, &dir, name, Path::new("."), &mut lines);
                lines
            };
            let before = all_of(&world, 0, "f");
            world.cross("f", "sub/g").unwrap();
            let after = start(world.disk.crash(seed).shared(), false).unwrap();
            after.mover.recover();
            assert_eq!(all_of(&after, 1, "sub/g"), before, "seed {seed}");
        }
    }
}

/// On one file system nothing but DONE tells that a file has arrived which its user then moves on: it is as
/// durable as that move.
#[test]
fn what_was_moved_on_after_it_had_arrived_is_not_in_doubt() {
    for seed in 0..16 {
        let world = new_world(Names::Independent, true);
        world.put(0, "f", &new_content());
        let txid = world.cross("f", "sub/g").unwrap().txid;
        let dir = world.dir(1, "sub/g");
        world.disk.rename(&dir, OsStr::new("g"), &dir, OsStr::new("mine")).unwrap();
        world.disk.sync_dir(&dir).unwrap();
        let after = start(world.disk.crash(seed).shared(), true).unwrap();
        let recovery = after.mover.recover();
        assert!(recovery.dead.is_empty() && recovery.left_open.is_empty(), "seed {seed}");
        assert_eq!(after.state(txid), Some(TransactionState::Done), "seed {seed}");
        assert_eq!(after.get(1, "sub/mine"), Some(new_content()), "seed {seed}");
    }
}

/// What hold keeps of a tree is as durable as the crossing, though nobody ever synced it before.
#[test]
fn a_tree_that_was_never_synced_can_be_undone_after_power_loss() {
    for syncs_whole in [false, true] {
        for seed in 0..12 {
            let world = new_world(Names::Independent, false);
            let options = DeviceOptions { syncs_whole, ..DeviceOptions::default() };
            (1..=3).for_each(|device| world.disk.set_options(device, options));
            make_dirs(&world.disk, &world.roots[0], &["t", "t/d"]);
            for (path, name) in [("t/a", "a"), ("t/d/b", "b")] {
                let file = world.disk.create_file(&world.dir(0, path), OsStr::new(name)).unwrap();
                world.disk.write_at(&file, b"fresh", 0).unwrap();
            }
            let before = world.get(0, "t");
            let txid = world.cross("t", "sub/t").unwrap().txid;
            let after = start(world.disk.crash(seed).shared(), false).unwrap();
            let recovery = after.mover.recover();
            let context = format!("syncs_whole={syncs_whole} seed {seed}");
            assert!(recovery.dead.is_empty() && recovery.left_open.is_empty(), "{context}");
            after.undo(txid).unwrap();
            assert_eq!(after.get(0, "t"), before, "{context}");
        }
    }
}

/// On one file system, a user has removed the folder that it left: where it is now lasts, before DONE says so.
#[test]
fn what_has_lost_its_first_folder_is_durable_where_it_arrived() {
    for seed in 0..8 {
        let world = new_world(Names::Independent, true);
        make_dirs(&world.disk, &world.roots[0], &["d"]);
        world.put(0, "d/f", &new_content());
        let mut prepared = world.mover.prepare(world.request("d/f", "sub/g")).unwrap();
        let (txid, mut commit) = (prepared.txid, prepared.record.clone());
        commit.step = Step::Commit;
        commit.moves = prepared.moves.iter().map(|placed| placed.step.clone()).collect();
        world.mover.record(commit, Durability::Sync).unwrap();
        moves::forward(&*world.disk, &prepared.moves, None).unwrap();
        prepared.ended = true;
        drop(prepared);
        world.disk.remove_dir(&world.roots[0], OsStr::new("d")).unwrap();
        let world = start(world.disk.after_kill().shared(), true).unwrap();
        assert_eq!(world.mover.recover().completed, [txid], "seed {seed}");
        let after = start(world.disk.crash(seed).shared(), true).unwrap();
        after.mover.recover();
        assert_eq!(after.state(txid), Some(TransactionState::Done), "seed {seed}");
        assert_eq!(after.get(1, "sub/g"), Some(new_content()), "seed {seed}");
    }
}
