//! `octroi fsck`: each kind of damage is found by its name, nothing is changed without `--repair`, and what
//! is repaired is clean afterwards.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::disk::Disk;
use crate::harness::{Ended, LAB, Scene, octroi, require_root, sh};
use crate::strace::Strace;

fn fsck(scene: &Scene, more: &[&str]) -> Ended {
    let config = scene.config();
    let mut arguments = vec!["fsck", "--view", config.to_str().expect("UTF-8")];
    arguments.extend(more);
    octroi(arguments)
}

/// The findings, as `about: text`, and that the exit code fits them.
#[track_caller]
fn findings(scene: &Scene, more: &[&str]) -> Vec<String> {
    let ended = fsck(scene, &[more, &["--json"]].concat());
    let report: Value = serde_json::from_str(&ended.out).expect("JSON");
    let found = report["findings"].as_array().expect("a list");
    assert_eq!(ended.code, Some(i32::from(!found.is_empty())), "{ended:?}");
    let text = |one: &Value| {
        assert!(!one["advice"].as_str().expect("advice").is_empty());
        format!(
            "{}: {}",
            one["about"].as_str().expect("a word"),
            one["text"].as_str().expect("text")
        )
    };
    found.iter().map(text).collect()
}

/// The only finding has these words in it.
#[track_caller]
fn finds(scene: &Scene, words: &[&str]) {
    let found = findings(scene, &[]);
    let [one] = found.as_slice() else { panic!("not one finding: {found:?}") };
    assert!(words.iter().all(|word| one.contains(word)), "{words:?}: {one}");
}

/// Everything below the scene's folder: names, sizes, times and content.
fn picture(scene: &Scene) -> String {
    sh(
        scene.base(),
        "find . -not -name lock -printf '%p %y %s %T@ %m\\n' | sort; \
        find . -type f -not -name lock -print0 | sort -z | xargs -0 sha256sum",
    )
    .ok()
}

/// A view that was used and unmounted.
fn used() -> Scene {
    let scene = Scene::lab();
    let mount = scene.mount();
    mount.sh("echo a >inbox/a; mv inbox/a review/a").ok();
    mount.unmount();
    scene
}

fn private(scene: &Scene, branch: &str, area: &str) -> PathBuf {
    scene.branch(branch).join(".octroi").join(area)
}

#[test]
fn a_view_that_is_well_is_clean_and_a_mounted_one_refused() {
    let scene = Scene::lab();
    let said = fsck(&scene, &[]).ok();
    assert!(said.contains("never mounted") && said.contains("is clean"), "{said}");
    assert!(!scene.state().exists(), "it made something");
    let mount = scene.mount();
    let said = fsck(&scene, &[]).fails(1);
    assert!(said.contains("is mounted"), "{said}");
    let said = fsck(&scene, &["--repair"]).fails(1);
    assert!(said.contains("is mounted"), "{said}");
    mount.unmount();
    let before = picture(&scene);
    let said = fsck(&scene, &[]).ok();
    assert!(said.contains("records, all of which can be read"), "{said}");
    assert_eq!(picture(&scene), before, "it changed something");
    octroi(["fsck", "--view", "/nonexistent/octroi.toml"]).fails(2);
    scene.configure("[branches.x]\n");
    fsck(&scene, &[]).fails(2);
}

#[test]
fn what_stage_and_hold_have_and_lack_is_found() {
    let scene = used();
    let stage = private(&scene, "review", "stage");
    fs::write(stage.join("stray"), "x").expect("write");
    finds(&scene, &["stage: branch review has stray"]);
    let before = picture(&scene);
    assert_eq!(fsck(&scene, &[]).code, Some(1));
    assert_eq!(picture(&scene), before, "it changed something");
    let said = fsck(&scene, &["--repair"]).ok();
    assert!(said.contains("repaired: removed 1 entry of stage"), "{said}");
    assert!(!stage.join("stray").exists());

    let strange = private(&scene, "inbox", "hold").join("01JD8Z6Q1M4T0V2W3X4Y5Z6A7B");
    fs::write(&strange, "the last copy?").expect("write");
    finds(&scene, &["hold: branch inbox has .octroi/hold/01JD8Z6Q1M4T0V2W3X4Y5Z6A7B"]);
    assert_eq!(fsck(&scene, &["--repair"]).code, Some(1), "it is still there");
    assert_eq!(fs::read(&strange).expect("kept"), b"the last copy?");
    fs::remove_file(&strange).expect("rm");
    fsck(&scene, &[]).ok();
}

