//! What good files become, and, in `mistakes.txt`, what each mistake looks like.

use std::path::Path;
use std::time::Duration;

use super::*;
use crate::branch::BranchSpec;
use crate::policy::{Given, Policy, Subject, Verify, Window};
use crate::types::{BranchIndex, BranchIo, BranchMode, Operation, Placement, PoolIndex};

mod checks;
mod expectations;
mod limits;

const MISTAKES: &str = include_str!("mistakes.txt");

/// What `@base` stands for in `mistakes.txt`.
const BASE: &str = r#"[view]
name = "lab"
state = "state"
[roles]
curators = ["user:ana", "group:curators"]
[branches.inbox]
path = "inbox"
[branches.review]
path = "review"
mode = "gates-only"
[branches.archive]
path = "archive"
mode = "ro"
[branches.scratch]
path = "scratch""#;

fn accounts(account: Account<'_>) -> Result<Option<u32>, Errno> {
    match account {
        Account::User("ana") => Ok(Some(1001)),
        Account::User("ben") => Ok(Some(1002)),
        Account::User("slow") => Err(Errno::TIMEDOUT),
        Account::Group("curators") => Ok(Some(2001)),
        Account::User(_) | Account::Group(_) => Ok(None),
    }
}

const MACHINE: Machine<'static> = Machine { resolve: &accounts, find: &find };

/// A folder with the branches of [`BASE`], a file and links.
fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for name in ["inbox/inner", "review", "archive", "scratch", "disk1", "disk2", "disk3"] {
        std::fs::create_dir_all(dir.path().join(name)).unwrap();
    }
    std::fs::write(dir.path().join("file"), "").unwrap();
    std::os::unix::fs::symlink("inbox", dir.path().join("link")).unwrap();
    dir
}

fn load_text(dir: &Path, text: &str) -> Result<Loaded, ConfigErrors> {
    let file = dir.join("lab.toml");
    std::fs::write(&file, text).unwrap();
    load_with(&file, MACHINE)
}

/// `mistakes.txt` is a list of `=== TITLE`, a file, `---`, and what is said about it. With
/// OCTROI_BLESS set it is written anew, to be read and judged.
#[test]
fn every_mistake_is_shown_at_its_place() {
    let dir = folder();
    let base = dir.path().canonicalize().unwrap();
    let mut actual = String::new();
    for case in MISTAKES.split("=== ").skip(1) {
        let (title, rest) = case.split_once('\n').unwrap();
        let (text, _) = rest.split_once("---\n").unwrap();
        let outcome = load_text(&base, &text.replace("@base", BASE));
        let said = match outcome {
            Err(errors) => errors.render(false),
            Ok(loaded) => {
                assert!(!loaded.warnings.is_empty(), "{title}: nothing is said");
                loaded.warnings.iter().map(|one| one.render(false)).collect::<Vec<_>>().join("\n\n")
            }
        };
        let said = said.replace(&format!("{}/lab.toml", base.display()), "lab.toml");
        let said = said.replace(&*base.to_string_lossy(), "DIR");
        actual += &format!("=== {title}\n{text}---\n{said}\n\n");
    }
    if std::env::var_os("OCTROI_BLESS").is_some() {
        std::fs::write(concat!(env!("CARGO_MANIFEST_DIR"), "/src/config/mistakes.txt"), &actual)
            .unwrap();
    } else {
        for (actual, wanted) in actual.split("=== ").zip(MISTAKES.split("=== ")) {
            assert_eq!(actual, wanted, "\n{actual}");
        }
    }
}

