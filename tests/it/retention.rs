//! `audit.max_size`: whole segments leave, and what is left is still the ledger that was signed.

use std::fs;
use std::path::PathBuf;

use crate::harness::{LAB, Mount, Scene, octroi, wait_for};

const BOUNDED: &str = "[audit]\nmax_size = \"8MiB\"\n[hold]\nkeep = \"1s\"\n";

fn segments(scene: &Scene) -> Vec<PathBuf> {
    let names = fs::read_dir(scene.state().join("ledger")).expect("the ledger");
    let mut paths: Vec<PathBuf> = names
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|end| end == "jsonl"))
        .collect();
    paths.sort();
    paths
}

fn bytes(scene: &Scene) -> u64 {
    // One may leave between.
    segments(scene).iter().filter_map(|path| Some(path.metadata().ok()?.len())).sum()
}

/// Makes directories until so many bytes of records were written.
fn fill(scene: &Scene, mount: &Mount, wanted: u64) {
    let folder = mount.path(&format!("inbox/{}", "long-name-".repeat(20)));
    let mut written = 0;
    while written < wanted {
        let before = bytes(scene);
        for _ in 0..500 {
            fs::create_dir(&folder).expect("mkdir");
            fs::remove_dir(&folder).expect("rmdir");
        }
        // Waits for what was queued.
        fs::metadata(mount.path(".audit/log.jsonl")).expect("the log");
        written += bytes(scene).saturating_sub(before);
    }
}

#[test]
fn the_oldest_segments_leave_and_the_rest_is_verified() {
    let scene = Scene::with(&["inbox", "other", "review"], &format!("{LAB}{BOUNDED}"));
    let config = scene.config().display().to_string();
    let mount = scene.mount();
    mount.sh("echo x >inbox/f; mv inbox/f review/f").ok();
    fill(&scene, &mount, 6 << 20);
    assert!(segments(&scene).len() >= 6, "segments are an eighth of what there may be");
    let early = fs::File::open(mount.path(".audit/log.jsonl")).expect("the log");
    mount.sh("cp .audit/log.jsonl ../early.jsonl").ok();
    let status = mount.sh("$OCTROI status").ok();
    assert!(status.contains("of 8.0 MiB"), "{status}");
    fill(&scene, &mount, 4 << 20);
    let first = || segments(&scene)[0].clone();
    wait_for("the first segment to leave", || !first().ends_with("00000001.jsonl"));
    wait_for("the ledger to be small enough", || bytes(&scene) <= 8 << 20);
    // Who had it open goes on where they were; who opens it anew sees what is left.
    let early_size = early.metadata().expect("the open log").len();
    let ledger = mount.ledger();
    let seq = ledger[0]["seq"].as_u64().expect("a seq");
    let gone = mount.sh("$OCTROI audit prove 1 -o -").refused();
    assert!(gone.contains(&format!("left the ledger, which begins with {seq}")), "{gone}");
    assert!(seq > 0 && ledger[0]["kind"] == "version");
    let prune = ledger.iter().find(|line| line["kind"] == "prune").expect("a record");
    assert!(prune["ids"]["inbox"].is_string() && prune["segments"][0] == "00000001.jsonl");
    assert!(early_size > fs::metadata(mount.path(".audit/log.jsonl")).expect("the log").len());
    let mut start = [0; 16];
    let gone = std::os::unix::fs::FileExt::read_at(&early, &mut start, 0);
    assert_eq!(gone.expect_err("it has left").raw_os_error(), Some(116), "ESTALE");
    let mut end = [0; 16];
    std::os::unix::fs::FileExt::read_exact_at(&early, &mut end, early_size - 16).expect("the end");
    assert_eq!(end[15], b'\n');
    let denied = mount.sh("cat .audit/denied.jsonl").ok();
    assert_eq!(denied, "");
    octroi(["audit", "verify", "--view", &config]).ok();
    assert!(mount.sh("$OCTROI status").ok().contains("audit.max_size"), "over 80%");
    let found = mount.sh("$OCTROI audit query --op mkdir --limit 1").ok();
    assert!(found.contains("mkdir"), "{found}");
    drop(early);
    mount.unmount();
    octroi(["audit", "verify", "--view", &config]).ok();
    octroi(["fsck", "--view", &config]).ok();
    let mount = scene.mount();
    mount.sh("echo y >inbox/g; mv inbox/g review/g; $OCTROI undo review/g; cat inbox/g").ok();
    assert!(!mount.ledger().iter().any(|line| line["kind"] == "branch"), "ids are remembered");
    mount.unmount();
    octroi(["audit", "verify", "--view", &config]).ok();
    // Without the record the same would be a loss.
    fs::remove_file(first()).expect("rm");
    let said = scene.mount_refused(&[]).err;
    assert!(said.contains("are missing"), "{said}");
    octroi(["audit", "verify", "--view", &config]).fails(1);
    // So it is with a record that nobody has signed.
    forge_prune(&segments(&scene));
    let words = "nobody has signed the record at seq";
    let said = scene.mount_refused(&[]).err;
    assert!(said.contains(words) && said.contains("octroi audit accept-loss"), "{said}");
    let said = octroi(["audit", "verify", "--view", &config]);
    assert!(said.code == Some(1) && said.out.contains(words), "{said:?}");
}

