//! The rules as tables, so that a decision is a look-up.
//!
//! ```text
//!   caller ──► principals ──► which `who` lists ──► subject class ─┐
//!              (uid, groups)   hold the caller                      ├──► cell: per operation
//!   path ────► index of all ─► which `paths` lists ─► path class ──┘     ├ settled: a rule or none
//!              patterns        match the path                            └ or the rules to ask facts for
//! ```
//!
//! Callers whom the same lists hold are one class, and so are paths that the same lists match, so that there
//! are few of each whatever the number of users, files and rules. The class of a path is kept with the name
//! of an inode (`view::Inode`); the cell of two classes is made when both first meet, from the rules of the
//! lists that match the path. A cell holds for each operation the rule that decides; where a rule has
//! conditions, the rules that have to be asked, up to the first one without.
//!
//! What is kept is bounded. Callers and cells are dropped when there are too many; classes beyond their bound
//! are found anew each time.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use dashmap::DashMap;

use super::patterns::PatternIndex;
use super::{Principal, Rule, Subject, Who};
use crate::error::Errno;
use crate::types::{Operation, ViewPath};

const CALLERS_MAX: usize = 16_384;
const CLASSES_MAX: usize = 1 << 20;
const CELLS_MAX: usize = 1 << 18;

/// A caller as the rules of one policy tell callers apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubjectClass(Class);

/// A path as the rules of one policy tell paths apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathClass(Class);

impl PathClass {
    /// A number that stands for the class as long as the policy is in force; `None` if there are too many.
    pub fn number(&self) -> Option<u32> {
        match self.0 {
            Class::Known(number) => Some(number),
            Class::Unknown(_) => None,
        }
    }

    /// The class that a number stands for.
    pub fn of_number(number: u32) -> Self {
        Self(Class::Known(number))
    }
}

/// The lists that speak, by their number if they have one.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Class {
    Known(u32),
    Unknown(Arc<[u32]>),
}

/// Sets of lists and their numbers.
#[derive(Debug, Default)]
struct Classes {
    numbers: DashMap<Arc<[u32]>, u32>,
    lists: DashMap<u32, Arc<[u32]>>,
    next: AtomicU32,
}

impl Classes {
    fn of(&self, lists: Vec<u32>) -> Class {
        if let Some(number) = self.numbers.get(lists.as_slice()) {
            return Class::Known(*number);
        }
        let lists: Arc<[u32]> = lists.into();
        if self.numbers.len() >= CLASSES_MAX {
            return Class::Unknown(lists);
        }
        let entry = self.numbers.entry(Arc::clone(&lists));
        let number = *entry.or_insert_with(|| {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            self.lists.insert(number, lists);
            number
        });
        Class::Known(number)
    }

    /// `None`: there is no class of that number.
    fn lists(&self, class: &Class) -> Option<Arc<[u32]>> {
        match class {
            Class::Known(number) => self.lists.get(number).map(|lists| Arc::clone(&lists)),
            Class::Unknown(lists) => Some(Arc::clone(lists)),
        }
    }
}

/// What decides one operation of a cell. Numbers are positions of rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ruling {
    /// No rule speaks.
    Silent,
    /// An allow rule, and no deny rule.
    Allow(u32),
    /// A deny rule.
    Deny(u32),
    /// Facts must be asked: see [`Open`] at this position of the cell.
    Open(u32),
}

/// The rules whose conditions decide, in order of declaration, each list up to the first rule that has none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Open {
    pub(super) denies: Box<[u32]>,
    pub(super) allows: Box<[u32]>,
}

/// What the rules say of a class of callers and a class of paths.
#[derive(Debug)]
pub(super) struct Cell {
    rulings: [Ruling; Operation::ALL.len()],
    open: Vec<Open>,
}

impl Cell {
    pub(super) fn ruling(&self, operation: Operation) -> Ruling {
        self.rulings.get(operation as usize).copied().unwrap_or(Ruling::Silent)
    }

    /// The rules that may decide, whatever the facts.
    pub(super) fn every(&self, operation: Operation) -> Open {
        match self.ruling(operation) {
            Ruling::Silent => Open::default(),
            Ruling::Allow(position) => Open { denies: Box::default(), allows: [position].into() },
            Ruling::Deny(position) => Open { denies: [position].into(), allows: Box::default() },
            Ruling::Open(at) => self.open(at).cloned().unwrap_or_default(),
        }
    }

    pub(super) fn open(&self, at: u32) -> Option<&Open> {
        self.open.get(at as usize)
    }
}

/// Numbers for equal things.
struct Numbered<T> {
    numbers: HashMap<T, u32>,
    each: Vec<T>,
}

impl<T: Eq + Hash + Clone> Numbered<T> {
    fn new() -> Self {
        Self { numbers: HashMap::new(), each: Vec::new() }
    }

    fn number(&mut self, value: &T) -> u32 {
        if let Some(number) = self.numbers.get(value) {
            return *number;
        }
        let number = self.each.len() as u32;
        self.numbers.insert(value.clone(), number);
        self.each.push(value.clone());
        number
    }
}

/// The groups that a caller had, and the class.
type Known = (Arc<[u32]>, SubjectClass);

/// See the module.
#[derive(Debug)]
pub(super) struct Compiled {
    whos: Vec<Who>,
    /// The `who` lists that name a principal.
    naming: HashMap<Principal, Vec<u32>>,
    index: PatternIndex,
    /// By list of patterns: its rules, each with its `who` list, in order of declaration.
    rules_of: Vec<Vec<(u32, u32)>>,
    /// By uid and gid.
    callers: DashMap<(u32, u32), Known>,
    subjects: Classes,
    paths: Classes,
    cells: DashMap<(u32, u32), Arc<Cell>>,
}

