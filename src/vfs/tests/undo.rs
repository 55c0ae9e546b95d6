//! Undos that are prepared for a rename that comes later. A gate leads back, so that the rename could be a
//! crossing as any other.

use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use super::fixture::*;
use crate::branch::RenameFlags;
use crate::policy::PathPatterns;
use crate::types::{BranchMode, Caller, Placement};
use crate::vfs::*;
use crate::view::locks::{Holder, Lock};

const NOBODY: Caller = Caller { uid: 65534, gid: 65534, pid: 1 };

fn crossed_by(caller: Caller) -> Fixture {
    let fixture = Fixture::new(vec![]);
    for folder in ["inbox", "archive"] {
        let open = std::fs::Permissions::from_mode(0o777);
        std::fs::set_permissions(fixture.backing(folder), open).expect("chmod");
    }
    fixture.put("inbox", "a.csv", "1,2,3\n");
    rename(&fixture, caller, ("inbox", "a.csv"), ("archive", "b.csv")).expect("crossed");
    fixture
}

fn rename(
    fixture: &Fixture,
    caller: Caller,
    from: (&str, &str),
    to: (&str, &str),
) -> Result<(), Errno> {
    let from = (fixture.number(from.0), OsStr::new(from.1));
    let to = (fixture.number(to.0), OsStr::new(to.1));
    let _ = fixture.vfs.lookup(caller, from.0, from.1);
    fixture.vfs.rename(caller, from, to, RenameFlags::NOREPLACE)
}

fn finish(fixture: &Fixture) -> Result<(), Errno> {
    rename(fixture, *ROOT, ("archive", "b.csv"), ("inbox", "a.csv"))
}

fn transactions(fixture: &Fixture) -> usize {
    fixture.vfs.with_journal(|journal| journal.iter().count())
}

#[test]
fn a_late_rename_is_no_crossing_of_its_own() {
    let fixture = crossed_by(*ROOT);
    let undo = fixture.prepare_undo().expect("prepared");
    undo.keep();
    fixture.expire(Duration::from_secs(30));
    assert!(fixture.unlink("archive", "b.csv").is_err(), "it is locked");
    fixture.expire(Duration::ZERO);
    assert_eq!(finish(&fixture), Err(Errno::CANCELED));
    assert_eq!(finish(&fixture), Err(Errno::CANCELED), "as long as the client is there");
    assert!(undo.give_up().to_string().contains("expired"), "and it is told why");
    assert!(fixture.has("archive/b.csv") && !fixture.has("inbox/a.csv"));
    assert_eq!(transactions(&fixture), 2);
    drop(undo);
    assert_eq!(finish(&fixture), Ok(()), "by the gate that leads back");
    assert_eq!(transactions(&fixture), 3);
}

#[test]
fn it_is_done_by_one_rename() {
    let fixture = crossed_by(*ROOT);
    let undo = fixture.prepare_undo().expect("prepared");
    assert_eq!(finish(&fixture), Ok(()));
    assert!(fixture.has("inbox/a.csv") && !fixture.has("archive/b.csv"));
    fixture.rename(("inbox", "a.csv"), ("archive", "b.csv")).expect("crossed again");
    assert_eq!(finish(&fixture), Err(Errno::CANCELED), "that was another rename's");
    let busy = fixture.prepare_undo().err().map(|error| error.errno);
    assert_eq!(busy, Some(Errno::BUSY), "the first client has not gone");
    drop(undo);
    let undo = fixture.prepare_undo().expect("prepared");
    assert_eq!(finish(&fixture), Ok(()));
    drop(undo);
}

#[test]
fn who_may_not_rename_locks_nothing() {
    let fixture = crossed_by(NOBODY);
    for (folder, mode, errno) in [
        ("archive", 0o755, Errno::ACCESS),
        ("archive", 0o772, Errno::ACCESS),
        ("archive", 0o1777, Errno::PERM),
        ("inbox", 0o755, Errno::ACCESS),
    ] {
        let set = |mode| {
            let mode = std::fs::Permissions::from_mode(mode);
            std::fs::set_permissions(fixture.backing(folder), mode).expect("chmod");
        };
        set(mode);
        let plan = fixture.vfs.plan_undo(NOBODY, None, None).expect("their own");
        let refused = fixture.prepare_undo_as(NOBODY, &plan).err().map(|error| error.errno);
        assert_eq!(refused, Some(errno), "{folder} {mode:o}");
        assert_eq!(transactions(&fixture), 1, "nothing was begun");
        set(0o777);
    }
    let plan = fixture.vfs.plan_undo(NOBODY, None, None).expect("their own");
    let undo = fixture.prepare_undo_as(NOBODY, &plan).expect("prepared");
    let done = rename(&fixture, NOBODY, ("archive", "b.csv"), ("inbox", "a.csv"));
    assert_eq!(done, Ok(()));
    drop(undo);
}

#[test]
fn folders_that_are_not_those_of_the_crossing_are_refused() {
    let fixture = crossed_by(*ROOT);
    let plan = fixture.vfs.plan_undo(*ROOT, None, None).expect("recorded");
    let elsewhere = ViewPath::root().join(OsStr::new("inbox")).join(OsStr::new("c.csv"));
    let forged = UndoPlan { target: elsewhere, ..plan };
    let refused = fixture.prepare_undo_as(*ROOT, &forged).err().map(|error| error.errno);
    assert_eq!(refused, Some(Errno::STALE));
    assert_eq!(transactions(&fixture), 1);
}

