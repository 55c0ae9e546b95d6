//! One crossing at a time, with the power on.

use super::*;

#[test]
fn a_file_crosses_with_all_its_attributes() {
    for same in [false, true] {
        let world = new_world(Names::Journal, same);
        world.put(0, "f", &new_content());
        let before = world.disk.stat(&world.roots[0], OsStr::new("f")).unwrap().unwrap();
        let crossed = world.cross("f", "sub/g").unwrap();
        assert_eq!((crossed.same_filesystem, crossed.confirmed), (same, true));
        assert_eq!(world.get(0, "f"), None);
        assert_eq!(world.get(1, "sub/g"), Some(new_content()));
        let dir = world.dir(1, "sub/g");
        let name = OsStr::new("g");
        let after = world.disk.stat(&dir, name).unwrap().unwrap();
        assert_eq!((after.uid, after.gid, after.mode), (before.uid, before.gid, before.mode));
        assert_eq!((after.atime, after.identity.mtime), (before.atime, before.identity.mtime));
        assert_eq!(after.identity.handle, crossed.identity.handle);
        assert_eq!(world.disk.xattrs(&dir, name).unwrap().len(), 2);
        let file = world.disk.open_read(&dir, name).unwrap();
        let data = world.disk.next_data(&file, 0).unwrap().unwrap();
        assert_eq!(data, 4096..new_content().len() as u64, "the hole is gone");
        assert!(world.private(1, "stage").is_empty());
        let held = if same { vec![] } else { vec![new_content()] };
        assert_eq!(world.private(0, "hold"), held);
        assert_eq!(world.state(crossed.txid), Some(TransactionState::Done));
        assert!(world.mover.active().is_empty());
    }
}

#[test]
fn what_stood_at_the_target_goes_to_hold() {
    for same in [false, true] {
        let world = new_world(Names::Journal, same);
        world.put(0, "f", b"new");
        world.put(1, "f", b"old");
        let crossed = world.cross("f", "f").unwrap();
        assert_eq!(world.get(1, "f").unwrap(), b"new");
        assert_eq!(crossed.displaced.len(), 1);
        assert_eq!(world.private(1, "hold"), [b"old"]);
    }
}

#[test]
fn noreplace_keeps_the_target() {
    let world = new_world(Names::Journal, false);
    world.put(0, "f", b"new");
    world.put(1, "f", b"old");
    let request = CrossingRequest { no_replace: true, ..world.request("f", "f") };
    assert_eq!(world.cross_as(request), Err(CrossingError::TargetExists));
    assert_eq!(world.get(1, "f").unwrap(), b"old");
    assert_eq!(world.get(0, "f").unwrap(), b"new");
}

#[test]
fn symlinks_and_special_files_cross() {
    let world = new_world(Names::Journal, false);
    let kinds = [
        ("link", Kind::Symlink("../somewhere".into())),
        ("fifo", Kind::Fifo),
        ("socket", Kind::Socket),
        ("device", Kind::CharacterDevice(259)),
    ];
    for (name, kind) in kinds {
        world.disk.create_special(&world.roots[0], OsStr::new(name), &kind).unwrap();
        world.cross(name, name).unwrap();
        assert_eq!(world.disk.stat(&world.roots[0], OsStr::new(name)), Ok(None));
        let found = world.disk.stat(&world.roots[1], OsStr::new(name)).unwrap().unwrap();
        assert_eq!(found.kind, kind);
    }
}

/// The crossing is refused with this errno, leaves both ends alone and no copy behind.
#[track_caller]
fn check_refused(
    errno: Errno,
    set_up: impl FnOnce(&World),
    change: impl FnOnce(&mut CrossingRequest<Disk>),
) {
    let world = new_world(Names::Journal, false);
    world.put(0, "f", &new_content());
    world.put(1, "g", b"old");
    set_up(&world);
    let mut request = world.request("f", "g");
    change(&mut request);
    let error = world.cross_as(request).unwrap_err();
    assert_eq!(error.errno(), errno, "{error}");
    assert_eq!(world.get(1, "g").unwrap(), b"old");
    assert!(world.private(1, "stage").is_empty(), "{error}");
    assert!(world.private(1, "hold").is_empty(), "{error}");
    world.mover.with_journal(|journal| assert_eq!(journal.open().count(), 0));
    assert!(world.mover.active().is_empty());
}

#[test]
fn what_grew_while_its_writer_was_waited_for_is_measured_again() {
    let world = new_world(Names::Journal, false);
    world.put(0, "f", b"short");
    let mut request = world.request("f", "sub/g");
    set_terms(&mut request, &[], Some(10));
    world.disk.fail_next("lease", Fault::Delay(std::time::Duration::from_millis(500)));
    world.disk.keep_log();
    std::thread::scope(|scope| {
        let crossing = scope.spawn(|| world.cross_as(request));
        while !world.disk.log().iter().any(|line| line.contains("lease")) {
            std::thread::yield_now();
        }
        let file = world.disk.open_write(&world.roots[0], OsStr::new("f")).unwrap();
        world.disk.write_at(&file, b"and now longer", 0).unwrap();
        let refused = crossing.join().unwrap().unwrap_err();
        assert!(matches!(refused, CrossingError::TooLarge { size: 14, .. }), "{refused}");
    });
}

