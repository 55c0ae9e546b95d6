//! What is kept of paths when what is above them changes.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::sync::Arc;

use parking_lot::Mutex;

use super::epoch::in_epoch;
use super::inode::*;
use super::layout::LayoutIndex;
use crate::branch::FileKind;
use crate::policy::PathClass;
use crate::types::ViewPath;

fn inode(number: u64, kind: FileKind) -> Arc<Inode> {
    Arc::new(Inode::new(number, kind, None, Place::Virtual, None))
}

#[test]
fn a_folder_that_is_found_again_through_another_takes_its_files_along() {
    let root = inode(LayoutIndex::ROOT.number(), FileKind::Directory);
    let (was, folder) = (inode(2, FileKind::Directory), inode(3, FileKind::Directory));
    let file = inode(4, FileKind::File);
    was.add_name(&root, OsStr::new("was"));
    folder.add_name(&was, OsStr::new("d"));
    file.add_name(&folder, OsStr::new("f"));
    let known = Mutex::new(HashMap::new());
    let classify = |path: &ViewPath| {
        let mut known = known.lock();
        let next = known.len() as u32;
        PathClass::of_number(*known.entry(path.to_string()).or_insert(next))
    };
    // "was" is forgotten (somebody watches "d"), entered anew, and renamed; the file is asked about by
    // another name; then it is found below the new name.
    let anew = inode(2, FileKind::Directory);
    anew.add_name(&root, OsStr::new("was"));
    anew.add_name(&root, OsStr::new("now"));
    let before = file.classes(in_epoch(|| ()).0, &classify);
    folder.add_name(&anew, OsStr::new("d"));
    file.add_name(&folder, OsStr::new("f"));
    let now = file.last_path().expect("it has a name");
    assert_eq!(now.to_string(), "/now/d/f");
    let after = file.classes(in_epoch(|| ()).0, &classify);
    assert_eq!(after, [classify(&now)], "before: {before:?}");
}
