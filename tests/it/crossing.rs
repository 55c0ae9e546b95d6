//! Crossings by plain `mv`: refused without a gate, faithful with one, on one file system and over
//! two, recorded at both ends.

use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use rustix::fs::{CWD, RenameFlags};
use rustix::io::Errno;
use serde_json::Value;

use crate::disk::Disk;
use crate::harness::{LAB, Mount, Scene, require_root};

/// Everything about a file that must survive, but for its path.
const FINGERPRINT: &str = r#"fingerprint() {
    stat -c '%F %a %u %g %s %y' "$1"; sha256sum <"$1"
    getfattr -hd -m - --absolute-names "$1" | grep -v '^# file'; getfacl -nc --absolute-names "$1"
}
"#;

fn fingerprint(mount: &Mount, path: &str) -> String {
    mount.sh(&format!("{FINGERPRINT} fingerprint {path}")).ok()
}

/// The records of crossings, in order.
fn crossings(mount: &Mount) -> Vec<Value> {
    mount.ledger().into_iter().filter(|line| line["kind"] == "crossing").collect()
}

/// On what the target branch of [`LAB`] lies.
#[derive(Clone, Copy, Debug)]
enum Target {
    SameFileSystem,
    Ext4,
    Tmpfs,
}

impl Target {
    fn scene(self, body: &str) -> (Scene, Option<Disk>) {
        require_root();
        let scene = Scene::with(&["inbox", "other", "review"], body);
        let disk = match self {
            Self::SameFileSystem => None,
            Self::Ext4 => Some(Disk::ext4(&scene, "review", "128M")),
            Self::Tmpfs => Some(Disk::tmpfs(&scene, "review", "128M")),
        };
        (scene, disk)
    }
}

/// Runs the same with the target on the source's file system and on two others.
fn on_each(test: impl Fn(&Scene, &Mount)) {
    for target in [Target::SameFileSystem, Target::Ext4, Target::Tmpfs] {
        let (scene, disk) = target.scene(LAB);
        eprintln!("target: {target:?}");
        let mount = scene.mount();
        test(&scene, &mount);
        mount.unmount();
        drop(disk);
    }
}

#[test]
fn without_a_gate_nothing_crosses() {
    let scene = Scene::lab();
    let mount = scene.mount();
    mount.sh("echo stays >inbox/f; echo there >other/g").ok();
    for attempt in
        ["mv inbox/f other/f", "mv inbox/f other/g", "mv -T inbox/f other/g", "mv other/g review/g"]
    {
        let said = mount.sh(attempt).refused();
        assert!(said.contains("Permission denied"), "{attempt}: {said}");
    }
    assert_eq!(
        mount.sh("cat inbox/f other/g; ls other review").ok(),
        "stays\nthere\nother:\ng\n\nreview:\n"
    );
    mount.unmount();
}

