//! One machine and what it should hold: faults, recovery and comparison.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;

use super::super::lab::Lab;
use super::trees::{DEVICES, Model, Picture, Shown, Taken};
use super::*;

/// What must come of an operation if nothing fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Expect {
    Made,
    Refused,
    Either,
}

/// What happened in all runs.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) steps: usize,
    pub(super) files_crossed: usize,
    pub(super) trees_crossed: usize,
    pub(super) merged_crossed: usize,
    pub(super) displaced: usize,
    pub(super) rearranged: usize,
    pub(super) undone: usize,
    pub(super) refused: usize,
    pub(super) power_losses: usize,
    pub(super) made_by_recovery: usize,
    pub(super) failed_calls: usize,
}

pub(super) struct Run {
    seed: u64,
    pub(super) random: Random,
    /// Absent only while the machine is restarted.
    lab: Option<Lab>,
    pub(super) model: Model,
    /// Files written so far, which makes contents unique.
    pub(super) written: u64,
    /// What crossings took that may be undone.
    pub(super) taken: BTreeMap<TxId, Taken>,
    /// The crossing that was the last operation, and how all was before it.
    pub(super) fresh: Option<(TxId, Model)>,
    /// Files that may have a link in hold.
    pub(super) held: BTreeSet<u64>,
    /// A call failed since the last recovery: stage and hold may hold more than they should.
    untidy: bool,
    notes: Vec<String>,
    pub(super) counts: Counts,
}

impl Drop for Run {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let last = self.notes.len().saturating_sub(25);
            eprintln!("OCTROI_MODEL_SEED={}\n{}", self.seed, self.notes[last..].join("\n"));
        }
    }
}

