//! Another policy while the view is mounted: all of it or nothing, at once for all who ask after it, and in
//! the ledger.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use rustix::process::Signal;
use serde_json::Value;

use crate::harness::{Ended, Mount, OCTROI, Scene, octroi, require_root, sh_as, wait_for};

const BRANCHES: &str = "[branches.rw]\npath = \"branches/rw\"\n[branches.fast]\n\
                        path = \"branches/fast\"\nio = \"passthrough\"\n";

/// Nobody writes at this path.
fn denying(path: &str) -> String {
    format!(
        "{BRANCHES}[rules.closed]\ndeny = [\"write\"]\nwho = [\"*\"]\npaths = [\"{path}\"]\n\
         reason = \"closed\"\n"
    )
}

fn scene() -> Scene {
    require_root();
    Scene::with(&["rw", "fast"], BRANCHES)
}

fn reload(scene: &Scene) -> Ended {
    octroi(["reload", "--json", "--view", scene.name()])
}

#[track_caller]
fn reloaded(scene: &Scene) -> Value {
    serde_json::from_str(&reload(scene).ok()).expect("JSON")
}

#[track_caller]
fn status(scene: &Scene) -> Value {
    let text = octroi(["status", "--json", "--view", scene.name()]).ok();
    serde_json::from_str(&text).expect("JSON")
}

fn shown_config(mount: &Mount) -> String {
    fs::read_to_string(mount.path(".audit/policy/config.toml")).expect("readable")
}

#[track_caller]
fn denied<T: std::fmt::Debug>(result: std::io::Result<T>) {
    assert_eq!(result.expect_err("denied").kind(), ErrorKind::PermissionDenied);
}

#[test]
fn a_reload_holds_for_open_handles_and_new_ones_and_can_be_taken_back() {
    let scene = scene();
    let mount = scene.mount();
    fs::write(mount.path("rw/f"), "one").expect("allowed");
    let open = OpenOptions::new().write(true).open(mount.path("rw/f")).expect("allowed");
    open.write_all_at(b"two", 0).expect("allowed");
    scene.configure(&denying("/rw/**"));
    let report = reloaded(&scene);
    assert_eq!((report["changed"].as_bool(), report["generation"].as_u64()), (Some(true), Some(2)));
    assert_eq!(report["rules"]["added"], serde_json::json!(["closed"]));
    assert_eq!(report["kept"], serde_json::json!([]), "nothing is passed through");
    denied(open.write_all_at(b"bad", 0));
    denied(open.set_len(0));
    denied(OpenOptions::new().write(true).open(mount.path("rw/f")));
    assert_eq!(fs::read_to_string(mount.path("rw/f")).expect("reading is allowed"), "two");
    scene.configure(BRANCHES);
    let report = reloaded(&scene);
    assert_eq!(report["rules"]["removed"], serde_json::json!(["closed"]));
    open.write_all_at(b"six", 0).expect("allowed again");
    assert_eq!(fs::read_to_string(mount.path("rw/f")).expect("read"), "six");
    drop(open);
    mount.unmount();
}

#[test]
fn the_answer_is_readable_and_an_unchanged_file_changes_nothing() {
    let scene = scene();
    let mount = scene.mount();
    let view = ["reload", "--view", scene.name()];
    let said = octroi(view).ok();
    assert!(said.contains("is unchanged; policy 1 stays in force"), "{said}");
    assert_eq!(mount.ledger().iter().filter(|line| line["kind"] == "policy").count(), 1);
    scene.configure(&format!("# a comment\n{BRANCHES}"));
    let said = octroi(view).ok();
    assert!(
        said.contains("policy 2 is in force") && said.contains("no rule and no gate differs"),
        "{said}"
    );
    scene.configure(&denying("/rw/a"));
    octroi(view).ok();
    scene.configure(&(denying("/rw/b") + "[policy]\nwithin = \"deny\"\n"));
    let said = octroi(view).ok();
    for part in ["policy 4 is in force", "rules changed: closed", "new values: policy.within"] {
        assert!(said.contains(part), "{part} is not in {said}");
    }
    assert!(mount.sh("touch rw/new").refused().contains("Permission denied"));
    mount.unmount();
}

