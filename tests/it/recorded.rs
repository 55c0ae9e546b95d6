//! What each `audit.record` level writes to the ledger, operation by operation, and that every record
//! fits the JSON Schema that is published.

use std::fs::{self, File};
use std::io::{Read as _, Seek as _, Write as _};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, FallocateFlags, FileType, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags,
};
use serde_json::Value;

use crate::harness::{Mount, Scene, require_root, wait_for};

/// The schema as a validator.
struct Validator {
    schemas: boon::Schemas,
    index: boon::SchemaIndex,
}

impl Validator {
    fn new() -> Self {
        let committed = concat!(env!("CARGO_MANIFEST_DIR"), "/config/ledger.schema.json");
        let schema = fs::read_to_string(committed).expect("the schema");
        let schema = serde_json::from_str(&schema).expect("JSON");
        let mut schemas = boon::Schemas::new();
        let mut compiler = boon::Compiler::new();
        compiler.enable_format_assertions();
        compiler.add_resource("ledger.json", schema).expect("a schema");
        let index = compiler.compile("ledger.json", &mut schemas).expect("a schema");
        Self { schemas, index }
    }

    #[track_caller]
    fn check(&self, line: &Value, fits: bool) {
        let found = self.schemas.validate(line, self.index);
        assert_eq!(
            found.is_ok(),
            fits,
            "{line}: {:#?}",
            found.err().map(|error| error.to_string())
        );
    }
}

/// The operations of the ledger from a line on, with what they say of lengths.
fn operations(ledger: &[Value]) -> Vec<String> {
    let operations = ledger.iter().filter(|line| line["kind"] == "operation");
    let shown = operations.map(|line| {
        let op = line["op"].as_str().expect("an operation");
        let of = |name: &str| line[name].as_i64().map(|number| format!(" {name} {number}"));
        format!("{op}{}{}", of("written").unwrap_or_default(), of("grown").unwrap_or_default())
    });
    shown.collect()
}

/// What is done, and what of it is recorded at `mutations` and at `everything`.
struct Act {
    act: Box<dyn Fn(&Path)>,
    mutations: &'static [&'static str],
    everything: &'static [&'static str],
}

fn act(
    mutations: &'static [&'static str],
    everything: &'static [&'static str],
    act: impl Fn(&Path) + 'static,
) -> Act {
    Act { act: Box::new(act), mutations, everything }
}

fn open_write(path: &Path) -> File {
    File::options().read(true).write(true).open(path).expect("it opens")
}

