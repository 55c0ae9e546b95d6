//! Reading the ledger by `octroi audit tail` and `query`, and by ordinary tools below `.audit`, while it
//! is written.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::harness::{LAB, Mount, OCTROI, Scene, octroi, sh, wait_for};

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).expect("a line is JSON")).collect()
}

fn paths(text: &str) -> Vec<String> {
    let path = |line: Value| line["path"].as_str().unwrap_or_default().to_owned();
    lines(text).into_iter().map(path).collect()
}

/// A view with something of everything in its ledger.
fn lived_in() -> (Scene, Mount) {
    let rules = "[rules.no-scripts]\ndeny = [\"add\"]\nwho = [\"*\"]\npaths = [\"/inbox/**/*.sh\"]\n\
                 reason = \"scripts do not belong in the inbox\"\n";
    let scene = Scene::with(&["inbox", "other", "review"], &format!("{LAB}{rules}"));
    let mount = scene.mount();
    mount.sh("mkdir inbox/d; echo x >inbox/d/f; chmod 600 inbox/d/f; mv inbox/d/f review/f").ok();
    mount.sh("echo y >other/$'\\xff'; ln -s a other/link").ok();
    mount.sh("echo x >inbox/no.sh").refused();
    if rustix::process::geteuid().is_root() {
        mount.sh_as("nobody", "echo z >other/theirs").ok();
    }
    (scene, mount)
}

#[test]
fn what_was_done_just_before_is_found() {
    let scene = Scene::lab();
    let mount = scene.mount();
    for form in [".".to_owned(), scene.config().display().to_string()] {
        let script = format!(
            "for at in $(seq 20); do : >inbox/$at; $OCTROI audit query --view {form} --op create | tail -n 1 | \
             grep -q \"\\\"/inbox/$at\\\"\" || echo $at is missing; rm inbox/$at; done"
        );
        assert_eq!(mount.sh(&script).ok(), "");
    }
}

#[test]
fn query_finds_what_is_asked_for() {
    let (_scene, mount) = lived_in();
    let query = |arguments: &str| mount.sh(&format!("$OCTROI audit query {arguments}")).ok();
    assert_eq!(lines(&query("")), mount.ledger());
    assert_eq!(paths(&query("--denied")), ["/inbox/no.sh"]);
    assert_eq!(paths(&query("--op mkdir --op symlink")), ["/inbox/d", "/other/link"]);
    assert_eq!(paths(&query("--verb attrs --branch inbox")), ["/inbox/d/f"]);
    let exact = query("--path /other --op create");
    assert!(exact.contains("path_b64"), "{exact}");
    if rustix::process::geteuid().is_root() {
        let theirs = paths(&query("--user nobody"));
        assert!(!theirs.is_empty() && theirs.iter().all(|path| path == "/other/theirs"));
        mount.sh_as("nobody", "$OCTROI audit query").refused();
    }
    let crossing = query("--verb move --path '/review/*'");
    let steps: Vec<Value> = lines(&crossing).into_iter().map(|line| line["step"].clone()).collect();
    assert_eq!(steps, ["prepare", "commit", "done"]);
    let txid = lines(&crossing)[0]["txid"].as_str().expect("a txid").to_owned();
    assert_eq!(query(&format!("--tx {txid}")), crossing);
    assert_eq!(lines(&query("--limit 2")), mount.ledger()[..2]);
    assert_eq!(query("--since 1h"), query(""));
    assert_eq!(query("--until 1h"), "");
    let middle = mount.ledger()[5]["time"].as_str().expect("a time").to_owned();
    let (before, after) =
        (query(&format!("--until {middle}")), query(&format!("--since {middle}")));
    assert_eq!(lines(&before).len(), 5);
    assert_eq!(before + &after, query(""));
    mount.sh("$OCTROI audit query --path inbox").fails(2);
    mount.sh("$OCTROI audit query --since 1h --until 2h").fails(2);
    // What is likely a slip is told on standard error, and searched for all the same.
    let told = mount.sh("$OCTROI audit query --branch inbx");
    assert!(
        told.err.contains("no branch or pool inbx") && told.err.contains("review"),
        "{}",
        told.err
    );
    assert_eq!(told.ok(), "");
    assert_eq!(query("--path \"$PWD/other\""), query("--path /other"));
    let told = mount.sh("$OCTROI audit query --path /elsewhere/x");
    assert!(told.err.contains("nothing of the view lies at /elsewhere/x"), "{}", told.err);
    assert_eq!(told.ok(), "");
    assert_eq!(mount.sh("$OCTROI audit query --path /other").err, "");
    mount.sh("$OCTROI audit query --since yesterday").fails(2);
    mount.sh("$OCTROI audit query | head -n1").ok();
    mount.unmount();
}