#[test]
fn a_bad_file_changes_nothing_at_all() {
    let scene = scene();
    scene.configure(&denying("/rw/**"));
    let mount = scene.mount();
    let before = (status(&scene)["generation"].clone(), shown_config(&mount), mount.ledger().len());
    for (bad, said) in [
        ("[rules.half]\n", "neither denies nor allows"),
        ("nonsense", "not valid TOML"),
        ("[rules.x]\ndeny = [\"fly\"]\nwho = [\"*\"]\nreason = \"r\"\n", "fly"),
    ] {
        scene.configure(&format!("{BRANCHES}{bad}"));
        let ended = reload(&scene).fails(2);
        assert!(ended.contains(said) && ended.contains("nothing has changed"), "{ended}");
        assert!(ended.contains("view.toml:"), "no place in {ended}");
    }
    fs::remove_file(scene.config()).expect("removed");
    assert!(reload(&scene).fails(2).contains("cannot read it"));
    let now = (status(&scene)["generation"].clone(), shown_config(&mount), mount.ledger().len());
    assert_eq!(now, before);
    denied(fs::write(mount.path("rw/f"), "x"));
    mount.unmount();
}

#[test]
fn a_policy_that_is_not_what_the_file_expects_is_refused() {
    let scene = scene();
    let mount = scene.mount();
    let expect =
        "[[expect]]\nas = \"user:nobody\"\ndo = \"write\"\npath = \"/rw/f\"\nresult = \"allow\"\n";
    scene.configure(&(denying("/rw/**") + expect));
    let said = reload(&scene).fails(2);
    for part in
        ["must be allowed, but is denied by rule closed", "view.toml:", "nothing has changed"]
    {
        assert!(said.contains(part), "{part} is not in {said}");
    }
    assert_eq!(status(&scene)["generation"], 1);
    fs::write(mount.path("rw/f"), "x").expect("allowed");
    scene.configure(&(denying("/rw/other/**") + expect));
    assert_eq!(reloaded(&scene)["generation"], 2);
    mount.unmount();
}

#[test]
fn what_is_mounted_cannot_be_reloaded_and_is_named() {
    let scene = scene();
    let body = |rw: &str, more: &str| {
        format!(
            "[branches.rw]\npath = \"branches/rw\"\n{rw}[branches.fast]\npath = \"branches/fast\"\n\
             io = \"passthrough\"\n{more}"
        )
    };
    let mount = scene.mount();
    scene.branch("third");
    for (now, keys) in [
        (body("mode = \"ro\"\n", ""), vec!["branches.rw.mode"]),
        (body("at = \"/other\"\n", "[hold]\nkeep = \"5m\"\n"), vec!["branches.rw.at", "hold.keep"]),
        (body("min_free = \"1MiB\"\n", ""), vec!["branches.rw.min_free"]),
        (body("", "[branches.third]\npath = \"branches/third\"\n"), vec!["branches.third"]),
        (body("", "[crossings]\nparallel = 3\n"), vec!["crossings.parallel"]),
        (body("", "[audit]\nrecord = \"everything\"\n"), vec!["audit.record"]),
        (
            "[branches.fast]\npath = \"branches/fast\"\nio = \"passthrough\"\n[branches.rw]\n\
             path = \"branches/rw\"\n"
                .to_owned(),
            vec!["the order of branches"],
        ),
    ] {
        scene.configure(&now);
        let said = reload(&scene).fails(2);
        let line = said.lines().next().expect("a line");
        for key in &keys {
            assert!(line.contains(key), "{key} is not in {said}");
        }
        assert_eq!(
            line.matches("branches.").count() + line.matches("order of").count(),
            keys.iter().filter(|key| key.contains("branches")).count(),
            "{said}"
        );
        assert!(said.contains("unmount and mount again"), "{said}");
    }
    assert_eq!(status(&scene)["generation"], 1);
    // The same value in other words is no difference.
    scene.configure(&body("mode = \"rw\"\nmin_free = \"65536KiB\"\n", "[hold]\nkeep = \"60m\"\n"));
    assert_eq!(reloaded(&scene)["generation"], 2);
    mount.unmount();
}

