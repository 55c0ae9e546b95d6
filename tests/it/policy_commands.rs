//! What the commands about a policy say of it: why, hits, test and replay.

use serde_json::Value;

use crate::harness::{Scene, octroi, require_root};

const TWO_SIDED: &str = r#"
[branches.rw]
path = "branches/rw"
[rules.no-links]
deny = ["link"]
who = ["*"]
paths = ["/rw/sub/**"]
reason = "no links"
[rules.no-new-names]
deny = ["rename-target"]
who = ["*"]
paths = ["/rw/shut/**"]
reason = "no names"
[rules.keep]
deny = ["unlink"]
who = ["*"]
paths = ["/rw/keep"]
reason = "kept"
"#;

#[test]
fn why_names_both_sides_and_what_denied_one_of_them() {
    require_root();
    let scene = Scene::with(&["rw"], TWO_SIDED);
    let mount = scene.mount();
    mount.sh("mkdir rw/sub rw/shut; touch rw/f rw/keep").ok();
    let view = scene.name();
    for (attempt, operation, paths, rule) in [
        ("ln rw/f rw/sub/g", "link", ["/rw/f", "/rw/sub/g"], "rule no-links"),
        ("mv rw/f rw/shut/g", "rename-target", ["/rw/f", "/rw/shut/g"], "rule no-new-names"),
        ("mv -f rw/f rw/keep", "unlink", ["/rw/keep", ""], "rule keep"),
    ] {
        assert!(mount.sh(attempt).refused().contains("Permission denied"), "{attempt}");
        let why = octroi(["why", "--json", "--view", view]).ok();
        let why: Value = serde_json::from_str(&why).expect("JSON");
        assert_eq!(
            (&why["operation"], &why["explanation"]["by"]),
            (&operation.into(), &rule.into())
        );
        let told = ["path", "target"].map(|key| why[key].as_str().unwrap_or_default());
        assert_eq!(told, paths, "{attempt}");
        let considered = why["explanation"]["considered"].as_array().expect("a list");
        let denies = considered.iter().any(|one| one["what"] == rule && one["applies"] == true);
        assert!(denies, "{attempt}: {considered:?}");
    }
    mount.unmount();
}

const OLD: &str = r#"
[branches.inbox]
path = "branches/inbox"
[branches.review]
path = "branches/review"
mode = "gates-only"
[gates.submit]
from = "inbox"
to = "review"
who = ["*"]
[rules.no-scripts]
deny = ["create"]
who = ["*"]
paths = ["/inbox/**/*.sh"]
reason = "no scripts"
"#;

/// A view with a small ledger that says what follows, and is not mounted any more.
fn recorded() -> Scene {
    require_root();
    let scene = Scene::with(&["inbox", "review"], OLD);
    let mount = scene.mount();
    mount.sh("mkdir inbox/d && touch inbox/a inbox/d/b inbox/d/c && rm inbox/a").ok();
    mount.sh("echo x >inbox/x.sh").refused();
    mount.sh_as("nobody", "echo x >inbox/d/y.sh").refused();
    mount.sh("touch inbox/e.csv inbox/f.txt && mv inbox/e.csv inbox/f.txt review/").ok();
    mount.sh("mkdir inbox/t && touch inbox/t/g.csv && mv inbox/t review/").ok();
    mount.sh("touch inbox/g && ln inbox/g inbox/d/linked && mv inbox/g inbox/d/named").ok();
    mount.sh("touch review/no").refused();
    mount.unmount();
    scene
}

/// `octroi policy replay` by a configuration that is written beside the view's.
#[track_caller]
fn replay(scene: &Scene, body: &str, arguments: &[&str]) -> Value {
    let new = scene.base().join("new.toml");
    let own = std::fs::read_to_string(scene.config()).expect("read");
    let view = own.split("[branches").next().expect("a table");
    std::fs::write(&new, format!("{view}{body}")).expect("written");
    let new = new.to_str().expect("UTF-8");
    let line = ["policy", "replay", "--json", "--rules", new].into_iter();
    let text = octroi(line.chain(arguments.iter().copied())).ok();
    serde_json::from_str(&text).expect("JSON")
}

