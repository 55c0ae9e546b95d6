//! The checks of the worked policies, asked about contents that are good and bad.

use std::fs;

use octroi::check::Outcome;
use toml::Value;

use super::Shut;

/// A command with the check of an example's one gate.
fn example(name: &str) -> Shut {
    let file = format!("{}/config/examples/{name}.toml", env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(file).expect("the example");
    let config: toml::Table = text.parse().expect("TOML");
    let gates = config["gates"].as_table().expect("gates");
    let check = &gates.values().next().expect("a gate")["checks"][0];
    let run = check["run"].as_array().expect("a list").iter();
    let mut shut = Shut::script("");
    shut.check.run = run.map(|word| word.as_str().expect("a string").to_owned()).collect();
    assert!(check.get("input").and_then(Value::as_str).is_none_or(|input| input == "stdin"));
    shut
}

#[track_caller]
fn check(name: &str, content: &str, outcome: Outcome, line: Option<&str>) {
    let shut = example(name);
    fs::write(shut.file(), content).expect("write");
    let verdict = shut.run();
    assert_eq!((verdict.outcome, verdict.last_line.as_deref()), (outcome, line), "{content}");
}

#[test]
fn tables_with_rows_of_one_length_pass() {
    let table = |content, outcome, line| check("table-lint", content, outcome, Some(line));
    table("a,b\n1,2\n3,\n", Outcome::Passed, "2 rows of 2 fields");
    table("a,b\n1,2\n3\n4,5", Outcome::Exit(1), "row 3 has 1 fields, the first has 2");
    table("a,b\n1,2,3", Outcome::Exit(1), "row 2 has 3 fields, the first has 2");
    table("a,b\n", Outcome::Exit(1), "no rows");
    table("", Outcome::Exit(1), "no rows");
}

#[test]
fn contents_with_secrets_do_not_pass_and_are_not_repeated() {
    for fine in
        ["", "a report\n", "the password is asked for\n", "token: none\n", "\u{0}\u{1}\u{2}"]
    {
        check("secrets-scan", fine, Outcome::Passed, None);
    }
    for secret in [
        "-----BEGIN OPENSSH PRIVATE KEY-----",
        "-----BEGIN PRIVATE KEY-----",
        "key AKIAIOSFODNN7EXAMPLE",
        &format!("x=ghp_{}", "a".repeat(36)),
        &format!("AIza{}", "b".repeat(35)),
        "xoxb-1234567890-abc",
        "password = \"correct horse\"",
        "  \"client_secret\": 'correcthorse'",
        "API_TOKEN=0123456789",
        &format!("eyJ{}.eyJ{}.x", "c".repeat(12), "d".repeat(12)),
        "\u{0}\u{1}binary AKIAIOSFODNN7EXAMPLE",
    ] {
        let line = Some("looks like a secret: line 2");
        check("secrets-scan", &format!("first\n{secret}\nlast\n"), Outcome::Exit(1), line);
    }
}
