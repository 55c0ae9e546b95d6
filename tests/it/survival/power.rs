//! The power goes while the daemon is at its n-th system call of a kind: it is killed there, and all its
//! disks (ext4, xfs), the ledger's too, are shut down with what was not synced. Some cases by default;
//! `OCTROI_CUTS` is the number of the cut to begin with and how many there are to be, `FROM,COUNT`:
//! `scripts/prove.d/power`.

use super::kills::{DULL, calls, day, kill_at};
use super::*;

/// How many are tried by default.
const SOME: usize = 10;

/// The cuts to be tried.
pub(super) fn range(some: usize) -> std::ops::Range<usize> {
    match std::env::var("OCTROI_CUTS") {
        Ok(text) => {
            let (from, count) = text.split_once(',').expect("FROM,COUNT");
            let from = from.parse().expect("a number");
            from..from + count.parse::<usize>().expect("a number")
        }
        Err(_) => day() * some..(day() + 1) * some,
    }
}

/// Those of `review`, of all other branches and of the state, in this order, so that each is unmounted
/// before what it is mounted on.
pub(super) fn disks(scene: &Scene, images: &Path, make: [&str; 3]) -> Vec<Disk> {
    std::fs::create_dir(scene.state()).expect("a folder");
    let base = scene.base();
    let branches = base.join("branches");
    let state = Disk::on(images.join("state"), scene.state(), make[0], "0700");
    let others = Disk::on(images.join("others"), branches.clone(), make[1], "0700");
    BRANCHES.iter().for_each(|branch| drop(scene.branch(branch)));
    let review = Disk::on(images.join("review"), branches.join("review"), make[2], "0777");
    vec![review, others, state]
}

fn images(scene: &Scene) -> std::path::PathBuf {
    let folder = scene.base().join("images");
    let names = ["state", "others", "review"];
    let script = format!("mkdir images && cd images && truncate -s 320M {}", names.join(" "));
    crate::harness::sh(scene.base(), &script).ok();
    folder
}

const EXT4: &str = "mkfs.ext4 -q";
const XFS: &str = "mkfs.xfs -q";

fn cut(lab: &mut Lab) {
    lab.disks.iter().for_each(Disk::shut_down);
    lab.disks.iter().for_each(Disk::unmount);
    lab.disks.iter().rev().for_each(Disk::mount);
}

/// The system calls of each act, each with how often it is made.
type Calls = BTreeMap<Act, Vec<(String, usize)>>;

#[test]
fn power_loss_at_a_system_call() {
    let mut wrong = Vec::new();
    let (mut struck, mut tried) = (0, 0);
    let mut labs: Vec<(Lab, Calls)> = Vec::new();
    for make in [[EXT4, EXT4, XFS], [XFS, XFS, EXT4]] {
        labs.push((Lab::new(|scene| disks(scene, &images(scene), make)), BTreeMap::new()));
    }
    for number in range(SOME) {
        let act = ACTS[number % ACTS.len()];
        let kinds = labs.len();
        let (lab, known) = &mut labs[number / ACTS.len() % kinds];
        let calls = known.entry(act).or_insert_with(|| {
            let calls = calls(lab, act);
            let each = calls.into_iter().filter(|(call, _)| !DULL.contains(&call.as_str()));
            each.flat_map(|(call, count)| (1..=count).map(move |nth| (call.clone(), nth))).collect()
        });
        let (call, nth) = &calls[(number / ACTS.len()).wrapping_mul(31) % calls.len()];
        let inject = format!("{call}:signal=KILL:when={nth}");
        let found = kill_at(lab, act, &format!("n{number}"), &inject, cut);
        tried += 1;
        struck += usize::from(found.is_some());
        wrong.extend(found.into_iter().flatten().map(|text| format!("cut {number}: {text}")));
    }
    for (lab, _) in labs.iter_mut().filter(|(_, known)| !known.is_empty()) {
        lab.unmount();
        wrong.extend(verify(&lab.scene));
    }
    eprintln!("{struck} of {tried} cuts struck before the act had ended");
    assert!(wrong.is_empty(), "{} wrong\n{}", wrong.len(), wrong.join("\n"));
}
