//! What the design says of a policy, in the plainest words: lists that are read from the top, every time.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use super::super::*;
use super::glob::{Glob, Language, split};
use super::hours::Hours;
use super::random::NAMES;

/// A part of the language that can be taken out of a policy, to see what it decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Feature {
    Exceptions,
    Groups,
    When,
    Size,
    Labels,
    Owner,
    ObserveOne,
    ObserveAll,
    AnyDepth,
    Alternatives,
    Classes,
    Modes,
    Within,
    LabelGuard,
    Deny,
    Allow,
    Gates,
    GatePaths,
    Pools,
}

impl Feature {
    pub const ALL: [Self; 19] = [
        Self::Exceptions,
        Self::Groups,
        Self::When,
        Self::Size,
        Self::Labels,
        Self::Owner,
        Self::ObserveOne,
        Self::ObserveAll,
        Self::AnyDepth,
        Self::Alternatives,
        Self::Classes,
        Self::Modes,
        Self::Within,
        Self::LabelGuard,
        Self::Deny,
        Self::Allow,
        Self::Gates,
        Self::GatePaths,
        Self::Pools,
    ];
}

#[derive(Debug, Clone, PartialEq)]
pub struct PlainRule {
    name: Arc<str>,
    denies: bool,
    observed: bool,
    operations: Vec<Operation>,
    who: (Vec<Principal>, Vec<Principal>),
    texts: Vec<String>,
    globs: Vec<Glob>,
    when: Vec<Hours>,
    max: Option<u64>,
    labels: Vec<String>,
    own: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub struct PlainGate {
    name: Arc<str>,
    from: Vec<BranchIndex>,
    to: Vec<BranchIndex>,
    who: (Vec<Principal>, Vec<Principal>),
    texts: Vec<String>,
    globs: Vec<Glob>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct PlainBranch {
    place: Vec<u8>,
    pool: Option<Arc<str>>,
    mode: BranchMode,
}

/// A policy as it is written.
#[derive(Debug, Clone, PartialEq)]
pub struct Plain {
    within: bool,
    observe: bool,
    label_guard: bool,
    groups: bool,
    rules: Vec<PlainRule>,
    gates: Vec<PlainGate>,
    branches: Vec<PlainBranch>,
}

/// What is asked.
#[derive(Debug, Clone, Copy)]
pub enum Question<'a> {
    Decide(Operation, Object<'a>),
    Cross(Object<'a>, Object<'a>),
    Widens(Object<'a>, Object<'a>),
}

/// What is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    Decided { allowed: bool, basis: Basis, observed: Option<Basis>, forbidden: Option<Basis> },
    Crossed { basis: Basis, gate: Option<Arc<str>> },
    Widened(bool),
}

impl Answer {
    pub fn denied(&self) -> bool {
        match self {
            Self::Decided { allowed, .. } => !allowed,
            Self::Crossed { gate, .. } => gate.is_none(),
            Self::Widened(sheds) => *sheds,
        }
    }
}

fn read(texts: &[String], language: Language) -> Vec<Glob> {
    texts.iter().map(|text| Glob::new(text, language)).collect()
}

impl Plain {
    pub fn new(source: &PolicySource) -> Self {
        let rule = |rule: &Rule| PlainRule {
            name: rule.name.clone(),
            denies: rule.denies,
            observed: rule.observe,
            operations: rule.operations.clone(),
            who: (rule.who.included.clone(), rule.who.excepted.clone()),
            texts: rule.paths.texts().to_vec(),
            globs: read(rule.paths.texts(), Language::WHOLE),
            when: rule.conditions.when.iter().map(|window| Hours::new(window.text())).collect(),
            max: rule.conditions.max_file_size,
            labels: rule.conditions.labels.clone(),
            own: rule.conditions.owner_is_caller,
        };
        let gate = |gate: &Gate| PlainGate {
            name: gate.name.clone(),
            from: gate.from.to_vec(),
            to: gate.to.to_vec(),
            who: (gate.who.included.clone(), gate.who.excepted.clone()),
            texts: gate.paths.texts().to_vec(),
            globs: read(gate.paths.texts(), Language::WHOLE),
        };
        let branch = |branch: &BranchFacts| PlainBranch {
            place: branch.at.as_bytes().to_vec(),
            pool: branch.pool.clone(),
            mode: branch.mode,
        };
        Self {
            within: source.within_allowed,
            observe: source.observe,
            label_guard: true,
            groups: true,
            rules: source.rules.iter().map(rule).collect(),
            gates: source.gates.iter().map(gate).collect(),
            branches: source.branches.iter().map(branch).collect(),
        }
    }

