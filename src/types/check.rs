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

impl fmt::Display for Check {
    /// The command as one would type it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, word) in self.run.iter().enumerate() {
            let space = if at == 0 { "" } else { " " };
            let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=+,@%".contains(c);
            if !word.is_empty() && word.chars().all(is_plain) {
                write!(f, "{space}{word}")?;
            } else {
                write!(f, "{space}'{}'", word.replace('\'', r"'\''"))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_shown_as_one_would_type_it() {
        let run = ["/bin/sh", "-c", "grep -c 'a'", ""].map(str::to_owned).to_vec();
        let (input, timeout) = (CheckInput::Stdin, Duration::from_secs(1));
        let check = Check { run, input, timeout, memory: 0, read: Vec::new() };
        assert_eq!(check.to_string(), r"/bin/sh -c 'grep -c '\''a'\''' ''");
    }
}
