//! Which view a command speaks of, and paths of the file system as paths of the view.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::control::protocol::{Answer, Request};
use crate::control::{Client, ViewMount, mounts};
use crate::types::{TxId, ViewPath};

use super::failure::{Failure, cannot};

/// The option that all commands have which address a view.
#[derive(Debug, Clone, clap::Args)]
pub struct ViewOption {
    /// The view, by its name, configuration or mountpoint.
    ///
    /// Without it: the view that holds the named path or the current directory, else the only one
    /// mounted.
    #[arg(long, value_name = "NAME|CONFIG|MOUNTPOINT")]
    pub view: Option<PathBuf>,
}

/// A mounted view with a way to its daemon.
#[derive(Debug)]
pub struct View {
    /// The mount.
    pub mount: ViewMount,
    /// The daemon.
    pub client: Client,
}

impl View {
    /// Paths of the view as paths of the file system below one mountpoint, for rename(2) knows no other. None
    /// where no mount shows all of them.
    pub fn outside(&self, paths: &[&ViewPath]) -> Option<Vec<PathBuf>> {
        let others = distinct(&mounts::views().unwrap_or_default()).into_iter();
        let others = others.filter(|mount| mount.device == self.mount.device);
        let mut mounts = std::iter::once(self.mount.clone()).chain(others);
        mounts.find_map(|mount| paths.iter().map(|path| mount.outside(path.as_path())).collect())
    }
}

impl ViewOption {
    /// The view; `path` is one that the command names.
    pub fn find(&self, path: Option<&Path>) -> Result<View, Failure> {
        let views = mounts::views().map_err(cannot("read the table of mounts"))?;
        let mount = match &self.view {
            Some(wanted) => named(&views, wanted)?,
            None => implied(&views, path)?,
        };
        if mount.is_dead() {
            return Err(Failure::new(format!(
                "cannot ask view {}: its daemon is gone, {} is a dead mount",
                mount.name,
                mount.mountpoint.display()
            ))
            .hint("mount it again: octroi mount clears the dead mount and recovers"));
        }
        let client = Client::find(&mount).map_err(cannot(format!(
            "ask view {} at {}",
            mount.name,
            mount.mountpoint.display()
        )))?;
        Ok(View { mount, client })
    }

    /// The view that knows a transaction: without `--view`, and where several are mounted, each of root and of the
    /// caller is asked. What others mounted is not believed without being named.
    pub fn find_for(&self, txid: TxId) -> Result<View, Failure> {
        let failure = match self.find(None) {
            Err(failure) if self.view.is_none() => failure,
            found => return found,
        };
        let mounted = distinct(&mounts::views().unwrap_or_default());
        let knows = |mount: ViewMount| {
            let client = Client::find(&mount).ok()?;
            let answer = client.ask(&Request::Transaction { txid }).ok()?;
            matches!(answer, Answer::Transaction(_)).then_some(View { mount, client })
        };
        let own = rustix::process::geteuid().as_raw();
        let asked = |mount: &ViewMount| [0, own].contains(&mount.owner) && !mount.is_dead();
        mounted.into_iter().filter(asked).find_map(knows).ok_or(failure)
    }

    /// The view and a path in it. A path of the file system must lie in the view; with `--view`, or in a
    /// folder of the view, an absolute path that does not is taken for a path of the view.
    pub fn find_with_path(&self, path: &Path) -> Result<(View, ViewPath), Failure> {
        let view = self.find(Some(path))?;
        let inside = self.inside(&view.mount, path)?;
        Ok((view, inside))
    }

    /// A path as the view has it.
    pub fn inside(&self, mount: &ViewMount, path: &Path) -> Result<ViewPath, Failure> {
        if let Some(inside) = inside(mount, &absolute(path)?) {
            return ViewPath::parse(&inside).ok_or_else(|| not_in(mount, path));
        }
        let is_here = || std::env::current_dir().is_ok_and(|here| inside(mount, &here).is_some());
        match ViewPath::parse(path) {
            Some(inside) if self.view.is_some() || is_here() => Ok(inside),
            _ => Err(not_in(mount, path)),
        }
    }
}

/// An absolute path without links as one from the root of a view, wherever that is mounted too.
pub fn inside(mount: &ViewMount, path: &Path) -> Option<PathBuf> {
    let views = mounts::views().unwrap_or_default();
    let holder = holder(&views, path).filter(|holder| holder.device == mount.device);
    holder.unwrap_or(mount).inside(path)
}