#[test]
fn the_ledger_has_both_hashes_and_who_asked_and_audit_shows_the_new_text() {
    let scene = scene();
    let mount = scene.mount();
    scene.configure(&denying("/rw/**"));
    let report = reloaded(&scene);
    let text = fs::read_to_string(scene.config()).expect("read");
    assert_eq!(shown_config(&mount), text);
    let hash = mount.sh(&format!("sha256sum <{}", scene.config().display())).ok();
    assert_eq!(report["sha256"], *hash.split(' ').next().expect("a hash"));
    let records: Vec<Value> =
        mount.ledger().into_iter().filter(|line| line["kind"] == "policy").collect();
    let [first, second] = records.as_slice() else { panic!("{records:?}") };
    assert_eq!(first["previous"], Value::Null);
    assert_eq!((&second["previous"], &second["sha256"]), (&first["sha256"], &report["sha256"]));
    assert_eq!((&second["generation"], &second["uid"]), (&2.into(), &0.into()));
    assert_eq!(second["by_signal"], Value::Null);
    mount.unmount();
}

#[test]
fn sighup_reloads_and_a_bad_file_goes_into_the_log() {
    let scene = scene();
    let mount = scene.mount();
    scene.configure(&denying("/rw/**"));
    mount.signal(Signal::HUP);
    wait_for("the reload", || status(&scene)["generation"] == 2);
    denied(fs::write(mount.path("rw/f"), "x"));
    let records = mount.ledger();
    let record = records.iter().rfind(|line| line["kind"] == "policy").expect("a record");
    assert_eq!((&record["by_signal"], &record["uid"]), (&true.into(), &0.into()));
    scene.configure("[branches.rw]\npath = 7\n");
    mount.signal(Signal::HUP);
    let log = scene.base().join("daemon.log");
    wait_for("the log", || {
        let log = fs::read_to_string(&log).expect("a log");
        log.contains("nothing has changed") && log.contains("view.toml:")
    });
    assert_eq!(status(&scene)["generation"], 2);
    denied(fs::write(mount.path("rw/f"), "x"));
    mount.unmount();
}

#[test]
fn only_root_and_the_mounting_user_may() {
    let scene = scene();
    let mount = scene.mount();
    scene.configure(&denying("/rw/**"));
    for command in ["reload", "policy hits"] {
        let command = format!("{OCTROI} {command} --view {}", scene.name());
        let said = sh_as("nobody", Path::new("/"), &command).fails(1);
        assert!(said.contains("only root and the user who mounted the view may"), "{said}");
    }
    assert_eq!(status(&scene)["generation"], 1);
    mount.unmount();
}

#[test]
fn what_the_kernel_writes_by_itself_is_listed() {
    let scene = scene();
    let mount = scene.mount();
    fs::write(mount.path("fast/f"), "one").expect("allowed");
    fs::write(mount.path("fast/g"), "one").expect("allowed");
    let writes = OpenOptions::new().write(true).open(mount.path("fast/f")).expect("allowed");
    let reads = File::open(mount.path("fast/g")).expect("allowed");
    scene.configure(&denying("/fast/**"));
    let report = reloaded(&scene);
    let kept = report["kept"].as_array().expect("a list");
    let [kept] = kept.as_slice() else { panic!("{kept:?}") };
    assert_eq!((&kept["path"], &kept["uid"]), (&"/fast/f".into(), &0.into()));
    assert_eq!((&kept["operation"], &kept["by"]), (&"open-write".into(), &"rule closed".into()));
    assert!(kept["pid"].as_u64().is_some_and(|pid| pid > 0));
    // That is why it is listed.
    writes.write_all_at(b"two", 0).expect("the kernel writes it");
    denied(OpenOptions::new().write(true).open(mount.path("fast/f")));
    drop((writes, reads));
    mount.unmount();
}

#[test]
fn readers_of_audit_come_and_go_with_a_reload() {
    let scene = scene();
    let mount = scene.mount();
    assert!(mount.sh_as("nobody", "cat .audit/version").refused().contains("denied"));
    scene.configure(&format!("{BRANCHES}[audit]\nreaders = [\"user:nobody\"]\n"));
    assert_eq!(reloaded(&scene)["settings"], serde_json::json!(["audit.readers"]));
    mount.sh_as("nobody", "cat .audit/version .audit/policy/hits.tsv").ok();
    scene.configure(BRANCHES);
    reloaded(&scene);
    assert!(mount.sh_as("nobody", "cat .audit/version").refused().contains("denied"));
    mount.unmount();
}

