//! A branch leaves the view for good: it was adopted anew, or is in the configuration no more.

use super::*;

pub(super) const OLD: &[u8] = b"what stood there";
pub(super) const PERSON: Caller = Caller { uid: 0, gid: 0, pid: 9 };
/// A crossing takes fewer steps; a test that gets here hangs.
pub(super) const STEPS_MAX: u64 = 500;

impl World {
    /// Without the branch of the targets.
    fn bereft(self) -> Self {
        self.bereft_of(1)
    }

    fn bereft_of(self, branch: usize) -> Self {
        self.without(&[branch])
    }

    pub(super) fn without(self, branches: &[usize]) -> Self {
        for branch in branches {
            self.mover.branch_left(BranchIndex(*branch as u16));
        }
        let left = (0..UUIDS.len()).filter(|branch| !branches.contains(branch));
        self.mover.set_configured(left.map(|branch| UUIDS[branch]).collect());
        self
    }

    /// It is at its source and at its target.
    pub(super) fn is_seen_twice(&self) -> bool {
        let new = Some(new_content());
        self.get(0, "f") == new && self.get(1, "sub/g") == new
    }

    /// All that is there, and what the ledger says: where two are the same, the same comes of them.
    fn image(&self) -> Vec<String> {
        let mut image = self.mover.with_journal(|journal| {
            journal.iter().map(|found| format!("{found:?}")).collect::<Vec<_>>()
        });
        for (at, root) in self.roots.iter().enumerate() {
            for folder in ["", "sub", ".octroi/stage", ".octroi/hold"] {
                let dir = self.disk.open_dir(root, Path::new(folder)).unwrap();
                for name in self.disk.list(&dir).unwrap() {
                    let found = self.disk.stat(&dir, &name).unwrap();
                    let content = content(&self.disk, &dir, &name).unwrap();
                    let hash = sum_of(&content);
                    image.push(format!("{at} {folder} {name:?} {found:?} {hash}"));
                }
            }
        }
        image
    }

    /// The disks after a power loss, or a clean stop.
    pub(super) fn on(disk: Disk, same: bool) -> Self {
        start(disk.shared(), same).unwrap()
    }
}

/// The power goes at each step. What was decided is a person's, who can have the source back.
#[test]
fn no_crossing_waits_for_a_branch_that_left_for_good() {
    let mut dead = 0;
    for step in 0..STEPS_MAX {
        let world = new_world(Names::Journal, false);
        world.put(0, "f", &new_content());
        world.put(1, "sub/g", OLD);
        let request = world.request("f", "sub/g");
        let first = world.disk.steps() + step;
        world.disk.fail_at(first, Fault::Crash);
        let _ = world.cross_as(request);
        if world.disk.steps() <= first {
            assert!(dead > 3, "{dead} in {step} steps");
            return;
        }
        let world = start(world.disk.crash(0).shared(), false).unwrap().bereft();
        let recovery = world.mover.recover();
        assert!(recovery.left_open.is_empty() && recovery.locked.is_empty(), "{recovery:?}");
        assert!(recovery.completed.is_empty(), "step {step}: taken for completed: {recovery:?}");
        for (txid, why) in &recovery.dead {
            dead += 1;
            assert!(why.contains("no branch of the view has the id"), "{why}");
            let found = world.mover.examine(*txid);
            assert!(found.iter().any(|one| matches!(one.found, Found::Past(_))), "{found:?}");
            let settled = world.mover.settle(PERSON, None, *txid, Settle::Withdraw);
            assert!(matches!(settled, Ok(Settled::Dead(_))), "{settled:?}");
            assert_eq!(world.get(0, "f"), Some(new_content()), "step {step}");
            let settle = |wish| world.mover.settle(PERSON, None, *txid, wish);
            let refused = settle(Settle::Discard);
            assert!(matches!(refused, Err(LetterError::InVain { .. })), "{refused:?}");
            assert_eq!(settle(Settle::Accept), Ok(Settled::Accepted));
            let refused = settle(Settle::Discard);
            assert!(
                matches!(refused, Err(LetterError::InVain { .. })),
                "it may come back: {refused:?}"
            );
        }
        let held = world.private(0, "hold").contains(&new_content());
        assert!(held || world.get(0, "f") == Some(new_content()), "step {step}: it is lost");
    }
    panic!("a crossing does not end");
}

