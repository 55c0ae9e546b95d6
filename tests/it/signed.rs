//! The signed ledger as auditors and operators meet it: what lies where, what is refused, and what the
//! commands say.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::harness::{Ended, OCTROI, Scene, octroi, sh, wait_for};

/// Runs `octroi audit` on a view that is not mounted.
#[track_caller]
fn audit(scene: &Scene, arguments: &str) -> Ended {
    let config = scene.config();
    sh(scene.base(), &format!("{OCTROI} audit {arguments} --view {}", config.display()))
}

fn copy_of(scene: &Scene, branch: &str) -> PathBuf {
    scene.branch(branch).join(".octroi/checkpoint")
}

/// A view in which a file has crossed, unmounted again.
fn used() -> Scene {
    let scene = Scene::lab();
    let mount = scene.mount();
    mount.sh("echo one >inbox/f && mv inbox/f review/f && echo two >inbox/g").ok();
    mount.unmount();
    scene
}

#[test]
fn a_stop_leaves_the_same_checkpoint_everywhere_and_all_of_it_verifies() {
    let scene = used();
    let own = fs::read(scene.state().join("ledger/checkpoint")).expect("a checkpoint");
    for branch in ["inbox", "other", "review"] {
        assert_eq!(fs::read(copy_of(&scene, branch)).expect("a copy"), own, "{branch}");
    }
    let said = audit(&scene, "verify --files").ok();
    assert!(said.contains("everything is as it was signed"), "{said}");
    assert!(said.contains("3 agree") && said.contains("1 as they crossed"), "{said}");
    let report: Value = serde_json::from_str(&audit(&scene, "verify --json").ok()).expect("JSON");
    assert_eq!(report["problems"], Value::Array(Vec::new()));
    assert_eq!(report["signed"], report["lines"]);
    assert_eq!(report["crossings"]["done"], 1);
}

#[test]
fn what_is_mounted_verifies_and_serves_its_tree() {
    let scene = used();
    let mount = scene.mount();
    let config = scene.config();
    let verify = format!("{OCTROI} audit verify --view {}", config.display());
    wait_for("the status to tell how far it is signed", || {
        let status = mount.sh("$OCTROI status").ok();
        assert!(status.contains("signed: "), "{status}");
        status.contains(" s ago")
    });
    wait_for("the status to tell how many lines are signed", || {
        let status = mount.sh("$OCTROI status --json").ok();
        let status: serde_json::Value = serde_json::from_str(&status).expect("JSON");
        status["ledger_signed"]["lines"].as_u64().expect("a number") > 3
    });
    mount.sh("for at in $(seq 600); do echo $at >inbox/$at; done").ok();
    assert!(sh(scene.base(), &verify).ok().contains("as it was signed"));
    wait_for("600 lines are signed", || {
        let text = fs::read_to_string(mount.path(".audit/checkpoint")).expect("a checkpoint");
        text.lines().nth(1).and_then(|size| size.parse::<u64>().ok()).is_some_and(|size| size > 600)
    });
    mount.sh("cp .audit/key.pub ../key.pub && test -s .audit/tile/0/000 && ls .audit/tile/0").ok();
    // The lines of a bundle hash to the tile.
    let check = "python3 - <<'E'\n\
        import hashlib\n\
        b = open('.audit/tile/entries/000', 'rb').read()\n\
        t = open('.audit/tile/0/000', 'rb').read()\n\
        at = n = 0\n\
        while at < len(b):\n\
        \x20   size = b[at] << 8 | b[at + 1]\n\
        \x20   leaf = hashlib.sha256(b'\\0' + b[at + 2:at + 2 + size]).digest()\n\
        \x20   assert leaf == t[32 * n:32 * n + 32], n\n\
        \x20   at, n = at + 2 + size, n + 1\n\
        assert n == 256, n\n\
        E";
    mount.sh(check).ok();
    let txid = "jq -r 'select(.step == \"commit\") | .txid' .audit/log.jsonl | head -1";
    let txid = mount.sh(txid).ok();
    let prove = format!("cd .. && $OCTROI audit prove {} --view mnt -o p", txid.trim());
    mount.sh(&prove).ok();
    mount.sh("cat .audit/proof/3 >../q").ok();
    mount.unmount();
    let said = sh(scene.base(), "$OCTROI audit verify p --key key.pub").ok();
    assert!(said.contains("\"step\":\"commit\"") && said.contains(txid.trim()), "{said}");
    sh(scene.base(), "$OCTROI audit verify q --key \"$(cat key.pub)\"").ok();
    sh(scene.base(), "sed -i 's/^extra ./extra B/' q").ok();
    let said = sh(scene.base(), "$OCTROI audit verify q --key key.pub").fails(1);
    assert!(said.contains("cannot believe the proof q"), "{said}");
    let said = sh(scene.base(), "$OCTROI audit verify p --key nonsense").fails(2);
    assert!(said.contains("public key"), "{said}");
    let proven = audit(&scene, "prove 0 -o -").ok();
    assert!(proven.starts_with("c2sp.org/tlog-proof@v1\n"), "{proven}");
    let said = audit(&scene, "prove 1000000").fails(1);
    assert!(said.contains("the ledger has no such record, its last is "), "{said}");
}

