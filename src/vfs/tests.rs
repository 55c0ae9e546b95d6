//! The operations as a kernel would call them, without one: the in-process transport.

use std::ffi::OsStr;
use std::time::Duration;

use super::*;
use crate::branch::RenameFlags;
use crate::mover::TransactionState;
use crate::types::{Caller, Operation};
use crate::view::locks::{Holder, Lock};

mod crossings;
mod explained;
mod faults;
pub(crate) mod fixture;
mod moves;
mod pools;
mod sheds;
mod undo;

use fixture::*;
pub(super) use fixture::{NoState, end};

#[test]
fn a_file_is_made_written_and_read() {
    let fixture = Fixture::new(vec![]);
    let number = fixture.put("inbox", "a", "text");
    assert_eq!(fixture.read(number).expect("read"), b"text");
    assert_eq!(std::fs::read(fixture.backing("inbox/a")).expect("there"), b"text");
}

#[test]
fn what_has_no_name_any_more_is_kept_for_all_users() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let fixture = Fixture::new(vec![]);
    let vfs = &fixture.vfs;
    vfs.set_open_max(512);
    let inbox = fixture.number("inbox");
    let removed = |owner: u32| {
        let before = vfs.kept();
        for number in 0..20 {
            let name = format!("{owner}-{number}");
            fixture.folder(&format!("inbox/{name}"));
            let path = fixture.backing("inbox").join(&name);
            std::os::unix::fs::chown(path, Some(owner), None).expect("chown");
            fixture.number(&format!("inbox/{name}"));
            vfs.rmdir(*ROOT, inbox, OsStr::new(&name)).expect("removed");
        }
        vfs.kept() - before
    };
    assert_eq!([1000, 1001, 1002, 0].map(removed), [16, 14, 0, 2], "of a sixteenth");
}

#[test]
fn numbers_never_given_are_refused() {
    let fixture = Fixture::new(vec![]);
    let vfs = &fixture.vfs;
    assert_eq!(vfs.getattr(*ROOT, 424_242, None).err(), Some(Errno::STALE));
    assert_eq!(vfs.read(99, 0, 10).err(), Some(Errno::BADF));
    assert_eq!(vfs.write(*ROOT, 99, Some(0), b"x", false).err(), Some(Errno::BADF));
    assert_eq!(vfs.unlink(*ROOT, 424_242, OsStr::new("a")).err(), Some(Errno::STALE));
    vfs.forget(424_242, u64::MAX);
    vfs.release(99);
}

#[test]
fn users_who_have_many_files_open_leave_some_to_the_others() {
    let fixture = Fixture::new(vec![]);
    let number = fixture.put("inbox", "a", "text");
    let vfs = &fixture.vfs;
    vfs.set_open_max(512);
    let user = |uid| Caller { uid, gid: uid, pid: 7 };
    let open = |caller| vfs.open(caller, number, READ).map(|opened| opened.handle);
    let take = |caller, count: usize| -> Vec<u64> {
        let handles = (0..count).map(|_| open(caller).expect("room"));
        let handles = handles.collect();
        assert_eq!(open(caller), Err(Errno::NFILE), "{count} of user {}", caller.uid);
        handles
    };
    let mut handles = take(user(1000), 256);
    handles.extend(take(user(1001), 128));
    for uid in 1002..1050 {
        handles.extend(take(user(uid), 2));
    }
    assert_eq!(open(user(1050)), Err(Errno::NFILE), "the last sixteenth is root's");
    handles.extend(take(*ROOT, 32));
    handles.into_iter().for_each(|handle| vfs.release(handle));
    take(user(1000), 256).into_iter().for_each(|handle| vfs.release(handle));
}

#[test]
fn names_that_lead_elsewhere_are_refused() {
    let fixture = Fixture::new(vec![]);
    let inbox = fixture.number("inbox");
    for name in ["..", ".", "", "a/b", "../fixed", "a\0b"] {
        let name = OsStr::new(name);
        assert!(fixture.vfs.lookup(*ROOT, inbox, name).is_err(), "{name:?}");
        assert!(fixture.vfs.mkdir(*ROOT, inbox, name, 0o755, 0).is_err(), "{name:?}");
        assert!(fixture.vfs.unlink(*ROOT, inbox, name).is_err(), "{name:?}");
    }
}

