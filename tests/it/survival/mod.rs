//! Crossings of the real daemon that are cut off: it is killed at a system call (`kills`), its disks lose
//! power at one, or at any flush that they ever got (`power`), or it is killed again and again under load
//! (`soak`). Then it is mounted anew and looked at with ordinary tools: what was to cross is at one place,
//! whole, with all attributes, and where it was told to be; what was to be replaced is there or in hold;
//! no stage or hold shows; each transaction has ended; and another mount finds the same.

use std::collections::BTreeMap;
use std::path::Path;

use crate::disk::Disk;
use crate::harness::{Mount, Scene, octroi, require_root};

mod kills;
mod power;
mod recorder;
mod replay;
mod soak;

/// What is cut off, each between the branches `inbox` and `review` unless it says otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Act {
    File,
    Tree,
    /// Onto another file.
    Replace,
    /// A tree onto an empty directory.
    EmptyDirectory,
    /// A tree with a group of links.
    Links,
    /// A tree with a symbolic link, a fifo and a device.
    Special,
    /// A tree of which both members of `pool` have a part.
    Pool,
    /// To `near`, on the same file system, onto another file.
    OneFileSystem,
    Undo,
    UndoReplace,
    /// `octroi mv`.
    Prepared,
    /// A dead letter is tried again.
    Letter,
}

const ACTS: [Act; 12] = [
    Act::File,
    Act::Tree,
    Act::Replace,
    Act::EmptyDirectory,
    Act::Links,
    Act::Special,
    Act::Pool,
    Act::OneFileSystem,
    Act::Undo,
    Act::UndoReplace,
    Act::Prepared,
    Act::Letter,
];

const BODY: &str = r#"
[branches.inbox]
path = "branches/inbox"
[branches.near]
path = "branches/near"
[branches.one]
path = "branches/one"
[branches.two]
path = "branches/two"
[branches.review]
path = "branches/review"
[pools.pool]
members = ["one", "two"]
[gates.submit]
from = "inbox"
to = "review"
who = ["*"]
[gates.keep]
from = "inbox"
to = "near"
who = ["*"]
[gates.gather]
from = "pool"
to = "review"
who = ["*"]
"#;

const BRANCHES: [&str; 5] = ["inbox", "near", "one", "two", "review"];

const TREE: &str = "mkdir -p $P/sub; seq 2000 >$P/a; seq 9 >$P/sub/b; setfattr -n user.a -v b $P/a; \
    chmod 640 $P/a; chmod 2750 $P/sub; touch -d '1969-07-20 20:17:40.123456789' $P/sub/b; chown 7:8 $P/sub/b;";

impl Act {
    /// Where it comes from and where it goes.
    fn ends(self) -> [&'static str; 2] {
        match self {
            Self::Pool => ["pool", "review"],
            Self::OneFileSystem => ["inbox", "near"],
            Self::Undo | Self::UndoReplace => ["review", "inbox"],
            _ => ["inbox", "review"],
        }
    }

    /// Makes, in the folder of the branches while nothing is mounted, what will cross as `$N`.
    fn furnish(self) -> String {
        let tree = TREE.replace("$P", "inbox/$N");
        let file = "seq 5000 >inbox/$N; setfattr -n user.a -v b inbox/$N; chmod 4755 inbox/$N;";
        match self {
            Self::File | Self::Undo | Self::Prepared => file.to_owned(),
            Self::Replace | Self::UndoReplace | Self::Letter => {
                format!("{file} echo old >review/$N")
            }
            Self::OneFileSystem => format!("{file} echo old >near/$N"),
            Self::Tree => tree,
            Self::EmptyDirectory => format!("{tree} mkdir review/$N"),
            Self::Links => format!("{tree} ln inbox/$N/a inbox/$N/c; ln inbox/$N/a inbox/$N/sub/d"),
            Self::Special => format!(
                "{tree} ln -s a inbox/$N/link; mkfifo inbox/$N/fifo; mknod inbox/$N/null c 1 3"
            ),
            Self::Pool => {
                let part = |member| TREE.replace("$P", &format!("{member}/$N"));
                let more = "echo hidden >two/$N/a; echo two >two/$N/sub/two; touch -r one/$N/sub two/$N/sub; touch -r one/$N two/$N";
                format!("{} {} {more}", part("one"), part("two"))
            }
        }
    }

