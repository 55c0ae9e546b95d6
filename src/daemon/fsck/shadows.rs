//! Names that several members of a pool have: a file and a directory of one name cannot both be seen.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::error::{Errno, errno_name};
use crate::storage::{Kind, Storage};

/// What was found in a pool.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Shadows {
    /// A file and a directory of one name, in words.
    pub conflicts: Vec<String>,
    /// Names of files that are on more than one member.
    pub hidden: u64,
    /// What could not be looked at, in words.
    pub failed: Vec<String>,
}

/// A directory and the members that have it, in their order.
struct Merged<S: Storage> {
    path: PathBuf,
    parts: Vec<(String, S::Dir)>,
}

/// Walks what more than one of `members`, given in order of precedence, has. The rest cannot hide anything.
pub(super) fn find<S: Storage>(storage: &S, members: Vec<(String, S::Dir)>) -> Shadows {
    let mut shadows = Shadows::default();
    let mut open = vec![Merged::<S> { path: PathBuf::new(), parts: members }];
    while let Some(folder) = open.pop() {
        if folder.parts.len() > 1 {
            open.extend(look(storage, &folder, &mut shadows));
        }
    }
    shadows.conflicts.sort();
    shadows
}

fn look<S: Storage>(storage: &S, folder: &Merged<S>, shadows: &mut Shadows) -> Vec<Merged<S>> {
    let mut names: BTreeMap<OsString, Vec<(usize, bool)>> = BTreeMap::new();
    for (at, (member, dir)) in folder.parts.iter().enumerate() {
        let mut failed = |what: &Path, errno: Errno| {
            let what = folder.path.join(what);
            let (what, why) = (what.display(), errno_name(errno));
            shadows.failed.push(format!("cannot look at {what} on {member}: {why}"));
        };
        let listed = match storage.list(dir) {
            Ok(listed) => listed,
            Err(errno) => {
                failed(Path::new(""), errno);
                continue;
            }
        };
        let top = folder.path.as_os_str().is_empty();
        for name in listed.into_iter().filter(|name| !(top && name == ".octroi")) {
            match storage.stat(dir, &name) {
                Ok(Some(found)) => {
                    names.entry(name).or_default().push((at, found.kind == Kind::Directory));
                }
                Ok(None) => {}
                Err(errno) => failed(Path::new(&name), errno),
            }
        }
    }
    let mut below = Vec::new();
    for (name, owners) in names.into_iter().filter(|(_, owners)| owners.len() > 1) {
        let path = folder.path.join(&name);
        let member = |at: usize| folder.parts.get(at).map_or("", |(member, _)| member.as_str());
        let Some((first, first_is_directory)) = owners.first().copied() else { continue };
        for (other, is_directory) in owners.iter().skip(1) {
            let word = |is_directory| if is_directory { "directory" } else { "file" };
            if *is_directory != first_is_directory {
                shadows.conflicts.push(format!(
                    "{} is a {} on {} and hides a {} on {}",
                    path.display(),
                    word(first_is_directory),
                    member(first),
                    word(*is_directory),
                    member(*other)
                ));
            } else if !is_directory {
                shadows.hidden = shadows.hidden.saturating_add(1);
            }
        }
        // What a file hides, hides nothing itself.
        if !first_is_directory {
            continue;
        }
        let mut parts = Vec::new();
        for (at, _) in owners.iter().filter(|(_, is_directory)| *is_directory) {
            let Some((member, dir)) = folder.parts.get(*at) else { continue };
            match storage.open_dir(dir, Path::new(&name)) {
                Ok(dir) => parts.push((member.clone(), dir)),
                Err(errno) => {
                    let (path, why) = (path.display(), errno_name(errno));
                    shadows.failed.push(format!("cannot look into {path} on {member}: {why}"));
                }
            }
        }
        below.push(Merged { path, parts });
    }
    below
}
