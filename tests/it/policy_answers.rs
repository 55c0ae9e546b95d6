//! What `explain`, `why`, `undo` and `replay` answer is what the mount does and did.

use serde_json::Value;

use crate::harness::{Mount, Scene, octroi, require_root, sh_as};

const VENDOR: &str = r#"
[branches.inbox]
path = "branches/inbox"
[branches.review]
path = "branches/review"
[gates.submit]
from = "inbox"
to = "review"
who = ["*"]
paths = ["**/*.csv"]
types = ["text/plain"]
[rules.vendor-small]
deny = ["write", "rename-target"]
who = ["*"]
paths = ["/inbox/small/**"]
max_file_size = "1KiB"
reason = "small files only"
[rules.no-scripts]
deny = ["rename-target"]
who = ["*"]
paths = ["/inbox/k/**/*.sh"]
reason = "no scripts"
[rules.night]
deny = ["read"]
who = ["*"]
paths = ["/inbox/night/**"]
when = "22:00-23:00 UTC"
reason = "closed"
[rules.pii]
deny = ["read"]
who = ["*", "!user:root"]
labels = ["pii"]
reason = "personal"
"#;

fn vendor() -> Scene {
    require_root();
    Scene::with(&["inbox", "review"], VENDOR)
}

#[track_caller]
fn explain(mount: &Mount, question: &str) -> Value {
    let said = mount.sh(&format!("$OCTROI explain --json {question}")).ok();
    serde_json::from_str(&said).expect("JSON")
}

#[test]
fn why_decides_by_the_size_that_was_denied() {
    let scene = vendor();
    let mount = scene.mount();
    mount.sh("mkdir inbox/small && head -c 2000 /dev/zero >inbox/small/f").refused();
    let said = mount.sh("$OCTROI why").ok();
    assert!(said.contains("by      rule vendor-small"), "{said}");
    assert!(said.contains("* rule vendor-small: denies write-data"), "{said}");
    assert!(!said.contains("* default"), "{said}");
    mount.unmount();
}

#[test]
fn explain_tells_the_limit_and_takes_sizes_labels_and_times() {
    let scene = vendor();
    let mount = scene.mount();
    mount.sh("mkdir inbox/small inbox/night && touch inbox/small/f inbox/night/f inbox/f").ok();
    for operation in ["write", "write-data", "truncate", "fallocate", "add"] {
        let said = explain(&mount, &format!("{operation} inbox/small/f"));
        assert_eq!(said["allowed"], true, "{operation}: {said}");
        assert_eq!(
            (&said["limit"]["bytes"], &said["limit"]["by"]),
            (&1024.into(), &"rule vendor-small".into()),
            "{operation}"
        );
    }
    assert!(
        mount.sh("$OCTROI explain write inbox/small/f").ok().contains("up to   1 KiB, by rule")
    );
    assert_eq!(explain(&mount, "write inbox/f")["limit"], Value::Null);
    let sized = |size: &str| explain(&mount, &format!("write inbox/small/f --size {size}"));
    assert_eq!(sized("1KiB")["allowed"], true);
    assert_eq!(
        (&sized("1025")["allowed"], &sized("1025")["by"]),
        (&false.into(), &"rule vendor-small".into())
    );
    let at = |time: &str| explain(&mount, &format!("read inbox/night/f --at {time}"));
    assert_eq!(at("2026-01-05T22:30:00Z")["by"], "rule night");
    assert_eq!(at("2026-01-05T23:30[UTC]")["allowed"], true);
    let labelled = "--as user:nobody read inbox/f --labels";
    assert_eq!(explain(&mount, &format!("{labelled} draft,pii"))["by"], "rule pii");
    assert_eq!(explain(&mount, &format!("{labelled} draft"))["allowed"], true);
    let labels = explain(&mount, "setxattr inbox/f --changes-labels");
    assert_eq!((&labels["allowed"], &labels["by"]), (&false.into(), &"the guard of labels".into()));
    for (wrong, hint) in [
        ("read inbox/f --size 3", "makes no file larger"),
        ("read inbox/f --changes-labels", "changes no labels"),
        ("write inbox/f --size huge", "a whole number and a unit"),
        ("read inbox/f --at 2026-03-29T02:30[Europe/Paris]", "skip this time"),
    ] {
        let said = mount.sh(&format!("$OCTROI explain {wrong}")).fails(2);
        assert!(said.contains(hint), "{wrong}: {said}");
    }
    mount.unmount();
}

