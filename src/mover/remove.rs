//! Removing what stage or hold has no more use for: a file, or a whole tree. It works from what it
//! finds, so a removal that was cut off is finished by doing it again; it follows no link, and only
//! names below the folder it was given are touched.

use std::ffi::OsStr;
use std::path::Path;

use super::error::CrossingError;
use super::tree::{Dirs, Folders};
use crate::error::Errno;
use crate::storage::{Kind, Storage};

/// Removes a name and whatever is below it. That it is gone already is no error.
pub(super) fn remove<S: Storage>(
    storage: &S,
    dir: &S::Dir,
    name: &OsStr,
) -> Result<(), CrossingError> {
    if !is_directory_left(storage, dir, name)? {
        return Ok(());
    }
    make_accessible(storage, dir, name);
    let top = match storage.open_dir(dir, Path::new(name)) {
        Err(Errno::NOENT) => return Ok(()),
        top => top.map_err(CrossingError::io("open", name.display()))?,
    };
    let mut dirs = Dirs::new();
    let mut folders = Folders::<S>::new(top);
    let mut number = 0;
    while number < dirs.len() {
        let here = folders.open(storage, &dirs, number)?;
        let names = storage.list(&here).map_err(CrossingError::io("list", "what is removed"))?;
        for name in names {
            if is_directory_left(storage, &here, &name)? {
                make_accessible(storage, &here, &name);
                dirs.push(number, &name)?;
            }
        }
        number = number.saturating_add(1);
    }
    for number in (1..dirs.len()).rev() {
        let parent = folders.open(storage, &dirs, dirs.parent(number))?;
        remove_dir(storage, &parent, dirs.name(number))?;
    }
    remove_dir(storage, dir, name)
}

/// Removes a name unless it is a directory; whether it is one.
fn is_directory_left<S: Storage>(
    storage: &S,
    dir: &S::Dir,
    name: &OsStr,
) -> Result<bool, CrossingError> {
    let error = CrossingError::io("remove", name.display());
    match storage.unlink(dir, name) {
        Ok(()) | Err(Errno::NOENT) => Ok(false),
        Err(Errno::ISDIR) => Ok(true),
        // What POSIX says of directories.
        Err(Errno::PERM) => match storage.stat(dir, name) {
            Ok(Some(found)) if found.kind == Kind::Directory => Ok(true),
            _ => Err(error(Errno::PERM)),
        },
        Err(errno) => Err(error(errno)),
    }
}

fn remove_dir<S: Storage>(storage: &S, dir: &S::Dir, name: &OsStr) -> Result<(), CrossingError> {
    match storage.remove_dir(dir, name) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(CrossingError::io("remove", name.display())(errno)),
    }
}

/// Whoever is not root may not look into every folder that it owns. Where this fails, the next step
/// does too, and says so.
fn make_accessible<S: Storage>(storage: &S, dir: &S::Dir, name: &OsStr) {
    let _ = storage.set_mode(dir, name, 0o700);
}
