//! Power loss: at every step of every scene, with what was not synced lost, torn or reordered in as many
//! ways as are asked for, and again at steps of the recovery. Images that differ in what programs find
//! (see `fingerprint`) are counted; each is recovered and checked once for what was acknowledged. Each
//! round has other trees and contents.
//!
//! `OCTROI_CRASHES` is how many, 100,000 by default. With `OCTROI_CRASHES_STATE` what was seen is kept in
//! that file, and the next run goes on there: `scripts/prove.d/crashes`.

use std::io::{Read as _, Write as _};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::*;

const IMAGES: u64 = 100_000;
/// Seeds for each step in a round, at most.
const SEEDS: u64 = 160;
/// After so many seeds a step is left when too few of them gave an image that was not seen before, and
/// after half of them when none did: where nothing was under way there is one image.
const BATCH: u64 = 16;

/// Images that were checked, with the most that was acknowledged when they were.
struct Seen {
    images: Mutex<HashMap<u64, u8>>,
    /// From which each number is appended to a file.
    file: Option<Mutex<std::fs::File>>,
    count: AtomicU64,
    wanted: u64,
    failed: AtomicBool,
}

impl Seen {
    /// Also gives the round to begin with.
    fn open() -> (Self, u64) {
        let wanted = std::env::var("OCTROI_CRASHES").map_or(IMAGES, |text| text.parse().unwrap());
        let mut images = HashMap::new();
        let mut round = 0;
        let file = std::env::var_os("OCTROI_CRASHES_STATE").map(|path| {
            let mut options = std::fs::OpenOptions::new();
            let mut file = options.create(true).read(true).append(true).open(path).unwrap();
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes).unwrap();
            // Nine bytes each: a fingerprint and what was acknowledged, or 255 and a round that ended.
            for line in bytes.as_chunks::<9>().0 {
                let number = u64::from_le_bytes(line[..8].try_into().unwrap());
                match line[8] {
                    255 => round = round.max(number + 1),
                    done => {
                        images.insert(number, done);
                    }
                }
            }
            Mutex::new(file)
        });
        let count = AtomicU64::new(images.len() as u64);
        let failed = AtomicBool::new(false);
        (Self { images: Mutex::new(images), file, count, wanted, failed }, round)
    }

    fn write(&self, number: u64, what: u8) {
        if let Some(file) = &self.file {
            let mut line = number.to_le_bytes().to_vec();
            line.push(what);
            file.lock().write_all(&line).unwrap();
        }
    }

    /// Whether an image is to be checked.
    fn is_new(&self, image: u64, done: usize) -> bool {
        let done = done as u8;
        let before = {
            let mut images = self.images.lock();
            let before = images.get(&image).copied();
            if before.is_none_or(|before| before < done) {
                images.insert(image, done);
            }
            before
        };
        if before.is_none() {
            self.count.fetch_add(1, Ordering::Relaxed);
        }
        before.is_none_or(|before| before < done)
    }

    fn is_enough(&self) -> bool {
        self.failed.load(Ordering::Relaxed) || self.count.load(Ordering::Relaxed) >= self.wanted
    }
}

/// Cuts the power at every step of a scene.
fn round_of(ground: &Ground, seen: &Seen) {
    for step in 0.. {
        if seen.is_enough() {
            return;
        }
        let Some((play, outcome)) = Play::run(ground, step, Fault::Crash) else {
            assert!(step > 4, "{:?} took {step} steps only", ground.scene);
            return;
        };
        let (mut fresh, mut tried) = (0, 0);
        for seed in 0..SEEDS {
            if tried >= BATCH && fresh * 4 < tried || tried >= BATCH / 2 && fresh == 0 {
                break;
            }
            tried += 1;
            fresh += u64::from(one_image(&play, &outcome, seed, seen, step));
        }
    }
}

/// Whether it is one that was not seen before.
fn one_image(play: &Play, outcome: &Outcome, seed: u64, seen: &Seen, step: u64) -> bool {
    let Ground { scene, names, round, .. } = play.ground;
    let context = format!("{scene:?} {names:?} round {round} step {step} seed {seed}");
    let found = play.world.disk.crash(seed);
    let image = found.fingerprint();
    if !seen.is_new(image, outcome.done.len()) {
        return false;
    }
    play.recover_and_check(found, &outcome.done, &context);
    seen.write(image, outcome.done.len() as u8);
    if seed.is_multiple_of(4) {
        cut_recovery(play, outcome, seed, seen, &context);
    }
    true
}

/// The power goes again at some step of the recovery.
fn cut_recovery(play: &Play, outcome: &Outcome, seed: u64, seen: &Seen, context: &str) {
    let found = play.world.disk.crash(seed);
    let again = (seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40) % 90;
    found.fail_at(again, Fault::Crash);
    let found = found.shared();
    if let Some(world) = start(Arc::clone(&found), play.scene.same()) {
        world.mover.recover();
    }
    if found.steps() <= again {
        return;
    }
    let second = found.crash(seed);
    let image = second.fingerprint();
    if seen.is_new(image, outcome.done.len()) {
        let context = format!("{context}, recovery step {again}");
        play.recover_and_check(second, &outcome.done, &context);
        seen.write(image, outcome.done.len() as u8);
    }
}

#[test]
fn crash_images_are_all_recovered() {
    let (seen, first) = Seen::open();
    let kinds = SCENES
        .iter()
        .flat_map(|scene| [(*scene, Names::Independent), (*scene, Names::Journal)])
        .collect::<Vec<_>>();
    let next = AtomicU64::new(0);
    let work = || {
        while !seen.is_enough() {
            let number = next.fetch_add(1, Ordering::Relaxed);
            assert!(number < 1_000_000, "there are no more images");
            let (turn, kind) = (number / kinds.len() as u64, number % kinds.len() as u64);
            let (scene, names) = kinds[kind as usize];
            let round = first + turn;
            if round == 0 || scene != Scene::Letter {
                round_of(&Ground::new(scene, names, round), &seen);
            }
            if kind + 1 == kinds.len() as u64 {
                seen.write(round, 255);
                let count = seen.count.load(Ordering::Relaxed);
                eprintln!("round {round}: {count} images");
            }
        }
    };
    // A start waits for threads of its own now and then.
    let threads = 2 * std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
                if let Err(panic) = ended {
                    seen.failed.store(true, Ordering::Relaxed);
                    std::panic::resume_unwind(panic);
                }
            });
        }
    });
    let count = seen.count.load(Ordering::Relaxed);
    eprintln!("{count} different crash images recovered");
    assert!(count >= seen.wanted);
}
