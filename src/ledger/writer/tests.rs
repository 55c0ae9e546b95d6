//! What the writer owes to others, step by step.

use super::super::tests::operation;
use super::super::{Entry, Ledger};
use super::*;
use crate::storage::real::{RealDir, RealStorage};
use crate::storage::simulated::{DeviceOptions, Fault, Names, SimulatedDir, SimulatedStorage};

#[test]
fn the_signer_knows_of_a_line_before_who_waits_for_it_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let dir = RealDir::open(folder.path()).unwrap();
    let durable = Arc::new(Durable::default());
    let start = Start { segment: 0, length: 0, next_seq: 0, durable: Some(Arc::clone(&durable)) };
    let health = Arc::new(Health::default());
    let mut writer = Writer::new(Arc::new(RealStorage), dir, "lab", health, start).unwrap();
    let before = durable.end().unwrap();
    // An answer waits until it is taken.
    let (reply, answer) = crossbeam_channel::bounded(0);
    let thread = std::thread::spawn(move || {
        let time = jiff::Timestamp::now();
        let content = Content::of(operation("/a", true)).unwrap();
        writer.accept(time, content, false, Some(reply));
        writer.commit(false);
    });
    let begun = Instant::now();
    while durable.end() == Some(before) {
        assert!(begun.elapsed().as_secs() < 20, "it is not told");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(answer.recv(), Ok(Ok(())));
    thread.join().unwrap();
}

/// A thin disk, or one with delayed allocation, says at fsync only that it is full.
#[test]
fn a_sync_without_space_is_made_good_when_there_is_some() {
    for waits in [false, true] {
        let storage = SimulatedStorage::new(Names::Independent);
        let dir = storage.add_device(DeviceOptions::default());
        let storage = storage.shared();
        let health = Arc::new(Health::default());
        let start = Start { segment: 0, length: 0, next_seq: 0, durable: None };
        let mut writer =
            Writer::new(Arc::clone(&storage), dir.clone(), "lab", Arc::clone(&health), start)
                .unwrap();
        let time = jiff::Timestamp::now();
        let (reply, answer) = crossbeam_channel::bounded(1);
        let put = |writer: &mut Writer<_>, path: &str, reply| {
            writer.accept(time, Content::of(operation(path, true)).unwrap(), true, reply);
        };
        put(&mut writer, "/a", None);
        put(&mut writer, "/b", waits.then_some(reply));
        // Written, not synced, cut off; another segment cannot be made, with the reserve neither.
        let first = storage.steps();
        storage.keep_log();
        for step in [1, 3, 5] {
            storage.fail_at(first + step, Fault::Errno(Errno::NOSPC));
        }
        writer.commit(true);
        assert!(storage.take_faults());
        assert_eq!(Health::check(&health.appends), Err(Errno::NOSPC), "{:#?}", storage.log());
        if waits {
            assert_eq!(answer.try_recv(), Ok(Err(Errno::NOSPC)));
        }
        health.refuse(time, 3);
        writer.retry_at = after(Instant::now(), Duration::from_secs(60));
        let before = storage.steps();
        writer.commit(false);
        assert_eq!(storage.steps(), before, "it is not tried all the time");
        for seed in 0..20 {
            read(storage.crash(seed), &dir, &mut |_| ());
        }
        writer.commit(true);
        assert_eq!(Health::check(&health.appends), Ok(()));
        put(&mut writer, "/c", None);
        writer.tell_refused();
        writer.commit(true);
        let mut found = Vec::new();
        read(storage.after_kill(), &dir, &mut |entry| {
            found.push(match &entry.record {
                Record::Operation(operation) => operation.path.to_string(),
                Record::Version(version) => version.after_failed_sync.to_string(),
                Record::Gap(gap) => gap.unrecorded.unwrap().to_string(),
                other => panic!("{other:?}"),
            });
        });
        let wanted = ["false", "true", "/a", "/b", "3", "/c"];
        let kept = |one: &&str| !waits || *one != "/b";
        assert_eq!(found, wanted.into_iter().filter(kept).collect::<Vec<_>>());
    }
}

