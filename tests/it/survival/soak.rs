//! The daemon is killed at random moments while several processes' worth of threads work on files whose
//! content they know, and mounted again. What a call had promised holds; what was under way when it died
//! is as before or as after. `OCTROI_SOAK_SECONDS` is how long, two minutes by default.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, RwLock};
use std::time::{Duration, Instant};
use std::{fs, io, panic, thread};

use super::*;

const WORKERS: u64 = 3;
const SECONDS: u64 = 120;
const FILES_MAX: usize = 25;

/// What all share.
struct Soak {
    root: PathBuf,
    /// Odd while there is no daemon.
    life: AtomicU64,
    over: AtomicBool,
    /// Held by what must not be cut off: looking at what came of something that was.
    quiet: RwLock<()>,
    kills: AtomicU64,
    steps: AtomicU64,
    unsure: AtomicU64,
    failed: Mutex<Vec<String>>,
}

struct Worker<'a> {
    soak: &'a Soak,
    number: u64,
    next: u64,
    random: u64,
    /// By branch and name.
    files: BTreeMap<(usize, String), Vec<u8>>,
}

/// Gates lead from the first to the second and back.
const PLACES: [&str; 2] = ["inbox", "review"];

/// How a step ended: done, refused, or cut off.
enum Ended {
    Done,
    Refused,
    CutOff,
}

