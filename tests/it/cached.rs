//! What the kernel keeps: its page cache outlives a close where nobody else can have changed the file, and
//! what nobody can change is not asked for again.

use std::fs;
use std::fs::{File, FileTimes};
use std::os::unix::fs::FileExt as _;
use std::thread::sleep;
use std::time::Duration;

use crate::harness::{Mount, Scene, require_root};

/// Longer than a change of a file may be without a time of its own.
const APART: Duration = Duration::from_millis(2_100);

/// A mounted view with a file of which nothing is in the page cache.
fn scene(body: &str) -> (Scene, Mount) {
    require_root();
    let scene = Scene::with(&["work"], body);
    fs::write(scene.branch("work").join("file"), "content 1").expect("write");
    sleep(APART);
    let mount = scene.mount();
    (scene, mount)
}

/// Whether the branches lie on a file system on which each change has a time of its own
/// (include/uapi/linux/magic.h): ext4, xfs, btrfs, f2fs.
fn tells_changes(scene: &Scene) -> bool {
    let stat = rustix::fs::statfs(scene.branch("work")).expect("statfs");
    [0xef53, 0x5846_5342, 0x9123_683e, 0xf2f5_2010].contains(&stat.f_type)
}

/// How many requests of a kind there have been.
fn requests(mount: &Mount, kind: &str) -> u64 {
    let stats = fs::read_to_string(mount.path(".audit/stats")).expect("stats");
    let line = stats.lines().find(|line| line.split_whitespace().next() == Some(kind));
    let count = line.map(|line| line.split_whitespace().nth(1).expect("a count"));
    count.map_or(0, |count| count.parse().expect("a number"))
}

/// What comes of something, and how many requests of a kind it took.
fn counted<T>(mount: &Mount, kind: &str, act: impl FnOnce() -> T) -> (T, u64) {
    // Looking takes some too.
    let (first, second) = (requests(mount, kind), requests(mount, kind));
    let found = act();
    (found, requests(mount, kind) - second - (second - first))
}

/// What a reader sees, and how many requests it took.
fn read(mount: &Mount, name: &str) -> (String, u64) {
    counted(mount, "read", || fs::read_to_string(mount.path(name)).expect("read"))
}

#[test]
fn what_nobody_changed_is_read_once() {
    let (scene, mount) = scene("[branches.work]\npath = \"branches/work\"\n");
    let kept = tells_changes(&scene);
    let (found, requests) = read(&mount, "work/file");
    assert_eq!(found, "content 1");
    assert!(requests > 0, "it came from nowhere");
    for _ in 0..3 {
        let (again, requests) = read(&mount, "work/file");
        assert_eq!((again, requests == 0), (found.clone(), kept));
    }
    // A program, and a mapping, are as good as a read.
    mount.sh("cp /bin/true work/program").ok();
    sleep(APART);
    let run = || mount.sh("work/program && cmp work/program /bin/true").ok();
    assert!(counted(&mount, "read", run).1 > 0);
    assert_eq!(counted(&mount, "read", run).1 == 0, kept);
}

#[test]
fn what_was_changed_is_read_anew() {
    let (scene, mount) = scene("[branches.work]\npath = \"branches/work\"\n");
    let backing = scene.branch("work").join("file");
    assert_eq!(read(&mount, "work/file").0, "content 1");
    assert_eq!(read(&mount, "work/file").1 == 0, tells_changes(&scene));
    // From outside, in place, of the same size and with the time of modification put back.
    let file = File::options().write(true).open(&backing).expect("open");
    let before = file.metadata().expect("stat").modified().expect("a time");
    file.write_all_at(b"content 2", 0).expect("write");
    file.set_times(FileTimes::new().set_modified(before)).expect("utimes");
    drop(file);
    assert_eq!(read(&mount, "work/file").0, "content 2");
    // Twice within what the clock of a file system tells apart.
    fs::write(&backing, "content 3").expect("write");
    assert_eq!(read(&mount, "work/file").0, "content 3");
    fs::write(&backing, "content 4").expect("write");
    assert_eq!(read(&mount, "work/file").0, "content 4");
    // By another name, and through the mount.
    sleep(APART);
    mount.sh("ln work/file work/name && cat work/file work/name && echo content 5 >work/name").ok();
    assert_eq!(read(&mount, "work/file").0, "content 5\n");
    // Another file in its place.
    fs::write(scene.branch("work").join("other"), "content 6\n").expect("write");
    sleep(APART);
    assert_eq!(read(&mount, "work/file").0, "content 5\n");
    fs::rename(scene.branch("work").join("other"), &backing).expect("rename");
    sleep(APART);
    assert_eq!(read(&mount, "work/file").0, "content 6\n");
}

#[test]
fn what_others_could_change_is_read_each_time() {
    let (_scene, mount) = scene("[branches.work]\npath = \"branches/work\"\nexposed = true\n");
    for _ in 0..3 {
        let (found, requests) = read(&mount, "work/file");
        assert_eq!(found, "content 1");
        assert!(requests > 0, "it was kept");
    }
}

#[test]
fn the_root_is_not_asked_for_with_each_path() {
    let (_scene, mount) = scene("[branches.work]\npath = \"branches/work\"\n");
    let walk = || {
        sleep(APART);
        fs::metadata(mount.path("work/file")).expect("there")
    };
    walk();
    assert_eq!(counted(&mount, "lookup", walk).1, 2, "changes from outside are to be seen");
    assert_eq!(counted(&mount, "getattr", walk).1, 0, "nothing else can have changed");
}
