//! Everything that must be so before a view can be mounted somewhere, told one by one: what the kernel
//! would say instead is "invalid argument".

use std::path::{Path, PathBuf};

use super::unmount::unmount;
use super::{DaemonError, Launch};
use crate::config::Config;
use crate::control::mounts;
use crate::error::Errno;

/// Checks the mountpoint and the system; gives the mountpoint's real path. A dead mount of a view is
/// cleared away, and said.
pub(super) fn prepare(
    launch: &Launch,
    config: &Config,
    notices: &mut Vec<String>,
) -> Result<PathBuf, DaemonError> {
    let cannot = |why: String| {
        DaemonError::Failed(format!("cannot mount {}: {why}", launch.mountpoint.display()))
    };
    clear_dead(&launch.mountpoint, notices).map_err(cannot)?;
    let path = find(&launch.mountpoint).map_err(cannot)?;
    let table = |error| cannot(format!("reading the table of mounts failed: {error}"));
    if let Some(mount) = mounts::mount_at(&path).map_err(table)? {
        return Err(cannot(match mount.view {
            Some(view) => format!(
                "view {} is mounted there already\nhint: octroi umount {} first, or choose another folder",
                view.name,
                path.display()
            ),
            None => "something is mounted there already\nhint: choose another folder".to_owned(),
        }));
    }
    if !launch.nonempty {
        check_empty(&path).map_err(cannot)?;
    }
    for entry in &config.branches {
        let branch = entry.spec.path.canonicalize().unwrap_or_else(|_| entry.spec.path.clone());
        let name = &entry.spec.name;
        if path.starts_with(&branch) {
            return Err(cannot(format!("it is inside branch {name} ({})", branch.display())));
        }
        if branch.starts_with(&path) {
            let branch = branch.display();
            return Err(cannot(format!(
                "branch {name} ({branch}) is inside it and would be hidden"
            )));
        }
    }
    check_system(launch).map_err(cannot)?;
    Ok(path)
}

fn clear_dead(path: &Path, notices: &mut Vec<String>) -> Result<(), String> {
    if !mounts::is_dead(path) {
        return Ok(());
    }
    // Its own name cannot be resolved, only the way to it.
    let real = match (path.parent().map(Path::canonicalize), path.file_name()) {
        (Some(Ok(parent)), Some(name)) => parent.join(name),
        _ => std::path::absolute(path).map_err(|error| error.to_string())?,
    };
    let mount = mounts::mount_at(&real).map_err(|error| error.to_string())?;
    let Some(view) = mount.and_then(|mount| mount.view) else {
        return Err("it is a dead mount of another filesystem".to_owned());
    };
    unmount(&real, true).map_err(|error| format!("clearing the dead mount failed: {error}"))?;
    notices.push(format!(
        "{} was a dead mount of view {}, whose daemon had ended; it was cleared",
        real.display(),
        view.name
    ));
    Ok(())
}

fn find(path: &Path) -> Result<PathBuf, String> {
    let stat = rustix::fs::stat(path).map_err(|errno| match errno {
        Errno::NOENT => format!("it does not exist\nhint: mkdir -p {}", path.display()),
        other => other.to_string(),
    })?;
    if rustix::fs::FileType::from_raw_mode(stat.st_mode) != rustix::fs::FileType::Directory {
        return Err("it is not a directory".to_owned());
    }
    path.canonicalize().map_err(|error| error.to_string())
}

fn check_empty(path: &Path) -> Result<(), String> {
    let mut entries = std::fs::read_dir(path).map_err(|error| error.to_string())?;
    match entries.next() {
        None => Ok(()),
        Some(Ok(_)) => Err("it is not empty, and what is in it would be hidden\n\
             hint: --nonempty mounts all the same"
            .to_owned()),
        Some(Err(error)) => Err(error.to_string()),
    }
}

fn check_system(launch: &Launch) -> Result<(), String> {
    if rustix::fs::stat("/dev/fuse").is_err() {
        return Err("there is no /dev/fuse\n\
             hint: modprobe fuse; a container needs --device /dev/fuse --cap-add SYS_ADMIN"
            .to_owned());
    }
    if rustix::process::geteuid().is_root() {
        return Ok(());
    }
    if !in_path("fusermount3") {
        return Err("fusermount3 is not installed, which mounts for users other than root\n\
             hint: apt install fuse3"
            .to_owned());
    }
    let needed = rustix::fs::Access::READ_OK | rustix::fs::Access::WRITE_OK;
    if let Err(errno) = rustix::fs::access("/dev/fuse", needed) {
        return Err(format!(
            "you may not use /dev/fuse: {errno}\nhint: its mode is usually 0666; root may set it"
        ));
    }
    if launch.options.allow_other && !users_may_allow_other(Path::new("/etc/fuse.conf")) {
        return Err("/etc/fuse.conf does not let users other than root use allow_other\n\
             hint: add the line user_allow_other to /etc/fuse.conf"
            .to_owned());
    }
    Ok(())
}

fn in_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/bin", "/bin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(usual).any(|folder| {
        let file = folder.join(program);
        file.is_file() && rustix::fs::access(&file, rustix::fs::Access::EXEC_OK).is_ok()
    })
}

fn users_may_allow_other(fuse_conf: &Path) -> bool {
    let text = std::fs::read_to_string(fuse_conf).unwrap_or_default();
    text.lines().any(|line| line.trim() == "user_allow_other")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(found: Result<PathBuf, String>, why: &str) {
        let error = found.expect_err(why);
        assert!(error.contains(why), "{error}");
    }

    #[test]
    fn what_cannot_be_a_mountpoint_is_named() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        check(find(&dir.path().join("no")), "does not exist");
        std::fs::write(dir.path().join("file"), "").expect("write");
        check(find(&dir.path().join("file")), "not a directory");
        assert!(check_empty(dir.path()).expect_err("a file is there").contains("not empty"));
        assert!(find(dir.path()).is_ok());
    }

    #[test]
    fn a_comment_in_fuse_conf_allows_nothing() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let conf = dir.path().join("fuse.conf");
        assert!(!users_may_allow_other(&conf));
        std::fs::write(&conf, "# user_allow_other\n").expect("write");
        assert!(!users_may_allow_other(&conf));
        std::fs::write(&conf, "mount_max = 10\n user_allow_other \n").expect("write");
        assert!(users_may_allow_other(&conf));
    }
}
