//! What `explain` says and what an operation does agree, whatever is asked; and what is denied leaves the
//! branches byte for byte as they were.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use super::fixture::*;
use crate::branch::{AttributeChange, RenameFlags, XattrFlags};
use crate::policy::{Conditions, LABEL, PathPatterns, Rule, Supposed, Who, Window};
use crate::types::{Operation, Verb};
use crate::vfs::*;

const SEEDS: u64 = 12;
const STEPS: u64 = 400;
const CALLERS: [u32; 3] = [0, 1001, 1002];
const FOLDERS: [&str; 6] =
    ["/inbox/a", "/inbox/b", "/inbox/a/deep", "/inbox", "/archive/a", "/fixed/a"];
const NAMES: [&str; 4] = ["one.csv", "two.txt", "three.csv", "four.sh"];
const PATTERNS: [&str; 10] = [
    "/**",
    "/inbox/a/**",
    "/inbox/*",
    "/**/*.csv",
    "/{inbox,archive}/b/*",
    "/inbox/a/deep/one.csv",
    "/**/*.new",
    "/inbox/[ab]/t*",
    "/fixed/**",
    "/archive/**/*.sh",
];

struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % bound
    }

    fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }

    fn rule(&mut self, number: usize) -> Rule {
        let denies = self.below(3) > 0;
        let operations = (0..1 + self.below(6)).map(|_| self.of(&Operation::ALL)).collect();
        let mut who = Who::from(vec![self.of(&[Principal::Anyone, Principal::User(1001)])]);
        who.excepted.extend((self.below(4) == 0).then_some(Principal::User(0)));
        let mut conditions = Conditions::default();
        match self.below(8) {
            0 => conditions.owner_is_caller = true,
            1 => conditions.labels.push("pii".to_owned()),
            2 => conditions.max_file_size = Some(3),
            3 => conditions.when.push(Window::parse("Mon-Sun UTC").expect("a window")),
            _ => {}
        }
        let paths = PathPatterns::new(vec![self.of(&PATTERNS).to_owned()]).expect("a glob");
        let reason = denies.then(|| "not here".into());
        let observe = denies && self.below(8) == 0;
        Rule {
            name: format!("r{number}").into(),
            denies,
            operations,
            who,
            paths,
            conditions,
            observe,
            reason,
        }
    }
}

/// All that a branch holds, with attributes and content.
fn fingerprint(at: &Path, into: &mut BTreeMap<std::path::PathBuf, String>) {
    for entry in std::fs::read_dir(at).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.file_name() == Some(OsStr::new(".octroi")) || path.ends_with("state") {
            continue;
        }
        let found = path.symlink_metadata().expect("it is there");
        let content =
            if found.is_file() { std::fs::read(&path).expect("readable") } else { vec![] };
        let label = rustix::fs::lgetxattr(&path, LABEL, &mut [0u8; 64][..]).ok();
        let (mode, uid, size) = (found.mode(), found.uid(), found.size());
        let times = (found.mtime(), found.mtime_nsec(), found.ino(), found.nlink());
        into.insert(path.clone(), format!("{mode} {uid} {size} {times:?} {label:?} {content:?}"));
        if found.is_dir() {
            fingerprint(&path, into);
        }
    }
}

fn furnish(fixture: &Fixture) {
    for folder in FOLDERS {
        let at = fixture.backing(&folder[1..]);
        std::fs::create_dir_all(&at).expect("mkdir");
        std::fs::set_permissions(&at, std::fs::Permissions::from_mode(0o777)).expect("chmod");
        for (number, name) in NAMES.iter().enumerate() {
            let file = at.join(name);
            std::fs::write(&file, "content").expect("written");
            let owner = CALLERS[number % CALLERS.len()];
            std::os::unix::fs::chown(&file, Some(owner), None).expect("chown");
            if number % 2 == 0 {
                let value = b"pii";
                let _ = rustix::fs::lsetxattr(&file, LABEL, value, rustix::fs::XattrFlags::empty());
            }
        }
    }
}

pub(super) fn explained(
    vfs: &Vfs,
    uid: u32,
    operation: Operation,
    path: &ViewPath,
    target: Option<&ViewPath>,
) -> Explained {
    let (visible, supposed) = ((true, true), &Supposed::default());
    let known = &|_: &ViewPath| true;
    let asking = Asking { uid, operation, path, target, visible, known, supposed };
    vfs.explain(&asking).expect("groups")
}

fn inode_of(vfs: &Vfs, path: &ViewPath) -> Option<u64> {
    let mut number = ROOT_NUMBER;
    for name in path.components() {
        number = vfs.lookup(*ROOT, number, name).ok()?.number;
    }
    Some(number)
}