/// What has arrived stays, also when a person asks for it to be taken back; what has not is kept in stage.
#[test]
fn what_has_arrived_stays_where_the_sources_branch_left_for_good() {
    let (mut arrived, mut kept) = (0, 0);
    for step in 0..STEPS_MAX {
        let world = new_world(Names::Journal, false);
        world.put(0, "f", &new_content());
        world.put(1, "sub/g", OLD);
        let request = world.request("f", "sub/g");
        let first = world.disk.steps() + step;
        world.disk.fail_at(first, Fault::Crash);
        let _ = world.cross_as(request);
        if world.disk.steps() <= first {
            assert!(arrived > 0 && kept > 0, "{arrived} and {kept} in {step} steps");
            return;
        }
        let world = World::on(world.disk.crash(0), false).bereft_of(0);
        let told = world.mover.inspect();
        let recovery = world.mover.recover();
        assert!(recovery.left_open.is_empty(), "{recovery:?}");
        for (txid, _) in &recovery.dead {
            let told = told.iter().find_map(|one| match one {
                Irregularity::Unfinished(found, Outlook::NeedsPerson(why)) if found == txid => {
                    Some(why)
                }
                _ => None,
            });
            let why = told.expect("fsck says what the mount does");
            assert!(why.contains("no branch of the view has the id"), "{why}");
        }
        assert!(recovery.completed.is_empty(), "step {step}: nobody knows that: {recovery:?}");
        for (txid, _) in &recovery.dead {
            let there = world.get(1, "sub/g") == Some(new_content());
            let refused = world.mover.settle(PERSON, None, *txid, Settle::Retry);
            assert!(matches!(refused, Err(LetterError::InVain { .. })), "{refused:?}");
            let withdrawn = world.mover.settle(PERSON, None, *txid, Settle::Withdraw);
            if there {
                arrived += 1;
                assert!(matches!(withdrawn, Err(LetterError::InVain { .. })), "{withdrawn:?}");
                assert_eq!(world.get(1, "sub/g"), Some(new_content()), "step {step}");
                continue;
            }
            kept += 1;
            withdrawn.unwrap();
            assert_eq!(world.get(1, "sub/g"), Some(OLD.to_vec()), "step {step}");
            assert!(world.private(1, "stage").contains(&new_content()), "step {step}: it is lost");
        }
    }
    panic!("a crossing does not end");
}

/// What a test has made when the power goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Made {
    Crossing {
        same: bool,
    },
    /// Of one that replaced nothing: nothing takes its name then.
    Undo,
}

impl Made {
    pub(super) fn same(self) -> bool {
        self == Self::Crossing { same: true }
    }

    /// The disks after the power has gone at a step, if it has that many.
    fn cut(self, step: u64) -> Option<World> {
        let world = new_world(Names::Independent, self.same());
        world.put(0, "f", &new_content());
        if self != Self::Undo {
            world.put(1, "sub/g", OLD);
        }
        let crossed = (self == Self::Undo).then(|| world.cross("f", "sub/g").unwrap().txid);
        world.mover.ledger.flush().unwrap();
        world.disk.sync_all();
        let request = crossed.is_none().then(|| world.request("f", "sub/g"));
        let first = world.disk.steps() + step;
        world.disk.fail_at(first, Fault::Crash);
        match (request, crossed) {
            (Some(request), _) => drop(world.cross_as(request)),
            (None, Some(crossed)) => drop(world.undo(crossed)),
            (None, None) => unreachable!("it is one or the other"),
        }
        assert!(step < STEPS_MAX, "{self:?} does not end");
        (world.disk.steps() > first).then_some(world)
    }
}

