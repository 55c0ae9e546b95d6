//! A policy made of bytes, asked what bytes make up.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use super::{
    Basis, BranchFacts, Conditions, Decision, Gate, GateTerms, Given, Object, PathPatterns, Policy,
    PolicySource, Principal, Rule, Subject, Verify, Who, Window,
};
use crate::types::{BranchIndex, BranchMode, Operation, ViewPath};

const PIECES: [&str; 24] = [
    "/",
    "a",
    "b",
    "c",
    "inbox",
    "review",
    "*",
    "**",
    "?",
    ".csv",
    ".sh",
    "[a-c]",
    "[!b]",
    "{a,b}",
    "{a,{b,c}}",
    "\\*",
    "\\",
    "[",
    "{",
    "}",
    ",",
    "ä",
    "\n",
    "**/",
];
const MODES: [BranchMode; 3] = [BranchMode::Rw, BranchMode::Ro, BranchMode::GatesOnly];
const PRINCIPALS: [Principal; 4] =
    [Principal::Anyone, Principal::User(1001), Principal::Group(2001), Principal::User(0)];

/// Takes bytes from the front; zeros when there are none left.
struct Source<'a>(&'a [u8]);

impl Source<'_> {
    fn byte(&mut self) -> u8 {
        let (first, rest) = self.0.split_first().unwrap_or((&0, &[]));
        self.0 = rest;
        *first
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::from(self.byte()) % bound
    }

    fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }

    /// A text of pieces, or of the bytes themselves.
    fn text(&mut self) -> Vec<u8> {
        let count = self.below(8);
        if self.byte() < 224 {
            return (0..count).flat_map(|_| self.of(&PIECES).bytes()).collect();
        }
        (0..count * 4).map(|_| self.byte()).collect()
    }

    fn patterns(&mut self) -> PathPatterns {
        let texts = (0..self.below(4)).filter_map(|_| String::from_utf8(self.text()).ok());
        let texts: Vec<_> = texts.collect();
        PathPatterns::new(texts).or_else(|_| PathPatterns::new(Vec::new())).expect("no patterns")
    }

    fn who(&mut self) -> Who {
        let some = |bytes: &mut Self, most| {
            (0..bytes.below(most)).map(|_| bytes.of(&PRINCIPALS)).collect()
        };
        Who { included: some(self, 3), excepted: some(self, 2) }
    }

    fn conditions(&mut self) -> Conditions {
        let mut conditions = Conditions::default();
        if self.byte() < 128 {
            return conditions;
        }
        let windows = ["Mon-Fri 08:00-18:00 UTC", "22:00-06:00 UTC"];
        conditions.when.extend(
            (0..self.below(2)).map(|_| Window::parse(self.of(&windows)).expect("it is one")),
        );
        conditions.max_file_size = (self.byte() < 128).then(|| u64::from(self.byte()));
        conditions.labels.extend((0..self.below(2)).map(|_| self.of(&["a", "b"]).to_owned()));
        conditions.owner_is_caller = self.byte() < 64;
        conditions
    }

    fn facts(&mut self) -> Given {
        let hours = i64::from(self.byte());
        Given {
            now: jiff::Timestamp::from_second(hours * 3600).expect("a time in 1970"),
            size_after: (self.byte() < 128).then(|| u64::from(self.byte())),
            owner: (self.byte() < 128).then(|| self.of(&[0, 1001])),
            labels: (0..self.below(2)).map(|_| self.of(&["a", "b"]).to_owned()).collect(),
            changes_labels: self.byte() < 32,
        }
    }

    fn path(&mut self) -> ViewPath {
        let text = [b"/".to_vec(), self.text()].concat();
        ViewPath::parse(Path::new(OsStr::from_bytes(&text))).unwrap_or_else(ViewPath::root)
    }

    fn operations(&mut self) -> Vec<Operation> {
        (0..self.below(6)).map(|_| self.of(&Operation::ALL)).collect()
    }
}