    /// This policy, were there no such thing in the language.
    pub fn without(&self, feature: Feature) -> Self {
        let mut all = self.clone();
        let (rules, gates) = (&mut all.rules, &mut all.gates);
        let mut language = Language::WHOLE;
        match feature {
            Feature::Exceptions => {
                rules.iter_mut().for_each(|rule| rule.who.1.clear());
                gates.iter_mut().for_each(|gate| gate.who.1.clear());
            }
            Feature::Groups => all.groups = false,
            Feature::When => rules.iter_mut().for_each(|rule| rule.when.clear()),
            Feature::Size => rules.iter_mut().for_each(|rule| rule.max = None),
            Feature::Labels => rules.iter_mut().for_each(|rule| rule.labels.clear()),
            Feature::Owner => rules.iter_mut().for_each(|rule| rule.own = false),
            Feature::ObserveOne => rules.iter_mut().for_each(|rule| rule.observed = false),
            Feature::ObserveAll => all.observe = false,
            Feature::AnyDepth => language.any_depth = false,
            Feature::Alternatives => language.alternatives = false,
            Feature::Classes => language.classes = false,
            Feature::Modes => {
                all.branches.iter_mut().for_each(|branch| branch.mode = BranchMode::Rw);
            }
            Feature::Within => all.within = true,
            Feature::LabelGuard => all.label_guard = false,
            Feature::Deny => rules.retain(|rule| !rule.denies),
            Feature::Allow => rules.retain(|rule| rule.denies),
            Feature::Gates => gates.clear(),
            Feature::GatePaths => gates.iter_mut().for_each(|gate| gate.texts = vec!["**".into()]),
            Feature::Pools => all.branches.iter_mut().for_each(|branch| branch.pool = None),
        }
        rules.iter_mut().for_each(|rule| rule.globs = read(&rule.texts, language));
        gates.iter_mut().for_each(|gate| gate.globs = read(&gate.texts, language));
        all
    }

    /// Answers as the engine has to.
    pub fn answer(&self, who: &Subject, question: Question<'_>, facts: &Given) -> Answer {
        match question {
            Question::Decide(operation, object) => {
                let (basis, allowed, observed) = self.decide(who, operation, object, facts);
                let forbidden = (!allowed && Self::is_forbidding(&basis)).then(|| basis.clone());
                Answer::Decided { allowed, basis, observed, forbidden }
            }
            Question::Cross(source, target) => {
                let (basis, gate) = self.cross(who, source, target, facts);
                Answer::Crossed { basis, gate }
            }
            Question::Widens(source, target) => Answer::Widened(self.widens(who, source, target)),
        }
    }

    fn listed(&self, list: &[Principal], who: &Subject) -> bool {
        list.iter().any(|principal| match *principal {
            Principal::Anyone => true,
            Principal::User(uid) => uid == who.uid,
            Principal::Group(gid) => self.groups && (gid == who.gid || who.groups.contains(&gid)),
        })
    }

    fn is_for(
        &self,
        (included, excepted): &(Vec<Principal>, Vec<Principal>),
        who: &Subject,
    ) -> bool {
        self.listed(included, who) && !self.listed(excepted, who)
    }

    fn fits(&self, rule: &PlainRule, who: &Subject, path: &[&[u8]]) -> bool {
        self.is_for(&rule.who, who) && rule.globs.iter().any(|glob| glob.matches(path))
    }

