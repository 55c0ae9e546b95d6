//! What a rule speaks of besides operation, caller and path, and what decides it: facts that are not the
//! same at every request.

use std::cell::OnceCell;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Principal, Subject, Window};
use crate::error::Errno;
use crate::types::{BranchIndex, Operation};

/// For whom a rule or gate is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Who {
    /// Any of these; roles are resolved.
    pub included: Vec<Principal>,
    /// But none of these (`!curators`).
    pub excepted: Vec<Principal>,
}

impl Who {
    /// Whether a subject is one of them.
    pub fn is(&self, subject: &Subject) -> bool {
        let any = |list: &[Principal]| list.iter().any(|principal| principal.is(subject));
        any(&self.included) && !any(&self.excepted)
    }
}

impl From<Vec<Principal>> for Who {
    fn from(included: Vec<Principal>) -> Self {
        Self { included, excepted: Vec::new() }
    }
}

impl Principal {
    /// Whether it is, or holds, a subject.
    pub fn is(self, subject: &Subject) -> bool {
        match self {
            Self::Anyone => true,
            Self::User(uid) => subject.uid == uid,
            Self::Group(gid) => subject.gid == gid || subject.groups.contains(&gid),
        }
    }
}

/// All of them must hold for the rule to speak.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Conditions {
    /// Any of these is open; none: always.
    pub when: Vec<Window>,
    /// Bytes. A deny rule speaks only of operations that have a size ([`Operation::has_size`]) and make a
    /// file larger than that, an allow rule of all else.
    pub max_file_size: Option<u64>,
    /// The object has any of these labels; none: whatever it has.
    pub labels: Vec<String>,
    /// The object is the caller's.
    pub owner_is_caller: bool,
}

/// What is only known once it is asked, and asked only where a rule needs it.
pub trait Facts {
    /// Now.
    fn now(&self) -> Timestamp;
    /// Bytes that the file has afterwards, if the operation makes it larger or brings it to a new name.
    fn size_after(&self) -> Option<u64>;
    /// Who owns the object; none if it is yet to be made, by the caller.
    fn owner(&self) -> Result<Option<u32>, Errno>;
    /// Its labels.
    fn labels(&self) -> Result<Vec<String>, Errno>;
    /// Whether the operation changes the labels.
    fn changes_labels(&self) -> bool;
}

/// Facts that are known already.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Given {
    /// See [`Facts::now`].
    pub now: Timestamp,
    /// See [`Facts::size_after`].
    pub size_after: Option<u64>,
    /// See [`Facts::owner`].
    pub owner: Option<u32>,
    /// See [`Facts::labels`].
    pub labels: Vec<String>,
    /// See [`Facts::changes_labels`].
    pub changes_labels: bool,
}

impl Facts for Given {
    fn now(&self) -> Timestamp {
        self.now
    }

    fn size_after(&self) -> Option<u64> {
        self.size_after
    }

    fn owner(&self) -> Result<Option<u32>, Errno> {
        Ok(self.owner)
    }

    fn labels(&self) -> Result<Vec<String>, Errno> {
        Ok(self.labels.clone())
    }

    fn changes_labels(&self) -> bool {
        self.changes_labels
    }
}

/// What is taken for granted instead of asked.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Supposed {
    /// Bytes that the file has afterwards.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// The object's labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<Vec<String>>,
    /// Whether the operation changes them.
    #[serde(default)]
    pub changes_labels: bool,
    /// The time, in seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<i64>,
}

/// Facts of which some are only supposed.
#[derive(Clone, Copy)]
pub struct Supposing<'a> {
    /// Asked for the others.
    pub facts: &'a dyn Facts,
    /// Those that are.
    pub supposed: &'a Supposed,
}

