//! What is changed from outside while it is used through the mount: directories swapped for links,
//! replaced, and moved out of the branch.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, CWD, Gid, Mode, OFlags, RenameFlags, Uid};
use rustix::io::Errno;

use super::{BRANCHES, EVERYBODY, Outside, SECRET, VIEW, Who, furnished};
use crate::harness::{Mount, Scene, sh};

/// How long swapping goes on, at most so many times.
const SWAPPING: Duration = Duration::from_secs(3);
const SWAPS_MAX: usize = 200_000;
/// Directories that are swapped: the kernel remembers each for a second, so that few names would be
/// looked up too seldom.
const DIRECTORIES: usize = 24;

/// Swaps each `dN` with the link beside it, in one step.
fn by_exchange(branch: &Path, number: usize) {
    let (one, other) = (branch.join(format!("d{number}")), branch.join(format!("l{number}")));
    rustix::fs::renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE).expect("exchanged");
}

/// Moves `dN` away, puts a link in its place, and takes that away again.
fn by_unlinking(branch: &Path, number: usize) {
    let (here, away) = (branch.join(format!("d{number}")), branch.join(format!("a{number}")));
    fs::rename(&here, &away).expect("moved away");
    symlink("../vault", &here).expect("linked");
    fs::remove_file(&here).expect("unlinked");
    fs::rename(&away, &here).expect("moved back");
}

/// Everything that leads through a directory. Whether it succeeds depends on the moment; gives what was
/// read.
fn work(folder: &Path, who: Who, round: usize, succeeded: &mut usize) -> Option<String> {
    // Each has names of their own.
    let name = |name: &str| folder.join(format!("{name}-{who:?}"));
    let new = folder.join(format!("n{}-{who:?}", round % 7));
    let done = [
        fs::write(&new, "ours").is_ok(),
        fs::OpenOptions::new().append(true).open(folder.join("victim")).is_ok(),
        fs::create_dir(name("made")).is_ok(),
        fs::rename(&new, name("renamed")).is_ok(),
        fs::rename(folder.join("canary"), name("moved")).is_ok(),
        fs::rename(name("moved"), folder.join("canary")).is_ok(),
        fs::hard_link(name("renamed"), name("linked")).is_ok(),
        symlink("x", name("link")).is_ok(),
        fs::remove_file(name("link")).is_ok(),
        fs::remove_file(name("linked")).is_ok(),
        fs::remove_file(name("renamed")).is_ok(),
        fs::remove_dir(name("made")).is_ok(),
        fs::read_dir(folder).is_ok(),
    ];
    *succeeded += done.iter().filter(|done| **done).count();
    let _ = rustix::fs::chmod(folder.join("victim"), Mode::from_raw_mode(0o666));
    fs::read_to_string(folder.join("canary")).ok()
}

/// Works until it is told to stop; gives how much succeeded.
fn work_on(branch: &Path, who: Who, stop: &AtomicBool) -> usize {
    if who == Who::User {
        // This thread alone.
        let user = (Uid::from_raw(65534), Gid::from_raw(65534));
        rustix::thread::set_thread_groups(&[]).expect("no groups");
        rustix::thread::set_thread_res_gid(user.1, user.1, user.1).expect("another group");
        rustix::thread::set_thread_res_uid(user.0, user.0, user.0).expect("another user");
    }
    let (mut rounds, mut succeeded) = (0, 0);
    while !stop.load(Ordering::Relaxed) {
        let folder = branch.join(format!("d{}", rounds % DIRECTORIES));
        let read = work(&folder, who, rounds, &mut succeeded);
        assert!(read.is_none_or(|text| !text.contains(SECRET)), "it was read");
        rounds += 1;
    }
    succeeded
}

