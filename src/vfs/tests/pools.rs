//! Pools through the in-process transport. What is planted in a member is put there from outside, as
//! disks that were filled before they were pooled are.

use super::*;
use crate::types::BranchMode;
use crate::types::Placement;
use crate::vfs::site::Purpose;
use std::ops::ControlFlow;
use std::os::unix::fs::PermissionsExt;

const POOL: &str = "pool";

/// A view of `/pool` over `one`, `two`, `three`, and of `/inbox`.
fn pool(place: Placement) -> Fixture {
    let members = ["one", "two", "three", "inbox"].map(|name| (name, BranchMode::Rw));
    let pool = Pool {
        name: POOL.to_owned(),
        at: ViewPath::root().join(OsStr::new(POOL)),
        members: (0..3).map(BranchIndex).collect(),
        place,
    };
    Fixture::build(&members, vec![pool], vec![], vec![])
}

#[test]
fn the_first_member_wins_and_directories_merge() {
    let fixture = pool(Placement::First);
    fixture.plant("one/d/a", "one");
    fixture.plant("two/d/a", "two");
    fixture.plant("two/d/b", "two");
    fixture.plant("three/d/c/deep", "three");
    fixture.plant("two/x", "a file");
    fixture.plant("three/x/hidden", "below a directory of a file's name");
    assert_eq!(fixture.names(POOL), ["d", "x"]);
    assert_eq!(fixture.names("pool/d"), ["a", "b", "c"]);
    assert_eq!(fixture.text("pool/d/a"), "one");
    assert_eq!(fixture.text("pool/d/b"), "two");
    assert_eq!(fixture.text("pool/d/c/deep"), "three");
    assert_eq!(fixture.text("pool/x"), "a file");
}

#[test]
fn an_access_list_that_is_not_there_is_removed_from_a_merged_directory() {
    let fixture = pool(Placement::First);
    for member in ["one/d", "two/d"] {
        fixture.folder(member);
    }
    let number = fixture.number("pool/d");
    for list in ["system.posix_acl_access", "system.posix_acl_default"] {
        assert_eq!(fixture.vfs.removexattr(*ROOT, number, OsStr::new(list)), Ok(()), "{list}");
    }
    let other = fixture.vfs.removexattr(*ROOT, number, OsStr::new("user.a"));
    assert_eq!(other, Err(Errno::NODATA));
}

#[test]
fn numbers_of_a_listing_are_those_of_looking_up() {
    let fixture = pool(Placement::First);
    fixture.folder("two/d");
    let known = fixture.number("pool/d");
    fixture.folder("one/d");
    fixture.plant("three/f", "f");
    assert_eq!(fixture.number("pool/d"), known, "a directory keeps its number while it is known");
    let handle = fixture.vfs.opendir(*ROOT, fixture.number(POOL)).expect("opened");
    let mut seen = 0;
    let listed = fixture.vfs.readdir(handle, 2, &mut |entry| {
        let path = format!("pool/{}", entry.name.display());
        assert_eq!(entry.number, fixture.number(&path), "{path}");
        seen += 1;
        false
    });
    listed.expect("listed");
    assert_eq!(seen, 2);
}

#[test]
fn something_new_goes_where_placement_says() {
    let fixture = pool(Placement::First);
    fixture.put(POOL, "a", "a");
    assert!(fixture.has("one/a"));

    let fixture = pool(Placement::SameDirectory);
    fixture.folder("two/d");
    fixture.put("pool/d", "a", "a");
    assert!(fixture.has("two/d/a") && !fixture.has("one/d"));
    fixture.mkdir("pool/d", "e").expect("made");
    assert!(fixture.has("two/d/e"));
}

