//! What waits for a branch that left is thrown away by nothing, and ends when the branch is back.

use super::past::{Made, OLD, STEPS_MAX, dead_after, seen_twice};
use super::*;

pub(super) const CROSSING: Made = Made::Crossing { same: false };

impl World {
    /// How many moves wait.
    pub(super) fn rest(&self, txid: TxId) -> usize {
        self.mover.with_journal(|journal| journal.get(txid).unwrap().rest.moves.len())
    }

    /// Somebody writes to a file.
    fn work_on(&self, branch: usize, path: &str) -> Option<Vec<u8>> {
        let name = Path::new(path).file_name().unwrap();
        let file = self.disk.open_write(&self.dir(branch, path), name).unwrap();
        self.disk.write_at(&file, b"work", 0).unwrap();
        self.disk.sync_all();
        self.get(branch, path)
    }

    /// Somebody asks for it to be taken back, and a branch leaves before it is.
    fn ask_back(&self, txid: TxId) {
        let record = self.mover.with_journal(|journal| journal.get(txid).unwrap().record.clone());
        let asked = later_step(&record, Step::Withdraw, None, String::new());
        self.mover.record(asked, Durability::Sync).unwrap();
        let recovery = self.mover.recover();
        assert_eq!(recovery.dead.len(), 1, "{recovery:?}");
        assert_eq!(self.get(1, "sub/g"), Some(new_content()), "it was taken out of the view");
    }

    pub(super) fn leave(&self, branch: usize) -> MoverBranch<Disk> {
        let left = self.mover.branches[branch].swap(None).unwrap();
        Arc::try_unwrap(left).ok().unwrap()
    }
}

/// All is made, and the branch of the target is out.
fn made_and_out() -> Vec<(World, TxId)> {
    dead_after(CROSSING, 1, |world| world.ends() == (None, Some(new_content())))
}

/// What crossed was moved on or replaced while the source's branch is out, or offline: nobody knows yet whether the
/// source stands there.
#[test]
fn what_waits_is_asked_about_only_when_its_branch_is_back() {
    for (accepted, offline) in [(false, false), (false, true), (true, false), (true, true)] {
        let context = format!("accepted: {accepted}, offline: {offline}");
        let (world, txid) = seen_twice(CROSSING, 0).swap_remove(0);
        if accepted {
            world.settle(txid, Settle::Accept).unwrap();
        }
        let folder = world.dir(1, "sub/g");
        world.disk.rename(&folder, OsStr::new("g"), &folder, OsStr::new("h")).unwrap();
        world.disk.sync_all();
        let state = world.state(txid);
        let mut world = world;
        for _ in 0..2 {
            world = world.restart(false);
            match offline {
                true => drop(world.leave(0)),
                false => world = world.without(&[0]),
            }
            assert_eq!(world.mover.recover(), Recovery::default(), "{context}");
            assert_eq!((world.state(txid), world.rest(txid)), (state, 1), "{context}");
            let refused = world.settle(txid, Settle::Discard);
            assert!(matches!(refused, Err(LetterError::InVain { .. })), "{context}: {refused:?}");
        }
        let world = world.restart(false);
        let recovery = world.mover.recover();
        assert_eq!((world.state(txid), world.rest(txid)), (state, 0), "{context}");
        let told = if accepted { recovery.accepted } else { recovery.dead };
        assert_eq!(told.len(), 1, "{context}: {told:?}");
        assert_eq!(world.get(0, "f"), Some(new_content()), "{context}");
        assert_eq!(world.get(1, "sub/h"), Some(new_content()), "{context}");
        assert_eq!(world.mover.recover(), Recovery::default(), "{context}");
    }
}

/// Users have written to what arrived, and somebody has asked for it to be taken back before the branch left: the
/// work stays, and its source goes to hold.
#[test]
fn work_stays_and_its_source_is_not_shown_beside_it() {
    for (world, txid) in seen_twice(CROSSING, 0) {
        world.ask_back(txid);
        let work = world.work_on(1, "sub/g");
        let world = world.restart(false);
        world.mover.recover();
        assert_eq!(world.ends(), (None, work));
        assert_eq!(world.private(0, "hold"), [new_content()]);
    }
}