/// Does it; `None` if it cannot be asked of this object.
fn act(
    vfs: &Vfs,
    caller: Caller,
    operation: Operation,
    path: &ViewPath,
    target: &ViewPath,
) -> Option<Result<(), Errno>> {
    let split = |path: &ViewPath| {
        let name = path.as_path().file_name()?.to_owned();
        Some((inode_of(vfs, &path.parent()?)?, name))
    };
    let (parent, name) = split(path)?;
    let inode = inode_of(vfs, path);
    let open = |flags: u32| {
        let opened = vfs.open(caller, inode?, flags);
        Some(opened.map(|opened| vfs.release(opened.handle)))
    };
    let change = |change| {
        let request = AttributeRequest { change, size: None, handle: None };
        Some(vfs.setattr(caller, inode?, &request).map(drop))
    };
    let (key, text) = (OsStr::new("user.other"), OsStr::new("elsewhere"));
    let new = |result: Result<Attributes, Errno>| Some(result.map(drop));
    match operation {
        Operation::OpenRead => open(READ),
        Operation::Exec => open(READ | 0x20),
        Operation::OpenWrite => open(WRITE),
        Operation::Truncate => {
            let request = AttributeRequest {
                change: AttributeChange::default(),
                size: Some(2),
                handle: None,
            };
            Some(vfs.setattr(caller, inode?, &request).map(drop))
        }
        Operation::Chmod => {
            change(AttributeChange { mode: Some(0o640), ..AttributeChange::default() })
        }
        Operation::Chown => change(AttributeChange { gid: Some(7), ..AttributeChange::default() }),
        Operation::Setxattr => Some(vfs.setxattr(caller, inode?, key, b"v", XattrFlags::empty())),
        Operation::Unlink => inode.map(|_| vfs.unlink(caller, parent, &name)),
        _ if inode_of(vfs, target).is_some() => None,
        Operation::RenameSource | Operation::MoveSource => {
            inode?;
            let (new_parent, new_name) = split(target)?;
            let (from, to) = ((parent, &*name), (new_parent, &*new_name));
            Some(vfs.rename(caller, from, to, RenameFlags::empty()))
        }
        Operation::Link => {
            let (new_parent, new_name) = split(target)?;
            new(vfs.link(caller, inode?, new_parent, &new_name))
        }
        _ => {
            let (parent, name) = split(target)?;
            match operation {
                Operation::Mkdir => new(vfs.mkdir(caller, parent, &name, 0o777, 0)),
                Operation::Mknod => {
                    new(vfs.mknod(caller, parent, &name, libc::S_IFIFO | 0o666, 0, 0))
                }
                Operation::Symlink => new(vfs.symlink(caller, parent, &name, text)),
                _ => None,
            }
        }
    }
}

#[test]
fn what_is_explained_is_what_happens() {
    let (mut denied, mut allowed) = (0u64, 0u64);
    for seed in 0..SEEDS {
        let dice = &mut Dice(seed.wrapping_mul(7919).wrapping_add(17));
        let rules = (0..12).map(|number| dice.rule(number)).collect();
        let fixture = Fixture::new(rules);
        furnish(&fixture);
        let vfs = &fixture.vfs;
        for step in 0..STEPS {
            let uid = dice.of(&CALLERS);
            let caller = Caller { uid, gid: uid, pid: 1 };
            let operation = dice.of(&Operation::ALL);
            let at = |folder: &str, name: &str| {
                ViewPath::parse(&Path::new(folder).join(name)).expect("a path")
            };
            let path = at(dice.of(&FOLDERS), dice.of(&NAMES));
            let fresh = format!("{step}.{}", dice.of(&["new", "csv", "sh"]));
            let target = at(dice.of(&FOLDERS), &fresh);
            let two = matches!(
                operation,
                Operation::RenameSource | Operation::MoveSource | Operation::Link
            );
            let makes = operation.verb() == Verb::Add && operation != Operation::Link;
            let asked = if makes { &target } else { &path };
            let said = explained(vfs, uid, operation, asked, two.then_some(&target)).decision;
            let (mut before, mut after) = (BTreeMap::new(), BTreeMap::new());
            fingerprint(fixture.dir.path(), &mut before);
            let Some(result) = act(vfs, caller, operation, &path, &target) else { continue };
            let refused = matches!(result, Err(Errno::ACCESS | Errno::ROFS));
            if said.allowed {
                allowed += 1;
                // What the crossing finds in the file is not the policy's to say.
                let by_gate = matches!(said.basis, crate::policy::Basis::Gate(_));
                assert!(
                    (!refused || by_gate) && result != Err(Errno::XDEV),
                    "{seed}/{step}: {operation} of {asked} by {uid} to {target}: {result:?}, but {said:?}"
                );
            } else if result != Err(Errno::XDEV) {
                denied += 1;
                assert!(
                    refused,
                    "{seed}/{step}: {operation} of {asked} by {uid} to {target}: {result:?}, but {said:?}"
                );
                fingerprint(fixture.dir.path(), &mut after);
                assert_eq!(
                    before, after,
                    "{seed}/{step}: {operation} of {asked} was denied and changed something"
                );
            }
        }
    }
    assert!(denied > 500 && allowed > 500, "{denied} denied, {allowed} allowed");
}

