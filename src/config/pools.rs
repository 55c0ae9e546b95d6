//! The pools: which branches each merges, and what these have of it.

use std::ops::Range;
use std::sync::Arc;

use super::PoolEntry;
use super::branches::{self, Branches, Membership, Named};
use super::diagnostic::{Report, nearest};
use super::places::{self, Place};
use super::section::{Section, Word};
use crate::types::{BranchIndex, BranchMode, Placement, PoolIndex};

const PLACEMENTS: [(&str, Placement); 3] = [
    ("most-free", Placement::MostFree),
    ("first", Placement::First),
    ("same-directory", Placement::SameDirectory),
];

/// The pools of the file. One without a place is left out of the entries, but its name stays known,
/// so that gates to it are not reported too.
#[derive(Debug)]
pub(super) struct Pools<'t> {
    found: Vec<Found>,
    names: Vec<&'t str>,
}

/// A pool, and where the file speaks of it.
#[derive(Debug)]
pub(super) struct Found {
    pub entry: PoolEntry,
    pub place: Place,
    /// Its name.
    pub name: Range<usize>,
}

/// Reads `pools`; members get what they have of their pool.
pub(super) fn read<'t>(
    root: &Section<'t>,
    branches: &mut Branches<'t>,
    report: &mut Report,
) -> Pools<'t> {
    let sections = root.named("pools", "a pool", report);
    let names: Vec<&str> = sections.iter().map(|section| *section.name.get_ref()).collect();
    let mut pools = Pools { found: Vec::new(), names };
    for section in &sections {
        check_own_name(section, branches, report);
        let found = read_one(section, pools.found.len(), &pools.names, branches, report);
        pools.found.extend(found);
    }
    pools
}

fn read_one(
    section: &Section<'_>,
    position: usize,
    pools: &[&str],
    branches: &mut Branches<'_>,
    report: &mut Report,
) -> Option<Found> {
    let name = *section.name.get_ref();
    let place = places::read(section, report);
    let placement = section.choice("place", &PLACEMENTS, report).unwrap_or(Placement::MostFree);
    let mode = section.choice("mode", &branches::MODES, report).unwrap_or(BranchMode::Rw);
    if !section.has("members") {
        section.missing("members", report);
    }
    let words = section.texts("members", Some("a pool merges branches"), report);
    let words = words.unwrap_or_default();
    if let [only] = words.as_slice() {
        report
            .warning(only.span(), format!("pool {name} has one member"))
            .label("a branch alone does the same, at less cost");
    }
    let mut members = Vec::new();
    for word in &words {
        let member = Member { pool: name, place: place.as_ref(), mode, word };
        members.extend(take_member(&member, pools, branches, report));
    }
    let Ok(index) = u16::try_from(position) else {
        report.error(section.name.span(), "there are more than 65,536 pools");
        return None;
    };
    let place = place?;
    Some(Found {
        entry: PoolEntry {
            index: PoolIndex(index),
            name: name.to_owned(),
            at: place.at.clone(),
            members,
            place: placement,
            mode,
        },
        place,
        name: section.name.span(),
    })
}

/// A word of `members`, and what a member has of its pool.
struct Member<'c> {
    pool: &'c str,
    place: Option<&'c Place>,
    mode: BranchMode,
    word: &'c Word<'c>,
}

/// Makes a branch a member; reported if it cannot be one.
fn take_member(
    member: &Member<'_>,
    pools: &[&str],
    branches: &mut Branches<'_>,
    report: &mut Report,
) -> Option<BranchIndex> {
    let (pool, word) = (member.pool, member.word);
    let name = *word.get_ref();
    match branches.get(name) {
        Named::Branch(_) => {}
        Named::Broken => return None,
        Named::Unknown => {
            unknown_member(word, pools, branches, report);
            return None;
        }
    }
    let found = branches.all_mut().iter_mut().find(|found| found.spec.name == name)?;
    if let Some(earlier) = &found.pool {
        let message = match &*earlier.pool == pool {
            true => format!("branch {name} is in pool {pool} twice"),
            false => format!("branch {name} is in two pools, {} and {pool}", earlier.pool),
        };
        report.error(word.span(), message).other(earlier.word.clone(), "the first");
        return None;
    }
    for (key, span) in &found.given {
        report
            .error(span.clone(), format!("branches.{name}.{key} is given, but {name} is in a pool"))
            .other(word.span(), format!("a member of pool {pool}"))
            .hint(format!("pools.{pool}.{key} holds for all its members"));
    }
    found.pool = Some(Membership { pool: Arc::from(pool), word: word.span() });
    found.spec.mode = member.mode;
    if let Some(place) = member.place {
        found.place = place.clone();
    }
    Some(found.spec.index)
}

fn unknown_member(word: &Word<'_>, pools: &[&str], branches: &Branches<'_>, report: &mut Report) {
    let name = *word.get_ref();
    let error = report.error(word.span(), format!("unknown branch `{name}`"));
    if pools.contains(&name) {
        error.label("this is a pool, and pools merge branches");
    } else if let Some(near) = nearest(name, branches.names().iter().copied()) {
        error.label(format!("did you mean `{near}`?"));
    }
    error.hint(format!("branches: {}", branches.names().join(", ")));
}

/// Gates, the ledger and messages name branches and pools alike.
fn check_own_name(section: &Section<'_>, branches: &Branches<'_>, report: &mut Report) {
    let name = *section.name.get_ref();
    if let Named::Branch(branch) = branches.get(name) {
        report
            .error(section.name.span(), format!("a pool and a branch are both called `{name}`"))
            .other(branch.name.clone(), "the branch")
            .hint("gates and records name either: give each a name of its own");
    }
}

impl<'t> Pools<'t> {
    /// All pools that have a place.
    pub(super) fn all(&self) -> &[Found] {
        &self.found
    }

    /// A pool by its name, if it is one without mistakes.
    pub(super) fn get(&self, name: &str) -> Option<&Found> {
        self.found.iter().find(|found| found.entry.name == name)
    }

    /// All names in the order of the file.
    pub(super) fn names(&self) -> &[&'t str] {
        &self.names
    }

    pub(super) fn into_entries(self) -> Vec<PoolEntry> {
        self.found.into_iter().map(|found| found.entry).collect()
    }
}
