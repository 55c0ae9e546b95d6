//! All acts are done once on disks that record what they get; then the disks are had as power loss would
//! leave them at a flush of any of them: what each got before its own last flush is there, of what came
//! after as much as a seed says, write by write. The view is mounted on them and looked at. Some flushes by
//! default; `OCTROI_CUTS` as in `power`.

use std::collections::HashMap;
use std::sync::Arc;

use super::kills::day;
use super::power::{disks, range};
use super::recorder::{Blocks, Event, Recorder, write};
use super::*;

/// How many are tried by default, of all pairs together.
const SOME: usize = 21;
/// xfs takes no less than 300 MiB.
const SIZE: u64 = 320 << 20;

/// What the state, the source's branch and the target's are made by.
const PAIRS: [(&str, [&str; 3]); 3] = [
    ("ext4 to xfs", ["mkfs.ext4 -q", "mkfs.ext4 -q", "mkfs.xfs -q"]),
    ("xfs to btrfs", ["mkfs.ext4 -q", "mkfs.xfs -q", "mkfs.btrfs -q -K"]),
    ("ext4 to ext4", ["mkfs.ext4 -q", "mkfs.ext4 -q", "mkfs.ext4 -q"]),
];

/// Of the disks of a view, as the recorder numbers them.
const NAMES: [&str; 3] = ["state", "others", "review"];

struct Recording {
    recorder: Recorder,
    base: Vec<Blocks>,
    events: Vec<Event>,
    /// Positions of flushes after which at least one act was furnished.
    flushes: Vec<usize>,
    /// Both ends of each act before it, by its name.
    before: HashMap<String, (Act, Planned)>,
    scene: Scene,
}

fn record(make: [&str; 3]) -> Recording {
    let recorder = Recorder::new(SIZE);
    NAMES.iter().for_each(|name| drop(recorder.add(name, Blocks::new())));
    let mut lab = Lab::new(|scene| disks(scene, recorder.folder(), make));
    let mut before = HashMap::new();
    // The first mount makes what every view has; what it wrote is durable from here on.
    lab.mounted();
    lab.unmount();
    lab.disks.iter().for_each(Disk::unmount);
    let base: Vec<Blocks> = (0..NAMES.len()).map(|disk| recorder.copy(disk)).collect();
    recorder.record();
    lab.disks.iter().rev().for_each(Disk::mount);
    for (number, act) in ACTS.into_iter().enumerate() {
        // A dead letter is made by a call that fails: that is another suite's.
        if act == Act::Letter {
            continue;
        }
        let name = format!("n{number}");
        let planned = lab.furnish(act, &name);
        let mount = lab.mount.as_ref().expect("mounted");
        let state = format!("sync -f {}", lab.scene.state().display());
        mount.sh(&state).ok();
        before.insert(name.clone(), (act, planned));
        recorder.mark(format!("begun {name}"));
        mount.sh(&named(&act.script(), &name)).ok();
        recorder.mark(format!("done {name}"));
    }
    lab.unmount();
    lab.disks.iter().for_each(Disk::unmount);
    let events = recorder.recorded();
    let begun = |event: &Event| matches!(event, Event::Mark(text) if text.starts_with("begun"));
    let first = events.iter().position(begun).expect("a mark");
    let is_flush = |at: &usize| matches!(events[*at], Event::Flush { .. });
    let flushes = (first..events.len()).filter(is_flush).collect();
    let Lab { scene, disks, .. } = lab;
    drop(disks);
    Recording { recorder, base, events, flushes, before, scene }
}

/// Numbers by xorshift64* (Vigna 2016).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 16) % bound
    }
}