/// The source was given back while the target's branch was out, and its copy was worked on elsewhere. What was given
/// back may have another name by then.
#[test]
fn what_was_given_back_is_not_called_done() {
    for (accepted, moved_on) in [(false, false), (true, false), (false, true), (true, true)] {
        for (world, txid) in made_and_out() {
            world.settle(txid, Settle::Withdraw).unwrap();
            if accepted {
                world.settle(txid, Settle::Accept).unwrap();
            }
            let work = world.work_on(1, "sub/g");
            let top = world.dir(0, "f");
            if moved_on {
                world.disk.rename(&top, "f".as_ref(), &top, "h".as_ref()).unwrap();
                world.disk.sync_dir(&top).unwrap();
            }
            let world = world.restart(false);
            let recovery = world.mover.recover();
            assert!(recovery.completed.is_empty(), "{recovery:?}");
            let waits = if accepted { TransactionState::Accepted } else { TransactionState::Dead };
            assert_eq!((world.state(txid), world.rest(txid)), (Some(waits), 0));
            let told = if accepted { recovery.accepted } else { recovery.dead };
            assert_eq!(told.len(), 1, "{told:?}");
            let source = Some(new_content()).filter(|_| !moved_on);
            assert_eq!(world.ends(), (source, work));
            assert!(world.private(1, "hold").contains(&OLD.to_vec()));
            assert_eq!(world.mover.recover(), Recovery::default());
        }
    }
}

/// An undo brought the source home, was to be taken back while its branch was out, and somebody has worked on it.
#[test]
fn what_came_back_and_was_worked_on_is_not_taken_away() {
    let home = |world: &World| world.get(0, "f") == Some(new_content());
    for (world, txid) in dead_after(Made::Undo, 0, home) {
        let _ = world.settle(txid, Settle::Withdraw);
        let work = world.work_on(0, "f");
        let world = world.restart(false);
        let recovery = world.mover.recover();
        assert_eq!(recovery.dead.len(), 1, "{recovery:?}");
        assert_eq!(world.get(0, "f"), work);
        let keep = std::time::Duration::from_secs(1);
        world.mover.purge(jiff::Timestamp::now() + 2 * keep, keep);
        assert_eq!(world.get(0, "f"), work);
        assert_eq!(world.mover.recover(), Recovery::default());
    }
}

/// A person wants an undo taken back of which all was made, and its files were worked on, or its folder was used: what
/// it would keep for the crossing is deleted one day.
#[test]
fn an_undo_is_not_taken_back_from_under_work() {
    for folder in [false, true] {
        for worked_on in [0, 1] {
            let (world, txid) = undone_and_dead(folder, |_, _| ());
            let all = world.places();
            match (worked_on, folder) {
                (1, true) => world.put(1, "sub/g/new", b"work"),
                (1, false) => drop(world.work_on(1, "sub/g")),
                _ if folder => world.put(0, "f/new", b"work"),
                _ => drop(world.work_on(0, "f")),
            }
            let ends = world.ends();
            let settled = world.settle(txid, Settle::Withdraw).unwrap();
            assert!(matches!(settled, Settled::Dead(_)), "{folder} {worked_on}: {settled:?}");
            assert_eq!(world.ends(), ends, "{folder} {worked_on}");
            assert_eq!(world.places().concat().len(), all.concat().len());
            assert_eq!(world.settle(txid, Settle::Retry), Ok(Settled::Done));
            assert_eq!(world.ends(), ends, "{folder} {worked_on}");
        }
    }
}

/// An undo that has made all its moves, of a file or of a folder, and is a dead letter; with what happens before it.
pub(super) fn undone_and_dead(folder: bool, before_it: impl Fn(&World, TxId)) -> (World, TxId) {
    for step in 0..STEPS_MAX {
        let world = new_world(Names::Journal, false);
        match folder {
            true => {
                world.make_dirs(0, &["f"]);
                world.make_dirs(1, &["sub/g"]);
                world.put(0, "f/inside", &new_content());
            }
            false => {
                world.put(0, "f", &new_content());
                world.put(1, "sub/g", OLD);
            }
        }
        let before = world.ends();
        let crossed = world.cross("f", "sub/g").unwrap().txid;
        let arrived = world.ends();
        before_it(&world, crossed);
        world.mover.ledger.flush().unwrap();
        world.disk.sync_all();
        world.disk.fail_at(world.disk.steps() + step, Fault::Crash);
        let _ = world.undo(crossed);
        let world = World::on(world.disk.crash(0), false);
        let open = world.mover.left_open();
        let ends = world.ends();
        let made = match folder {
            true => ends == before,
            false => ends.0 == before.0 && ends.1 != arrived.1,
        };
        if let Some(record) = open.first().filter(|_| made) {
            let dead = later_step(record, Step::Dead, None, "EIO".to_owned());
            world.mover.record(dead, Durability::Sync).unwrap();
            return (world, record.txid);
        }
    }
    panic!("no power loss leaves it open");
}

