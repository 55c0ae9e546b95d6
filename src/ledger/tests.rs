use std::path::Path;

use super::record::{
    CrossingRecord, MountEvent, MountRecord, OperationRecord, Step, Verdict, VersionRecord,
};
use super::*;
use crate::storage::real::{RealDir, RealStorage};
use crate::storage::simulated::{DeviceOptions, Fault, Names, SimulatedDir, SimulatedStorage};
use crate::types::{Operation, TxId, ViewPath};

pub(super) fn operation(path: &str, allowed: bool) -> Record {
    Record::Operation(Box::new(OperationRecord {
        op: Operation::Create,
        decision: if allowed { Verdict::Allowed } else { Verdict::Denied },
        rule: None,
        gate: None,
        reason: None,
        uid: 1,
        gid: 1,
        pid: 1,
        exe: None,
        path: ViewPath::parse(Path::new(path)).unwrap(),
        target: None,
        branch: None,
        result: "ok".into(),
        written: None,
        first_write: false,
        grown: None,
        count: None,
        shortened: false,
        open_file: None,
    }))
}

pub(crate) fn step(txid: TxId, step: Step) -> CrossingRecord {
    let path = |text: &str| ViewPath::parse(Path::new(text)).unwrap();
    CrossingRecord {
        txid,
        step,
        gate: None,
        undoes: None,
        rearrangement: false,
        uid: 1,
        gid: 1,
        pid: 1,
        exe: None,
        source: path("/a"),
        target: path("/b"),
        branches: ["a".into(), "b".into()],
        sha256: None,
        size: None,
        readback: None,
        lost: Vec::new(),
        moves: Vec::new(),
        replaced: None,
        reason: None,
        stopped_by: None,
        result: None,
    }
}

pub(super) fn unmounted() -> Record {
    let event = MountEvent::Unmounted;
    Record::Mount(MountRecord { event, mountpoint: "/mnt".into(), uid: 0, pid: 1 })
}

pub(super) type Reopened<S> = (Arc<Ledger<S>>, Opened, Vec<String>);

/// Opens a ledger and gives what it holds, versions and gaps left out, with what was found.
pub(super) fn open<S: Storage>(storage: &Arc<S>, dir: &S::Dir) -> Result<Reopened<S>, LedgerError> {
    let mut paths = Vec::new();
    let mut next = 0;
    let mut replay = |entry: &Entry| {
        assert_eq!(entry.seq, next, "positions have no gaps");
        next += 1;
        if let Record::Operation(operation) = &entry.record {
            paths.push(operation.path.to_string());
        }
    };
    let (ledger, opened) = Ledger::open(storage.clone(), dir.clone(), "lab", &mut replay)?;
    Ok((ledger, opened, paths))
}

fn disk() -> (tempfile::TempDir, Arc<RealStorage>, RealDir) {
    let folder = tempfile::tempdir().unwrap();
    let dir = RealDir::open(folder.path()).unwrap();
    (folder, Arc::new(RealStorage), dir)
}

/// A ledger with three operations, closed cleanly or not.
fn written(clean: bool) -> (tempfile::TempDir, Arc<RealStorage>, RealDir) {
    let (folder, storage, dir) = disk();
    let (ledger, ..) = open(&storage, &dir).unwrap();
    for path in ["/a", "/b", "/c"] {
        ledger.append(operation(path, true), Durability::Sync).unwrap();
    }
    if clean {
        ledger.append(unmounted(), Durability::Sync).unwrap();
    }
    ledger.close().unwrap();
    (folder, storage, dir)
}

#[test]
fn what_was_appended_is_replayed() {
    let (_folder, storage, dir) = written(true);
    let (ledger, opened, paths) = open(&storage, &dir).unwrap();
    assert_eq!(paths, ["/a", "/b", "/c"]);
    assert!(!opened.unclean && opened.torn_bytes == 0);
    ledger.close().unwrap();
    assert_eq!(ledger.append(operation("/d", true), Durability::Sync), Err(Errno::IO));
    assert_eq!(ledger.append(operation("/d", true), Durability::Async), Err(Errno::IO));
}

