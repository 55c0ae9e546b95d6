//! The ends of gates: a branch, a pool, or, for the source alone, one member of a pool.

use std::ops::Range;
use std::sync::Arc;

use super::branches::{self, Branches, Named};
use super::diagnostic::{Report, nearest};
use super::pools::{self, Pools};
use super::section::{Section, Word};
use crate::types::{BranchIndex, BranchMode};

/// Everything that can be an end.
#[derive(Clone, Copy)]
pub(super) struct Known<'c, 't> {
    pub branches: &'c Branches<'t>,
    pub pools: &'c Pools<'t>,
}

/// The branches that the two ends of a gate stand for.
pub(super) struct Ends {
    pub from: Arc<[BranchIndex]>,
    pub to: Arc<[BranchIndex]>,
}

/// What the name of an end leads to.
#[derive(Clone, Copy)]
enum End<'c> {
    Branch(&'c branches::Found),
    Member(&'c branches::Found, &'c pools::Found),
    Pool(&'c pools::Found),
}

/// Reads `from` and `to`.
pub(super) fn read(
    section: &Section<'_>,
    known: Known<'_, '_>,
    report: &mut Report,
) -> Option<Ends> {
    let from_word = section.required_text("from", report);
    let to_word = section.required_text("to", report);
    let from = from_word.as_ref().and_then(|word| find(word, known, report));
    let to = to_word.as_ref().and_then(|word| find(word, known, report));
    let (from, to, from_word, to_word) = (from?, to?, from_word?, to_word?);
    check(section, (from, &from_word), (to, &to_word), report);
    Some(Ends { from: from.branches(), to: to.branches() })
}

/// A word that names a branch or pool, reported if it does not.
fn find<'c>(word: &Word<'_>, known: Known<'c, '_>, report: &mut Report) -> Option<End<'c>> {
    let name = *word.get_ref();
    let Known { branches, pools } = known;
    if let Some(pool) = pools.get(name) {
        return Some(End::Pool(pool));
    }
    match branches.get(name) {
        Named::Branch(branch) => match &branch.pool {
            None => Some(End::Branch(branch)),
            Some(membership) => pools.get(&membership.pool).map(|pool| End::Member(branch, pool)),
        },
        Named::Broken => None,
        Named::Unknown if pools.names().contains(&name) => None,
        Named::Unknown => {
            let (branches, pools) = (branches.names(), pools.names());
            let what = if pools.is_empty() { "branch" } else { "branch or pool" };
            let error = report.error(word.span(), format!("unknown {what} `{name}`"));
            if let Some(near) = nearest(name, branches.iter().chain(pools).copied()) {
                error.label(format!("did you mean `{near}`?"));
            }
            error.hint(format!("branches: {}", branches.join(", ")));
            if !pools.is_empty() {
                error.hint(format!("pools: {}", pools.join(", ")));
            }
            None
        }
    }
}

/// Reports ends between which no file can or need pass.
fn check(
    section: &Section<'_>,
    (from, from_word): (End<'_>, &Word<'_>),
    (to, to_word): (End<'_>, &Word<'_>),
    report: &mut Report,
) {
    let name = section.name.get_ref();
    let (kind, domain) = to.domain();
    if from.domain() == (kind, domain) {
        let itself = match from_word.get_ref() == to_word.get_ref() {
            true => format!("{} to itself", from_word.get_ref()),
            false => {
                format!("{} to {}, inside pool {domain}", from_word.get_ref(), to_word.get_ref())
            }
        };
        report
            .error(to_word.span(), format!("gate {name} leads from {itself}"))
            .hint(format!("a rename inside a {kind} needs no gate"));
        return;
    }
    if let End::Member(..) = to {
        let message =
            format!("gate {name} leads to {}, a member of pool {domain}", to_word.get_ref());
        report
            .error(to_word.span(), message)
            .label("the pool places what enters it")
            .hint(format!("to = \"{domain}\" leads to all its members"));
    }
    for (end, word, what) in [(from, from_word, "leave"), (to, to_word, "enter")] {
        if end.mode() == BranchMode::Ro {
            let (kind, domain) = end.domain();
            report
                .error(word.span(), format!("nothing can {what} {kind} {domain}: it is read-only"))
                .other(end.name_span(), "mode = \"ro\"");
        }
    }
    if to.mode() == BranchMode::Rw {
        let (section, gates_only) = (to.section(), "mode = \"gates-only\"");
        report
            .warning(to_word.span(), format!("gate {name} leads to a {kind} that is rw"))
            .label("`cp` walks round a gate whose target anyone can write")
            .hint(format!("{section}.{domain}.{gates_only} lets content in by gates alone"));
    }
}

impl<'c> End<'c> {
    /// The branches that it stands for.
    fn branches(self) -> Arc<[BranchIndex]> {
        match self {
            Self::Branch(branch) | Self::Member(branch, _) => Arc::new([branch.spec.index]),
            Self::Pool(pool) => pool.entry.members.as_slice().into(),
        }
    }

    /// Kind and name of what renames stay inside of.
    fn domain(self) -> (&'static str, &'c str) {
        match self {
            Self::Branch(branch) => ("branch", &branch.spec.name),
            Self::Member(_, pool) | Self::Pool(pool) => ("pool", &pool.entry.name),
        }
    }

    /// The section of the file that says what may change in it.
    fn section(self) -> &'static str {
        match self {
            Self::Branch(_) => "branches",
            Self::Member(..) | Self::Pool(_) => "pools",
        }
    }

    fn mode(self) -> BranchMode {
        match self {
            Self::Branch(branch) => branch.spec.mode,
            Self::Member(_, pool) | Self::Pool(pool) => pool.entry.mode,
        }
    }

    /// Where the file names what says the mode.
    fn name_span(self) -> Range<usize> {
        match self {
            Self::Branch(branch) => branch.name.clone(),
            Self::Member(_, pool) | Self::Pool(pool) => pool.name.clone(),
        }
    }
}