#[test]
fn the_private_folder_does_not_exist() {
    let fixture = Fixture::new(vec![]);
    let inbox = fixture.number("inbox");
    let name = OsStr::new(PRIVATE_NAME);
    fixture.put("inbox", "a", "text");
    assert_eq!(fixture.vfs.lookup(*ROOT, inbox, name).err(), Some(Errno::NOENT));
    assert_eq!(fixture.vfs.mkdir(*ROOT, inbox, name, 0o755, 0).err(), Some(Errno::ACCESS));
    assert_eq!(fixture.vfs.rmdir(*ROOT, inbox, name).err(), Some(Errno::NOENT));
    assert!(fixture.rename(("inbox", "a"), ("inbox", PRIVATE_NAME)).is_err());
    assert!(fixture.backing("inbox/a").exists());
}

#[test]
fn modes_are_kept() {
    let fixture = Fixture::new(vec![]);
    let name = OsStr::new("x");
    let (archive, fixed) = (fixture.number("archive"), fixture.number("fixed"));
    let vfs = &fixture.vfs;
    let create = |parent| vfs.create(*ROOT, parent, name, 0o644, 0, WRITE).err();
    assert_eq!(create(archive), Some(Errno::ACCESS));
    assert_eq!(create(fixed), Some(Errno::ROFS));
    assert_eq!(create(ROOT_NUMBER), Some(Errno::ROFS));
    assert!(vfs.mkdir(*ROOT, archive, name, 0o755, 0).is_ok());
    assert_eq!(vfs.mkdir(*ROOT, fixed, name, 0o755, 0).err(), Some(Errno::ROFS));
}

#[test]
fn a_denied_operation_has_no_effect_and_says_why() {
    let fixture = Fixture::new(vec![
        rule("keep", &[Operation::Unlink], "/inbox/**"),
        rule("still", &[Operation::Truncate], "/inbox/**"),
    ]);
    let number = fixture.put("inbox", "a", "text");
    let inbox = fixture.number("inbox");
    assert_eq!(fixture.vfs.unlink(*ROOT, inbox, OsStr::new("a")), Err(Errno::ACCESS));
    let request = AttributeRequest { change: Default::default(), size: Some(0), handle: None };
    assert_eq!(fixture.vfs.setattr(*ROOT, number, &request).err(), Some(Errno::ACCESS));
    fixture.put("inbox", "b", "other");
    assert_eq!(fixture.rename(("inbox", "b"), ("inbox", "a")), Err(Errno::ACCESS));
    assert_eq!(std::fs::read(fixture.backing("inbox/a")).expect("there"), b"text");
    let denial = fixture.vfs.denials.last(0, None).expect("remembered");
    assert_eq!(denial.decision.basis, crate::policy::Basis::Rule("keep".into()));
}

#[test]
fn a_rule_is_not_shed_by_another_name() {
    let secret = rule("secret", &[Operation::OpenRead], "/inbox/secret/**");
    let fixture = Fixture::new(vec![secret]);
    let inbox = fixture.number("inbox");
    fixture.vfs.mkdir(*ROOT, inbox, OsStr::new("secret"), 0o755, 0).expect("mkdir");
    let number = fixture.put("inbox/secret", "s", "hidden");
    assert_eq!(fixture.read(number).err(), Some(Errno::ACCESS));
    let link = fixture.vfs.link(*ROOT, number, inbox, OsStr::new("open"));
    assert_eq!(link.err(), Some(Errno::ACCESS));
    assert_eq!(fixture.rename(("inbox/secret", "s"), ("inbox", "open")), Err(Errno::ACCESS));
    let rename = fixture.rename(("inbox", "secret"), ("inbox", "open"));
    assert_eq!(rename, Err(Errno::ACCESS), "nor by one of its folder");
    assert!(fixture.backing("inbox/secret/s").exists());
}

#[test]
fn a_crossing_needs_a_gate_and_what_the_gate_asks() {
    let fixture = Fixture::new(vec![]);
    fixture.put("inbox", "a.txt", "no gate for this name");
    assert_eq!(fixture.rename(("inbox", "a.txt"), ("archive", "a.txt")), Err(Errno::ACCESS));
    fixture.put("inbox", "b.csv", "\x01\x02\x03 no text");
    assert_eq!(fixture.rename(("inbox", "b.csv"), ("archive", "b.csv")), Err(Errno::ACCESS));
    assert!(fixture.backing("inbox/a.txt").exists() && fixture.backing("inbox/b.csv").exists());
    assert_eq!(std::fs::read_dir(fixture.backing("archive")).expect("list").count(), 1);
}

