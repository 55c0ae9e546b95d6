//! The commands of gates, `[[gates.NAME.checks]]`. A program that is not there is a mistake: a gate whose
//! check cannot run lets nothing through.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::branches::Branches;
use super::diagnostic::Report;
use super::io_text;
use super::section::{Section, Word};
use crate::check::sandbox::SYSTEM;
use crate::types::{Check, CheckInput};

const INPUTS: [(&str, CheckInput); 2] = [("stdin", CheckInput::Stdin), ("path", CheckInput::Path)];

const TIMEOUT_DEFAULT: Duration = Duration::from_secs(60);
const TIMEOUT_MAX: Duration = Duration::from_secs(86_400);
/// `memory` in bytes; with less no program starts.
const MEMORY_DEFAULT: u64 = 512 << 20;
const MEMORY_MIN: u64 = 16 << 20;
/// Bytes of a command, and how many things it may read: the ledger has the one in each record.
const RUN_MAX: usize = 4096;
const READ_MAX: usize = 64;

/// Folders of the kernel's, through which a command could reach what is kept from it.
const KERNEL: [&str; 3] = ["/proc", "/sys", "/dev"];

/// What an absolute path leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Where it really is.
    pub real: PathBuf,
    /// A regular file.
    pub is_file: bool,
    /// Executable for somebody.
    pub is_executable: bool,
}

/// What a path leads to on this machine.
pub fn find(path: &Path) -> std::io::Result<Found> {
    let real = path.canonicalize()?;
    let metadata = real.metadata()?;
    let is_executable = metadata.permissions().mode() & 0o111 != 0;
    Ok(Found { real, is_file: metadata.is_file(), is_executable })
}

/// What a command must not get at, and how paths are followed.
pub(super) struct Surroundings<'a, 't> {
    pub find: &'a dyn Fn(&Path) -> std::io::Result<Found>,
    pub branches: &'a Branches<'t>,
    pub state: Option<&'a Path>,
}

/// Reads the checks of a gate. What has a mistake is left out, and reported.
pub(super) fn read(
    gate: &Section<'_>,
    seen: &Surroundings<'_, '_>,
    report: &mut Report,
) -> Vec<Check> {
    let sections = gate.tables("checks", report);
    sections.iter().filter_map(|section| check(section, seen, report)).collect()
}

fn check(section: &Section<'_>, seen: &Surroundings<'_, '_>, report: &mut Report) -> Option<Check> {
    let run = command(section, seen, report);
    let input = section.choice("input", &INPUTS, report).unwrap_or(CheckInput::Stdin);
    let timeout = timeout(section, report);
    let memory = memory(section, report);
    let read = readable(section, seen, report);
    Some(Check { run: run?, input, timeout, memory, read })
}

fn command(
    section: &Section<'_>,
    seen: &Surroundings<'_, '_>,
    report: &mut Report,
) -> Option<Vec<String>> {
    if !section.has("run") {
        section.missing("run", report);
    }
    let words = section.texts("run", Some("this is no command"), report)?;
    let key = section.path_of("run");
    if let Some(word) = words.iter().find(|word| word.get_ref().contains('\0')) {
        report.error(word.span(), format!("{key} has a NUL character"));
        return None;
    }
    let length: usize = words.iter().map(|word| word.get_ref().len()).sum();
    if length > RUN_MAX {
        report
            .error(section.value_span("run"), format!("{key} is a command of {length} bytes"))
            .label(format!("at most {RUN_MAX}"))
            .hint("write a script, and run that");
        return None;
    }
    let program = words.first()?;
    if !seen.keeps_out_of_system(program, report) {
        return None;
    }
    let found = seen.look(&key, program, report)?;
    let why = match &found {
        Found { is_file: false, .. } => "it is not a regular file",
        Found { is_executable: false, .. } => "it is not executable",
        Found { .. } => {
            return Some(words.iter().map(|word| (*word.get_ref()).to_owned()).collect());
        }
    };
    report.error(program.span(), format!("{key}: cannot run {}: {why}", program.get_ref()));
    None
}

