//! Crossings, rearrangements, undos and purges as the layer above asks for them.

use std::collections::BTreeSet;

use super::super::lab::{Lab, view};
use super::run::{Expect, Run};
use super::trees::{DOMAINS, Model, Node, Picture, Shown, Taken, Tree};
use super::*;

/// Below a folder of the view each domain has its own, so that view paths differ.
fn view_of(domain: &[usize], path: &Path) -> ViewPath {
    view(Path::new(&format!("d{}", domain[0])).join(path))
}

fn name(lab: &Lab, domain: &[usize], branch: usize, path: &Path) -> Name<Disk> {
    Name { view: view_of(domain, path), ..lab.name(branch, path) }
}

fn show(path: &Path) -> String {
    path.display().to_string()
}

impl Run {
    /// Makes the folders above a path on a member; false where something else is in the way.
    fn make_parents(&mut self, branch: usize, path: &Path) -> bool {
        let folders: Vec<PathBuf> = path.ancestors().skip(1).map(Path::to_owned).collect();
        for folder in folders.iter().rev().filter(|folder| folder.iter().count() > 0) {
            match self.model.node(branch, folder) {
                Some(Node::Directory(_)) => {}
                Some(_) => return false,
                None => self.make_dir(branch, folder),
            }
        }
        self.lab().disk.sync_all();
        true
    }

    /// A crossing of anything to anywhere, as asked for.
    fn crossing(&mut self) -> Option<Asked> {
        let from = self.random.below(DOMAINS.len());
        let to = (from + 1 + self.random.below(DOMAINS.len() - 1)) % DOMAINS.len();
        let (source_domain, target_domain) = (DOMAINS[from], DOMAINS[to]);
        let seen = self.model.view(source_domain);
        let source = self.any_of(&seen, |_, _| true)?;
        let seen = self.model.view(target_domain);
        let target = self.any_path(&seen);
        let mut member = target_domain[self.random.below(target_domain.len())];
        if !self.make_parents(member, &target) {
            member = *self.model.reaching(target_domain, &target).first()?;
        }
        let expect = self.expect_of_crossing((source_domain, &source), (target_domain, &target));
        Some(Asked { source_domain, target_domain, source, target, member, expect })
    }

    fn expect_of_crossing(
        &self,
        (source_domain, source): (&[usize], &Path),
        (target_domain, target): (&[usize], &Path),
    ) -> Expect {
        let model = &self.model;
        let parts = model.parts(source_domain, source);
        let visible = &model.trees[parts[0]][source];
        let is_file = |node: &Node| match node {
            Node::File(number) => Some(*number),
            _ => None,
        };
        let inside = |branch: usize| {
            let tree = model.subtree(branch, source);
            let numbers: BTreeSet<u64> = tree.values().filter_map(is_file).collect();
            let count =
                |number: u64| tree.values().filter(|node| **node == Node::File(number)).count();
            numbers.iter().all(|number| {
                count(*number) == model.names_of(*number) && !self.held.contains(number)
            })
        };
        if let Node::File(number) = visible
            && model.names_of(*number) > 1
        {
            return Expect::Refused;
        }
        let stands = model.parts(target_domain, target);
        let is_dir = |branch: &usize| model.is_dir(*branch, target);
        let makes_way = match visible {
            Node::Directory(_) => {
                if stands.first().is_some_and(|first| !is_dir(first)) {
                    return Expect::Refused;
                }
                stands.iter().all(|branch| model.is_empty_dir(*branch, target))
            }
            _ => {
                if stands.first().is_some_and(is_dir) {
                    return Expect::Refused;
                }
                !stands.iter().any(is_dir)
            }
        };
        if makes_way && parts.iter().all(|branch| inside(*branch)) {
            Expect::Made
        } else {
            Expect::Either
        }
    }

    pub(super) fn cross(&mut self) {
        let Some(asked) = self.crossing() else { return self.change() };
        let before = self.model.clone();
        let mut after = before.clone();
        let Asked { source_domain, target_domain, source, target, member, expect } = &asked;
        let arriving = before.merged(source_domain, source);
        let parts = before.parts(source_domain, source).len();
        let mut taken = after.cross((source_domain, source), (target_domain, target), *member);
        check_view(&before, &after, &asked, &arriving);
        self.keep_held(taken.displaced.iter().map(|(_, _, tree)| tree));
        let request = self.request_of(&asked);
        let made = self.act(asked.to_string(), *expect, after, |lab| {
            let prepared = lab.mover.prepare(request)?;
            lab.mover.commit(prepared)
        });
        let Some(crossed) = made else { return };
        let is_tree = matches!(arriving.get(Path::new("")), Some(Node::Directory(_)));
        self.counts.files_crossed += usize::from(!is_tree);
        self.counts.trees_crossed += usize::from(is_tree);
        self.counts.merged_crossed += usize::from(parts > 1);
        self.counts.displaced += taken.displaced.len();
        taken.same_filesystem = crossed.same_filesystem;
        self.taken.insert(crossed.txid, taken);
        self.fresh = Some((crossed.txid, before));
    }