impl Worker<'_> {
    fn below(&mut self, bound: u64) -> u64 {
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        (self.random.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 16) % bound
    }

    fn path(&self, (place, name): &(usize, String)) -> PathBuf {
        self.soak.root.join(PLACES[*place]).join(name)
    }

    fn any(&mut self) -> Option<(usize, String)> {
        let at = self.below(self.files.len().max(1) as u64) as usize;
        self.files.keys().nth(at).cloned()
    }

    fn fresh(&mut self, place: usize) -> (usize, String) {
        self.next += 1;
        (place, format!("w{}-{}", self.number, self.next))
    }

    fn fail(&self, what: String) {
        self.soak.failed.lock().expect("no panic").push(format!("worker {}: {what}", self.number));
    }

    /// Errors that a dying daemon gives; and those that only mean: not now.
    fn ended<T>(&self, result: io::Result<T>, what: &str) -> Ended {
        use rustix::io::Errno;
        let Err(error) = result else { return Ended::Done };
        let errno = error.raw_os_error().map(Errno::from_raw_os_error);
        match errno {
            Some(Errno::NOTCONN | Errno::CONNABORTED | Errno::NODEV | Errno::IO) => Ended::CutOff,
            // Of the bare folder below, while nothing is mounted; and what a kill left to be recovered.
            Some(Errno::NOENT) if self.soak.life.load(Ordering::SeqCst) % 2 == 1 => Ended::CutOff,
            Some(Errno::BUSY) => Ended::Refused,
            _ => {
                // It may have died since.
                if self.soak.life.load(Ordering::SeqCst) % 2 == 1
                    || fs::read_dir(&self.soak.root).is_err()
                {
                    return Ended::CutOff;
                }
                self.fail(format!("{what}: {error}"));
                Ended::Refused
            }
        }
    }

    /// Waits for a daemon that stays, and looks.
    fn settled<T>(&self, look: impl Fn(&Self) -> T) -> T {
        loop {
            let quiet = self.soak.quiet.read().expect("no panic");
            if self.soak.life.load(Ordering::SeqCst).is_multiple_of(2) {
                return look(self);
            }
            drop(quiet);
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn content(&self, at: &(usize, String)) -> Option<Vec<u8>> {
        match fs::read(self.path(at)) {
            Ok(bytes) => Some(bytes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                self.fail(format!("cannot read {at:?}: {error}"));
                None
            }
        }
    }

    fn create(&mut self) {
        let place = self.below(2) as usize;
        let at = self.fresh(place);
        let size = [0, 10, 5_000, 200_000][self.below(4) as usize];
        let seed = self.below(251) as u8;
        let bytes: Vec<u8> = (0..size).map(|n: usize| (n as u8).wrapping_mul(31) ^ seed).collect();
        let made = fs::write(self.path(&at), &bytes);
        match self.ended(made, "create") {
            Ended::Done => drop(self.files.insert(at, bytes)),
            Ended::Refused => {}
            Ended::CutOff => {
                // A beginning of it may be there.
                self.settled(|worker| {
                    if let Some(found) = worker.content(&at)
                        && !bytes.starts_with(&found)
                    {
                        worker.fail(format!("{at:?} has what was never written"));
                    }
                    let _ = fs::remove_file(worker.path(&at));
                });
            }
        }
    }

    fn remove(&mut self) {
        let Some(at) = self.any() else { return };
        let removed = fs::remove_file(self.path(&at));
        match self.ended(removed, "remove") {
            Ended::Done => drop(self.files.remove(&at)),
            Ended::Refused => {}
            Ended::CutOff => {
                if self.settled(|worker| worker.content(&at)).is_none() {
                    self.files.remove(&at);
                }
            }
        }
    }

    fn read(&mut self) {
        let Some(at) = self.any() else { return };
        let read = fs::read(self.path(&at));
        if let Ok(found) = &read
            && *found != self.files[&at]
        {
            self.fail(format!("{at:?} has {} bytes of another content", found.len()));
        }
        self.ended(read, "read");
    }

    /// By rename(2), `octroi mv` or, at once after it, `octroi undo`; to a new name or onto a file.
    fn cross(&mut self) {
        let Some(source) = self.any() else { return };
        let place = 1 - source.0;
        let known: Vec<_> = self.files.keys().filter(|at| at.0 == place).cloned().collect();
        let target = match self.below(3) {
            0 if !known.is_empty() => known[self.below(known.len() as u64) as usize].clone(),
            _ => self.fresh(place),
        };
        let by_command = self.below(4) == 0;
        let (from, to) = (self.path(&source), self.path(&target));
        let moved = if by_command {
            let ended = octroi([
                "mv".as_ref(),
                "-q".as_ref(),
                "-T".as_ref(),
                from.as_os_str(),
                to.as_os_str(),
            ]);
            match ended.code {
                Some(0) => Ended::Done,
                _ => Ended::CutOff,
            }
        } else {
            self.ended(fs::rename(&from, &to), "cross")
        };
        let crossed = match moved {
            Ended::Done => true,
            Ended::Refused => false,
            Ended::CutOff => {
                self.soak.unsure.fetch_add(1, Ordering::Relaxed);
                self.look(&source, &target)
            }
        };
        if crossed {
            let bytes = self.files.remove(&source).expect("known");
            let replaced = self.files.insert(target.clone(), bytes);
            if self.below(4) == 0 {
                self.undo(&source, &target, replaced);
            }
        }
    }

    fn undo(
        &mut self,
        source: &(usize, String),
        target: &(usize, String),
        replaced: Option<Vec<u8>>,
    ) {
        let ended = octroi(["undo".as_ref(), self.path(target).as_os_str()]);
        let undone = match ended.code {
            Some(0) => true,
            _ => {
                let wanted = &self.files[target];
                let at = |worker: &Self| (worker.content(source), worker.content(target));
                let (home, there) = self.settled(at);
                // What it had replaced may have the same content.
                let undone = home.as_ref() == Some(wanted) && there == replaced;
                if !undone && (home.is_some() || there.as_ref() != Some(wanted)) {
                    let found = [&home, &there, &replaced].map(|at| at.as_ref().map(Vec::len));
                    let wanted = wanted.len();
                    let what = format!("undo of {target:?}, {wanted} bytes: {found:?}");
                    self.fail(format!("{what}: {}", ended.err));
                }
                undone
            }
        };
        if undone {
            let bytes = self.files.remove(target).expect("known");
            self.files.insert(source.clone(), bytes);
            if let Some(replaced) = replaced {
                self.files.insert(target.clone(), replaced);
            }
        }
    }

    /// Whether what was cut off has crossed: one of both, and whole.
    fn look(&self, source: &(usize, String), target: &(usize, String)) -> bool {
        let wanted = &self.files[source];
        let replaced = self.files.get(target);
        let (home, there) = self.settled(|worker| (worker.content(source), worker.content(target)));
        match (&home, &there) {
            (None, Some(found)) if found == wanted => true,
            (Some(found), there) if found == wanted && there.as_ref() == replaced => false,
            _ => {
                let lengths = (home.map(|found| found.len()), there.map(|found| found.len()));
                self.fail(format!(
                    "{source:?} to {target:?}: neither before nor after: {lengths:?}"
                ));
                false
            }
        }
    }

    fn work(&mut self) {
        while !self.soak.over.load(Ordering::SeqCst) {
            match self.below(10) {
                0..3 if self.files.len() < FILES_MAX => self.create(),
                3 => self.remove(),
                4 | 5 => self.read(),
                _ => self.cross(),
            }
            self.soak.steps.fetch_add(1, Ordering::Relaxed);
            if self.soak.life.load(Ordering::SeqCst) % 2 == 1 {
                self.settled(|_| ());
            }
        }
        self.settled(|worker| {
            for (at, bytes) in &worker.files {
                if worker.content(at).as_ref() != Some(bytes) {
                    worker.fail(format!("{at:?} is not what it was at the end"));
                }
            }
        });
    }
}

/// Kills and mounts until the time is up; gives the last mount.
fn kill_again_and_again(scene: &Scene, soak: &Soak, until: Instant, first: Mount) -> Mount {
    let mut mount = first;
    let mut random = 1_u64;
    while Instant::now() < until && soak.failed.lock().expect("no panic").is_empty() {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        thread::sleep(Duration::from_millis(300 + (random >> 33) % 1_700));
        let quiet = soak.quiet.write().expect("no panic");
        soak.life.fetch_add(1, Ordering::SeqCst);
        drop(quiet);
        mount.kill9();
        mount = scene.mount();
        soak.life.fetch_add(1, Ordering::SeqCst);
        soak.kills.fetch_add(1, Ordering::Relaxed);
    }
    mount
}

#[test]
fn kills_under_load() {
    let seconds = std::env::var("OCTROI_SOAK_SECONDS");
    let seconds = seconds.map_or(SECONDS, |text| text.parse().expect("a number"));
    let body = format!("{BODY}[gates.back]\nfrom = \"review\"\nto = \"inbox\"\nwho = [\"*\"]\n");
    require_root();
    let scene = Scene::with(&BRANCHES, &body);
    let disk = Disk::ext4(&scene, "review", "192M");
    let mount = scene.mount();
    let soak = Soak {
        root: scene.mountpoint(),
        life: AtomicU64::new(0),
        over: AtomicBool::new(false),
        quiet: RwLock::new(()),
        kills: AtomicU64::new(0),
        steps: AtomicU64::new(0),
        unsure: AtomicU64::new(0),
        failed: Mutex::default(),
    };
    let until = Instant::now() + Duration::from_secs(seconds);
    let mount = thread::scope(|scope| {
        for number in 1..=WORKERS {
            let soak = &soak;
            scope.spawn(move || {
                let files = BTreeMap::new();
                Worker { soak, number, next: 0, random: number * 77, files }.work();
            });
        }
        let killing = AssertUnwindSafe(|| kill_again_and_again(&scene, &soak, until, mount));
        let mount = panic::catch_unwind(killing);
        if mount.is_err() {
            // There is no daemon, and nobody is to wait for one.
            soak.life.store(0, Ordering::SeqCst);
        }
        soak.over.store(true, Ordering::SeqCst);
        mount
    });
    let mount = mount.unwrap_or_else(|failed| panic::resume_unwind(failed));
    let mut wrong = soak.failed.into_inner().expect("no panic");
    for (txid, steps) in steps(&mount) {
        if !matches!(steps.last().map(String::as_str), Some("done" | "abort" | "reverted")) {
            wrong.push(format!("{txid} ended so: {steps:?}"));
        }
    }
    mount.unmount();
    wrong.extend(verify(&scene));
    drop(disk);
    let counts =
        [&soak.kills, &soak.steps, &soak.unsure].map(|count| count.load(Ordering::Relaxed));
    eprintln!(
        "{} kills in {seconds} s, {} steps, {} crossings cut off",
        counts[0], counts[1], counts[2]
    );
    assert!(wrong.is_empty(), "{} wrong\n{}", wrong.len(), wrong.join("\n"));
    assert!(counts[0] > 3 && counts[1] > 20, "{counts:?}");
}