#[test]
fn a_small_file_gets_the_defaults() {
    let dir = folder();
    let base = dir.path().canonicalize().unwrap();
    let text = "[view]\nname = \"lab\"\nstate = \"state\"\n[branches.inbox]\npath = \"link\"\n";
    let loaded = load_text(&base, text).unwrap();
    assert_eq!(loaded.warnings, []);
    assert_eq!(loaded.text, text);
    assert_eq!(loaded.sha256.len(), 64);
    let config = loaded.config;
    assert_eq!((config.view.as_str(), &config.state), ("lab", &base.join("state")));
    assert!(config.policy.within_allowed);
    assert!(config.policy.rules.is_empty() && config.policy.gates.is_empty());
    assert_eq!(
        (config.hold_keep, config.record),
        (Duration::from_secs(3600), RecordLevel::Mutations)
    );
    assert_eq!(config.hold_max, crate::branch::SpaceLimit::Percent(10));
    assert!(config.pools.is_empty());
    assert_eq!(config.crossings, Crossings { parallel: 2, rate: None });
    assert_eq!(config.readers.first(), Some(&Principal::User(0)));
    let [BranchEntry { spec, at }] = config.branches.as_slice() else { panic!("one branch") };
    let BranchSpec { index, name, path, mode, io, min_free, exposed } = spec;
    assert_eq!((*index, name.as_str(), path), (BranchIndex(0), "inbox", &base.join("inbox")));
    assert_eq!((*mode, *io), (BranchMode::Rw, BranchIo::Checked));
    assert_eq!(
        (*min_free, *exposed, at.as_ref().unwrap().to_string()),
        (64 << 20, false, "/inbox".to_owned())
    );
}

