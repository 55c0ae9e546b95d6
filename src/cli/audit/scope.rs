//! What is known of the view that a ledger belongs to: what its branches are called, where they lie, and
//! where the view is mounted.

use std::path::{Path, PathBuf};

use crate::config::{self, Config};
use crate::control::ViewMount;
use crate::control::protocol::Status;
use crate::types::ViewPath;

use super::super::target;

/// A branch or pool of a view.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    name: String,
    at: Option<ViewPath>,
    /// Names of a pool's members.
    members: Vec<String>,
}

/// What is known of a view; the ledger may know more, of the past.
#[derive(Debug, Default)]
pub(super) struct Scope {
    /// Where it is mounted, where that is known.
    mount: Option<ViewMount>,
    /// Empty where they are not known.
    places: Vec<Place>,
}

impl Scope {
    /// Of a configuration, mounted or not.
    pub(super) fn of_config(path: &Path, config: &Config) -> Self {
        Self { mount: target::mount_of_config(path, &config.view), places: places(config) }
    }

    /// Of a mounted view, for who may ask about it.
    pub(super) fn of_status(status: &Status, mount: &ViewMount) -> Self {
        // It alone names the pools; it may have changed since the mount.
        let config = config::load_unseen(&status.hello.config);
        let mut places = config.map(|loaded| places(&loaded.config)).unwrap_or_default();
        for branch in &status.branches {
            if !places.iter().any(|place| place.name == branch.name) {
                let (name, at) = (branch.name.clone(), Some(branch.at.clone()));
                places.push(Place { name, at, members: Vec::new() });
            }
        }
        Self { mount: Some(mount.clone()), places }
    }

    /// Of a mounted view, for readers of `.audit`.
    pub(super) fn of_mount(mount: &ViewMount) -> Self {
        Self { mount: Some(mount.clone()), places: Vec::new() }
    }

    /// The names of branches that a name means: itself, and a pool's members. With it a warning, where
    /// nothing is called so.
    pub(super) fn branches(&self, name: &str) -> (Vec<String>, Option<String>) {
        let mut names = vec![name.to_owned()];
        match self.places.iter().find(|place| place.name == name) {
            Some(place) => names.extend(place.members.iter().cloned()),
            None if self.places.is_empty() => {}
            None => {
                let known: Vec<&str> = self.places.iter().map(|place| &*place.name).collect();
                let known = known.join(", ");
                return (
                    names,
                    Some(format!(
                        "the view has no branch or pool {name}, though the ledger may know a former \
                         one; there are {known}"
                    )),
                );
            }
        }
        (names, None)
    }

    /// A path as the view has it: one that begins with the mountpoint is one of the file system.
    pub(super) fn inside(&self, path: &Path) -> Option<PathBuf> {
        let mount = self.mount.as_ref()?;
        if !path.is_absolute() || mount.mountpoint == Path::new("/") {
            return None;
        }
        target::inside(mount, path).or_else(|| target::inside(mount, &target::absolute(path).ok()?))
    }

    /// What to say where nothing was found at a path and below it, if nothing of the view lies there.
    pub(super) fn nothing_at(&self, path: &ViewPath) -> Option<String> {
        let at: Vec<&ViewPath> = self.places.iter().filter_map(|place| place.at.as_ref()).collect();
        let own = path.components().next().is_none_or(|first| first == ".audit");
        let related = |at: &&ViewPath| at.below(path).is_some() || path.below(at).is_some();
        if own || at.is_empty() || at.iter().any(related) {
            return None;
        }
        let at: Vec<String> = at.into_iter().map(ToString::to_string).collect();
        Some(format!(
            "nothing was found, and nothing of the view lies at {path}: paths are those of the view, \
             below {}",
            at.join(", ")
        ))
    }
}

#[cfg(test)]
impl Scope {
    /// Of a view with nothing but a pool.
    pub(super) fn with_pool(mountpoint: &str, at: &str, name: &str, members: &[&str]) -> Self {
        let place = Place {
            name: name.to_owned(),
            at: ViewPath::parse(Path::new(at)),
            members: members.iter().map(|member| (*member).to_owned()).collect(),
        };
        Self { mount: Some(mounted_at(mountpoint.into())), places: vec![place] }
    }
}

