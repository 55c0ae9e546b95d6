//! Commands of gates.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use super::{BASE, folder, load_text};
use crate::types::{Check, CheckInput};

fn checks(dir: &Path, tables: &str) -> Result<Vec<Check>, String> {
    let gate = "[gates.a]\nfrom = \"inbox\"\nto = \"review\"\nwho = [\"*\"]";
    let loaded = load_text(dir, &format!("{BASE}\n{gate}\n{tables}"));
    let loaded = loaded.map_err(|errors| errors.render(false))?;
    Ok(loaded.config.policy.gates[0].terms.checks.clone())
}

#[test]
fn checks_have_defaults_and_keep_their_order() {
    let dir = folder();
    let text = r#"
[[gates.a.checks]]
run = ["/bin/sh", "-c", "exit 0"]
[[gates.a.checks]]
run = ["/bin/true"]
input = "path"
timeout = "2m"
memory = "1GiB"
read = ["/usr/share", "/etc/passwd"]
"#;
    let found = checks(dir.path(), text).unwrap();
    let run = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    let first = Check {
        run: run(&["/bin/sh", "-c", "exit 0"]),
        input: CheckInput::Stdin,
        timeout: Duration::from_secs(60),
        memory: 512 << 20,
        read: Vec::new(),
    };
    let second = Check {
        run: run(&["/bin/true"]),
        input: CheckInput::Path,
        timeout: Duration::from_secs(120),
        memory: 1 << 30,
        read: vec!["/usr/share".into(), "/etc/passwd".into()],
    };
    assert_eq!(found, [first, second]);
}

#[test]
fn a_command_is_kept_out_of_branches_and_state() {
    let dir = folder();
    let base = dir.path().canonicalize().unwrap();
    std::fs::create_dir(base.join("state")).unwrap();
    for tool in ["inbox/tool", "tool"] {
        let tool = base.join(tool);
        std::fs::write(&tool, "#!/bin/sh\n").unwrap();
        std::fs::set_permissions(&tool, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    let base = base.display();
    for (table, wanted) in [
        (format!("run = [\"{base}/inbox/tool\"]"), "is in branch inbox"),
        (format!("run = [\"{base}/link/tool\"]"), "is in branch inbox"),
        (format!("run = [\"/bin/true\"]\nread = [\"{base}/review\"]"), "is in branch review"),
        (format!("run = [\"/bin/true\"]\nread = [\"{base}\"]"), "holds branch inbox"),
        (
            format!("run = [\"/bin/true\"]\nread = [\"{base}/state\"]"),
            "is in the state of the view",
        ),
    ] {
        let said = checks(dir.path(), &format!("[[gates.a.checks]]\n{table}")).unwrap_err();
        assert!(said.contains(wanted), "{said}");
    }
    let fine = format!("[[gates.a.checks]]\nrun = [\"{base}/tool\"]\nread = [\"{base}/file\"]");
    assert_eq!(checks(dir.path(), &fine).unwrap().len(), 1);
}

/// Every command sees the system's folders.
#[test]
fn branches_and_state_that_lie_where_commands_see_them_are_refused() {
    let dir = folder();
    let gate = "[gates.a]\nfrom = \"inbox\"\nto = \"review\"\nwho = [\"*\"]";
    let check = "[[gates.a.checks]]\nrun = [\"/bin/true\"]";
    for (old, new, wanted) in [
        ("path = \"scratch\"", "path = \"/usr/share/octroi-no\"", "see branch scratch by /usr"),
        ("path = \"scratch\"", "path = \"/bin/octroi-no\"", "see branch scratch by /"),
        ("state = \"state\"", "state = \"/usr/octroi-no\"", "see the state of the view by /usr"),
    ] {
        let base = BASE.replace(old, new);
        let without = load_text(dir.path(), &format!("{base}\n{gate}\n"));
        assert!(without.is_ok(), "{new}: nobody sees it");
        let said = load_text(dir.path(), &format!("{base}\n{gate}\n{check}\n")).unwrap_err();
        let said = said.render(false);
        assert!(said.contains(wanted) && said.contains("it must lie elsewhere"), "{said}");
    }
}

#[test]
fn a_command_has_a_length() {
    let dir = folder();
    let long = |length: usize| {
        format!("[[gates.a.checks]]\nrun = [\"/bin/true\", \"{}\"]", "x".repeat(length))
    };
    assert!(checks(dir.path(), &long(4000)).is_ok());
    assert!(checks(dir.path(), &long(4100)).unwrap_err().contains("write a script"));
    let nul = "[[gates.a.checks]]\nrun = [\"/bin/true\", \"\\u0000\"]";
    assert!(checks(dir.path(), nul).unwrap_err().contains("NUL"));
}