#[test]
fn a_crossing_moves_and_an_undo_takes_back() {
    let fixture = Fixture::new(vec![]);
    let number = fixture.put("inbox", "a.csv", "1,2,3\n");
    let reader = fixture.vfs.open(*ROOT, number, READ).expect("open");
    fixture.rename(("inbox", "a.csv"), ("archive", "b.csv")).expect("crossed");
    assert!(!fixture.backing("inbox/a.csv").exists());
    assert_eq!(std::fs::read(fixture.backing("archive/b.csv")).expect("there"), b"1,2,3\n");
    assert_eq!(fixture.number("archive/b.csv"), number, "the kernel keeps the number");
    assert_eq!(fixture.vfs.read(reader.handle, 0, 100).expect("read on"), b"1,2,3\n");
    fixture.vfs.release(reader.handle);

    let plan = fixture.vfs.plan_undo(*ROOT, None, None).expect("recorded");
    assert_eq!(plan.source.to_string(), "/archive/b.csv");
    let undo = fixture.prepare_undo_as(*ROOT, &plan).expect("prepared");
    fixture.rename(("archive", "b.csv"), ("inbox", "a.csv")).expect("undone");
    drop(undo);
    assert!(!fixture.backing("archive/b.csv").exists());
    assert_eq!(fixture.read(fixture.number("inbox/a.csv")).expect("back"), b"1,2,3\n");
}

#[test]
fn what_crossed_while_it_was_open_is_copied_within_its_new_branch_only() {
    let fixture = Fixture::new(vec![]);
    let (number, inbox) = (fixture.put("inbox", "a.csv", "1\n"), fixture.number("inbox"));
    fixture.rename(("inbox", "a.csv"), ("archive", "a.csv")).expect("crossed");
    let source = fixture.vfs.open(*ROOT, number, READ).expect("open").handle;
    let target = |name| {
        let made = fixture.vfs.create(*ROOT, inbox, OsStr::new(name), 0o644, 0, WRITE);
        made.expect("created").1.handle
    };
    let copy = || fixture.vfs.copy_file_range(*ROOT, (source, 0), (target("copy"), 0), 2);
    assert_eq!(copy(), Err(Errno::XDEV));
    fixture.rename(("archive", "a.csv"), ("inbox", "a.csv")).expect("crossed");
    assert_eq!(fixture.vfs.copy_file_range(*ROOT, (source, 0), (target("again"), 0), 2), Ok(2));
}

#[test]
fn an_undo_that_nobody_finishes_is_rolled_back() {
    let fixture = Fixture::new(vec![]);
    fixture.put("inbox", "a.csv", "1\n");
    fixture.rename(("inbox", "a.csv"), ("archive", "a.csv")).expect("crossed");
    let undo = fixture.prepare_undo().expect("prepared");
    let archive = fixture.number("archive");
    let unlink = || fixture.vfs.unlink(*ROOT, archive, OsStr::new("a.csv"));
    assert_eq!(unlink(), Err(Errno::BUSY), "a prepared name is locked");
    drop(undo);
    assert_eq!(unlink(), Ok(()));
}

#[test]
fn a_file_open_for_writing_does_not_cross() {
    let fixture = Fixture::new(vec![]);
    let number = fixture.put("inbox", "a.csv", "1\n");
    let writer = fixture.vfs.open(*ROOT, number, WRITE).expect("open");
    let started = std::time::Instant::now();
    assert_eq!(fixture.rename(("inbox", "a.csv"), ("archive", "a.csv")), Err(Errno::BUSY));
    assert!(started.elapsed() >= Duration::from_millis(900), "it waits for a late close");
    fixture.vfs.release(writer.handle);
    assert_eq!(fixture.rename(("inbox", "a.csv"), ("archive", "a.csv")), Ok(()));
}

#[test]
fn a_listing_holds_while_entries_come_and_go() {
    let fixture = Fixture::new(vec![]);
    for index in 0..100 {
        fixture.put("inbox", &format!("f{index}"), "");
    }
    let inbox = fixture.number("inbox");
    let open = fixture.vfs.opendir(*ROOT, inbox).expect("open");
    let mut seen = Vec::new();
    let mut next = 0;
    loop {
        let before = seen.len();
        fixture
            .vfs
            .readdir(open, next, &mut |entry| {
                if seen.len() == before + 10 {
                    return true;
                }
                seen.push(entry.name.to_owned());
                next = entry.next;
                false
            })
            .expect("listed");
        if seen.len() == before {
            break;
        }
        fixture.put("inbox", &format!("new{}", seen.len()), "");
    }
    seen.retain(|name| name.as_encoded_bytes().starts_with(b"f"));
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 100, "each once");
}