#[test]
fn a_crossing_whose_hold_is_gone_is_not_offered_for_undo() {
    require_root();
    let scene = Scene::lab();
    let disk = Disk::ext4(&scene, "review", "96M");
    let mount = scene.mount();
    mount.sh("echo a >inbox/a; mv inbox/a review/a").ok();
    mount.unmount();
    let hold = private(&scene, "inbox", "hold");
    let held =
        fs::read_dir(&hold).expect("hold").next().expect("an entry").expect("an entry").path();
    let txid = held.file_name().expect("a name").to_string_lossy().into_owned();
    fs::rename(&held, hold.join("aside")).expect("mv");
    let found = findings(&scene, &[]);
    let wanted = format!(
        "hold: crossing {txid} cannot be undone: the source is not in hold of branch inbox"
    );
    assert!(found.contains(&wanted), "{found:?}");
    // Something else of that name is not it, and is not touched.
    fs::write(&held, "another").expect("write");
    let found = findings(&scene, &["--repair"]);
    assert!(found.iter().any(|one| one.contains("is not the source")), "{found:?}");
    assert_eq!(fs::read(&held).expect("kept"), b"another");
    fs::remove_file(&held).expect("rm");
    let said = fsck(&scene, &["--repair"]);
    assert!(said.out.contains("recorded that nothing is left"), "{said:?}");
    assert!(hold.join("aside").exists(), "what is in doubt was removed");
    // Whoever brings it back later, from lost+found for one, keeps it, and is told.
    fs::rename(hold.join("aside"), &held).expect("mv");
    let lost = format!("branch inbox has .octroi/hold/{txid}, which was recorded as lost");
    finds(&scene, &[&lost]);
    let mount = scene.mount();
    let said = mount.sh(&format!("$OCTROI undo {txid}")).fails(1);
    assert!(said.contains("what it kept in hold is lost"), "{said}");
    mount.unmount();
    assert_eq!(fsck(&scene, &["--repair"]).code, Some(1), "it is still there");
    assert_eq!(fs::read(&held).expect("kept"), b"a\n");
    fs::remove_file(&held).expect("rm");
    fsck(&scene, &[]).ok();
    // Of two entries one is gone: nothing is recorded, and it can be undone once that is back.
    let mount = scene.mount();
    mount.sh("echo old >inbox/o; mv inbox/o review/b; echo new >inbox/n; mv inbox/n review/b").ok();
    mount.unmount();
    let mut displaced = fs::read_dir(private(&scene, "review", "hold")).expect("hold");
    let held = hold.join(displaced.next().expect("an entry").expect("an entry").file_name());
    fs::rename(&held, scene.base().join("branches/aside")).expect("mv");
    for arguments in [&[][..], &["--repair"], &[]] {
        let found = fsck(&scene, arguments);
        assert_eq!(found.code, Some(1), "{found:?}");
        assert!(found.out.contains("it can once all is back"), "{found:?}");
        assert!(!found.out.contains("recorded that"), "{found:?}");
    }
    fs::rename(scene.base().join("branches/aside"), &held).expect("mv");
    fsck(&scene, &[]).ok();
    let mount = scene.mount();
    assert_eq!(
        mount.sh("$OCTROI undo review/b >/dev/null; cat inbox/n review/b").ok(),
        "new\nold\n"
    );
    mount.unmount();
    drop(disk);
}

