//! Crossings whose system calls fail, one at a time, in the real daemon: the caller gets the errno, the
//! source is as before, nothing is left in stage or open, and a second try succeeds. After the
//! decision a sync that fails does not take it back: then the crossing has happened.
//!
//! Every call that the thread of a crossing makes is seen in a trace and made to fail in turn; some of
//! them by default, all of them with every errno where `OCTROI_FAULTS=all`.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use serde_json::Value;

use crate::disk::Disk;
use crate::harness::{LAB, Mount, Scene, require_root};
use crate::strace::{Strace, call_of, open_links};

const ERRNOS: [(&str, Errno); 6] = [
    ("EIO", Errno::IO),
    ("ENOSPC", Errno::NOSPC),
    ("EDQUOT", Errno::DQUOT),
    ("EMFILE", Errno::MFILE),
    ("ENOMEM", Errno::NOMEM),
    ("EROFS", Errno::ROFS),
];

/// The threads that renames between branches are made on begin so.
const CROSSING: &str = "rename-";

/// Cases of one kind of crossing that are tried by default.
const SOME: usize = 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    File,
    /// Onto another file.
    Over,
    Tree,
    /// Taking a file back.
    Undo,
}

struct Lab {
    scene: Scene,
    mount: Mount,
    _disk: Option<Disk>,
    kind: Kind,
    cases: usize,
}

impl Lab {
    fn new(kind: Kind, other_disk: bool) -> Self {
        require_root();
        let body = LAB.replace("mode = \"gates-only\"\n", "");
        let scene = Scene::with(&["inbox", "other", "review"], &body);
        let disk = other_disk.then(|| Disk::ext4(&scene, "review", "512M"));
        let mount = scene.mount();
        Self { scene, mount, _disk: disk, kind, cases: 0 }
    }

    /// Sets up what is to cross; gives its name at both ends.
    fn furnish(&mut self) -> String {
        self.cases += 1;
        let name = format!("n{}", self.cases);
        let script = match self.kind {
            Kind::File => format!("seq 2000 >inbox/{name}; setfattr -n user.a -v b inbox/{name}"),
            Kind::Over => format!("seq 2000 >inbox/{name}; echo old >review/{name}"),
            Kind::Tree => format!(
                "mkdir -p inbox/{name}/sub; seq 2000 >inbox/{name}/a; seq 9 >inbox/{name}/sub/b; \
                 ln -s a inbox/{name}/link"
            ),
            Kind::Undo => format!("seq 2000 >inbox/{name}; mv inbox/{name} review/{name}"),
        };
        self.mount.sh(&script).ok();
        name
    }

    fn act(&self, name: &str) -> Result<(), String> {
        if self.kind == Kind::Undo {
            let ended = self.mount.sh(&format!("$OCTROI undo review/{name}"));
            return if ended.code == Some(0) { Ok(()) } else { Err(ended.err) };
        }
        let (from, to) = (format!("inbox/{name}"), format!("review/{name}"));
        rustix::fs::rename(self.mount.path(&from), self.mount.path(&to))
            .map_err(|errno| std::io::Error::from(errno).to_string())
    }

    /// Both ends as users see them, and as they lie in the branches.
    fn ends(&self, name: &str) -> [String; 2] {
        ["inbox", "review"].map(|branch| {
            let mut text = String::new();
            describe(&self.mount.path(branch).join(name), &mut text);
            let mut backing = String::new();
            describe(&self.scene.branch(branch).join(name), &mut backing);
            assert_eq!(text, backing, "{branch}/{name} is not what its branch has");
            text
        })
    }

    /// Whether both ends are as after the crossing of what was there before.
    fn crossed(&self, before: &[String; 2], after: &[String; 2]) -> bool {
        let [from, to] = match self.kind {
            Kind::Undo => [1, 0],
            Kind::File | Kind::Over | Kind::Tree => [0, 1],
        };
        after[to] == before[from] && after[from].is_empty()
    }

    fn staged(&self) -> usize {
        let stage = |branch| self.scene.branch(branch).join(".octroi/stage");
        let count = |branch| fs::read_dir(stage(branch)).expect("stage").count();
        ["inbox", "review"].map(count).into_iter().sum()
    }

    fn records(&self) -> Vec<Value> {
        self.mount.ledger().into_iter().filter(|line| line["kind"] == "crossing").collect()
    }