/// How something came to wait for being taken back, and who wants what else of it.
#[derive(Debug, Clone, Copy)]
enum Wanted {
    /// Before its source's branch left.
    Before,
    /// While its target's branch was out; and it was accepted then, or not.
    Without { accepted: bool },
}

impl Wanted {
    fn waiting(self) -> Vec<(World, TxId)> {
        let found = match self {
            Self::Before => seen_twice(CROSSING, 0),
            Self::Without { .. } => made_and_out(),
        };
        for (world, txid) in &found {
            match self {
                Self::Before => world.ask_back(*txid),
                Self::Without { accepted } => {
                    let settled = world.settle(*txid, Settle::Withdraw);
                    assert!(matches!(settled, Ok(Settled::Dead(_))), "{settled:?}");
                    if accepted {
                        assert_eq!(world.settle(*txid, Settle::Accept), Ok(Settled::Accepted));
                    }
                    let refused = world.settle(*txid, Settle::Discard);
                    assert!(matches!(refused, Err(LetterError::InVain { .. })), "{refused:?}");
                }
            }
            world.disk.sync_all();
        }
        found
    }
}

/// What was to be taken back goes back when all is in the view again; also where that is cut off by a loss of power, or
/// by a disk that fails.
#[test]
fn taking_back_is_gone_on_with_wherever_it_was_cut_off() {
    for wanted in
        [Wanted::Before, Wanted::Without { accepted: false }, Wanted::Without { accepted: true }]
    {
        let (world, txid) = wanted.waiting().swap_remove(0);
        let untouched = world.places();
        for fault in [Fault::Crash, Fault::Errno(Errno::IO)] {
            for step in 0..STEPS_MAX {
                let found = world.disk.crash(step).shared();
                found.fail_at(step, fault);
                let begun = start(Arc::clone(&found), false);
                if let Some(world) = &begun {
                    world.mover.recover();
                }
                let ended = found.steps() <= step;
                drop(begun);
                let world = World::on(found.crash(step), false);
                let context = format!("{wanted:?} {fault:?} step {step}");
                let waits = [Some(TransactionState::Dead), Some(TransactionState::Accepted)];
                if waits.contains(&world.state(txid)) {
                    assert_eq!(
                        world.places(),
                        untouched,
                        "{context}: moved before the wish was durable"
                    );
                }
                world.mover.recover();
                assert_eq!(world.state(txid), Some(TransactionState::Reverted), "{context}");
                assert_eq!(world.ends(), (Some(new_content()), Some(OLD.to_vec())), "{context}");
                assert_eq!(world.private(1, "stage"), [] as [Vec<u8>; 0], "{context}");
                assert_eq!(world.private(0, "hold"), [] as [Vec<u8>; 0], "{context}");
                assert_eq!(world.mover.recover(), Recovery::default(), "{context}");
                if ended {
                    assert!(step > 3, "{context}: it ends too soon");
                    break;
                }
            }
        }
    }
}

/// The branch of the copy that was given back comes while the view is mounted: its part goes before anybody sees it.
#[test]
fn a_copy_that_was_given_back_is_gone_before_its_branch_is_seen() {
    for accepted in [false, true] {
        for (world, txid) in (Wanted::Without { accepted }).waiting() {
            let world = world.restart(false);
            let target = world.leave(1);
            assert_eq!(world.mover.recover(), Recovery::default(), "it is only offline");
            let recovery = world.mover.branch_returned(target);
            assert_eq!(world.ends(), (Some(new_content()), Some(OLD.to_vec())), "{recovery:?}");
            assert_eq!(world.state(txid), Some(TransactionState::Reverted));
        }
    }
}

/// It is accepted while its source's branch is in the configuration again, and not there yet.
#[test]
fn what_is_accepted_waits_for_a_branch_that_is_offline() {
    for (world, txid) in seen_twice(CROSSING, 0) {
        let world = world.restart(false);
        let source = world.leave(0);
        assert_eq!(world.mover.recover(), Recovery::default());
        assert_eq!(world.settle(txid, Settle::Accept), Ok(Settled::Accepted));
        let refused = world.settle(txid, Settle::Discard);
        assert!(matches!(refused, Err(LetterError::InVain { .. })), "{refused:?}");
        world.mover.branch_returned(source);
        assert_eq!(world.ends(), (None, Some(new_content())));
        assert_eq!(world.private(0, "hold"), [new_content()]);
        assert_eq!(world.state(txid), Some(TransactionState::Accepted));
        assert_eq!(world.settle(txid, Settle::Discard), Ok(Settled::Accepted));
    }
}

