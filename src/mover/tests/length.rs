//! Paths so long that lines of the ledger have no room for them: what cannot be recorded to its end is not begun.

use super::*;
use crate::ledger;

/// A byte that is six in JSON.
const WIDE: &str = "\u{1}";

/// A file at the end of so many folders, and of more with so many bytes of names.
fn deep(world: &World, folders: usize, last: usize) -> String {
    let mut path = String::from("deep");
    let mut made = vec![path.clone()];
    let narrow = vec![b'a'; last];
    let narrow = narrow.chunks(200).map(|name| String::from_utf8(name.to_vec()).unwrap());
    for name in std::iter::repeat_n(WIDE.repeat(200), folders).chain(narrow) {
        path = format!("{path}/{name}");
        made.push(path.clone());
    }
    made.iter().for_each(|path| world.make_dirs(0, &[path]));
    path.push_str("/f");
    world.put(0, &path, b"new");
    path
}

fn try_at(folders: usize, last: usize) -> (World, Result<TxId, CrossingError>) {
    let world = new_world(Names::Journal, false);
    world.put(1, "g", b"old");
    let path = deep(&world, folders, last);
    let crossed = world.cross(&path, "g");
    (world, crossed.map(|crossed| crossed.txid))
}

/// It crosses and can be taken back, or nothing has begun.
#[track_caller]
fn is_whole(folders: usize, last: usize) -> bool {
    let (world, crossed) = try_at(folders, last);
    let begun = world.mover.with_journal(|journal| journal.iter().count());
    match crossed {
        Ok(txid) => {
            assert_eq!(world.state(txid), Some(TransactionState::Done));
            true
        }
        Err(error) => {
            assert_eq!(error, CrossingError::Ledger { errno: Errno::NAMETOOLONG });
            assert_eq!((begun, world.private(1, "stage").len()), (0, 0));
            assert_eq!(world.get(1, "g").unwrap(), b"old");
            false
        }
    }
}

/// The longest name that crosses, in the most folders in which one does.
fn longest() -> (usize, usize) {
    let folders = (10..60).find(|folders| !is_whole(*folders, 1)).unwrap() - 1;
    let (mut good, mut bad) = (1, 1300);
    while bad - good > 1 {
        let middle = usize::midpoint(good, bad);
        *(if is_whole(folders, middle) { &mut good } else { &mut bad }) = middle;
    }
    (folders, good)
}

#[test]
fn a_crossing_that_can_be_begun_can_be_ended_and_taken_back() {
    let (folders, last) = longest();
    let (world, crossed) = try_at(folders, last);
    let txid = crossed.unwrap();
    let commit = world.mover.with_journal(|journal| journal.get(txid).unwrap().record.clone());
    let steps = [Step::Abort, Step::Done, Step::Reverted, Step::Dead, Step::Retry, Step::Withdraw];
    for step in steps.into_iter().chain([Step::Accept]) {
        let mut later = later_step(&commit, step, Some(WIDE.repeat(30_000)), "EIO".to_owned());
        later.exe = Some(WIDE.repeat(4096).into());
        let record = Record::Crossing(Box::new(later));
        assert_eq!(ledger::fits(&record), Ok(()), "{step:?}");
    }
    let exe = Some("x".repeat(4096).into());
    let prepared = world.mover.prepare_undo(AUTHOR, exe, false, txid, &any()).unwrap();
    world.mover.commit(prepared).unwrap();
    assert_eq!(world.get(1, "g").unwrap(), b"old");
}

#[test]
fn a_path_of_any_length_crosses_or_is_refused_before_anything_has_begun() {
    let refused: Vec<bool> = (1..90).step_by(4).map(|folders| !is_whole(folders, 1)).collect();
    assert!(refused.is_sorted() && refused.contains(&false) && refused.contains(&true));
}