#[test]
fn of_a_decided_crossing_it_says_what_will_become_of_it() {
    require_root();
    let scene = Scene::with(&["inbox", "other", "review"], LAB);
    let disk = Disk::ext4(&scene, "review", "96M");
    let mount = scene.mount();
    mount.sh("echo warm >inbox/w; mv inbox/w review/w; rm review/w; seq 9 >inbox/f").ok();
    // Killed when the source is in hold and the copy in stage.
    let kill = Some("renameat2:signal=KILL:when=2");
    let strace = Strace::attach(&mount, &["rename-"], kill);
    mount.sh("mv inbox/f review/f").refused();
    drop(strace);
    mount.kill9();
    sh(Path::new("/"), &format!("fusermount3 -uz {}", scene.mountpoint().display()));
    assert!(
        !scene.branch("inbox").join("f").exists() && !scene.branch("review").join("f").exists()
    );
    let txid = fs::read_dir(private(&scene, "review", "stage")).expect("stage");
    let txid = txid.map(|entry| entry.expect("an entry").file_name().into_string().expect("text"));
    let txid = txid.last().expect("the copy");
    let whole = format!("transaction: {txid} is decided and not ended");
    assert!(findings(&scene, &[]).contains(&whole));
    let waits = "waits until what it needs can be written";
    assert!(!fsck(&scene, &[]).out.contains(waits), "nothing is missing");

    let held = private(&scene, "inbox", "hold").join(&txid);
    fs::rename(&held, scene.base().join("branches/aside")).expect("mv");
    let gone = format!(
        "{whole}, and the source is neither at f of branch inbox nor at {txid} in hold of branch inbox"
    );
    let found = findings(&scene, &[]);
    assert!(found.contains(&gone), "{found:?}");
    let said = fsck(&scene, &[]).out;
    assert!(said.contains("it will need a person"), "{said}");
    fs::rename(scene.base().join("branches/aside"), &held).expect("mv");

    let (inbox, aside) = (scene.branch("inbox"), scene.base().join("aside"));
    fs::rename(&inbox, &aside).expect("mv");
    let said = fsck(&scene, &[]).out;
    assert!(said.contains(&format!("{waits}: branch inbox")), "{said}");
    fs::rename(&aside, &inbox).expect("mv");
    fsck(&scene, &["--repair"]).ok();
    assert!(scene.branch("review").join("f").exists());
    drop(disk);
}

/// A power loss keeps the copy's new name and not that the source went; then the source's branch is out of the
/// configuration, and later in it again. A branch that is read-only has no id.
#[test]
fn of_a_branch_that_is_out_of_the_configuration_it_says_and_does_what_the_mount_would() {
    require_root();
    let read_only = "path = \"branches/other\"\nmode = \"ro\"\n";
    let lab = LAB.replace("path = \"branches/other\"\n", read_only);
    let scene = Scene::with(&["inbox", "other", "review"], &lab);
    let disk = Disk::ext4(&scene, "review", "96M");
    let mount = scene.mount();
    mount.sh("echo warm >inbox/w; mv inbox/w review/w; rm review/w; seq 9 >inbox/f").ok();
    let strace = Strace::attach(&mount, &["rename-"], Some("renameat2:signal=KILL:when=2"));
    mount.sh("mv inbox/f review/f").refused();
    drop(strace);
    mount.kill9();
    sh(Path::new("/"), &format!("fusermount3 -uz {}", scene.mountpoint().display()));
    let here = |branch, area| {
        let names = fs::read_dir(private(&scene, branch, area)).expect("a folder");
        let names = names.map(|entry| entry.expect("an entry").path());
        names.max().expect("what crosses")
    };
    let ends = ["inbox", "review"].map(|branch| scene.branch(branch).join("f"));
    fs::rename(here("review", "stage"), &ends[1]).expect("mv");
    fs::rename(here("inbox", "hold"), &ends[0]).expect("mv");

    scene.configure(&format!(
        "[branches.other]\n{read_only}[branches.review]\npath = \"branches/review\"\n"
    ));
    let gone = "any more (it was inbox)";
    let found = findings(&scene, &[]);
    assert!(found.iter().any(|one| one.contains(gone)), "{found:?}");
    let said = fsck(&scene, &["--repair"]).out;
    assert!(said.contains("needs a person") && said.contains(gone), "{said}");
    assert!(ends[1].exists(), "what has arrived stays");

    scene.configure(&lab);
    fsck(&scene, &["--repair"]).ok();
    assert_eq!([ends[0].exists(), ends[1].exists()], [false, true]);
    let mount = scene.mount();
    mount.sh("$OCTROI undo && cmp inbox/f <(seq 9) && test ! -e review/f").ok();
    mount.unmount();
    drop(disk);
}

