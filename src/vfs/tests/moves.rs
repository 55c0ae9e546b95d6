//! Crossings that are prepared for a rename that comes later, and stopping them.

use std::ffi::{OsStr, OsString};
use std::os::unix::fs::{PermissionsExt, chown};
use std::time::Duration;

use super::fixture::*;
use crate::branch::RenameFlags;
use crate::ledger::record::StoppedBy;
use crate::mover::{Stop, TransactionState};
use crate::policy::{BranchFacts, Gate, PolicySource};
use crate::types::{BranchMode, Caller, TxId};
use crate::vfs::*;

const NOBODY: Caller = Caller { uid: 65534, gid: 65534, pid: 1 };

fn prepare(fixture: &Fixture, caller: Caller) -> Result<Readied, MoveError> {
    let request = MoveRequest {
        caller,
        groups: Vec::new(),
        source: (fixture.number("inbox"), OsString::from("a.csv")),
        target: (fixture.number("archive"), OsString::from("b.csv")),
        no_replace: false,
        undoes: None,
    };
    fixture.vfs.prepare_move(&request, &|_| ())
}

#[track_caller]
fn prepared(fixture: &Fixture) -> PreparedMove {
    match prepare(fixture, *ROOT) {
        Ok(Readied::Crossing(prepared)) => prepared,
        Ok(Readied::Within) => panic!("it is a crossing"),
        Err(error) => panic!("{error:?}"),
    }
}

fn finish(fixture: &Fixture) -> Result<(), Errno> {
    fixture.rename(("inbox", "a.csv"), ("archive", "b.csv"))
}

fn state(fixture: &Fixture, txid: TxId) -> Option<TransactionState> {
    fixture.vfs.with_journal(|journal| journal.get(txid).map(|found| found.state))
}

/// The reason that the ledger has for its end, and who asked for it.
fn why_ended(fixture: &Fixture, txid: TxId) -> (String, Option<StoppedBy>) {
    fixture.vfs.with_journal(|journal| {
        let found = journal.get(txid).expect("it is remembered");
        (found.reason.clone().unwrap_or_default(), found.stopped_by)
    })
}

/// What `octroi why` says to its author.
fn told(fixture: &Fixture) -> String {
    let denial = fixture.vfs.last_denial(ROOT.uid, None).expect("it was refused");
    denial.decision.reason.as_deref().unwrap_or_default().to_owned()
}

fn transactions(fixture: &Fixture) -> usize {
    fixture.vfs.with_journal(|journal| journal.iter().count())
}

fn staged(fixture: &Fixture) -> usize {
    let stage = fixture.backing("archive/.octroi/stage");
    std::fs::read_dir(stage).expect("list").count()
}

fn new() -> Fixture {
    let fixture = Fixture::new(vec![]);
    fixture.put("inbox", "a.csv", "1,2,3\n");
    fixture
}

#[test]
fn the_rename_commits_what_was_prepared() {
    let fixture = new();
    let prepared = prepared(&fixture);
    assert_eq!(state(&fixture, prepared.progress.txid), Some(TransactionState::Active));
    assert!(fixture.has("inbox/a.csv") && !fixture.has("archive/b.csv"));
    assert_eq!(finish(&fixture), Ok(()));
    assert_eq!(state(&fixture, prepared.progress.txid), Some(TransactionState::Done));
    assert_eq!((transactions(&fixture), fixture.text("archive/b.csv").as_str()), (1, "1,2,3\n"));
}

#[test]
fn without_its_client_it_is_rolled_back_and_the_names_are_free() {
    let fixture = new();
    let prepared = prepared(&fixture);
    let txid = prepared.progress.txid;
    assert_eq!(fixture.unlink("inbox", "a.csv"), Err(Errno::BUSY), "a prepared name is locked");
    drop(prepared);
    assert_eq!(state(&fixture, txid), Some(TransactionState::Aborted));
    let reason = "the command that asked for it was interrupted, or has gone";
    assert_eq!(why_ended(&fixture, txid), (reason.to_owned(), None));
    assert_eq!(staged(&fixture), 0);
    assert_eq!(finish(&fixture), Ok(()), "as a crossing of its own");
    assert_eq!(transactions(&fixture), 2);
}

