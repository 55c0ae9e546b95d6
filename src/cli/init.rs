//! `octroi init`

use std::fs::{DirBuilder, OpenOptions, Permissions};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use crate::sys::users;

use super::failure::{Failure, cannot};
use super::output::print;

/// Make a working example: a configuration explained by comments, and closed branches.
///
/// Makes DIR with octroi.toml, the backing directories of three branches below branches/ (which only
/// you can enter: everybody else goes through the mount), and a folder for the ledger.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  octroi init lab && octroi check lab/octroi.toml")]
pub struct Args {
    /// The folder to make, or an empty one
    dir: PathBuf,
}

pub fn run(args: &Args) -> Result<(), Failure> {
    let dir = &args.dir;
    make_empty(dir)?;
    let uid = rustix::process::geteuid().as_raw();
    let root = uid == 0;
    make(&dir.join("state"), 0o700)?;
    make(&dir.join("branches"), 0o700)?;
    // As root the view is shared: everybody may add to the first two, and remove only their own, as
    // in /tmp. Who is not root mounts for themselves.
    let shared = if root { 0o1777 } else { 0o755 };
    make(&dir.join("branches/inbox"), shared)?;
    make(&dir.join("branches/review"), shared)?;
    make(&dir.join("branches/disk1"), 0o755)?;
    make(&dir.join("branches/disk2"), 0o755)?;
    let name = view_name(dir);
    let curator = match users::name_of(uid) {
        Ok(Some(user)) => format!("user:{user}"),
        _ => "*".to_owned(),
    };
    let config = dir.join("octroi.toml");
    write_new(&config, &configuration(&name, &curator))?;
    let mountpoint = if root { format!("/mnt/{name}") } else { format!("~/{name}-view") };
    print(&format!(
        "{} is ready. Next:\n  octroi check {config}\n  mkdir -p {mountpoint} && octroi mount {config} {mountpoint}\n",
        dir.display(),
        config = config.display(),
    ))
}

/// Makes the folder; one that is there must be empty.
fn make_empty(dir: &Path) -> Result<(), Failure> {
    let attempt = format!("make an example in {}", dir.display());
    std::fs::create_dir_all(dir).map_err(cannot(&attempt))?;
    let mut entries = std::fs::read_dir(dir).map_err(cannot(&attempt))?;
    match entries.next() {
        None => Ok(()),
        Some(Err(error)) => Err(cannot(attempt)(error)),
        Some(Ok(entry)) => Err(Failure::new(format!(
            "cannot {attempt}: it is not empty, {} is there",
            entry.file_name().display()
        ))
        .hint("name a new folder")),
    }
}

/// A new directory with just these permissions, whatever the umask.
fn make(path: &Path, mode: u32) -> Result<(), Failure> {
    let attempt = format!("make the folder {}", path.display());
    DirBuilder::new().mode(0o700).create(path).map_err(cannot(&attempt))?;
    std::fs::set_permissions(path, Permissions::from_mode(mode)).map_err(cannot(&attempt))
}

fn write_new(path: &Path, text: &str) -> Result<(), Failure> {
    let attempt = format!("write {}", path.display());
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o644)
        .open(path)
        .map_err(cannot(&attempt))?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(cannot(&attempt))
}

/// The folder's name where it can be a view's, else `lab`.
fn view_name(dir: &Path) -> String {
    let real = dir.canonicalize().ok();
    let name = real.as_deref().unwrap_or(dir).file_name().and_then(|name| name.to_str());
    let fits = |name: &&str| {
        let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        (1..=32).contains(&name.len()) && name.chars().all(allowed)
    };
    name.filter(fits).unwrap_or("lab").to_owned()
}

fn configuration(name: &str, curator: &str) -> String {
    include_str!("example.toml").replace("@NAME@", name).replace("@CURATOR@", curator)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_example_is_made_once() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let args = Args { dir: dir.path().join("my-lab") };
        run(&args).expect("made");
        let text = std::fs::read_to_string(args.dir.join("octroi.toml")).expect("written");
        assert!(text.contains("name = \"my-lab\"") && !text.contains('@'), "{text}");
        let mode = std::fs::metadata(args.dir.join("branches")).expect("there").permissions();
        assert_eq!(mode.mode() & 0o7777, 0o700);
        let again = run(&args).expect_err("it is not empty");
        assert!(again.message.contains("not empty"));
        assert_eq!(std::fs::read_to_string(args.dir.join("octroi.toml")).expect("kept"), text);
    }

    #[test]
    fn a_folder_with_another_name_gives_the_usual_one() {
        assert_eq!(view_name(Path::new("/x/Lab 2")), "lab");
        assert_eq!(view_name(Path::new("/x/lab-2")), "lab-2");
    }
}