impl Compiled {
    pub(super) fn new(rules: &[Rule]) -> Result<Self, globset::Error> {
        let mut whos = Numbered::new();
        let mut texts = Numbered::new();
        let mut lists = Vec::new();
        let mut rules_of: Vec<Vec<(u32, u32)>> = Vec::new();
        for (rule, position) in rules.iter().zip(0u32..) {
            let who = whos.number(&rule.who);
            let list = texts.number(&rule.paths.texts().to_vec()) as usize;
            if list == lists.len() {
                lists.push(rule.paths.clone());
                rules_of.push(Vec::new());
            }
            if let Some(of) = rules_of.get_mut(list) {
                of.push((position, who));
            }
        }
        let mut naming: HashMap<Principal, Vec<u32>> = HashMap::new();
        for (who, number) in whos.each.iter().zip(0u32..) {
            for principal in &who.included {
                naming.entry(*principal).or_default().push(number);
            }
        }
        Ok(Self {
            whos: whos.each,
            naming,
            index: PatternIndex::new(&lists)?,
            rules_of,
            callers: DashMap::new(),
            subjects: Classes::default(),
            paths: Classes::default(),
            cells: DashMap::new(),
        })
    }

    pub(super) fn subject(&self, subject: &Subject) -> SubjectClass {
        let key = (subject.uid, subject.gid);
        if let Some(known) = self.callers.get(&key)
            && known.0 == subject.groups
        {
            return known.1.clone();
        }
        let groups = subject.groups.iter().chain([&subject.gid]);
        let principals = groups.map(|gid| Principal::Group(*gid));
        let principals = principals.chain([Principal::Anyone, Principal::User(subject.uid)]);
        let named =
            principals.filter_map(|principal| self.naming.get(&principal)).flatten().copied();
        let mut held: Vec<u32> = named.collect();
        held.sort_unstable();
        held.dedup();
        held.retain(|who| self.whos.get(*who as usize).is_some_and(|who| who.is(subject)));
        let class = SubjectClass(self.subjects.of(held));
        if self.callers.len() >= CALLERS_MAX {
            self.callers.clear();
        }
        self.callers.insert(key, (Arc::clone(&subject.groups), class.clone()));
        class
    }

    pub(super) fn path(&self, path: &ViewPath) -> PathClass {
        PathClass(self.paths.of(self.index.matching(path)))
    }

    /// What the rules say of two classes. ESTALE for a class that is another policy's: an error denies.
    pub(super) fn cell(
        &self,
        rules: &[Rule],
        subject: &SubjectClass,
        path: &PathClass,
    ) -> Result<Arc<Cell>, Errno> {
        let key = match (&subject.0, &path.0) {
            (Class::Known(subject), Class::Known(path)) => Some((*subject, *path)),
            _ => None,
        };
        if let Some(key) = key
            && let Some(cell) = self.cells.get(&key)
        {
            return Ok(Arc::clone(&cell));
        }
        let whos = self.subjects.lists(&subject.0).ok_or(Errno::STALE)?;
        let paths = self.paths.lists(&path.0).ok_or(Errno::STALE)?;
        let cell = Arc::new(self.make(rules, &whos, &paths));
        if let Some(key) = key {
            if self.cells.len() >= CELLS_MAX {
                self.cells.clear();
            }
            self.cells.insert(key, Arc::clone(&cell));
        }
        Ok(cell)
    }

    fn make(&self, rules: &[Rule], whos: &[u32], paths: &[u32]) -> Cell {
        let lists = paths.iter().filter_map(|list| self.rules_of.get(*list as usize));
        let speaking = lists.flatten().filter(|(_, who)| whos.binary_search(who).is_ok());
        let mut positions: Vec<u32> = speaking.map(|(position, _)| *position).collect();
        positions.sort_unstable();
        let speaking: Vec<_> = positions
            .into_iter()
            .filter_map(|position| Some((position, rules.get(position as usize)?)))
            .collect();
        let mut open = Vec::new();
        let rulings = Operation::ALL.map(|operation| ruling(&speaking, operation, &mut open));
        Cell { rulings, open }
    }
}

fn ruling(speaking: &[(u32, &Rule)], operation: Operation, open: &mut Vec<Open>) -> Ruling {
    let asked = |denies: bool| {
        let mut asked = Vec::new();
        for (position, rule) in speaking {
            if rule.denies != denies || !rule.operations.contains(&operation) {
                continue;
            }
            asked.push(*position);
            if rule.conditions.is_empty() && !rule.observe {
                return (asked, true);
            }
        }
        (asked, false)
    };
    let (denies, denied) = asked(true);
    if let (true, [only]) = (denied, &*denies) {
        return Ruling::Deny(*only);
    }
    let (allows, allowed) = if denied { (Vec::new(), false) } else { asked(false) };
    match (&*denies, &*allows) {
        ([], []) => Ruling::Silent,
        ([], [only]) if allowed => Ruling::Allow(*only),
        _ => {
            let wanted = Open { denies: denies.into(), allows: allows.into() };
            let at = open.iter().position(|known| *known == wanted).unwrap_or_else(|| {
                open.push(wanted);
                open.len().saturating_sub(1)
            });
            Ruling::Open(at as u32)
        }
    }
}