    fn speaking<'a>(
        &'a self,
        who: &Subject,
        operation: Operation,
        object: Object<'_>,
        facts: &Given,
    ) -> Vec<&'a PlainRule> {
        let path = split(object.path.as_bytes());
        let speaks = |rule: &&PlainRule| {
            rule.operations.contains(&operation)
                && rule.holds(who, operation, object.branch.is_some(), facts)
                && self.fits(rule, who, &path)
        };
        self.rules.iter().filter(speaks).collect()
    }

    fn mode(&self, branch: Option<BranchIndex>, operation: Operation) -> Option<Basis> {
        let reads = ["list", "open-read", "exec"];
        let brings_in = [
            "create",
            "mknod",
            "symlink",
            "link",
            "open-write",
            "write-data",
            "truncate",
            "fallocate",
            "copy-file-range",
            "setxattr",
        ];
        let name = operation.name();
        let Some(branch) = branch else {
            return if reads.contains(&name) { None } else { Some(Basis::Virtual) };
        };
        let mode = self.branches[usize::from(branch.0)].mode;
        let denies = match mode {
            BranchMode::Rw => false,
            BranchMode::Ro => !reads.contains(&name),
            BranchMode::GatesOnly => brings_in.contains(&name),
        };
        denies.then_some(Basis::Mode(mode))
    }

    /// What decides, whether it allows, and what would have denied.
    fn decide(
        &self,
        who: &Subject,
        operation: Operation,
        object: Object<'_>,
        facts: &Given,
    ) -> (Basis, bool, Option<Basis>) {
        if let Some(basis) = self.mode(object.branch, operation) {
            return (basis, false, None);
        }
        let speaking = self.speaking(who, operation, object, facts);
        let (mut denies, mut records, mut allows) = (vec![], vec![], vec![]);
        for rule in speaking {
            let basis = Basis::Rule(rule.name.clone());
            match (rule.denies, self.observe || rule.observed) {
                (true, false) => denies.push(basis),
                (true, true) => records.push(basis),
                (false, _) => allows.push(basis),
            }
        }
        if let Some(first) = denies.into_iter().next() {
            return (first, false, None);
        }
        let recorded = records.into_iter().next();
        if let (Some(_), Some(first)) = (object.branch, allows.into_iter().next()) {
            return (first, true, recorded);
        }
        let silence = if object.branch.is_none() { Basis::Virtual } else { Basis::Default };
        let refusal = if object.branch.is_some() && !self.within {
            Some(Basis::Default)
        } else if facts.changes_labels && self.label_guard {
            Some(Basis::Label)
        } else {
            None
        };
        match refusal {
            Some(basis) if !self.observe => (basis, false, recorded),
            refusal => (silence, true, recorded.or(refusal)),
        }
    }

    fn forbidden(
        &self,
        who: &Subject,
        operation: Operation,
        object: Object<'_>,
        facts: &Given,
    ) -> Option<Basis> {
        let (basis, allowed, _) = self.decide(who, operation, object, facts);
        (!allowed && Self::is_forbidding(&basis)).then_some(basis)
    }

    /// Whether a denial is one of a mode or a rule.
    fn is_forbidding(basis: &Basis) -> bool {
        matches!(basis, Basis::Mode(_) | Basis::Virtual | Basis::Rule(_))
    }

    fn cross(
        &self,
        who: &Subject,
        source: Object<'_>,
        target: Object<'_>,
        facts: &Given,
    ) -> (Basis, Option<Arc<str>>) {
        for (operation, object) in
            [(Operation::MoveSource, source), (Operation::MoveTarget, target)]
        {
            if let Some(basis) = self.forbidden(who, operation, object, facts) {
                return (basis, None);
            }
        }
        let (Some(from), Some(to)) = (source.branch, target.branch) else {
            return (Basis::NoGate, None);
        };
        if self.one_domain(Some(from), Some(to)) {
            return (Basis::NoGate, None);
        }
        let (from_name, to_name) = (self.relative(source, from), self.relative(target, to));
        for gate in &self.gates {
            let leads = gate.from.contains(&from) && gate.to.contains(&to);
            let fits = |name: &[u8]| gate.globs.iter().any(|glob| glob.matches(&split(name)));
            let named = source.is_directory || (fits(&from_name) && fits(&to_name));
            if leads && named && self.is_for(&gate.who, who) {
                return (Basis::Gate(gate.name.clone()), Some(gate.name.clone()));
            }
        }
        (Basis::NoGate, None)
    }

    fn relative(&self, object: Object<'_>, branch: BranchIndex) -> Vec<u8> {
        let place = &self.branches[usize::from(branch.0)].place[..];
        let place = if place == b"/" { &[] } else { place };
        let rest = object.path.as_bytes().strip_prefix(place).expect("a path below the place");
        rest.strip_prefix(b"/").unwrap_or(rest).to_vec()
    }

    fn one_domain(&self, a: Option<BranchIndex>, b: Option<BranchIndex>) -> bool {
        let pool = |branch: BranchIndex| self.branches[usize::from(branch.0)].pool.clone();
        match (a, b) {
            (Some(a), Some(b)) => a == b || (pool(a).is_some() && pool(a) == pool(b)),
            _ => a == b,
        }
    }

    fn widens(&self, who: &Subject, source: Object<'_>, target: Object<'_>) -> bool {
        if self.observe || (self.rules.is_empty() && self.one_domain(source.branch, target.branch))
        {
            return false;
        }
        if self.sheds(who, source, target) {
            return true;
        }
        if !source.is_directory {
            return false;
        }
        // What lies below, or might: any child, and a few of the names that patterns are about.
        let start =
            source.path.as_bytes().len().wrapping_mul(7).wrapping_add(target.path.as_bytes().len());
        let name = |at: usize| OsStr::from_bytes(NAMES[start.wrapping_add(at) % NAMES.len()]);
        let mut below = vec![vec![OsStr::from_bytes(b"\x01")]];
        below.extend((0..3).map(|at| vec![name(at)]));
        below.extend((0..3).map(|at| vec![name(at * 5), name(at)]));
        below.iter().any(|names| {
            let at = |top: &ViewPath| names.iter().fold(top.clone(), |path, name| path.join(name));
            let (here, there) = (at(source.path), at(target.path));
            self.sheds(who, Object { path: &here, ..source }, Object { path: &there, ..target })
        })
    }

    fn sheds(&self, who: &Subject, source: Object<'_>, target: Object<'_>) -> bool {
        let (from, to) = (split(source.path.as_bytes()), split(target.path.as_bytes()));
        let both = |rule| (self.fits(rule, who, &from), self.fits(rule, who, &to), rule);
        let rules: Vec<_> = self.rules.iter().map(both).collect();
        let mut operations = Operation::ALL.into_iter();
        operations.any(|operation| {
            let of_it = rules.iter().filter(|(.., rule)| rule.operations.contains(&operation));
            let of_it: Vec<_> = of_it.collect();
            operation.verb() != Verb::Add
                && self.sheds_one(operation, source.branch, target.branch, &of_it)
        })
    }

    /// As [`Self::sheds`] for one operation; of the rules, whether they fit the source and the target.
    fn sheds_one(
        &self,
        operation: Operation,
        source: Option<BranchIndex>,
        target: Option<BranchIndex>,
        rules: &[&(bool, bool, &PlainRule)],
    ) -> bool {
        let enforced = |rule: &PlainRule| rule.denies && !rule.observed;
        let any = |test: &dyn Fn(bool, bool, &PlainRule) -> bool| {
            rules.iter().any(|(here, there, rule)| test(*here, *there, rule))
        };
        let target_denied = self.mode(target, operation).is_some()
            || any(&|_, there, rule| there && enforced(rule) && rule.unconditional())
            || (!self.within && target.is_some() && !any(&|_, there, rule| there && !rule.denies));
        if target_denied {
            return false;
        }
        let left = any(&|here, there, rule| here && !there && enforced(rule));
        let let_in = any(&|here, _, rule| here && !rule.denies && rule.unconditional());
        let gained = any(&|here, there, rule| !here && there && !rule.denies);
        let silent = !self.within && source.is_some() && !let_in;
        left || self.mode(source, operation).is_some() || (silent && (gained || target.is_none()))
    }
}

impl PlainRule {
    fn unconditional(&self) -> bool {
        self.when.is_empty() && self.max.is_none() && self.labels.is_empty() && !self.own
    }

    fn holds(&self, who: &Subject, operation: Operation, provided: bool, facts: &Given) -> bool {
        // What else is there that makes a file larger, or brings one?
        let sized = [
            "write-data",
            "truncate",
            "fallocate",
            "copy-file-range",
            "rename-target",
            "move-target",
            "link",
        ];
        let too_large = match (self.max, facts.size_after) {
            (Some(max), Some(size)) if sized.contains(&operation.name()) => size > max,
            _ => false,
        };
        let size = self.max.is_none() || self.denies == too_large;
        let when = self.when.is_empty() || self.when.iter().any(|hours| hours.open(facts.now));
        let label =
            self.labels.is_empty() || facts.labels.iter().any(|label| self.labels.contains(label));
        let owner = !self.own || facts.owner.is_none() || facts.owner == Some(who.uid);
        // What no branch provides has neither.
        let virtual_one = !provided && (self.own || !self.labels.is_empty());
        size && when && label && owner && !virtual_one
    }
}