fn keys(report: &Value, way: &str, group: &str) -> Vec<(String, u64)> {
    let rows = report[way][group].as_array().expect("rows");
    let row = |row: &Value| {
        let key = &row["key"];
        let key = key.as_str().or(key["name"].as_str()).expect("a key").to_owned();
        (key, row["count"].as_u64().expect("a count"))
    };
    rows.iter().map(row).collect()
}

#[test]
fn a_replay_by_the_same_configuration_finds_no_difference() {
    let scene = recorded();
    let config = scene.config();
    let view = config.to_str().expect("UTF-8");
    for arguments in [vec![], vec!["--view", view]] {
        let report = replay(&scene, OLD, &arguments);
        assert_eq!(report["same"], report["records"], "{report}");
        assert!(report["records"].as_u64().expect("a number") >= 18, "{report}");
        for way in ["newly_denied", "newly_allowed"] {
            assert_eq!((&report[way]["count"], &report[way]["seq"]), (&0.into(), &Value::Null));
        }
        assert_eq!(report["untold"], serde_json::json!([]));
    }
}

#[test]
fn a_replay_groups_what_would_be_decided_otherwise() {
    let scene = recorded();
    let new = OLD
        .replace("who = [\"*\"]\n[rules", "who = [\"*\"]\npaths = [\"**/*.csv\"]\n[rules")
        .replace("who = [\"*\"]\npaths = [\"/inbox", "who = [\"user:nobody\"]\npaths = [\"/inbox")
        + "[rules.d-stays]\ndeny = [\"add\"]\nwho = [\"*\"]\npaths = [\"/inbox/d/**\"]\nreason = \"r\"\n";
    let report = replay(&scene, &new, &[]);
    let denied = keys(&report, "newly_denied", "by");
    // Two files, a link and a new name in d; a file that is no csv.
    let expected = [("rule d-stays".to_owned(), 4), ("no gate (then gate submit)".to_owned(), 1)];
    assert_eq!(denied, expected, "{report}");
    assert_eq!(keys(&report, "newly_denied", "callers"), [("root".to_owned(), 5)]);
    let folders = keys(&report, "newly_denied", "folders");
    assert!(folders.contains(&("/inbox/d".to_owned(), 2)), "{folders:?}");
    let allowed = keys(&report, "newly_allowed", "by");
    assert_eq!(allowed, [("default (then rule no-scripts)".to_owned(), 1)], "{report}");
    assert_eq!(keys(&report, "newly_allowed", "folders"), [("/inbox".to_owned(), 1)]);
    // The example is the record.
    let seq = report["newly_allowed"]["by"][0]["seq"].as_u64().expect("a seq");
    let config = scene.config();
    let ledger = octroi(["audit", "tail", "-n", "1000", "--view", config.to_str().expect("UTF-8")]);
    let line = ledger.ok().lines().find_map(|line| {
        let line: Value = serde_json::from_str(line).expect("JSON");
        (line["seq"] == seq).then_some(line)
    });
    let line = line.expect("in the ledger");
    assert_eq!((&line["path"], &line["op"]), (&"/inbox/x.sh".into(), &"create".into()));
}

/// Also where the record of what was written stands for the first write.
#[test]
fn a_replay_judges_each_file_that_was_written() {
    require_root();
    let scene = Scene::with(&["inbox", "review"], OLD);
    let mount = scene.mount();
    mount.sh("for i in 1 2 3 4 5; do echo x >inbox/$i; done").ok();
    mount.unmount();
    let new = OLD.to_owned()
        + "[rules.closed]\ndeny = [\"write\"]\nwho = [\"*\"]\npaths = [\"/inbox/*\"]\nreason = \"r\"\n";
    let denied = keys(&replay(&scene, &new, &[]), "newly_denied", "by");
    assert_eq!(denied, [("rule closed".to_owned(), 5)]);
}

