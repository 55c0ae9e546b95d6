//! What the journal remembers of transactions that ended.

use crate::ledger::record::{PurgeRecord, Record, Step};
use crate::ledger::tests::step;
use crate::ledger::{Entry, record};
use crate::mover::journal::{ENDED_MAX, Journal};
use crate::types::TxId;

fn id(number: usize) -> TxId {
    TxId(ulid::Ulid(number as u128))
}

fn apply(journal: &mut Journal, record: Record) {
    journal.apply(&Entry { seq: 0, time: jiff::Timestamp::UNIX_EPOCH, record });
}

fn steps(journal: &mut Journal, txid: TxId, undoes: Option<TxId>, steps: &[Step]) {
    for kind in steps {
        let record = record::CrossingRecord { undoes, ..step(txid, *kind) };
        apply(journal, Record::Crossing(Box::new(record)));
    }
}

fn purge(txid: TxId, lost: bool) -> Record {
    Record::Purge(PurgeRecord { txid, reason: "for a test".into(), lost, given_up: Vec::new() })
}

#[test]
fn the_oldest_that_keep_nothing_are_forgotten_and_no_others() {
    let mut journal = Journal::default();
    let done = [Step::Prepare, Step::Commit, Step::Done];
    let (kept, purged, dead, lost, aborted) = (id(1), id(2), id(3), id(4), id(5));
    steps(&mut journal, kept, None, &done);
    steps(&mut journal, purged, None, &done);
    steps(&mut journal, dead, None, &[Step::Prepare, Step::Commit, Step::Dead]);
    steps(&mut journal, lost, None, &done);
    steps(&mut journal, aborted, None, &[Step::Prepare, Step::Abort]);
    apply(&mut journal, purge(purged, false));
    apply(&mut journal, purge(lost, true));
    let next = |journal: &mut Journal, number| {
        steps(journal, id(100 + number), None, &[Step::Prepare, Step::Abort]);
    };
    for number in 0..ENDED_MAX - 2 {
        next(&mut journal, number);
    }
    let all = [kept, purged, dead, lost, aborted];
    let known = |journal: &Journal| all.map(|txid| journal.get(txid).is_some());
    assert_eq!(known(&journal), [true; 5]);
    next(&mut journal, ENDED_MAX);
    assert_eq!(known(&journal), [true, false, true, true, true], "the oldest of two that ended");
    next(&mut journal, ENDED_MAX + 1);
    assert_eq!(known(&journal), [true, false, true, true, false]);
    next(&mut journal, ENDED_MAX + 2);
    assert!(journal.get(id(100)).is_none() && journal.get(id(101)).is_some());
    assert_eq!(journal.iter().count(), ENDED_MAX + 3);
    steps(&mut journal, dead, None, &[Step::Withdraw, Step::Reverted]);
    assert!(journal.get(dead).is_none(), "it is the oldest that ended now");
}

#[test]
fn an_undo_needs_what_it_takes_back_until_it_has_ended_well() {
    let mut journal = Journal::default();
    let (first, undo) = (id(1), id(2));
    steps(&mut journal, first, None, &[Step::Prepare, Step::Commit, Step::Done]);
    assert!(!journal.is_being_undone(first));
    for (kind, runs) in [
        (Step::Prepare, true),
        (Step::Commit, true),
        (Step::Dead, true),
        (Step::Withdraw, true),
        (Step::Dead, true),
        (Step::Accept, true),
        (Step::Withdraw, true),
        (Step::Reverted, false),
    ] {
        steps(&mut journal, undo, Some(first), &[kind]);
        assert_eq!(journal.is_being_undone(first), runs, "{kind:?}");
        assert!(!journal.is_being_undone(undo));
    }
    let other = id(3);
    steps(&mut journal, other, Some(first), &[Step::Prepare, Step::Commit, Step::Accept]);
    assert!(journal.is_being_undone(first));
    apply(&mut journal, purge(other, false));
    assert!(!journal.is_being_undone(first));
}

#[test]
fn what_is_remembered_is_packed_when_crossings_pause() {
    let mut journal = Journal::default();
    let done = [Step::Prepare, Step::Commit, Step::Done];
    (0..400).for_each(|number| steps(&mut journal, id(number), None, &done));
    apply(&mut journal, purge(id(7), false));
    let all = |journal: &Journal| -> Vec<_> {
        journal.iter().map(|(txid, found)| (txid, found.clone())).collect()
    };
    let before = all(&journal);
    let packed = |journal: &mut Journal, times| -> Vec<bool> {
        (0..times).map(|_| journal.pack_when_quiet()).collect()
    };
    assert_eq!(packed(&mut journal, 2), [false, false]);
    steps(&mut journal, id(400), None, &[Step::Prepare]);
    assert_eq!(packed(&mut journal, 5), [false, false, true, false, false]);
    assert_eq!(all(&journal).split_last().expect("one more").1, before);
    steps(&mut journal, id(400), None, &[Step::Abort]);
    assert_eq!(packed(&mut journal, 4), [false; 4], "it is not worth it");
}