#[test]
fn a_crossing_that_was_cut_off_is_found_and_ended() {
    require_root();
    let scene = Scene::with(&["inbox", "other", "review"], LAB);
    let disk = Disk::ext4(&scene, "review", "96M");
    // Killed after the decision, before the first move; and in the middle of copying.
    // Whether the record of its beginning was written before is a matter of time.
    let (decided, begun) = ("is decided and not ended", "was cut off before its decision");
    for (inject, about, at_target) in [
        ("renameat2:signal=KILL:when=1", [decided, decided], true),
        ("fsync:signal=KILL:when=1", [begun, "in stage, which no transaction needs"], false),
    ] {
        let mount = scene.mount();
        mount
            .sh("echo warm >inbox/w; mv inbox/w review/w; rm -f review/f inbox/f; seq 9 >inbox/f")
            .ok();
        let strace = Strace::attach(&mount, &["rename-"], Some(inject));
        mount.sh("mv inbox/f review/f").refused();
        drop(strace);
        mount.kill9();
        let found = findings(&scene, &[]);
        let is_told = |one: &String| about.iter().any(|about| one.contains(about));
        assert!(found.iter().any(is_told), "{about:?}: {found:?}");
        assert!(found.iter().any(|one| one.contains("did not stop cleanly")), "{found:?}");
        let said = fsck(&scene, &["--repair"]).ok();
        let repaired = ["repaired: crossing", "repaired: removed 1 entry of stage"];
        assert!(repaired.iter().any(|one| said.contains(one)), "{said}");
        let ends = ["inbox", "review"].map(|branch| scene.branch(branch).join("f").exists());
        assert_eq!(ends, [!at_target, at_target], "{inject}");
        fsck(&scene, &[]).ok();
        sh(Path::new("/"), &format!("fusermount3 -uz {}", scene.mountpoint().display()));
    }
    let mount = scene.mount();
    let ledger = mount.ledger();
    let repairs = ledger.iter().filter(|line| line["mountpoint"] == "(octroi fsck --repair)");
    assert_eq!(repairs.count(), 4, "a repair is recorded from begin to end, twice");
    mount.unmount();
    drop(disk);
}

#[test]
fn branches_that_are_not_what_they_were_are_found_and_left_alone() {
    let scene = used();
    let id = private(&scene, "inbox", "id");
    let text = fs::read_to_string(&id).expect("an id");
    fs::write(&id, "01JD8Z6Q1M4T0V2W3X4Y5Z6A7B\n").expect("write");
    finds(&scene, &["branch inbox carries the id 01JD8Z6Q1M4T0V2W3X4Y5Z6A7B"]);
    fs::remove_file(&id).expect("rm");
    finds(&scene, &["branch inbox carries no id"]);
    assert_eq!(fsck(&scene, &["--repair"]).code, Some(1));
    assert!(!id.exists(), "a repair has adopted it");
    fs::write(&id, text).expect("write");
    let (path, aside) = (scene.branch("other"), scene.base().join("aside"));
    fs::rename(&path, &aside).expect("mv");
    finds(&scene, &["branch", "branches/other"]);
    fs::rename(&aside, &path).expect("mv");
    fsck(&scene, &[]).ok();
}

#[test]
fn a_file_and_a_directory_of_one_name_are_found_in_a_pool() {
    let body = "[branches.d1]\npath = \"branches/d1\"\n[branches.d2]\npath = \"branches/d2\"\n\
                [pools.all]\nmembers = [\"d1\", \"d2\"]\n";
    let scene = Scene::with(&["d1", "d2"], body);
    scene.mount().unmount();
    let (one, two) = (scene.branch("d1"), scene.branch("d2"));
    fs::create_dir_all(one.join("a/b/x")).expect("mkdir");
    fs::create_dir_all(two.join("a/b")).expect("mkdir");
    fs::create_dir_all(two.join("only/here")).expect("mkdir");
    fs::write(one.join("same"), "1").expect("write");
    fs::write(two.join("same"), "2").expect("write");
    let said = fsck(&scene, &[]).ok();
    assert!(said.contains("1 name is on more than one member"), "{said}");
    fs::write(two.join("a/b/x"), "a file").expect("write");
    finds(&scene, &["pool all: a/b/x is a directory on d1 and hides a file on d2"]);
    assert_eq!(fsck(&scene, &["--repair"]).code, Some(1));
    assert_eq!(fs::read(two.join("a/b/x")).expect("kept"), b"a file");
}