/// The first line of a segment is durable though the sync of those behind it finds no space: it is counted by
/// whoever reads, so it is signed.
#[test]
fn the_signer_knows_of_each_segment_that_was_begun() {
    let mut met = 0;
    for step in 2..20 {
        let storage = SimulatedStorage::new(Names::Independent);
        let dir = storage.add_device(DeviceOptions::default());
        let storage = storage.shared();
        let durable = Arc::new(Durable::default());
        let start =
            Start { segment: 0, length: 0, next_seq: 0, durable: Some(Arc::clone(&durable)) };
        let mut writer =
            Writer::new(Arc::clone(&storage), dir, "lab", Arc::default(), start).unwrap();
        let content = Content::of(operation("/a", true)).unwrap();
        writer.accept(jiff::Timestamp::now(), content, true, None);
        let first = storage.steps();
        for step in [1, step] {
            storage.fail_at(first + step, Fault::Errno(Errno::NOSPC));
        }
        let before = writer.segment;
        writer.commit(true);
        if writer.void && writer.segment > before {
            met += 1;
            assert_eq!(durable.end().map(|end| end.0), Some(writer.segment), "step {step}");
            writer.commit(false);
            assert_eq!(writer.group_due, None, "it would be tried without a pause");
        }
    }
    assert!(met > 0);
}

#[test]
fn a_first_write_is_left_out_where_totals_that_follow_say_the_same() {
    let write = |pid, path: &str, written| {
        let Record::Operation(mut record) = operation(path, true) else { unreachable!() };
        (record.op, record.pid, record.written) =
            (crate::types::Operation::WriteData, pid, written);
        record.open_file = Some(u64::from(path.as_bytes()[1]));
        record
    };
    let append = |record, milliseconds, waits: bool| Message::Append {
        time: jiff::Timestamp::from_millisecond(milliseconds).unwrap(),
        content: Content::Operation(record),
        group: true,
        reply: waits.then(|| crossbeam_channel::bounded(1).0),
    };
    let merged = |mut batch: Vec<Message>| {
        let mut found: Vec<usize> = repeated::merge(&mut batch).into_iter().collect();
        found.sort_unstable();
        let stands = |message: &&Message| match message {
            Message::Append { content: Content::Operation(record), .. } => record.first_write,
            _ => false,
        };
        assert_eq!(batch.iter().filter(stands).count(), found.len());
        found
    };
    let left_out = |batch: Vec<Box<OperationRecord>>| {
        merged(batch.into_iter().map(|record| append(record, 0, false)).collect())
    };
    let (first, totals) = (write(1, "/a", None), write(1, "/a", Some(3)));
    let both = |first: &OperationRecord| left_out(vec![Box::new(first.clone()), totals.clone()]);
    assert_eq!(both(&first), [0]);
    assert_eq!(left_out(vec![totals.clone(), first.clone()]), [0; 0]);
    let again = [&first, &totals, &first, &write(1, "/b", None), &totals].map(Clone::clone);
    assert_eq!(left_out(again.into()), [0, 2]);
    // By another process, of another file, user or program, refused, or without success.
    assert_eq!(both(&write(2, "/a", None)), [0; 0]);
    assert_eq!(both(&write(1, "/b", None)), [0; 0]);
    assert_eq!(both(&OperationRecord { uid: 9, ..*first.clone() }), [0; 0]);
    assert_eq!(both(&OperationRecord { exe: Some("/x".into()), ..*first.clone() }), [0; 0]);
    assert_eq!(both(&OperationRecord { branch: Some("x".into()), ..*first.clone() }), [0; 0]);
    assert_eq!(both(&OperationRecord { result: "EIO".into(), ..*first.clone() }), [0; 0]);
    assert_eq!(both(&OperationRecord { grown: Some(3), ..*first.clone() }), [0; 0]);
    assert_eq!(both(&OperationRecord { rule: Some("x".into()), ..*first.clone() }), [0; 0]);
    // Of the same name, opened twice; of another name since.
    let path = write(1, "/b", None).path;
    assert_eq!(both(&OperationRecord { path, ..*first.clone() }), [0; 0]);
    let other = |record: &OperationRecord| OperationRecord { open_file: Some(8), ..record.clone() };
    assert_eq!(both(&other(&first)), [0; 0]);
    let second = [first.clone(), Box::new(other(&first)), Box::new(other(&totals)), totals.clone()];
    assert_eq!(left_out(second.into()), [0, 1]);
    // Later, or after what somebody waits for.
    let told = |milliseconds, waits| {
        merged(vec![
            append(first.clone(), 0, false),
            append(write(7, "/c", None), 1, waits),
            append(totals.clone(), milliseconds, false),
        ])
    };
    assert_eq!(told(100, false), [0]);
    assert_eq!(told(101, false), [0; 0]);
    assert_eq!(told(100, true), [0; 0]);
}