#[test]
fn what_nobody_came_for_expires_and_a_late_rename_fails() {
    let fixture = new();
    let prepared = prepared(&fixture);
    prepared.keep();
    fixture.expire(Duration::from_secs(30));
    assert_eq!(state(&fixture, prepared.progress.txid), Some(TransactionState::Active));
    fixture.expire(Duration::ZERO);
    assert_eq!(state(&fixture, prepared.progress.txid), Some(TransactionState::Aborted));
    assert_eq!(finish(&fixture), Err(Errno::CANCELED), "it does not begin anew");
    assert_eq!(finish(&fixture), Err(Errno::CANCELED), "as long as the client is there");
    let reason = "it expired before its rename came";
    assert_eq!(why_ended(&fixture, prepared.progress.txid), (reason.to_owned(), None));
    assert_eq!(told(&fixture), reason);
    assert!(fixture.has("inbox/a.csv") && !fixture.has("archive/b.csv"));
    drop(prepared);
    assert_eq!(finish(&fixture), Ok(()));
}

#[test]
fn a_client_that_gives_up_is_rolled_back_at_once() {
    let fixture = new();
    let prepared = prepared(&fixture);
    prepared.give_up();
    assert_eq!(state(&fixture, prepared.progress.txid), Some(TransactionState::Aborted));
    assert_eq!(finish(&fixture), Err(Errno::CANCELED));
}

#[test]
fn names_are_prepared_once_and_only_for_their_user() {
    let fixture = new();
    for folder in ["inbox", "archive"] {
        let open = std::fs::Permissions::from_mode(0o777);
        std::fs::set_permissions(fixture.backing(folder), open).expect("chmod");
    }
    let prepared = prepared(&fixture);
    for caller in [*ROOT, NOBODY] {
        let refused = prepare(&fixture, caller).err().expect("it is locked");
        assert_eq!(refused.errno, Errno::BUSY);
        assert!(refused.why.starts_with("another crossing"), "{}", refused.why);
    }
    let (from, to) = (fixture.number("inbox"), fixture.number("archive"));
    let (a, b) = (OsStr::new("a.csv"), OsStr::new("b.csv"));
    let by_nobody = fixture.vfs.rename(NOBODY, (from, a), (to, b), RenameFlags::empty());
    assert_eq!(by_nobody, Err(Errno::BUSY));
    let elsewhere = fixture.rename(("inbox", "a.csv"), ("archive", "c.csv"));
    assert_eq!(elsewhere, Err(Errno::BUSY));
    drop(prepared);
}

#[test]
fn what_a_caller_could_not_rename_is_not_touched() {
    let fixture = new();
    check_refused(&fixture, ("inbox", 0o755), ("archive", 0o777), Errno::ACCESS);
    check_refused(&fixture, ("inbox", 0o777), ("archive", 0o755), Errno::ACCESS);
    check_refused(&fixture, ("inbox", 0o772), ("archive", 0o777), Errno::ACCESS);
    check_refused(&fixture, ("inbox", 0o1777), ("archive", 0o777), Errno::PERM);
    fixture.plant("archive/b.csv", "there");
    check_refused(&fixture, ("inbox", 0o777), ("archive", 0o1777), Errno::PERM);
    assert_eq!(transactions(&fixture), 0, "nothing was begun");
    chown(fixture.backing("archive/b.csv"), Some(NOBODY.uid), None).expect("chown");
    let now = prepare(&fixture, NOBODY);
    assert!(matches!(now, Ok(Readied::Crossing(_))), "one's own may be replaced");
}

#[track_caller]
fn check_refused(fixture: &Fixture, source: (&str, u32), target: (&str, u32), errno: Errno) {
    for (folder, mode) in [source, target] {
        let mode = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(fixture.backing(folder), mode).expect("chmod");
    }
    let refused = prepare(fixture, NOBODY).err().expect("refused");
    assert_eq!(refused.errno, errno, "{refused:?}");
}