/// Branches leave the configuration after a power loss and come back with the next mount; a person does this or
/// that meanwhile. What crossed is never at both ends then, and nothing is lost.
#[test]
fn a_branch_that_was_out_and_is_back_shows_nothing_twice() {
    let crossing = |same| Made::Crossing { same };
    let wishes = [
        &[][..],
        &[Settle::Retry],
        &[Settle::Withdraw],
        &[Settle::Accept],
        &[Settle::Withdraw, Settle::Accept],
    ];
    for made in [crossing(false), crossing(true), Made::Undo] {
        for out in [&[0][..], &[1], &[0, 1]] {
            let (mut apart, mut step) = (0, 0);
            while let Some(world) = made.cut(step) {
                let mut images = HashSet::new();
                for seed in 0..4 {
                    if !images.insert(World::on(world.disk.crash(seed), made.same()).image()) {
                        continue;
                    }
                    for wish in wishes {
                        let context = format!("{made:?} {out:?} {wish:?} step {step} seed {seed}");
                        let found = World::on(world.disk.crash(seed), made.same()).without(out);
                        let dead = found.mover.recover().dead;
                        assert!(found.mover.left_open().is_empty(), "{context}");
                        let twice = found.is_seen_twice();
                        apart += usize::from(twice);
                        let letter = dead.first().filter(|_| twice || seed == 0);
                        for (wish, (txid, _)) in wish.iter().zip(letter.into_iter().cycle()) {
                            let _ = found.mover.settle(PERSON, None, *txid, *wish);
                        }
                        found.disk.sync_all();
                        let back = found.restart(made.same());
                        let recovery = back.mover.recover();
                        check_back(back, made, &format!("{context}: {dead:?}, {recovery:?}"));
                        if letter.is_none() {
                            break;
                        }
                    }
                }
                step += 1;
            }
            assert!(apart > 0, "{made:?} {out:?}: nothing was at both ends in {step} steps");
        }
    }
}

#[track_caller]
fn check_back(world: World, made: Made, context: &str) {
    assert!(!world.is_seen_twice(), "{context}: it is at both ends");
    assert!(world.mover.left_open().is_empty(), "{context}: it is open");
    let places = world.places().concat();
    assert!(places.contains(&new_content()), "{context}: it is lost");
    let old = made == Made::Undo || places.contains(&OLD.to_vec());
    assert!(old, "{context}: what it replaced is lost");
    let world = world.restart(made.same());
    assert_eq!(world.mover.recover(), Recovery::default(), "{context}: the second recovery");
    assert_eq!(world.places().concat().len(), places.len(), "{context}");
}

/// A crossing that has arrived though its source still stands on a branch that left.
pub(super) fn seen_twice(made: Made, out: usize) -> Vec<(World, TxId)> {
    dead_after(made, out, World::is_seen_twice)
}

/// The dead letters of power losses after which a branch is out and all is as `wanted`.
pub(super) fn dead_after(
    made: Made,
    out: usize,
    wanted: impl Fn(&World) -> bool,
) -> Vec<(World, TxId)> {
    let (mut found, mut step) = (Vec::new(), 0);
    while let Some(world) = made.cut(step) {
        for seed in 0..4 {
            let after = World::on(world.disk.crash(seed), made.same()).bereft_of(out);
            let dead = after.mover.recover().dead;
            if let Some((txid, _)) = dead.first().filter(|_| wanted(&after)) {
                after.disk.sync_all();
                found.push((after, *txid));
            }
        }
        step += 1;
    }
    assert!(!found.is_empty(), "{made:?}: no power loss does that");
    found
}

/// Where the branch is in the view again the crossing is done, and can be undone; also when the power goes on
/// the way, and when the branch comes only later.
#[test]
fn what_is_left_of_it_goes_to_hold_when_its_branch_is_back() {
    let made = Made::Crossing { same: false };
    for (world, txid) in seen_twice(made, 0) {
        for step in 0..STEPS_MAX {
            let found = world.disk.crash(step).shared();
            found.fail_at(step, Fault::Crash);
            if let Some(world) = start(Arc::clone(&found), false) {
                world.mover.recover();
            }
            let world = World::on(found.crash(step), false);
            world.mover.recover();
            assert!(!world.is_seen_twice(), "step {step}");
            assert_eq!(world.state(txid), Some(TransactionState::Done), "step {step}");
            if found.steps() <= step {
                world.undo(txid).unwrap();
                assert_eq!(world.get(0, "f"), Some(new_content()));
                assert_eq!(world.get(1, "sub/g"), Some(OLD.to_vec()));
                break;
            }
        }
        let mut world = World::on(world.disk.crash(0), false);
        let source = world.mover.branches[0].swap(None).unwrap();
        assert_eq!(world.mover.recover(), Recovery::default(), "it is only offline");
        world.mover.branch_returned(Arc::try_unwrap(source).ok().unwrap());
        assert_eq!(world.state(txid), Some(TransactionState::Done));
        assert!(!world.is_seen_twice());
        world = world.restart(false);
        assert_eq!(world.mover.recover(), Recovery::default());
    }
}