#[cfg(test)]
fn mounted_at(mountpoint: PathBuf) -> ViewMount {
    ViewMount { name: "lab".into(), mountpoint, root: "/".into(), device: (0, 51), owner: 0 }
}

fn places(config: &Config) -> Vec<Place> {
    let name_of = |index: &crate::types::BranchIndex| {
        config.branches.iter().find(|entry| entry.spec.index == *index)
    };
    let branch = config.branches.iter().map(|entry| Place {
        name: entry.spec.name.to_string(),
        at: entry.at.clone(),
        members: Vec::new(),
    });
    let pool = config.pools.iter().map(|pool| {
        let members = pool.members.iter().filter_map(name_of);
        Place {
            name: pool.name.clone(),
            at: Some(pool.at.clone()),
            members: members.map(|entry| entry.spec.name.to_string()).collect(),
        }
    });
    branch.chain(pool).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> ViewPath {
        ViewPath::parse(Path::new(text)).expect("a path of a view")
    }

    fn scope() -> Scope {
        let place = |name: &str, at: Option<&str>, members: &[&str]| Place {
            name: name.to_owned(),
            at: at.map(path),
            members: members.iter().map(|name| (*name).to_owned()).collect(),
        };
        Scope {
            mount: Some(mounted_at("/mnt/lab".into())),
            places: vec![
                place("inbox", Some("/deep/inbox"), &[]),
                place("disk1", None, &[]),
                place("archive", Some("/archive"), &["disk1"]),
            ],
        }
    }

    #[test]
    fn a_name_that_nothing_has_is_told_with_those_that_there_are() {
        assert_eq!(scope().branches("inbox"), (vec!["inbox".to_owned()], None));
        let pool = (vec!["archive".to_owned(), "disk1".to_owned()], None);
        assert_eq!(scope().branches("archive"), pool);
        let (names, warning) = scope().branches("inbx");
        assert_eq!(names, ["inbx"]);
        let warning = warning.expect("a warning");
        assert!(warning.contains("no branch or pool inbx"), "{warning}");
        assert!(warning.ends_with("there are inbox, disk1, archive"), "{warning}");
        assert_eq!(Scope::of_mount(&mounted_at("/mnt".into())).branches("inbx").1, None);
    }

    #[test]
    fn a_path_below_the_mountpoint_is_one_of_the_view() {
        let inside = |path: &str| scope().inside(Path::new(path));
        assert_eq!(inside("/mnt/lab/inbox/*.csv"), Some("/inbox/*.csv".into()));
        assert_eq!(inside("/mnt/lab"), Some("/".into()));
        assert_eq!(inside("/mnt/laboratory/x"), None);
        assert_eq!(inside("/inbox"), None);
        assert_eq!(inside("inbox"), None);
        assert_eq!(Scope::default().inside(Path::new("/mnt/lab/x")), None);
        let root = Scope { mount: Some(mounted_at("/".into())), ..scope() };
        assert_eq!(root.inside(Path::new("/inbox")), None);
    }

    #[test]
    fn a_link_to_the_mountpoint_is_the_mountpoint() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let real = dir.path().canonicalize().expect("real");
        std::fs::create_dir(real.join("mnt")).expect("mkdir");
        std::os::unix::fs::symlink("mnt", real.join("link")).expect("symlink");
        let scope = Scope { mount: Some(mounted_at(real.join("mnt"))), ..scope() };
        assert_eq!(scope.inside(&real.join("link/inbox/x")), Some("/inbox/x".into()));
    }

    #[test]
    fn a_path_where_nothing_of_the_view_lies_is_told() {
        let told = |text: &str| scope().nothing_at(&path(text));
        let hint = told("/mnt/lab/x").expect("a hint");
        assert!(hint.contains("/mnt/lab/x") && hint.ends_with("/deep/inbox, /archive"), "{hint}");
        for fine in ["/", "/deep", "/deep/inbox", "/archive/2026/x", "/.audit/log.jsonl"] {
            assert_eq!(told(fine), None, "{fine}");
        }
        assert_eq!(Scope::default().nothing_at(&path("/mnt")), None);
    }
}
