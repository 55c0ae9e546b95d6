//! Undo, with the power on.

use super::rests::undone_and_dead;
use super::*;
use crate::ledger::record::PurgeRecord;
use crate::policy::LABEL;

#[test]
fn an_undo_restores_both_ends() {
    for same in [false, true] {
        let world = new_world(Names::Journal, same);
        world.put(0, "f", b"new");
        world.put(1, "g", b"old");
        let handle = |branch: usize, name: &str| {
            let found = world.disk.stat(&world.roots[branch], OsStr::new(name)).unwrap();
            found.unwrap().identity.handle
        };
        let (new, old) = (handle(0, "f"), handle(1, "g"));
        let crossed = world.cross("f", "g").unwrap();
        assert_eq!(world.mover.with_journal(|journal| journal.last_of(1000)), Some(crossed.txid));
        let undone = world.undo(crossed.txid).unwrap();
        assert_eq!((handle(0, "f"), handle(1, "g")), (new, old));
        assert_eq!(world.mover.with_journal(|journal| journal.last_of(1000)), None);
        assert_eq!(world.state(undone.txid), Some(TransactionState::Done));
        assert_eq!(world.undo(crossed.txid).unwrap_err().errno(), Errno::INVAL);
        assert_eq!(world.undo(undone.txid).unwrap_err().errno(), Errno::INVAL);
        // The way is free again.
        world.cross("f", "g").unwrap();
    }
}

#[test]
fn what_cannot_be_taken_back_any_more_is_still_the_last() {
    let world = new_world(Names::Journal, false);
    for (name, content) in [("f", b"first"), ("g", b"other")] {
        world.put(0, name, content);
    }
    let first = world.cross("f", "f").unwrap().txid;
    let last = world.cross("g", "g").unwrap().txid;
    let last_of = |world: &World| world.mover.with_journal(|journal| journal.last_of(1000));
    assert_eq!(last_of(&world), Some(last));
    let purge = PurgeRecord {
        txid: last,
        reason: "a test says so".to_owned(),
        lost: false,
        given_up: Vec::new(),
    };
    world.mover.record_purge(purge).unwrap();
    assert_eq!(last_of(&world), Some(last), "{first} would be taken back, which nobody asked for");
    assert!(world.undo(last).unwrap_err().to_string().contains("purged"));
}

#[test]
fn what_hold_lacks_is_known_before_an_undo_is_tried() {
    let world = new_world(Names::Journal, false);
    world.put(0, "f", b"new");
    let crossed = world.cross("f", "g").unwrap().txid;
    assert_eq!(world.mover.check_hold(crossed), Ok(()));
    let hold = world.disk.open_dir(&world.roots[0], Path::new(".octroi/hold")).unwrap();
    for name in world.disk.list(&hold).unwrap() {
        world.disk.unlink(&hold, &name).unwrap();
    }
    let error = world.mover.check_hold(crossed).unwrap_err();
    assert!(error.to_string().contains("what it moved to hold is gone"), "{error}");
}

/// Who had what was replaced open when it made way wrote to it afterwards: the undo takes it as it is, and may itself
/// be taken back.
#[test]
fn what_was_replaced_is_restored_as_its_last_writer_left_it() {
    let (world, txid) = undone_and_dead(false, |world, crossed| {
        let hold = world.disk.open_dir(&world.roots[1], Path::new(".octroi/hold")).unwrap();
        let file = world.disk.open_write(&hold, crossed.to_string().as_ref()).unwrap();
        world.disk.write_at(&file, b"written afterwards", 0).unwrap();
        world.disk.sync_all();
    });
    assert!(world.mover.examine(txid).iter().all(|finding| !finding.written));
    assert!(matches!(world.settle(txid, Settle::Withdraw), Ok(Settled::Reverted(_))));
    assert_eq!(world.ends(), (None, Some(new_content())));
}

#[test]
fn an_undo_works_after_a_restart() {
    let world = new_world(Names::Journal, false);
    world.put(0, "f", &new_content());
    let crossed = world.cross("f", "g").unwrap();
    let world = world.restart(false);
    assert_eq!(world.mover.recover(), Recovery::default());
    world.undo(crossed.txid).unwrap();
    assert_eq!(world.get(0, "f"), Some(new_content()));
    assert_eq!(world.get(1, "g"), None);
}

/// After a crossing of `f` to `g`, `meddle` makes its undo impossible with this errno.
#[track_caller]
fn check_refused(errno: Errno, meddle: impl FnOnce(&World), caller: Caller) {
    let world = new_world(Names::Journal, false);
    world.put(0, "f", b"new");
    let crossed = world.cross("f", "g").unwrap();
    meddle(&world);
    let before = (world.get(0, "f"), world.get(1, "g"), world.private(0, "hold"));
    let prepared = world.mover.prepare_undo(caller, None, false, crossed.txid, &any());
    let error = prepared.err().expect("refused");
    assert_eq!(error.errno(), errno, "{error}");
    assert_eq!((world.get(0, "f"), world.get(1, "g"), world.private(0, "hold")), before);
    assert_eq!(world.state(crossed.txid), Some(TransactionState::Done));
}

#[test]
fn refusals_change_nothing() {
    let name = OsStr::new("g");
    check_refused(Errno::PERM, |_| {}, Caller { uid: 1001, ..AUTHOR });
    check_refused(Errno::EXIST, |world| world.put(0, "f", b"in the way"), AUTHOR);
    check_refused(
        Errno::INVAL,
        |world| {
            let file = world.disk.open_write(&world.roots[1], name).unwrap();
            world.disk.write_at(&file, b"NEW", 0).unwrap();
        },
        AUTHOR,
    );
    check_refused(Errno::INVAL, |world| world.disk.unlink(&world.roots[1], name).unwrap(), AUTHOR);
    check_refused(
        Errno::BUSY,
        |world| world.disk.open_outside(&world.roots[1], name).unwrap(),
        AUTHOR,
    );
}