/// The innermost mount of a view that a path lies below.
fn holder<'a>(views: &'a [ViewMount], path: &Path) -> Option<&'a ViewMount> {
    let holding = views.iter().filter(|view| path.starts_with(&view.mountpoint));
    holding.max_by_key(|view| view.mountpoint.as_os_str().len())
}

fn not_in(mount: &ViewMount, path: &Path) -> Failure {
    Failure::usage(format!(
        "cannot find {} in view {}: it is not below {}",
        path.display(),
        mount.name,
        mount.mountpoint.display()
    ))
    .hint(format!("with --view {} an absolute path is one of the view", mount.name))
}

fn named(views: &[ViewMount], wanted: &Path) -> Result<ViewMount, Failure> {
    let mut by_name = distinct(views);
    by_name.retain(|view| OsStr::new(&view.name) == wanted.as_os_str());
    if let Some(one) = only(by_name)? {
        return Ok(one);
    }
    let absolute = absolute(wanted)?;
    if let Some(view) = views.iter().find(|view| view.mountpoint == absolute) {
        return Ok(view.clone());
    }
    let mut distinct = distinct(views);
    sort_by_trust(&mut distinct, &absolute);
    distinct.iter().find(|view| is_of_config(view, &absolute)).cloned().ok_or_else(|| {
        let why = match std::fs::metadata(wanted).map_err(|error| error.kind()) {
            Err(io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                "it is not mounted, and there is no such file"
            }
            _ if distinct.iter().any(|view| Client::find(view).is_err()) => {
                "it is not mounted, or its daemon is gone"
            }
            _ => "it is not mounted",
        };
        Failure::new(format!("cannot find view {}: {why}", wanted.display()))
            .hint(mounted_hint(&distinct))
    })
}

/// Where a configuration is mounted, if it is, by its path and the name of its view.
pub fn mount_of_config(config: &Path, view: &str) -> Option<ViewMount> {
    let absolute = absolute(config).ok()?;
    let mut mounted = distinct(&mounts::views().ok()?);
    sort_by_trust(&mut mounted, &absolute);
    let mut mounted = mounted.into_iter().filter(|mount| mount.name == view);
    mounted.find(|mount| is_of_config(mount, &absolute))
}

/// A daemon may say of itself what it likes: those of root, of the caller and of whose the configuration is are asked
/// before others are.
fn sort_by_trust(views: &mut [ViewMount], config: &Path) {
    let owner = std::fs::metadata(config).ok().map(|found| found.uid());
    let trusted = [Some(0), Some(rustix::process::geteuid().as_raw()), owner];
    views.sort_by_key(|view| !trusted.contains(&Some(view.owner)));
}

fn is_of_config(view: &ViewMount, config: &Path) -> bool {
    Client::find(view).is_ok_and(|client| client.hello.config == config)
}

fn implied(views: &[ViewMount], path: Option<&Path>) -> Result<ViewMount, Failure> {
    let holder = |path: &PathBuf| holder(views, path).cloned();
    let named = path.map(absolute).transpose()?.as_ref().and_then(holder);
    let here = || std::env::current_dir().ok().as_ref().and_then(holder);
    if let Some(view) = named.or_else(here) {
        return Ok(view);
    }
    only(distinct(views))?.ok_or_else(|| {
        Failure::new("cannot find a view: none is mounted")
            .hint("octroi mount CONFIG MOUNTPOINT mounts one")
    })
}

/// The only one of these, or the only one that is alive.
fn only(mut views: Vec<ViewMount>) -> Result<Option<ViewMount>, Failure> {
    if views.len() > 1 && !views.iter().all(ViewMount::is_dead) {
        views.retain(|view| !view.is_dead());
    }
    match views.as_slice() {
        [] => Ok(None),
        [one] => Ok(Some(one.clone())),
        several => Err(ambiguous(several)),
    }
}

/// Each view once: as a whole where it is seen so, the first mount of several.
fn distinct(views: &[ViewMount]) -> Vec<ViewMount> {
    let mut views = views.to_vec();
    views.sort_by_key(|view| view.root != Path::new("/"));
    let mut seen = HashSet::new();
    views.retain(|view| seen.insert(view.device));
    views
}