#[test]
fn folders_are_made_on_the_member_with_all_attributes() {
    let fixture = pool(Placement::First);
    fixture.folder("three/d/e");
    let set = |path: &str, mode| {
        let mode = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(fixture.backing(path), mode).expect("chmod");
    };
    set("three/d", 0o2750);
    set("three/d/e", 0o1700);
    std::os::unix::fs::chown(fixture.backing("three/d"), Some(77), Some(88)).expect("chown");
    set("three/d", 0o2750);
    let key = OsStr::new("user.note");
    let flags = crate::branch::XattrFlags::empty();
    fixture.vfs.setxattr(*ROOT, fixture.number("pool/d"), key, b"kept", flags).expect("set");
    let before = fixture.vfs.getattr(*ROOT, fixture.number("pool/d"), None).expect("there").stat;
    fixture.put("pool/d/e", "new", "text");
    assert_eq!(std::fs::read(fixture.backing("one/d/e/new")).expect("there"), b"text");
    let made = fixture.number("pool/d");
    let after = fixture.vfs.getattr(*ROOT, made, None).expect("there").stat;
    assert_eq!((before.mode, before.uid, before.gid), (after.mode, after.uid, after.gid));
    assert_eq!(after.mode, 0o2750);
    assert_eq!(fixture.vfs.getxattr(made, key).expect("there"), b"kept");
    let first = fixture.backing("one/d").metadata().expect("there");
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&first), 77);
    assert_eq!(fixture.names("pool/d/e"), ["new"]);
    assert!(!fixture.has("two/d"));
}

#[test]
fn a_name_on_any_member_is_taken() {
    let fixture = pool(Placement::First);
    fixture.plant("three/a", "a");
    let parent = fixture.number(POOL);
    let name = OsStr::new("a");
    let exclusive = WRITE | libc::O_EXCL as u32;
    let vfs = &fixture.vfs;
    let created = vfs.create(*ROOT, parent, name, 0o644, 0, exclusive).map(drop);
    assert_eq!(created.err(), Some(Errno::EXIST));
    assert_eq!(fixture.mkdir(POOL, "a").err(), Some(Errno::EXIST));
    assert_eq!(vfs.symlink(*ROOT, parent, name, name).map(drop).err(), Some(Errno::EXIST));
    let other = fixture.put(POOL, "b", "b");
    assert_eq!(vfs.link(*ROOT, other, parent, name).map(drop).err(), Some(Errno::EXIST));
    let taken = vfs.create(*ROOT, parent, name, 0o644, 0, WRITE).map(drop);
    assert_eq!(taken.err(), Some(Errno::STALE), "what is there is not opened as if it were new");
    assert!(!fixture.has("one/a"));
}

#[test]
fn removing_leaves_nothing_to_appear() {
    let fixture = pool(Placement::First);
    for member in ["one", "two", "three"] {
        fixture.plant(&format!("{member}/a"), member);
        fixture.folder(&format!("{member}/d"));
    }
    fixture.unlink(POOL, "a").expect("removed");
    fixture.rmdir(POOL, "d").expect("removed");
    assert!(fixture.names(POOL).is_empty());
    for member in ["one", "two", "three"] {
        assert!(!fixture.has(&format!("{member}/a")) && !fixture.has(&format!("{member}/d")));
    }
}

#[test]
fn a_directory_goes_only_if_it_is_empty_on_every_member() {
    let fixture = pool(Placement::First);
    fixture.folder("one/d");
    fixture.plant("three/d/a", "a");
    assert_eq!(fixture.rmdir(POOL, "d"), Err(Errno::NOTEMPTY));
    assert!(fixture.has("one/d"), "no part was removed");
    assert_eq!(fixture.rmdir("pool/d", "a"), Err(Errno::NOTDIR));
    fixture.plant("one/d/a", "stands before the other");
    assert_eq!(fixture.rmdir("pool/d", "a"), Err(Errno::NOTDIR));
    fixture.unlink("pool/d", "a").expect("removed");
    fixture.rmdir(POOL, "d").expect("removed");

    fixture.folder("one/e");
    fixture.plant("two/e", "hidden by the directory");
    assert_eq!(fixture.rmdir(POOL, "e"), Err(Errno::NOTEMPTY), "nobody has seen it");
    assert!(fixture.has("one/e") && fixture.has("two/e"));
}