fn acts() -> Vec<Act> {
    let times = |seconds| Timestamps {
        last_access: Timespec { tv_sec: seconds, tv_nsec: 0 },
        last_modification: Timespec { tv_sec: seconds, tv_nsec: 0 },
    };
    let uid = |raw| Some(Uid::from_raw(raw));
    vec![
        act(&[], &["list"], |at| assert!(fs::read_dir(at).expect("a folder").count() > 0)),
        act(&[], &["open-read"], |at| drop(fs::read(at.join("f")).expect("it reads"))),
        act(&[], &[], |at| assert!(fs::metadata(at.join("f")).is_ok(), "stat is no operation")),
        act(&[], &["exec"], |at| {
            let status = std::process::Command::new(at.join("run")).status();
            assert!(status.expect("it runs").success());
        }),
        act(&["create"], &["create"], |at| drop(File::create_new(at.join("new")).expect("new"))),
        act(&["create", "write-data written 3"], &["create", "write-data written 3"], |at| {
            fs::write(at.join("filled"), "abc").expect("it is written");
        }),
        act(&["write-data written 30"], &["open-write", "write-data written 30"], |at| {
            let mut file = open_write(&at.join("f"));
            for _ in 0..10 {
                file.write_all(b"xyz").expect("it is written");
            }
        }),
        act(&["truncate"], &["open-write", "truncate"], |at| {
            open_write(&at.join("f")).set_len(5).expect("it is cut");
        }),
        act(&["fallocate"], &["open-write", "fallocate"], |at| {
            let file = open_write(&at.join("f"));
            let flags = FallocateFlags::KEEP_SIZE;
            rustix::fs::fallocate(&file, flags, 0, 4096).expect("it is reserved");
        }),
        act(
            &["copy-file-range", "write-data written 3"],
            &["open-read", "open-write", "copy-file-range", "write-data written 3"],
            |at| {
                let source = File::open(at.join("filled")).expect("it opens");
                let target = open_write(&at.join("f"));
                let copied = rustix::fs::copy_file_range(&source, None, &target, None, 3);
                assert_eq!(copied.expect("it copies"), 3);
            },
        ),
        act(&["mkdir"], &["mkdir"], |at| fs::create_dir(at.join("d")).expect("mkdir")),
        act(&["mknod"], &["mknod"], |at| {
            let mode = Mode::from_raw_mode(0o600);
            rustix::fs::mknodat(CWD, at.join("fifo"), FileType::Fifo, mode, 0).expect("mknod");
        }),
        act(&["symlink"], &["symlink"], |at| symlink("f", at.join("link")).expect("symlink")),
        act(&["link"], &["link"], |at| fs::hard_link(at.join("f"), at.join("f2")).expect("link")),
        act(&["rename-source"], &["rename-source"], |at| {
            fs::rename(at.join("f2"), at.join("f3")).expect("rename");
        }),
        act(&["unlink"], &["unlink"], |at| fs::remove_file(at.join("f3")).expect("unlink")),
        act(&["rmdir"], &["rmdir"], |at| fs::remove_dir(at.join("d")).expect("rmdir")),
        act(&["chmod"], &["chmod"], |at| {
            let mode = fs::Permissions::from_mode(0o640);
            fs::set_permissions(at.join("f"), mode).expect("chmod");
        }),
        act(&["chown"], &["chown"], move |at| {
            let gid = Some(Gid::from_raw(2));
            rustix::fs::chownat(CWD, at.join("f"), uid(1), gid, AtFlags::empty()).expect("chown");
        }),
        act(&["utimes"], &["utimes"], move |at| {
            rustix::fs::utimensat(CWD, at.join("f"), &times(7), AtFlags::empty()).expect("utimes");
        }),
        act(&["setxattr"], &["setxattr"], |at| {
            let flags = XattrFlags::empty();
            rustix::fs::setxattr(at.join("f"), "user.a", b"b", flags).expect("setxattr");
        }),
        act(&["removexattr"], &["removexattr"], |at| {
            rustix::fs::removexattr(at.join("f"), "user.a").expect("removexattr");
        }),
        act(&["setxattr"], &["setxattr"], |at| {
            let refused =
                rustix::fs::setxattr(at.join("link"), "user.a", b"b", XattrFlags::REPLACE);
            assert!(refused.is_err(), "what fails is recorded with its error");
        }),
    ]
}

fn scene(level: &str, more: &str) -> Scene {
    let scene = Scene::with(
        &["inbox", "review"],
        &format!(
            "[branches.inbox]\npath = \"branches/inbox\"\n{more}\
             [branches.review]\npath = \"branches/review\"\nmode = \"gates-only\"\n\
             [gates.submit]\nfrom = \"inbox\"\nto = \"review\"\nwho = [\"*\"]\n\
             [rules.no]\ndeny = [\"mkdir\"]\nwho = [\"*\"]\npaths = [\"/inbox/denied/*\"]\n\
             reason = \"not here\"\n[audit]\nrecord = \"{level}\"\n"
        ),
    );
    let inbox = scene.branch("inbox");
    for name in ["f", "cross"] {
        fs::write(inbox.join(name), "some content\n").expect("write");
    }
    fs::create_dir(inbox.join("denied")).expect("mkdir");
    fs::copy("/bin/true", inbox.join("run")).expect("a program");
    scene
}

/// Without first writes whose totals follow: those of a moment share a record.
fn merged(operations: &[String]) -> Vec<&str> {
    let is_told = |next: Option<&String>| next.is_some_and(|next| next.contains(" written "));
    let kept = operations
        .iter()
        .enumerate()
        .filter(|(at, operation)| *operation != "write-data" || !is_told(operations.get(at + 1)));
    kept.map(|(_, operation)| operation.as_str()).collect()
}

/// Waits until what was done is recorded, also by the closing of a file, which nobody waits for.
#[track_caller]
fn expect_records(mount: &Mount, known: &mut usize, expected: &[&str]) {
    let mut found = Vec::new();
    wait_for(&format!("{expected:?}"), || {
        found = mount.ledger();
        let found = operations(&found[*known..]);
        let found = merged(&found);
        found.len() > expected.len()
            || found.len() == expected.len() && found.last() == expected.last()
    });
    assert_eq!(merged(&operations(&found[*known..])), expected);
    *known = found.len();
}

