//! Crossings of trees, into and out of pools, through the in-process transport.

use super::*;
use crate::branch::{AttributeChange, XattrFlags};
use crate::policy::{BranchFacts, Gate, PolicySource};
use crate::types::BranchMode;
use crate::types::Placement;
use crate::vfs::site::Purpose;

/// `/pool` over `one` and `two` (gates-only), and `/inbox`; gates both ways for `*.csv`.
fn fixture() -> Fixture {
    fixture_of(BranchMode::GatesOnly)
}

fn fixture_of(members: BranchMode) -> Fixture {
    let modes = [("one", members), ("two", members), ("inbox", BranchMode::Rw)];
    let members: Vec<_> = (0..2).map(BranchIndex).collect();
    let at = ViewPath::root().join(OsStr::new("pool"));
    let pool = Pool { name: "pool".to_owned(), at, members, place: Placement::First };
    Fixture::build(
        &modes,
        vec![pool],
        vec![rule("secret", &[Operation::MoveSource], "/inbox/**/secret.csv")],
        gates(),
    )
}

fn gates() -> Vec<Gate> {
    let members: Vec<_> = (0..2).map(BranchIndex).collect();
    let inbox = vec![BranchIndex(2)];
    vec![between("submit", inbox.clone(), members.clone()), between("recall", members, inbox)]
}

/// The same gates without the rule.
fn policy(generation: u64) -> Policy {
    let facts = [("one", "pool"), ("two", "pool"), ("inbox", "inbox")].map(|(name, at)| {
        let pool = (at == "pool").then(|| at.into());
        let at = ViewPath::root().join(OsStr::new(at));
        BranchFacts { name: name.into(), pool, at, mode: BranchMode::Rw }
    });
    let branches = facts.to_vec();
    let source = PolicySource {
        within_allowed: true,
        observe: false,
        rules: Vec::new(),
        gates: gates(),
        branches,
    };
    Policy::new(source, generation).expect("patterns that compile")
}

fn between(name: &str, from: Vec<BranchIndex>, to: Vec<BranchIndex>) -> Gate {
    Gate { from: from.into(), to: to.into(), ..gate(name, 0, 0) }
}

#[test]
fn a_tree_crosses_with_what_is_known_and_open() {
    let fixture = fixture();
    fixture.plant("inbox/d/e/a.csv", "a,b\n");
    fixture.plant("inbox/d/b.csv", "c,d\n");
    let top = fixture.number("inbox/d");
    let deep = fixture.number("inbox/d/e/a.csv");
    let open = fixture.vfs.open(*ROOT, deep, READ).expect("opened");
    fixture.rename(("inbox", "d"), ("pool", "d")).expect("crossed");
    assert!(!fixture.has("inbox/d") && fixture.has("one/d/e/a.csv"));
    assert_eq!(fixture.number("pool/d"), top);
    assert_eq!(fixture.number("pool/d/e/a.csv"), deep);
    assert_eq!(fixture.vfs.read(open.handle, 0, 100).expect("read"), b"a,b\n");
    assert_eq!(fixture.read(deep).expect("read"), b"a,b\n");
    fixture.vfs.release(open.handle);
    assert_eq!(fixture.names("pool/d"), ["b.csv", "e"]);
    // What is known by its old number is not found in hold.
    let stat = fixture.vfs.getattr(*ROOT, deep, None).expect("there").stat;
    let backing = fixture.backing("one/d/e/a.csv").metadata().expect("there");
    assert_eq!(stat.inode, std::os::unix::fs::MetadataExt::ino(&backing));
}

#[test]
fn a_merged_tree_crosses_out_of_its_pool_and_back() {
    let fixture = fixture();
    fixture.plant("one/d/a.csv", "first");
    fixture.plant("two/d/a.csv", "hidden");
    fixture.plant("two/d/b.csv", "second");
    fixture.plant("two/d/e/c.csv", "third");
    let number = fixture.number("pool/d/e/c.csv");
    fixture.rename(("pool", "d"), ("inbox", "d")).expect("crossed");
    assert!(!fixture.has("one/d") && !fixture.has("two/d"));
    assert_eq!(fixture.names("inbox/d"), ["a.csv", "b.csv", "e"]);
    assert_eq!(fixture.text("inbox/d/a.csv"), "first");
    assert_eq!(fixture.number("inbox/d/e/c.csv"), number);
    assert!(fixture.names("pool").is_empty());
    fixture.rename(("inbox", "d"), ("pool", "d")).expect("crossed");
    assert_eq!(fixture.names("pool/d"), ["a.csv", "b.csv", "e"]);
    assert_eq!(fixture.number("pool/d/e/c.csv"), number);
}