#[test]
fn a_witness_does_not_take_a_fork_for_what_it_has_seen() {
    let scene = used();
    keep(&scene);
    let mount = scene.mount();
    mount.sh("echo more >inbox/more").ok();
    mount.unmount();
    let witness = format!("{OCTROI} audit witness --once --view {}", scene.config().display());
    sh(scene.base(), &format!("{witness} --to seen -- tee -a piped && cp -a state seen-state"))
        .ok();
    let seen = fs::read_to_string(scene.base().join("seen")).expect("seen");
    assert_eq!(fs::read_to_string(scene.base().join("piped")).expect("piped"), seen);
    // The same key signs another story, and the tiles of the first lie beside those of the second.
    roll_back(&scene);
    for branch in ["inbox", "other", "review"] {
        fs::remove_file(copy_of(&scene, branch)).expect("removed");
    }
    let mount = scene.mount();
    mount.sh("for at in 1 2 3 4 5 6 7 8; do echo $at >inbox/$at; done").ok();
    mount.unmount();
    sh(scene.base(), "cp -an seen-state/ledger/tile state/ledger/").ok();
    for form in ["--to seen", "--to seen -- tee -a piped"] {
        let said = sh(scene.base(), &format!("{witness} {form}")).fails(1);
        assert!(said.contains("not shown to be those that were witnessed"), "{said}");
    }
    assert_eq!(fs::read_to_string(scene.base().join("seen")).expect("seen"), seen);
    assert_eq!(fs::read_to_string(scene.base().join("piped")).expect("piped"), seen);
}

#[test]
fn a_witness_goes_on_after_half_a_line() {
    let scene = used();
    let witness = format!("{OCTROI} audit witness --once --view {}", scene.config().display());
    let torn = "printf '{\"time\":\"2026-\\377' >seen";
    sh(scene.base(), &format!("{torn} && {witness} --to seen")).ok();
    let said = audit(&scene, "verify --witness seen").ok();
    assert!(
        said.contains("1 checkpoint agrees") && said.contains("seen line 1 is the beginning"),
        "{said}"
    );
    sh(scene.base(), &format!("{witness} --to seen && wc -l <seen | grep -x 2")).ok();
}

#[test]
fn a_file_without_checkpoints_is_no_witness() {
    let scene = used();
    let witness = format!("{OCTROI} audit witness --once --view {}", scene.config().display());
    sh(scene.base(), &format!("{witness} --to seen; : >empty; echo octroi/x+1+2 >lab.pub")).ok();
    sh(scene.base(), "cat seen lab.pub >both").ok();
    for (file, what) in [
        ("empty", "empty: it has no checkpoint"),
        ("lab.pub", "lab.pub line 1: it is no checkpoint"),
        ("both", "both line 2: it is no checkpoint"),
    ] {
        let said = audit(&scene, &format!("verify --witness {file}"));
        assert!(said.out.contains(what) && said.out.contains("witness"), "{}", said.out);
        said.fails(1);
        let said = audit(&scene, &format!("verify --json --witness {file}"));
        let report: Value = serde_json::from_str(&said.out).expect("JSON");
        assert_ne!(report["problems"], Value::Array(Vec::new()));
        said.fails(1);
    }
}