/// Two policies in turns, each of which denies what the other allows, while others write. What begins after
/// a reload was answered is decided by that policy and no other.
#[test]
fn no_write_is_decided_wrongly_while_policies_alternate() {
    let scene = scene();
    let mount = scene.mount();
    let folders = ["a", "b"];
    for folder in folders {
        fs::create_dir(mount.path(&format!("rw/{folder}"))).expect("mkdir");
        fs::write(mount.path(&format!("rw/{folder}/f")), "x").expect("write");
    }
    let open = |folder: &str| {
        let path = mount.path(&format!("rw/{folder}/f"));
        OpenOptions::new().write(true).open(path).expect("allowed")
    };
    let handles = folders.map(open);
    let (stop, tries) = (AtomicBool::new(false), AtomicUsize::new(0));
    let hammer = |worker: usize| {
        let handles = folders.map(open);
        while !stop.load(Ordering::Relaxed) {
            for (handle, folder) in handles.iter().zip(folders) {
                let path = mount.path(&format!("rw/{folder}/new-{worker}"));
                let results = [
                    handle.write_all_at(b"y", 0),
                    File::create(&path).and_then(|mut file| file.write_all(b"z")),
                    fs::rename(&path, path.with_extension("moved")),
                ];
                for error in results.into_iter().filter_map(Result::err) {
                    let kind = error.kind();
                    let expected = [ErrorKind::PermissionDenied, ErrorKind::NotFound];
                    assert!(expected.contains(&kind), "{error}");
                }
            }
            tries.fetch_add(1, Ordering::Relaxed);
        }
    };
    let closed = |folder: &str| scene.configure(&denying(&format!("/rw/{folder}/**")));
    let check = |round: usize| {
        let (denies, allows) = (round % 2, (round + 1) % 2);
        closed(folders[denies]);
        assert_eq!(reloaded(&scene)["generation"], round + 2);
        denied(handles[denies].write_all_at(b"n", 0));
        handles[allows].write_all_at(b"y", 0).expect("allowed");
        let path = |which: usize| mount.path(&format!("rw/{}/f", folders[which]));
        denied(OpenOptions::new().write(true).open(path(denies)));
        OpenOptions::new().write(true).open(path(allows)).expect("allowed");
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..4).map(|worker| scope.spawn(move || hammer(worker))).collect();
        let checked =
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| (0..200).for_each(check)));
        stop.store(true, Ordering::Relaxed);
        workers.into_iter().for_each(|worker| worker.join().expect("no other error"));
        checked.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
    assert!(tries.load(Ordering::Relaxed) > 0);
    assert_eq!(status(&scene)["panics"], 0);
    drop(handles);
    mount.unmount();
}

#[test]
fn hits_are_counted_and_begin_anew() {
    let scene = scene();
    let gate = "[gates.over]\nfrom = \"rw\"\nto = \"fast\"\nwho = [\"*\"]\n";
    scene.configure(&(denying("/rw/closed") + gate));
    let mount = scene.mount();
    mount.sh("touch rw/free; : >rw/closed; for i in 1 2 3; do echo x >>rw/closed; done").refused();
    mount.sh("mv rw/free fast/free").ok();
    let table = || fs::read_to_string(mount.path(".audit/policy/hits.tsv")).expect("readable");
    let rows = |text: &str| -> Vec<Vec<String>> {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        lines.map(|line| line.split('\t').map(str::to_owned).collect()).collect()
    };
    let text = table();
    assert!(text.starts_with("# counted since 20"), "{text}");
    let found = rows(&text);
    assert_eq!(found[0], ["kind", "name", "hits", "last"]);
    assert_eq!(found[1][..2], ["rule", "closed"]);
    assert!(found[1][2].parse::<u64>().expect("a number") >= 3, "{text}");
    assert!(found[1][3].starts_with("20") && found[1][3].ends_with('Z'), "{text}");
    assert_eq!(found[2][..2], ["gate", "over"]);
    assert_eq!(
        octroi(["policy", "hits", "--unused", "--view", scene.name()])
            .ok()
            .matches("closed")
            .count(),
        0
    );
    let people = octroi(["policy", "hits", "--view", scene.name()]).ok();
    assert!(people.contains("KIND") && people.contains("closed"), "{people}");
    scene.configure(&(denying("/rw/other") + gate));
    reloaded(&scene);
    assert_eq!(rows(&table())[1], ["rule", "closed", "0", "never"]);
    let json = octroi(["policy", "hits", "--unused", "--json", "--view", scene.name()]).ok();
    let json: Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(
        (json["generation"].as_u64(), json["counted"].as_array().map(Vec::len)),
        (Some(2), Some(2))
    );
    mount.unmount();
}