fn policy(bytes: &mut Source<'_>) -> (Policy, usize) {
    let count = 1 + bytes.below(4);
    let branch = |bytes: &mut Source<'_>, at: usize| BranchFacts {
        name: format!("branch{at}").into(),
        pool: (bytes.byte() > 200).then(|| "pool".into()),
        at: bytes.path(),
        mode: bytes.of(&MODES),
    };
    let branches = (0..count).map(|at| branch(bytes, at)).collect();
    let rule = |bytes: &mut Source<'_>, at: usize| {
        let denies = bytes.byte() < 128;
        Rule {
            name: format!("rule{at}").into(),
            denies,
            operations: bytes.operations(),
            who: bytes.who(),
            paths: bytes.patterns(),
            conditions: bytes.conditions(),
            observe: denies && bytes.byte() < 32,
            reason: denies.then(|| "not here".into()),
        }
    };
    let rules = (0..bytes.below(6)).map(|at| rule(bytes, at)).collect();
    let end = |bytes: &mut Source<'_>| {
        (0..bytes.below(3)).map(|_| BranchIndex(bytes.below(count + 1) as u16)).collect()
    };
    let gate = |bytes: &mut Source<'_>, at: usize| Gate {
        name: format!("gate{at}").into(),
        from: end(bytes),
        to: end(bytes),
        who: bytes.who(),
        paths: bytes.patterns(),
        terms: Arc::new(GateTerms {
            types: vec![],
            max_size: None,
            verify: Verify::Stream,
            lossy: Default::default(),
            checks: vec![],
        }),
    };
    let gates = (0..bytes.below(4)).map(|at| gate(bytes, at)).collect();
    let within_allowed = bytes.byte() < 128;
    let observe = bytes.byte() < 32;
    let source = PolicySource { within_allowed, observe, rules, gates, branches };
    (Policy::new(source, 1).expect("patterns that were checked"), count)
}

fn check(decision: &Decision) {
    assert_eq!(decision.reason.is_some(), !decision.allowed, "{decision:?}");
}

/// Asks everything that can be asked; what is said about a decision must be the decision, and a move
/// is allowed by a gate or not at all.
pub fn run(data: &[u8]) {
    let bytes = &mut Source(data);
    let (policy, branches) = policy(bytes);
    for _ in 0..8 {
        let uid = bytes.of(&[0, 1001, 1002, u32::MAX]);
        let groups: Vec<u32> = (0..bytes.below(3)).map(|_| bytes.of(&[2001, 2002, 0])).collect();
        let subject = Subject { uid, gid: uid, groups: groups.into() };
        let operation = bytes.of(&Operation::ALL);
        let (from, to) = (bytes.path(), bytes.path());
        // One more than there are: a number that means nothing.
        let mut branch = || {
            let index = bytes.below(branches + 2);
            index.checked_sub(1).map(|index| BranchIndex(index as u16))
        };
        let (of, at) = (branch(), branch());
        let is_directory = bytes.byte() < 64;
        let source = Object { path: &from, branch: of, is_directory };
        let target = Object { path: &to, branch: at, is_directory };
        let facts = &bytes.facts();
        let decision = policy.decide(&subject, operation, source, facts);
        check(&decision);
        assert_eq!(policy.explain(&subject, operation, source, None, facts).0, decision);
        let forbidden = policy.forbids(&subject, operation, source, facts);
        assert!(forbidden.is_none() || !decision.allowed, "{forbidden:?}");
        policy.widens(&subject, source, target);
        policy.explain(&subject, operation, source, Some(target), facts);
        let (crossing, gate) = policy.decide_crossing(&subject, source, target, facts);
        check(&crossing);
        assert_eq!(crossing.allowed, gate.is_some());
        assert_eq!(crossing.allowed, matches!(crossing.basis, Basis::Gate(_)));
    }
}