#[test]
fn a_file_crosses_onto_a_name_that_another_member_has() {
    let fixture = fixture();
    fixture.plant("inbox/a.csv", "new");
    fixture.plant("two/a.csv", "old");
    fixture.rename(("inbox", "a.csv"), ("pool", "a.csv")).expect("crossed");
    assert_eq!(fixture.text("pool/a.csv"), "new");
    assert!(!fixture.has("two/a.csv") && fixture.has("one/a.csv"));
}

#[test]
fn folders_are_made_where_a_crossing_goes() {
    let fixture = fixture();
    fixture.plant("inbox/a.csv", "text");
    fixture.folder("two/d/e");
    fixture.rename(("inbox", "a.csv"), ("pool/d/e", "a.csv")).expect("crossed");
    assert!(fixture.has("one/d/e/a.csv"));
    assert_eq!(fixture.names("pool/d/e"), ["a.csv"]);
}

#[test]
fn every_file_of_a_tree_must_pass() {
    let fixture = fixture();
    fixture.plant("inbox/d/e/a.csv", "text");
    for (name, why) in [("b.txt", "the gate's paths"), ("secret.csv", "a deny rule")] {
        fixture.plant(&format!("inbox/d/e/{name}"), "text");
        assert_eq!(fixture.rename(("inbox", "d"), ("pool", "d")), Err(Errno::ACCESS), "{why}");
        assert!(fixture.has("inbox/d/e/a.csv") && fixture.names("pool").is_empty());
        std::fs::remove_file(fixture.backing(&format!("inbox/d/e/{name}"))).expect("removed");
    }
    let binary = [0_u8, 159, 146, 150];
    std::fs::write(fixture.backing("inbox/d/e/c.csv"), binary).expect("written");
    assert_eq!(fixture.rename(("inbox", "d"), ("pool", "d")), Err(Errno::ACCESS), "its type");
    std::fs::remove_file(fixture.backing("inbox/d/e/c.csv")).expect("removed");
    fixture.rename(("inbox", "d"), ("pool", "d")).expect("crossed");
}

#[test]
fn a_tree_that_is_being_written_does_not_cross() {
    let fixture = fixture();
    fixture.plant("inbox/d/e/a.csv", "text");
    let number = fixture.number("inbox/d/e/a.csv");
    let open = fixture.vfs.open(*ROOT, number, WRITE).expect("opened");
    assert_eq!(fixture.rename(("inbox", "d"), ("pool", "d")), Err(Errno::BUSY));
    fixture.vfs.release(open.handle);
    fixture.rename(("inbox", "d"), ("pool", "d")).expect("crossed");
}

#[test]
fn a_directory_crosses_onto_an_empty_one_only() {
    let fixture = fixture();
    fixture.plant("inbox/d/a.csv", "text");
    fixture.folder("one/d");
    fixture.plant("two/d/b.csv", "text");
    fixture.plant("one/f.csv", "text");
    assert_eq!(fixture.rename(("inbox", "d"), ("pool", "d")), Err(Errno::NOTEMPTY));
    assert_eq!(fixture.rename(("inbox", "d"), ("pool", "f.csv")), Err(Errno::NOTDIR));
    std::fs::remove_file(fixture.backing("two/d/b.csv")).expect("removed");
    fixture.rename(("inbox", "d"), ("pool", "d")).expect("crossed");
    assert_eq!(fixture.names("pool/d"), ["a.csv"]);
}

#[test]
fn undoing_a_tree_brings_each_part_back_to_its_member() {
    let fixture = fixture();
    fixture.plant("one/d/a.csv", "first");
    fixture.plant("two/d/b.csv", "second");
    let number = fixture.number("pool/d");
    assert_eq!(fixture.names("pool/d"), ["a.csv", "b.csv"]);
    fixture.rename(("pool", "d"), ("inbox", "d")).expect("crossed");
    let _undo = fixture.prepare_undo().expect("prepared");
    fixture.rename(("inbox", "d"), ("pool", "d")).expect("undone");
    assert!(
        fixture.has("one/d/a.csv") && fixture.has("two/d/b.csv") && !fixture.has("one/d/b.csv")
    );
    // Who is in it does not look it up again.
    let handle = fixture.vfs.opendir(*ROOT, number).expect("opened");
    let mut seen = 0;
    let mut count = |_: DirectoryEntry<'_>| {
        seen += 1;
        false
    };
    fixture.vfs.readdir(handle, 0, &mut count).expect("listed");
    fixture.vfs.releasedir(handle);
    assert_eq!(seen, 4, "two names, the folder and the one above");
    assert_eq!(fixture.number("pool/d"), number);
    assert_eq!(fixture.names("pool/d"), ["a.csv", "b.csv"]);
    assert!(!fixture.has("inbox/d"));
}