#[test]
fn root_may_undo_what_others_did() {
    let world = new_world(Names::Journal, false);
    world.put(0, "f", b"new");
    let crossed = world.cross("f", "g").unwrap();
    let root = Caller { uid: 0, gid: 0, pid: 1 };
    let prepared = world.mover.prepare_undo(root, None, true, crossed.txid, &any()).unwrap();
    world.mover.commit(prepared).unwrap();
    assert_eq!(world.get(0, "f").unwrap(), b"new");
}

#[test]
fn a_running_undo_keeps_what_it_needs_from_a_purge() {
    let world = new_world(Names::Journal, false);
    world.put(0, "f", b"new");
    let crossed = world.cross("f", "g").unwrap();
    let prepared = world.mover.prepare_undo(AUTHOR, None, false, crossed.txid, &any()).unwrap();
    let later = jiff::Timestamp::now() + std::time::Duration::from_secs(10);
    let purged = world.mover.purge(later, std::time::Duration::ZERO);
    assert!(purged.transactions.is_empty());
    world.mover.commit(prepared).unwrap();
    assert_eq!(world.get(0, "f").unwrap(), b"new");
    let later = jiff::Timestamp::now() + std::time::Duration::from_secs(10);
    assert_eq!(world.mover.purge(later, std::time::Duration::ZERO).transactions.len(), 2);
    assert!(world.private(1, "hold").is_empty());
}

/// What hold keeps is no longer what came there: nothing is tried, least of all what would need a person.
#[test]
fn what_is_held_is_looked_at_before_anything_moves() {
    let replaced = |world: &World, branch: usize, txid: TxId| {
        let hold = world.disk.open_dir(&world.roots[branch], Path::new(".octroi/hold")).unwrap();
        let name = txid.to_string();
        world.disk.unlink(&hold, OsStr::new(&name)).unwrap();
        let file = world.disk.create_file(&hold, OsStr::new(&name)).unwrap();
        world.disk.write_at(&file, b"another", 0).unwrap();
    };
    for branch in [0, 1] {
        let world = new_world(Names::Journal, false);
        world.put(0, "f", b"new");
        world.put(1, "g", b"old");
        let txid = world.cross("f", "g").unwrap().txid;
        replaced(&world, branch, txid);
        let refused = world.undo(txid).unwrap_err();
        assert!(matches!(refused, CrossingError::UndoImpossible { .. }), "{refused}");
        assert_eq!(world.get(1, "g").as_deref(), Some(&b"new"[..]));
        assert_eq!(world.mover.with_journal(|journal| journal.iter().count()), 1);
    }
}

/// Neither has content to tell them apart.
#[test]
fn another_special_file_at_the_target_stays() {
    let world = new_world(Names::Journal, false);
    world.special(0, "f", &Kind::Fifo);
    let txid = world.cross("f", "g").unwrap().txid;
    let (root, name) = (&world.roots[1], OsStr::new("g"));
    world.disk.unlink(root, name).unwrap();
    world.disk.create_special(root, name, &Kind::Fifo).unwrap();
    let refused = world.undo(txid).unwrap_err();
    assert!(matches!(refused, CrossingError::UndoImpossible { .. }), "{refused}");
    assert!(world.disk.stat(root, name).unwrap().is_some());
    assert_eq!(world.get(0, "f"), None);
}

/// Root closes or labels what arrived; the original that is held is as open as it was.
#[test]
fn an_undo_opens_nothing_that_was_closed_since() {
    type Change = dyn Fn(&Disk, &<Disk as Storage>::Dir, &OsStr);
    let changes: [&Change; 5] = [
        &|disk, dir, name| disk.set_mode(dir, name, 0o600).unwrap(),
        &|disk, dir, name| disk.set_owner(dir, name, 0, 1000).unwrap(),
        &|disk, dir, name| disk.set_owner(dir, name, 1000, 0).unwrap(),
        &|disk, dir, name| disk.set_xattr(dir, name, OsStr::new(LABEL), b"pii").unwrap(),
        &|disk, dir, name| {
            disk.set_xattr(dir, name, OsStr::new("system.posix_acl_access"), b"less").unwrap();
        },
    ];
    for (at, change) in changes.iter().enumerate() {
        for (source, target, changed) in [("f", "g", "g"), ("d", "e", "e"), ("d", "e", "e/in")] {
            let world = new_world(Names::Journal, false);
            world.put(0, "f", b"new");
            world.make_dirs(0, &["d"]);
            world.put(0, "d/in", b"inside");
            for path in ["f", "d", "d/in"] {
                let dir = world.dir(0, path);
                let name = Path::new(path).file_name().unwrap();
                world.disk.set_owner(&dir, name, 1000, 1000).unwrap();
            }
            world.disk.sync_all();
            let crossed = world.cross(source, target).unwrap().txid;
            change(&world.disk, &world.dir(1, changed), Path::new(changed).file_name().unwrap());
            let refused = world.undo(crossed).unwrap_err().to_string();
            let named = format!("/{changed} have changed since");
            assert!(refused.contains(&named), "change {at} of {changed}: {refused}");
            assert!(world.get(1, target).is_some() && world.get(0, source).is_none());
            let root = Caller { uid: 0, ..AUTHOR };
            let prepared = world.mover.prepare_undo(root, None, true, crossed, &any()).unwrap();
            world.mover.commit(prepared).unwrap();
            assert!(world.get(0, source).is_some(), "change {at} of {changed}");
        }
    }
}