#[test]
fn explain_takes_a_directory_as_target_for_the_name_in_it() {
    let scene = vendor();
    let mount = scene.mount();
    mount.sh("touch inbox/a.csv inbox/b.csv && mkdir inbox/d").ok();
    for target in ["review/", "review", "inbox/d"] {
        let said = explain(&mount, &format!("move inbox/a.csv {target}"));
        assert_eq!(said["allowed"], true, "{target}: {said}");
    }
    let said = explain(&mount, "move inbox/a.csv review/new");
    assert_eq!(said["allowed"], false, "{said}");
    mount.sh("mv inbox/a.csv review/ && mv inbox/b.csv inbox/d").ok();
    // Paths of the view, in a folder of it.
    let view = mount.root().join("inbox");
    let said = sh_as("root", &view, "$OCTROI explain read /inbox/d/b.csv").ok();
    assert!(said.starts_with("allowed"), "{said}");
    mount.unmount();
}

#[test]
fn explain_knows_what_the_view_itself_refuses() {
    let scene = vendor();
    let mount = scene.mount();
    mount.sh("touch inbox/f").ok();
    for (question, attempt) in [
        ("link inbox/f review/f", "ln inbox/f review/f"),
        ("create inbox/.octroi", "touch inbox/.octroi"),
        ("mkdir inbox/.octroi/x", "mkdir inbox/.octroi/x"),
        ("create .audit/x", "touch .audit/x"),
        ("--as nobody read .audit", "setpriv --reuid=65534 ls .audit"),
    ] {
        let said = explain(&mount, question);
        let by = (&said["allowed"], &said["by"]);
        assert_eq!(by, (&false.into(), &"the view itself".into()), "{question}");
        mount.sh(attempt).refused();
    }
    assert_eq!(explain(&mount, "read .audit")["allowed"], true);
    assert_eq!(explain(&mount, "create inbox/d/.octroi")["allowed"], true);
    mount.sh("ls .audit >/dev/null && mkdir inbox/d && touch inbox/d/.octroi").ok();
    mount.unmount();
}

#[test]
fn a_denied_rename_is_told_from_source_to_target() {
    let scene = vendor();
    let mount = scene.mount();
    mount.sh("mkdir -p inbox/k/sub && touch inbox/s.sh").ok();
    mount.sh("mv inbox/s.sh inbox/k/sub/other.sh").refused();
    let said = mount.sh("$OCTROI why inbox/k/sub/other.sh").ok();
    assert!(
        said.contains("rename-target /inbox/s.sh to /inbox/k/sub/other.sh was denied"),
        "{said}"
    );
    let denied = mount.ledger().into_iter().rfind(|line| line["op"] == "rename-target");
    let denied = denied.expect("a record");
    assert_eq!([&denied["path"], &denied["target"]], ["/inbox/s.sh", "/inbox/k/sub/other.sh"]);
    mount.unmount();
}

#[test]
fn a_denied_undo_names_the_rule() {
    let scene = vendor();
    let mount = scene.mount();
    mount.sh("echo x >inbox/a.csv && mv inbox/a.csv review/").ok();
    let closed = "[rules.kept]\ndeny = [\"remove\"]\nwho = [\"*\"]\npaths = [\"/review/**\"]\nreason = \"it stays\"\n";
    scene.configure(&format!("{VENDOR}{closed}"));
    octroi(["reload", "--view", scene.name()]).ok();
    let said = mount.sh("$OCTROI undo").fails(1);
    assert!(
        said.contains("denied by rule kept: it stays") && said.contains("octroi why"),
        "{said}"
    );
    mount.sh("test -e review/a.csv").ok();
    mount.unmount();
}