#[test]
fn every_implemented_key_is_read() {
    let dir = folder();
    let base = dir.path().canonicalize().unwrap();
    let text = r#"
policy.within = "deny"
policy.observe = true
hold = { keep = "7d", max = "2GiB" }
crossings = { parallel = 64, rate = "50MiB/s" }
[view]
name = "lab-2"
state = "../state-of-octroi-test"
[roles]
staff = ["curators", "user:7"]
curators = ["user:ana", "group:curators", "user:ana"]
[branches.z]
path = "inbox"
at = "/"
io = "passthrough"
min_free = "1GiB"
exposed = true
[branches.a]
path = "review"
at = "/deep/er/"
mode = "gates-only"
min_free = 0
[gates.submit]
from = "z"
to = "a"
who = ["staff", "*"]
paths = ["**/*.csv", "{a,b}/*"]
types = ["text/plain", "image/*"]
max_size = "2GiB"
verify = "stream"
[rules.two]
deny = ["add", "rename", "open-read"]
who = ["group:99"]
paths = ["/**/*.sh"]
reason = "no scripts"
when = ["Mon-Fri 08:00-18:00 Europe/Paris", "Sat UTC"]
max_file_size = "1MiB"
labels = ["pii", "secret"]
owner = "caller"
observe = true
[rules.one]
allow = ["read"]
who = ["staff", "user:0", "user:4000000123", "!user:ben", "!curators"]
[audit]
record = "everything"
keep = "90d"
max_size = "1GiB"
readers = ["curators"]
[[expect]]
as = "user:ana"
groups = ["group:curators"]
do = "move"
path = "/a"
target = "/deep/er/a"
directory = true
result = "allow"
by = "gate submit"
at = 2026-01-05T08:00:00Z
size = 10
labels = ["pii"]
owner = "user:ben"
[[expect]]
as = "user:4000000123"
do = "read"
path = "/a"
result = "deny"
[[expect]]
as = "user:ana"
do = "setxattr"
path = "/a"
result = "allow"
changes_labels = true
"#;
    let loaded = load_text(&base, text).unwrap();
    assert_eq!(loaded.warnings, []);
    let Config {
        view,
        state,
        policy,
        branches,
        pools,
        crossings,
        hold_keep,
        hold_max,
        record,
        audit_keep,
        readers,
        expectations,
    } = loaded.config;
    assert!(pools.is_empty());
    assert_eq!(crossings, Crossings { parallel: 64, rate: Some(50 << 20) });
    assert_eq!(
        (view.as_str(), state.file_name().unwrap()),
        ("lab-2", "state-of-octroi-test".as_ref())
    );
    assert_eq!(hold_max, crate::branch::SpaceLimit::Bytes(2 << 30));
    assert_eq!((hold_keep.as_secs(), record), (7 * 86_400, RecordLevel::Everything));
    assert_eq!(
        (audit_keep.age, audit_keep.size),
        (Some(Duration::from_secs(90 * 86_400)), Some(1 << 30))
    );
    let curators = [Principal::User(1001), Principal::Group(2001)];
    assert_eq!(readers, curators);
    let places: Vec<_> = branches
        .iter()
        .map(|b| (b.spec.name.as_str(), b.at.as_ref().unwrap().to_string()))
        .collect();
    assert_eq!(places, [("z", "/".to_owned()), ("a", "/deep/er".to_owned())]);
    assert_eq!((branches[0].spec.io, branches[0].spec.min_free), (BranchIo::Passthrough, 1 << 30));
    assert!(branches[0].spec.exposed && branches[1].spec.min_free == 0);
    assert_eq!(policy.branches[1].mode, BranchMode::GatesOnly);
    assert_eq!(
        (policy.branches[1].name.as_ref(), Some(&policy.branches[1].at)),
        ("a", branches[1].at.as_ref())
    );
    assert!(!policy.within_allowed);

    let [gate] = policy.gates.as_slice() else { panic!("one gate") };
    assert_eq!(
        (gate.name.as_ref(), &*gate.from, &*gate.to),
        ("submit", [BranchIndex(0)].as_slice(), [BranchIndex(1)].as_slice())
    );
    assert_eq!(gate.paths.texts(), ["**/*.csv", "{a,b}/*"]);
    assert_eq!(gate.terms.types, ["text/plain", "image/*"]);
    assert_eq!((gate.terms.max_size, gate.terms.verify), (Some(2 << 30), Verify::Stream));
    assert_eq!(gate.who.included.last(), Some(&Principal::Anyone));

    let [two, one] = policy.rules.as_slice() else { panic!("two rules") };
    assert_eq!((two.name.as_ref(), two.denies, one.denies), ("two", true, false));
    assert_eq!(two.reason.as_deref(), Some("no scripts"));
    let covered =
        [Operation::OpenRead, Operation::RenameSource, Operation::RenameTarget, Operation::Mkdir];
    assert!(covered.iter().all(|operation| two.operations.contains(operation)));
    assert!(
        !two.operations.contains(&Operation::MoveSource)
            && !two.operations.contains(&Operation::List)
    );
    assert_eq!(two.who.included, [Principal::Group(99)]);
    let windows: Vec<_> = two.conditions.when.iter().map(Window::text).collect();
    assert_eq!(windows, ["Mon-Fri 08:00-18:00 Europe/Paris", "Sat UTC"]);
    assert_eq!(two.conditions.max_file_size, Some(1 << 20));
    assert_eq!(two.conditions.labels, ["pii", "secret"]);
    assert!(two.conditions.owner_is_caller && two.observe && policy.observe);
    assert!(one.conditions.is_empty() && !one.observe);
    assert_eq!(
        one.who.excepted,
        [Principal::User(1002), Principal::User(1001), Principal::Group(2001)]
    );
    assert_eq!(one.operations, [Operation::List, Operation::OpenRead, Operation::Exec]);
    let mut staff = one.who.included.clone();
    staff.sort_by_key(|principal| format!("{principal:?}"));
    let users = [0, 1001, 4_000_000_123, 7].map(Principal::User);
    assert_eq!(staff, [&[Principal::Group(2001)][..], &users].concat());
    assert_eq!(one.paths.texts(), ["/**"]);

    let [first, second, third] = expectations.list.as_slice() else { panic!("three expectations") };
    let now = "2026-01-05T08:00:00Z".parse().unwrap();
    let given = Given {
        now,
        size_after: Some(10),
        owner: Some(1002),
        labels: vec!["pii".into()],
        changes_labels: false,
    };
    assert_eq!((&first.facts, first.is_directory, first.allowed), (&given, true, true));
    assert_eq!(first.subject, Subject { uid: 1001, gid: 2001, groups: [2001].into() });
    assert_eq!(
        (first.operation, first.by.as_deref()),
        (Operation::MoveSource, Some("gate submit"))
    );
    assert_eq!(first.target.as_ref().unwrap().to_string(), "/deep/er/a");
    assert_eq!((second.operation, second.allowed), (Operation::OpenRead, false));
    assert_eq!((second.subject.uid, second.facts.owner), (4_000_000_123, Some(4_000_000_123)));
    assert!(second.subject.groups.is_empty() && second.by.is_none());
    assert!(third.facts.changes_labels && !second.facts.changes_labels);
    let policy = Policy::new(policy, 1).unwrap();
    let unmet = expectations.unmet(&policy);
    let [unmet] = unmet.as_slice() else { panic!("one is not met: {unmet:?}") };
    assert!(unmet.message.starts_with("expect 2, line 62: open-read of /a for uid"), "{unmet}");
    assert!(unmet.to_string().contains("result = \"deny\""), "{unmet}");
}