#[test]
fn a_ledger_without_its_key_is_told_also_where_the_key_is_given() {
    let scene = used();
    let mount = scene.mount();
    mount.sh("cp .audit/key.pub ../lab.pub").ok();
    mount.unmount();
    let verify = "verify --key lab.pub";
    audit(&scene, verify).ok();
    let key = scene.state().join("key");
    // As a crash leaves it that came before the key got its name.
    let new = scene.state().join("key.new");
    fs::rename(&key, &new).expect("mv");
    audit(&scene, verify).ok();
    audit(&scene, "verify").ok();
    let other = used();
    for wrong in [None, Some(b"garbled".to_vec()), fs::read(other.state().join("key")).ok()] {
        let _ = fs::remove_file(&new);
        match wrong {
            None => {}
            Some(bytes) => fs::write(&key, bytes).expect("write"),
        }
        let said = audit(&scene, verify);
        assert!(said.out.contains("PROBLEM   key: the ledger"), "{}", said.out);
        said.fails(1);
        let said = audit(&scene, "report");
        assert!(!said.out.contains("everything is as it was signed"), "{}", said.out);
        said.fails(1);
    }
}

#[test]
fn a_branch_of_another_view_that_is_only_read_needs_no_adoption() {
    let other = used();
    let scene = Scene::with(
        &["inbox", "archive"],
        "[branches.inbox]\npath = \"branches/inbox\"\n\
         [branches.archive]\npath = \"branches/archive\"\nmode = \"ro\"\n",
    );
    let from = other.branch("inbox").display().to_string();
    let to = scene.branch("archive").display().to_string();
    sh(scene.base(), &format!("rm -r {to} && cp -a {from} {to}")).ok();
    for _ in 0..2 {
        scene.mount().unmount();
    }
    let said = audit(&scene, "verify").ok();
    assert!(said.contains("1 agree"), "{said}");
    octroi(["fsck", "--view", scene.config().to_str().expect("UTF-8")]).ok();
    assert_eq!(
        fs::read(copy_of(&scene, "archive")).expect("kept"),
        fs::read(copy_of(&other, "inbox")).expect("one")
    );
}

#[test]
fn a_copy_that_is_gone_or_cannot_be_read_is_told() {
    let scene = used();
    fs::remove_file(copy_of(&scene, "inbox")).expect("removed");
    fs::remove_file(copy_of(&scene, "review")).expect("removed");
    std::os::unix::fs::symlink("elsewhere", copy_of(&scene, "review")).expect("a link");
    let said = audit(&scene, "verify").ok();
    assert!(said.contains("branch inbox has no copy"), "{said}");
    assert!(said.contains("the copy in branch review was not read"), "{said}");
    let mount = scene.mount();
    wait_for("both to be told", || {
        let log = fs::read_to_string(scene.base().join("daemon.log")).expect("a log");
        log.contains("branch inbox has no copy of the ledger's checkpoint")
            && log.contains("cannot be compared with the checkpoint in branch review")
    });
    mount.unmount();
    let kept = fs::read_link(copy_of(&scene, "review")).expect("what was not read is not replaced");
    assert_eq!(kept, Path::new("elsewhere"));
    assert!(copy_of(&scene, "inbox").is_file());
}

/// Puts the state folder as it was when `keep` was called.
fn roll_back(scene: &Scene) {
    sh(scene.base(), "rm -r state && cp -a kept state").ok();
}

fn keep(scene: &Scene) {
    sh(scene.base(), "cp -a state kept").ok();
}

#[test]
fn a_state_folder_that_was_rolled_back_is_refused_until_the_loss_is_accepted() {
    let scene = used();
    keep(&scene);
    let mount = scene.mount();
    mount.sh("echo more >inbox/more").ok();
    mount.unmount();
    let witness = format!("{OCTROI} audit witness --once --view {}", scene.config().display());
    sh(scene.base(), &format!("{witness} --to seen")).ok();
    roll_back(&scene);
    let said = scene.mount_refused(&[]).err;
    let all = "the copy in branch inbox, the copy in branch other and the copy in branch review vouch for";
    assert!(said.contains(all), "{said}");
    assert!(said.contains("accept-loss"), "{said}");
    let said = audit(&scene, "verify");
    assert!(said.out.contains("the copy in branch inbox"), "{}", said.out);
    said.fails(1);
    let said = audit(&scene, "accept-loss --why 'restored from Monday'").ok();
    assert!(said.contains("the copy in branch review"), "{said}");
    let said = audit(&scene, "accept-loss --why again").fails(1);
    assert!(said.contains("no loss to accept"), "{said}");
    let said = sh(scene.base(), &format!("{witness} --to seen")).fails(1);
    assert!(said.contains("another key signs: keep this file, begin another"), "{said}");
    sh(scene.base(), &format!("{witness} --to anew")).ok();
    audit(&scene, "verify --witness seen").ok();
    let mount = scene.mount();
    let losses = mount.ledger().into_iter().filter(|line| line["kind"] == "loss");
    let losses: Vec<Value> = losses.collect();
    assert_eq!(losses.len(), 1);
    assert_eq!(losses[0]["why"], "restored from Monday");
    mount.sh("echo goes >inbox/on").ok();
    mount.unmount();
    let said = audit(&scene, "verify").ok();
    assert!(said.contains("restored from Monday") && said.contains("3 agree"), "{said}");
}

