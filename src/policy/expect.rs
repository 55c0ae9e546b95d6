//! Expectations: what a policy must say to a request, so that a change of the policy that breaks one is
//! seen before it comes into force.

use std::fmt::Write as _;

use super::{Basis, Decision, Given, Object, Policy, PolicySource, Subject};
use crate::types::{BranchIndex, Operation, ViewPath};

/// A request, and what must come of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Expectation {
    /// For messages: its place, such as `expect 3, line 41`.
    pub name: String,
    /// Who asks.
    pub subject: Subject,
    /// For what.
    pub operation: Operation,
    /// On what; for a link the file that exists.
    pub path: ViewPath,
    /// The second path of a move, rename or link.
    pub target: Option<ViewPath>,
    /// Whether `path` is a directory.
    pub is_directory: bool,
    /// What rules may ask.
    pub facts: Given,
    /// Whether it must be allowed.
    pub allowed: bool,
    /// What must decide, as [`Basis::text`] says it; none: anything.
    pub by: Option<String>,
}

impl Basis {
    /// In words, as an expectation names it: `rule NAME`, `gate NAME`, `no gate`, `mode`, `default`,
    /// `label`, `virtual`; `error` where the facts could not be had.
    pub fn text(&self) -> String {
        match self {
            Self::Rule(name) => format!("rule {name}"),
            Self::Gate(name) => format!("gate {name}"),
            Self::NoGate => "no gate".to_owned(),
            Self::Mode(_) => "mode".to_owned(),
            Self::Default => "default".to_owned(),
            Self::Virtual => "virtual".to_owned(),
            Self::Label => "label".to_owned(),
            Self::View => "view".to_owned(),
            Self::Error => "error".to_owned(),
        }
    }
}

impl PolicySource {
    /// The branches that can hold a path: the one, or all members of the pool, whose place is nearest
    /// above it. None for a virtual folder.
    pub fn branches_at(&self, path: &ViewPath) -> Vec<BranchIndex> {
        let depth = |at: &ViewPath| at.components().count();
        let above = || self.branches.iter().filter(|branch| path.below(&branch.at).is_some());
        let Some(nearest) = above().max_by_key(|branch| depth(&branch.at)) else {
            return Vec::new();
        };
        let numbered = self.branches.iter().zip(0u16..);
        numbered
            .filter(|(branch, _)| branch.at == nearest.at)
            .map(|(_, index)| BranchIndex(index))
            .collect()
    }
}

impl Policy {
    /// Whether an expectation is met; the error says what came instead. In a pool it must be met
    /// whichever member holds the path. What one rule only observes is not denied; what is denied but for
    /// `policy.observe` is, for such a policy is tried as it will be.
    pub fn meets(&self, expected: &Expectation) -> Result<(), Unmet> {
        let holders = |path: &ViewPath| -> Vec<Option<BranchIndex>> {
            match self.source().branches_at(path) {
                none if none.is_empty() => vec![None],
                some => some.into_iter().map(Some).collect(),
            }
        };
        let target = expected.target.as_ref().map(|path| Object {
            path,
            // Into a pool any member stands for all.
            branch: holders(path).into_iter().next().flatten(),
            is_directory: expected.is_directory,
        });
        holders(&expected.path).into_iter().try_for_each(|branch| {
            let object =
                Object { path: &expected.path, branch, is_directory: expected.is_directory };
            let Expectation { subject, operation, facts, .. } = expected;
            let decision = self.decide_request(subject, *operation, object, target, facts);
            let is_basis =
                |basis: &Basis| expected.by.as_ref().is_none_or(|by| *by == basis.text());
            // A policy that is only tried denies what it would.
            let tried = decision.observed.as_ref().filter(|_| self.source().observe);
            let denies = tried.is_some_and(|observed| is_basis(&observed.basis));
            let met = match expected.allowed {
                true => decision.allowed && is_basis(&decision.basis),
                false => denies || (!decision.allowed && is_basis(&decision.basis)),
            };
            if met {
                return Ok(());
            }
            Err(Unmet { got: expected.got(&decision), message: expected.unmet(&decision) })
        })
    }
}

/// An expectation that is not met.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unmet {
    /// What was expected and what came, in a sentence.
    pub message: String,
    /// What came alone: `allow` or `deny`, `by` and what decided.
    pub got: String,
}

impl Expectation {
    fn got(&self, decision: &Decision) -> String {
        let verdict = if decision.allowed { "allow" } else { "deny" };
        format!("{verdict} by {}", decision.basis.text())
    }