#[test]
fn what_was_refused_is_told_as_soon_as_there_is_room() {
    let (storage, _, mut writer) = simulated();
    writer.full = true;
    writer.reserve_spent = true;
    writer.retry_at = Instant::now();
    writer.health.refuse(jiff::Timestamp::now(), 3);
    writer.commit(false);
    assert!(!writer.full && !writer.pending.is_empty());
    let due = writer.deadline().expect("nothing wakes it");
    assert!(due <= Instant::now() + GROUP_DELAY);
    writer.commit(false);
    assert!(writer.pending.is_empty());
    drop(storage);
}

/// A writer on a simulated disk.
fn simulated() -> (Arc<SimulatedStorage>, SimulatedDir, Writer<SimulatedStorage>) {
    let storage = SimulatedStorage::new(Names::Independent);
    let dir = storage.add_device(DeviceOptions { capacity: 4 << 20, ..DeviceOptions::default() });
    let storage = storage.shared();
    let start = Start { segment: 0, length: 0, next_seq: 0, durable: None };
    let writer = Writer::new(Arc::clone(&storage), dir.clone(), "lab", Arc::default(), start);
    (storage, dir, writer.unwrap())
}

fn put(writer: &mut Writer<SimulatedStorage>, path: &str) {
    let content = Content::of(operation(path, true)).unwrap();
    writer.accept(jiff::Timestamp::now(), content, true, None);
}

#[test]
fn a_segment_that_was_removed_is_not_written_to() {
    let (storage, dir, mut writer) = simulated();
    put(&mut writer, "/a");
    writer.commit(true);
    storage.unlink(&dir, &segment::file_name(1)).unwrap();
    writer.looked = Instant::now().checked_sub(LOOK_EACH).unwrap();
    put(&mut writer, "/b");
    writer.commit(true);
    assert_eq!((writer.segment, writer.synced_length), (2, writer.length));
    assert!(!writer.dead && writer.unsynced.is_empty());
}

#[test]
fn what_waited_for_room_is_synced_when_it_is_time() {
    let (storage, _, mut writer) = simulated();
    storage.set_options(0, DeviceOptions { capacity: 0, ..DeviceOptions::default() });
    put(&mut writer, &format!("/{}", "x".repeat(8000)));
    writer.group_due = Some(Instant::now());
    writer.reserve_spent = true;
    writer.retry_at = after(Instant::now(), Duration::from_secs(60));
    writer.commit(false);
    assert!(writer.full && !writer.pending.is_empty());
    assert!(writer.deadline().is_some_and(|at| at > Instant::now()), "it is tried all the time");
    storage.set_options(0, DeviceOptions::default());
    writer.commit(false);
    assert!(writer.pending.is_empty() && writer.unsynced.is_empty());
    assert_eq!(writer.synced_length, writer.length);
}