#[test]
fn a_damaged_line_is_refused_until_the_loss_is_accepted_and_is_kept() {
    let scene = used();
    let segment = scene.state().join("ledger/00000001.jsonl");
    let spoil = format!("cp {0} whole; sed -i '4s/kind/kinb/' {0}; cp {0} bad", segment.display());
    sh(scene.base(), &spoil).ok();
    for said in [scene.mount_refused(&[]).err, audit(&scene, "accept-loss --why ''").err] {
        assert!(
            said.contains("damaged at line 4") || said.contains("a value is required"),
            "{said}"
        );
    }
    let said = audit(&scene, "accept-loss --why 'a bad sector'").ok();
    assert!(said.contains("damaged at line 4") && said.contains("evidence/0001"), "{said}");
    let check = "cmp bad state/evidence/0001/00000001.jsonl && cd state/evidence/0001 && sha256sum -c SHA256SUMS";
    sh(scene.base(), check).ok();
    sh(
        scene.base(),
        &format!("head -3 whole | cmp -n $(head -3 whole | wc -c) - {}", segment.display()),
    )
    .ok();
    let mount = scene.mount();
    let is_gap = |line: &Value| line["kind"] == "gap";
    assert!(!mount.ledger().iter().any(is_gap), "the last run stopped cleanly");
    mount.sh("cat inbox/g && echo goes >inbox/on && mv inbox/on review/on").ok();
    mount.unmount();
    let said = audit(&scene, "verify").ok();
    assert!(said.contains("a bad sector") && said.contains("1 file in evidence/0001"), "{said}");
}

#[test]
fn a_lost_state_folder_is_refused_and_branches_of_other_views_are_adopted() {
    let scene = used();
    fs::remove_dir_all(scene.state()).expect("removed");
    let said = scene.mount_refused(&[]).err;
    let all = "the copy in branch inbox, the copy in branch other and the copy in branch review were signed by a \
               key that is not there, octroi/";
    assert!(said.contains(all) && said.matches("--adopt").count() == 1, "{said}");
    let all = ["--adopt", "inbox", "--adopt", "other", "--adopt", "review"];
    let mount = scene.mount_with(&all);
    mount.unmount();
    scene.mount().unmount();
}

#[test]
fn a_ledger_that_was_edited_is_refused_where_it_was_edited() {
    let scene = used();
    let path = scene.state().join("ledger/00000001.jsonl");
    let edit = format!(
        "python3 - {} <<'E'\n\
        import sys, re\n\
        lines = open(sys.argv[1]).read().splitlines()\n\
        def crc(data):\n\
        \x20   c = 0xffffffff\n\
        \x20   for byte in data:\n\
        \x20       c ^= byte\n\
        \x20       for _ in range(8):\n\
        \x20           c = c >> 1 ^ (0x82f63b78 if c & 1 else 0)\n\
        \x20   return c ^ 0xffffffff\n\
        at = next(n for n, line in enumerate(lines) if '\"step\":\"commit\"' in line)\n\
        body = lines[at].rsplit(',\"crc\"', 1)[0].replace('/inbox/f', '/inbox/x')\n\
        lines[at] = body + ',\"crc\":\"%08x\"}}' % crc(body.encode())\n\
        open(sys.argv[1], 'w').write('\\n'.join(lines) + '\\n')\n\
        print(at)\n\
        E",
        path.display()
    );
    let line = sh(scene.base(), &edit).ok();
    let seq = line.trim();
    let said = scene.mount_refused(&[]).err;
    assert!(said.contains(&format!("seq {seq} in segment 00000001.jsonl")), "{said}");
    let said = audit(&scene, "verify");
    assert!(said.out.contains(&format!("another line at seq {seq}")), "{}", said.out);
    said.fails(1);
}

#[test]
fn a_file_that_was_changed_under_its_hash_is_found() {
    let scene = used();
    let file = scene.branch("review").join("f");
    let script = format!("t=$(stat -c %y {0}); echo oNe >{0}; touch -d \"$t\" {0}", file.display());
    sh(Path::new("/"), &script).ok();
    let said = audit(&scene, "verify --files");
    assert!(said.out.contains("/review/f: the file has the hash"), "{}", said.out);
    said.fails(1);
    // Written as files are, it is another file since, and no evidence of anything.
    sh(Path::new("/"), &format!("echo new >{}", file.display())).ok();
    let said = audit(&scene, "verify --files").ok();
    assert!(said.contains("1 written since"), "{said}");
}