/// `/pool` over `one` and `two`, and `/inbox`, with gates both ways.
fn pool_and_inbox() -> Fixture {
    let modes = ["one", "two", "inbox"].map(|name| (name, BranchMode::Rw));
    let members: Vec<_> = (0..2).map(BranchIndex).collect();
    let any = || PathPatterns::new(vec!["**".to_owned()]).expect("a glob");
    let to = members.clone().into();
    let submit = crate::policy::Gate { to, paths: any(), ..gate("submit", 2, 0) };
    let from = members.clone().into();
    let recall = crate::policy::Gate { from, paths: any(), ..gate("recall", 0, 2) };
    let at = ViewPath::root().join(OsStr::new("pool"));
    let pool = Pool { name: "pool".to_owned(), at, members, place: Placement::First };
    Fixture::build(&modes, vec![pool], vec![], vec![submit, recall])
}

/// As [`pool_and_inbox`]; a directory has crossed to the first member.
fn crossed_to_pool() -> Fixture {
    let fixture = pool_and_inbox();
    fixture.mkdir("inbox", "d").expect("made");
    fixture.put("inbox/d", "a.csv", "1\n");
    fixture.rename(("inbox", "d"), ("pool", "d")).expect("crossed");
    fixture
}

#[test]
fn what_an_offline_member_may_have_of_a_directory_is_not_left_behind() {
    let fixture = crossed_to_pool();
    fixture.plant("two/d/new.csv", "2\n");
    let changed = fixture.prepare_undo().err().expect("it has changed");
    assert!(changed.why.contains("changed"), "{}", changed.why);
    fixture.go_offline(1);
    let refused = fixture.prepare_undo().err().map(|error| error.errno);
    assert_eq!(refused, Some(Errno::IO));
    assert_eq!(transactions(&fixture), 1, "nothing was begun");
}

#[test]
fn a_part_that_is_made_while_it_is_prepared_is_not_left_behind() {
    let fixture = crossed_to_pool();
    let number = fixture.number("pool/d");
    let vfs = &fixture.vfs;
    let inode = vfs.inode(number).expect("known");
    // Whoever makes something new in it.
    let new = vec![Lock::Name(number, "new.csv".into())];
    let held = vfs.view.locks.operation(&[&inode], new, vec![]).expect("free");
    std::thread::scope(|scope| {
        let undoing = scope.spawn(|| fixture.prepare_undo().err().map(|error| error.why));
        let is_locked = || {
            let look = vfs.view.locks.take(Holder::Operation, &[&inode], vec![], vec![]);
            look.err() == Some(Errno::BUSY)
        };
        while !is_locked() && !undoing.is_finished() {
            std::thread::yield_now();
        }
        vfs.make_part(&inode, BranchIndex(1), &mut Vec::new()).expect("made");
        fixture.plant("two/d/new.csv", "2\n");
        drop(held);
        let why = undoing.join().expect("no panic").expect("it has changed");
        assert!(why.contains("changed since"), "{why}");
    });
    assert_eq!(transactions(&fixture), 1, "nothing was begun");
}

/// As [`pool_and_inbox`]; a directory has crossed from below the first member.
fn crossed_from_pool() -> Fixture {
    let fixture = pool_and_inbox();
    fixture.mkdir("pool", "sub").expect("made");
    fixture.mkdir("pool/sub", "d").expect("made");
    fixture.put("pool/sub/d", "a.csv", "1\n");
    fixture.rename(("pool/sub", "d"), ("inbox", "d")).expect("crossed");
    fixture
}

/// Somebody makes something of the name that it goes back to, on another member, which has its folder only then.
fn take_its_name(fixture: &Fixture) {
    let folder = fixture.vfs.inode(fixture.number("pool/sub")).expect("known");
    fixture.vfs.make_part(&folder, BranchIndex(1), &mut Vec::new()).expect("made");
    fixture.plant("two/sub/d", "another's\n");
}

#[test]
fn a_name_that_is_taken_while_it_is_prepared_is_not_taken_over() {
    let fixture = crossed_from_pool();
    let number = fixture.number("inbox/d");
    let vfs = &fixture.vfs;
    let inode = vfs.inode(number).expect("known");
    // It waits for this.
    let new = vec![Lock::Name(number, "new.csv".into())];
    let held = vfs.view.locks.operation(&[&inode], new, vec![]).expect("free");
    std::thread::scope(|scope| {
        let undoing = scope.spawn(|| fixture.prepare_undo().err().map(|error| error.errno));
        let is_locked = || {
            let look = vfs.view.locks.take(Holder::Operation, &[&inode], vec![], vec![]);
            look.err() == Some(Errno::BUSY)
        };
        while !is_locked() && !undoing.is_finished() {
            std::thread::yield_now();
        }
        take_its_name(&fixture);
        drop(held);
        assert_eq!(undoing.join().expect("no panic"), Some(Errno::EXIST));
    });
    assert_eq!(transactions(&fixture), 1, "nothing was begun");
}

/// The client may rename without NOREPLACE, and the other may come from outside the mount.
#[test]
fn a_name_that_is_taken_before_its_rename_is_not_taken_over() {
    let fixture = crossed_from_pool();
    let undo = fixture.prepare_undo().expect("prepared");
    take_its_name(&fixture);
    let finish = || fixture.rename(("inbox", "d"), ("pool/sub", "d"));
    assert_eq!(finish(), Err(Errno::EXIST));
    assert!(fixture.has("inbox/d/a.csv") && !fixture.has("one/sub/d"));
    drop(undo);
    std::fs::remove_file(fixture.backing("two/sub/d")).expect("removed");
    let undo = fixture.prepare_undo().expect("prepared again");
    assert_eq!(finish(), Ok(()));
    assert!(fixture.has("one/sub/d/a.csv"));
    drop(undo);
}
