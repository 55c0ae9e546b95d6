//! Expectations in a file of their own.

use std::path::Path;

use super::super::expect::load_expectations_with;
use super::{BASE, accounts, folder, load_text};
use crate::config::{Expectations, Found, Machine, find, load_with};
use crate::policy::Policy;

/// What is said about a file of expectations, beside the configuration that has [`BASE`] and a rule.
fn load_expected(dir: &Path, text: &str) -> Result<(Expectations, Policy), String> {
    let rule = "[rules.stay]\ndeny = [\"remove\"]\nwho = [\"curators\"]\nreason = \"stay\"\n";
    let config = load_text(dir, &format!("{BASE}\n{rule}")).unwrap().config;
    let file = dir.join("expected.toml");
    std::fs::write(&file, text).unwrap();
    let expected =
        load_expectations_with(&file, &config, &accounts).map_err(|errors| errors.render(false))?;
    Ok((expected, Policy::new(config.policy, 1).unwrap()))
}

#[test]
fn expectations_can_have_a_file_of_their_own() {
    let dir = folder();
    let text = r#"
[[expect]]
as = "user:ana"
groups = []
do = "remove"
path = "/inbox/a"
result = "deny"
by = "rule stay"
[[expect]]
as = "user:ben"
groups = ["group:curators"]
do = "remove"
path = "/inbox/a"
result = "allow"
at = "2026-01-05T09:00[Europe/Paris]"
"#;
    let (expected, policy) = load_expected(dir.path(), text).unwrap();
    assert_eq!(expected.list[1].facts.now, "2026-01-05T08:00:00Z".parse().unwrap());
    let unmet = expected.unmet(&policy);
    let [unmet] = unmet.as_slice() else { panic!("one is not met: {unmet:?}") };
    assert_eq!(
        unmet.message,
        "expect 2, line 9: unlink of /inbox/a for uid 1002 must be allowed, but is denied by rule stay: stay"
    );
    assert_eq!(unmet.line(), Some(14));
    for (text, wanted) in [
        ("[view]\nname = \"lab\"\n[[expect]]\n", "unknown key view"),
        ("[[expect]]\nas = \"user:ana\"\nby = \"rule sty\"\n", "did you mean `rule stay`?"),
        ("[[expect]\n", "not valid TOML"),
    ] {
        let said = load_expected(dir.path(), text).unwrap_err();
        assert!(said.contains(wanted), "{said}");
    }
}

/// This machine, and on it ClamAV whether it is there or not.
fn with_clamav(path: &Path) -> std::io::Result<Found> {
    let found = |is_file| Found { real: path.to_owned(), is_file, is_executable: true };
    match path.to_str() {
        Some("/usr/bin/clamscan") => Ok(found(true)),
        Some("/var/lib/clamav") => Ok(found(false)),
        _ => find(path),
    }
}

/// The policies that the README works out: each loads, and says what it is expected to say.
#[test]
fn the_worked_policies_are_what_they_say() {
    let examples = concat!(env!("CARGO_MANIFEST_DIR"), "/config/examples");
    let mut seen = 0;
    for entry in std::fs::read_dir(examples).unwrap() {
        let file = entry.unwrap().path();
        let name = file.display();
        let dir = tempfile::tempdir().unwrap();
        let text = std::fs::read_to_string(&file).unwrap();
        for line in text.lines() {
            if let Some(path) = line.strip_prefix("path = \"branches/") {
                let path = path.split('"').next().unwrap();
                std::fs::create_dir_all(dir.path().join("branches").join(path)).unwrap();
            }
        }
        let config = dir.path().join("lab.toml");
        std::fs::write(&config, &text).unwrap();
        let machine = Machine { resolve: &accounts, find: &with_clamav };
        let loaded =
            load_with(&config, machine).unwrap_or_else(|errors| panic!("{name}: {errors}"));
        // A gate that leads back to where people work is meant.
        let mut doubts = loaded.warnings.iter().map(|warning| &warning.message);
        assert!(doubts.all(|doubt| doubt == "gate reject leads to a branch that is rw"), "{name}");
        let expectations = loaded.config.expectations;
        let policy = Policy::new(loaded.config.policy, 1).unwrap();
        let unmet = expectations.unmet(&policy);
        assert!(unmet.is_empty(), "{name}: {unmet:?}");
        let allowed = expectations.list.iter().filter(|expected| expected.allowed).count();
        assert!(allowed > 0 && allowed < expectations.list.len(), "{name} expects too little");
        seen += 1;
    }
    assert!(seen >= 7, "{seen} examples");
}
