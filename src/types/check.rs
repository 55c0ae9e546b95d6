//! A command that must accept what crosses.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// `[[gates.NAME.checks]]` after it was validated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// The program, an absolute path, and its arguments.
    pub run: Vec<String>,
    /// How it gets the content.
    pub input: CheckInput,
    /// How long it may take, of the clock on the wall.
    pub timeout: Duration,
    /// Bytes of memory for all its processes together.
    pub memory: u64,
    /// What it may read beside the content, the program and the system's libraries; absolute.
    pub read: Vec<PathBuf>,
}

/// How a command gets the content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CheckInput {
    /// As a pipe on its standard input.
    Stdin,
    /// As a file that cannot be written, whose path is its last argument.
    Path,
}

/// Characters of a command that are shown.
const SHOWN_MAX: usize = 60;

impl fmt::Display for Check {
    /// See [`shown_command`].
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&shown_command(&self.run))
    }
}

/// A command as one would type it, on one line, and of a long one the beginning, at most 60 characters.
pub fn shown_command<W: AsRef<str>>(run: &[W]) -> String {
    let words: Vec<String> = run.iter().map(|word| quoted(word.as_ref())).collect();
    let line = words.join(" ").replace(|c: char| c.is_control(), " ");
    let line = line.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.chars().count() <= SHOWN_MAX {
        return line;
    }
    let shown: String = line.chars().take(SHOWN_MAX.saturating_sub(1)).collect();
    format!("{}…", shown.trim_end())
}

fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=+,@%".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn shown(run: &[&str], wanted: &str) {
        let run = run.iter().map(|word| (*word).to_owned()).collect();
        let (input, timeout) = (CheckInput::Stdin, Duration::from_secs(1));
        let check = Check { run, input, timeout, memory: 0, read: Vec::new() };
        assert_eq!(check.to_string(), wanted);
    }

    #[test]
    fn a_command_is_shown_as_one_would_type_it() {
        shown(&["/bin/sh", "-c", "grep -c 'a'", ""], r"/bin/sh -c 'grep -c '\''a'\''' ''");
        shown(&["/bin/sh", "-c", "one\n  two\u{1b}[3m"], "/bin/sh -c 'one two [3m'");
        shown(&["/bin/true", &"ä".repeat(200)], &format!("/bin/true '{}…", "ä".repeat(48)));
        shown(&["/bin/true", &"x".repeat(50)], &format!("/bin/true {}", "x".repeat(50)));
        shown(&["/bin/true", &"x".repeat(51)], &format!("/bin/true {}…", "x".repeat(49)));
        let script = "if grep -q BEGIN; then\n  echo found a key\n  exit 1\nfi\nexit 0";
        let wanted = "/bin/sh -c 'if grep -q BEGIN; then echo found a key exit 1…";
        shown(&["/bin/sh", "-c", script], wanted);
    }
}