/// A branch that returns goes on with what it has a part in itself, and with nothing else.
#[test]
fn a_branch_that_returns_leaves_the_rests_of_others_alone() {
    let (world, txid) = seen_twice(Made::Crossing { same: false }, 0).swap_remove(0);
    let world = world.restart(false);
    let leave = |branch: usize| world.mover.branches[branch].swap(None).unwrap();
    let returns = |branch| world.mover.branch_returned(Arc::try_unwrap(branch).ok().unwrap());
    let source = leave(0);
    assert_eq!(world.mover.recover(), Recovery::default(), "it is only offline");
    // Its other name is in hold.
    world.disk.unlink(&world.roots[0], OsStr::new("f")).unwrap();
    assert_eq!(world.private(0, "hold"), [new_content()]);
    let other = leave(2);
    world.mover.branches[0].store(Some(source));
    assert_eq!(returns(other), Recovery::default());
    assert_eq!(world.state(txid), Some(TransactionState::Dead));
    assert_eq!(returns(leave(0)).completed, [txid]);
    assert_eq!(world.state(txid), Some(TransactionState::Done));
}

/// A file that may still stand on a branch that is out would be there twice, and nobody be asked.
#[test]
fn nothing_is_discarded_that_waits_for_a_branch() {
    for accepted in [false, true] {
        let (world, txid) = seen_twice(Made::Crossing { same: false }, 0).swap_remove(0);
        let settle = |world: &World, wish| world.mover.settle(PERSON, None, txid, wish);
        if accepted {
            settle(&world, Settle::Accept).unwrap();
        }
        let (state, places) = (world.state(txid), world.places());
        let refused = settle(&world, Settle::Discard);
        assert!(matches!(refused, Err(LetterError::InVain { .. })), "{refused:?}");
        assert_eq!((world.state(txid), world.places()), (state, places));
        let world = world.restart(false);
        world.mover.recover();
        assert!(!world.is_seen_twice());
        assert_eq!(world.private(0, "hold"), [new_content()]);
        if accepted {
            assert_eq!(settle(&world, Settle::Discard), Ok(Settled::Accepted));
            assert_eq!(world.private(0, "hold"), [] as [Vec<u8>; 0]);
        }
        assert_eq!(world.get(1, "sub/g"), Some(new_content()));
    }
}

/// Nobody can tell whether what crossed is there: it is not asked for back, for it might be seen twice then.
#[test]
fn nothing_is_taken_back_while_the_targets_branch_cannot_be_looked_at() {
    let (world, txid) = seen_twice(Made::Crossing { same: false }, 0).swap_remove(0);
    world.mover.branch_left(BranchIndex(1));
    let refused = world.mover.settle(PERSON, None, txid, Settle::Withdraw);
    assert!(matches!(refused, Err(LetterError::InVain { .. })), "{refused:?}");
    assert_eq!(world.state(txid), Some(TransactionState::Dead));
}

/// A source goes to hold only where the copy is seen: not where the target's branch is offline, nor where it has
/// been restored from a backup without it.
#[test]
fn a_source_stays_where_its_copy_is_not_seen() {
    let made = Made::Crossing { same: false };
    let (world, txid) = seen_twice(made, 0).swap_remove(0);
    let world = world.restart(false);
    world.mover.branch_left(BranchIndex(1));
    assert_eq!(world.mover.recover(), Recovery::default());
    assert_eq!(world.get(0, "f"), Some(new_content()));
    let world = world.restart(false);
    assert_eq!(world.mover.recover().completed, [txid]);

    let (world, txid) = seen_twice(made, 0).swap_remove(0);
    world.disk.unlink(&world.dir(1, "sub/g"), OsStr::new("g")).unwrap();
    world.disk.sync_all();
    let world = world.restart(false);
    let dead = world.mover.recover().dead;
    assert_eq!(dead.first().map(|(dead, _)| *dead), Some(txid), "{dead:?}");
    assert_eq!(world.get(0, "f"), Some(new_content()));
    assert_eq!(world.mover.recover(), Recovery::default());
    assert_eq!(world.get(0, "f"), Some(new_content()));
}

