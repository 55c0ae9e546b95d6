//! Twelve scenes on the simulated disk, and what must hold after each of them was disturbed: by power
//! loss (`crashes`) or by a fault at one step (`points`).
//!
//! After a recovery, whatever had happened: what users see is as before the act or as after it, with all
//! attributes, and as after it where the act was acknowledged; what was to be replaced is there or in
//! hold; nothing is left in stage, nothing unknown in hold; each transaction has ended, and those that
//! were acknowledged have their records; a second recovery changes nothing.

use std::cell::RefCell;
use std::collections::HashMap;

use super::*;
use crate::storage::simulated::random::Random;

mod crashes;
mod points;
mod thousand;

const OLD: &[u8] = b"what stood there";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scene {
    File,
    Tree,
    /// Onto another file.
    Replace,
    /// A tree onto a directory that is empty.
    EmptyDirectory,
    /// A tree with a group of links, synced file by file.
    Links,
    Symlink,
    /// Two members of a pool hold parts of a tree.
    Pool,
    /// Onto another file of the same file system.
    OneFileSystem,
    Undo,
    UndoReplace,
    /// As `octroi mv`: between preparation and rename another file crosses.
    Prepared,
    /// A dead letter that stopped halfway is tried again.
    Letter,
}

const SCENES: [Scene; 12] = [
    Scene::File,
    Scene::Tree,
    Scene::Replace,
    Scene::EmptyDirectory,
    Scene::Links,
    Scene::Symlink,
    Scene::Pool,
    Scene::OneFileSystem,
    Scene::Undo,
    Scene::UndoReplace,
    Scene::Prepared,
    Scene::Letter,
];

/// What users see: the names in each folder, and everything about what crosses.
type View = Vec<String>;

/// How far an act came: how many of its parts were acknowledged, by which transactions, and why it
/// stopped.
#[derive(Debug, Default)]
struct Outcome {
    done: Vec<TxId>,
    failed: Option<CrossingError>,
}

/// A scene that is set up on a machine that is off: each run begins with a copy of its disks.
struct Ground {
    scene: Scene,
    names: Names,
    /// Which trees and contents it has.
    round: u64,
    disk: Disk,
    /// To be undone, or to be tried again.
    earlier: Option<TxId>,
    /// The view before the act, and after each part of it; of a dead letter, also where it is put back.
    views: Vec<View>,
}

/// A run of a scene.
struct Play<'a> {
    ground: &'a Ground,
    scene: Scene,
    world: World,
    /// One for each part of the act, but of those that have `earlier`.
    requests: Vec<CrossingRequest<Disk>>,
    prepared: RefCell<Option<Prepared<Disk>>>,
}

impl Scene {
    fn same(self) -> bool {
        matches!(self, Self::OneFileSystem | Self::UndoReplace)
    }

    fn replaces(self) -> bool {
        matches!(self, Self::Replace | Self::OneFileSystem | Self::UndoReplace | Self::Letter)
    }

    /// How many transactions the act has.
    fn parts(self) -> usize {
        if self == Self::Prepared { 2 } else { 1 }
    }

    fn plant(self, world: &World, round: u64) {
        match self {
            Self::Tree | Self::EmptyDirectory | Self::Links => plant_tree(world, self, round),
            Self::Symlink => {
                let kind = Kind::Symlink(format!("new{round}").into());
                world.special(0, "f", &kind);
            }
            Self::Pool => {
                plant_tree(world, self, round);
                world.make_dirs(2, &["f", "f/d", "f/e"]);
                world.put(2, "f/a", b"hidden");
                world.put(2, "f/d/y", b"y");
                world.dress_dir(2, "f/d");
                world.dress_dir(2, "f/e");
                world.dress_dir(2, "f");
            }
            Self::Prepared => {
                world.put(0, "f", &content_of(round));
                world.put(0, "h", b"another");
            }
            _ => world.put(0, "f", &content_of(round)),
        }
        if self.replaces() {
            world.put(1, "sub/g", OLD);
        }
        if matches!(self, Self::EmptyDirectory | Self::Links) {
            world.make_dirs(1, &["sub/g"]);
            world.dress_dir(1, "sub/g");
        }
    }
}

/// Of many lengths, from the second round on, with blocks that differ. No two rounds have the same, but
/// where it is too short for that.
fn content_of(round: u64) -> Vec<u8> {
    const LENGTHS: [u64; 8] = [0, 1, 511, 4_096, 5_000, 9_216, 12_289, 20_000];
    if round == 0 {
        return new_content();
    }
    let mut random = Random::new(round);
    let any = random.below(20_000);
    let length = LENGTHS.get(round as usize).copied().unwrap_or(any);
    (0..length).map(|_| random.below(256) as u8 | 1).collect()
}

