//! Pure decisions: facts in, decision out, no I/O. The policy narrows what UNIX permissions allow;
//! it never widens. Deny wins and order does not matter.
//!
//! The types here are the interface of the engine; [`engine`] decides.

use std::path::Path;
use std::sync::Arc;

use crate::types::{BranchIndex, BranchMode, Check, Operation, ViewPath};

mod below;
mod compiled;
mod conditions;
mod domain;
mod engine;
mod expect;
mod explain;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod gates;
mod hits;
mod lossy;
mod patterns;
#[cfg(test)]
mod tests;
mod wanted;
mod widen;
mod window;

pub use compiled::{PathClass, SubjectClass};
pub use conditions::{Conditions, Facts, Given, Supposed, Supposing, Who};
pub use engine::{Hits, Policy, WriteWatch};
pub use expect::{Expectation, Unmet};
pub use hits::Counted;
pub use lossy::{Lossy, is_acl};
pub use patterns::{PATTERN_MAX, PathPatterns, depth_is_whole, literal_components};
pub use wanted::Wanted;
pub use window::{Window, WindowMistake};

/// The extended attribute that holds an object's labels, separated by commas or blanks.
pub const LABEL: &str = "user.octroi.label";

/// Who asks, with everything a rule can match.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Arc<[u32]>,
}

/// What is asked about.
#[derive(Debug, Clone, Copy)]
pub struct Object<'a> {
    /// The path of the view, as users see it.
    pub path: &'a ViewPath,
    /// The branch that holds it; `None` for a virtual folder. In a pool the member that is asked about:
    /// place and mode are the pool's, gates may lead from some members only.
    pub branch: Option<BranchIndex>,
    /// For operations on a directory's content the mode counts, not for directories themselves:
    /// a gates-only branch lets mkdir through.
    pub is_directory: bool,
}

/// What decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Basis {
    /// A rule by name.
    Rule(Arc<str>),
    /// A gate by name.
    Gate(Arc<str>),
    /// No gate leads from the source's branch to the target's for this caller and these names.
    NoGate,
    /// The branch's mode.
    Mode(BranchMode),
    /// `policy.within`: no rule speaks of it.
    Default,
    /// A folder that no branch provides.
    Virtual,
    /// Labels are changed only by those whom a rule allows it.
    Label,
    /// The view itself, whatever the policy: its own names, and links between branches.
    View,
    /// The facts could not be had (groups unknown): an error denies.
    Error,
}

/// The outcome for one operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// Whether it may go on.
    pub allowed: bool,
    /// What decided.
    pub basis: Basis,
    /// For people, when denied: the rule's `reason`, or what was missing.
    pub reason: Option<Arc<str>>,
    /// Generation of the policy that decided.
    pub generation: u64,
    /// What would have denied it, were it not for `observe`.
    pub observed: Option<Box<Observed>>,
}

/// A denial that is recorded and not enforced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observed {
    /// What would have decided.
    pub basis: Basis,
    /// For people.
    pub reason: Arc<str>,
}

/// A user, a group or everybody; names are resolved when the configuration is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Principal {
    /// `*`.
    Anyone,
    /// `user:NAME`.
    User(u32),
    /// `group:NAME`.
    Group(u32),
}

/// A rule after names, roles and globs were checked.
#[derive(Debug, Clone)]
pub struct Rule {
    /// Its name.
    pub name: Arc<str>,
    /// Deny or allow.
    pub denies: bool,
    /// The operations that it speaks of.
    pub operations: Vec<Operation>,
    /// For whom.
    pub who: Who,
    /// Patterns over view paths; the texts are kept for messages.
    pub paths: PathPatterns,
    /// What else must hold.
    pub conditions: Conditions,
    /// A deny rule that only has it recorded what it would deny.
    pub observe: bool,
    /// Why, for people. Required for deny.
    pub reason: Option<Arc<str>>,
}

/// A gate after names, roles and globs were checked.
#[derive(Debug, Clone)]
pub struct Gate {
    /// Its name.
    pub name: Arc<str>,
    /// Where files come from: a branch, one member of a pool, or all members.
    pub from: Arc<[BranchIndex]>,
    /// Where they go: a branch, or all members of a pool, for placement chooses.
    pub to: Arc<[BranchIndex]>,
    /// For whom.
    pub who: Who,
    /// Patterns over the path below the place of branch or pool in the view, on both sides.
    pub paths: PathPatterns,
    /// What the crossing validates; shared with the mover.
    pub terms: Arc<GateTerms>,
}

impl Gate {
    /// Whether `paths` lets a file pass by its names below the two places: asked for every regular
    /// file of a tree, after [`Policy::decide_crossing`] gave the gate for the tree itself.
    pub fn admits(&self, source_relative: &Path, target_relative: &Path) -> bool {
        self.paths.matches(source_relative.as_os_str())
            && self.paths.matches(target_relative.as_os_str())
    }
}

/// What a crossing through a gate must satisfy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GateTerms {
    /// Content types (`text/plain`, `image/png`); empty: any.
    pub types: Vec<String>,
    /// Bytes; none: any.
    pub max_size: Option<u64>,
    /// Whether the copy is read back from the disk.
    pub verify: Verify,
    /// What may be lost where the target cannot keep it.
    pub lossy: Lossy,
    /// Commands that must accept every file, in the order in which they are asked.
    pub checks: Vec<Check>,
}

/// How a copy is verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verify {
    /// Read again from the disk and compared.
    Readback,
    /// The hash of what was written, and fsync.
    Stream,
}

/// What the engine compiles.
#[derive(Debug, Clone)]
pub struct PolicySource {
    /// What no rule speaks of, inside a branch.
    pub within_allowed: bool,
    /// Nothing is enforced but modes and gates; the rest is recorded.
    pub observe: bool,
    /// In order of declaration.
    pub rules: Vec<Rule>,
    /// In order of declaration.
    pub gates: Vec<Gate>,
    /// By [`BranchIndex`].
    pub branches: Vec<BranchFacts>,
}

/// What the policy must know of a branch.
#[derive(Debug, Clone)]
pub struct BranchFacts {
    /// Its name.
    pub name: Arc<str>,
    /// The pool that it is a member of; no pool has the name of a branch.
    pub pool: Option<Arc<str>>,
    /// Its place in the view, or its pool's.
    pub at: ViewPath,
    /// Its mode, which is its pool's.
    pub mode: BranchMode,
}

/// A rule or gate that was looked at, for `explain`.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Considered {
    /// `rule NAME`, `gate NAME`, `mode`, `label`, `default`, or `view` for what the view itself refuses.
    pub what: String,
    /// Whether it speaks of this request.
    pub applies: bool,
    /// Whether it nearly does: all but a condition, or, of a gate, the caller or the names.
    #[serde(default)]
    pub near: bool,
    /// Why or why not, in words.
    pub why: String,
}
