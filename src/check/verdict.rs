//! What came of a command.

use std::fmt;
use std::time::Duration;

use crate::types::binary_size;

/// How a command ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Exit code 0, and no process of it was left.
    Passed,
    /// Another exit code.
    Exit(i32),
    /// A signal ended it.
    Signal(i32),
    /// It took longer than it may.
    TimedOut(Duration),
    /// It wrote more than so many bytes.
    Flooded(u64),
    /// All its processes together used more memory than so many bytes.
    Memory(u64),
    /// It ended, and left processes running.
    LeftProcesses,
    /// It could not be run, for this reason.
    NotRun(String),
    /// Whoever asked for the crossing has stopped it.
    Cancelled,
}

/// How a command ended, and what it said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// How it ended.
    pub outcome: Outcome,
    /// The beginning of the last line of its output that is not blank, safe to print.
    pub last_line: Option<String>,
    /// How long it took.
    pub took: Duration,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Passed => f.write_str("passed"),
            Self::Exit(code) => write!(f, "exit code {code}"),
            Self::Signal(signal) => write!(f, "ended by signal {signal}"),
            Self::TimedOut(limit) => write!(f, "not finished after {} s", limit.as_secs()),
            Self::Flooded(limit) => write!(f, "more than {} of output", binary_size(*limit)),
            Self::Memory(limit) => write!(f, "more than {} of memory", binary_size(*limit)),
            Self::LeftProcesses => f.write_str("it left processes running"),
            Self::NotRun(why) => write!(f, "it could not be run: {why}"),
            Self::Cancelled => f.write_str("stopped"),
        }
    }
}