fn set_terms(request: &mut CrossingRequest<Disk>, types: &[&str], max_size: Option<u64>) {
    let types = types.iter().map(|text| (*text).to_owned()).collect();
    request.sources[0].terms = Arc::new(GateTerms {
        types,
        max_size,
        verify: Verify::Stream,
        lossy: Default::default(),
        checks: vec![],
    });
}

#[test]
fn refusals_change_nothing() {
    let name = OsStr::new("f");
    check_refused(Errno::ACCESS, |_| {}, |request| set_terms(request, &["text/plain"], None));
    check_refused(Errno::ACCESS, |_| {}, |request| set_terms(request, &[], Some(10)));
    check_refused(Errno::NOENT, |_| {}, |request| request.sources[0].name.name = "missing".into());
    check_refused(Errno::ISDIR, |_| {}, |request| request.target.name = "sub".into());
    check_refused(Errno::NOTDIR, |_| {}, |request| request.sources[0].name.name = "sub".into());
    check_refused(Errno::IO, |_| {}, |request| request.target.branch = BranchIndex(7));
    check_refused(
        Errno::PERM,
        |world| {
            let root = &world.roots[0];
            world.disk.link_outside(root, name, root, OsStr::new("second")).unwrap();
        },
        |_| {},
    );
    check_refused(
        Errno::BUSY,
        |world| world.disk.open_outside(&world.roots[0], name).unwrap(),
        |_| {},
    );
    let with = |options: DeviceOptions| move |world: &World| world.disk.set_options(2, options);
    let usual = DeviceOptions::default();
    check_refused(Errno::OPNOTSUPP, with(DeviceOptions { xattrs: false, ..usual }), |_| {});
    check_refused(Errno::OPNOTSUPP, with(DeviceOptions { whole_seconds: true, ..usual }), |_| {});
    check_refused(Errno::NOSPC, with(DeviceOptions { capacity: 6000, ..usual }), |_| {});
}

#[test]
fn a_writer_that_comes_before_the_decision_stops_it() {
    for same in [false, true] {
        let world = new_world(Names::Journal, same);
        world.put(0, "f", b"text");
        let prepared = world.mover.prepare(world.request("f", "f")).unwrap();
        world.disk.open_outside(&world.roots[0], OsStr::new("f")).unwrap();
        assert_eq!(world.mover.commit(prepared), Err(CrossingError::SourceChanged));
        assert_eq!(world.get(0, "f").unwrap(), b"text");
        assert!(world.private(1, "stage").is_empty());
    }
}

#[test]
fn a_change_that_no_lease_tells_of_is_seen() {
    let world = new_world(Names::Journal, false);
    world.disk.set_options(1, DeviceOptions { leases: false, ..DeviceOptions::default() });
    world.put(0, "f", b"text");
    let prepared = world.mover.prepare(world.request("f", "f")).unwrap();
    let file = world.disk.open_write(&world.roots[0], OsStr::new("f")).unwrap();
    world.disk.write_at(&file, b"TEXT", 0).unwrap();
    assert_eq!(world.mover.commit(prepared), Err(CrossingError::SourceChanged));
    assert_eq!(world.get(0, "f").unwrap(), b"TEXT");
    assert_eq!(world.get(1, "f"), None);
}

#[test]
fn a_prepared_crossing_that_is_dropped_leaves_nothing() {
    let world = new_world(Names::Journal, false);
    world.put(0, "f", b"text");
    let prepared = world.mover.prepare(world.request("f", "f")).unwrap();
    let txid = prepared.txid;
    assert_eq!(world.mover.active().len(), 1);
    drop(prepared);
    assert!(world.private(1, "stage").is_empty());
    assert_eq!(world.state(txid), Some(TransactionState::Aborted));
    assert!(world.mover.active().is_empty());
}

#[test]
fn a_cancelled_crossing_stops() {
    let world = new_world(Names::Journal, false);
    world.put(0, "f", b"text");
    let prepared = world.mover.prepare(world.request("f", "f")).unwrap();
    world.mover.active()[0].cancel(Stop::ClientLeft);
    assert_eq!(world.mover.commit(prepared), Err(CrossingError::Cancelled(Stop::ClientLeft)));
    assert_eq!(world.get(0, "f").unwrap(), b"text");
}