#[test]
fn a_file_that_hides_a_full_directory_stays() {
    let fixture = pool(Placement::First);
    fixture.plant("one/a", "seen");
    fixture.plant("two/a/b", "hidden");
    assert_eq!(fixture.unlink(POOL, "a"), Err(Errno::NOTEMPTY));
    assert_eq!(fixture.text("pool/a"), "seen");
    std::fs::remove_file(fixture.backing("two/a/b")).expect("removed");
    fixture.unlink(POOL, "a").expect("removed");
    assert!(fixture.names(POOL).is_empty() && !fixture.has("two/a"));
}

#[test]
fn renames_stay_on_the_member() {
    let fixture = pool(Placement::First);
    fixture.plant("three/d/a", "a");
    fixture.folder("one/e/f");
    fixture.rename(("pool/d", "a"), ("pool/e/f", "b")).expect("renamed");
    assert!(fixture.has("three/e/f/b") && !fixture.has("one/e/f/b"));
    assert_eq!(fixture.text("pool/e/f/b"), "a");
    assert_eq!(fixture.names("pool/d"), [""; 0]);
    // A directory of one member only.
    fixture.rename((POOL, "d"), ("pool/e", "d")).expect("renamed");
    assert!(fixture.has("three/e/d") && !fixture.has("three/d"));
}

#[test]
fn links_stay_on_the_member_of_their_file() {
    let fixture = pool(Placement::First);
    fixture.plant("two/a", "a");
    fixture.folder("one/d");
    let (number, folder) = (fixture.number("pool/a"), fixture.number("pool/d"));
    let made = fixture.vfs.link(*ROOT, number, folder, OsStr::new("b")).expect("linked");
    assert_eq!((made.number, made.stat.nlink), (number, 2));
    assert!(fixture.has("two/d/b") && !fixture.has("one/d/b"));
    let inbox = fixture.number("inbox");
    let across = fixture.vfs.link(*ROOT, number, inbox, OsStr::new("b")).map(drop);
    assert_eq!(across.err(), Some(Errno::XDEV));
}

#[test]
fn attributes_of_a_merged_directory_are_the_first_parts_and_change_on_all() {
    let fixture = pool(Placement::First);
    fixture.folder("one/d");
    fixture.folder("two/d");
    let number = fixture.number("pool/d");
    let change = crate::branch::AttributeChange {
        mode: Some(0o711),
        uid: Some(12),
        ..crate::branch::AttributeChange::default()
    };
    let request = AttributeRequest { change, size: None, handle: None };
    let now = fixture.vfs.setattr(*ROOT, number, &request).expect("changed").stat;
    assert_eq!((now.mode, now.uid, now.nlink), (0o711, 12, 2));
    for part in ["one/d", "two/d"] {
        let found = fixture.backing(part).metadata().expect("there");
        assert_eq!(found.permissions().mode() & 0o7777, 0o711, "{part}");
    }
    // A change in a later part is a change of the directory.
    let before = fixture.vfs.getattr(*ROOT, number, None).expect("there").stat;
    let first = fixture.backing("one/d").metadata().expect("there").modified().expect("a time");
    while std::time::SystemTime::now() <= first {}
    fixture.plant("two/d/new", "");
    let after = fixture.vfs.getattr(*ROOT, number, None).expect("there").stat;
    assert!(after.mtime > before.mtime);
}