const OWNED: &str = r#"
[policy]
within = "deny"
[branches.inbox]
path = "branches/inbox"
[branches.review]
path = "branches/review"
mode = "gates-only"
[gates.submit]
from = "inbox"
to = "review"
who = ["*"]
types = ["text/plain"]
[rules.all]
allow = ["read", "write", "add"]
who = ["*"]
[rules.own]
allow = ["remove"]
who = ["*"]
owner = "caller"
"#;

#[test]
fn a_replay_does_not_tell_what_it_would_have_to_look_into() {
    require_root();
    let scene = Scene::with(&["inbox", "review"], OWNED);
    let mount = scene.mount();
    mount.sh_as("nobody", "echo x >inbox/theirs").ok();
    mount.sh("rm -f inbox/theirs").refused();
    mount.sh("cp /bin/true inbox/program && mv inbox/program review/").refused();
    mount.unmount();
    let config = scene.config();
    let config = config.to_str().expect("UTF-8");
    let report = octroi(["policy", "replay", "--json", "--rules", config]).ok();
    let report: Value = serde_json::from_str(&report).expect("JSON");
    for way in ["newly_denied", "newly_allowed"] {
        assert_eq!(report[way]["count"], 0, "{report}");
    }
    let why: Vec<_> =
        report["untold"].as_array().expect("rows").iter().map(|row| &row["why"]).collect();
    let text = format!("{why:?}");
    assert!(
        text.contains("asks for size, owner") && text.contains("found in the file"),
        "{report}"
    );
    let said = octroi([
        "policy",
        "replay",
        "--rules",
        config,
        "--from",
        "2026-02-01",
        "--to",
        "2026-01-01",
    ]);
    assert!(said.fails(2).contains("ends before it begins"));
}

#[test]
fn a_policy_is_tested_without_rights_on_its_branches() {
    require_root();
    let expected = "[[expect]]\nas = \"user:nobody\"\ndo = \"read\"\npath = \"/inbox/a\"\nresult = \"allow\"\nby = \"rule own\"\n";
    let scene = Scene::with(&["inbox", "review"], &format!("{OWNED}{expected}"));
    let base = scene.base();
    let said = sh_as("nobody", base, "$OCTROI policy test view.toml --json");
    let report: Value = serde_json::from_str(&said.out).unwrap_or_else(|_| panic!("{said:?}"));
    assert_eq!(said.code, Some(1), "{said:?}");
    let unmet = &report["unmet"][0];
    assert_eq!((&unmet["do"], &unmet["path"]), (&"open-read".into(), &"/inbox/a".into()));
    assert_eq!(
        (&unmet["expected"], &unmet["got"]),
        (&"allow by rule own".into(), &"allow by rule all".into())
    );
    let text = std::fs::read_to_string(scene.config()).expect("read");
    let line = text.lines().position(|line| line == "result = \"allow\"").expect("a line") + 1;
    assert_eq!(unmet["line"], line);
    std::fs::write(base.join("alone.toml"), expected).expect("written");
    let said = sh_as("nobody", base, "$OCTROI policy test alone.toml").fails(2);
    assert!(said.contains("--config CONFIG"), "{said}");
}