    fn keep_held<'a>(&mut self, trees: impl Iterator<Item = &'a Tree>) {
        for node in trees.flat_map(|tree| tree.values()) {
            if let Node::File(number) = node {
                self.held.insert(*number);
            }
        }
    }

    fn request_of(&self, asked: &Asked) -> CrossingRequest<Disk> {
        let terms = GateTerms {
            types: Vec::new(),
            max_size: None,
            verify: Verify::Readback,
            lossy: Default::default(),
            checks: Vec::new(),
        };
        let terms = Arc::new(terms);
        let lab = self.lab();
        let parts = self.model.parts(asked.source_domain, &asked.source);
        let sources = parts.into_iter().map(|branch| SourcePart {
            name: name(lab, asked.source_domain, branch, &asked.source),
            gate: "submit".to_owned(),
            terms: Arc::clone(&terms),
        });
        let reaching = self.model.reaching(asked.target_domain, &asked.target);
        let shadows = reaching.into_iter().filter(|branch| *branch != asked.member);
        let target = |branch| name(lab, asked.target_domain, branch, &asked.target);
        CrossingRequest {
            caller: AUTHOR,
            exe: None,
            sources: sources.collect(),
            target: target(asked.member),
            target_shadows: shadows.map(target).collect(),
            no_replace: false,
            admit: Arc::new(|_| Ok(())),
        }
    }

    /// Prepares a crossing and gives it up.
    pub(super) fn give_up(&mut self) {
        let Some(asked) = self.crossing() else { return };
        let request = self.request_of(&asked);
        let what = format!("give up: {asked}");
        self.act(what, Expect::Either, self.model.clone(), |lab| {
            lab.mover.prepare(request).map(drop)
        });
    }

    /// A rename within the pool, or within one branch.
    pub(super) fn rearrange(&mut self) {
        let domain = if self.random.one_in(6) { DOMAINS[0] } else { DOMAINS[1] };
        let seen = self.model.view(domain);
        let Some(source) = self.any_of(&seen, |_, _| true) else { return self.change() };
        let target = self.any_path(&seen);
        if target.starts_with(&source) || source.starts_with(&target) {
            return self.change();
        }
        let parts = self.model.parts(domain, &source);
        let directory = self.model.is_dir(parts[0], &source);
        if self
            .model
            .parts(domain, &target)
            .first()
            .is_some_and(|first| self.model.is_dir(*first, &target) != directory)
        {
            return self.change();
        }
        let (moves, shadows): (Vec<usize>, Vec<usize>) =
            parts.iter().copied().partition(|branch| {
                if directory { self.model.is_dir(*branch, &source) } else { *branch == parts[0] }
            });
        for branch in &moves {
            if !self.make_parents(*branch, &target) {
                return;
            }
        }
        let stands = self.model.parts(domain, &target);
        let displace: Vec<(usize, PathBuf)> = shadows
            .iter()
            .rev()
            .map(|branch| (*branch, source.clone()))
            .chain(stands.iter().rev().map(|branch| (*branch, target.clone())))
            .collect();
        let full = |(branch, path): &(usize, PathBuf)| {
            self.model.is_dir(*branch, path) && !self.model.is_empty_dir(*branch, path)
        };
        let expect = if displace.iter().any(full) { Expect::Refused } else { Expect::Made };
        let mut after = self.model.clone();
        let arriving = after.merged(domain, &source);
        after.rearrange(&source, &target, &moves, &displace);
        let what = format!(
            "rearrange {domain:?} {} to {}: {moves:?}, {displace:?}",
            show(&source),
            show(&target)
        );
        if expect == Expect::Made {
            let (source, target) = (source.clone(), target.clone());
            let asked = Asked {
                source_domain: domain,
                target_domain: domain,
                source,
                target,
                member: 0,
                expect,
            };
            check_view(&self.model, &after, &asked, &arriving);
        }
        let lab = self.lab();
        let at = |branch: usize, path: &Path| name(lab, domain, branch, path);
        let request = RearrangeRequest {
            caller: AUTHOR,
            exe: None,
            source: view_of(domain, &source),
            target: view_of(domain, &target),
            moves: moves
                .iter()
                .map(|branch| (at(*branch, &source), at(*branch, &target)))
                .collect(),
            displace: displace.iter().map(|(branch, path)| at(*branch, path)).collect(),
        };
        let made = self.act(what, expect, after, |lab| lab.mover.rearrange(request));
        self.counts.rearranged += usize::from(made.is_some());
    }

    pub(super) fn undo(&mut self) {
        let fresh = self.fresh.clone().filter(|_| self.random.one_in(2) || self.taken.len() < 2);
        let some: Vec<TxId> = self.taken.keys().copied().collect();
        let Some(txid) = fresh.as_ref().map(|(txid, _)| *txid).or(self.random.pick(&some).copied())
        else {
            return self.change();
        };
        let taken = self.taken[&txid].clone();
        let (expect, after) = match self.taken_back(&taken) {
            None => (Expect::Refused, self.model.clone()),
            Some(after) if fresh.is_some() => (Expect::Made, after),
            Some(after) => (Expect::Either, after),
        };
        if let Some((_, before)) = &fresh {
            let all = |model: &Model| -> Vec<_> {
                model.trees.iter().map(|tree| model.shown(tree)).collect()
            };
            assert_eq!(all(&after), all(before), "an undo is not what it undoes");
        }
        let (branch, path) = &taken.target;
        let retired = self.model.subtree(*branch, path);
        self.keep_held(std::iter::once(&retired));
        let what = format!("undo {txid} of b{branch}:{}", show(path));
        let made = self.act(what, expect, after, |lab| {
            let prepared = lab.mover.prepare_undo(AUTHOR, None, false, txid, &any())?;
            lab.mover.commit(prepared)
        });
        self.counts.undone += usize::from(made.is_some());
        let undone = self.lab().mover.with_journal(|journal| {
            journal.get(txid).is_none_or(|found| found.undone_by.is_some())
        });
        if undone {
            self.taken.remove(&txid);
        }
    }

    /// What an undo should leave; none where it must be refused.
    fn taken_back(&self, taken: &Taken) -> Option<Model> {
        let mut without = self.model.clone();
        let (branch, path) = &taken.target;
        let arrived = without.remove(*branch, path);
        let told = |mut shown: Picture| {
            shown.values_mut().for_each(Shown::forget_attributes);
            shown
        };
        if told(self.model.shown(&arrived)) != told(taken.arrived.clone()) {
            return None;
        }
        let homes = taken.retired.iter().chain(&taken.displaced);
        for (branch, path, _) in homes {
            let parent = path.parent().unwrap();
            if without.node(*branch, path).is_some() || !without.is_dir(*branch, parent) {
                return None;
            }
        }
        let mut after = self.model.clone();
        after.uncross(taken);
        Some(after)
    }

    pub(super) fn purge(&mut self) {
        let now = jiff::Timestamp::now() + jiff::SignedDuration::from_hours(1);
        self.act("purge".to_owned(), Expect::Either, self.model.clone(), |lab| {
            lab.mover.purge(now, std::time::Duration::ZERO);
            Ok(())
        });
        self.taken.clear();
        self.fresh = None;
    }
}