#[test]
fn whether_a_merged_directory_has_an_extended_attribute_is_for_its_first_part_to_say() {
    use crate::branch::XattrFlags;
    let fixture = pool(Placement::First);
    fixture.folder("two/d");
    let (number, key) = (fixture.number("pool/d"), OsStr::new("user.note"));
    let set = |value: &[u8], flags| {
        fixture.vfs.setxattr(*ROOT, fixture.number("pool/d"), key, value, flags)
    };
    set(b"old", XattrFlags::CREATE).expect("made");
    fixture.folder("three/d");
    set(b"new", XattrFlags::REPLACE).expect("replaced, and made on the third");
    assert_eq!(set(b"newer", XattrFlags::CREATE), Err(Errno::EXIST));
    fixture.folder("one/d");
    assert_eq!(fixture.number("pool/d"), number);
    assert_eq!(fixture.vfs.getxattr(number, key), Err(Errno::NODATA));
    assert_eq!(set(b"newest", XattrFlags::REPLACE), Err(Errno::NODATA));
    assert_eq!(fixture.vfs.removexattr(*ROOT, number, key), Err(Errno::NODATA));
    set(b"newest", XattrFlags::CREATE).expect("made on the first");
    let kept = |path: &str| {
        let file = std::fs::File::open(fixture.backing(path)).expect("there");
        let mut value = [0; 16];
        rustix::fs::fgetxattr(file, "user.note", &mut value).map(|length| value[..length].to_vec())
    };
    for part in ["one/d", "two/d", "three/d"] {
        assert_eq!(kept(part).expect("kept"), b"newest", "{part}");
    }
    fixture.vfs.removexattr(*ROOT, number, key).expect("removed");
    assert_eq!(fixture.vfs.getxattr(number, key), Err(Errno::NODATA));
    assert!(kept("three/d").is_err());
}

#[test]
fn a_merged_directory_counts_its_subdirectories_while_one_member_has_them() {
    let fixture = pool(Placement::First);
    let links = |path: &str| {
        let number = fixture.number(path);
        let stat = fixture.vfs.getattr(*ROOT, number, None).expect("there").stat;
        let parent =
            path.rsplit_once('/').map_or(ROOT_NUMBER, |(parent, _)| fixture.number(parent));
        let name = path.rsplit('/').next().map(OsStr::new).expect("a name");
        let found = fixture.vfs.lookup(*ROOT, parent, name).expect("there").stat;
        assert_eq!(stat.nlink, found.nlink, "{path}: getattr and lookup");
        stat.nlink
    };
    assert_eq!(links(POOL), 2, "the members' private folders do not count");
    fixture.folder("one/d");
    fixture.folder("three/d/a/b");
    fixture.folder("three/d/c");
    fixture.plant("two/d/file", "no directory");
    assert_eq!([links("pool/d"), links("pool/d/a"), links("pool/d/c")], [4, 3, 2]);
    fixture.rename(("pool/d/a", "b"), ("pool/d/c", "b")).expect("renamed");
    assert_eq!([links("pool/d"), links("pool/d/a"), links("pool/d/c")], [4, 2, 3]);
    fixture.folder("two/d/a");
    assert_eq!(
        links("pool/d"),
        1,
        "whether those of two members are the same ones takes a listing"
    );
    let root = fixture.vfs.getattr(*ROOT, ROOT_NUMBER, None).expect("there").stat;
    assert_eq!(root.nlink, 4, "pool and inbox");
}

#[test]
fn space_counts_each_file_system_once() {
    let fixture = pool(Placement::First);
    let (pool, inbox) = (fixture.number(POOL), fixture.number("inbox"));
    let (pool, inbox) = (fixture.vfs.statfs(pool), fixture.vfs.statfs(inbox));
    assert_eq!(pool.expect("space").blocks, inbox.expect("space").blocks);
}

#[test]
fn what_is_removed_from_outside_is_noticed() {
    let fixture = pool(Placement::First);
    fixture.plant("one/d/a", "a");
    fixture.plant("two/d/b", "b");
    let number = fixture.number("pool/d");
    std::fs::remove_dir_all(fixture.backing("one/d")).expect("removed");
    let found = fixture.vfs.lookup(*ROOT, number, OsStr::new("b")).expect("there");
    assert_eq!(fixture.read(found.number).expect("read"), b"b");
    assert_eq!(fixture.number("pool/d"), number);
    assert_eq!(fixture.names("pool/d"), ["b"]);
}

#[test]
fn a_merged_directory_is_renamed_on_every_member() {
    let fixture = pool(Placement::First);
    fixture.plant("one/d/a", "one");
    fixture.plant("two/d/b", "two");
    fixture.folder("three/e");
    let number = fixture.number("pool/d");
    fixture.rename((POOL, "d"), ("pool/e", "d")).expect("renamed");
    assert_eq!(fixture.number("pool/e/d"), number);
    assert_eq!(fixture.names("pool/e/d"), ["a", "b"]);
    assert!(fixture.has("one/e/d/a") && fixture.has("two/e/d/b") && !fixture.has("two/d"));
    assert_eq!(fixture.text("pool/e/d/b"), "two");
}