#[track_caller]
fn nothing_leads_out(swap: fn(&Path, usize)) {
    let scene = Scene::with(&BRANCHES, VIEW);
    let outside = Outside::new(&scene);
    let branch = scene.branch("inbox");
    let plant = format!(
        "umask 0; for n in $(seq 0 {}); do mkdir d$n; echo inside | tee d$n/canary >d$n/victim; ln -s ../vault l$n; done",
        DIRECTORIES - 1
    );
    sh(&branch, &plant).ok();
    let mount = scene.mount();
    let stop = AtomicBool::new(false);
    let (swaps, succeeded) = thread::scope(|scope| {
        let working = EVERYBODY.map(|who| {
            let (mount, stop) = (&mount, &stop);
            scope.spawn(move || work_on(&mount.path("inbox"), who, stop))
        });
        let begun = Instant::now();
        let mut swaps = 0;
        while begun.elapsed() < SWAPPING && swaps < SWAPS_MAX {
            swap(&branch, swaps % DIRECTORIES);
            swaps += 1;
        }
        stop.store(true, Ordering::Relaxed);
        (swaps, working.map(|working| working.join().expect("worked")))
    });
    assert!(swaps > DIRECTORIES, "{swaps} swaps");
    assert!(
        succeeded.iter().all(|count| *count > 0),
        "nothing was ever done inside: {succeeded:?}"
    );
    outside.untouched();
    mount.sh("echo alive >inbox/alive && cat inbox/alive").ok();
    mount.unmount();
}

#[test]
fn a_directory_exchanged_for_a_link_leads_nowhere() {
    nothing_leads_out(by_exchange);
}

#[test]
fn a_directory_replaced_by_a_link_leads_nowhere() {
    nothing_leads_out(by_unlinking);
}

/// What can be done in a directory that somebody has open, by its descriptor.
#[track_caller]
fn is_lost(held: &std::os::fd::OwnedFd) {
    let lost = |what: &str, result: rustix::io::Result<()>| {
        let errno = result.expect_err(what);
        assert!([Errno::STALE, Errno::NOENT].contains(&errno), "{what}: {errno}");
    };
    let create = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC;
    lost("create", rustix::fs::openat(held, "new", create, Mode::RWXU).map(drop));
    lost("mkdir", rustix::fs::mkdirat(held, "new", Mode::RWXU));
    lost("symlink", rustix::fs::symlinkat("x", held, "new"));
    lost("unlink", rustix::fs::unlinkat(held, "g", AtFlags::empty()));
    lost("rename", rustix::fs::renameat(held, "g", held, "h"));
    lost("chmod", rustix::fs::fchmod(held, Mode::RWXU));
    lost("utimes", rustix::fs::futimens(held, &now()));
    // What the kernel still remembers of the names below, it remembers for a second.
    thread::sleep(Duration::from_millis(1200));
    lost("open", rustix::fs::openat(held, "g", OFlags::RDONLY, Mode::empty()).map(drop));
    lost("stat", rustix::fs::statat(held, "g", AtFlags::empty()).map(drop));
    lost("write", rustix::fs::openat(held, "g", OFlags::WRONLY, Mode::empty()).map(drop));
    let listed =
        rustix::fs::Dir::read_from(held).and_then(|mut entries| entries.read().transpose());
    assert!(listed.is_err(), "it was listed");
}

fn now() -> rustix::fs::Timestamps {
    let now = rustix::fs::Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_NOW };
    rustix::fs::Timestamps { last_access: now, last_modification: now }
}

fn held(mount: &Mount, path: &str) -> std::os::fd::OwnedFd {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(mount.path(path), flags, Mode::empty()).expect("open")
}

#[test]
fn a_directory_that_was_moved_out_is_lost_to_whoever_has_it_open() {
    let (scene, _) = furnished();
    let mount = scene.mount();
    let folder = scene.base().join("branches");
    for (place, branch, target) in [
        ("inbox/d", "inbox", "vault/d"),
        ("pool/d", "disk1", "vault/e"),
        // To where nothing may come but by a gate.
        ("inbox/sub", "inbox", "review/behind"),
    ] {
        let held = held(&mount, place);
        let name = place.rsplit('/').next().expect("a name");
        let source = folder.join(branch).join(name);
        if name == "sub" {
            fs::write(source.join("g"), "inner\n").expect("write");
        }
        rustix::fs::statat(&held, "g", AtFlags::empty()).expect("it is there");
        fs::rename(&source, folder.join(target)).expect("moved out");
        let before = super::facts(&folder, target);
        is_lost(&held);
        assert_eq!(super::facts(&folder, target), before, "{place} (left: now)");
    }
    // One that is moved within its branch, or comes back, is served as before.
    fs::rename(folder.join("vault/d"), folder.join("inbox/back")).expect("moved back");
    assert_eq!(
        mount.sh("cat inbox/back/g && touch inbox/back/new && ls inbox/back").ok(),
        "inner\ne\ng\nnew\n"
    );
    mount.unmount();
}

