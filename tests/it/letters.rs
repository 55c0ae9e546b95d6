//! Dead letters through the mount: made by system calls that fail, listed, explained and settled by the
//! commands that a person has.

use std::fs;

use serde_json::Value;

use crate::disk::Disk;
use crate::harness::{LAB, Mount, Scene, require_root, sh_as, wait_for};
use crate::strace::Strace;

struct Lab {
    scene: Scene,
    mount: Mount,
    _disk: Disk,
}

/// A view of two disks.
fn lab() -> Lab {
    require_root();
    let body = LAB.replace("mode = \"gates-only\"\n", "");
    let scene = Scene::with(&["inbox", "other", "review"], &body);
    let disk = Disk::ext4(&scene, "review", "96M");
    let mount = scene.mount();
    mount.sh("echo first >inbox/first && mv inbox/first review/first").ok();
    Lab { scene, mount, _disk: disk }
}

impl Lab {
    /// A crossing of `name` onto another that can neither go on nor back after its source went to hold.
    fn dead(&self, make: &str, name: &str) -> String {
        self.mount.sh(make).ok();
        let inject = "renameat2:error=EACCES:when=2+";
        let strace = Strace::attach(&self.mount, &["rename-"], Some(inject));
        let ended = self.mount.sh(&format!("mv inbox/{name} review/{name}"));
        drop(strace);
        assert_ne!(ended.code, Some(0), "it crossed");
        let listed = self.mount.sh("$OCTROI tx list --dead --json").ok();
        let listed: Value = serde_json::from_str(&listed).expect("JSON");
        let found = listed.as_array().expect("a list");
        assert_eq!(found.len(), 1, "{listed}");
        assert_eq!(found[0]["state"], "dead", "{listed}");
        found[0]["txid"].as_str().expect("an id").to_owned()
    }

    fn steps(&self, txid: &str) -> Vec<String> {
        let lines = self.mount.ledger().into_iter();
        let lines = lines.filter(|line| line["kind"] == "crossing" && line["txid"] == txid);
        lines.map(|line| line["step"].as_str().expect("a step").to_owned()).collect()
    }
}

const FILES: &str = "echo new >inbox/f; echo old >review/f";

#[test]
fn a_person_is_told_what_there_is_and_retries() {
    let lab = lab();
    let txid = lab.dead(FILES, "f");
    let shown = lab.mount.sh(&format!("$OCTROI tx show {txid}")).ok();
    let hold = lab.scene.branch("inbox").join(".octroi/hold").join(&txid);
    for wanted in [
        "state        dead".to_owned(),
        "could neither be completed nor put back".to_owned(),
        format!("the source is at {}", hold.display()),
        format!("octroi tx retry {txid}"),
        format!("octroi tx abort {txid}"),
        format!("octroi tx accept {txid}"),
    ] {
        assert!(shown.contains(&wanted), "{wanted} is missing:\n{shown}");
    }
    assert!(lab.mount.sh("$OCTROI status").ok().contains(&format!("{txid} needs a person")));
    // The kernel has looked meanwhile.
    assert_eq!(lab.mount.sh("cat review/f; ls inbox").ok(), "old\n");

    let said = lab.mount.sh(&format!("$OCTROI tx retry {txid}")).ok();
    assert_eq!(said, format!("transaction {txid} is done\n"));
    assert_eq!(lab.mount.sh("cat review/f; ls inbox").ok(), "new\n");
    assert_eq!(lab.steps(&txid), ["prepare", "commit", "dead", "retry", "done"]);
    assert_eq!(
        lab.mount.sh("$OCTROI tx list --dead").ok(),
        "none of the transactions that you may see needs a person\n"
    );
    lab.mount.sh("$OCTROI undo review/f && grep new inbox/f && grep old review/f").ok();
    let refused = lab.mount.sh(&format!("$OCTROI tx retry {txid}")).fails(1);
    assert!(refused.contains("it is done"), "{refused}");
    lab.mount.unmount();
}