#[test]
fn check_and_reload_answer_in_json_also_when_the_file_is_wrong() {
    let scene = vendor();
    let config = scene.config();
    let config = config.to_str().expect("UTF-8");
    let json = |text: &str| serde_json::from_str::<Value>(text).expect("JSON");
    let said = json(&octroi(["check", "--json", config]).ok());
    assert_eq!((&said["good"], &said["errors"]), (&true.into(), &serde_json::json!([])));
    assert_eq!(said["branches"][1]["name"], "review");
    assert_eq!(said["warnings"][0]["message"], "gate submit leads to a branch that is rw");
    let mount = scene.mount();
    scene.configure(&VENDOR.replace("deny = [\"read\"]", "deny = [\"raed\"]"));
    let checked = octroi(["check", "--json", config]);
    let (said, line) = (json(&checked.out), json(&checked.out)["errors"][0]["line"].as_u64());
    assert_eq!((checked.code, &said["good"], line), (Some(2), &false.into(), Some(27)), "{said}");
    let reloaded = octroi(["reload", "--json", "--view", scene.name()]);
    let said = json(&reloaded.out);
    assert_eq!((reloaded.code, &said["changed"]), (Some(2), &false.into()));
    assert!(said["why"].as_str().expect("a text").contains("raed"), "{said}");
    mount.unmount();
}

#[test]
fn colour_is_for_terminals_and_not_where_it_is_not_wanted() {
    require_root();
    let scene = Scene::with(&["inbox"], "[branches.inbox]\npath = 7\n");
    let at_terminal = |variable: &str| {
        let check = format!("{variable} $OCTROI check view.toml");
        sh_as("root", scene.base(), &format!("TERM=xterm script -qec '{check}' /dev/null")).out
    };
    assert!(at_terminal("NO_COLOR=").contains("\u{1b}["));
    let plain = at_terminal("NO_COLOR=1");
    assert!(plain.contains("must be a string") && !plain.contains("\u{1b}["), "{plain}");
}

/// A rule holds for a file by all its names, also those in folders where others may not look.
#[test]
fn no_name_is_told_where_who_asks_may_not_look() {
    require_root();
    let body = "[branches.inbox]\npath = \"branches/inbox\"\n\
        [branches.review]\npath = \"branches/review\"\n\
        [gates.submit]\nfrom = \"inbox\"\nto = \"review\"\nwho = [\"*\"]\n\
        [[gates.submit.checks]]\nrun = [\"/bin/sh\", \"-c\", \"tail -n 1; exit 1\"]\n\
        [rules.private]\ndeny = [\"read\"]\nwho = [\"user:nobody\"]\npaths = [\"/inbox/private/**\"]\n\
        reason = \"it is private\"\n";
    let scene = Scene::with(&["inbox", "review"], body);
    let mount = scene.mount();
    mount
        .sh("chmod 777 inbox review; mkdir -p inbox/private/plans; echo secret >inbox/private/plans/merger.txt; \
             chmod 700 inbox/private; mkdir -m 777 inbox/pub; ln inbox/private/plans/merger.txt inbox/pub/x; \
             cat inbox/private/plans/merger.txt inbox/pub/x")
        .ok();
    mount.sh_as("nobody", "cat inbox/pub/x").refused();
    for ask in ["why -v", "explain read inbox/pub/x", "explain -v write inbox/pub/x"] {
        let said = mount.sh_as("nobody", &format!("$OCTROI {ask} 2>&1 || true")).ok();
        assert!(!said.contains("plans") && !said.contains("merger"), "{ask}: {said}");
        assert!(ask.contains("write") || said.contains("rule private"), "{ask}: {said}");
    }
    // Nor is what a rule keeps from being read told by a check.
    mount.sh("chmod 777 inbox/private inbox/private/plans; rm inbox/pub/x").ok();
    let said = mount
        .sh_as("nobody", "$OCTROI mv inbox/private/plans/merger.txt review/ 2>&1; $OCTROI why 2>&1")
        .out;
    assert!(said.contains("exit code 1") && !said.contains("secret"), "{said}");
    mount.sh("echo open >inbox/pub/open; chmod 666 inbox/pub/open").ok();
    let said = mount.sh_as("nobody", "$OCTROI mv inbox/pub/open review/ 2>&1 || true").ok();
    assert!(said.contains("saying: open"), "{said}");
    mount.unmount();
}