/// What is found below a tree while it is switched must not keep its old place: the branch that it
/// has left may allow what the target does not.
#[test]
fn what_is_looked_up_during_the_switch_of_a_tree_is_pointed_too() {
    const FILES: usize = 1500;
    let fixture = fixture();
    fixture.plant("inbox/d/z/0.csv", "0");
    for at in 0..FILES {
        std::fs::write(fixture.backing(&format!("inbox/d/a{at}.csv")), "a").expect("planted");
        std::fs::write(fixture.backing(&format!("inbox/d/z/{at}.csv")), "z").expect("planted");
    }
    let top = fixture.number("inbox/d");
    for at in 0..FILES {
        fixture.vfs.lookup(*ROOT, top, OsStr::new(&format!("a{at}.csv"))).expect("known");
    }
    let deep = fixture.number("inbox/d/z");
    let done = AtomicBool::new(false);
    let found = std::thread::scope(|scope| {
        let looking = scope.spawn(|| look_up_until(&fixture.vfs, deep, FILES, &done));
        let crossed = fixture.rename(("inbox", "d"), ("pool", "d"));
        done.store(true, Ordering::Release);
        crossed.expect("crossed");
        looking.join().expect("no panic")
    });
    let left_behind = found.into_iter().filter(|number| {
        let inode = fixture.vfs.inode(*number).expect("known");
        inode.place().branch() == Some(BranchIndex(2))
    });
    assert_eq!(left_behind.count(), 0);
}

/// Looks up the files of a folder over and over, and forgets them after each round but the last.
fn look_up_until(vfs: &Vfs, folder: u64, files: usize, done: &AtomicBool) -> Vec<u64> {
    loop {
        let mut found = Vec::new();
        for at in 0..files {
            match vfs.lookup(*ROOT, folder, OsStr::new(&format!("{at}.csv"))) {
                Ok(attributes) => found.push(attributes.number),
                // The switch has come by.
                Err(_) => return found,
            }
            if done.load(Ordering::Acquire) {
                return found;
            }
        }
        found.into_iter().for_each(|number| drop(vfs.forget(number, 1)));
    }
}

/// A decision that was made before a crossing came would let through what the target does not allow.
#[test]
fn whoever_changes_a_file_that_crosses_is_turned_away_before_the_decision() {
    let denied = [Operation::Chmod, Operation::Setxattr, Operation::Link];
    let fixture = Fixture::new(vec![rule("none", &denied, "/inbox/**")]);
    fixture.plant("inbox/d/a.csv", "text");
    let (folder, number) = (fixture.number("inbox"), fixture.number("inbox/d/a.csv"));
    let tree = vec![Lock::Tree(fixture.number("inbox/d"))];
    let vfs = &fixture.vfs;
    let try_all = || {
        let change = AttributeChange { mode: Some(0o600), ..AttributeChange::default() };
        let request = AttributeRequest { change, size: None, handle: None };
        let key = OsStr::new("user.a");
        [
            vfs.setattr(*ROOT, number, &request).err(),
            vfs.setxattr(*ROOT, number, key, b"v", XattrFlags::empty()).err(),
            vfs.link(*ROOT, number, folder, OsStr::new("b.csv")).err(),
        ]
    };
    let crossing = vfs.view.locks.take(Holder::Crossing, &[], tree, vec![]).expect("free");
    assert_eq!(try_all(), [Some(Errno::BUSY); 3]);
    drop(crossing);
    assert_eq!(try_all(), [Some(Errno::ACCESS); 3]);
}

#[test]
fn undoing_a_tree_asks_the_rules_for_what_is_in_it() {
    let fixture = fixture();
    fixture.plant("one/d/e/secret.csv", "text");
    fixture.rename(("pool", "d"), ("inbox", "d")).expect("crossed");
    let refused = fixture.prepare_undo().err().expect("a deny rule");
    assert!(refused.why.contains("secret.csv: not here"), "{refused:?}");
    assert!(fixture.has("inbox/d/e/secret.csv"));
}