/// The ledger as one with several segments: closed ones of this length, as the writer would leave them.
fn split(scene: &Scene) -> Vec<PathBuf> {
    let folder = scene.state().join("ledger");
    let text = fs::read_to_string(folder.join("00000001.jsonl")).expect("a segment");
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    let copy = scene.base().join("copy");
    fs::create_dir(&copy).expect("mkdir");
    let mut parts = Vec::new();
    for (number, part) in (1..).zip(lines.chunks(lines.len().div_ceil(3))) {
        let path = copy.join(format!("{number:08}.jsonl"));
        fs::write(&path, part.concat()).expect("write");
        parts.push(path);
    }
    parts
}

#[test]
fn a_transaction_is_found_by_an_index_that_is_never_believed() {
    let (scene, mount) = lived_in();
    let mount_ledger = mount.ledger();
    mount.unmount();
    let parts = split(&scene);
    let copy = parts[0].parent().expect("a folder").to_owned();
    let state = scene.base().join("state2");
    fs::create_dir(&state).expect("mkdir");
    fs::rename(&copy, state.join("ledger")).expect("rename");
    let text = fs::read_to_string(scene.config()).expect("the configuration");
    let config = scene.base().join("copy.toml");
    fs::write(&config, text.replace("/state\"", "/state2\"")).expect("write");
    let txid = mount_ledger.iter().find_map(|line| line["txid"].as_str()).expect("a crossing");
    let config = config.display().to_string();
    let query = || octroi(["audit", "query", "--view", &config, "--tx", txid]).ok();
    let first = query();
    assert_eq!(lines(&first).len(), 3);
    let index = state.join("ledger/index");
    let made = fs::read_dir(&index).expect("the index").count();
    assert_eq!(made, 2, "all segments but the last");
    assert_eq!(query(), first);
    for entry in fs::read_dir(&index).expect("the index") {
        let path = entry.expect("an entry").path();
        let length = fs::metadata(&path).expect("a file").len() as usize;
        fs::write(&path, vec![0xff; length]).expect("write");
    }
    assert_eq!(query(), first, "a damaged index was believed");
    fs::remove_dir_all(&index).expect("rm");
    fs::write(&index, "in the way").expect("write");
    assert_eq!(query(), first, "no index can be written");
}

#[test]
fn tail_follows_what_fits() {
    let (_scene, mount) = lived_in();
    assert_eq!(lines(&mount.sh("$OCTROI audit tail -n 5").ok()), {
        let ledger = mount.ledger();
        ledger[ledger.len() - 5..].to_vec()
    });
    assert_eq!(paths(&mount.sh("$OCTROI audit tail -n 1 --denied").ok()), ["/inbox/no.sh"]);
    let all = mount.sh("$OCTROI audit tail --since 1h").ok();
    assert_eq!(lines(&all), mount.ledger());
    let out = mount.root().parent().expect("a folder").join("followed");
    let mut tail = Command::new(OCTROI)
        .args(["audit", "tail", "-f", "--denied", "-n", "0"])
        .current_dir(mount.root())
        .stdout(fs::File::create(&out).expect("a file"))
        .stdin(Stdio::null())
        .spawn()
        .expect("it starts");
    let said = || fs::read_to_string(&out).expect("what it said");
    // Until it follows, nothing says that it does.
    let mut number = 0;
    wait_for("tail to show a denial", || {
        number += 1;
        mount.sh(&format!("mkdir inbox/{number}; echo x >inbox/{number}/new.sh")).refused();
        !said().is_empty()
    });
    mount.sh("mkdir inbox/last; echo x >inbox/last/last.sh").refused();
    wait_for("tail to show the last", || paths(&said()).contains(&"/inbox/last/last.sh".into()));
    tail.kill().expect("it is our child");
    tail.wait().expect("it ends");
    assert!(lines(&said()).iter().all(|line| line["decision"] == "denied"), "{}", said());
    mount.unmount();
}

