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
        ("mv rw/f rw/shut/g", "rename-target", ["/rw/shut/g", "/rw/f"], "rule no-new-names"),
        ("mv -f rw/f rw/keep", "unlink", ["/rw/keep", "/rw/f"], "rule keep"),
    ] {
        assert!(mount.sh(attempt).refused().contains("Permission denied"), "{attempt}");
        let why = octroi(["why", "--json", "--view", view]).ok();
        let why: Value = serde_json::from_str(&why).expect("JSON");
        assert_eq!(
            (&why["operation"], &why["explanation"]["by"]),
            (&operation.into(), &rule.into())
        );
        assert_eq!([&why["path"], &why["target"]], paths, "{attempt}");
        let considered = why["explanation"]["considered"].as_array().expect("a list");
        let denies = considered.iter().any(|one| one["what"] == rule && one["applies"] == true);
        assert!(denies, "{attempt}: {considered:?}");
    }
    mount.unmount();
}