#[test]
fn a_replay_is_of_the_time_that_is_asked_for_and_of_the_same_places() {
    let scene = recorded();
    assert_eq!(replay(&scene, OLD, &["--to", "2020-01-01"])["records"], 0);
    let all = replay(&scene, OLD, &[]);
    assert_eq!(replay(&scene, OLD, &["--from", "2020-01-01T10:00:00Z"]), all);
    let other = OLD.replace("[branches.review]", "[branches.review]\nat = \"/elsewhere\"");
    let report = replay(&scene, &other, &[]);
    let [untold] = report["untold"].as_array().expect("a list").as_slice() else {
        panic!("{report}")
    };
    assert!(untold["why"].as_str().expect("words").contains("does not have there"), "{untold}");
    let (config, new) = (scene.config(), scene.base().join("new.toml"));
    let paths = [&config, &new].map(|path| path.to_str().expect("UTF-8"));
    let line = ["policy", "replay", "--rules", paths[1], "--view", paths[0]];
    let said = octroi(line).fails(2);
    assert!(said.contains("the view has review at /review; it has review at /elsewhere"), "{said}");
    std::fs::write(&new, "nonsense").expect("written");
    assert!(octroi(line).fails(2).contains("new.toml:1"));
    let said = octroi(["policy", "replay", "--rules", paths[0], "--from", "lately"]).fails(2);
    assert!(said.contains("neither a date"), "{said}");
}

#[test]
fn a_replay_of_a_mounted_view_is_for_who_may_read_its_ledger() {
    let scene = recorded();
    let mount = scene.mount();
    // Where its branches would lie does not matter, but whoever replays must be able to look.
    let report = replay(&scene, &OLD.replace("branches/", "plain/"), &["--view", scene.name()]);
    let new = scene.base().join("new.toml").display().to_string();
    let line = format!("$OCTROI policy replay --rules {new} --view {}", scene.name());
    assert!(mount.sh_as("nobody", &line).fails(1).contains("audit.readers"));
    scene.configure(&format!("{OLD}[audit]\nreaders = [\"user:nobody\"]\n"));
    octroi(["reload", "--view", scene.name()]).ok();
    let theirs = mount.sh_as("nobody", &format!("{line} --json")).ok();
    assert_eq!(serde_json::from_str::<Value>(&theirs).expect("JSON"), report);
    mount.unmount();
}

const EXPECTED: &str = r#"
[[expect]]
as = "user:nobody"
do = "create"
path = "/inbox/a.sh"
result = "deny"
by = "rule no-scripts"
[[expect]]
as = "user:nobody"
do = "move"
path = "/inbox/a"
target = "/review/a"
result = "allow"
"#;

#[test]
fn expectations_are_tested_with_nothing_mounted() {
    let scene = Scene::with(&["inbox", "review"], &format!("{OLD}{EXPECTED}"));
    let config = scene.config();
    let config = config.to_str().expect("UTF-8");
    assert_eq!(octroi(["policy", "test", config]).ok(), "2 of 2 expectations met\n");
    // Of another policy, by a file of its own.
    let apart = scene.base().join("expected.toml");
    std::fs::write(&apart, EXPECTED).expect("written");
    let apart = apart.to_str().expect("UTF-8");
    scene.configure(&OLD.replace("**/*.sh", "**/*.bat"));
    let ended = octroi(["policy", "test", apart, "--config", config]);
    assert_eq!(ended.code, Some(1));
    let said = "must be denied by rule no-scripts, but is allowed by default";
    assert!(ended.out.contains(said) && ended.out.contains("expected.toml:6"), "{}", ended.out);
    assert!(ended.out.ends_with("1 of 2 expectations met\n"), "{}", ended.out);
    assert!(ended.err.contains("does not meet 1 of 2"), "{}", ended.err);
    let ended = octroi(["policy", "test", apart, "--config", config, "--json"]);
    let report: Value = serde_json::from_str(&ended.out).expect("JSON");
    assert_eq!(
        (ended.code, &report["expectations"], &report["met"]),
        (Some(1), &2.into(), &1.into())
    );
    assert!(report["unmet"][0]["message"].as_str().expect("a text").contains(said));
    // None at all, and mistakes.
    assert!(octroi(["policy", "test", config]).fails(2).contains("it expects nothing"));
    std::fs::write(apart, EXPECTED.replace("nobody", "no-such-user")).expect("written");
    let said = octroi(["policy", "test", apart, "--config", config]).fails(2);
    assert!(said.contains("no user is called"), "{said}");
    assert!(octroi(["policy", "test", "/no/such.toml"]).fails(2).contains("/no/such.toml"));
}