fn every_operation(level: &str) {
    require_root();
    let scene = scene(level, "");
    let validator = Validator::new();
    let mount = scene.mount();
    let at = mount.path("inbox");
    let mut known = mount.ledger().len();
    for Act { act, mutations, everything } in acts() {
        act(&at);
        let expected = match level {
            "mutations" => mutations,
            "everything" => everything,
            _ => &[],
        };
        expect_records(&mount, &mut known, expected);
    }
    // Denials and crossings are recorded always.
    fs::create_dir(at.join("denied/d")).expect_err("denied");
    expect_records(&mount, &mut known, &["mkdir"]);
    fs::rename(at.join("cross"), mount.path("review/cross")).expect("it crosses");
    let steps = |ledger: &[Value]| {
        let crossings = ledger.iter().filter(|line| line["kind"] == "crossing");
        crossings.map(|line| line["step"].as_str().expect("a step").to_owned()).collect::<Vec<_>>()
    };
    let ledger = mount.ledger();
    assert_eq!(steps(&ledger[known..]), ["prepare", "commit", "done"]);
    assert_eq!(operations(&ledger[known..]), Vec::<String>::new());
    ledger.iter().for_each(|line| validator.check(line, true));
    mount.unmount();
}

#[test]
fn a_first_write_is_recorded_while_the_file_is_open() {
    require_root();
    let scene = scene("mutations", "");
    let mount = scene.mount();
    let mut known = mount.ledger().len();
    let mut file = open_write(&mount.path("inbox/f"));
    file.write_all(b"xyz").expect("it is written");
    expect_records(&mount, &mut known, &["write-data"]);
    file.write_all(b"xyz").expect("it is written");
    drop(file);
    expect_records(&mount, &mut known, &["write-data written 6"]);
    mount.unmount();
}

#[test]
fn mutations_records_what_changes_something() {
    every_operation("mutations");
}

#[test]
fn everything_records_reads_too() {
    every_operation("everything");
}

#[test]
fn crossings_records_no_operation_but_denials() {
    every_operation("crossings");
}

#[test]
fn what_the_kernel_writes_by_itself_is_recorded_by_its_length() {
    require_root();
    let scene = scene("mutations", "io = \"passthrough\"\n");
    let mount = scene.mount();
    let path = mount.path("inbox/f");
    let mut known = mount.ledger().len();
    let mut file = open_write(&path);
    expect_records(&mount, &mut known, &["open-write"]);
    file.seek(std::io::SeekFrom::End(0)).expect("it seeks");
    file.write_all(&[b'x'; 5000]).expect("it is written");
    drop(file);
    expect_records(&mount, &mut known, &["write-data grown 5000"]);
    let mut text = Vec::new();
    open_write(&path).read_to_end(&mut text).expect("it reads");
    assert_eq!(text.len(), 5013);
    expect_records(&mount, &mut known, &["open-write"]);
    let ledger = mount.ledger();
    let validator = Validator::new();
    ledger.iter().for_each(|line| validator.check(line, true));
    mount.unmount();
}

#[test]
fn other_records_fit_the_schema_and_what_is_none_does_not() {
    require_root();
    let scene = scene("mutations", "");
    let mount = scene.mount();
    mount.sh("touch inbox/$'\\xff'; mv inbox/cross review/cross; $OCTROI undo; sleep 0.3").ok();
    mount.kill9();
    let mount = scene.mount();
    let text = fs::read_to_string(scene.config()).expect("the configuration");
    fs::write(scene.config(), text.replace("not here", "not there")).expect("write");
    mount.sh("$OCTROI reload").ok();
    let validator = Validator::new();
    let ledger = mount.ledger();
    let mut kinds: Vec<&str> = ledger.iter().filter_map(|line| line["kind"].as_str()).collect();
    kinds.sort_unstable();
    kinds.dedup();
    assert_eq!(
        kinds,
        ["branch", "crossing", "gap", "key", "mount", "operation", "policy", "version"]
    );
    for line in &ledger {
        validator.check(line, true);
        for (damage, value) in
            [("unknown", Value::from(1)), ("kind", "other".into()), ("seq", "7".into())]
        {
            let mut wrong = line.clone();
            wrong[damage] = value;
            validator.check(&wrong, false);
        }
        let mut without = line.clone();
        without.as_object_mut().expect("an object").remove("crc");
        validator.check(&without, false);
    }
    mount.unmount();
}
