//! The branches: what each is, and that no two get into each other's way. Where each appears is settled
//! when the pools are known: a member has its pool's place.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use super::BranchEntry;
use super::diagnostic::Report;
use super::paths::{self, StatePath};
use super::places::{self, Place};
use super::section::{Section, Word};
use crate::branch::BranchSpec;
use crate::policy::BranchFacts;
use crate::types::{BranchIndex, BranchIo, BranchMode};

/// `mode` of branches and pools.
pub(super) const MODES: [(&str, BranchMode); 3] =
    [("rw", BranchMode::Rw), ("ro", BranchMode::Ro), ("gates-only", BranchMode::GatesOnly)];

const IO: [(&str, BranchIo); 2] =
    [("checked", BranchIo::Checked), ("passthrough", BranchIo::Passthrough)];

/// `branches.NAME.min_free` in bytes.
const MIN_FREE_DEFAULT: u64 = 64 << 20;

/// The branches of the file. One with a mistake is left out of the entries, but its name stays
/// known, so that gates to it are not reported too.
#[derive(Debug)]
pub(super) struct Branches<'t> {
    found: Vec<Found>,
    names: Vec<&'t str>,
}

/// A branch without mistakes, and where the file speaks of it.
#[derive(Debug)]
pub(super) struct Found {
    pub spec: BranchSpec,
    /// Its name.
    pub name: Range<usize>,
    /// Its own place, or its pool's.
    pub place: Place,
    /// The keys that a member may not give.
    pub given: Vec<(&'static str, Range<usize>)>,
    /// The pool that it is a member of.
    pub pool: Option<Membership>,
    path: Range<usize>,
}

/// That a branch is a member of a pool.
#[derive(Debug)]
pub(super) struct Membership {
    /// Name of the pool.
    pub pool: Arc<str>,
    /// Where the pool names the branch.
    pub word: Range<usize>,
}

/// What the name of a branch leads to.
pub(super) enum Named<'b> {
    /// The branch.
    Branch(&'b Found),
    /// A branch with mistakes, which were reported.
    Broken,
    /// There is none.
    Unknown,
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
    let place = places::read(section, report);
    let mode = section.choice("mode", &MODES, report).unwrap_or(BranchMode::Rw);
    let io = section.choice("io", &IO, report).unwrap_or(BranchIo::Checked);
    let min_free = section.size("min_free", report).unwrap_or(MIN_FREE_DEFAULT);
    let exposed = section.flag("exposed", report).unwrap_or(false);
    let Ok(index) = u16::try_from(position) else {
        report.error(section.name.span(), "there are more than 65,536 branches");
        return None;
    };
    let (word, place) = (path_word?, place?);
    let path = paths::resolve(&section.path_of("path"), &word, directory, report)?;
    if report.looks() {
        check_directory(&path, &word, report);
    }
    let name = (*section.name.get_ref()).to_owned();
    let index = BranchIndex(index);
    let spec = BranchSpec { index, name, path, mode, io, min_free, exposed };
    let given = ["at", "mode"].into_iter().filter(|key| section.has(key));
    Some(Found {
        spec,
        name: section.name.span(),
        place,
        given: given.map(|key| (key, section.span_of(key))).collect(),
        pool: None,
        path: word.span(),
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

impl<'t> Branches<'t> {
    /// A branch by its name.
    pub(super) fn get(&self, name: &str) -> Named<'_> {
        match self.found.iter().find(|found| found.spec.name == name) {
            Some(found) => Named::Branch(found),
            None if self.names.contains(&name) => Named::Broken,
            None => Named::Unknown,
        }
    }

    /// All names in the order of the file.
    pub(super) fn names(&self) -> &[&'t str] {
        &self.names
    }

    /// What the policy knows of them.
    pub(super) fn facts(&self) -> Vec<BranchFacts> {
        let facts = |found: &Found| BranchFacts {
            name: Arc::from(found.spec.name.as_str()),
            pool: found.pool.as_ref().map(|membership| Arc::clone(&membership.pool)),
            at: found.place.at.clone(),
            mode: found.spec.mode,
        };
        self.found.iter().map(facts).collect()
    }

    pub(super) fn into_entries(self) -> Vec<BranchEntry> {
        let entry = |found: Found| BranchEntry {
            spec: found.spec,
            at: found.pool.is_none().then_some(found.place.at),
        };
        self.found.into_iter().map(entry).collect()
    }

    /// Reports a state folder that is inside a branch or holds one.
    pub(super) fn check_state(&self, state: &StatePath, report: &mut Report) {
        for Found { spec, path, .. } in &self.found {
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
            let (old_path, new_path) = (&old.spec.path, &new.spec.path);
            let (old_name, new_name) = (&old.spec.name, &new.spec.name);
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

    /// All branches without mistakes.
    pub(super) fn all(&self) -> &[Found] {
        &self.found
    }

    /// As [`Branches::all`], for the pools to take their members.
    pub(super) fn all_mut(&mut self) -> &mut [Found] {
        &mut self.found
    }
}
