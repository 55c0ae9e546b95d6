//! Disks with habits that POSIX allows and few have.

use super::*;

fn world(options: DeviceOptions) -> World {
    let world = new_world(Names::Journal, false);
    (1..=3).for_each(|device| world.disk.set_options(device, options));
    world
}

/// Where each read sets the time of access, reading a copy back does too: it is set again, for good.
#[test]
fn what_is_read_back_keeps_its_time_of_access() {
    for syncs_whole in [false, true] {
        for (source, target) in [("f", "sub/g"), ("t/f", "sub/t/f")] {
            let options =
                DeviceOptions { strict_atime: true, syncs_whole, ..DeviceOptions::default() };
            let world = world(options);
            world.make_dirs(0, &["t"]);
            world.put(0, source, &new_content());
            let atime = |world: &World, branch, path: &str| {
                let name = Path::new(path).file_name().unwrap();
                world.disk.stat(&world.dir(branch, path), name).unwrap().unwrap().atime
            };
            let before = atime(&world, 0, source);
            let top = |path: &str| path.strip_suffix("/f").unwrap_or(path).to_owned();
            world.cross(&top(source), &top(target)).unwrap();
            assert_eq!(atime(&world, 1, target), before, "{source}");
            for seed in 0..8 {
                let world = start(world.disk.crash(seed).shared(), false).unwrap();
                world.mover.recover();
                assert_eq!(atime(&world, 1, target), before, "{source}, seed {seed}");
            }
        }
    }
}

#[test]
fn directories_are_told_from_files_where_unlink_does_not_tell() {
    let world = world(DeviceOptions { posix_unlink: true, ..DeviceOptions::default() });
    world.make_dirs(0, &["f", "f/d"]);
    world.put(0, "f/d/x", b"x");
    world.cross("f", "sub/g").unwrap();
    let later = jiff::Timestamp::now() + std::time::Duration::from_secs(10);
    world.mover.purge(later, std::time::Duration::ZERO);
    assert_eq!(world.private(0, "hold"), Vec::<Vec<u8>>::new());
}

/// Nothing is tried there: an error of the disk would say less.
#[test]
fn a_file_system_that_is_mounted_read_only_is_said_to_be() {
    let world = new_world(Names::Journal, false);
    world.put(0, "f", b"new");
    for device in [1, 2] {
        let read_only = DeviceOptions { read_only: true, ..DeviceOptions::default() };
        world.disk.set_options(device, read_only);
        let refused = world.cross("f", "g").unwrap_err();
        assert_eq!(refused, CrossingError::ReadOnly { branch: ROOTS[device - 1].to_owned() });
        assert_eq!(refused.errno(), Errno::ROFS);
        world.disk.set_options(device, DeviceOptions::default());
    }
    world.cross("f", "g").unwrap();
}