/// As earlier versions could begin it.
#[test]
fn what_was_begun_with_a_record_that_just_fits_is_rolled_back() {
    let world = new_world(Names::Journal, false);
    world.put(0, "f", b"new");
    let prepared = world.mover.prepare(world.request("f", "g")).unwrap();
    let mut record = prepared.record.clone();
    drop(prepared);
    record.txid = TxId(ulid::Ulid::generate());
    let fits = |bytes: usize| {
        let source = format!("/{}", "x".repeat(bytes));
        let source = ViewPath::parse(Path::new(&source)).unwrap();
        let record = CrossingRecord { source, ..record.clone() };
        let fits = ledger::fits(&Record::Crossing(Box::new(record.clone())));
        fits.is_ok().then_some(record)
    };
    let bytes = (60_000..70_000).find(|bytes| fits(*bytes).is_none()).unwrap() - 1;
    world.mover.record(fits(bytes).unwrap(), Durability::Sync).unwrap();
    let world = world.restart(false);
    let recovery = world.mover.recover();
    assert_eq!((recovery.aborted, recovery.left_open), (vec![record.txid], vec![]));
    let world = world.restart(false);
    assert_eq!(world.state(record.txid), Some(TransactionState::Aborted));
}

/// The names of what was lost are users' own: COMMIT has room for some of them.
#[test]
fn what_a_copy_loses_does_not_make_its_decision_too_long() {
    let world = new_world(Names::Journal, false);
    world.put(0, "f", b"new");
    world.disk.set_options(2, DeviceOptions { xattrs: false, ..DeviceOptions::default() });
    let dir = world.dir(0, "f");
    for number in 0..60 {
        let name = format!("user.{number}{}", WIDE.repeat(240));
        world.disk.set_xattr(&dir, OsStr::new("f"), OsStr::new(&name), b"x").unwrap();
    }
    let mut request = world.request("f", "g");
    let terms = GateTerms {
        types: Vec::new(),
        max_size: None,
        verify: Verify::Readback,
        lossy: crate::policy::Lossy::new(&["xattr:*"]).unwrap(),
        checks: vec![],
    };
    request.sources[0].terms = Arc::new(terms);
    let crossed = world.cross_as(request).unwrap();
    let found = world.mover.with_journal(|journal| journal.get(crossed.txid).cloned().unwrap());
    assert_eq!(found.record.lost.first().map(String::as_str), Some("and more"));
    assert_eq!((found.state, world.mover.active().len()), (TransactionState::Done, 0));
}

#[test]
fn a_rename_within_a_pool_whose_decision_has_no_room_leaves_nothing() {
    let world = new_world(Names::Journal, true);
    let path = deep(&world, 60, 1);
    let request = RearrangeRequest {
        caller: AUTHOR,
        exe: None,
        source: world.name(0, &path).view,
        target: world.name(0, "g").view,
        moves: vec![(world.name(0, &path), world.name(0, "g"))],
        displace: Vec::new(),
    };
    let error = world.mover.rearrange(request).unwrap_err();
    assert_eq!(error, CrossingError::Ledger { errno: Errno::NAMETOOLONG });
    assert_eq!(world.get(0, &path).unwrap(), b"new");
    assert_eq!(world.mover.with_journal(|journal| journal.iter().count()), 0);
}

#[test]
fn what_is_lost_is_never_longer_than_what_was_counted() {
    let world = new_world(Names::Journal, false);
    world.put(0, "f", b"new");
    let record = world.mover.prepare(world.request("f", "g")).unwrap().record.clone();
    let json = |lost: &[String]| serde_json::to_string(lost).unwrap().len();
    let counted = json(&["x".repeat(progress::LOST_BYTES_MAX)]);
    for length in 60..200 {
        let progress = Progress::new(&record, "stage", &Arc::default());
        for number in 0..60 {
            progress.lose(&format!("xattr:{number:02}{}", "x".repeat(length)));
        }
        let lost = progress.lost();
        assert!(json(&lost) <= counted, "{length}: {} of {counted}", json(&lost));
        assert!(lost.len() > 15 && lost.contains(&"and more".to_owned()), "{length}: {lost:?}");
    }
}