#[test]
fn a_tree_that_was_prepared_before_the_rules_changed_stays() {
    let fixture = fixture();
    fixture.plant("inbox/d/a.csv", "text");
    let (from, to) = (fixture.number("inbox"), fixture.number("pool"));
    let request = MoveRequest {
        caller: *ROOT,
        groups: Vec::new(),
        source: (from, "d".into()),
        target: (to, "d".into()),
        no_replace: false,
        undoes: None,
    };
    let prepared = fixture.vfs.prepare_move(&request, &|_| ());
    fixture.vfs.policy.store(Arc::new(policy(2)));
    assert_eq!(fixture.rename(("inbox", "d"), ("pool", "d")), Err(Errno::CANCELED));
    drop(prepared);
    fixture.rename(("inbox", "d"), ("pool", "d")).expect("crossed");
    let _undo = fixture.prepare_undo().expect("prepared");
    fixture.vfs.policy.store(Arc::new(policy(3)));
    assert_eq!(fixture.rename(("pool", "d"), ("inbox", "d")), Err(Errno::CANCELED));
}

#[test]
fn a_tree_that_crosses_can_be_read() {
    let fixture = fixture();
    fixture.plant("inbox/d/e/a.csv", "text");
    let number = fixture.number("inbox/d/e/a.csv");
    let tree = vec![Lock::Tree(fixture.number("inbox/d"))];
    let locks = &fixture.vfs.view.locks;
    let crossing = locks.take(Holder::Crossing, &[], tree, vec![]).expect("free");
    assert_eq!(fixture.read(number), Ok(b"text".to_vec()));
    assert_eq!(fixture.vfs.open(*ROOT, number, WRITE).err(), Some(Errno::BUSY));
    drop(crossing);
}

#[test]
fn a_tree_that_has_grown_on_another_member_is_not_undone() {
    let fixture = fixture();
    fixture.plant("inbox/d/a.csv", "text");
    fixture.rename(("inbox", "d"), ("pool", "d")).expect("crossed");
    fixture.plant("two/d/b.csv", "new");
    let refused = fixture.prepare_undo().err().expect("it has changed");
    assert!(refused.why.contains("its target has changed since"), "{refused:?}");
}

#[test]
fn an_empty_directory_that_a_crossing_replaces_is_removed_as_a_directory() {
    for (operation, done) in [(Operation::Unlink, Ok(())), (Operation::Rmdir, Err(Errno::ACCESS))] {
        let fixture = Fixture::new(vec![rule("kept", &[operation], "/archive/t")]);
        fixture.plant("inbox/t/g.csv", "a,b\n");
        fixture.folder("archive/t");
        assert_eq!(fixture.rename(("inbox", "t"), ("archive", "t")), done, "{operation}");
        assert_eq!(fixture.has("archive/t/g.csv"), done.is_ok(), "{operation}");
    }
}

#[test]
fn a_refused_crossing_leaves_no_folder_where_it_would_have_gone() {
    let fixture = fixture();
    fixture.plant("two/d/e/a.csv", "a\n");
    fixture.plant("inbox/b.csv", "\x01\x02\x03 no text");
    let known = fixture.number("pool/d/e");
    assert_eq!(fixture.rename(("inbox", "b.csv"), ("pool/d/e", "b.csv")), Err(Errno::ACCESS));
    assert!(!fixture.has("one/d") && fixture.has("two/d/e/a.csv"));
    fixture.folder("one/d");
    fixture.rename(("inbox", "b.csv"), ("pool/d/e", "b.csv")).expect_err("as before");
    assert!(fixture.has("one/d") && !fixture.has("one/d/e"), "what was there stays");
    std::fs::write(fixture.backing("inbox/b.csv"), "a text\n").expect("written");
    fixture.rename(("inbox", "b.csv"), ("pool/d/e", "b.csv")).expect("crossed");
    assert!(fixture.has("one/d/e/b.csv"));
    assert_eq!(fixture.names("pool/d/e"), ["a.csv", "b.csv"]);
    assert_eq!(fixture.number("pool/d/e"), known);
}

#[test]
fn a_crossing_that_was_prepared_and_does_not_come_leaves_no_folder() {
    let fixture = fixture();
    fixture.plant("two/d/e/a.csv", "a\n");
    fixture.plant("inbox/b.csv", "b\n");
    let prepare = || {
        let request = MoveRequest {
            caller: *ROOT,
            groups: Vec::new(),
            source: (fixture.number("inbox"), "b.csv".into()),
            target: (fixture.number("pool/d/e"), "b.csv".into()),
            no_replace: false,
            undoes: None,
        };
        let Ok(Readied::Crossing(ready)) = fixture.vfs.prepare_move(&request, &|_| ()) else {
            panic!("it was not prepared");
        };
        assert!(fixture.has("one/d/e"), "for the copy");
        ready
    };
    let finish = || fixture.rename(("inbox", "b.csv"), ("pool/d/e", "b.csv"));
    drop(prepare());
    assert!(!fixture.has("one/d"), "its client went");
    let expiring = prepare();
    fixture.expire(Duration::ZERO);
    assert!(!fixture.has("one/d"), "nobody came");
    drop(expiring);
    let failing = prepare();
    fixture.plant("inbox/b.csv", "changed\n");
    finish().expect_err("the source has changed");
    assert!(!fixture.has("one/d"), "the decision was not made");
    drop(failing);
    let done = prepare();
    finish().expect("crossed");
    drop(done);
    assert!(fixture.has("one/d/e/b.csv"));
}

