//! `.octroi` and `.audit` by every route.

use std::fs;
use std::os::unix::fs::MetadataExt;

use rustix::fs::{CWD, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use super::{EVERYBODY, Outside, Trial, Who, furnish, furnished};
use crate::harness::{Mount, Scene, sh};

/// Every way to look at, enter, make, move, link or change `N`, in the folder `P` that has it.
const ATTEMPTS: [&str; 48] = [
    "ls P/N",
    "ls P/N/",
    "ls P//N//",
    "ls P/./N/.",
    "ls P/d/../N",
    "cd P && ls N",
    "cd P/N && ls",
    "cd P/d/e && ls ../../N",
    "stat P/N",
    "stat -L P/N",
    "readlink -e P/N/id",
    "cat P/N/id",
    "cat P/N",
    "ls P/l/",
    "cat P/l/id",
    "cat P/d/l/id",
    "touch P/N",
    "touch P/N/x",
    "touch P/l/x",
    "echo x >P/N",
    "echo x >P/N/id",
    "truncate -s 0 P/N/id",
    "mkdir P/N",
    "mkdir P/N/",
    "mkdir -p P/N/x",
    "mkfifo P/N",
    "mknod P/N p",
    "ln -sT d P/N",
    "ln -T P/f P/N",
    "ln -T P/N P/x",
    "ln P/N/id P/x",
    "mv -T P/f P/N",
    "mv -nT P/f P/N && test ! -e P/f",
    "mv -T P/d P/N",
    "mv -T P/d P/N/x",
    "mv -T P/N P/x",
    "mv P/N/id P/x",
    "rm P/N",
    "rm -r P/N",
    "rm P/N/id",
    "rmdir P/N",
    "rmdir P/N/hold",
    "chmod 777 P/N",
    "chown --no-dereference nobody P/N",
    "setfattr -n user.x -v y P/N",
    "getfattr -d P/N",
    "$OCTROI mv P/f P/N",
    "$OCTROI mv P/N P/x",
];

/// Exchanges, which the shell has no word for.
#[track_caller]
fn exchange_is_refused(mount: &Mount, one: &str, other: &str) {
    for (from, to) in [(one, other), (other, one)] {
        let (from, to) = (mount.path(from), mount.path(to));
        let done = rustix::fs::renameat_with(CWD, &from, CWD, &to, RenameFlags::EXCHANGE);
        let errno = done.expect_err("an exchange");
        assert!([Errno::NOENT, Errno::ACCESS, Errno::ROFS].contains(&errno), "{from:?}: {errno}");
    }
}

/// By a descriptor of the folder and a name, as openat(2) and its kin.
#[track_caller]
fn at_calls_are_refused(mount: &Mount, place: &str, name: &str) {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = rustix::fs::open(mount.path(place), flags, Mode::empty()).expect("the folder");
    let path = OFlags::PATH | OFlags::CLOEXEC;
    for flags in [flags, path, OFlags::RDWR | OFlags::CREATE, path | OFlags::NOFOLLOW] {
        let opened = rustix::fs::openat(&folder, name, flags, Mode::RWXU);
        assert!(opened.is_err(), "{place}/{name} was opened with {flags:?}");
    }
    let opened = rustix::fs::openat(&folder, format!("{name}/id"), path, Mode::empty());
    assert!(opened.is_err(), "{place}/{name}/id was opened");
}

fn everything(place: &str, name: &str) -> Vec<String> {
    ATTEMPTS.iter().map(|attempt| attempt.replace('P', place).replace('N', name)).collect()
}

#[track_caller]
fn private_folder_is_hidden(trial: &Trial<'_>, mount: &Mount, places: &[&str]) {
    for place in places {
        trial.fails(&EVERYBODY, &everything(place, ".octroi"));
        exchange_is_refused(mount, &format!("{place}/f"), &format!("{place}/.octroi"));
        exchange_is_refused(mount, &format!("{place}/d"), &format!("{place}/.octroi"));
        at_calls_are_refused(mount, place, ".octroi");
        let listed =
            mount.sh(&format!("ls -Ai {place}; find {place}; tar -c {place} | tar -t")).ok();
        assert!(!listed.contains(".octroi"), "{listed}");
    }
}

/// Links to it beside it and below it, so that there is something to follow.
fn with_links(folder: &std::path::Path) {
    sh(folder, "ln -s .octroi l; ln -s ../.octroi d/l").ok();
}

#[test]
fn the_private_folder_is_out_of_reach_by_every_route() {
    let (scene, outside) = furnished();
    for branch in ["inbox", "review", "disk1"] {
        with_links(&scene.branch(branch));
    }
    scene.mount().unmount();
    let private =
        |branch: &str| sh(&scene.branch(branch), "find .octroi | sort; cat .octroi/id").ok();
    let before = ["inbox", "review", "disk1", "disk2"].map(private);
    assert!(before[0].contains(".octroi/id"), "{}", before[0]);
    let mount = scene.mount();
    let trial = Trial::new(&scene, &mount, &outside);
    private_folder_is_hidden(&trial, &mount, &["inbox", "review", "pool"]);
    trial.end();
    mount.unmount();
    assert_eq!(["inbox", "review", "disk1", "disk2"].map(private), before);
}

/// A branch at `/`, with a planted `.audit`, and a pool below it.
const ROOTED: &str = r#"
[branches.inbox]
path = "branches/inbox"
at = "/"
[branches.disk1]
path = "branches/disk1"
[branches.disk2]
path = "branches/disk2"
[pools.pool]
members = ["disk1", "disk2"]
"#;

#[test]
fn both_are_out_of_reach_in_a_branch_at_the_root() {
    let scene = Scene::with(&["inbox", "disk1", "disk2", "review"], ROOTED);
    let outside = Outside::new(&scene);
    furnish(&scene.branch("inbox"));
    furnish(&scene.branch("disk1"));
    for folder in ["inbox", "disk1"] {
        with_links(&scene.branch(folder));
    }
    // What the branch has under the name of `.audit` is not what the view shows.
    sh(&scene.branch("inbox"), "mkdir .audit; echo planted >.audit/planted; mkdir inbox").ok();
    let mount = scene.mount();
    let trial = Trial::new(&scene, &mount, &outside);
    private_folder_is_hidden(&trial, &mount, &[".", "pool"]);
    audit_is_closed(&trial, &mount, ".");
    let hidden = ["cat .audit/planted", "rm .audit/planted", "echo x >.audit/planted"];
    trial.fails(&EVERYBODY, &hidden.map(str::to_owned));
    assert!(!mount.sh("find . -path ./pool -prune -o -print").ok().contains(".audit"));
    trial.end();
    mount.unmount();
}

/// Routes that read are root's and the readers', which is tried as an ordinary user; those that change
/// something are nobody's.
#[track_caller]
fn audit_is_closed(trial: &Trial<'_>, mount: &Mount, f: &str) {
    let reads = [
        "ls P/N",
        "ls P/N/",
        "ls P//N//",
        "cd P/N && ls",
        "cat P/N/README",
        "cat P/N/log.jsonl",
        "tail -c 1 P/N/denied.jsonl",
        "ls P/N/tx/done",
        "stat P/N/README",
        "cat P/N/policy/config.toml",
        "readlink -e P/N/README && cat P/N/README",
        "find P/N -name README | grep R",
    ];
    let changes = [
        "touch P/N/x",
        "echo x >P/N/x",
        "echo x >>P/N/log.jsonl",
        ": >P/N/log.jsonl",
        "truncate -s 0 P/N/log.jsonl",
        "mkdir P/N/x",
        "mkdir P/N",
        "mkfifo P/N/x",
        "mkfifo P/N",
        "mknod P/N/x p",
        "ln -s x P/N/x",
        "ln -sT x P/N",
        "ln F P/N/x",
        "ln -T F P/N",
        "ln P/N/README F2",
        "ln -L P/N/README P/N/R",
        "mv -T F P/N",
        "mv F P/N/",
        "mv -T F P/N/README",
        "mv P/N/README F2",
        "mv -T P/N F2",
        "mv P/N/tx P/N/xt",
        "rm P/N/README",
        "rm -r P/N",
        "rmdir P/N",
        "rmdir P/N/tx/active",
        "chmod 777 P/N",
        "chmod 600 P/N/log.jsonl",
        "chown nobody P/N/log.jsonl",
        "chgrp nogroup P/N",
        "touch P/N/stats",
        "touch -d 2001-01-01 P/N",
        "setfattr -n user.x -v y P/N/README",
        "setfacl -m u:nobody:rwx P/N",
        "fallocate -l 1 P/N/log.jsonl",
        "dd if=F of=P/N/log.jsonl conv=notrunc",
        "exec 3<P/N/log.jsonl; echo x >/proc/self/fd/3",
        "$OCTROI mv F P/N/x",
        "$OCTROI mv P/N/README F2",
    ];
    for way in [".", "./inbox/.."] {
        let fill = |attempt: &&str| {
            let attempt =
                attempt.replace("F2", &format!("{f}/got")).replace('F', &format!("{f}/f"));
            attempt.replace("P/", &format!("{way}/")).replace('N', ".audit")
        };
        trial.fails(&[Who::User], &reads.iter().map(fill).collect::<Vec<_>>());
        trial.fails(&EVERYBODY, &changes.iter().map(fill).collect::<Vec<_>>());
    }
    exchange_is_refused(mount, &format!("{f}/f"), ".audit");
    for (one, other) in
        [(format!("{f}/f"), ".audit/README"), (".audit/tx".to_owned(), ".audit/policy")]
    {
        let done = rustix::fs::renameat_with(
            CWD,
            mount.path(&one),
            CWD,
            mount.path(other),
            RenameFlags::EXCHANGE,
        );
        assert!(done.is_err(), "{one} and {other}");
    }
    let writable = rustix::fs::open(mount.path(".audit/log.jsonl"), OFlags::RDWR, Mode::empty());
    assert!(writable.is_err());
    // Its readers are root and the mounting user: it can be read at all.
    mount.sh("cat .audit/README .audit/version .audit/log.jsonl && ls .audit/tx").ok();
}

#[test]
fn the_audit_folder_can_be_changed_by_nobody_and_read_by_its_readers_alone() {
    let (scene, outside) = furnished();
    sh(&scene.branch("inbox"), "ln -s ../.audit a; ln -s ../.audit/log.jsonl b").ok();
    let mount = scene.mount();
    let trial = Trial::new(&scene, &mount, &outside);
    audit_is_closed(&trial, &mount, "inbox");
    let by_links = ["ls inbox/a/", "cat inbox/b", "cat inbox/a/README"];
    trial.fails(&[Who::User], &by_links.map(str::to_owned));
    let through =
        ["touch inbox/a/x", "echo x >>inbox/b", "rm inbox/a/README", "mv inbox/f inbox/a/x"];
    trial.fails(&EVERYBODY, &through.map(str::to_owned));
    assert!(!mount.sh("ls -A; find . -maxdepth 1").ok().contains(".audit"));
    trial.end();
    mount.unmount();
}

#[test]
fn names_that_are_only_like_them_are_names_like_others() {
    let (scene, _) = furnished();
    let mount = scene.mount();
    for place in ["inbox", "pool"] {
        for name in [
            ".OCTROI",
            ".Octroi",
            ".octroi ",
            ".octroi.",
            "octroi",
            " .octroi",
            ".octroi\n",
            ".audit",
            ".AUDIT",
        ] {
            let path = mount.path(place).join(name);
            fs::create_dir(&path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
            fs::write(path.join("f"), name).expect("write");
            assert_eq!(fs::read_to_string(path.join("f")).expect("read"), name);
            let inode = fs::metadata(&path).expect("stat").ino();
            let below = mount.path(place).join("d").join(".octroi");
            fs::create_dir(&below).expect("the name means something at a branch's root alone");
            assert_ne!(fs::metadata(&below).expect("stat").ino(), inode);
            fs::remove_dir(&below).expect("rmdir");
            fs::remove_file(path.join("f")).expect("rm");
            fs::remove_dir(&path).expect("rmdir");
        }
    }
    // In the root, which no branch provides, nothing but `.audit` is there or can be made.
    for name in [".AUDIT", ".Audit", ".audit ", "audit", ".octroi"] {
        assert!(!mount.path(name).exists(), "{name}");
        assert!(fs::create_dir(mount.path(name)).is_err(), "{name}");
    }
    mount.unmount();
}