#[test]
fn a_person_has_it_put_back_and_others_may_not() {
    let lab = lab();
    let txid = lab.dead(FILES, "f");
    for wish in ["retry", "accept", "accept --discard"] {
        let command = format!("$OCTROI tx {wish} {txid} --view {}", lab.scene.name());
        let refused = sh_as("nobody", lab.scene.base(), &command).fails(1);
        assert!(refused.contains("only root"), "{refused}");
    }
    let command = format!("$OCTROI tx abort {txid} --view {}", lab.scene.name());
    sh_as("nobody", lab.scene.base(), &command).fails(1);
    assert_eq!(lab.steps(&txid), ["prepare", "commit", "dead"], "somebody else did something");

    // Another has taken the name: it keeps it.
    lab.mount.sh("echo another >inbox/f").ok();
    let said = lab.mount.sh(&format!("$OCTROI tx abort {txid}")).fails(1);
    assert!(said.contains("still needs a person") && said.contains("EEXIST"), "{said}");
    assert_eq!(lab.mount.sh("cat inbox/f review/f").ok(), "another\nold\n");
    lab.mount.sh("mv inbox/f inbox/g").ok();
    let said = lab.mount.sh(&format!("$OCTROI tx abort {txid}")).ok();
    assert!(said.contains("is put back"), "{said}");
    assert_eq!(lab.mount.sh("cat inbox/f review/f inbox/g").ok(), "new\nold\nanother\n");
    let expected = ["prepare", "commit", "dead", "withdraw", "dead", "withdraw", "reverted"];
    assert_eq!(lab.steps(&txid), expected);
    // Its names serve as before.
    lab.mount.sh("mv inbox/f review/f && grep new review/f").ok();
    lab.mount.unmount();
}

#[test]
fn what_is_accepted_stays_until_it_is_discarded() {
    let lab = lab();
    let txid = lab.dead(FILES, "f");
    let hold = lab.scene.branch("inbox").join(".octroi/hold").join(&txid);
    let stage = lab.scene.branch("review").join(".octroi/stage").join(&txid);
    let refused = lab.mount.sh(&format!("$OCTROI undo {txid}")).fails(1);
    assert!(refused.contains("octroi tx show tells what may be done"), "{refused}");
    let Lab { scene, mount, _disk } = lab;
    mount.unmount();
    let mount = scene.mount();
    let log = || fs::read_to_string(scene.base().join("daemon.log")).expect("a log");
    let told = format!("{txid} still needs a person");
    wait_for("the notice", || log().matches(&told).count() == 1);
    let shown = mount.sh(&format!("$OCTROI tx show {txid}")).ok();
    assert!(shown.contains("neither retry nor abort is possible after it"), "{shown}");
    let said = mount.sh(&format!("$OCTROI tx accept {txid}")).ok();
    assert_eq!(said, format!("transaction {txid} is accepted as it is\n"));
    assert!(log().contains(&format!("asked for Accept of dead letter {txid}")), "{}", log());
    assert_eq!(mount.sh("cat review/f; ls inbox").ok(), "old\n");
    mount.unmount();
    let mount = scene.mount();
    assert!(hold.exists() && stage.exists(), "a mount has swept what was accepted");
    let shown = mount.sh(&format!("$OCTROI tx show {txid}")).ok();
    assert!(shown.contains("accept --discard") && !shown.contains("tx retry"), "{shown}");
    let listed = || mount.sh("$OCTROI tx list --accepted; $OCTROI status").ok();
    let said = "1 accepted transaction keeps what is in stage and hold";
    assert!(listed().contains(&txid) && listed().contains(said), "{}", listed());
    mount.sh(&format!("$OCTROI tx accept --discard {txid}")).ok();
    assert!(
        listed().starts_with("none of the transactions")
            && !listed().contains("accepted transaction keeps")
    );
    assert!(!hold.exists() && !stage.exists(), "it was not discarded");
    let purge = mount.ledger().into_iter().find(|line| line["kind"] == "purge");
    let purge = purge.expect("it is recorded");
    assert_eq!(purge["reason"], "discarded by user 0", "{purge}");
    let shown = mount.sh(&format!("$OCTROI tx show {txid}")).ok();
    assert!(shown.contains("what it kept was deleted") && !shown.contains("choices"), "{shown}");
    mount.unmount();
    assert_eq!(log().matches(&told).count(), 1, "it needs nobody any more");
}

#[test]
fn a_tree_with_files_open_in_it_is_settled_too() {
    let lab = lab();
    let txid = lab.dead("mkdir -p inbox/d/sub; echo one >inbox/d/a; echo two >inbox/d/sub/b", "d");
    assert_eq!(lab.mount.sh("ls inbox review").ok(), "inbox:\n\nreview:\nfirst\n");
    lab.mount.sh(&format!("$OCTROI tx abort {txid}")).ok();
    assert_eq!(lab.mount.sh("cat inbox/d/a inbox/d/sub/b").ok(), "one\ntwo\n");
    lab.mount.sh("echo more >>inbox/d/sub/b; echo three >inbox/d/c").ok();
    let txid = lab.dead("ls inbox/d", "d");
    lab.mount.sh(&format!("$OCTROI tx retry {txid}")).ok();
    assert_eq!(lab.mount.sh("cat review/d/sub/b review/d/c; ls inbox").ok(), "two\nmore\nthree\n");
    lab.mount.unmount();
}
