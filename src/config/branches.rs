//! The branches: what each is, where it appears, and that no two get into each other's way.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use toml::Spanned;

use super::BranchEntry;
use super::diagnostic::{Report, nearest};
use super::paths::{self, StatePath};
use super::section::{Section, Word};
use crate::branch::BranchSpec;
use crate::policy::BranchFacts;
use crate::types::{BranchIndex, BranchIo, BranchMode, ViewPath};

const MODES: [(&str, BranchMode); 3] =
    [("rw", BranchMode::Rw), ("ro", BranchMode::Ro), ("gates-only", BranchMode::GatesOnly)];

const IO: [(&str, BranchIo); 2] =
    [("checked", BranchIo::Checked), ("passthrough", BranchIo::Passthrough)];

/// `branches.NAME.min_free` in bytes.
const MIN_FREE_DEFAULT: u64 = 64 << 20;

/// Names that the program itself uses: `.audit` at the view's root, `.octroi` at a branch's.
const AUDIT: &str = ".audit";
const PRIVATE: &str = ".octroi";

/// The branches of the file. One with a mistake is left out of the entries, but its name stays
/// known, so that gates to it are not reported too.
#[derive(Debug)]
pub(super) struct Branches<'t> {
    found: Vec<Found>,
    names: Vec<&'t str>,
}

/// A branch without mistakes, and where the file speaks of it.
#[derive(Debug)]
struct Found {
    entry: BranchEntry,
    name: Range<usize>,
    path: Range<usize>,
    at: Range<usize>,
}

/// What the name of a branch leads to.
pub(super) enum Named<'b> {
    /// The branch.
    Branch(&'b BranchSpec),
    /// A branch with mistakes, which were reported.
    Broken,
    /// There is none; the nearest name.
    Unknown(Option<&'b str>),
}

/// Reads `branches`.
pub(super) fn read<'t>(root: &Section<'t>, directory: &Path, report: &mut Report) -> Branches<'t> {
    let sections = root.named("branches", "a branch", report);
    if !root.has("branches") {
        root.missing("branches.NAME.path", report);
    }
    let names = sections.iter().map(|section| *section.name.get_ref()).collect();
    let mut branches = Branches { found: Vec::new(), names };
    for section in &sections {
        if let Some(found) = read_one(section, branches.found.len(), directory, report) {
            branches.check_clashes(&found, report);
            branches.found.push(found);
        }
    }
    branches
}

fn read_one(
    section: &Section<'_>,
    position: usize,
    directory: &Path,
    report: &mut Report,
) -> Option<Found> {
    let path_word = section.required_text("path", report);
    let at = place(section, report);
    let mode = section.choice("mode", &MODES, report).unwrap_or(BranchMode::Rw);
    let io = section.choice("io", &IO, report).unwrap_or(BranchIo::Checked);
    let min_free = section.size("min_free", report).unwrap_or(MIN_FREE_DEFAULT);
    let exposed = section.flag("exposed", report).unwrap_or(false);
    let Ok(index) = u16::try_from(position) else {
        report.error(section.name.span(), "there are more than 65,536 branches");
        return None;
    };
    let (word, (at, at_span)) = (path_word?, at?);
    let path = paths::resolve(&section.path_of("path"), &word, directory, report)?;
    check_directory(&path, &word, report);
    let name = (*section.name.get_ref()).to_owned();
    let index = BranchIndex(index);
    let spec = BranchSpec { index, name, path, mode, io, min_free, exposed };
    Some(Found {
        entry: BranchEntry { spec, at },
        name: section.name.span(),
        path: word.span(),
        at: at_span,
    })
}

/// What is known at once: a path that is no directory cannot be a branch; one that is missing may
/// be a disk that is not mounted.
fn check_directory(path: &Path, word: &Word<'_>, report: &mut Report) {
    match std::fs::metadata(path) {
        Ok(found) if found.is_dir() => {}
        Ok(_) => {
            report.error(word.span(), format!("{} is not a directory", path.display()));
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            report
                .warning(word.span(), format!("{} does not exist", path.display()))
                .hint(format!("mkdir -p -m 0700 {}", path.display()));
        }
        Err(error) => {
            let why = super::io_text(&error);
            report.error(word.span(), format!("cannot look at {}: {why}", path.display()));
        }
    }
}