#[test]
fn a_pool_gives_its_members_place_and_mode() {
    let dir = folder();
    let text = r#"
[view]
name = "lab"
state = "state"
[branches.review]
path = "review"
[branches.scratch]
path = "scratch"
[branches.disk1]
path = "inbox"
io = "passthrough"
[branches.disk2]
path = "archive"
[pools.store]
members = ["disk2", "disk1"]
at = "/deep/store/"
place = "same-directory"
mode = "gates-only"
[pools.plain]
members = ["scratch", "review"]
[gates.fill]
from = "plain"
to = "store"
who = ["*"]
[gates.back]
from = "disk1"
to = "plain"
who = ["*"]
"#;
    let loaded = load_text(dir.path(), text).unwrap();
    let Config { policy, branches, pools, .. } = loaded.config;

    let [store, plain] = pools.as_slice() else { panic!("two pools") };
    let PoolEntry { index, name, at, members, place, mode } = store;
    assert_eq!(
        (*index, name.as_str(), at.to_string().as_str()),
        (PoolIndex(0), "store", "/deep/store")
    );
    assert_eq!(members, &[BranchIndex(3), BranchIndex(2)]);
    assert_eq!((*place, *mode), (Placement::SameDirectory, BranchMode::GatesOnly));
    assert_eq!((plain.index, plain.at.to_string().as_str()), (PoolIndex(1), "/plain"));
    assert_eq!((plain.place, plain.mode), (Placement::MostFree, BranchMode::Rw));

    assert!(branches.iter().all(|branch| branch.at.is_none()));
    let modes: Vec<_> = branches.iter().map(|branch| branch.spec.mode).collect();
    let (rw, gates_only) = (BranchMode::Rw, BranchMode::GatesOnly);
    assert_eq!(modes, [rw, rw, gates_only, gates_only]);
    assert_eq!(branches[2].spec.io, BranchIo::Passthrough);
    for (facts, pool) in policy.branches.iter().zip([plain, plain, store, store]) {
        assert_eq!(facts.pool.as_deref(), Some(pool.name.as_str()));
        assert_eq!((&facts.at, facts.mode), (&pool.at, pool.mode));
    }

    let [fill, back] = policy.gates.as_slice() else { panic!("two gates") };
    assert_eq!((&*fill.from, &*fill.to), (plain.members.as_slice(), store.members.as_slice()));
    assert_eq!((&*back.from, &*back.to), ([BranchIndex(2)].as_slice(), plain.members.as_slice()));
    let warned: Vec<_> = loaded.warnings.iter().map(|warning| warning.message.as_str()).collect();
    assert_eq!(warned, ["gate back leads to a pool that is rw"]);
}

#[test]
fn paths_are_relative_to_the_file_and_not_to_the_process() {
    let dir = folder();
    let nested = dir.path().join("etc");
    std::fs::create_dir(&nested).unwrap();
    let text = "[view]\nname = \"lab\"\nstate = \"s\"\n[branches.inbox]\npath = \"../inbox\"\n";
    let config = load_text(&nested, text).unwrap().config;
    let base = dir.path().canonicalize().unwrap();
    assert_eq!(config.branches[0].spec.path, base.join("inbox"));
    assert_eq!(config.state, base.join("etc/s"));
}

#[track_caller]
fn check_file(path: &Path, wanted: &str) {
    let errors = load(path).unwrap_err();
    assert_eq!(errors.to_string(), format!("error: configuration {}: {wanted}", path.display()));
}

