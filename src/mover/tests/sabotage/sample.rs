//! Some lines of `tests/SABOTAGE.md`, tried again; all of them must speak of what there is.

use std::process::Command;

use super::*;

/// How many lines are tried.
const SAMPLE: usize = 8;

/// A line of the table: what is done wrong, the test that caught it, and how.
struct Row {
    sabotage: String,
    test: String,
    how: String,
}

fn table() -> Vec<Row> {
    let text = include_str!("../../../../tests/SABOTAGE.md");
    let cells = text.lines().filter(|line| line.starts_with("| `")).map(|line| {
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        Row {
            sabotage: cells[0].trim_matches('`').to_owned(),
            test: cells[1].trim_matches('`').to_owned(),
            how: cells[2].to_owned(),
        }
    });
    cells.collect()
}

/// Fails when a call or a test that the table names is gone: `scripts/prove sabotage` writes the table anew.
#[test]
fn the_table_names_calls_and_tests_that_there_are() {
    let listed = Command::new(std::env::current_exe().unwrap()).arg("--list").output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    for Row { sabotage, test, .. } in table() {
        let line = format!("{test}: test");
        assert!(listed.lines().any(|listed| listed == line), "{sabotage}: no test {test}");
        let words: Vec<&str> = sabotage.split(' ').collect();
        match words[..] {
            ["omit" | "late", file, function, method, n] => {
                let wanted = format!("{function} {method} {n}");
                let calls = calls_in(text_of(file), method);
                assert!(
                    calls.iter().any(|(_, found)| *found == wanted),
                    "{sabotage}: no such call"
                );
            }
            _ => assert!(sabotage.starts_with("point "), "{sabotage}: what is that?"),
        }
    }
}

/// Other lines each day.
#[test]
fn a_sample_of_sabotages_is_caught() {
    if CHOSEN.is_some() || SITES.is_some() {
        return;
    }
    // One that hangs would be noticed late.
    let rows: Vec<Row> = table().into_iter().filter(|row| row.how == "fails").collect();
    let day = jiff::Timestamp::now().as_second() as usize / 86_400;
    let sample = (0..SAMPLE).map(|n| &rows[(day * SAMPLE + n) % rows.len()]);
    for Row { sabotage, test, .. } in sample {
        let mut run = Command::new(std::env::current_exe().unwrap());
        run.args(["--exact", test.as_str()]).env("OCTROI_SABOTAGE", sabotage);
        // As `scripts/prove sabotage` has it.
        run.env("OCTROI_CRASHES", "6000").env("OCTROI_POINTS", "0");
        let ended = run.output().unwrap();
        let said = String::from_utf8_lossy(&ended.stdout);
        assert!(said.contains("running 1 test"), "{sabotage}: there is no test {test}");
        assert!(!ended.status.success(), "{sabotage}: {test} does not notice");
    }
}