impl Recording {
    /// The disks if power went right after an event.
    fn disks_at(&self, at: usize, seed: u64) -> Vec<Blocks> {
        let mut disks = self.base.clone();
        let mut unsure: Vec<Vec<(u64, Arc<[u8]>)>> = vec![Vec::new(); disks.len()];
        for event in &self.events[..=at] {
            match event {
                Event::Write { disk, offset, bytes } => {
                    unsure[*disk].push((*offset, Arc::clone(bytes)));
                }
                Event::Flush { disk } => {
                    for (offset, bytes) in unsure[*disk].drain(..) {
                        write(&mut disks[*disk], offset, &bytes);
                    }
                }
                Event::Mark(_) => {}
            }
        }
        let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        for (blocks, unsure) in disks.iter_mut().zip(unsure) {
            // None, all, a beginning, or any of them.
            let (kind, begin) = (random.below(4), random.below(unsure.len() as u64 + 1) as usize);
            for (number, (offset, bytes)) in unsure.iter().enumerate() {
                let kept = match kind {
                    0 => false,
                    1 => true,
                    2 => number < begin,
                    _ => random.below(2) == 0,
                };
                if kept {
                    write(blocks, *offset, bytes);
                }
            }
        }
        disks
    }

    /// The acts that had begun by an event, and whether they were done.
    fn begun(&self, at: usize) -> Vec<(String, bool)> {
        let mut begun: Vec<(String, bool)> = Vec::new();
        for event in &self.events[..=at] {
            let Event::Mark(text) = event else { continue };
            match text.split_once(' ').expect("two words") {
                ("begun", name) => begun.push((name.to_owned(), false)),
                _ => begun.last_mut().expect("begun").1 = true,
            }
        }
        begun
    }

    /// Mounts the view on what is left at the n-th flush; what is wrong.
    fn try_cut(&self, number: usize) -> Vec<String> {
        let at = self.flushes[number.wrapping_mul(7919) % self.flushes.len()];
        let mut wrong = Vec::new();
        let scene = &self.scene;
        let branches = scene.base().join("branches");
        let places = [scene.state(), branches.clone(), branches.join("review")];
        let mut names = Vec::new();
        let mut disks = Vec::new();
        let blocks = self.disks_at(at, number as u64);
        for ((name, blocks), place) in NAMES.iter().zip(blocks).zip(places) {
            let name = format!("{name}-{number}");
            let image = self.recorder.add(&name, blocks);
            disks.insert(0, Disk::again(image, place));
            names.push(name);
        }
        let mut found = Vec::new();
        let mut mount = Some(scene.mount());
        for again in [false, true] {
            for (name, acknowledged) in self.begun(at) {
                let (act, planned) = self.before[&name].clone();
                let case = Cut { act, name: &name, planned, acknowledged };
                let now = case.check(scene, mount.as_ref().expect("mounted"), &mut wrong);
                found.push((again, name, now));
            }
            mount.take().expect("mounted").unmount();
            if !again {
                mount = Some(scene.mount());
            }
        }
        let (first, second) = found.split_at(found.len() / 2);
        for (one, other) in first.iter().zip(second) {
            if one.2 != other.2 {
                wrong.push(format!("{}: {:?}, and then {:?}", one.1, one.2, other.2));
            }
        }
        drop(disks);
        names.iter().for_each(|name| drop(self.recorder.take(name)));
        let context = |text: &String| format!("cut {number} at event {at}: {text}");
        wrong.iter().map(context).collect()
    }
}

#[test]
fn power_loss_at_a_flush() {
    let mut wrong = Vec::new();
    let mut tried = 0;
    let chosen = std::env::var("OCTROI_PAIR").ok();
    for (pair, (what, make)) in PAIRS.into_iter().enumerate() {
        if chosen.as_deref().is_some_and(|chosen| chosen != pair.to_string()) {
            continue;
        }
        let recording = record(make);
        let flushes = recording.flushes.len();
        assert!(flushes > 50, "{what}: {flushes} flushes only");
        let cuts = range(SOME / PAIRS.len());
        let bytes = recording.recorder.size();
        eprintln!("{what}: {flushes} flushes of {} MiB disks, day {}", bytes >> 20, day());
        for number in cuts {
            wrong.extend(
                recording.try_cut(number).into_iter().map(|text| format!("{what}: {text}")),
            );
            tried += 1;
        }
    }
    eprintln!("{tried} cuts");
    assert!(wrong.is_empty(), "{} wrong\n{}", wrong.len(), wrong.join("\n"));
}