#[test]
fn one_device_that_turns_out_to_be_two_gets_a_copy() {
    let world = new_world(Names::Journal, true);
    world.put(0, "f", b"text");
    world.disk.keep_log();
    let first = world.disk.steps();
    world.cross("f", "f").unwrap();
    let renamed = world.disk.log().iter().rposition(|line| line.contains("rename")).unwrap() as u64;

    let world = new_world(Names::Journal, true);
    world.put(0, "f", b"text");
    assert_eq!(world.disk.steps(), first, "both worlds take the same steps");
    world.disk.fail_at(first + renamed, Fault::Errno(Errno::XDEV));
    let crossed = world.cross("f", "f").unwrap();
    assert!(!crossed.same_filesystem);
    assert_eq!((world.get(0, "f"), world.get(1, "f").as_deref()), (None, Some(&b"text"[..])));

    // What was prepared for a rename(2) of its own does not begin anew in there.
    let world = new_world(Names::Journal, true);
    world.put(0, "f", b"text");
    let mut prepared = world.mover.prepare(world.request("f", "f")).unwrap();
    let txid = prepared.txid;
    prepared.only_commit();
    world.disk.fail_at(first + renamed, Fault::Errno(Errno::XDEV));
    assert_eq!(world.mover.commit(prepared), Err(CrossingError::CopyNeeded));
    assert_eq!(world.state(txid), Some(TransactionState::Reverted));
    assert_eq!((world.get(0, "f").as_deref(), world.get(1, "f")), (Some(&b"text"[..]), None));
    assert_eq!(world.mover.with_journal(|journal| journal.iter().count()), 1, "it began anew");
    let mut prepared = world.mover.prepare(world.request("f", "f")).unwrap();
    prepared.only_commit();
    let crossed = world.mover.commit(prepared).unwrap();
    assert!(!crossed.same_filesystem);
    assert_eq!((world.get(0, "f"), world.get(1, "f").as_deref()), (None, Some(&b"text"[..])));
}

#[test]
fn stage_is_swept_and_unknown_hold_is_kept() {
    let world = new_world(Names::Journal, false);
    for area in ["stage", "hold"] {
        world.put(0, &format!(".octroi/{area}/{}", ulid::Ulid::generate()), b"whose?");
    }
    let strays = world.mover.inspect();
    assert!(
        matches!(strays[..], [Irregularity::Stage(..), Irregularity::Unknown(..)]),
        "{strays:?}"
    );
    let recovery = world.mover.recover();
    assert_eq!(recovery.swept, 1);
    assert_eq!(recovery.unknown.len(), 1);
    assert!(world.private(0, "stage").is_empty());
    assert_eq!(world.private(0, "hold"), [b"whose?"]);
}

#[test]
fn what_was_recorded_as_lost_is_kept_when_it_reappears() {
    let world = new_world(Names::Journal, false);
    world.put(0, "f", b"the original");
    let txid = world.cross("f", "f").unwrap().txid;
    assert!(!world.mover.record_lost(txid), "it is there");
    assert_eq!(world.mover.inspect(), []);
    let hold = world.disk.open_dir(&world.roots[0], Path::new(".octroi/hold")).unwrap();
    let (held, found) = (txid.to_string(), OsStr::new("lost+found"));
    world.disk.rename(&hold, held.as_ref(), &world.roots[0], found).unwrap();
    assert!(
        matches!(world.mover.inspect()[..], [Irregularity::Missing(found, _, true)] if found == txid)
    );
    assert!(world.mover.record_lost(txid));
    assert!(!world.mover.record_lost(txid), "twice");
    assert!(world.undo(txid).unwrap_err().to_string().contains("is lost"));
    world.disk.rename(&world.roots[0], found, &hold, held.as_ref()).unwrap();
    world.disk.sync_all();
    let world = world.restart(false);
    let recovery = world.mover.recover();
    assert_eq!(recovery.returned, [("a".to_owned(), Path::new("hold").join(&held))]);
    let later = jiff::Timestamp::now() + jiff::SignedDuration::from_hours(1000);
    assert_eq!(world.mover.purge(later, std::time::Duration::ZERO), Purged::default());
    assert_eq!(world.private(0, "hold"), [b"the original"]);
}

#[test]
fn hold_is_purged_by_age() {
    let world = new_world(Names::Journal, false);
    world.put(0, "f", b"new");
    world.put(1, "f", b"old");
    let crossed = world.cross("f", "f").unwrap();
    let keep = std::time::Duration::from_secs(3600);
    let now = jiff::Timestamp::now();
    assert!(world.mover.purge(now, keep).transactions.is_empty());
    assert_eq!(world.private(1, "hold"), [b"old"]);
    let later = now + std::time::Duration::from_secs(3700);
    assert_eq!(world.mover.purge(later, keep).transactions, [crossed.txid]);
    assert!(world.private(0, "hold").is_empty() && world.private(1, "hold").is_empty());
    assert_eq!(world.undo(crossed.txid).unwrap_err().errno(), Errno::INVAL);
    assert_eq!(world.get(1, "f").unwrap(), b"new");
}

#[test]
fn the_history_of_a_file_is_told() {
    let world = new_world(Names::Journal, false);
    world.put(0, "f", b"text");
    let first = world.cross("f", "g").unwrap();
    let mut request = world.request("f", "g");
    (request.sources[0].name, request.target) = (world.name(1, "g"), world.name(0, "h"));
    let second = world.cross_as(request).unwrap();
    let path = ViewPath::parse(Path::new("/a/h")).unwrap();
    let told: Vec<_> = world
        .mover
        .with_journal(|journal| journal.history(&path).iter().map(|(txid, _)| *txid).collect());
    assert_eq!(told, [second.txid, first.txid]);
}