    /// What is done first, through the mount, and is not cut off.
    fn before(self) -> &'static str {
        match self {
            Self::Undo | Self::UndoReplace => "mv inbox/$N review/$N",
            // The first crossing finds out what the others know, by a rename of its own.
            Self::Letter => "echo first >inbox/first-$N; mv inbox/first-$N review/first-$N",
            _ => "true",
        }
    }

    /// What is cut off.
    fn script(self) -> String {
        let [from, to] = self.ends();
        match self {
            Self::Undo | Self::UndoReplace => "$OCTROI undo review/$N".to_owned(),
            Self::Prepared => format!("$OCTROI mv -q -T {from}/$N {to}/$N"),
            Self::Letter => "$OCTROI tx retry $(cat ../letter)".to_owned(),
            // Not mv(1), which copies and removes where a rename fails.
            _ => format!("python3 -c 'import os; os.rename(\"{from}/$N\", \"{to}/$N\")'"),
        }
    }

    fn replaces(self) -> bool {
        matches!(self, Self::Replace | Self::OneFileSystem | Self::UndoReplace | Self::Letter)
    }
}

/// What is at both ends, as `find`, `sha256sum` and `getfattr` tell.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Ends([String; 2]);

impl Ends {
    fn of(root: &Path, act: Act, name: &str) -> Self {
        Self(act.ends().map(|end| {
            // The number of a directory's links and its size are its file system's.
            let script = format!(
                "cd {end}; find {name} '(' -type d -printf '%P %y %m %U:%G %T@\\n' ')' -o \
                 -printf '%P %y %m %U:%G %n %s %T@ %l\\n' | sort; \
                 find {name} -type f -exec sha256sum {{}} + | sort; \
                 getfattr -h -R -d {name} 2>/dev/null | sort"
            );
            let told = crate::harness::sh(root, &format!("{{ {script} ; }} 2>&1"));
            if told.out.contains("No such file or directory") { String::new() } else { told.out }
        }))
    }
}

/// A transaction's steps, in order.
type Steps = BTreeMap<String, Vec<String>>;

fn steps(mount: &Mount) -> Steps {
    let mut steps = Steps::new();
    for line in mount.ledger() {
        if line["kind"] == "crossing" {
            let word = |key: &str| line[key].as_str().expect("a word").to_owned();
            steps.entry(word("txid")).or_default().push(word("step"));
        }
    }
    steps
}

/// What both ends are before an act, and after it.
#[derive(Clone)]
struct Planned {
    before: Ends,
    after: Ends,
    /// Of a dead letter: its moves were never synced, so power loss may take them back, and so may an attempt
    /// that fails.
    back: Option<Ends>,
}

/// A case that was cut off.
struct Cut<'a> {
    act: Act,
    name: &'a str,
    planned: Planned,
    acknowledged: bool,
}

/// What a mount shows after one: both ends, and what hold has.
#[derive(Debug, PartialEq, Eq)]
struct Found {
    ends: Ends,
    hold: String,
}