fn ambiguous(views: &[ViewMount]) -> Failure {
    Failure::usage("cannot tell which view is meant: several are mounted")
        .hint(format!("name it with --view; {}", mounted_hint(views)))
}

fn mounted_hint(views: &[ViewMount]) -> String {
    if views.is_empty() {
        return "no view is mounted".to_owned();
    }
    let each = views.iter().map(|view| format!("{} at {}", view.name, view.mountpoint.display()));
    format!("mounted are {}", each.collect::<Vec<_>>().join(", "))
}

/// An absolute path without links, as far as it exists; its last component is not followed, for it
/// may be what the command is about.
pub fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    let attempt = format!("make {} absolute", path.display());
    let absolute = std::path::absolute(path).map_err(cannot(attempt))?;
    let (Some(parent), Some(name)) = (absolute.parent(), absolute.file_name()) else {
        return Ok(absolute.canonicalize().unwrap_or(absolute));
    };
    Ok(resolved(parent).join(name))
}

/// The real path of the longest part that can be resolved, and the rest as it is.
fn resolved(path: &Path) -> PathBuf {
    match (path.canonicalize(), path.parent(), path.file_name()) {
        (Ok(real), _, _) => real,
        (Err(_), Some(parent), Some(name)) => resolved(parent).join(name),
        (Err(_), _, _) => path.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(name: &str, mountpoint: &str) -> ViewMount {
        // One device for each name.
        let device = (0, name.bytes().map(u32::from).sum());
        let (name, mountpoint) = (name.into(), mountpoint.into());
        ViewMount { name, mountpoint, root: "/".into(), device, owner: 0 }
    }

    #[test]
    fn the_view_is_found_by_name_mountpoint_and_path() {
        let views = [view("lab", "/mnt/lab"), view("sub", "/mnt/lab/sub")];
        assert_eq!(named(&views, Path::new("lab")).expect("by name"), views[0]);
        assert_eq!(named(&views, Path::new("/mnt/lab/sub")).expect("by mountpoint"), views[1]);
        let path = Path::new("/mnt/lab/sub/file");
        assert_eq!(implied(&views, Some(path)).expect("the inner one"), views[1]);
        let path = Path::new("/mnt/lab/x");
        assert_eq!(implied(&views, Some(path)).expect("by path"), views[0]);
        assert_eq!(implied(&views, None).expect_err("two").code, super::super::ExitCode::Usage);
        assert_eq!(implied(&views[..1], None).expect("the only one"), views[0]);
        assert!(implied(&[], None).is_err());
    }

    #[test]
    fn a_view_that_is_bound_to_other_places_is_one() {
        let jail = ViewMount { root: "/inbox".into(), ..view("lab", "/jail") };
        let views = [jail.clone(), view("lab", "/mnt/lab"), view("lab", "/bound")];
        assert_eq!(named(&views, Path::new("lab")).expect("by name"), views[1]);
        assert_eq!(implied(&views, None).expect("the only one"), views[1]);
        assert_eq!(implied(&views, Some(Path::new("/jail/a"))).expect("by path"), jail);
        let option = ViewOption { view: None };
        let inside = |mount| option.inside(mount, Path::new("/jail/a")).expect("in it");
        assert_eq!(inside(&jail).as_path(), Path::new("/inbox/a"));
        assert_eq!(named(&views, Path::new("/jail")).expect("by mountpoint"), jail);
    }

    #[test]
    fn a_view_that_is_nowhere_is_told_from_one_that_is_not_mounted() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let config = dir.path().join("octroi.toml");
        let why = |path: &Path| named(&[], path).expect_err("not mounted").message;
        assert!(why(&config).ends_with("it is not mounted, and there is no such file"));
        assert!(why(&config.join("x")).contains("no such file"));
        std::fs::write(&config, "").expect("write");
        assert!(why(&config).ends_with("it is not mounted"));
    }

    #[test]
    fn links_above_a_path_are_resolved_and_its_own_is_not() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let real = dir.path().canonicalize().expect("real");
        std::fs::create_dir(real.join("a")).expect("mkdir");
        std::os::unix::fs::symlink("a", real.join("link")).expect("symlink");
        assert_eq!(absolute(&real.join("link")).expect("absolute"), real.join("link"));
        assert_eq!(absolute(&real.join("link/no/x")).expect("absolute"), real.join("a/no/x"));
    }
}