#[test]
fn files_in_a_branch_that_is_away_are_not_compared() {
    let scene = used();
    let away = format!("mv {} away", scene.branch("review").display());
    sh(scene.base(), &away).ok();
    let said = audit(&scene, "verify --files").ok();
    assert!(said.contains("branch review is not there; 1 crossing into it was not"), "{said}");
}

#[test]
fn a_witness_remembers_what_the_ledger_was() {
    let scene = used();
    keep(&scene);
    let mount = scene.mount();
    let witness = format!("{OCTROI} audit witness --once --view {}", scene.config().display());
    let outside = sh(scene.base(), &format!("{witness} --to seen && {witness} --to seen"));
    assert!(!outside.err.contains("warning"), "{outside:?}");
    for (file, what) in [
        ("mnt/inbox/seen", "is in the view itself: each checkpoint that is appended makes another"),
        ("branches/other/seen", "is in branch other of the view"),
        ("state/seen", "is in the state folder"),
    ] {
        let told = sh(scene.base(), &format!("{witness} --to {file} && rm {file}"));
        assert!(told.err.contains(&format!("octroi: warning: {file} {what}")), "{told:?}");
        told.ok();
    }
    mount.sh("echo more >inbox/more").ok();
    mount.unmount();
    let said = sh(scene.base(), &format!("{witness} -- tee piped && {witness} --to seen")).ok();
    assert!(said.contains("checkpoint"), "{said}");
    let lines = fs::read_to_string(scene.base().join("seen")).expect("seen");
    assert_eq!(lines.lines().count(), 2, "{lines}");
    audit(&scene, "verify --witness seen").ok();
    let said = sh(scene.base(), &witness).fails(2);
    assert!(said.contains("--to FILE, or -- COMMAND, or both"), "{said}");
    let said = sh(scene.base(), &format!("{witness} -- false")).fails(1);
    assert!(said.contains("cannot carry a checkpoint away"), "{said}");
    // Whoever rewrites all that is here does not reach the witness.
    roll_back(&scene);
    for branch in ["inbox", "other", "review"] {
        fs::remove_file(copy_of(&scene, branch)).expect("removed");
    }
    audit(&scene, "verify").ok();
    let said = audit(&scene, "verify --witness seen");
    assert!(said.out.contains("seen line 2"), "{}", said.out);
    said.fails(1);
    let said = sh(scene.base(), &format!("{witness} --to seen")).fails(1);
    assert!(said.contains("lines were witnessed"), "{said}");
}

/// Another view is mounted while it runs. In a table of mounts of its own, where no other view is.
#[test]
fn a_witness_stays_with_the_view_that_it_began_with() {
    let scene = Scene::lab();
    let mount = scene.mount();
    let script = r#"
        mkdir -p elsewhere
        $OCTROI init lab >/dev/null && sed -i "s/^name = .*/name = \"$2\"/" lab/octroi.toml
        mine=$(realpath .)
        findmnt -rn -t fuse.octroi -o TARGET | grep -v "^$mine/" | xargs -r -d '\n' umount -l
        $OCTROI audit witness --to seen 2>said &
        witness=$!
        trap 'kill $witness; $OCTROI umount elsewhere' EXIT
        grows() { for _ in $(seq 200); do [ "$(wc -l <seen)" -gt "$1" ] && return; sleep 0.1; done; false; } 2>/dev/null
        grows 0 || { echo nothing was witnessed; exit 1; }
        $OCTROI mount lab/octroi.toml elsewhere >/dev/null || exit 1
        ! $OCTROI status 2>/dev/null || { echo one view alone is mounted; exit 1; }
        before=$(wc -l <seen)
        echo more >"$1/inbox/more"
        grows "$before" || { echo nothing more was witnessed; cat said; exit 1; }
        cat said
    "#;
    let path = scene.base().join("script");
    fs::write(&path, script).expect("a script");
    let said = sh(
        scene.base(),
        &format!(
            "unshare -m bash {} {} {}-too",
            path.display(),
            scene.mountpoint().display(),
            scene.name()
        ),
    )
    .ok();
    assert!(!said.contains("cannot"), "{said}");
    mount.unmount();
}