/// Adds a record by which all before the first of these segments has left, as somebody without the key can.
fn forge_prune(segments: &[PathBuf]) {
    let seq = |line: &str| {
        let line: serde_json::Value = serde_json::from_str(line).expect("a line");
        line["seq"].as_u64().expect("a seq")
    };
    let [first, last] = [&segments[0], segments.last().expect("a segment")];
    let first = seq(fs::read_to_string(first).expect("the first").lines().next().expect("a line"));
    let mut text = fs::read_to_string(last).expect("the last");
    let next = seq(text.lines().last().expect("a line")) + 1;
    let body = format!(
        "{{\"seq\":{next},\"time\":\"2026-01-01T00:00:00.000000000Z\",\"kind\":\"prune\",\"first\":{first},\
         \"segments\":[\"00000001.jsonl\"],\"reason\":\"forged\",\"ids\":{{}}"
    );
    text += &format!("{body},\"crc\":\"{:08x}\"}}\n", crc32c::crc32c(body.as_bytes()));
    fs::write(last, text).expect("written");
}

#[test]
fn what_is_older_than_it_shall_be_kept_leaves_and_the_rest_is_verified() {
    let scene = Scene::with(
        &["inbox", "other", "review"],
        &format!("{LAB}[audit]\nkeep = \"2s\"\n[hold]\nkeep = \"1s\"\n"),
    );
    let config = scene.config().display().to_string();
    let mount = scene.mount();
    mount.sh("mkdir inbox/old").ok();
    wait_for("the first segment to leave", || {
        mount.sh("mkdir inbox/new && rmdir inbox/new").ok();
        !segments(&scene)[0].ends_with("00000001.jsonl")
    });
    let ledger = mount.ledger();
    assert!(ledger[0]["seq"].as_u64() > Some(0) && ledger[0]["kind"] == "version");
    assert!(!ledger.iter().any(|line| line["path"] == "/inbox/old"));
    let prune = ledger.iter().find(|line| line["kind"] == "prune").expect("a record");
    assert_eq!(prune["reason"], "lines are kept for 2 s");
    let key = fs::read_to_string(mount.path(".audit/key.pub")).expect("the key");
    assert_eq!(prune["key"], key.trim(), "the record of the key may have left");
    octroi(["audit", "verify", "--view", &config]).ok();
    mount.unmount();
    octroi(["audit", "verify", "--view", &config]).ok();
    scene.mount().unmount();
    for name in ["key", "ledger/checkpoint"] {
        fs::remove_file(scene.state().join(name)).expect("removed");
    }
    let said = scene.mount_refused(&[]).err;
    assert!(said.contains("its lines name the key"), "{said}");
}
