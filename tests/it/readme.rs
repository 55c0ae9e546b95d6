//! The README's commands, run in order, print what the README says.
//!
//! Blocks marked `console` are one session. What differs from run to run (times, transaction ids,
//! process ids, sizes of disks, the folder) is replaced on both sides before comparing.

use std::fmt::Write as _;
use std::fs;

use crate::harness::{OCTROI, Scene, require_root, sh};

/// A command and what follows it in the README.
struct Step {
    command: String,
    output: String,
}

fn session() -> Vec<Step> {
    let readme = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md"));
    let readme = readme.expect("the README");
    let mut steps: Vec<Step> = Vec::new();
    let mut inside = false;
    for line in readme.lines() {
        match (line, inside) {
            ("```console", _) => inside = true,
            ("```", _) => inside = false,
            (_, false) => {}
            (line, true) => match line.strip_prefix("$ ") {
                Some(command) => {
                    steps.push(Step { command: command.to_owned(), output: String::new() });
                }
                None => {
                    let step = steps.last_mut().expect("output comes after a command");
                    step.output += line;
                    step.output += "\n";
                }
            },
        }
    }
    steps
}

/// The session at a terminal, in a mount namespace without other views: what a reader has.
const ALONE: &str = "findmnt -rno TARGET -t fuse.octroi | xargs -r -n1 umount -l; \
                     mkdir srv && cd srv && TERM=dumb script -qec \"bash <../session\" /dev/null";

/// Runs all commands in one shell; the outputs, one a command.
fn outputs(scene: &Scene, steps: &[Step]) -> Vec<String> {
    let mark = "---next-command---";
    let bin = scene.base().join("bin");
    fs::create_dir(&bin).expect("mkdir");
    std::os::unix::fs::symlink(OCTROI, bin.join("octroi")).expect("symlink");
    let mut script = format!("PATH={}:$PATH\nexec 2>&1\n", bin.display());
    for step in steps {
        writeln!(script, "{}\necho {mark}", step.command).expect("a string");
    }
    let guard = "trap 'fusermount3 -uz mnt 2>/dev/null' EXIT\n";
    // From a file read as standard input, so that errors are those of an interactive `bash:`.
    fs::write(scene.base().join("session"), format!("{guard}{script}")).expect("write");
    let all = sh(scene.base(), &format!("unshare -m --propagation private bash -c '{ALONE}'")).ok();
    let all = all.replace('\r', "");
    all.split(&format!("{mark}\n")).map(str::to_owned).collect()
}

/// The words, with what may differ replaced.
fn normal(text: &str, folder: &str) -> Vec<String> {
    let text = text.replace(folder, "/srv");
    let words = |line: &str| -> String {
        let plain = line.split_whitespace().map(|word| {
            let core = word.trim_matches(|c: char| !c.is_ascii_alphanumeric());
            let digits = core.chars().filter(char::is_ascii_digit).count();
            let is_txid =
                core.len() == 26 && digits > 0 && core.chars().all(|c| c.is_ascii_alphanumeric());
            let is_time =
                core.len() >= 8 && core.chars().all(|c| c.is_ascii_digit() || "-:".contains(c));
            let is_number = digits == core.chars().filter(|c| *c != '.').count() && digits > 0;
            match (is_txid, is_time, is_number) {
                (true, _, _) => "TXID",
                (_, true, _) => "TIME",
                (_, _, true) => "NUMBER",
                _ => word,
            }
        });
        plain.collect::<Vec<_>>().join(" ")
    };
    // `bash: line 7: x` is `bash: x` for a person at the terminal.
    let terminal = |line: String| match line.strip_prefix("bash: line NUMBER ") {
        Some(rest) => format!("bash: {rest}"),
        None => line,
    };
    let lines = text.lines().map(|line| terminal(words(line)));
    // Columns depend on the terminal: words are compared, not lines.
    lines.flat_map(|line| line.split(' ').map(str::to_owned).collect::<Vec<_>>()).collect()
}

#[test]
fn the_readme_shows_what_really_happens() {
    require_root();
    let steps = session();
    assert!(steps.len() > 15, "the README lost its session");
    let scene = Scene::new();
    let outputs = outputs(&scene, &steps);
    let folder = scene.base().join("srv").display().to_string();
    for (step, output) in steps.iter().zip(&outputs) {
        assert_eq!(
            normal(output, &folder),
            normal(&step.output, "/srv"),
            "the README and octroi differ (left: octroi) in: {}",
            step.command
        );
    }
    assert_eq!(outputs.len(), steps.len() + 1, "the session ended early");
}

#[test]
fn the_readme_lists_every_key_and_no_other() {
    let readme = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md"));
    let readme = readme.expect("the README");
    for key in octroi::config::KEYS {
        let (section, last) = key.name.rsplit_once('.').expect("a dotted name");
        let listed = readme.contains(&format!("`{}`", key.name))
            || readme.lines().any(|line| {
                line.starts_with(&format!("| `{section}.")) && line.contains(&format!("`{last}`"))
            });
        assert_eq!(listed, key.implemented, "{}: listed in the README: {listed}", key.name);
    }
}