    /// How often the thread of a crossing makes each call.
    fn calls(&mut self) -> BTreeMap<String, usize> {
        // The first finds out what the others know.
        let first = self.furnish();
        self.act(&first).expect("it crosses");
        assert!(!self.records().is_empty(), "the ledger is open from here on");
        let name = self.furnish();
        let strace = Strace::attach(&self.mount, &[CROSSING], None);
        self.act(&name).expect("it crosses");
        let mut calls = BTreeMap::new();
        let lines = strace.detach();
        lines.iter().for_each(|line| *calls.entry(call_of(line).to_owned()).or_default() += 1);
        assert!(calls.contains_key("renameat2"), "no crossing was seen: {lines:?}");
        calls
    }

    fn try_one(&mut self, call: &str, nth: usize, text: &str, errno: Errno) -> Vec<String> {
        let mut wrong = Vec::new();
        let name = self.furnish();
        let (before, open) = (self.ends(&name), open_links(&self.mount));
        let known = self.records().len();
        let inject = format!("{call}:error={text}:when={nth}");
        let strace = Strace::attach(&self.mount, &[CROSSING], Some(&inject));
        let result = self.act(&name);
        let lines = strace.detach();
        let injected = lines.iter().find(|line| line.contains("INJECTED"));
        let Some(injected) = injected else {
            return vec![format!(
                "the call is not among the {} that were made, and it ended with {result:?}",
                lines.len()
            )];
        };
        let now = self.ends(&name);
        let records = self.records().split_off(known);
        match result {
            Ok(()) => {
                if !self.crossed(&before, &now) {
                    wrong.push(format!("it succeeded, and {before:?} became {now:?}"));
                }
                let decided = records.iter().any(|line| line["step"] == "commit");
                if !decided {
                    wrong.push("it succeeded, and was not decided".to_owned());
                }
            }
            Err(said) => {
                // ext4 says so of a value that does not fit, on an empty disk too.
                let does_not_fit = errno == Errno::NOSPC
                    && records.last().is_some_and(|last| {
                        let reason = last["reason"].as_str().unwrap_or_default();
                        reason.contains("cannot keep extended attribute")
                    });
                let (text, errno) =
                    if does_not_fit { ("EOPNOTSUPP", Errno::OPNOTSUPP) } else { (text, errno) };
                let expected = std::io::Error::from(errno).to_string();
                let expected = expected.split(" (os").next().expect("words").to_owned();
                if !said.contains(&expected) && !said.trim_end().ends_with(text) {
                    wrong.push(format!("the caller got {said}"));
                }
                if now != before {
                    wrong.push(format!("{before:?} became {now:?}"));
                }
                // An undo that was prepared and met the fault on the way to its rename is given up.
                let given_up = |last: &Value| {
                    self.kind == Kind::Undo
                        && last["step"] == "abort"
                        && last["result"] == "ECANCELED"
                };
                let ended = |last: &Value| {
                    let back = last["step"] == "abort" || last["step"] == "reverted";
                    back && last["result"] == text
                };
                if let Some(last) = records.last()
                    && !given_up(last)
                    && !ended(last)
                {
                    wrong.push(format!("the last record is {last}"));
                }
                match self.act(&name) {
                    Ok(()) if self.crossed(&before, &self.ends(&name)) => {}
                    again => wrong.push(format!("the second try: {again:?}")),
                }
            }
        }
        if self.staged() > 0 {
            wrong.push("something stays in stage".to_owned());
        }
        let deadline = Instant::now() + Duration::from_secs(2);
        let mut left = open_links(&self.mount);
        while left.len() > open.len() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
            left = open_links(&self.mount);
        }
        if left.len() > open.len() {
            wrong.push(format!("{left:?} are open, and {open:?} were"));
        }
        wrong.iter_mut().for_each(|text| text.push_str(&format!(" [{injected}]")));
        wrong
    }

    fn try_all(mut self) {
        let all = std::env::var_os("OCTROI_FAULTS").is_some_and(|cases| cases == "all");
        let calls = self.calls();
        eprintln!("{:?}: {calls:?}", self.kind);
        let each = calls.iter().flat_map(|(call, count)| (1..=*count).map(move |nth| (call, nth)));
        let each: Vec<_> = each.collect();
        let step = if all { 1 } else { each.len().div_ceil(SOME) };
        let mut wrong = Vec::new();
        for (at, (call, nth)) in each.into_iter().enumerate().step_by(step) {
            for (shift, (text, errno)) in ERRNOS.into_iter().enumerate() {
                if !all && (at / step + shift) % ERRNOS.len() != 0 {
                    continue;
                }
                let found = self.try_one(call, nth, text, errno);
                wrong.extend(found.iter().map(|found| format!("{call} {nth} {text}: {found}")));
            }
        }
        assert!(wrong.is_empty(), "{:?}: {} wrong\n{}", self.kind, wrong.len(), wrong.join("\n"));
        self.mount.sh("echo alive >inbox/alive && mv inbox/alive review/alive").ok();
        self.mount.unmount();
    }
}

