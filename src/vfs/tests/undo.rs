//! Undos that are prepared for a rename that comes later. A gate leads back, so that the rename could be a
//! crossing as any other.

use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use super::fixture::*;
use crate::branch::RenameFlags;
use crate::types::Caller;
use crate::vfs::*;

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
    rename(fixture, ROOT, ("archive", "b.csv"), ("inbox", "a.csv"))
}

fn transactions(fixture: &Fixture) -> usize {
    fixture.vfs.with_journal(|journal| journal.iter().count())
}

#[test]
fn a_late_rename_is_no_crossing_of_its_own() {
    let fixture = crossed_by(ROOT);
    let undo = fixture.prepare_undo().expect("prepared");
    undo.keep();
    fixture.vfs.expire_prepared(Duration::from_secs(30));
    assert!(fixture.unlink("archive", "b.csv").is_err(), "it is locked");
    fixture.vfs.expire_prepared(Duration::ZERO);
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
    let fixture = crossed_by(ROOT);
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
    let fixture = crossed_by(ROOT);
    let plan = fixture.vfs.plan_undo(ROOT, None, None).expect("recorded");
    let elsewhere = ViewPath::root().join(OsStr::new("inbox")).join(OsStr::new("c.csv"));
    let forged = UndoPlan { target: elsewhere, ..plan };
    let refused = fixture.prepare_undo_as(ROOT, &forged).err().map(|error| error.errno);
    assert_eq!(refused, Some(Errno::STALE));
    assert_eq!(transactions(&fixture), 1);
}