#[test]
fn a_file_crosses_with_all_that_belongs_to_it() {
    on_each(|_, mount| {
        mount
            .sh("cd inbox; truncate -s 3M f; echo middle | dd of=f bs=1M seek=1 conv=notrunc status=none
                 chown daemon:bin f; setfattr -n user.a -v one f; setfattr -n trusted.t -v two f
                 chmod 2750 f; setfacl -m u:games:r,g:bin:rwx f; touch -d '1969-07-20 20:17:40.123456789Z' f")
            .ok();
        let before = fingerprint(mount, "inbox/f");
        mount.sh("mv inbox/f review/g").ok();
        assert_eq!(fingerprint(mount, "review/g"), before);
        assert_eq!(mount.sh("ls -A inbox review").ok(), "inbox:\n\nreview:\ng\n");
        let blocks: u64 = mount.sh("stat -c %b review/g").ok().trim().parse().expect("a number");
        assert!(blocks < 128, "the holes were filled: {blocks} blocks");
    });
}

#[test]
fn sizes_round_the_edges_of_buffers_cross_whole() {
    let (scene, disk) = Target::Tmpfs.scene(LAB);
    let mount = scene.mount();
    for size in [0, 1, 4095, 4096, 4097, 131_071, 131_073, 1_048_577, 20_000_003] {
        let script = format!(
            "head -c {size} /dev/urandom >inbox/f; sum=$(sha256sum <inbox/f); mv inbox/f review/f; \
             [ \"$sum\" = \"$(sha256sum <review/f)\" ] && [ $(stat -c %s review/f) = {size} ] && rm review/f"
        );
        mount.sh(&script).ok();
    }
    mount.unmount();
    drop(disk);
}

#[test]
fn a_written_file_can_be_moved_at_once() {
    on_each(|_, mount| {
        mount
            .sh("for i in $(seq 40); do echo $i >inbox/$i && mv inbox/$i review/$i || exit 1; done")
            .ok();
        assert_eq!(mount.sh("cat review/* | sort -n | tail -1; ls inbox | wc -l").ok(), "40\n0\n");
    });
}

#[test]
fn a_replaced_target_is_gone_at_once_and_kept_for_undo() {
    on_each(|_, mount| {
        mount.sh("echo old >inbox/f; mv inbox/f review/f; echo new >inbox/f").ok();
        let mut old = File::open(mount.path("review/f")).expect("open");
        let noreplace = rustix::fs::renameat_with(
            CWD,
            mount.path("inbox/f"),
            CWD,
            mount.path("review/f"),
            RenameFlags::NOREPLACE,
        );
        assert_eq!(noreplace, Err(Errno::EXIST));
        mount.sh("mv inbox/f review/f").ok();
        assert_eq!(mount.sh("cat review/f; ls inbox").ok(), "new\n");
        let mut text = String::new();
        old.read_to_string(&mut text).expect("the old file can still be read");
        assert_eq!(text, "old\n");
        drop(old);
        mount.sh("$OCTROI undo review/f").ok();
        assert_eq!(mount.sh("cat review/f inbox/f").ok(), "old\nnew\n");
    });
}

#[test]
fn what_a_gate_does_not_allow_stays() {
    let gate = |more: &str| format!("{LAB}{more}\n");
    let cases = [
        ("types = [\"text/plain\"]", "head -c 4096 /bin/true >inbox/bad", "echo text >inbox/good"),
        (
            "max_size = \"1KiB\"",
            "head -c 1025 /dev/zero >inbox/bad",
            "head -c 1024 /dev/zero >inbox/good",
        ),
        ("paths = [\"good*\"]", "echo x >inbox/bad", "echo x >inbox/good"),
    ];
    for (term, bad, good) in cases {
        let scene = Scene::with(&["inbox", "other", "review"], &gate(term));
        let mount = scene.mount();
        mount.sh(bad).ok();
        mount.sh(good).ok();
        let before = fingerprint(&mount, "inbox/bad");
        let said = mount.sh("mv inbox/bad review/bad").refused();
        assert!(said.contains("Permission denied"), "{term}: {said}");
        assert_eq!(fingerprint(&mount, "inbox/bad"), before, "{term}");
        assert_eq!(mount.sh("ls -A review").ok(), "", "{term}");
        mount.sh("mv inbox/good review/good").ok();
        assert_eq!(mount.sh("ls inbox review").ok(), "inbox:\nbad\n\nreview:\ngood\n", "{term}");
        let stage = scene.branch("review").join(".octroi/stage");
        assert_eq!(fs::read_dir(stage).expect("stage").count(), 0, "{term}: something was left");
        mount.unmount();
    }
}

#[test]
fn a_gate_is_for_those_it_names() {
    let body = LAB.replace("who = [\"*\"]", "who = [\"user:daemon\"]");
    let scene = Scene::with(&["inbox", "other", "review"], &body);
    let mount = scene.mount();
    mount.sh("echo x >inbox/f; chmod 777 inbox review; chown daemon inbox/f").ok();
    for attempt in [mount.sh("mv inbox/f review/f"), mount.sh_as("nobody", "mv inbox/f review/f")] {
        assert!(attempt.refused().contains("Permission denied"));
    }
    mount.sh_as("daemon", "mv inbox/f review/f").ok();
    assert_eq!(mount.sh("stat -c %U review/f").ok(), "daemon\n");
    mount.unmount();
}

#[test]
fn permissions_hold_for_crossings_too() {
    let scene = Scene::lab();
    let mount = scene.mount();
    mount.sh("echo x >inbox/f; chmod 755 inbox; chmod 777 review").ok();
    assert!(mount.sh_as("nobody", "mv inbox/f review/f").refused().contains("Permission denied"));
    mount.sh("chmod 777 inbox; chmod 755 review").ok();
    assert!(mount.sh_as("nobody", "mv inbox/f review/f").refused().contains("Permission denied"));
    mount.sh("cat inbox/f; chmod 777 review; chmod +t inbox").ok();
    let said = mount.sh_as("nobody", "mv inbox/f review/f").refused();
    assert!(said.contains("not permitted"), "sticky: {said}");
    mount.unmount();
}

#[test]
fn a_reader_keeps_reading_over_a_crossing() {
    on_each(|_, mount| {
        let content: Vec<u8> = (0..3_000_000u32).map(|at| (at % 247) as u8).collect();
        fs::write(mount.path("inbox/f"), &content).expect("write");
        let reader = File::open(mount.path("inbox/f")).expect("open");
        let mut part = vec![0; 1000];
        reader.read_exact_at(&mut part, 0).expect("read before");
        mount.sh("sleep 0.1; mv inbox/f review/f; echo other >inbox/f").ok();
        for offset in [0, 1_500_000, 2_999_000] {
            reader.read_exact_at(&mut part, offset).expect("read after");
            let at = usize::try_from(offset).expect("small");
            assert_eq!(part, &content[at..at + 1000], "offset {offset}");
        }
        assert_eq!(reader.metadata().expect("fstat").len(), 3_000_000);
        assert!(fs::read(mount.path("review/f")).expect("read") == content);
    });
}

#[test]
fn an_open_writer_makes_a_crossing_busy() {
    on_each(|_, mount| {
        fs::write(mount.path("inbox/f"), "being written").expect("write");
        let writer = OpenOptions::new().append(true).open(mount.path("inbox/f")).expect("open");
        let start = Instant::now();
        let said = mount.sh("mv inbox/f review/f").refused();
        assert!(said.contains("busy"), "{said}");
        let waited = start.elapsed();
        assert!(waited > Duration::from_millis(500), "it did not wait: {waited:?}");
        assert!(waited < Duration::from_secs(8), "it waited {waited:?}");
        assert_eq!(mount.sh("ls inbox review").ok(), "inbox:\nf\n\nreview:\n");
        drop(writer);
        mount.sh("mv inbox/f review/f; cat review/f").ok();
    });
}

#[test]
fn a_writer_that_closes_in_time_is_waited_for() {
    let scene = Scene::lab();
    let mount = scene.mount();
    mount.sh("(echo one; sleep 0.4) >inbox/f & sleep 0.1; mv inbox/f review/f; code=$?; wait; exit $code").ok();
    assert_eq!(mount.sh("cat review/f").ok(), "one\n");
    mount.unmount();
}

#[test]
fn a_file_with_another_link_stays() {
    on_each(|_, mount| {
        mount.sh("echo x >inbox/f; ln inbox/f inbox/g").ok();
        mount.sh("mv inbox/f review/f").refused();
        assert_eq!(mount.sh("ls inbox review; cat inbox/f").ok(), "inbox:\nf\ng\n\nreview:\nx\n");
        mount.sh("rm inbox/g; mv inbox/f review/f").ok();
    });
}

#[test]
fn other_ways_across_are_closed_or_fall_back() {
    let scene = Scene::lab();
    let mount = scene.mount();
    mount.sh("head -c 300000 /dev/urandom >inbox/f; echo g >other/g").ok();
    let path = |name| mount.path(name);
    assert_eq!(
        rustix::fs::link(path("inbox/f"), path("other/h")),
        Err(Errno::XDEV),
        "a link across branches"
    );
    let from = File::open(path("inbox/f")).expect("open");
    let to = File::create(path("other/copy")).expect("create");
    let copied = rustix::fs::copy_file_range(&from, None, &to, None, 1000);
    // Denied by the daemon with EXDEV: newer kernels then read and write by themselves.
    assert!(matches!(copied, Ok(1000) | Err(Errno::XDEV)), "{copied:?}");
    drop((from, to));
    for target in ["other/g", "review/none"] {
        let exchanged = rustix::fs::renameat_with(
            CWD,
            path("inbox/f"),
            CWD,
            path(target),
            RenameFlags::EXCHANGE,
        );
        assert!(exchanged.is_err(), "{target}: exchanged across branches");
        assert_ne!(exchanged, Err(Errno::XDEV), "{target}: mv would copy");
    }
    mount.sh("cp inbox/f other/copy; cmp inbox/f other/copy").ok();
    mount.unmount();
}

#[test]
fn a_directory_crosses_whole_or_not_at_all() {
    let scene = Scene::lab();
    let mount = scene.mount();
    mount.sh("mkdir -p inbox/d/e; echo x >inbox/d/e/f; mkdir review/d").ok();
    mount.sh("mv -T inbox/d review/d").ok();
    assert_eq!(
        mount.sh("find inbox review | sort; cat review/d/e/f").ok(),
        "inbox\nreview\nreview/d\nreview/d/e\nreview/d/e/f\nx\n"
    );
    mount.sh("mkdir -p inbox/d/g").ok();
    mount.sh("mv -T inbox/d review/d").refused();
    assert_eq!(mount.sh("ls inbox/d; ls review/d").ok(), "g\ne\n", "onto one that is not empty");
    mount.sh("echo y >inbox/y; mkdir review/y").ok();
    mount.sh("mv -T inbox/y review/y").refused();
    assert_eq!(mount.sh("cat inbox/y; ls -d review/y").ok(), "y\nreview/y\n");
    mount.unmount();
}

#[test]
fn both_ends_are_found_in_the_ledger_with_jq() {
    on_each(|_, mount| {
        mount.sh("echo data >inbox/f; mv inbox/f review/g").ok();
        let query = "jq -r 'select(.kind == \"crossing\" and .source == \"/inbox/f\" and \
                     .target == \"/review/g\") | .step' .audit/log.jsonl";
        assert_eq!(mount.sh(query).ok(), "prepare\ncommit\ndone\n");
        let records = crossings(mount);
        let commit = &records[records.len() - 2];
        let sum = mount.sh("sha256sum review/g | cut -d' ' -f1").ok();
        assert_eq!(commit["sha256"], sum.trim());
        assert_eq!(commit["size"], 5);
        assert_eq!(commit["gate"], "submit");
        assert_eq!(commit["uid"], 0);
        assert_eq!(commit["branches"], serde_json::json!(["inbox", "review"]));
        assert!(commit["crc"].as_str().is_some_and(|crc| crc.len() == 8));
        let done = mount.sh("ls .audit/tx/done").ok();
        assert!(done.contains(commit["txid"].as_str().expect("a txid")), "{done}");
    });
}

#[test]
fn undo_takes_back_everything() {
    on_each(|scene, mount| {
        mount.sh("echo data >inbox/f; chmod 640 inbox/f; setfattr -n user.a -v b inbox/f").ok();
        let before = fingerprint(mount, "inbox/f");
        mount.sh("mv inbox/f review/g").ok();
        mount.sh("$OCTROI undo").ok();
        assert_eq!(fingerprint(mount, "inbox/f"), before);
        assert_eq!(mount.sh("ls -A review").ok(), "");
        let last = crossings(mount).pop().expect("a record");
        assert_eq!(last["step"], "done");
        mount.sh("mv inbox/f review/g").ok();
        let txid = crossings(mount).pop().expect("a record")["txid"].clone();
        let txid = txid.as_str().expect("a txid").to_owned();
        mount.sh(&format!("$OCTROI undo --view {} {txid}", scene.name())).ok();
        assert_eq!(fingerprint(mount, "inbox/f"), before);
    });
}

/// The kernel takes a directory that was replaced for dead while anybody has it.
#[test]
fn a_directory_that_undo_brings_back_can_be_used_though_somebody_has_it_open() {
    on_each(|_, mount| {
        mount.sh("mkdir inbox/d review/d; echo x >inbox/d/f").ok();
        let held = File::open(mount.path("review/d")).expect("open");
        mount.sh("mv -T inbox/d review/d && $OCTROI undo review/d").ok();
        assert_eq!(mount.sh("ls review/d; cat inbox/d/f").ok(), "x\n");
        mount.sh("mkdir review/d/new && ls review/d && rmdir review/d/new review/d").ok();
        drop(held);
    });
}

#[test]
fn undo_is_refused_with_a_reason_and_changes_nothing() {
    let scene = Scene::lab();
    let mount = scene.mount();
    let state = "cat inbox/* review/* 2>/dev/null; ls inbox review";
    let nothing_crossed = mount.sh("$OCTROI undo").refused();
    assert!(nothing_crossed.starts_with("octroi: ") || !nothing_crossed.is_empty());
    mount.sh("echo data >inbox/f; mv inbox/f review/f; echo in the way >inbox/f").ok();
    let before = mount.sh(state).ok();
    assert!(!mount.sh("$OCTROI undo").refused().is_empty(), "something stands at the source");
    assert_eq!(mount.sh(state).ok(), before);
    mount.sh("rm inbox/f").ok();
    let before = mount.sh(state).ok();
    let other = mount.sh_as("nobody", "$OCTROI undo review/f").refused();
    assert!(!other.is_empty(), "another's crossing");
    assert_eq!(mount.sh(state).ok(), before);
    mount.sh("$OCTROI undo").ok();
    mount.sh("$OCTROI undo 01ARZ3NDEKTSV4RRFFQ69G5FAV").refused();
    mount.sh("$OCTROI undo inbox/f").refused();
    assert_eq!(mount.sh("cat inbox/f; ls review").ok(), "data\n");
    mount.unmount();
}

#[test]
fn undo_is_refused_when_the_target_was_changed() {
    let body = LAB.replace("mode = \"gates-only\"", "mode = \"rw\"");
    let scene = Scene::with(&["inbox", "other", "review"], &body);
    let mount = scene.mount();
    mount.sh("echo data >inbox/f; mv inbox/f review/f; echo more >>review/f").ok();
    assert!(!mount.sh("$OCTROI undo").refused().is_empty());
    assert_eq!(mount.sh("cat review/f; ls inbox").ok(), "data\nmore\n");
    mount.unmount();
}

#[test]
fn many_cross_at_once() {
    let (scene, disk) = Target::Tmpfs.scene(LAB);
    let mount = scene.mount();
    mount
        .sh("for t in $(seq 8); do (mkdir inbox/$t; for i in $(seq 15); do echo $t $i >inbox/$t/$i
             mv inbox/$t/$i review/$t-$i || exit 1; done) & pids+=($!); done
             for pid in ${pids[@]}; do wait $pid || exit 1; done")
        .ok();
    assert_eq!(
        mount.sh("cat review/* | sort -u | wc -l; find inbox -type f | wc -l").ok(),
        "120\n0\n"
    );
    let commits = crossings(&mount).iter().filter(|line| line["step"] == "commit").count();
    assert_eq!(commits, 120);
    mount.unmount();
    drop(disk);
}

#[test]
fn passed_through_files_cross_too() {
    let body = LAB.replace("[branches.other]", "io = \"passthrough\"\n[branches.other]");
    let (scene, disk) = Target::Tmpfs.scene(&body);
    let mount = scene.mount();
    mount.sh("head -c 1M /dev/urandom >inbox/f").ok();
    let before = fingerprint(&mount, "inbox/f");
    let reader = File::open(mount.path("inbox/f")).expect("open");
    let content = fs::read(mount.path("inbox/f")).expect("read");
    let writer = OpenOptions::new().write(true).open(mount.path("inbox/f")).expect("open");
    assert!(mount.sh("mv inbox/f review/f").refused().contains("busy"));
    drop(writer);
    mount.sh("sleep 0.1; mv inbox/f review/f").ok();
    assert_eq!(fingerprint(&mount, "review/f"), before);
    let mut part = vec![0; 4096];
    reader.read_exact_at(&mut part, 500_000).expect("the reader reads on");
    assert_eq!(part, &content[500_000..504_096]);
    assert_eq!(reader.metadata().expect("its attributes").len(), 1 << 20);
    drop(reader);
    mount.unmount();
    drop(disk);
}

#[test]
fn what_nobody_may_change_stays_and_so_does_what_holds_it() {
    require_root();
    let scene = Scene::with(&["inbox", "other", "review"], LAB);
    // Its flags go with it, whatever happens.
    let disk = Disk::tmpfs(&scene, "inbox", "8M");
    let mount = scene.mount();
    let inbox = scene.branch("inbox").display().to_string();
    for (flag, named) in [("i", "d/deep/f"), ("a", "d/deep/f"), ("i", "d/deep"), ("i", "f")] {
        mount.sh("mkdir -p inbox/d/deep; echo x >inbox/f; echo x >inbox/d/deep/f").ok();
        mount.sh(&format!("chattr +{flag} {inbox}/{named}")).ok();
        let top = named.split('/').next().expect("a name");
        let said = mount.sh(&format!("mv inbox/{top} review/")).refused();
        assert!(said.contains("Operation not permitted"), "{flag} {named}: {said}");
        let said = mount.sh(&format!("$OCTROI mv inbox/{top} review/")).refused();
        assert!(said.contains("immutable or append-only"), "{flag} {named}: {said}");
        assert_eq!(
            mount.sh("cat inbox/f inbox/d/deep/f; ls -A review").ok(),
            "x\nx\n",
            "{flag} {named}"
        );
        mount
            .sh(&format!(
                "chattr -{flag} {inbox}/{named}; mv inbox/{top} review/; rm -r review/{top}"
            ))
            .ok();
    }
    mount.sh(&format!("echo x >inbox/f; chattr +a {inbox}/f")).ok();
    assert_eq!(mount.sh("echo y >>inbox/f; cat inbox/f").ok(), "x\ny\n", "it only grows");
    mount.sh("echo z >inbox/f").refused();
    mount.sh(&format!("chattr -a {inbox}/f")).ok();
    mount.unmount();
    drop(disk);
}