#[test]
fn callers_at_once_lose_nothing_and_do_not_wait_for_each_other_for_ever() {
    const FILES: usize = 12;
    const ROUNDS: usize = 40;
    let fixture = Fixture::new(vec![]);
    let text = |index: usize| format!("file {index}\n");
    for index in 0..FILES {
        fixture.put("inbox", &format!("{index}.csv"), &text(index));
    }
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let fixture = &fixture;
            scope.spawn(move || {
                for round in 0..ROUNDS {
                    let index = (thread * 7 + round * 5) % FILES;
                    let name = format!("{index}.csv");
                    let (from, to) = if (round + thread) % 2 == 0 {
                        ("inbox", "archive")
                    } else {
                        ("archive", "inbox")
                    };
                    // Any of these may meet another caller's crossing and be refused.
                    let _ = match round % 4 {
                        3 => fixture.vfs.plan_undo(*ROOT, None, None).ok().and_then(|plan| {
                            let _undo = fixture.prepare_undo_as(*ROOT, &plan).ok()?;
                            let split = |path: &ViewPath| {
                                let parent = path.parent().expect("below the root");
                                (
                                    parent.as_path().to_str().expect("text")[1..].to_owned(),
                                    name.clone(),
                                )
                            };
                            let (from, to) = (split(&plan.source).0, split(&plan.target).0);
                            let name = plan
                                .source
                                .name()
                                .expect("a name")
                                .to_str()
                                .expect("text")
                                .to_owned();
                            fixture.rename((&from, &name), (&to, &name)).ok()
                        }),
                        _ => fixture.rename((from, &name), (to, &name)).ok(),
                    };
                }
            });
        }
    });
    let done = fixture.vfs.mover.with_journal(|journal| {
        journal.iter().filter(|(_, found)| found.state == TransactionState::Done).count()
    });
    // Most meet another caller and are refused; some must get through, or this shows nothing.
    assert!(done >= 5, "{done} crossings and undos were made");
    for index in 0..FILES {
        let name = format!("{index}.csv");
        let places = ["inbox", "archive"].map(|folder| fixture.backing(folder).join(&name));
        let found: Vec<_> = places.iter().filter_map(|path| std::fs::read(path).ok()).collect();
        assert_eq!(found, vec![text(index).into_bytes()], "{name} is in one place, whole");
    }
}

#[test]
fn an_open_for_writing_is_decided_when_no_crossing_can_move_the_file_any_more() {
    let fixture = Fixture::new(vec![rule("kept", &[Operation::OpenWrite], "/inbox/kept")]);
    let (inbox, name) = (fixture.number("inbox"), OsStr::new("kept"));
    let made = fixture.vfs.mknod(*ROOT, inbox, name, libc::S_IFREG | 0o644, 0, 0).expect("made");
    let content = vec![Lock::Content(made.number)];
    let crossing =
        fixture.vfs.view.locks.take(Holder::Crossing, &[], content, vec![]).expect("free");
    assert_eq!(fixture.vfs.open(*ROOT, made.number, WRITE).err(), Some(Errno::BUSY));
    assert!(fixture.vfs.denials.last(0, None).is_none(), "the policy was asked too early");
    drop(crossing);
    assert_eq!(fixture.vfs.open(*ROOT, made.number, WRITE).err(), Some(Errno::ACCESS));
}

#[test]
fn anothers_crossing_looks_like_none() {
    let fixture = Fixture::new(vec![]);
    let nobody = Caller { uid: 65534, gid: 65534, pid: 1 };
    fixture.put("inbox", "a.csv", "1\n");
    fixture.rename(("inbox", "a.csv"), ("archive", "a.csv")).expect("crossed");
    let txid = fixture.vfs.with_journal(|journal| journal.last_of(0)).expect("recorded");
    let to = ViewPath::root().join(OsStr::new("archive")).join(OsStr::new("a.csv"));
    let none = fixture.vfs.plan_undo(nobody, None, Some(&to)).expect_err("not theirs");
    assert_eq!(none.to_string(), "there is no crossing to undo");
    let unknown = fixture.vfs.plan_undo(nobody, Some(txid), None).expect_err("not theirs");
    assert_eq!(unknown.to_string(), format!("there is no completed crossing {txid} to undo"));
}
