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
    let found: Vec<String> = inode.paths().iter().map(ToString::to_string).collect();
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
fn a_chain_longer_than_the_stack_is_deep_goes() {
    let mut deepest = root();
    for number in 2..200_000 {
        deepest = inode(number, FileKind::Directory, Some((&deepest, "d")));
    }
    let top = Arc::downgrade(deepest.ancestors().last().expect("it has some"));
    drop(deepest);
    assert_eq!(top.strong_count(), 0);
}
