//! Ways round a rule, each tried on a checked branch and each denied, with nothing changed by it.

use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::fd::AsRawFd as _;

use rustix::fs::{FallocateFlags, Mode, OFlags};
use rustix::io::Errno;

use crate::harness::{Mount, Scene, require_root, sh};
use crate::policy::fingerprint;

const BODY: &str = r#"
[branches.data]
path = "branches/data"

[rules.secret]
deny = ["read", "write", "remove", "attrs"]
who = ["*"]
paths = ["/data/secret/**", "/data/**/*.key"]
reason = "secrets stay unread"

[rules.no-adding]
deny = ["add"]
who = ["*"]
paths = ["/data/full/**"]
reason = "it is full"

[rules.frozen]
deny = ["write"]
who = ["*"]
paths = ["/data/frozen/**"]
reason = "it is frozen"

[rules.small]
deny = ["write", "add"]
who = ["*"]
paths = ["/data/small/**"]
max_file_size = "64KiB"
reason = "small files only"

[rules.tried]
deny = ["write", "add"]
who = ["*"]
paths = ["/data/**/*.tried"]
observe = true
reason = "not yet"

[rules.pii]
deny = ["read"]
who = ["*", "!user:0"]
paths = ["/data/people/**"]
labels = ["pii"]
reason = "personal data"

[rules.labellers]
allow = ["setxattr", "removexattr"]
who = ["user:0"]
paths = ["/data/people/**"]
"#;

fn furnished() -> (Scene, Mount) {
    require_root();
    let scene = Scene::with(&["data"], BODY);
    let script = "umask 0; mkdir secret full frozen small people open; chmod 777 *; \
        echo secret >secret/s; echo k >open/a.key; echo f >frozen/f; echo s >small/s; echo o >open/o; \
        echo p >people/p; chmod 666 */*; mkdir open/dir; echo in >open/dir/f; chmod 777 open/dir";
    sh(&scene.branch("data"), script).ok();
    let mount = scene.mount();
    (scene, mount)
}

/// Each is denied and changes nothing.
#[track_caller]
fn denied(scene: &Scene, mount: &Mount, commands: &[&str]) {
    let before = fingerprint(scene, "data");
    for command in commands {
        let said = mount.sh(command).refused();
        assert!(said.contains("Permission denied"), "{command}: {said}");
        assert_eq!(fingerprint(scene, "data"), before, "{command} had an effect");
    }
}

#[test]
fn another_name_sheds_no_rule() {
    let (scene, mount) = furnished();
    denied(
        &scene,
        &mount,
        &[
            // A directory that holds what is denied gets an allowed name, and the reverse.
            "mv data/secret data/public",
            "mv data/open data/full/open",
            "mv data/open/o data/full/o",
            "ln data/open/o data/full/o",
            "ln data/secret/s data/open/s",
            "mv data/secret/s data/open/s",
            "mv data/open/a.key data/open/a.txt",
            "ln data/open/a.key data/open/a.txt",
            "mv -T --exchange data/secret data/open 2>&1 || mv data/secret/s data/open/o",
            "cat data/secret/s",
            "cat data/./secret/../secret/s",
            "cd data/secret 2>/dev/null; cat s || cat data/secret/s",
        ],
    );
    // Through a symbolic link, absolute or relative: it is the file's own path that counts.
    mount.sh("ln -s ../secret/s data/open/link; ln -s $PWD/data/secret data/open/way").ok();
    denied(
        &scene,
        &mount,
        &["cat data/open/link", "cat data/open/way/s", "echo x >data/open/link"],
    );
    // What is not denied by its new name gains nothing by having been there.
    mount.sh("mv data/open/dir data/dir && cat data/dir/f").ok();
    mount.unmount();
}

#[test]
fn names_that_look_alike_are_names_of_their_own() {
    let (scene, mount) = furnished();
    // The rule is about "secret": neither case nor form of a letter makes another name the same.
    mount.sh("mkdir data/Secret && echo x >data/Secret/s && cat data/Secret/s").ok();
    mount.sh("printf x >data/open/A.KEY && cat data/open/A.KEY").ok();
    let composed = "data/open/\u{e9}.key";
    let decomposed = "data/open/e\u{301}.key";
    for name in [composed, decomposed] {
        fs::write(scene.base().join("branches").join(name), "x").expect("planted");
        assert!(File::open(mount.path(name)).is_err(), "{name}");
    }
    mount.unmount();
}

#[test]
fn every_way_to_change_content_is_a_write() {
    let (scene, mount) = furnished();
    denied(
        &scene,
        &mount,
        &[
            "echo x >data/frozen/f",
            "echo x >>data/frozen/f",
            ": >data/frozen/f",
            "truncate -s 0 data/frozen/f",
            "truncate -s 100 data/frozen/f",
            "fallocate -l 100 data/frozen/f",
            "dd if=/dev/zero of=data/frozen/f conv=notrunc bs=1 count=1 status=none",
            "cp --reflink=auto data/open/o data/frozen/f",
        ],
    );
    let path = mount.path("data/frozen/f");
    let before = fingerprint(&scene, "data");
    for flags in [OFlags::RDWR, OFlags::WRONLY | OFlags::APPEND, OFlags::RDONLY | OFlags::TRUNC] {
        let opened = rustix::fs::open(&path, flags, Mode::empty());
        assert_eq!(opened.err(), Some(Errno::ACCESS), "{flags:?}");
    }
    // A descriptor that may read, opened again with more rights.
    let reader = File::open(&path).expect("reading is allowed");
    let again = format!("/proc/self/fd/{}", reader.as_raw_fd());
    let opened = rustix::fs::open(again.as_str(), OFlags::RDWR, Mode::empty());
    assert_eq!(opened.err(), Some(Errno::ACCESS));
    let other = format!("/proc/{}/fd/{}", std::process::id(), reader.as_raw_fd());
    assert!(mount.sh(&format!("echo x >{other}")).refused().contains("Permission denied"));
    assert_eq!(fingerprint(&scene, "data"), before);
    drop(reader);
    mount.unmount();
}