#[test]
fn colours_are_for_terminals_without_no_color() {
    let (_scene, mount) = lived_in();
    let on_terminal = |env: &str| {
        let command = "$OCTROI audit tail -n 30";
        mount.sh(&format!("env {env} TERM=xterm script -qec '{command}' /dev/null </dev/null")).ok()
    };
    let coloured = on_terminal("-u NO_COLOR");
    assert!(coloured.contains("\x1b[31m") && coloured.contains("denied by no-scripts"));
    let text = on_terminal("NO_COLOR=1");
    assert!(text.contains("denied by no-scripts") && !text.contains('\x1b'), "{text}");
    assert!(!mount.sh("$OCTROI audit tail").ok().contains('\x1b'));
    mount.unmount();
}

#[test]
fn ordinary_tools_read_the_log_while_it_is_written() {
    let scene = Scene::lab();
    let mount = scene.mount();
    let mut writer = Command::new("bash")
        .args(["-c", "for i in $(seq 4000); do mkdir inbox/$i; done"])
        .current_dir(mount.root())
        .spawn()
        .expect("it starts");
    let followed = scene.base().join("followed");
    let mut tail = Command::new("tail")
        .args(["-n", "+1", "-f", ".audit/log.jsonl"])
        .current_dir(mount.root())
        .stdout(fs::File::create(&followed).expect("a file"))
        .spawn()
        .expect("it starts");
    let base = scene.base().display().to_string();
    let mut rounds = 0;
    while writer.try_wait().expect("our child").is_none() || rounds == 0 {
        rounds += 1;
        // Each ends with a whole line, however much is written meanwhile.
        mount
            .sh(&format!("cp .audit/log.jsonl {base}/copy && jq -e .seq {base}/copy >{base}/seqs"))
            .ok();
        sh(scene.base(), "diff seqs <(seq 0 $(($(wc -l <seqs) - 1)))").ok();
        mount.sh("jq -e .kind .audit/log.jsonl >/dev/null").ok();
        mount.sh("test $(cat .audit/log.jsonl | tail -n1 | tail -c1 | wc -l) = 1").ok();
        mount.sh("grep -c mkdir .audit/log.jsonl || test $? = 1").ok();
    }
    assert_eq!(mount.sh("grep -c '\"op\":\"mkdir\"' .audit/log.jsonl").ok().trim(), "4000");
    let shown = mount.sh("less -F -X .audit/log.jsonl </dev/null | wc -l").ok();
    assert_eq!(shown.trim(), mount.ledger().len().to_string());
    let whole = || fs::read(mount.path(".audit/log.jsonl")).expect("the log");
    wait_for("tail -f to show all", || fs::read(&followed).expect("what it said") == whole());
    tail.kill().expect("it is our child");
    tail.wait().expect("it ends");
    assert!(Path::new(&base).join("copy").exists());
    mount.unmount();
}

#[test]
fn ordinary_tools_read_the_denials_and_the_crossings() {
    let (scene, mount) = lived_in();
    let denials = ".audit/denied.jsonl";
    let denied = mount.sh(&format!("cat {denials}")).ok();
    assert_eq!(paths(&denied), ["/inbox/no.sh"]);
    let copy = scene.base().join("copy").display().to_string();
    for tool in [
        format!("tail -n5 {denials}"),
        format!("less -F -X {denials} </dev/null"),
        format!("cp {denials} {copy} && cat {copy}"),
        format!("dd if={denials} bs=7 2>/dev/null"),
    ] {
        assert_eq!(mount.sh(&tool).ok(), denied, "{tool}");
    }
    let from_the_end = mount.sh(&format!("tail -c9 {denials}")).ok();
    assert_eq!(from_the_end, denied[denied.len() - 9..]);
    let size = || mount.sh(&format!("stat -c %s {denials}")).ok().trim().to_owned();
    assert_eq!(size(), denied.len().to_string());
    let followed = scene.base().join("followed");
    let mut tail = Command::new("tail")
        .args(["-n", "0", "-f", denials])
        .current_dir(mount.root())
        .stdout(fs::File::create(&followed).expect("a file"))
        .spawn()
        .expect("it starts");
    let said = || fs::read_to_string(&followed).expect("what it said");
    let mut number = 0;
    wait_for("tail -f to show a denial", || {
        number += 1;
        mount.sh(&format!("mkdir inbox/{number}; echo x >inbox/{number}/new.sh")).refused();
        said().contains("new.sh")
    });
    tail.kill().expect("it is our child");
    tail.wait().expect("it ends");
    assert!(!said().contains("/inbox/no.sh"), "what was there before was not asked for");
    // Whoever lists is told no sizes, and whoever then asks, the right ones.
    mount.sh("cd .audit/tx/done && test $(ls | wc -l) = 1 && ls -l | awk 'NR > 1 && $5 == 0 {exit 1}'").ok();
    mount.sh("cd .audit/tx/done && test $(stat -c %s *) = $(cat * | wc -c)").ok();
    let each = "while read -r file; do test $(stat -c %s $file) = $(wc -c <$file) || exit 1; done";
    mount.sh(&format!("find .audit/tile -type f | {each}")).ok();
    mount.unmount();
}