impl Surroundings<'_, '_> {
    /// Where a path of the file leads, if a command may get there; `None` after a mistake was reported.
    fn look(&self, key: &str, word: &Word<'_>, report: &mut Report) -> Option<Found> {
        let path = Path::new(*word.get_ref());
        if !path.is_absolute() {
            report
                .error(word.span(), format!("{key}: `{}` is not an absolute path", path.display()))
                .hint("commands run in an empty folder, so that a path begins with `/`");
            return None;
        }
        if word.get_ref().split('/').any(|name| matches!(name, "." | "..")) {
            report
                .error(word.span(), format!("{key}: `{}` goes by `.` or `..`", path.display()))
                .hint("a command finds it by the same path, so it is given as it is");
            return None;
        }
        let found = match (self.find)(path) {
            Ok(found) => found,
            Err(error) => {
                let message = format!("{key}: cannot find {}: {}", path.display(), io_text(&error));
                report
                    .error(word.span(), message)
                    .hint("nothing passes a gate whose check cannot run");
                return None;
            }
        };
        self.keeps_out(&found.real, word, report).then_some(found)
    }

    /// Every command sees the system's folders: no branch may lie there, nor the state.
    fn keeps_out_of_system(&self, word: &Word<'_>, report: &mut Report) -> bool {
        let system =
            SYSTEM.iter().filter_map(|path| Some((*path, (self.find)(Path::new(path)).ok()?)));
        let system: Vec<(&str, Found)> = system.collect();
        let shown_by = |kept: &Path| {
            let shows = |real: &Path| kept.starts_with(real) || real.starts_with(kept);
            system.iter().find(|(_, found)| shows(&found.real)).map(|(path, _)| *path)
        };
        let hint =
            "commands of gates see the system's programs and libraries; it must lie elsewhere";
        for found in self.branches.all() {
            let Some(folder) = shown_by(&found.spec.path) else { continue };
            let message = format!("commands would see branch {} by {folder}", found.spec.name);
            report.error(word.span(), message).other(found.name.clone(), "the branch").hint(hint);
            return false;
        }
        if let Some(folder) = self.state.and_then(shown_by) {
            let message = format!("commands would see the state of the view by {folder}");
            report.error(word.span(), message).hint(hint);
            return false;
        }
        true
    }

    /// A command in a branch could be changed by those whom it checks, and of branches and state it sees
    /// nothing.
    fn keeps_out(&self, path: &Path, word: &Word<'_>, report: &mut Report) -> bool {
        let relation = |kept: &Path| match (path.starts_with(kept), kept.starts_with(path)) {
            (true, _) => Some("is in"),
            (_, true) => Some("holds"),
            _ => None,
        };
        let hint = "a check sees the file that crosses, and of the view nothing else";
        for found in self.branches.all() {
            let Some(relation) = relation(&found.spec.path) else { continue };
            let message = format!("{} {relation} branch {}", path.display(), found.spec.name);
            report.error(word.span(), message).other(found.name.clone(), "the branch").hint(hint);
            return false;
        }
        if let Some(relation) = self.state.and_then(relation) {
            let message = format!("{} {relation} the state of the view", path.display());
            report.error(word.span(), message).hint(hint);
            return false;
        }
        true
    }
}

fn timeout(section: &Section<'_>, report: &mut Report) -> Duration {
    let timeout = section.duration("timeout", report).unwrap_or(TIMEOUT_DEFAULT);
    if timeout.is_zero() || timeout > TIMEOUT_MAX {
        let message = format!("{} must be from 1s to 1d", section.path_of("timeout"));
        report.error(section.value_span("timeout"), message);
    }
    timeout
}

fn memory(section: &Section<'_>, report: &mut Report) -> u64 {
    let memory = section.size("memory", report).unwrap_or(MEMORY_DEFAULT);
    if memory < MEMORY_MIN {
        let message = format!("{} is too small", section.path_of("memory"));
        report
            .error(section.value_span("memory"), message)
            .label("no program starts with less than 16MiB");
    }
    memory
}

fn readable(
    section: &Section<'_>,
    seen: &Surroundings<'_, '_>,
    report: &mut Report,
) -> Vec<PathBuf> {
    let key = section.path_of("read");
    let words = section.texts("read", None, report).unwrap_or_default();
    if words.len() > READ_MAX {
        let message = format!("{key} has {} paths", words.len());
        report.error(section.value_span("read"), message).label(format!("at most {READ_MAX}"));
        return Vec::new();
    }
    let mut paths = Vec::new();
    for word in &words {
        let Some(found) = seen.look(&key, word, report) else { continue };
        match KERNEL.iter().find(|kernel| found.real.starts_with(kernel)) {
            Some(kernel) => {
                report
                    .error(word.span(), format!("{key}: {kernel} is the kernel's"))
                    .label("commands have /dev/null, zero, full, random and urandom");
            }
            None => paths.push(PathBuf::from(*word.get_ref())),
        }
    }
    paths
}