#[test]
fn a_folder_that_is_taken_away_again_is_in_nobodys_way() {
    let fixture = fixture_of(BranchMode::Rw);
    fixture.plant("one/d/a.csv", "a\n");
    let (vfs, folder) = (&fixture.vfs, fixture.number("pool/d"));
    let inode = vfs.inode(folder).expect("known");
    let make = || {
        let mut made = Vec::new();
        vfs.make_part(&inode, BranchIndex(1), &mut made).expect("made");
        made
    };
    let made = make();
    let site = vfs.site(folder, OsStr::new("x"), site::Purpose::Add).expect("a name");
    vfs.unmake_parts(made);
    assert!(!fixture.has("two/d"));
    let late = vfs.lock_new(&site).err();
    assert_eq!(late, Some(Errno::STALE), "what was opened with it is looked up again");

    let made = make();
    std::fs::remove_dir(fixture.backing("two/d")).expect("removed");
    fixture.folder("two/d");
    vfs.unmake_parts(made);
    assert!(fixture.has("two/d"), "another folder of its name");
    std::fs::remove_dir(fixture.backing("two/d")).expect("removed");
    vfs.renew_parts(&inode).expect("renewed");

    let made = make();
    let crossing =
        vfs.view.locks.take(Holder::Crossing, &[], Vec::new(), vec![Lock::Folder(folder)]);
    vfs.unmake_parts(made);
    assert!(fixture.has("two/d"), "a crossing goes there");
    drop(crossing);
}

/// Else it would be hidden by what crosses, and nobody had it any more.
#[test]
fn nothing_is_put_on_another_member_into_a_folder_that_is_to_be_replaced() {
    let fixture = fixture_of(BranchMode::Rw);
    fixture.plant("inbox/d/x.csv", "theirs");
    fixture.folder("two/t");
    let folder = fixture.number("pool/t");
    let request = MoveRequest {
        caller: *ROOT,
        groups: Vec::new(),
        source: (fixture.number("inbox"), "d".into()),
        target: (fixture.number("pool"), "t".into()),
        no_replace: false,
        undoes: None,
    };
    let Ok(Readied::Crossing(prepared)) = fixture.vfs.prepare_move(&request, &|_| ()) else {
        panic!("it is a crossing");
    };
    let made = fixture.vfs.create(*ROOT, folder, OsStr::new("x.csv"), 0o644, 0, WRITE);
    assert_eq!(made.err(), Some(Errno::BUSY));
    fixture.rename(("inbox", "d"), ("pool", "t")).expect("crossed");
    assert_eq!(fixture.text("pool/t/x.csv"), "theirs");
    drop(prepared);
}

/// A part of the target's folder that somebody had made after it was looked at may have the name.
#[test]
fn a_folder_that_has_got_another_part_is_looked_at_again() {
    let fixture = fixture_of(BranchMode::Rw);
    fixture.plant("inbox/a.csv", "new");
    fixture.folder("two/t");
    let vfs = &fixture.vfs;
    let (inbox, folder) = (fixture.number("inbox"), fixture.number("pool/t"));
    let site = |folder, name| vfs.site(folder, OsStr::new(name), Purpose::Replace).expect("there");
    let (source, target) = (site(inbox, "a.csv"), site(folder, "a.csv"));
    let inode = vfs.inode(fixture.number("inbox/a.csv")).expect("known");
    assert!(vfs.lock_crossing(&inode, &source, &target).is_ok());
    // It goes to the first member.
    vfs.mkdir(*ROOT, folder, OsStr::new("new"), 0o755, 0).expect("made");
    assert!(fixture.has("one/t/new"));
    assert_eq!(vfs.lock_crossing(&inode, &source, &target).err(), Some(Errno::STALE));
    assert!(vfs.lock_crossing(&inode, &source, &site(folder, "a.csv")).is_ok());
}