/// Somebody has used the source meanwhile, elsewhere: both are kept where they are, and a person is asked once.
#[test]
fn a_source_that_was_changed_while_its_branch_was_out_is_a_persons() {
    for accepted in [false, true] {
        for (world, txid) in seen_twice(Made::Crossing { same: false }, 0) {
            if accepted {
                world.mover.settle(PERSON, None, txid, Settle::Accept).unwrap();
            }
            let file = world.disk.open_write(&world.roots[0], OsStr::new("f")).unwrap();
            world.disk.write_at(&file, b"changed", 0).unwrap();
            world.disk.sync_all();
            let changed = world.get(0, "f");
            let world = world.restart(false);
            let recovery = world.mover.recover();
            assert_eq!(recovery.dead.len(), usize::from(!accepted), "{recovery:?}");
            for _ in 0..2 {
                assert_eq!(world.get(0, "f"), changed);
                assert_eq!(world.get(1, "sub/g"), Some(new_content()));
                assert_eq!(world.mover.recover(), Recovery::default());
            }
            assert!(accepted || world.mover.settle(PERSON, None, txid, Settle::Accept).is_ok());
        }
    }
}

/// The target's branch is out when the source's is back: the source is all that there is.
#[test]
fn a_source_stays_while_the_targets_branch_is_out() {
    for (world, txid) in seen_twice(Made::Crossing { same: false }, 0) {
        let world = world.restart(false).bereft_of(1);
        assert_eq!(world.mover.recover(), Recovery::default());
        assert_eq!(world.get(0, "f"), Some(new_content()));
        let world = world.restart(false);
        assert_eq!(world.mover.recover().completed, [txid]);
        assert!(!world.is_seen_twice());
    }
}

/// Where its copy was to come is not known by its id yet: the branch may be there by another name.
#[test]
fn what_was_not_decided_waits_for_no_branch() {
    let world = new_world(Names::Journal, false);
    world.put(0, "f", &new_content());
    std::mem::forget(world.mover.prepare(world.request("f", "sub/g")).unwrap());
    world.mover.ledger.flush().unwrap();
    let world = start(world.disk.after_kill().shared(), false).unwrap();
    let target = world.mover.branch(BranchIndex(1)).unwrap();
    world.mover.branch_left(BranchIndex(1));
    let recovery = world.mover.recover();
    assert_eq!((recovery.aborted.len(), recovery.left_open.len()), (1, 0), "{recovery:?}");
    assert_eq!(world.private(1, "stage").len(), 1);
    let renamed =
        MoverBranch { name: "renamed".to_owned(), ..Arc::try_unwrap(target).ok().unwrap() };
    assert_eq!(world.mover.branch_returned(renamed).swept, 1);
    assert!(world.private(1, "stage").is_empty());
    world.cross("f", "sub/g").unwrap();
}

#[test]
fn hold_is_emptied_of_what_crossed_to_it() {
    let world = new_world(Names::Journal, false);
    world.put(0, "f", &new_content());
    world.put(1, "sub/g", OLD);
    world.cross("f", "sub/g").unwrap();
    let later = jiff::Timestamp::now() + std::time::Duration::from_secs(10);
    world.mover.branch_left(BranchIndex(1));
    let keep = std::time::Duration::from_secs(1);
    assert_eq!(world.mover.purge(later, keep), Purged::default(), "the branch may come back");
    let world = world.bereft();
    assert_eq!(world.mover.purge(later, keep).transactions.len(), 1);
    assert!(world.private(0, "hold").is_empty());
}

#[test]
fn an_undo_that_would_need_it_says_so() {
    for left in 0..2 {
        let world = new_world(Names::Journal, false);
        world.put(0, "f", &new_content());
        let txid = world.cross("f", "sub/g").unwrap().txid;
        world.mover.branch_left(BranchIndex(left));
        let undo = || world.mover.prepare_undo(AUTHOR, None, false, txid, &any()).map(drop);
        assert!(matches!(undo(), Err(CrossingError::Offline { .. })), "it may come back");
        let world = world.bereft_of(usize::from(left));
        let undone = world.mover.prepare_undo(AUTHOR, None, false, txid, &any()).map(drop);
        let uuid = UUIDS[usize::from(left)];
        assert_eq!(undone, Err(CrossingError::NoBranch { uuid, name: None }));
    }
}