#[test]
fn a_file_that_cannot_be_read_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("lab.toml");
    check_file(&file, "cannot read it: no such file or directory (ENOENT)");
    check_file(dir.path(), "cannot read it: is a directory (EISDIR)");
    std::fs::write(&file, b"[view]\nname = \"l\xe4b\"\n").unwrap();
    check_file(&file, "it is not UTF-8 text: see line 2");
    std::fs::write(&file, vec![b'#'; 1_048_577]).unwrap();
    check_file(&file, "it is larger than 1 MiB, so it is no configuration");
    std::os::unix::fs::symlink("loop", dir.path().join("loop")).unwrap();
    check_file(
        &dir.path().join("loop"),
        "cannot read it: too many levels of symbolic links (ELOOP)",
    );
}

#[test]
fn colour_changes_nothing_but_colour() {
    let dir = folder();
    let errors = load_text(dir.path(), "[vew]\nname = \"lab\"\n").unwrap_err();
    let coloured = errors.render(true);
    assert!(coloured.contains("\u{1b}["));
    let mut plain = String::new();
    let mut rest = coloured.as_str();
    while let Some((before, after)) = rest.split_once("\u{1b}[") {
        plain += before;
        rest = after.split_once('m').unwrap().1;
    }
    assert_eq!(plain + rest, errors.render(false));
    assert_eq!(errors.errors[0].line(), Some(1));
}

#[test]
fn the_table_of_keys_holds_each_key_once() {
    for (position, key) in KEYS.iter().enumerate() {
        assert!(KEYS[..position].iter().all(|other| other.name != key.name), "{}", key.name);
        assert!(!key.help.is_empty() && !key.kind.is_empty() && !key.default.is_empty());
    }
}

#[test]
fn every_key_that_is_to_come_is_refused() {
    let dir = folder();
    for key in KEYS.iter().filter(|key| !key.implemented) {
        let (section, last) = key.name.rsplit_once('.').unwrap();
        let section = section.replace("NAME", "some");
        let text = format!("[{section}]\n{last} = 1\n");
        let errors = load_text(dir.path(), &text).unwrap_err().render(false);
        assert!(errors.contains("is not implemented yet"), "{}: {errors}", key.name);
    }
}

#[test]
fn the_example_is_valid() {
    let dir = tempfile::tempdir().unwrap();
    let text = include_str!("../../config/octroi.example.toml");
    for name in ["inbox", "review", "disk1", "disk2"] {
        std::fs::create_dir_all(dir.path().join("branches").join(name)).unwrap();
    }
    let everybody = |_: Account<'_>| Ok(Some(1001));
    let file = dir.path().join("octroi.toml");
    std::fs::write(&file, text).unwrap();
    let loaded = load_with(&file, Machine { resolve: &everybody, find: &find })
        .unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(loaded.warnings, []);
    let names: Vec<_> = loaded.config.branches.iter().map(|b| b.spec.name.as_str()).collect();
    assert_eq!(names, ["inbox", "review", "disk1", "disk2"]);
    assert_eq!(loaded.config.policy.gates.len(), 2);
    assert_eq!(loaded.config.policy.rules.len(), 1);
}

proptest::proptest! {
    #[test]
    fn no_text_makes_it_panic(words in proptest::collection::vec(
        proptest::sample::select(vec![
            "[", "]", "[[", "view", ".", "name", " = ", "\"lab\"", "\n", "branches", "inbox", "{", "}",
            ",", "path", "\"ä\"", "'", "\"", "#", "gates", "rules", "deny", "[\"add\"]", "roles", "1",
            "\u{0}", "\u{1b}", "é", "true", "\r\n", "pools", "\"\"\"", "\\", "members", "[\"lab\"]", "crossings",
            "rate", "parallel", "at", "mode", "from", "to", "who", "when", "[\"!lab\"]", "[[expect]]", "as", "do",
            "\"Mon UTC\"", "labels", "max_file_size", "result",
        ]), 0..24))
    {
        let text: String = words.concat();
        let mut report = Report::new(Path::new("lab.toml"), &text);
        let config = read(&text, Path::new("/nonexistent"), MACHINE, &mut report);
        let (errors, warnings) = report.finish();
        proptest::prop_assert!(config.is_some() || !errors.is_empty());
        for said in errors.iter().chain(&warnings) {
            let drawn = said.render(false);
            proptest::prop_assert!(drawn.chars().all(|c| c == '\n' || !c.is_control()), "{drawn:?}");
        }
    }
}