#[test]
fn directories_are_moved_out_and_in_while_they_are_walked() {
    let (scene, outside) = furnished();
    let branch = scene.branch("inbox");
    sh(&branch, "for n in $(seq 0 9); do mkdir -p d$n/e/f; echo mine >d$n/e/f/g; done").ok();
    let away = scene.base().join("branches/away");
    fs::create_dir(&away).expect("mkdir");
    let mount = scene.mount();
    let stop = AtomicBool::new(false);
    let read = thread::scope(|scope| {
        let moving = scope.spawn(|| {
            let begun = Instant::now();
            for round in 0..SWAPS_MAX {
                if begun.elapsed() > SWAPPING {
                    break;
                }
                let (here, there) = (branch.join(format!("d{}", round % 10)), away.join("d"));
                fs::rename(&here, &there).expect("moved out");
                thread::sleep(Duration::from_millis(2));
                fs::rename(&there, &here).expect("moved in");
            }
            stop.store(true, Ordering::Relaxed);
        });
        let mut read = String::new();
        while !stop.load(Ordering::Relaxed) {
            read += &mount.sh("find inbox -type f -exec cat {} + 2>/dev/null; true").ok();
            read += &mount
                .sh_as("nobody", "grep -rsh . inbox; ls -lR inbox >/dev/null 2>&1; true")
                .ok();
        }
        moving.join().expect("moved");
        read
    });
    let strange = read.lines().find(|line| !["mine", "inner", "deep"].contains(line));
    assert_eq!(strange, None, "something else was read");
    assert!(read.contains("mine"), "nothing was ever found");
    outside.untouched();
    assert_eq!(mount.sh("cat inbox/d?/e/f/g | sort | uniq -c | tr -s ' '").ok(), " 10 mine\n");
    mount.unmount();
}

/// The kernel has found nothing under a name and asks to make it; meanwhile somebody has put their own
/// file there. It must not be opened as if the caller had made it.
#[test]
fn a_file_put_there_while_it_is_being_made_is_not_opened_as_the_caller_s() {
    let (scene, _) = furnished();
    let branch = scene.branch("inbox");
    let mount = scene.mount();
    let closed = scene.base().join("branches/closed");
    fs::write(&closed, SECRET).expect("write");
    rustix::fs::chmod(&closed, Mode::from_raw_mode(0o600)).expect("chmod");
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                for number in 0..50 {
                    let _ = rustix::fs::linkat(
                        CWD,
                        &closed,
                        CWD,
                        branch.join(format!("r{number}")),
                        AtFlags::empty(),
                    );
                }
                for number in 0..50 {
                    let _ = fs::remove_file(branch.join(format!("r{number}")));
                }
            }
        });
        let script = r#"
import os, time
end = time.time() + 3
tried = taken = 0
while time.time() < end:
    for n in range(50):
        try:
            fd = os.open("inbox/r%d" % n, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            tried += 1
            continue
        if os.fstat(fd).st_uid != os.getuid() or os.read(fd, 100):
            taken += 1
        os.close(fd)
        try:
            os.unlink("inbox/r%d" % n)
        except OSError:
            pass
print(taken, "taken", "of some" if tried else "of none")
"#;
        let ended = mount.sh_as("nobody", &format!("/usr/bin/python3 -c '{script}'"));
        stop.store(true, Ordering::Relaxed);
        assert_eq!(ended.ok(), "0 taken of some\n");
    });
    let text = fs::read_to_string(&closed).expect("read");
    assert_eq!(text, SECRET);
    mount.unmount();
}