#[test]
fn a_rename_onto_another_member_replaces_there_too() {
    let fixture = pool(Placement::First);
    fixture.plant("one/a", "new");
    fixture.plant("two/b", "old");
    fixture.plant("three/b", "older");
    let no_replace = {
        let from = (fixture.number(POOL), OsStr::new("a"));
        let to = (fixture.number(POOL), OsStr::new("b"));
        fixture.vfs.rename(*ROOT, from, to, RenameFlags::NOREPLACE)
    };
    assert_eq!(no_replace, Err(Errno::EXIST));
    fixture.rename((POOL, "a"), (POOL, "b")).expect("renamed");
    assert_eq!(fixture.names(POOL), ["b"]);
    assert_eq!(fixture.text("pool/b"), "new");
    assert!(!fixture.has("two/b") && !fixture.has("three/b"));
    for member in ["one", "two", "three"] {
        assert_eq!(
            std::fs::read_dir(fixture.backing(member).join(".octroi/hold")).expect("there").count(),
            0
        );
    }
}

#[test]
fn a_shadow_follows_its_file_unseen() {
    let fixture = pool(Placement::First);
    fixture.plant("one/a", "seen");
    fixture.plant("two/a", "hidden");
    fixture.rename((POOL, "a"), (POOL, "b")).expect("renamed");
    assert_eq!(fixture.names(POOL), ["b"]);
    assert_eq!(fixture.text("pool/b"), "seen");
    assert_eq!(std::fs::read(fixture.backing("two/b")).expect("kept"), b"hidden");
}

#[test]
fn renames_over_members_keep_to_posix() {
    let fixture = pool(Placement::First);
    fixture.folder("one/d");
    fixture.folder("two/d");
    fixture.plant("three/full/a", "a");
    fixture.plant("three/file", "f");
    fixture.folder("three/empty");
    let rename = |from: &str, to: &str| fixture.rename((POOL, from), (POOL, to));
    assert_eq!(rename("d", "full"), Err(Errno::NOTEMPTY));
    assert_eq!(rename("d", "file"), Err(Errno::NOTDIR));
    assert_eq!(rename("file", "d"), Err(Errno::ISDIR));
    assert_eq!(fixture.rename((POOL, "d"), ("pool/d", "x")), Err(Errno::INVAL));
    let ends = |name| (fixture.number(POOL), OsStr::new(name));
    let exchanged = fixture.vfs.rename(*ROOT, ends("d"), ends("empty"), RenameFlags::EXCHANGE);
    assert_eq!(exchanged, Err(Errno::INVAL));
    assert_eq!(fixture.names(POOL), ["d", "empty", "file", "full"], "nothing was done");
    rename("d", "empty").expect("renamed");
    assert_eq!(fixture.names(POOL), ["empty", "file", "full"]);
    assert!(!fixture.has("three/empty") && fixture.has("one/empty") && fixture.has("two/empty"));
}

#[test]
fn a_part_that_is_made_meanwhile_is_not_left_behind() {
    let fixture = pool(Placement::First);
    fixture.folder("two/d/e");
    let (root, deep) = (fixture.number("pool"), fixture.number("pool/d/e"));
    let target = vec![Lock::Name(root, "to".into())];
    let held = fixture.vfs.view.locks.operation(&[], target, vec![]).expect("free");
    std::thread::scope(|scope| {
        let (from, to) = ((root, OsStr::new("d")), (root, OsStr::new("to")));
        let vfs = &fixture.vfs;
        let renaming = scope.spawn(move || vfs.rename(*ROOT, from, to, RenameFlags::empty()));
        std::thread::sleep(Duration::from_millis(50));
        fixture.vfs.mkdir(*ROOT, deep, OsStr::new("new"), 0o755, 0).expect("made");
        drop(held);
        let _ = renaming.join().expect("no panic");
    });
    assert!(fixture.has("one/d/e/new") || fixture.has("one/to/e/new"));
    assert_eq!(fixture.has("one/d"), fixture.has("two/d"), "all of it moved, or nothing");
}