/// The gates of [`Fixture::new`] are replaced.
fn set_gates(fixture: &Fixture, gates: Vec<Gate>) {
    let facts = [("inbox", BranchMode::Rw), ("archive", BranchMode::GatesOnly)];
    let facts = facts.map(|(name, mode)| {
        let at = ViewPath::root().join(OsStr::new(name));
        BranchFacts { name: name.into(), pool: None, at, mode }
    });
    let branches = facts.to_vec();
    let source =
        PolicySource { within_allowed: true, observe: false, rules: Vec::new(), gates, branches };
    fixture.vfs.policy.store(Arc::new(Policy::new(source, 2).expect("patterns that compile")));
}

#[test]
fn the_policy_is_asked_again_at_the_commit() {
    let fixture = new();
    let held = prepared(&fixture);
    set_gates(&fixture, Vec::new());
    assert_eq!(finish(&fixture), Err(Errno::ACCESS));
    assert_eq!(state(&fixture, held.progress.txid), Some(TransactionState::Aborted));
    drop(held);
    set_gates(&fixture, vec![gate("submit", 0, 1)]);
    let held = prepared(&fixture);
    set_gates(&fixture, vec![gate("other", 0, 1)]);
    assert_eq!(finish(&fixture), Err(Errno::CANCELED), "that gate has checked nothing");
    let (reason, _) = why_ended(&fixture, held.progress.txid);
    assert_eq!(reason, "the gate changed while it was prepared; try again");
    drop(held);
    assert_eq!(finish(&fixture), Ok(()));
}

#[test]
fn an_abort_is_for_the_author_and_comes_before_the_decision_or_not_at_all() {
    let fixture = new();
    let held = prepared(&fixture);
    let txid = held.progress.txid;
    let vfs = &fixture.vfs;
    let by_another = Caller { pid: 4321, ..*ROOT };
    assert_eq!(vfs.abort(NOBODY, txid), Err(AbortError::Unknown));
    assert_eq!(vfs.abort(*ROOT, TxId(ulid::Ulid::generate())), Err(AbortError::Unknown));
    assert_eq!(vfs.abort(by_another, txid), Ok(()));
    let reason = "user 0 stopped it with octroi tx abort (process 4321)";
    let by = StoppedBy { uid: 0, pid: 4321 };
    assert_eq!(why_ended(&fixture, txid), (reason.to_owned(), Some(by)));
    assert_eq!(state(&fixture, txid), Some(TransactionState::Aborted));
    assert_eq!(finish(&fixture), Err(Errno::CANCELED));
    assert_eq!(told(&fixture), reason);
    let again = vfs.abort(*ROOT, txid).expect_err("it has ended").to_string();
    assert!(again.contains("rolled back"), "{again}");
    drop(held);
    let held = prepared(&fixture);
    assert_eq!(finish(&fixture), Ok(()));
    let late = vfs.abort(*ROOT, held.progress.txid).expect_err("it is done").to_string();
    assert!(late.contains("octroi undo"), "{late}");
    assert!(!held.progress.cancel(Stop::ClientLeft), "decided");
}

#[test]
fn at_the_end_nothing_waits_any_more() {
    let fixture = new();
    let held = prepared(&fixture);
    fixture.vfs.shut_down();
    fixture.wait_for_ends();
    assert_eq!(state(&fixture, held.progress.txid), Some(TransactionState::Aborted));
    assert_eq!(why_ended(&fixture, held.progress.txid).0, "the view is being unmounted");
    drop(held);
    let late = prepare(&fixture, *ROOT).err().map(|error| error.errno);
    assert_eq!(late, Some(Errno::CANCELED));
}