impl Run {
    pub(super) fn new(seed: u64) -> Self {
        let names = if seed.is_multiple_of(3) { Names::Journal } else { Names::Independent };
        Self {
            seed,
            random: Random((seed + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1),
            lab: Some(Lab::new(names, &DEVICES)),
            model: Model::new(),
            written: 0,
            taken: BTreeMap::new(),
            fresh: None,
            held: BTreeSet::new(),
            untidy: false,
            notes: Vec::new(),
            counts: Counts::default(),
        }
    }

    pub(super) fn lab(&self) -> &Lab {
        self.lab.as_ref().expect("the machine runs")
    }

    pub(super) fn note(&mut self, what: String) {
        self.notes.push(what);
    }

    pub(super) fn step(&mut self) {
        self.counts.steps += 1;
        let choice = self.random.below(100);
        let fresh = self.fresh.clone();
        match choice {
            0..50 => self.change(),
            50..70 => self.cross(),
            70..82 => self.rearrange(),
            82..90 => self.undo(),
            90..92 => self.purge(),
            92..94 => self.give_up(),
            94..98 => {
                self.note("the power goes".to_owned());
                self.lose_power(vec![self.model.clone()]);
            }
            _ => self.restart(),
        }
        // Only what leaves everything as it was keeps a crossing fresh.
        if choice < 94 && self.fresh.as_ref().map(|(txid, _)| *txid) == fresh.map(|(txid, _)| txid)
        {
            self.fresh = None;
        }
    }

    /// The last comparison, and what happened.
    pub(super) fn end(mut self) -> Counts {
        self.check();
        std::mem::take(&mut self.counts)
    }

    /// Runs an operation of the mover, perhaps with a fault at some step, and holds the result against
    /// `after`, or what was before. Gives what the operation gave, if it was made and said so.
    pub(super) fn act<T>(
        &mut self,
        what: String,
        expect: Expect,
        after: Model,
        operation: impl FnOnce(&Lab) -> Result<T, CrossingError>,
    ) -> Option<T> {
        let fault = self.plan_fault();
        let outcome = operation(self.lab());
        let struck = self.lab().disk.take_faults();
        let told = outcome.as_ref().map(|_| "made").map_err(ToString::to_string);
        let fault = fault.filter(|_| struck);
        self.note(format!("{what}: expect {expect:?}, {fault:?}: {told:?}"));
        let before = std::mem::replace(&mut self.model, after.clone());
        match fault {
            None => self.expected(expect, &outcome, before),
            Some((_, Fault::Crash)) => {
                self.counts.power_losses += 1;
                let made = outcome.is_ok();
                let candidates = if made { vec![after] } else { vec![before, after] };
                let found = self.lose_power(candidates);
                self.counts.made_by_recovery += usize::from(!made && found == 1);
            }
            Some((step, Fault::Errno(_))) => self.after_failed_call(step, &outcome, before),
            Some((_, fault)) => unreachable!("{fault:?} is not planned"),
        }
        outcome.ok()
    }

    fn plan_fault(&mut self) -> Option<(u64, Fault)> {
        let fault = match self.random.below(20) {
            0..6 => Fault::Crash,
            6..8 => Fault::Errno(Errno::IO),
            8 => Fault::Errno(Errno::NOSPC),
            _ => return None,
        };
        // Short operations as often as long ones.
        let span = 4 << self.random.below(7);
        let step = self.random.below(span) as u64;
        let disk = &self.lab().disk;
        disk.keep_log();
        let step = disk.steps() + step;
        disk.fail_at(step, fault);
        Some((step, fault))
    }

    fn expected<T>(&mut self, expect: Expect, outcome: &Result<T, CrossingError>, before: Model) {
        match outcome {
            Ok(_) => assert_ne!(expect, Expect::Refused, "it was made"),
            Err(error) => {
                assert_ne!(expect, Expect::Made, "{error}");
                let decided = matches!(
                    error,
                    CrossingError::Dead { .. }
                        | CrossingError::InDoubt { .. }
                        | CrossingError::LeftOpen { .. }
                );
                assert!(!decided, "nothing failed, and: {error}");
                self.counts.refused += 1;
                self.model = before;
            }
        }
        self.check();
    }

    /// One call failed and the machine went on: all was made or nothing, and what is said holds.
    fn after_failed_call<T>(
        &mut self,
        step: u64,
        outcome: &Result<T, CrossingError>,
        before: Model,
    ) {
        self.counts.failed_calls += 1;
        self.untidy = true;
        let after = self.model.clone();
        let failed = format!("{step}: ");
        let log = self.lab().disk.log();
        let call = log.iter().find(|line| line.starts_with(&failed)).cloned().unwrap_or_default();
        self.note(format!("  failed call: {call}"));
        let unsure =
            matches!(outcome, Err(CrossingError::InDoubt { .. } | CrossingError::LeftOpen { .. }));
        if unsure {
            self.lose_power(vec![before, after]);
            return;
        }
        if let Err(error) = outcome {
            assert!(!matches!(error, CrossingError::Dead { .. }), "one call failed: {error}");
            self.model = before;
        }
        self.check();
        // A disk whose sync failed lies from then on.
        if call.contains("sync") || self.random.one_in(2) {
            self.lose_power(vec![self.model.clone()]);
        } else {
            self.restart();
        }
    }

    /// The power goes and comes back, perhaps again during recovery. Gives which candidate was found.
    pub(super) fn lose_power(&mut self, candidates: Vec<Model>) -> usize {
        let mut found = self.lab().disk.crash(self.random.0).shared();
        self.lab = None;
        if self.random.one_in(3) {
            let step = self.random.below(120) as u64;
            self.note(format!("  and again at step {step} of the recovery"));
            found.fail_at(step, Fault::Crash);
            if let Some(lab) = Lab::start(Arc::clone(&found), &DEVICES) {
                lab.mover.recover();
            }
            found = found.crash(self.random.0).shared();
        }
        self.lab = Some(Lab::start(found, &DEVICES).expect("starts"));
        self.recover();
        let pictures = self.pictures();
        let fits = |model: &Model| {
            let shown = model.trees.iter().map(|tree| model.shown(tree));
            pictures.iter().cloned().eq(shown)
        };
        let position = candidates.iter().position(fits);
        self.note(format!("  found candidate {position:?} of {}", candidates.len()));
        if let Some(position) = position {
            self.model = candidates.into_iter().nth(position).unwrap();
        }
        self.check();
        position.unwrap_or_default()
    }

    pub(super) fn restart(&mut self) {
        self.note("restart".to_owned());
        let lab = self.lab.take().expect("the machine runs");
        self.lab = Some(lab.restart());
        self.recover();
        self.check();
    }

    fn recover(&mut self) {
        let recovery = self.lab().mover.recover();
        self.note(format!("  {recovery:?}"));
        let Recovery { dead, left_open, unknown, .. } = &recovery;
        assert!(dead.is_empty() && left_open.is_empty(), "{recovery:?}");
        assert!(unknown.is_empty(), "{recovery:?}");
        self.untidy = false;
        if self.random.one_in(4) {
            let before = self.pictures();
            let lab = self.lab.take().expect("the machine runs");
            self.lab = Some(lab.restart());
            let second = self.lab().mover.recover();
            assert_eq!(second, Recovery::default(), "the second recovery");
            assert_eq!(self.pictures(), before, "the second recovery changed something");
        }
    }

    fn pictures(&self) -> Vec<Picture> {
        (0..DEVICES.len()).map(|branch| picture(self.lab(), branch)).collect()
    }

    pub(super) fn check(&self) {
        for branch in 0..DEVICES.len() {
            let expected = self.model.shown(&self.model.trees[branch]);
            let found = picture(self.lab(), branch);
            assert_eq!(found, expected, "b{branch} (found, expected)");
        }
        if self.untidy {
            return;
        }
        for branch in 0..DEVICES.len() {
            let names = |area: &str| -> BTreeSet<OsString> {
                let path = Path::new(".octroi").join(area);
                let lab = self.lab();
                let dir = lab.disk.open_dir(&lab.roots[branch], &path).unwrap();
                lab.disk.list(&dir).unwrap().into_iter().collect()
            };
            assert!(names("stage").is_empty(), "b{branch}: {:?} in stage", names("stage"));
            assert_eq!(names("hold"), self.kept(branch), "b{branch}: hold (found, expected)");
        }
    }

    /// What hold must have: what transactions that can be undone took, unless an undo gave it back.
    fn kept(&self, branch: usize) -> BTreeSet<OsString> {
        let uuid = BranchUuid(ulid::Ulid(1 + branch as u128));
        let in_hold = |spot: &Spot| {
            (spot.branch == uuid && spot.area == Area::Hold).then(|| spot.path.clone())
        };
        self.lab().mover.with_journal(|journal| {
            let kept = journal.iter().filter(|(_, found)| found.is_kept());
            let mut names = BTreeSet::new();
            for step in kept.flat_map(|(_, found)| &found.record.moves) {
                names.extend(in_hold(&step.to).map(PathBuf::into_os_string));
                if let Some(given_back) = in_hold(&step.from) {
                    names.remove(given_back.as_os_str());
                }
            }
            names
        })
    }
}

/// What users of a branch have.
fn picture(lab: &Lab, branch: usize) -> Picture {
    let mut found = BTreeMap::new();
    let mut open = vec![(PathBuf::new(), lab.roots[branch].clone())];
    while let Some((at, dir)) = open.pop() {
        for name in lab.disk.list(&dir).unwrap() {
            if name == ".octroi" {
                continue;
            }
            let path = at.join(&name);
            let metadata = lab.disk.stat(&dir, &name).unwrap().unwrap();
            let bytes = match metadata.kind {
                Kind::Directory => {
                    let below = lab.disk.open_dir(&dir, Path::new(&name)).unwrap();
                    open.push((path.clone(), below));
                    Vec::new()
                }
                _ => content(&lab.disk, &dir, &name).unwrap(),
            };
            found.insert(path, (metadata, bytes));
        }
    }
    let mut firsts = BTreeMap::new();
    for (path, (metadata, _)) in &found {
        firsts.entry(metadata.identity.handle.clone()).or_insert_with(|| path.clone());
    }
    let shown = |(path, (metadata, content)): (PathBuf, (crate::storage::Metadata, Vec<u8>))| {
        let mode = metadata.mode;
        let shown = match metadata.kind {
            Kind::Directory => Shown::Directory(mode),
            Kind::Symlink(text) => Shown::Symlink(text),
            _ => Shown::File { content, mode, first: firsts[&metadata.identity.handle].clone() },
        };
        (path, shown)
    };
    found.into_iter().map(shown).collect()
}

impl Counts {
    fn fields(&mut self) -> [&mut usize; 11] {
        [
            &mut self.steps,
            &mut self.files_crossed,
            &mut self.trees_crossed,
            &mut self.merged_crossed,
            &mut self.displaced,
            &mut self.rearranged,
            &mut self.undone,
            &mut self.refused,
            &mut self.power_losses,
            &mut self.made_by_recovery,
            &mut self.failed_calls,
        ]
    }

    pub(super) fn add(&mut self, other: &Self) {
        let mut other = Self { ..*other };
        for (sum, more) in self.fields().into_iter().zip(other.fields()) {
            *sum += *more;
        }
    }

    /// A model that never does what it should watch watches nothing.
    pub(super) fn check_all_happened(&mut self) {
        eprintln!("{self:?}");
        let told = format!("{self:?}");
        assert!(self.fields().into_iter().all(|count| *count >= 20), "{told}");
    }
}