#[test]
fn what_does_not_fit_in_a_line_is_refused_however_soon_it_must_be_durable() {
    let (folder, storage, dir) = disk();
    let (ledger, ..) = open(&storage, &dir).unwrap();
    let purge = || {
        let txid = crate::types::TxId(ulid::Ulid::nil());
        Record::Purge(record::PurgeRecord {
            txid,
            reason: "x".repeat(70_000),
            lost: false,
            given_up: Vec::new(),
        })
    };
    for durability in [Durability::Async, Durability::Group, Durability::Sync] {
        assert_eq!(ledger.append(purge(), durability), Err(Errno::NAMETOOLONG));
    }
    ledger.append(operation("/a", true), Durability::Sync).unwrap();
    ledger.close().unwrap();
    let text = std::fs::read_to_string(folder.path().join("00000001.jsonl")).unwrap();
    assert_eq!(text.lines().count(), 2, "{text}");
}

#[test]
fn an_unclean_stop_is_recorded_as_a_gap() {
    let (folder, storage, dir) = written(false);
    let (ledger, opened, _) = open(&storage, &dir).unwrap();
    assert!(opened.unclean);
    drop(ledger);
    let text = std::fs::read_to_string(folder.path().join("00000001.jsonl")).unwrap();
    assert!(text.lines().last().unwrap().contains(r#""kind":"gap""#), "{text}");
}

#[test]
fn a_stop_right_after_mounting_is_a_gap_too() {
    let (_folder, storage, dir) = disk();
    let (ledger, ..) = open(&storage, &dir).unwrap();
    let Record::Mount(mount) = unmounted() else { unreachable!() };
    let mounted = MountRecord { event: MountEvent::Mounted, ..mount };
    ledger.append(Record::Mount(mounted), Durability::Sync).unwrap();
    ledger.close().unwrap();
    let (ledger, opened, _) = open(&storage, &dir).unwrap();
    assert!(opened.unclean, "changes within the first 100 ms may be missing");
    ledger.close().unwrap();
}

#[test]
fn a_torn_last_line_is_cut_off_wherever_it_was_torn() {
    let (folder, storage, dir) = written(false);
    let path = folder.path().join("00000001.jsonl");
    let whole = std::fs::read(&path).unwrap();
    let last = whole[..whole.len() - 1].iter().rposition(|byte| *byte == b'\n').unwrap() + 1;
    for end in [last + 1, last + 40, whole.len() - 1] {
        std::fs::write(&path, &whole[..end]).unwrap();
        let (ledger, opened, paths) = open(&storage, &dir).unwrap();
        assert_eq!(paths, ["/a", "/b"]);
        assert_eq!(opened.torn_bytes, (end - last) as u64);
        ledger.close().unwrap();
        let (_, opened, _) = open(&storage, &dir).unwrap();
        assert_eq!(opened.torn_bytes, 0);
    }
}

#[test]
fn damage_of_a_durable_line_is_refused_and_named() {
    let (folder, storage, dir) = written(true);
    let path = folder.path().join("00000001.jsonl");
    let mut bytes = std::fs::read(&path).unwrap();
    let at = bytes.windows(4).position(|window| window == b"\"/b\"").unwrap() + 2;
    bytes[at] = b'x';
    std::fs::write(&path, &bytes).unwrap();
    match open(&storage, &dir).map(drop) {
        Err(LedgerError::Damaged { segment, line, .. }) => {
            assert_eq!((segment.as_str(), line), ("00000001.jsonl", 3));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(std::fs::read(&path).unwrap(), bytes, "nothing was changed");
}

#[test]
fn a_removed_line_is_refused() {
    let (folder, storage, dir) = written(true);
    let path = folder.path().join("00000001.jsonl");
    let text = std::fs::read_to_string(&path).unwrap();
    let kept: Vec<&str> = text.lines().filter(|line| !line.contains("\"/b\"")).collect();
    std::fs::write(&path, kept.join("\n") + "\n").unwrap();
    assert!(matches!(open(&storage, &dir).map(drop), Err(LedgerError::Damaged { line: 3, .. })));
}

#[test]
fn a_position_that_no_ledger_reaches_is_damage() {
    let (folder, storage, dir) = written(true);
    let path = folder.path().join("00000001.jsonl");
    let text = std::fs::read_to_string(&path).unwrap();
    let record = operation("/z", true);
    let time = jiff::Timestamp::UNIX_EPOCH;
    let last = encode::line(u64::MAX, time, Some(6), &encode::body(&record).unwrap());
    let version = text.lines().next().unwrap();
    let version = decode::decode(version.as_bytes()).unwrap().entry.record;
    let first = encode::line(u64::MAX, time, None, &encode::body(&version).unwrap());
    std::fs::write(&path, [first, last].concat()).unwrap();
    assert!(matches!(open(&storage, &dir).map(drop), Err(LedgerError::Damaged { line: 1, .. })));
}

#[test]
fn a_segment_that_begins_before_the_one_it_follows_voids_nothing() {
    let (folder, storage, dir) = written(true);
    let first = std::fs::read(folder.path().join("00000001.jsonl")).unwrap();
    let version = first.split(|byte| *byte == b'\n').next().unwrap();
    let Record::Version(version) = decode::decode(version).unwrap().entry.record else {
        unreachable!()
    };
    let version = Record::Version(VersionRecord { after_failed_sync: true, ..version });
    let time = jiff::Timestamp::UNIX_EPOCH;
    let second = encode::line(0, time, Some(0), &encode::body(&version).unwrap());
    std::fs::write(folder.path().join("00000002.jsonl"), second).unwrap();
    assert!(matches!(open(&storage, &dir).map(drop), Err(LedgerError::Damaged { line: 1, .. })));
    assert_eq!(std::fs::read(folder.path().join("00000001.jsonl")).unwrap(), first);
}

#[test]
fn the_last_number_of_a_segment_has_no_successor() {
    let (folder, storage, dir) = written(true);
    let (first, last) = ("00000001.jsonl", "18446744073709551615.jsonl");
    std::fs::rename(folder.path().join(first), folder.path().join(last)).unwrap();
    let (ledger, _, paths) = open(&storage, &dir).unwrap();
    assert_eq!(paths, ["/a", "/b", "/c"]);
    ledger.close().unwrap();
    std::fs::copy(folder.path().join(last), folder.path().join(first)).unwrap();
    assert!(matches!(open(&storage, &dir).map(drop), Err(LedgerError::Damaged { .. })));
}

#[test]
fn many_callers_share_fsyncs_and_none_is_lost() {
    let (folder, storage, dir) = disk();
    let (ledger, ..) = open(&storage, &dir).unwrap();
    std::thread::scope(|scope| {
        for caller in 0..8 {
            let ledger = &ledger;
            scope.spawn(move || {
                for at in 0..50 {
                    let durability =
                        if at % 10 == 0 { Durability::Sync } else { Durability::Group };
                    ledger.append(operation(&format!("/{caller}/{at}"), true), durability).unwrap();
                }
            });
        }
    });
    ledger.flush().unwrap();
    let reader = Reader::open(folder.path()).unwrap();
    assert_eq!(reader.entries(0).filter(|entry| entry.is_ok()).count(), 401);
    ledger.close().unwrap();
    let (_, _, paths) = open(&storage, &dir).unwrap();
    assert_eq!(paths.len(), 400);
}

#[test]
fn the_reader_is_one_stream_and_shows_whole_lines_only() {
    let (folder, ..) = written(true);
    let first = std::fs::read(folder.path().join("00000001.jsonl")).unwrap();
    let second = [b"second\n".as_slice(), b"half a li"].concat();
    std::fs::write(folder.path().join("00000002.jsonl"), second).unwrap();
    let mut reader = Reader::open(folder.path()).unwrap();
    assert_eq!(reader.len(), first.len() as u64 + 7);
    let mut buffer = vec![0; first.len() + 100];
    let read = reader.read_at(3, &mut buffer).unwrap();
    assert_eq!(&buffer[..read], [&first[3..], b"second\n"].concat());
    assert_eq!(reader.lines(0).count(), 6);
    std::fs::write(folder.path().join("00000002.jsonl"), "second\nhalf a line\n").unwrap();
    let seen = reader.len();
    reader.refresh().unwrap();
    assert_eq!(reader.lines(seen).next().unwrap().unwrap().1, b"half a line\n");
}

#[test]
fn a_line_is_found_by_its_position() {
    let (folder, storage, dir) = disk();
    let (ledger, ..) = open(&storage, &dir).unwrap();
    for at in 1..5000 {
        let path = format!("/{at}{}", "x".repeat(at % 700));
        ledger.append(operation(&path, true), Durability::Async).unwrap();
    }
    ledger.flush().unwrap();
    let reader = Reader::open(folder.path()).unwrap();
    let whole = std::fs::read(folder.path().join("00000001.jsonl")).unwrap();
    assert!(whole.len() > 1 << 21, "long enough to be bisected");
    let lines: Vec<&[u8]> = whole.split(|byte| *byte == b'\n').collect();
    for at in (0..5000).step_by(17).chain([4999]) {
        assert_eq!(reader.line_at(at as u64).unwrap().as_deref(), Some(lines[at]), "{at}");
    }
    assert_eq!(reader.line_at(5000).unwrap(), None);
    let bundle = prove::entries(&reader, 3, 2).unwrap().unwrap();
    let [first, second] = [lines[768], lines[769]];
    let length = |line: &[u8]| (line.len() as u16).to_be_bytes();
    assert_eq!(bundle, [&length(first), first, &length(second), second].concat());
    assert_eq!(prove::entries(&reader, 19, 200).unwrap(), None);
    ledger.close().unwrap();
}

/// A simulated disk whose ledger has been given work until the power went.
fn work(storage: &Arc<SimulatedStorage>, dir: &SimulatedDir) -> Vec<String> {
    let mut promised = Vec::new();
    let Ok((ledger, ..)) = open(storage, dir) else { return promised };
    for at in 0..6 {
        let _ = ledger.append(operation(&format!("/async/{at}"), true), Durability::Async);
        let path = format!("/sync/{at}");
        if ledger.append(operation(&path, true), Durability::Sync).is_ok() {
            promised.push(path);
        }
    }
    let _ = ledger.close();
    promised
}

fn simulated(names: Names) -> (Arc<SimulatedStorage>, SimulatedDir) {
    let storage = SimulatedStorage::new(names);
    let dir = storage.add_device(DeviceOptions::default());
    (storage.shared(), dir)
}

#[track_caller]
fn check_promises(after: SimulatedStorage, dir: &SimulatedDir, promised: &[String], what: &str) {
    let after = after.shared();
    let (ledger, _, paths) = open(&after, dir).unwrap_or_else(|error| panic!("{what}: {error}"));
    for path in promised {
        assert!(paths.contains(path), "{what}: {path} was promised; there are {paths:?}");
    }
    ledger.append(operation("/again", true), Durability::Sync).unwrap();
    ledger.close().unwrap();
    drop(ledger);
    let (_, _, paths) = open(&after, dir).unwrap_or_else(|error| panic!("{what}, again: {error}"));
    assert!(paths.contains(&"/again".to_owned()));
}

#[test]
fn a_crash_at_any_step_loses_nothing_that_was_promised() {
    for names in [Names::Journal, Names::Independent] {
        let (storage, dir) = simulated(names);
        work(&storage, &dir);
        let steps = storage.steps();
        for step in 0..=steps {
            let (storage, dir) = simulated(names);
            storage.fail_at(step, Fault::Crash);
            let promised = work(&storage, &dir);
            for seed in 0..4 {
                let what = format!("{names:?}, step {step}, seed {seed}");
                check_promises(storage.crash(seed), &dir, &promised, &what);
            }
        }
    }
}

/// The same with another segment in the middle.
fn work_in_two(storage: &Arc<SimulatedStorage>, dir: &SimulatedDir) -> Vec<String> {
    let mut promised = Vec::new();
    let Ok((ledger, ..)) = open(storage, dir) else { return promised };
    for at in 0..4 {
        let path = format!("/{at}");
        if ledger.append(operation(&path, true), Durability::Sync).is_ok() {
            promised.push(path);
        }
        if at == 1 {
            let _ = ledger.rotate();
        }
    }
    let _ = ledger.close();
    promised
}

type Work = fn(&Arc<SimulatedStorage>, &SimulatedDir) -> Vec<String>;

#[track_caller]
fn check_errors(errno: Errno, steps: &[u64], work: Work) {
    let (storage, dir) = simulated(Names::Independent);
    steps.iter().for_each(|step| storage.fail_at(*step, Fault::Errno(errno)));
    let promised = work(&storage, &dir);
    for seed in 0..2 {
        let what = format!("{errno:?} at steps {steps:?}, seed {seed}");
        check_promises(storage.crash(seed), &dir, &promised, &what);
    }
}

#[test]
fn an_error_at_any_step_or_two_loses_nothing_that_was_promised() {
    for errno in [Errno::IO, Errno::NOSPC] {
        for work in [work, work_in_two] as [Work; 2] {
            let (storage, dir) = simulated(Names::Independent);
            work(&storage, &dir);
            for step in 0..=storage.steps() {
                check_errors(errno, &[step], work);
                for next in 1..=3 {
                    check_errors(errno, &[step, step + next], work);
                }
            }
        }
    }
}

#[test]
fn whatever_was_let_in_before_the_ledger_closed_is_written() {
    for _ in 0..30 {
        let (storage, dir) = simulated(Names::Journal);
        let (ledger, ..) = open(&storage, &dir).unwrap();
        let append = |thread: u32| {
            let next =
                |at| ledger.append(operation(&format!("/{thread}/{at}"), true), Durability::Group);
            (0_u64..).take_while(|at| next(*at).is_ok()).count()
        };
        let accepted = std::thread::scope(|scope| {
            let append = &append;
            let threads = [0, 1, 2].map(|thread| scope.spawn(move || append(thread)));
            std::thread::sleep(std::time::Duration::from_millis(3));
            ledger.close().unwrap();
            threads.map(|thread| thread.join().unwrap()).iter().sum::<usize>()
        });
        let (ledger, _, paths) = open(&storage, &dir).unwrap();
        ledger.close().unwrap();
        assert_eq!(paths.len(), accepted);
    }
}

#[test]
fn who_reads_on_after_a_failed_sync_and_a_rotation_misses_nothing_and_reads_whole_lines() {
    let (folder, storage, dir) = disk();
    let (ledger, ..) = open(&storage, &dir).unwrap();
    ledger.append(operation("/a", true), Durability::Sync).unwrap();
    ledger.append(operation("/b", true), Durability::Sync).unwrap();
    ledger.close().unwrap();
    let mut reader = Reader::open(folder.path()).unwrap();
    let (offset, size) = (reader.len(), reader.len());
    // What the writer does when it could not sync "/b": it cuts it off, and has it again in the next.
    let first = folder.path().join("00000001.jsonl");
    let text = std::fs::read(&first).unwrap();
    let lines: Vec<&[u8]> = text.split_inclusive(|byte| *byte == b'\n').collect();
    std::fs::write(&first, lines[..2].concat()).unwrap();
    let version = decode::decode_line(lines[0].strip_suffix(b"\n").unwrap()).unwrap().record;
    let Record::Version(version) = version else { unreachable!() };
    let version = Record::Version(VersionRecord { after_failed_sync: true, ..version });
    let time = jiff::Timestamp::UNIX_EPOCH;
    let line = |seq, record| encode::line(seq, time, None, &encode::body(&record).unwrap());
    let next = [line(2, version), line(3, operation("/b", true)), line(4, operation("/c", true))];
    std::fs::write(folder.path().join("00000002.jsonl"), next.concat()).unwrap();
    reader.refresh().unwrap();
    assert_eq!(reader.len(), size + next.concat().len() as u64, "it does not shrink");
    let read: Vec<Vec<u8>> = reader.lines(offset).map(|line| line.unwrap().1).collect();
    assert_eq!(read, next, "what comes after what was read");
    let seqs = |reader: &Reader| -> Vec<u64> {
        reader.entries(0).map(|entry| entry.unwrap().seq).collect()
    };
    assert_eq!(seqs(&reader), [0, 1, 2, 3, 4]);
    assert_eq!(seqs(&Reader::open(folder.path()).unwrap()), [0, 1, 2, 3, 4]);
    let mut all = vec![0; size as usize];
    assert_eq!(reader.read_at(0, &mut all).unwrap(), all.len());
    assert!(all.starts_with(&lines[..2].concat()) && all.ends_with(b"\n\n"));
}

/// A sync of a new segment that failed: it is removed, and begun anew by the same name.
#[test]
fn who_has_seen_a_segment_that_was_begun_anew_reads_what_it_has_now() {
    let (folder, storage, dir) = disk();
    let (ledger, ..) = open(&storage, &dir).unwrap();
    ledger.append(operation("/a", true), Durability::Sync).unwrap();
    ledger.close().unwrap();
    let first = std::fs::read(folder.path().join("00000001.jsonl")).unwrap();
    let version = decode::decode_line(first.split(|byte| *byte == b'\n').next().unwrap()).unwrap();
    let time = jiff::Timestamp::UNIX_EPOCH;
    let line = |seq, record| encode::line(seq, time, None, &encode::body(&record).unwrap());
    let second = folder.path().join("00000002.jsonl");
    let begun = line(2, version.record);
    std::fs::write(&second, &begun).unwrap();
    let mut reader = Reader::open(folder.path()).unwrap();
    let size = reader.len();
    std::fs::remove_file(&second).unwrap();
    let now = [begun, line(3, operation("/b", true)), line(4, operation("/c", true))].concat();
    std::fs::write(&second, &now).unwrap();
    reader.refresh().unwrap();
    let seqs: Vec<u64> = reader.entries(0).map(|entry| entry.unwrap().seq).collect();
    assert_eq!(seqs, [0, 1, 2, 3, 4]);
    assert_eq!(reader.len(), (first.len() + now.len()) as u64);
    assert_eq!(reader.entries(size).count(), 2, "who reads on");
}