#[test]
fn a_plain_rename_asks_the_policy_again_too() {
    let fixture = new();
    let pace = |rate| fixture.vfs.mover.set_pace(usize::MAX, rate);
    fixture.put("inbox", "first.csv", &"1,2,3\n".repeat(10_000));
    pace(Some(1));
    fixture.rename(("inbox", "first.csv"), ("archive", "first.csv")).expect("crossed");
    let renamed = std::thread::scope(|scope| {
        let renaming = scope.spawn(|| finish(&fixture));
        // What the first one read counts: this one waits for hours.
        let checks =
            || fixture.vfs.mover.active().iter().any(|found| *found.step.lock() == "check");
        while !checks() && !renaming.is_finished() {
            std::thread::sleep(Duration::from_millis(1));
        }
        set_gates(&fixture, Vec::new());
        pace(None);
        renaming.join().expect("no panic")
    });
    assert_eq!(renamed, Err(Errno::ACCESS));
    assert!(fixture.has("inbox/a.csv") && !fixture.has("archive/b.csv"));
}

/// Here it is the journal that rolling back waits for, in place of a disk that hangs.
#[test]
fn nobody_waits_for_what_hangs_while_it_is_rolled_back() {
    let fixture = new();
    let held = prepared(&fixture);
    let vfs = Arc::clone(&fixture.vfs);
    let (done, told) = crossbeam_channel::bounded(1);
    let returned = fixture.vfs.with_journal(|_| {
        std::thread::spawn(move || {
            vfs.expire_prepared(Duration::ZERO);
            vfs.shut_down();
            let _ = done.send(());
        });
        told.recv_timeout(Duration::from_secs(30))
    });
    assert_eq!(returned, Ok(()), "it waited");
    fixture.wait_for_ends();
    assert_eq!(why_ended(&fixture, held.progress.txid).0, "it expired before its rename came");
}

/// A crossing that waits for its rename, between folders of the view.
fn prepared_to(fixture: &Fixture, from: (&str, &str), to: (&str, &str)) -> PreparedMove {
    let at = |(folder, name): (&str, &str)| (fixture.number(folder), OsString::from(name));
    let (caller, groups) = (*ROOT, Vec::new());
    let (source, target, undoes) = (at(from), at(to), None);
    let request = MoveRequest { caller, groups, source, target, no_replace: false, undoes };
    match fixture.vfs.prepare_move(&request, &|_| ()) {
        Ok(Readied::Crossing(prepared)) => prepared,
        Ok(Readied::Within) => panic!("it is a crossing"),
        Err(error) => panic!("{error:?}"),
    }
}

#[test]
fn a_folder_that_is_to_be_replaced_stays_where_it_is() {
    let fixture = Fixture::new(vec![]);
    fixture.plant("archive/d/x.csv", "theirs");
    fixture.plant("archive/f.csv", "text");
    for folder in ["inbox/t", "inbox/e", "inbox/u", "archive/c"] {
        fixture.folder(folder);
    }
    let prepared = prepared_to(&fixture, ("archive", "d"), ("inbox", "t"));
    let inbox = fixture.number("inbox");
    assert_eq!(fixture.vfs.rmdir(*ROOT, inbox, OsStr::new("t")), Err(Errno::BUSY));
    assert_eq!(fixture.rename(("inbox", "t"), ("inbox", "k")), Err(Errno::BUSY));
    assert_eq!(fixture.rename(("inbox", "e"), ("inbox", "t")), Err(Errno::BUSY));
    assert_eq!(fixture.rename(("archive", "d"), ("inbox", "t")), Ok(()));
    assert_eq!(fixture.text("inbox/t/x.csv"), "theirs");
    drop(prepared);
    // Nor does another crossing replace what something is about to go into.
    let prepared = prepared_to(&fixture, ("archive", "f.csv"), ("inbox/u", "f.csv"));
    assert_eq!(fixture.rename(("archive", "c"), ("inbox", "u")), Err(Errno::BUSY));
    assert_eq!(fixture.rename(("archive", "f.csv"), ("inbox/u", "f.csv")), Ok(()));
    assert_eq!(fixture.text("inbox/u/f.csv"), "text");
    drop(prepared);
}