#[test]
fn what_is_kept_of_what_has_no_name_goes_with_a_member() {
    let fixture = pool(Placement::First);
    fixture.folder("one/d");
    fixture.folder("two/d");
    fixture.folder("one/e");
    let vfs = &fixture.vfs;
    let (both, first) = (fixture.number("pool/d"), fixture.number("pool/e"));
    let folder = fixture.number("pool");
    vfs.set_open_max(64);
    for name in ["d", "e"] {
        vfs.rmdir(*ROOT, folder, OsStr::new(name)).expect("removed");
    }
    let links = |number| vfs.getattr(*ROOT, number, None).map(|found| found.stat.nlink);
    assert_eq!((links(both), links(first)), (Ok(0), Ok(0)));
    assert_eq!(vfs.kept(), 3);
    fixture.go_offline(1);
    // By a thread of its own.
    let late = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while vfs.kept() > 1 && std::time::Instant::now() < late {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    assert_eq!(vfs.kept(), 1, "its disk is to be unmounted");
    assert_eq!((links(both), links(first)), (Err(Errno::STALE), Ok(0)));
    vfs.forget(first, u64::MAX);
    assert_eq!(vfs.kept(), 0);
}

#[test]
fn what_a_member_has_that_leaves_while_it_is_listed_is_not_taken_for_removed() {
    let fixture = pool(Placement::First);
    for (folder, file) in [("one/d", "one/d/a"), ("two/d", "two/d/b")] {
        fixture.folder(folder);
        fixture.plant(file, "");
    }
    let folder = fixture.number("pool/d");
    fixture.number("pool/d/b");
    let listing = fixture.vfs.opendir(*ROOT, folder).expect("opened");
    let mut seen = Vec::new();
    let listed = fixture.vfs.readdirplus(*ROOT, listing, 0, &mut |entry, _| {
        if entry.name == "a" {
            fixture.go_offline(1);
        }
        seen.push(entry.name.display().to_string());
        false
    });
    assert_eq!((listed, seen.join(" ")), (Ok(()), ". .. a b".to_owned()));
}

#[test]
fn nothing_that_can_be_undone_goes_before_all_members_have_waited() {
    let fixture = pool(Placement::First);
    let root = fixture.number(POOL);
    let site = fixture.vfs.site(root, OsStr::new("new"), Purpose::Add).expect("a site");
    let mut asked = Vec::new();
    let refused = fixture.vfs.on_some_member(
        &site.parent,
        ControlFlow::<(), _>::Continue,
        |branch, refused, patience| {
            assert_eq!(refused, Some(&branch));
            asked.push((!patience.purges.is_empty(), branch.0));
            asked.iter().filter(|one| **one == (false, 1)).count() == 1 && branch.0 == 1
        },
    );
    let again = [(false, 0), (false, 1), (false, 2), (false, 1)];
    assert_eq!(asked, [&again[..], &[(true, 0), (true, 2), (true, 1)]].concat());
    let branches = [0, 1, 2, 1].map(BranchIndex);
    assert!(matches!(refused, Ok(ControlFlow::Continue(all)) if all == branches));
}

/// What was looked up at each level is renewed from the top, however deep it goes.
#[test]
fn deep_folders_are_found_again_on_a_short_stack() {
    const DEPTH: usize = 800;
    let fixture = pool(Placement::First);
    fixture.folder(&format!("one/{}", ["d"; DEPTH].join("/")));
    let deepest = fixture.number(&format!("pool/{}", ["d"; DEPTH].join("/")));
    fixture.go_offline(2);
    std::thread::scope(|scope| {
        let short = std::thread::Builder::new().stack_size(128 * 1024);
        let look = || fixture.vfs.getattr(*ROOT, deepest, None).map(|found| found.stat.kind);
        let found = short.spawn_scoped(scope, look).expect("a thread").join().expect("looked");
        assert_eq!(found, Ok(FileKind::Directory));
    });
}