impl Cut<'_> {
    /// All that is promised, in a mount that has recovered; what is wrong.
    fn check(&self, scene: &Scene, mount: &Mount, wrong: &mut Vec<String>) -> Found {
        let now = Ends::of(mount.root(), self.act, self.name);
        let Planned { before, after, back } = &self.planned;
        let as_before = now == *before || Some(&now) == back.as_ref();
        let crossed = now == *after;
        if !crossed && !as_before {
            wrong.push(format!("neither {before:?} nor {after:?}, but {now:?}"));
        }
        if self.acknowledged && !crossed {
            wrong.push("acknowledged, and not so".to_owned());
        }
        let branches = scene.base().join("branches");
        let list = "ls -A */.octroi/hold";
        let hold = crate::harness::sh(&branches, list).ok();
        if crossed && self.act.replaces() && self.act != Act::UndoReplace {
            let held = crate::harness::sh(&branches, "cat */.octroi/hold/* 2>/dev/null").out;
            if !held.lines().any(|line| line == "old") {
                wrong.push("what was replaced is lost".to_owned());
            }
        }
        let staged =
            crate::harness::sh(&branches, "ls -A */.octroi/stage | grep -v : | grep .").out;
        let shown = mount.sh("find . -name .octroi -not -path './.audit/*'").out;
        if !shown.is_empty() {
            wrong.push(format!("users see {shown}"));
        }
        let mut dead = 0;
        for (txid, steps) in steps(mount) {
            match steps.last().map(String::as_str) {
                Some("done" | "abort" | "reverted") => {}
                Some("dead") if self.act == Act::Letter && as_before => dead += 1,
                last => wrong.push(format!("{txid} ended with {last:?}: {steps:?}")),
            }
        }
        if !staged.is_empty() && dead == 0 {
            wrong.push(format!("stage keeps {staged}"));
        }
        if self.acknowledged {
            let told = steps(mount);
            let whole = |steps: &Vec<String>| {
                ["prepare", "commit", "done"].iter().all(|step| steps.iter().any(|one| one == step))
            };
            if !told.values().any(whole) {
                wrong.push(format!("acknowledged, and not recorded: {told:?}"));
            }
        }
        Found { ends: now, hold }
    }
}

/// Verifies the whole ledger.
fn verify(scene: &Scene) -> Vec<String> {
    let told = octroi(["audit", "verify", "--view", scene.config().to_str().expect("UTF-8")]);
    if told.code == Some(0) { Vec::new() } else { vec![format!("{} {}", told.out, told.err)] }
}

/// Script with `$N` for a name.
fn named(script: &str, name: &str) -> String {
    script.replace("$N", name)
}

/// A view on disks of its own.
struct Lab {
    // Dropped first to last: what is mounted on the disks comes first.
    mount: Option<Mount>,
    disks: Vec<Disk>,
    scene: Scene,
}

impl Lab {
    fn new(disks: impl FnOnce(&Scene) -> Vec<Disk>) -> Self {
        require_root();
        let scene = Scene::with(&BRANCHES, BODY);
        let disks = disks(&scene);
        Self { mount: None, disks, scene }
    }

    fn mounted(&mut self) -> &Mount {
        self.mount.get_or_insert_with(|| self.scene.mount())
    }

    fn unmount(&mut self) {
        if let Some(mount) = self.mount.take() {
            mount.unmount();
        }
    }

    /// What is to be cut off is there, and what comes before it is done.
    fn furnish(&mut self, act: Act, name: &str) -> Planned {
        self.unmount();
        let branches = self.scene.base().join("branches");
        let script = format!("set -e; {}", named(&act.furnish(), name));
        crate::harness::sh(&branches, &format!("{script}\nfor at in */; do sync -f $at; done"))
            .ok();
        let mount = self.mounted();
        let first = Ends::of(mount.root(), act, name);
        let [home, _] = first.0.clone();
        mount.sh(&named(act.before(), name)).ok();
        let [source, _] = Ends::of(mount.root(), act, name).0;
        let after = match act {
            Act::UndoReplace => Ends([home, source]),
            // Its source is in hold once it is dead.
            Act::Letter => Ends([String::new(), home]),
            _ => Ends([String::new(), source]),
        };
        if act == Act::Letter {
            let inject = "renameat2:error=EACCES:when=2+";
            let strace = crate::strace::Strace::attach(mount, &["rename-"], Some(inject));
            mount.sh(&format!("mv inbox/{name} review/{name}")).refused();
            drop(strace);
            let dead = "$OCTROI tx list --dead --json | jq -r '.[0].txid' >../letter";
            mount.sh(dead).ok();
        }
        let before = Ends::of(mount.root(), act, name);
        let back = (act == Act::Letter).then_some(first);
        Planned { before, after, back }
    }
}