/// Each round has more in it, or other things.
fn plant_tree(world: &World, scene: Scene, round: u64) {
    let mut random = Random::new(round);
    world.make_dirs(0, &["f", "f/d"]);
    let more = if round == 0 { 0 } else { random.below(6) };
    for number in 0..more {
        let folder = ["f", "f/d"][random.below(2) as usize];
        let path = format!("{folder}/{number}");
        match random.below(4) {
            0 => world.make_dirs(0, &[&path]),
            1 => world.special(0, &path, &Kind::Symlink(path.clone().into())),
            _ => world.put(0, &path, &content_of(round + number)),
        }
    }
    world.put(0, "f/a", &content_of(round));
    world.put(0, "f/d/x", b"x");
    if scene == Scene::Links {
        world.link(0, "f/a", "f/d/again");
        world.link(0, "f/a", "f/third");
    }
    world.special(0, "f/link", &Kind::Symlink("elsewhere".into()));
    world.special(0, "f/fifo", &Kind::Fifo);
    world.dress_dir(0, "f/d");
    world.dress_dir(0, "f");
}

impl Ground {
    fn new(scene: Scene, names: Names, round: u64) -> Self {
        let (world, earlier) = if scene == Scene::Letter {
            let (world, txid) = letters::letter_between(names);
            (world, Some(txid))
        } else {
            let world = new_world(names, scene.same());
            scene.plant(&world, round);
            let undone = matches!(scene, Scene::Undo | Scene::UndoReplace);
            let earlier = undone.then(|| world.cross("f", "sub/g").unwrap().txid);
            (world, earlier)
        };
        if scene == Scene::Links {
            let options = DeviceOptions { syncs_whole: false, ..DeviceOptions::default() };
            (1..=3).for_each(|device| world.disk.set_options(device, options));
        }
        let mut views = vec![view_of(&world)];
        world.mover.ledger.close().unwrap();
        world.disk.sync_all();
        if scene == Scene::Letter {
            // One that cannot be completed is put back.
            let world = new_world(names, scene.same());
            scene.plant(&world, round);
            views.push(view_of(&world));
        }
        let mut ground =
            Self { scene, names, round, disk: world.disk.after_kill(), earlier, views };
        let play = Play::begin(&ground);
        let mut after = Vec::new();
        for part in 0..scene.parts() {
            play.act_part(part).unwrap();
            after.push(view_of(&play.world));
        }
        drop(play);
        ground.views.extend(after);
        ground
    }
}

impl<'a> Play<'a> {
    fn begin(ground: &'a Ground) -> Self {
        let scene = ground.scene;
        let world = start(ground.disk.after_kill().shared(), scene.same()).unwrap();
        world.disk.sync_all();
        let mut requests = Vec::new();
        if ground.earlier.is_none() {
            let mut request = world.request("f", "sub/g");
            if scene == Scene::Pool {
                request.sources.push(part(world.name(2, "f"), Verify::Readback));
            }
            requests.push(request);
        }
        if scene == Scene::Prepared {
            requests.push(world.request("h", "sub/h"));
        }
        Self { ground, scene, world, requests, prepared: RefCell::default() }
    }

    fn act_part(&self, part: usize) -> Result<TxId, CrossingError> {
        let world = &self.world;
        let request = |n: usize| self.requests[n].clone();
        match (self.scene, part) {
            (Scene::Undo | Scene::UndoReplace, _) => {
                world.undo(self.ground.earlier.unwrap()).map(|done| done.txid)
            }
            (Scene::Prepared, 0) => {
                *self.prepared.borrow_mut() = Some(world.mover.prepare(request(0))?);
                world.cross_as(request(1)).map(|done| done.txid)
            }
            (Scene::Prepared, _) => {
                let prepared = self.prepared.borrow_mut().take().unwrap();
                world.mover.commit(prepared).map(|done| done.txid)
            }
            (Scene::Letter, _) => {
                let txid = self.ground.earlier.unwrap();
                let root = Caller { uid: 0, gid: 0, pid: 9 };
                let open = |why: String| CrossingError::LeftOpen { txid, why };
                match world.mover.settle(root, None, txid, Settle::Retry) {
                    Ok(Settled::Done) => Ok(txid),
                    Ok(other) => Err(open(format!("{other:?}"))),
                    Err(error) => Err(open(error.to_string())),
                }
            }
            _ => world.cross_as(request(0)).map(|done| done.txid),
        }
    }

    fn act(&self) -> Outcome {
        let mut outcome = Outcome::default();
        for part in 0..self.scene.parts() {
            match self.act_part(part) {
                Ok(txid) => outcome.done.push(txid),
                Err(error) => {
                    outcome.failed = Some(error);
                    break;
                }
            }
        }
        // Given up, as by a daemon whose caller has gone; after a crash that does nothing.
        self.prepared.borrow_mut().take();
        outcome
    }

    /// Runs with a fault at the n-th step; `None` when there is no such step.
    fn run(ground: &'a Ground, step: u64, fault: Fault) -> Option<(Self, Outcome)> {
        assert!(step < 2_000, "{:?} does not end", ground.scene);
        let play = Self::begin(ground);
        let first = play.world.disk.steps();
        play.world.disk.fail_at(first + step, fault);
        let outcome = play.act();
        (play.world.disk.steps() > first + step).then_some((play, outcome))
    }

