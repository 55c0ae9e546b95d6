//! Disks that cannot keep everything: the crossing is refused before its decision, with the reason, unless
//! its gate names the loss, which is then recorded.

use super::*;
use crate::policy::Lossy;

const ACL: &str = "system.posix_acl_access";

/// A source with attributes, and a target whose disk is `options`.
fn world(options: DeviceOptions) -> World {
    let world = new_world(Names::Independent, false);
    world.put(0, "f", &new_content());
    world.make_dirs(0, &["d"]);
    world.put(0, "d/in", b"inside");
    world.dress_dir(0, "d");
    world.disk.set_options(2, options);
    world
}

fn no_xattrs() -> DeviceOptions {
    DeviceOptions { xattrs: false, ..DeviceOptions::default() }
}

fn cross(
    world: &World,
    source: &str,
    target: &str,
    lossy: &[&str],
) -> Result<Crossed, CrossingError> {
    let mut request = world.request(source, target);
    let lossy = Lossy::new(lossy).unwrap();
    let terms = GateTerms {
        types: Vec::new(),
        max_size: None,
        verify: Verify::Readback,
        lossy,
        checks: vec![],
    };
    request.sources[0].terms = Arc::new(terms);
    world.cross_as(request)
}

fn lost(world: &World, txid: TxId) -> Vec<String> {
    world.mover.with_journal(|journal| journal.get(txid).unwrap().record.lost.clone())
}

#[track_caller]
fn refused(world: &World, source: &str, lossy: &[&str], why: &str) {
    let before = world.get(0, source);
    let error = cross(world, source, "sub/x", lossy).unwrap_err();
    assert_eq!(error.errno(), Errno::OPNOTSUPP, "{error}");
    assert!(error.to_string().contains(why), "{error}");
    assert_eq!(world.get(0, source), before, "the source was touched");
    assert_eq!(world.get(1, "sub/x"), None);
    assert!(world.private(1, "stage").is_empty());
}

#[test]
fn attributes_are_lost_only_by_name() {
    for source in ["f", "d"] {
        let world = world(no_xattrs());
        refused(&world, source, &[], "extended attribute");
        refused(&world, source, &["acl", "times", "xattr:user.not*"], "extended attribute");
        let before = world.get(0, source);
        let names = ["xattr:user.*", "xattr:security.capability"];
        let crossed = cross(&world, source, "sub/x", &names).unwrap();
        assert_eq!(
            lost(&world, crossed.txid),
            ["xattr:security.capability", "xattr:user.note"],
            "{source}"
        );
        // What hold keeps has them still.
        world.undo(crossed.txid).unwrap();
        assert_eq!(world.get(0, source), before, "{source}");
    }
}

#[test]
fn times_are_lost_only_by_name() {
    for source in ["f", "d"] {
        let coarse = DeviceOptions { whole_seconds: true, ..DeviceOptions::default() };
        let world = world(coarse);
        refused(&world, source, &["acl", "xattr:*"], "the times");
        let crossed = cross(&world, source, "sub/x", &["times"]).unwrap();
        assert_eq!(lost(&world, crossed.txid), ["times"]);
        let found = world.disk.stat(&world.dir(1, "sub/x"), OsStr::new("x")).unwrap().unwrap();
        assert_eq!(found.identity.mtime.nanos, 0);
        world.undo(crossed.txid).unwrap();
    }
}

/// The mode's group bits are the most that the ACL grants to anybody; without it they would be the group's.
#[test]
fn nobody_gains_anything_by_an_acl_that_is_lost() {
    // Version 2; owner rw, user 7 rwx, group r, mask rwx, others nothing.
    let entry = |tag: u16, permissions: u16, id: u32| {
        [&tag.to_le_bytes()[..], &permissions.to_le_bytes(), &id.to_le_bytes()].concat()
    };
    let none = u32::MAX;
    let acl = [
        2_u32.to_le_bytes().to_vec(),
        entry(0x01, 6, none),
        entry(0x02, 7, 7),
        entry(0x04, 4, none),
        entry(0x10, 7, none),
        entry(0x20, 0, none),
    ]
    .concat();
    let world = world(no_xattrs());
    // This one has nothing else that is set.
    world.disk.create_file(&world.dir(0, "d/bare"), OsStr::new("bare")).unwrap();
    for path in ["f", "d/in", "d/bare"] {
        let dir = world.dir(0, path);
        let name = Path::new(path).file_name().unwrap();
        world.disk.set_mode(&dir, name, 0o670).unwrap();
        world.disk.set_xattr(&dir, name, OsStr::new(ACL), &acl).unwrap();
    }
    world.disk.sync_all();
    refused(&world, "f", &["xattr:*"], ACL);
    let inside = ["sub/d/in", "sub/d/bare"];
    for (source, target, arrived) in [("f", "sub/f", &["sub/f"][..]), ("d", "sub/d", &inside)] {
        let crossed = cross(&world, source, target, &["xattr:*", "acl"]).unwrap();
        assert!(lost(&world, crossed.txid).contains(&"acl".to_owned()));
        for at in arrived {
            let name = Path::new(at).file_name().unwrap();
            let found = world.disk.stat(&world.dir(1, at), name).unwrap().unwrap();
            assert_eq!(found.mode, 0o640, "{at}: {:o}", found.mode);
        }
        world.undo(crossed.txid).expect("what was lost is no change");
    }
}

#[test]
fn what_can_be_kept_is_kept_and_nothing_recorded() {
    let world = world(DeviceOptions::default());
    let before = world.get(0, "d");
    let crossed = cross(&world, "d", "sub/x", &["acl", "times", "xattr:*"]).unwrap();
    assert!(lost(&world, crossed.txid).is_empty());
    assert_eq!(world.get(1, "sub/x"), before);
}

/// ext4 says that there is no space where it cannot hold a value; a disk that is full says so too, and may hold
/// it later: that is no loss that a gate allows.
#[test]
fn what_a_full_disk_cannot_take_is_not_lost() {
    let options = DeviceOptions { capacity: 1 << 19, ..DeviceOptions::default() };
    for (options, is_lost) in [(options, false), (DeviceOptions::default(), true)] {
        let world = world(options);
        world.disk.fail_next("set_xattr", Fault::Errno(Errno::NOSPC));
        match cross(&world, "f", "sub/x", &["acl", "xattr:*"]) {
            Ok(crossed) => assert!(is_lost && !lost(&world, crossed.txid).is_empty()),
            Err(error) => assert!(!is_lost && error.errno() == Errno::NOSPC, "{error}"),
        }
    }
}