#[test]
fn a_limit_of_size_holds_for_every_way_to_grow() {
    let (scene, mount) = furnished();
    let path = mount.path("data/small/s");
    let mut file =
        OpenOptions::new().read(true).write(true).open(&path).expect("it may be written");
    file.write_all(&[b'x'; 64 << 10]).expect("up to the limit");
    let before = fingerprint(&scene, "data");
    let refused = |what: &str, result: std::io::Result<()>| {
        let error = result.expect_err(what);
        assert_eq!(error.raw_os_error(), Some(Errno::ACCESS.raw_os_error()), "{what}");
    };
    refused("one byte more", file.write_all(b"y"));
    refused("far behind", file.seek(SeekFrom::Start(1 << 20)).and_then(|_| file.write_all(b"y")));
    refused("ftruncate", file.set_len((64 << 10) + 1));
    let grown = rustix::fs::fallocate(&file, FallocateFlags::KEEP_SIZE, 0, 1 << 20);
    assert_eq!(grown, Err(Errno::ACCESS));
    let mut appending = OpenOptions::new().append(true).open(&path).expect("it may be written");
    refused("append", appending.write_all(b"y"));
    let source = File::open(mount.path("data/open/o")).expect("readable");
    let copied = rustix::fs::copy_file_range(&source, None, &file, Some(&mut (64 << 10)), 2);
    assert_eq!(copied, Err(Errno::ACCESS));
    // A store through a shared mapping would reach the file unseen: there is none.
    let map = "python3 -c 'import mmap; f = open(\"data/small/s\", \"r+b\"); mmap.mmap(f.fileno(), 4096)'";
    let said = mount.sh(map).refused();
    assert!(said.contains("No such device"), "{said}");
    assert_eq!(fingerprint(&scene, "data"), before);
    // What is inside the limit goes on, and shrinking does.
    file.seek(SeekFrom::Start(0)).and_then(|_| file.write_all(b"z")).expect("inside the limit");
    file.set_len(10).expect("smaller");
    let mut text = String::new();
    file.seek(SeekFrom::Start(0)).and_then(|_| file.read_to_string(&mut text)).expect("readable");
    assert_eq!(text, "zxxxxxxxxx");
    drop((file, appending, source));
    // Made large elsewhere, and then brought.
    mount.sh("head -c 100000 /dev/zero >data/open/large").ok();
    denied(&scene, &mount, &["mv data/open/large data/small/l", "ln data/open/large data/small/l"]);
    mount.sh("head -c 1000 /dev/zero >data/open/fits && mv data/open/fits data/small/fits").ok();
    mount.unmount();
}

#[test]
fn what_is_only_observed_happens_and_is_recorded() {
    let (_scene, mount) = furnished();
    mount.sh("echo x >data/open/a.tried && mv data/open/o data/open/b.tried && cat data/open/*.tried").ok();
    let observed: Vec<_> =
        mount.ledger().into_iter().filter(|line| line["decision"] == "observed").collect();
    let of = |op: &str| observed.iter().find(|line| line["op"] == op).expect("recorded");
    assert_eq!(of("create")["rule"], "tried", "{observed:?}");
    assert_eq!(of("rename-target")["reason"], "not yet");
    assert_eq!(mount.sh("cat .audit/denied.jsonl").ok(), "");
    mount.unmount();
}

#[test]
fn labels_bind_and_only_some_may_change_them() {
    let (scene, mount) = furnished();
    let as_user = |script: &str| mount.sh_as("nobody", script);
    as_user("cat data/people/p").ok();
    mount.sh("setfattr -n user.octroi.label -v 'draft, pii' data/people/p").ok();
    let before = fingerprint(&scene, "data");
    for script in [
        "cat data/people/p",
        "setfattr -x user.octroi.label data/people/p",
        "setfattr -n user.octroi.label -v none data/people/p",
        "setfattr -n user.octroi.label -v pii data/open/o",
        "cp data/people/p data/open/p",
    ] {
        let said = as_user(script).refused();
        assert!(said.contains("Permission denied"), "{script}: {said}");
    }
    as_user("setfattr -n user.other -v x data/people/p").ok();
    as_user("setfattr -x user.other data/people/p; rm -f data/open/p").ok();
    assert_eq!(fingerprint(&scene, "data"), before);
    // Root has no rule that allows it elsewhere.
    let said = mount.sh("setfattr -n user.octroi.label -v pii data/open/o").refused();
    assert!(said.contains("Permission denied"), "{said}");
    mount.sh("cat data/people/p && setfattr -x user.octroi.label data/people/p").ok();
    as_user("cat data/people/p").ok();
    let why = mount.sh_as("nobody", &format!("{} why data/people/p", crate::harness::OCTROI)).ok();
    assert!(why.contains("personal data"), "{why}");
    mount.unmount();
}