#[test]
fn export_and_report_say_what_happened() {
    let (scene, mount) = lived_in();
    mount.sh("$OCTROI undo review/f").ok();
    mount.sh("$OCTROI reload").ok();
    let exported = mount.sh("$OCTROI audit export").ok();
    assert_eq!(lines(&exported), mount.ledger());
    let events = lines(&mount.sh("$OCTROI audit export --format ocsf").ok());
    let crossings: Vec<_> =
        events.iter().filter(|event| event["unmapped"]["txid"].is_string()).collect();
    assert_eq!(crossings.len(), 2, "one for each that has ended");
    assert_eq!(crossings[0]["file_result"]["path"], "/review/f");
    assert_eq!(crossings[0]["file_result"]["hashes"][0]["algorithm"], "SHA-256");
    for event in &events {
        for required in [
            "activity_id",
            "actor",
            "category_uid",
            "class_uid",
            "device",
            "file",
            "metadata",
            "severity_id",
            "time",
            "type_uid",
        ] {
            assert!(!event[required].is_null(), "{required}: {event}");
        }
    }
    let denied = lines(&mount.sh("$OCTROI audit export --format ocsf --denied").ok());
    assert_eq!((denied.len(), &denied[0]["disposition"]), (1, &Value::from("Blocked")));
    let report = mount.sh("$OCTROI audit report --from 1h").ok();
    for said in [
        "## Who did what",
        "| root | ",
        "## Crossings",
        "| gate submit | 1 |",
        "| undo | 1 |",
        "## Denials",
        "| rule no-scripts | 1 |",
        "## Policy",
        "mounted with",
        "Result: everything ",
        " is as it was signed",
    ] {
        assert!(report.contains(said), "{said}: {report}");
    }
    let empty = mount.sh("$OCTROI audit report --to 2020-01-01").ok();
    assert!(empty.contains(": 0 records") && empty.contains("None."), "{empty}");
    mount.unmount();
    let segment = scene.state().join("ledger/00000001.jsonl");
    let text = fs::read_to_string(&segment).expect("the ledger");
    fs::write(&segment, text.replacen("\"op\":\"mkdir\"", "\"op\":\"rmdir\"", 1)).expect("write");
    let ended = octroi(["audit", "report", "--view", scene.config().to_str().expect("UTF-8")]);
    assert!(ended.out.contains("**PROBLEM**"), "{}", ended.out);
    ended.fails(1);
    // A forged line is shown, told once, and no success.
    let number =
        text.lines().position(|line| line.contains("\"op\":\"mkdir\"")).expect("a mkdir") + 1;
    let told = format!("octroi: warning: 00000001.jsonl line {number} is not as it was written");
    let view = ["--view", scene.config().to_str().expect("UTF-8")].map(str::to_owned);
    let read = |arguments: &str| {
        let arguments = arguments.split(' ').map(str::to_owned);
        octroi(["audit".to_owned()].into_iter().chain(arguments).chain(view.clone()))
    };
    for arguments in ["query", "query --op rmdir", "export", "tail -n 1000", "tail --op rmdir"] {
        let ended = read(arguments);
        assert!(ended.out.contains("\"op\":\"rmdir\""), "{arguments}: {ended:?}");
        assert_eq!(ended.err.matches(&told).count(), 1, "{arguments}: {ended:?}");
        assert!(ended.fails(1).contains("1 line that was found is not as written"), "{arguments}");
    }
    let ocsf = read("export --format ocsf");
    assert!(ocsf.err.contains(&told), "{ocsf:?}");
    ocsf.fails(1);
    for arguments in ["query --denied", "export --denied", "tail -n 1"] {
        let ended = read(arguments);
        assert_eq!(ended.err, "", "{arguments}");
        ended.ok();
    }
}