#[test]
fn damage_of_the_ledger_is_found_and_not_repaired() {
    let scene = used();
    let segment = scene.state().join("ledger/00000001.jsonl");
    let good = fs::read(&segment).expect("the segment");
    let torn = [good.as_slice(), b"{\"seq\":99"].concat();
    fs::write(&segment, &torn).expect("write");
    finds(&scene, &["ledger: the ledger ends in 9 bytes that a crash has torn"]);
    assert_eq!(fs::read(&segment).expect("the segment"), torn, "it cut something off");
    let said = fsck(&scene, &["--repair"]).ok();
    assert!(said.contains("cut 9 bytes"), "{said}");

    let mut bad = good.clone();
    bad[good.len() / 2] ^= 1;
    fs::write(&segment, &bad).expect("write");
    finds(&scene, &["ledger: ledger segment 00000001.jsonl is damaged at line"]);
    let said = fsck(&scene, &["--repair"]).fails(1);
    assert!(said.contains("is damaged at line"), "{said}");
    assert_eq!(fs::read(&segment).expect("the segment"), bad, "damage was changed");
}

#[test]
fn signatures_and_copies_are_looked_at_and_said_to_be() {
    let scene = used();
    let report: Value = serde_json::from_str(&fsck(&scene, &["--json"]).ok()).expect("JSON");
    let notes = report["notes"].to_string();
    assert!(notes.contains("has signed them, and 3 copies agree"), "{notes}");
    let copy = scene.branch("inbox").join(".octroi/checkpoint");
    let whole = fs::read(&copy).expect("a copy");
    fs::write(&copy, [whole.as_slice(), b"x"].concat()).expect("write");
    finds(&scene, &["ledger: the copy in branch inbox"]);
    fs::write(&copy, whole).expect("write");
    let key = scene.state().join("key");
    fs::rename(&key, scene.base().join("key")).expect("mv");
    let found = findings(&scene, &[]);
    assert!(found.iter().any(|one| one.starts_with("ledger: key is missing")), "{found:?}");
    let all = "the copy in branch inbox, the copy in branch other and the copy in branch review were signed \
               by a key that is not there";
    assert!(found.iter().any(|one| one.contains(all)), "{found:?}");
    fs::write(&key, "garbled").expect("write");
    let found = findings(&scene, &[]);
    assert!(found.iter().any(|one| one == "ledger: key is damaged"), "{found:?}");
    fs::rename(scene.base().join("key"), &key).expect("mv");
    fsck(&scene, &[]).ok();
    let tile = "find state/ledger/tile -type f | xargs sed -i 's/^./\\x00/'";
    sh(scene.base(), tile).ok();
    finds(&scene, &["ledger: tile/0/000.p"]);
}

#[test]
fn a_view_without_its_ledger_is_not_taken_for_a_new_one() {
    let scene = used();
    let told = |scene: &Scene| {
        let said = fsck(scene, &[]).out;
        assert!(!said.contains("is new") && !said.contains("adopts it"), "{said}");
        assert!(said.contains("not compared: inbox, other, review"), "{said}");
    };
    let segment = scene.state().join("ledger/00000001.jsonl");
    let good = fs::read(&segment).expect("the segment");
    let mut bad = good.clone();
    bad[good.len() / 2] ^= 1;
    fs::write(&segment, &bad).expect("write");
    finds(&scene, &["is damaged at line"]);
    told(&scene);
    fs::remove_dir_all(scene.state().join("ledger")).expect("rm");
    finds(&scene, &["ledger: cannot open"]);
    told(&scene);
    fs::remove_dir_all(scene.state()).expect("rm");
    finds(&scene, &["is no state folder, and there was one: the copy in branch inbox"]);
    told(&scene);
    assert!(!scene.state().exists(), "it made something");
    // A branch that was in another view is one that mounting adopts.
    for branch in ["inbox", "other", "review"] {
        fs::remove_file(scene.branch(branch).join(".octroi/checkpoint")).expect("rm");
    }
    let said = fsck(&scene, &[]).ok();
    assert!(said.contains("branch inbox is new here, and has the id"), "{said}");
    scene.mount().unmount();
}