impl Facts for Supposing<'_> {
    fn now(&self) -> Timestamp {
        let supposed = self.supposed.at.and_then(|at| Timestamp::from_second(at).ok());
        supposed.unwrap_or_else(|| self.facts.now())
    }

    fn size_after(&self) -> Option<u64> {
        self.supposed.size.or_else(|| self.facts.size_after())
    }

    fn owner(&self) -> Result<Option<u32>, Errno> {
        self.facts.owner()
    }

    fn labels(&self) -> Result<Vec<String>, Errno> {
        self.supposed.labels.clone().map_or_else(|| self.facts.labels(), Ok)
    }

    fn changes_labels(&self) -> bool {
        self.supposed.changes_labels || self.facts.changes_labels()
    }
}

/// Facts that are asked at most once, so that all rules of a decision see the same.
pub(super) struct Once<'a> {
    asked: &'a dyn Facts,
    now: OnceCell<Timestamp>,
    size_after: OnceCell<Option<u64>>,
    owner: OnceCell<Result<Option<u32>, Errno>>,
    labels: OnceCell<Result<Vec<String>, Errno>>,
}

impl<'a> Once<'a> {
    pub(super) fn of(asked: &'a dyn Facts) -> Self {
        Self {
            asked,
            now: OnceCell::new(),
            size_after: OnceCell::new(),
            owner: OnceCell::new(),
            labels: OnceCell::new(),
        }
    }
}

impl Facts for Once<'_> {
    fn now(&self) -> Timestamp {
        *self.now.get_or_init(|| self.asked.now())
    }

    fn size_after(&self) -> Option<u64> {
        *self.size_after.get_or_init(|| self.asked.size_after())
    }

    fn owner(&self) -> Result<Option<u32>, Errno> {
        *self.owner.get_or_init(|| self.asked.owner())
    }

    fn labels(&self) -> Result<Vec<String>, Errno> {
        self.labels.get_or_init(|| self.asked.labels()).clone()
    }

    fn changes_labels(&self) -> bool {
        self.asked.changes_labels()
    }
}

/// Why a rule does not speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unmet {
    When,
    Size,
    Label,
    Owner,
    Virtual,
}

impl Unmet {
    pub(super) fn text(self, denies: bool) -> &'static str {
        match self {
            Self::When => "does not hold at this time (`when`)",
            Self::Size if denies => "the file does not become larger than `max_file_size`",
            Self::Size => "the file becomes larger than `max_file_size`",
            Self::Label => "the object has none of its `labels`",
            Self::Owner => "the object is not the caller's",
            Self::Virtual => "a folder that no branch provides has no labels and no owner",
        }
    }
}

impl Conditions {
    /// Whether there are any.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// What keeps a rule from speaking; an error if a fact could not be had. A folder that no branch
    /// provides has neither labels nor an owner.
    pub(super) fn unmet(
        &self,
        denies: bool,
        operation: Operation,
        subject: &Subject,
        (branch, facts): (Option<BranchIndex>, &dyn Facts),
    ) -> Result<Option<Unmet>, Errno> {
        if branch.is_none() && (self.owner_is_caller || !self.labels.is_empty()) {
            return Ok(Some(Unmet::Virtual));
        }
        if let Some(max) = self.max_file_size {
            let after = if operation.has_size() { facts.size_after() } else { None };
            let exceeded = after.is_some_and(|size| size > max);
            if exceeded != denies {
                return Ok(Some(Unmet::Size));
            }
        }
        if !self.when.is_empty() {
            let now = facts.now();
            if !self.when.iter().any(|window| window.contains(now)) {
                return Ok(Some(Unmet::When));
            }
        }
        if self.owner_is_caller && facts.owner()?.is_some_and(|owner| owner != subject.uid) {
            return Ok(Some(Unmet::Owner));
        }
        if !self.labels.is_empty() {
            let labels = facts.labels()?;
            if !self.labels.iter().any(|label| labels.contains(label)) {
                return Ok(Some(Unmet::Label));
            }
        }
        Ok(None)
    }
}