    /// The promises, after a recovery in `world`. Gives what users see.
    #[track_caller]
    fn check(&self, world: &World, done: &[TxId], context: &str) -> View {
        let now = view_of(world);
        let views = &self.ground.views;
        let at = views.iter().position(|view| *view == now).unwrap_or_else(|| {
            panic!("{context}: users see what never was:\n{now:#?}\nbefore:\n{:#?}", views[0])
        });
        let first = views.len() - self.scene.parts();
        assert!(
            done.is_empty() || at + 1 >= first + done.len(),
            "{context}: acknowledged, and not so"
        );
        let (mut everywhere, mut steps) = (view_content(world), HashMap::new());
        for branch in 0..3 {
            everywhere.extend(world.private(branch, "hold"));
            let left = world.private(branch, "stage").len();
            // A dead letter that was not touched keeps its copy.
            let letter = self.scene == Scene::Letter && at == 0;
            assert!(left == 0 || letter, "{context}: {left} copies in stage of {branch}");
            everywhere.extend(world.private(branch, "stage"));
        }
        if self.scene.replaces() {
            assert!(everywhere.contains(&OLD.to_vec()), "{context}: the replaced is lost");
        }
        if !done.is_empty() {
            world.mover.ledger.flush().unwrap();
            for (txid, step) in records(world) {
                steps.entry(txid).or_insert_with(Vec::new).push(step);
            }
        }
        for txid in done {
            let found = &steps[&txid.to_string()];
            for wanted in ["prepare", "commit", "done"] {
                assert!(
                    found.iter().any(|step| step == wanted),
                    "{context}: no {wanted}: {found:?}"
                );
            }
        }
        world.mover.with_journal(|journal| {
            for (txid, found) in journal.iter() {
                let state = found.state;
                let untouched =
                    Some(txid) == self.ground.earlier && self.scene == Scene::Letter && at == 0;
                let ended = match state {
                    TransactionState::Active => false,
                    TransactionState::Dead => untouched,
                    _ => true,
                };
                assert!(ended, "{context}: {txid} is {state:?}: {:?}", found.reason);
                assert!(
                    state != TransactionState::Done || found.committed(),
                    "{context}: done, and never decided"
                );
            }
        });
        now
    }

    /// Recovers on the disks as found, twice; the second time nothing is left to do.
    #[track_caller]
    fn recover_and_check(&self, found: Disk, done: &[TxId], context: &str) {
        let world = start(found.shared(), self.scene.same()).expect("starts");
        let recovery = world.mover.recover();
        assert!(recovery.left_open.is_empty(), "{context}: {recovery:?}");
        assert!(recovery.unknown.is_empty(), "{context}: {recovery:?}");
        assert!(recovery.dead.is_empty(), "{context}: {recovery:?}");
        let before = (self.check(&world, done, context), private(&world));
        let world = world.restart(self.scene.same());
        assert_eq!(world.mover.recover(), Recovery::default(), "{context}: the second recovery");
        let after = (view_of(&world), private(&world));
        assert!(after == before, "{context}: the second recovery changed something");
    }
}

/// The names in the folders of the branches, and all of what is at them.
fn view_of(world: &World) -> View {
    let mut view = Vec::new();
    for (branch, root) in world.roots.iter().enumerate() {
        let sub = world.disk.open_dir(root, Path::new("sub")).unwrap();
        for (folder, dir) in [("", root), ("sub/", &sub)] {
            for name in world.disk.list(dir).unwrap() {
                let path = format!("{branch}:{folder}{}", name.display());
                if ![".octroi", "sub"].contains(&&*name.to_string_lossy()) {
                    describe(&world.disk, dir, &name, Path::new(&path), &mut view);
                }
            }
        }
    }
    view
}

fn view_content(world: &World) -> Vec<Vec<u8>> {
    [(0, "f"), (1, "sub/g")]
        .into_iter()
        .filter_map(|(branch, path)| world.get(branch, path))
        .collect()
}

fn private(world: &World) -> Vec<Vec<Vec<u8>>> {
    let areas = (0..3).flat_map(|branch| [(branch, "stage"), (branch, "hold")]);
    areas.map(|(branch, area)| world.private(branch, area)).collect()
}

/// Transactions and their steps, as the ledger's lines have them.
fn records(world: &World) -> Vec<(String, String)> {
    let disk = &world.disk;
    let dir = disk.open_dir(&disk.root(0).unwrap(), Path::new("ledger")).unwrap();
    let mut found = Vec::new();
    for name in disk.list(&dir).unwrap() {
        if Path::new(&name).extension() != Some(OsStr::new("jsonl")) {
            continue;
        }
        let bytes = content(disk, &dir, &name).unwrap();
        for line in bytes.split(|byte| *byte == b'\n') {
            let Ok(line) = serde_json::from_slice::<serde_json::Value>(line) else { continue };
            if let (Some(txid), Some(step)) = (line["txid"].as_str(), line["step"].as_str()) {
                found.push((txid.to_owned(), step.to_owned()));
            }
        }
    }
    found
}