/// `at`, or `/NAME`.
fn place(section: &Section<'_>, report: &mut Report) -> Option<(ViewPath, Range<usize>)> {
    if !section.has("at") {
        let name = section.name.get_ref();
        return Some((ViewPath::root().join(name.as_ref()), section.name.span()));
    }
    let word = section.text("at", report)?;
    let text = *word.get_ref();
    let key = section.path_of("at");
    let parsed = ViewPath::parse(Path::new(text)).filter(|_| !text.contains('\0'));
    let Some(at) = parsed else {
        let error = report.error(word.span(), format!("{key} is not a path of the view"));
        error.hint("an absolute path without `..`, such as \"/inbox\"; \"/\" is the view's root");
        return None;
    };
    let first_is_audit = at.components().next().is_some_and(|name| name == AUDIT);
    if first_is_audit || at.components().any(|name| name == PRIVATE) {
        report
            .error(word.span(), format!("{key} cannot be {at}"))
            .label(format!("/{AUDIT} and every {PRIVATE} are the program's own"));
        return None;
    }
    Some((at, word.span()))
}

impl<'t> Branches<'t> {
    /// A branch by name.
    pub(super) fn get(&self, name: &str) -> Named<'_> {
        match self.found.iter().find(|found| found.entry.spec.name == name) {
            Some(found) => Named::Branch(&found.entry.spec),
            None if self.names.contains(&name) => Named::Broken,
            None => Named::Unknown(nearest(name, self.names.iter().copied())),
        }
    }

    /// All names in the order of the file.
    pub(super) fn names(&self) -> &[&'t str] {
        &self.names
    }

    /// What the policy knows of them.
    pub(super) fn facts(&self) -> Vec<BranchFacts> {
        let facts = |found: &Found| BranchFacts {
            name: Arc::from(found.entry.spec.name.as_str()),
            at: found.entry.at.clone(),
            mode: found.entry.spec.mode,
        };
        self.found.iter().map(facts).collect()
    }

    pub(super) fn into_entries(self) -> Vec<BranchEntry> {
        self.found.into_iter().map(|found| found.entry).collect()
    }

    /// Reports a state folder that is inside a branch or holds one.
    pub(super) fn check_state(&self, state: &StatePath, report: &mut Report) {
        for Found { entry, path, .. } in &self.found {
            let spec = &entry.spec;
            let relation =
                match (state.path.starts_with(&spec.path), spec.path.starts_with(&state.path)) {
                    (true, _) => "inside",
                    (_, true) => "around",
                    _ => continue,
                };
            let message = format!(
                "the state folder {} is {relation} branch {}",
                state.path.display(),
                spec.name
            );
            report
                .error(state.span.clone(), message)
                .other(path.clone(), "the branch")
                .hint("give view.state a place of its own, away from every branch");
        }
    }

    /// Reports what a new branch shares with an earlier one.
    fn check_clashes(&self, new: &Found, report: &mut Report) {
        for old in &self.found {
            if old.entry.at == new.entry.at {
                let message = format!("two branches at {}", new.entry.at);
                report
                    .error(new.at.clone(), message)
                    .other(old.at.clone(), "the first")
                    .hint("each branch has its own place: set `at`");
            }
            let (old_path, new_path) = (&old.entry.spec.path, &new.entry.spec.path);
            let (old_name, new_name) = (&old.entry.spec.name, &new.entry.spec.name);
            let message = if old_path == new_path {
                format!("branches {old_name} and {new_name} are one directory")
            } else if new_path.starts_with(old_path) {
                format!("branch {new_name} lies inside branch {old_name}")
            } else if old_path.starts_with(new_path) {
                format!("branch {old_name} lies inside branch {new_name}")
            } else {
                continue;
            };
            report
                .error(new.path.clone(), message)
                .label(new_path.display().to_string())
                .other(old.path.clone(), old_path.display().to_string());
        }
    }

    /// Where the name of a branch stands, for messages.
    pub(super) fn span_of(&self, index: BranchIndex) -> Option<Range<usize>> {
        self.found.get(usize::from(index.0)).map(|found| found.name.clone())
    }
}

/// A word that names a branch, reported if it does not.
pub(super) fn named<'b>(
    branches: &'b Branches<'_>,
    word: &Spanned<&str>,
    report: &mut Report,
) -> Option<&'b BranchSpec> {
    match branches.get(word.get_ref()) {
        Named::Branch(spec) => Some(spec),
        Named::Broken => None,
        Named::Unknown(near) => {
            let error = report.error(word.span(), format!("unknown branch `{}`", word.get_ref()));
            if let Some(near) = near {
                error.label(format!("did you mean `{near}`?"));
            }
            error.hint(format!("branches: {}", branches.names().join(", ")));
            None
        }
    }
}
