//! Where paths of the file really lead, and the state folder.

use std::ffi::OsStr;
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::diagnostic::Report;
use super::io_text;
use super::section::{Section, Word};

/// Where the state is kept for root.
const ROOT_STATE: &str = "/var/lib/octroi";

/// The state folder and where the file speaks of it.
#[derive(Debug, Clone)]
pub(super) struct StatePath {
    /// Absolute, links followed as far as it exists.
    pub path: PathBuf,
    /// `view.state`, else `view.name`, which gave the default.
    pub span: Range<usize>,
}

/// `view.state`, or the default for this user.
pub(super) fn state(
    view: Option<&Section<'_>>,
    name: Option<&str>,
    directory: &Path,
    report: &mut Report,
) -> Option<StatePath> {
    let view = view?;
    if view.has("state") {
        let word = view.text("state", report)?;
        let path = resolve(&view.path_of("state"), &word, directory, report)?;
        return Some(StatePath { path, span: word.span() });
    }
    let span = view.span_of("name");
    let is_root = rustix::process::geteuid().is_root();
    let folder = default_folder(is_root, |name| std::env::var_os(name));
    let Some(folder) = folder else {
        report
            .error(span, "there is no place for the view's state")
            .hint("HOME is not set: give view.state");
        return None;
    };
    let path = folder.join(name?);
    match followed(&path, report) {
        Ok(path) => Some(StatePath { path, span }),
        Err(why) => {
            let message = format!("cannot follow the default state path {}: {why}", path.display());
            report.error(span, message).hint("give view.state");
            None
        }
    }
}

fn default_folder(
    is_root: bool,
    variable: impl Fn(&str) -> Option<std::ffi::OsString>,
) -> Option<PathBuf> {
    if is_root {
        return Some(PathBuf::from(ROOT_STATE));
    }
    // The XDG base directory specification: relative paths are to be ignored.
    let absolute = |name: &str| variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let base = absolute("XDG_STATE_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".local/state")))?;
    Some(base.join("octroi"))
}

/// A path of the file, relative to the file's folder; `None` after a mistake was reported.
pub(super) fn resolve(
    key: &str,
    word: &Word<'_>,
    directory: &Path,
    report: &mut Report,
) -> Option<PathBuf> {
    let text = *word.get_ref();
    if text.is_empty() || text.contains('\0') {
        let why = if text.is_empty() { "it is empty" } else { "it has a NUL character" };
        report.error(word.span(), format!("{key} is not a path")).label(why);
        return None;
    }
    let path = directory.join(text);
    match followed(&path, report) {
        Ok(path) => Some(path),
        Err(why) => {
            report.error(word.span(), format!("cannot follow {}: {why}", path.display()));
            None
        }
    }
}

/// As it is written where the report says so, else where it really leads.
fn followed(path: &Path, report: &Report) -> Result<PathBuf, String> {
    if report.looks() { real(path) } else { Ok(path.to_owned()) }
}

/// An absolute path with links and `..` followed as far as it exists; what does not exist is added
/// as it is written.
fn real(path: &Path) -> Result<PathBuf, String> {
    let mut missing: Vec<&OsStr> = Vec::new();
    let mut here = path;
    loop {
        match here.canonicalize() {
            Ok(found) => return Ok(missing.iter().rev().fold(found, |path, name| path.join(name))),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(io_text(&error)),
        }
        match (here.file_name(), here.parent()) {
            (Some(name), Some(parent)) => {
                missing.push(name);
                here = parent;
            }
            _ => return Err("`..` of a folder that does not exist".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_state_folder_is_root_s_or_by_xdg() {
        let folder = |is_root, state: &'static str, home: &'static str| {
            default_folder(is_root, |name| {
                let value = if name == "HOME" { home } else { state };
                (!value.is_empty()).then(|| value.into())
            })
        };
        assert_eq!(folder(true, "/x", "/h"), Some("/var/lib/octroi".into()));
        assert_eq!(folder(false, "/x", "/h"), Some("/x/octroi".into()));
        assert_eq!(folder(false, "relative", "/h"), Some("/h/.local/state/octroi".into()));
        assert_eq!(folder(false, "", "/h"), Some("/h/.local/state/octroi".into()));
        assert_eq!(folder(false, "", ""), None);
    }

    #[test]
    fn real_paths_follow_what_exists_and_keep_the_rest() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().canonicalize().unwrap();
        std::fs::create_dir(base.join("real")).unwrap();
        std::os::unix::fs::symlink("real", base.join("link")).unwrap();
        std::fs::write(base.join("file"), "").unwrap();
        assert_eq!(real(&base.join("link/a/b")), Ok(base.join("real/a/b")));
        assert_eq!(real(&base.join("real/../link/.")), Ok(base.join("real")));
        assert!(real(&base.join("none/../real")).is_err());
        assert_eq!(real(&base.join("file/x")), Err("not a directory (ENOTDIR)".to_owned()));
    }
}