    fn unmet(&self, decision: &Decision) -> String {
        let verdict = |allowed| if allowed { "allowed" } else { "denied" };
        let mut text = format!("{}: {} of {}", self.name, self.operation, self.path);
        let mut add = |words: std::fmt::Arguments<'_>| {
            // A string takes everything.
            let _ = text.write_fmt(words);
        };
        if let Some(target) = &self.target {
            add(format_args!(" to {target}"));
        }
        add(format_args!(" for uid {} must be {}", self.subject.uid, verdict(self.allowed)));
        if let Some(by) = &self.by {
            add(format_args!(" by {by}"));
        }
        add(format_args!(", but is {} by {}", verdict(decision.allowed), decision.basis.text()));
        if let Some(reason) = &decision.reason {
            add(format_args!(": {reason}"));
        }
        if let Some(observed) = &decision.observed {
            let (basis, reason) = (observed.basis.text(), &observed.reason);
            add(format_args!("; only observed: {basis} would deny it: {reason}"));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use super::super::{BranchFacts, Conditions, PathPatterns, Principal, Rule};
    use super::*;
    use crate::types::BranchMode;

    fn path(text: &str) -> ViewPath {
        ViewPath::parse(Path::new(text)).unwrap()
    }

    fn source() -> PolicySource {
        let branch = |name: &str, pool: Option<&str>, at, mode| BranchFacts {
            name: name.into(),
            pool: pool.map(Arc::from),
            at: path(at),
            mode,
        };
        let scripts = Rule {
            name: "scripts".into(),
            denies: true,
            operations: vec![Operation::Create],
            who: vec![Principal::Anyone].into(),
            paths: PathPatterns::new(vec!["/**/*.sh".into()]).unwrap(),
            conditions: Conditions::default(),
            observe: false,
            reason: Some("no scripts".into()),
        };
        PolicySource {
            within_allowed: true,
            observe: false,
            rules: vec![scripts],
            gates: Vec::new(),
            branches: vec![
                branch("inbox", None, "/deep/inbox", BranchMode::Rw),
                branch("inner", None, "/deep/inbox/inner", BranchMode::Ro),
                branch("disk1", Some("store"), "/store", BranchMode::Rw),
                branch("disk2", Some("store"), "/store", BranchMode::Rw),
            ],
        }
    }

    fn create(at: &str, allowed: bool, by: Option<&str>) -> Expectation {
        Expectation {
            name: "expect 1, line 7".into(),
            subject: Subject { uid: 7, gid: 7, groups: [].into() },
            operation: Operation::Create,
            path: path(at),
            target: None,
            is_directory: false,
            facts: Given::default(),
            allowed,
            by: by.map(str::to_owned),
        }
    }

    #[test]
    fn a_path_is_in_the_branch_nearest_above() {
        let source = source();
        let at = |text| source.branches_at(&path(text));
        assert_eq!(at("/deep/inbox/a"), [BranchIndex(0)]);
        assert_eq!(at("/deep/inbox/inner/a"), [BranchIndex(1)]);
        assert_eq!(at("/deep/inboxes"), []);
        assert_eq!(at("/store"), [BranchIndex(2), BranchIndex(3)]);
    }

    #[test]
    fn what_is_not_met_is_told() {
        let policy = Policy::new(source(), 1).unwrap();
        for met in [
            create("/deep/inbox/a", true, Some("default")),
            create("/deep/inbox/a.sh", false, Some("rule scripts")),
            create("/deep/inbox/inner/a", false, Some("mode")),
            create("/deep/a", false, Some("virtual")),
            create("/store/a", true, None),
        ] {
            assert_eq!(policy.meets(&met), Ok(()));
        }
        let told = policy.meets(&create("/store/a.sh", true, None)).unwrap_err();
        assert_eq!(told.got, "deny by rule scripts");
        assert_eq!(
            told.message,
            "expect 1, line 7: create of /store/a.sh for uid 7 must be allowed, but is denied by rule \
             scripts: no scripts"
        );
        let told =
            policy.meets(&create("/deep/inbox/a.sh", false, Some("mode"))).unwrap_err().message;
        assert!(told.contains("must be denied by mode, but is denied by rule scripts"), "{told}");
        let move_out = Expectation {
            operation: Operation::MoveSource,
            target: Some(path("/store/a")),
            ..create("/deep/inbox/a", false, Some("no gate"))
        };
        assert_eq!(policy.meets(&move_out), Ok(()));
        let told = policy.meets(&Expectation { allowed: true, by: None, ..move_out }).unwrap_err();
        let told = told.message;
        assert!(told.contains("move-source of /deep/inbox/a to /store/a for uid 7"), "{told}");
    }

    #[test]
    fn what_one_rule_observes_is_allowed_and_told() {
        let mut observing = source();
        observing.rules[0].observe = true;
        let policy = Policy::new(observing, 1).unwrap();
        let told = policy.meets(&create("/store/a.sh", false, None)).unwrap_err().message;
        assert!(told.ends_with("only observed: rule scripts would deny it: no scripts"), "{told}");
        assert_eq!(policy.meets(&create("/store/a.sh", true, None)), Ok(()));
    }

    #[test]
    fn a_policy_that_is_only_tried_meets_what_it_would_deny() {
        let policy = Policy::new(PolicySource { observe: true, ..source() }, 1).unwrap();
        for by in [None, Some("rule scripts")] {
            assert_eq!(policy.meets(&create("/store/a.sh", false, by)), Ok(()));
        }
        for (at, by) in [("/store/a.sh", Some("default")), ("/store/a", None)] {
            assert!(policy.meets(&create(at, false, by)).is_err(), "{at}");
        }
        assert_eq!(policy.meets(&create("/store/a", true, None)), Ok(()));
        assert_eq!(policy.meets(&create("/deep/inbox/inner/a", false, Some("mode"))), Ok(()));
    }
}