/// Kind, mode, owner, time and content of what is at a path and below; nothing where there is nothing.
fn describe(path: &Path, text: &mut String) {
    let Ok(found) = path.symlink_metadata() else { return };
    let content = if found.is_file() { fs::read(path).expect("readable") } else { Vec::new() };
    let sum = content.iter().fold(0_u64, |sum, byte| sum.wrapping_mul(31) + u64::from(*byte));
    let link = fs::read_link(path).unwrap_or_default();
    let time = if found.is_dir() { (0, 0) } else { (found.mtime(), found.mtime_nsec()) };
    let (mode, uid, size) = (found.mode(), found.uid(), content.len());
    text.push_str(&format!("{mode:o} {uid} {size} {sum:x} {time:?} {} ", link.display()));
    if found.is_dir() {
        let entries = fs::read_dir(path).expect("a listing").map(|entry| entry.expect("an entry"));
        let mut names: Vec<_> = entries.map(|entry| entry.file_name()).collect();
        names.sort();
        for name in names {
            text.push_str(&format!("{}: ", name.display()));
            describe(&path.join(name), text);
        }
    }
}

#[test]
fn of_a_file_to_another_disk() {
    Lab::new(Kind::File, true).try_all();
}

#[test]
fn of_a_file_on_one_disk() {
    Lab::new(Kind::File, false).try_all();
}

#[test]
fn of_a_file_onto_another() {
    Lab::new(Kind::Over, true).try_all();
}

#[test]
fn of_a_tree() {
    Lab::new(Kind::Tree, true).try_all();
}

#[test]
fn of_an_undo() {
    Lab::new(Kind::Undo, true).try_all();
}

/// From some call on all calls of a name fail. What that leaves open is ended in a while, or by the next mount where
/// it could not be synced.
#[test]
fn in_a_storm_are_whole_when_it_is_over() {
    let mut lab = Lab::new(Kind::File, true);
    let calls = lab.calls();
    let last = |call: &str| calls.get(call).copied().unwrap_or(1);
    let storms = [
        ("renameat2", "EIO", 1),
        ("renameat2", "EROFS", 2),
        ("renameat2", "EIO", 2),
        ("statx", "EIO", last("statx") - 2),
        ("statx", "ENOMEM", last("statx") - 4),
        ("openat2", "EMFILE", 3),
        ("name_to_handle_at", "ENOMEM", last("name_to_handle_at") - 4),
    ];
    let mut tried = Vec::new();
    for (call, errno, from) in storms {
        let name = lab.furnish();
        let before = lab.ends(&name);
        let inject = format!("{call}:error={errno}:when={from}+");
        let strace = Strace::attach(&lab.mount, &[CROSSING], Some(&inject));
        let result = lab.act(&name);
        drop(strace);
        tried.push((name, before, format!("{inject}: {result:?}")));
    }
    let deadline = Instant::now() + Duration::from_secs(40);
    for (name, before, context) in tried.iter().filter(|tried| tried.2.starts_with("rename")) {
        let mut now = lab.ends(name);
        while now != *before && !lab.crossed(before, &now) {
            assert!(Instant::now() < deadline, "{context}: stays {now:?}");
            std::thread::sleep(Duration::from_millis(200));
            now = lab.ends(name);
        }
    }
    lab.mount.unmount();
    lab.mount = lab.scene.mount();
    for (name, before, context) in tried {
        let now = lab.ends(&name);
        assert!(
            now == before || lab.crossed(&before, &now),
            "{context}: {before:?} became {now:?}"
        );
    }
    assert!(lab.records().iter().all(|line| line["step"] != "dead"), "a transaction is dead");
    lab.mount.unmount();
}
