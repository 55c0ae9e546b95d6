//! Undo, with the power on.

use super::*;

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
    world.mover.record_purge(last, "a test says so".to_owned()).unwrap();
    assert_eq!(last_of(&world), Some(last), "{first} would be taken back, which nobody asked for");
    assert!(world.undo(last).unwrap_err().to_string().contains("purged"));
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