/// A crossing, before it is asked for.
struct Asked {
    source_domain: &'static [usize],
    target_domain: &'static [usize],
    source: PathBuf,
    target: PathBuf,
    member: usize,
    expect: Expect,
}

impl std::fmt::Display for Asked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { source_domain, target_domain, source, target, member, .. } = self;
        let (source, target) = (source.display(), target.display());
        write!(f, "cross {source_domain:?}:{source} to {target_domain:?}:{target} on b{member}")
    }
}

/// What users see changes at the two names only: what they saw at the source is at the target.
#[track_caller]
fn check_view(before: &Model, after: &Model, asked: &Asked, arriving: &Tree) {
    let plain = |model: &Model, domain: &[usize]| {
        let mut shown = model.shown(&model.view(domain));
        for thing in shown.values_mut() {
            thing.forget_links();
        }
        shown
    };
    for domain in DOMAINS {
        let mut expected = plain(before, domain);
        if domain == asked.source_domain {
            expected.retain(|path, _| !path.starts_with(&asked.source));
        }
        if domain == asked.target_domain {
            expected.retain(|path, _| !path.starts_with(&asked.target));
            let mut shown = before.shown(arriving);
            for thing in shown.values_mut() {
                thing.forget_links();
            }
            let placed = shown.into_iter();
            expected.extend(
                placed.map(|(rest, thing)| (super::trees::join(&asked.target, &rest), thing)),
            );
        }
        assert_eq!(plain(after, domain), expected, "the model itself is wrong: {asked}");
    }
}
