//! The daemon is killed at its n-th system call of a kind. Some cases by default, all of them with
//! `OCTROI_KILLS=all`; with `OCTROI_KILLS_DONE` those in that file are left out, and those that end well
//! are added to it: `scripts/prove.d/kills`.

use std::collections::BTreeMap;
use std::io::Write as _;

use super::*;
use crate::strace::{Strace, call_of};

/// Cases of one act that are tried by default.
const SOME: usize = 5;

/// Calls in which nothing changes between branches, but of which the daemon makes many.
pub(super) const DULL: [&str; 3] = ["statx", "fstatfs", "getdents64"];

/// Files of cases that are done.
struct Done {
    names: Vec<String>,
    file: Option<std::fs::File>,
}

impl Done {
    fn open() -> Self {
        let Some(path) = std::env::var_os("OCTROI_KILLS_DONE") else {
            return Self { names: Vec::new(), file: None };
        };
        let names = std::fs::read_to_string(&path).unwrap_or_default();
        let names = names.lines().map(str::to_owned).collect();
        let file = std::fs::File::options().create(true).append(true).open(&path);
        Self { names, file: Some(file.expect("a file of cases")) }
    }

    fn add(&mut self, name: &str) {
        if let Some(file) = &mut self.file {
            writeln!(file, "{name}").expect("written");
        }
    }
}

/// How often the thread that makes each call most makes it, while the act goes undisturbed.
pub(super) fn calls(lab: &mut Lab, act: Act) -> BTreeMap<String, usize> {
    let seen = format!("seen-{act:?}");
    lab.furnish(act, &seen);
    let mount = lab.mount.as_ref().expect("mounted");
    let strace = Strace::attach(mount, &[], None);
    mount.sh(&named(&act.script(), &seen)).ok();
    let mut threads: BTreeMap<(String, String), usize> = BTreeMap::new();
    for line in strace.detach_with_threads() {
        let (thread, call) = line.split_once(' ').unwrap_or(("", &line));
        let call = call_of(call.trim_start()).to_owned();
        if !call.is_empty() && !call.contains(' ') {
            *threads.entry((thread.to_owned(), call)).or_default() += 1;
        }
    }
    let mut calls = BTreeMap::new();
    for ((_, call), count) in threads {
        let most: &mut usize = calls.entry(call).or_default();
        *most = (*most).max(count);
    }
    assert!(calls.contains_key("renameat2"), "{act:?}: no crossing was seen: {calls:?}");
    calls
}

/// One case; what is wrong, or none where the call was not made.
pub(super) fn kill_at(
    lab: &mut Lab,
    act: Act,
    name: &str,
    inject: &str,
    cut: impl FnOnce(&mut Lab),
) -> Option<Vec<String>> {
    let planned = lab.furnish(act, name);
    let mount = lab.mount.as_ref().expect("mounted");
    let strace = Strace::attach(mount, &[], Some(inject));
    let ended = mount.sh(&named(&act.script(), name));
    drop(strace);
    let acknowledged = ended.code == Some(0);
    let mount = lab.mount.take().expect("mounted");
    let struck = std::fs::read_dir(mount.root()).is_err();
    mount.kill9();
    cut(lab);
    let mut wrong = Vec::new();
    let case = Cut { act, name, planned, acknowledged };
    lab.mounted();
    let found = case.check(&lab.scene, lab.mount.as_ref().expect("mounted"), &mut wrong);
    lab.unmount();
    lab.mounted();
    let again = case.check(&lab.scene, lab.mount.as_ref().expect("mounted"), &mut wrong);
    if found != again {
        wrong.push(format!("the second mount found {again:?}, the first {found:?}"));
    }
    // A dead letter that is still there is of no use to the next case.
    if act == Act::Letter {
        let mount = lab.mounted();
        let txid = mount.sh("$OCTROI tx list --dead --json | jq -r '.[].txid'").ok();
        for txid in txid.split_whitespace() {
            mount.sh(&format!("$OCTROI tx abort {txid}")).ok();
        }
    }
    wrong.iter_mut().for_each(|text| {
        text.insert_str(0, &format!("{act:?} {name} {inject} (exit {:?}): ", ended.code));
    });
    struck.then_some(wrong)
}

fn kill(act: Act) {
    let disks = |scene: &Scene| vec![Disk::ext4(scene, "review", "96M")];
    let mut lab = Lab::new(disks);
    let mut done = Done::open();
    let all = std::env::var_os("OCTROI_KILLS").is_some_and(|cases| cases == "all");
    let calls = calls(&mut lab, act);
    let each = calls.iter().flat_map(|(call, count)| (1..=*count).map(move |nth| (call, nth)));
    let each: Vec<_> = each.filter(|(call, _)| all || !DULL.contains(&call.as_str())).collect();
    // Other cases each day.
    let step = if all { 1 } else { each.len().div_ceil(SOME) };
    let first = if all { 0 } else { day() % step };
    let mut wrong = Vec::new();
    let mut struck = 0;
    for (number, (call, nth)) in each.into_iter().enumerate().skip(first).step_by(step) {
        let case = format!("{act:?} {call} {nth}");
        if done.names.contains(&case) {
            continue;
        }
        let inject = format!("{call}:signal=KILL:when={nth}");
        let found = kill_at(&mut lab, act, &format!("n{number}"), &inject, |_| {});
        struck += usize::from(found.is_some());
        let found = found.unwrap_or_default();
        if found.is_empty() {
            done.add(&case);
        }
        wrong.extend(found);
    }
    lab.unmount();
    wrong.extend(verify(&lab.scene));
    eprintln!("{act:?}: {struck} kills");
    assert!(wrong.is_empty(), "{} wrong\n{}", wrong.len(), wrong.join("\n"));
}

/// A number that changes each day.
pub(super) fn day() -> usize {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.expect("after 1970").as_secs() as usize / 86_400
}

/// A test for each act, so that several run at once.
macro_rules! kills {
    ($($test:ident $act:ident),* $(,)?) => {$(
        #[test]
        fn $test() {
            kill(Act::$act);
        }
    )*};
}

kills! {
    a_file File,
    a_tree Tree,
    a_file_onto_another Replace,
    a_tree_onto_an_empty_directory EmptyDirectory,
    links Links,
    special_files Special,
    parts_of_a_pool Pool,
    on_one_file_system OneFileSystem,
    an_undo Undo,
    an_undo_that_restores UndoReplace,
    octroi_mv Prepared,
    a_dead_letter Letter,
}