/// Nothing had arrived when it was accepted: all its branches are back, and it waits for nothing.
#[test]
fn what_was_accepted_ends_where_nothing_has_arrived() {
    let not_arrived = |world: &World| world.get(1, "sub/g") != Some(new_content());
    for (world, txid) in dead_after(CROSSING, 0, not_arrived) {
        world.settle(txid, Settle::Accept).unwrap();
        let world = world.restart(false);
        assert_eq!(world.mover.recover().accepted.len(), 1);
        assert_eq!((world.state(txid), world.rest(txid)), (Some(TransactionState::Accepted), 0));
        assert_eq!(world.private(1, "stage"), [new_content()], "it is kept");
        assert_eq!(world.mover.recover(), Recovery::default());
        assert_eq!(world.settle(txid, Settle::Discard), Ok(Settled::Accepted));
    }
}

/// What is to be taken back stays where it is when its old name is somebody else's by then, or has no folder: it would
/// be seen nowhere.
#[test]
fn what_cannot_go_home_stays_where_it_is_seen() {
    let made = |world: &World| world.ends() == (None, Some(new_content()));
    for (world, txid) in dead_after(CROSSING, 0, made) {
        world.ask_back(txid);
        let folder = world.dir(0, "f");
        world.put(0, "f", b"somebody's");
        let world = world.restart(false);
        let recovery = world.mover.recover();
        assert_eq!(recovery.dead.len(), 1, "{recovery:?}");
        assert_eq!(world.ends(), (Some(b"somebody's".to_vec()), Some(new_content())));
        world.disk.unlink(&folder, "f".as_ref()).unwrap();
        assert!(matches!(world.settle(txid, Settle::Withdraw), Ok(Settled::Reverted(_))));
        assert_eq!(world.ends(), (Some(new_content()), Some(OLD.to_vec())));
    }
}

#[test]
fn what_has_no_folder_to_go_home_to_stays_where_it_is_seen() {
    let world = new_world(Names::Journal, false);
    world.make_dirs(0, &["gone"]);
    world.put(0, "gone/f", &new_content());
    let txid = world.cross("gone/f", "sub/g").unwrap().txid;
    let record = world.mover.with_journal(|journal| journal.get(txid).unwrap().record.clone());
    for step in [Step::Withdraw, Step::Dead] {
        let moves = if step == Step::Dead { record.moves.clone() } else { Vec::new() };
        let asked = CrossingRecord { moves, ..later_step(&record, step, None, String::new()) };
        world.mover.record(asked, Durability::Sync).unwrap();
    }
    world.disk.remove_dir(&world.roots[0], OsStr::new("gone")).unwrap();
    let recovery = world.mover.recover();
    assert_eq!(recovery.dead.len(), 1, "{recovery:?}");
    assert_eq!(world.get(1, "sub/g"), Some(new_content()));
    assert_eq!((world.state(txid), world.rest(txid)), (Some(TransactionState::Dead), 0));
}

/// What an undo has put at the name that its own source is to come back to is in nobody's way.
#[test]
fn an_undo_that_restored_something_is_taken_back_when_its_branch_is_back() {
    let (world, txid) = undone_and_dead(false, |_, _| ());
    let record = world.mover.with_journal(|journal| journal.get(txid).unwrap().record.clone());
    let world = world.without(&[1]);
    let asked = later_step(&record, Step::Withdraw, None, String::new());
    world.mover.record(asked, Durability::Sync).unwrap();
    assert_eq!(world.mover.recover().dead.len(), 1);
    let world = world.restart(false);
    let recovery = world.mover.recover();
    assert_eq!(world.state(txid), Some(TransactionState::Reverted), "{recovery:?}");
    assert_eq!(world.ends(), (None, Some(new_content())));
}

/// Nor is it taken back where what it restored cannot go back to hold: what crossed would be nowhere.
#[test]
fn an_undo_stays_where_what_it_restored_cannot_leave_its_name() {
    let (world, txid) = undone_and_dead(false, |_, _| ());
    let record = world.mover.with_journal(|journal| journal.get(txid).unwrap().record.clone());
    let world = world.without(&[1]);
    let asked = later_step(&record, Step::Withdraw, None, String::new());
    world.mover.record(asked, Durability::Sync).unwrap();
    world.mover.recover();
    world.put(1, &format!(".octroi/hold/{}", record.undoes.unwrap()), b"a copy of somebody's");
    let ends = world.ends();
    let world = world.restart(false);
    assert_eq!(world.mover.recover().dead.len(), 1);
    assert_eq!(world.ends(), ends);
}
