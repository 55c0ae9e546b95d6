//! Where the sockets are: `/run/octroi/NAME.sock` for root, else `octroi/NAME.sock` below the user's
//! run-time folder. A second view of the same name (another state folder) is `NAME.2.sock`, and so
//! on: names of views have no dots.

use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, OFlags};

/// Views of one name at a time.
const SAME_NAME_MAX: u32 = 100;

/// The folders where the sockets of a user's daemons may be, the one that is used first.
fn folders(uid: u32) -> Vec<PathBuf> {
    if uid == 0 {
        return vec![PathBuf::from("/run/octroi")];
    }
    let own = rustix::process::geteuid().as_raw() == uid;
    let named = std::env::var_os("XDG_RUNTIME_DIR")
        .map(PathBuf::from)
        .filter(|path| own && path.is_absolute());
    let usual = PathBuf::from(format!("/run/user/{uid}"));
    let mut folders: Vec<_> = named.into_iter().collect();
    if !folders.contains(&usual) && usual.is_dir() {
        folders.push(usual);
    }
    let mut folders: Vec<_> = folders.into_iter().map(|path| path.join("octroi")).collect();
    folders.push(PathBuf::from(format!("/tmp/octroi-{uid}")));
    folders
}

fn numbered(folder: &Path, view: &str, number: u32) -> PathBuf {
    match number {
        1 => folder.join(format!("{view}.sock")),
        _ => folder.join(format!("{view}.{number}.sock")),
    }
}

/// The sockets that a view of this name and owner may listen on.
pub fn candidates(view: &str, uid: u32) -> Vec<PathBuf> {
    let all = folders(uid)
        .into_iter()
        .flat_map(|folder| (1..=SAME_NAME_MAX).map(move |number| numbered(&folder, view, number)));
    all.filter(|path| path.symlink_metadata().is_ok()).collect()
}

/// Listens for a view of the effective user. The socket is open to all; each request is judged by its
/// peer.
pub fn listen(view: &str) -> io::Result<(UnixListener, PathBuf)> {
    let uid = rustix::process::geteuid().as_raw();
    let mut refused = io::Error::from(io::ErrorKind::NotFound);
    for folder in folders(uid) {
        match listen_in(&folder, view, uid) {
            Ok(listening) => return Ok(listening),
            Err(error) => {
                refused = io::Error::new(error.kind(), format!("{}: {error}", folder.display()));
            }
        }
    }
    Err(refused)
}

fn listen_in(folder: &Path, view: &str, uid: u32) -> io::Result<(UnixListener, PathBuf)> {
    match std::fs::DirBuilder::new().mode(0o755).create(folder) {
        Ok(()) => std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755))?,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error),
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = std::fs::File::from(rustix::fs::open(folder, flags, Mode::empty())?);
    let found = opened.metadata()?;
    if found.uid() != uid || found.mode() & 0o022 != 0 {
        let why = "it belongs to another user, or others may write to it";
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
    }
    // Daemons that start at once must not take each other's sockets for stale ones.
    rustix::fs::flock(&opened, FlockOperation::LockExclusive)?;
    for number in 1..=SAME_NAME_MAX {
        let path = numbered(folder, view, number);
        if UnixStream::connect(&path).is_ok() {
            continue;
        }
        match std::fs::remove_file(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let listener = UnixListener::bind(&path)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666))?;
        return Ok((listener, path));
    }
    Err(io::Error::other(format!("{SAME_NAME_MAX} views named {view} are mounted already")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_live_socket_is_left_and_a_stale_one_taken() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let uid = rustix::process::geteuid().as_raw();
        let folder = dir.path().join("octroi");
        let (first, first_path) = listen_in(&folder, "lab", uid).expect("free");
        let (_second, second_path) = listen_in(&folder, "lab", uid).expect("a number more");
        assert_eq!(first_path, folder.join("lab.sock"));
        assert_eq!(second_path, folder.join("lab.2.sock"));
        drop(first);
        let (_third, third_path) = listen_in(&folder, "lab", uid).expect("the stale one");
        assert_eq!(third_path, first_path);
        let mode = std::fs::metadata(&third_path).expect("it is there").mode();
        assert_eq!(mode & 0o777, 0o666);
    }

    #[test]
    fn a_folder_that_others_may_write_to_is_refused() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let folder = dir.path().join("octroi");
        std::fs::create_dir(&folder).expect("mkdir");
        let open = std::fs::Permissions::from_mode(0o777);
        std::fs::set_permissions(&folder, open).expect("chmod");
        let uid = rustix::process::geteuid().as_raw();
        assert!(listen_in(&folder, "lab", uid).is_err());
    }
}