/// There is room for another segment when it is closed, sooner than it would have been tried.
#[test]
fn what_was_refused_is_told_before_the_last_record() {
    let (storage, dir, mut writer) = simulated();
    (writer.full, writer.void, writer.reserve_spent) = (true, true, true);
    writer.retry_at = after(Instant::now(), Duration::from_secs(60));
    writer.health.refuse(jiff::Timestamp::now(), 3);
    let (sender, receiver) = super::super::queue::queue();
    let time = jiff::Timestamp::now();
    let last = Some((time, Content::of(operation("/last", true)).unwrap()));
    let (reply, answer) = crossbeam_channel::bounded(1);
    sender.close_with(Message::Close { last, reply }).unwrap();
    writer.run(receiver);
    assert_eq!(answer.recv(), Ok(Ok(())));
    let mut found = Vec::new();
    read(storage.crash(1), &dir, &mut |entry| match &entry.record {
        Record::Gap(gap) => found.push(format!("{:?}", gap.unrecorded)),
        Record::Operation(operation) => found.push(operation.path.to_string()),
        _ => {}
    });
    assert_eq!(found, ["Some(3)", "/last"]);
}

/// It was acknowledged and has its place on the disk.
#[test]
fn what_is_written_is_synced_in_time_though_the_disk_is_full() {
    let (storage, _, mut writer) = simulated();
    put(&mut writer, "/a");
    writer.commit(false);
    let due = writer.group_due.unwrap();
    assert!(!writer.unsynced.is_empty());
    storage.set_options(0, DeviceOptions { capacity: 0, ..DeviceOptions::default() });
    writer.reserve_spent = true;
    writer.retry_at = after(Instant::now(), Duration::from_secs(60));
    put(&mut writer, &format!("/{}", "x".repeat(8000)));
    writer.commit(false);
    assert!(writer.full && !writer.unsynced.is_empty());
    assert_eq!(writer.deadline(), Some(due));
    writer.group_due = Some(Instant::now());
    writer.commit(false);
    assert!(writer.unsynced.is_empty());
    assert!(writer.deadline().is_some_and(|at| at > Instant::now()), "it is tried all the time");
}

#[test]
fn another_segment_is_begun_when_there_is_room_for_it() {
    let (storage, _, mut writer) = simulated();
    writer.health.segment_max.store(1000, std::sync::atomic::Ordering::Relaxed);
    writer.reserve_spent = true;
    writer.retry_at = after(Instant::now(), Duration::from_secs(60));
    for number in 0..20 {
        put(&mut writer, &format!("/{number}"));
        writer.commit(true);
    }
    assert_eq!((writer.segment, writer.length > 1000), (1, true));
    writer.refill_reserve();
    writer.commit(true);
    assert_eq!(writer.segment, 2);
    drop(storage);
}

/// Its sync failed, and so did the removal of its name.
#[test]
fn a_segment_that_was_begun_in_vain_is_begun_again() {
    let (storage, dir, mut writer) = simulated();
    put(&mut writer, "/a");
    writer.rotation_due = true;
    // Written, synced; made, written, synced, and removed.
    let first = storage.steps();
    storage.keep_log();
    storage.fail_at(first + 4, Fault::Errno(Errno::IO));
    storage.fail_at(first + 5, Fault::Errno(Errno::IO));
    writer.commit(true);
    assert!(storage.take_faults(), "{:#?}", storage.log());
    assert!(!writer.dead, "{:#?}", storage.log());
    put(&mut writer, "/b");
    writer.commit(true);
    for seed in 0..20 {
        let mut found = Vec::new();
        read(storage.crash(seed), &dir, &mut |entry| {
            if let Record::Operation(operation) = &entry.record {
                found.push(operation.path.to_string());
            }
        });
        assert_eq!(found, ["/a", "/b"]);
    }
}

/// What another daemon would read.
fn read(disk: SimulatedStorage, dir: &SimulatedDir, read: &mut dyn FnMut(&Entry)) {
    let (ledger, _) = Ledger::open(disk.shared(), dir.clone(), "lab", read).unwrap();
    ledger.close().unwrap();
}
