//! Names, paths and sizes of inodes.

use super::*;
use crate::types::Caller;
use crate::view::OpenFile;

fn inode(number: u64, kind: FileKind, name: Option<(&Arc<Inode>, &str)>) -> Arc<Inode> {
    let name = name.map(|(parent, name)| Name::new(Arc::clone(parent), OsStr::new(name)));
    Arc::new(Inode::new(number, kind, None, Place::Virtual, name))
}

fn root() -> Arc<Inode> {
    inode(LayoutIndex::ROOT.number(), FileKind::Directory, None)
}

#[track_caller]
fn check(inode: &Inode, paths: &[&str]) {
    let names = inode.names().into_iter();
    let path = |name: Name| Some(name.parent.last_path()?.join(&name.name));
    let mut found: Vec<ViewPath> = names.filter_map(path).collect();
    if found.is_empty() {
        found.extend(inode.last_path());
    }
    let found: Vec<String> = found.iter().map(ToString::to_string).collect();
    assert_eq!(found, paths);
}

#[track_caller]
fn check_small(inode: &Inode) {
    assert!(inode.ties.lock().rare.is_none(), "{:?}", inode.ties);
}

#[test]
fn a_known_inode_is_small() {
    assert!(size_of::<Inode>() <= 160, "{} bytes", size_of::<Inode>());
    let root = root();
    let file = inode(2, FileKind::File, Some((&root, "a")));
    check_small(&file);
    let descriptor = || std::fs::File::open("/dev/null").expect("it is there").into();
    let caller = Caller { uid: 0, gid: 0, pid: 0 };
    let open = |writable| {
        let (file, at) = (Arc::clone(&file), BranchIndex(0));
        let access = (true, writable);
        Arc::new(OpenFile::new(file, at, descriptor(), access, false, caller, 0))
    };
    let (reads, writes) = (open(false), open(true));
    file.opened(&reads);
    file.opened(&writes);
    assert_eq!((file.open_files().len(), file.writers()), (2, 1));
    file.closed(&writes);
    assert_eq!((file.open_files().len(), file.writers()), (1, 0));
    file.closed(&reads);
    check_small(&file);
    file.remove_name(&root, OsStr::new("a"));
    file.add_name(&root, OsStr::new("b"));
    check(&file, &["/b"]);
    check_small(&file);
}

#[test]
fn the_newest_name_is_the_path_and_the_others_stay() {
    let root = root();
    let file = inode(2, FileKind::File, Some((&root, "a")));
    for name in ["b", "c", "a"] {
        file.add_name(&root, OsStr::new(name));
    }
    check(&file, &["/b", "/c", "/a"]);
    assert_eq!(file.path().expect("it has a name").to_string(), "/a");
    file.remove_name(&root, OsStr::new("a"));
    check(&file, &["/b", "/c"]);
    assert_eq!(file.path().expect("it has a name").to_string(), "/c");
    file.remove_name(&root, OsStr::new("b"));
    check(&file, &["/c"]);
    check_small(&file);
}

#[test]
fn a_directory_has_one_name() {
    let root = root();
    let folder = inode(2, FileKind::Directory, Some((&root, "a")));
    folder.add_name(&root, OsStr::new("b"));
    check(&folder, &["/b"]);
    folder.remove_name(&root, OsStr::new("a"));
    check(&folder, &["/b"]);
    folder.remove_name(&root, OsStr::new("b"));
    assert_eq!(folder.path(), None);
    check(&folder, &["/b"]);
}

#[test]
fn a_name_that_is_found_again_leads_through_its_directory_as_it_is_now() {
    let root = root();
    let was = inode(2, FileKind::Directory, Some((&root, "was")));
    let file = inode(3, FileKind::File, Some((&was, "f")));
    let anew = inode(2, FileKind::Directory, Some((&root, "now")));
    file.add_name(&anew, OsStr::new("f"));
    check(&file, &["/now/f"]);
}

#[test]
fn one_path_of_each_class_is_told() {
    let root = root();
    let file = inode(2, FileKind::File, Some((&root, "a0")));
    for number in 0..300 {
        let letter = ["a", "b", "c"][number % 3];
        file.add_name(&root, OsStr::new(&format!("{letter}{number}")));
    }
    let asked = std::cell::Cell::new(0);
    let classify = |path: &ViewPath| {
        asked.set(asked.get() + 1);
        PathClass::of_number(u32::from(path.as_bytes()[1]))
    };
    let told = |file: &Inode| -> Vec<String> {
        let paths = file.paths_by_class(7, &classify);
        let of = |(class, path): (PathClass, ViewPath)| format!("{:?} {path}", class.number());
        paths.into_iter().map(of).collect()
    };
    let all = ["Some(99) /c299", "Some(98) /b298", "Some(97) /a297"];
    assert_eq!(told(&file), all);
    assert_eq!(asked.replace(0), 300);
    assert_eq!(told(&file), all);
    assert_eq!(asked.get(), 0, "it was noted");
    let other = inode(3, FileKind::File, Some((&root, "b")));
    other.remove_name(&root, OsStr::new("b"));
    assert_eq!(told(&other), ["Some(98) /b"]);
}

#[test]
fn what_has_no_name_shares_the_way_to_its_last_one() {
    let mut deepest = root();
    let mut above = Vec::new();
    for number in 2..100_000 {
        let next = inode(number, FileKind::Directory, Some((&deepest, "d")));
        above.push(std::mem::replace(&mut deepest, next));
    }
    let file = inode(1_000_000, FileKind::File, Some((&deepest, "f")));
    file.remove_name(&deepest, OsStr::new("f"));
    assert!(file.is_unlinked());
    assert_eq!(file.last_path().expect("it had one").as_bytes().len(), 99_998 * 2 + 2);
    // As rm -r does.
    while let Some(parent) = above.pop() {
        deepest.remove_name(&parent, OsStr::new("d"));
        deepest = parent;
    }
    let top = Arc::downgrade(&deepest);
    drop(deepest);
    assert_eq!(file.last_path().expect("it had one").as_bytes().len(), 99_998 * 2 + 2);
    drop(file);
    assert_eq!(top.strong_count(), 0);
}

#[test]
fn a_chain_longer_than_the_stack_is_deep_goes() {
    let mut deepest = root();
    for number in 2..200_000 {
        deepest = inode(number, FileKind::Directory, Some((&deepest, "d")));
    }
    let top = Arc::downgrade(deepest.ancestors().last().expect("it has some"));
    drop(deepest);
    assert_eq!(top.strong_count(), 0);
}