#[test]
fn what_is_kept_of_a_path_does_not_outlive_it() {
    let read = [Operation::OpenRead];
    let fixture = Fixture::new(vec![rule("closed", &read, "/inbox/closed/**")]);
    fixture.folder("inbox/open/below");
    fixture.folder("inbox/closed");
    fixture.plant("inbox/open/below/f", "text");
    let file = fixture.number("inbox/open/below/f");
    assert!(fixture.read(file).is_ok() && fixture.read(file).is_ok());
    // The folder above goes where a rule speaks: the file's own name has not changed.
    fixture.rename(("inbox/open", "below"), ("inbox/closed", "below")).expect("allowed");
    assert_eq!(fixture.read(file).err(), Some(Errno::ACCESS));
    let back = fixture.rename(("inbox/closed", "below"), ("inbox/open", "below"));
    assert_eq!(back, Err(Errno::ACCESS), "that would shed the rule");
    // Another policy: what is kept of the paths is of no use to it.
    let mut source = fixture.vfs.policy().source().clone();
    source.rules.clear();
    source.rules.push(rule("other", &read, "/inbox/open/**"));
    let policy = crate::policy::Policy::new(source, 2).expect("patterns that compile");
    fixture.vfs.replace_policy(policy, String::new(), Vec::new());
    assert!(fixture.read(file).is_ok());
    fixture.rename(("inbox/closed", "below"), ("inbox/open", "below")).expect("allowed");
    assert_eq!(fixture.read(file).err(), Some(Errno::ACCESS));
}

#[test]
fn a_rule_holds_for_a_file_by_any_of_its_names() {
    let fixture = Fixture::new(vec![rule("closed", &[Operation::OpenRead], "/inbox/closed/**")]);
    fixture.folder("inbox/open");
    fixture.folder("inbox/closed");
    fixture.plant("inbox/open/f", "text");
    let links = 300;
    for number in 0..links {
        let (from, to) = (fixture.backing("inbox/open/f"), format!("inbox/open/{number}"));
        std::fs::hard_link(from, fixture.backing(&to)).expect("linked");
        fixture.number(&to);
    }
    let file = fixture.number("inbox/open/f");
    assert!(fixture.read(file).is_ok());
    std::fs::hard_link(fixture.backing("inbox/open/f"), fixture.backing("inbox/closed/f"))
        .expect("linked");
    assert!(fixture.read(file).is_ok(), "a name that nobody looked up");
    assert_eq!(fixture.number("inbox/closed/f"), file);
    assert_eq!(fixture.read(file).err(), Some(Errno::ACCESS));
    let denial = fixture.vfs.last_denial(0, None).expect("kept");
    assert_eq!(denial.path.to_string(), "/inbox/closed/f");
    std::fs::remove_file(fixture.backing("inbox/closed/f")).expect("removed");
}

#[test]
fn rules_about_labels_or_owners_do_not_speak_of_folders_that_no_branch_provides() {
    let read = [Operation::List, Operation::OpenRead];
    let labelled = Rule {
        conditions: Conditions { labels: vec!["pii".to_owned()], ..Conditions::default() },
        ..rule("labelled", &read, "/**")
    };
    let own = Rule {
        conditions: Conditions { owner_is_caller: true, ..Conditions::default() },
        ..rule("own", &read, "/**")
    };
    for rule in [labelled, own] {
        let name = rule.name.clone();
        let fixture = Fixture::new(vec![rule]);
        let vfs = &fixture.vfs;
        for caller in [*ROOT, Caller { uid: 1001, gid: 1001, pid: 1 }] {
            let opened = vfs.opendir(caller, ROOT_NUMBER);
            assert!(opened.map(|handle| vfs.releasedir(handle)).is_ok(), "{name}");
            let root = ViewPath::root();
            let said = explained(vfs, caller.uid, Operation::List, &root, None);
            assert!(said.decision.allowed, "{name}: {said:?}");
            let why = "a folder that no branch provides has no labels and no owner";
            assert!(said.considered.iter().any(|one| one.near && one.why == why), "{said:?}");
        }
        fixture.plant("inbox/f", "text");
        let file = fixture.backing("inbox/f");
        let _ = rustix::fs::lsetxattr(&file, LABEL, b"pii", rustix::fs::XattrFlags::empty());
        assert_eq!(fixture.read(fixture.number("inbox/f")).err(), Some(Errno::ACCESS), "{name}");
    }
}
