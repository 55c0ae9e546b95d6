//! How a command ends when it does not do what was asked: one line, a hint, an exit code.

use std::fmt;

use super::output::plain;

/// Exit codes of all commands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitCode {
    /// Done.
    Done = 0,
    /// It failed.
    Failed = 1,
    /// The command line or the configuration is wrong.
    Usage = 2,
    /// SIGINT ended it, as a shell reports it.
    Interrupted = 130,
    /// SIGTERM ended it.
    Terminated = 143,
}

impl From<ExitCode> for std::process::ExitCode {
    fn from(code: ExitCode) -> Self {
        Self::from(code as u8)
    }
}

/// Why a command ends; only `main` prints it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The exit code.
    pub code: ExitCode,
    /// `cannot ATTEMPT WHAT: WHY`, or diagnostics that were rendered for a terminal.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
    /// The message is rendered diagnostics and printed as it is.
    pub rendered: bool,
}

impl Failure {
    /// A failure. Text after a line that begins with `hint: ` is the hint.
    pub fn new(message: impl fmt::Display) -> Self {
        let text = message.to_string();
        let (message, hint) = match text.split_once("\nhint: ") {
            Some((message, hint)) => (message.to_owned(), Some(hint.to_owned())),
            None => (text, None),
        };
        Self { code: ExitCode::Failed, message, hint, rendered: false }
    }

    /// A mistake on the command line or in the configuration.
    pub fn usage(message: impl fmt::Display) -> Self {
        Self { code: ExitCode::Usage, ..Self::new(message) }
    }

    /// Diagnostics of a configuration, ready for the terminal.
    pub fn diagnostics(text: String) -> Self {
        Self { code: ExitCode::Usage, message: text, hint: None, rendered: true }
    }

    /// The same with a hint.
    #[must_use]
    pub fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.rendered {
            return f.write_str(self.message.trim_end());
        }
        // One line that is safe for a terminal, whatever a path or an error of the system holds.
        let one_line = |text: &str| plain(&text.replace(['\n', '\r'], " "));
        write!(f, "octroi: {}", one_line(&self.message))?;
        match &self.hint {
            Some(hint) => write!(f, "\nhint: {}", one_line(hint)),
            None => Ok(()),
        }
    }
}

/// For `map_err`: `cannot ATTEMPT WHAT: the error`.
pub fn cannot<E: fmt::Display>(attempt: impl fmt::Display) -> impl FnOnce(E) -> Failure {
    move |error| Failure::new(format!("cannot {attempt}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_one_line_and_a_hint() {
        let failure = Failure::new("branch a: is\nopen\nhint: close it");
        assert_eq!(failure.to_string(), "octroi: branch a: is open\nhint: close it");
        let failure = cannot::<&str>("open x")("gone");
        assert_eq!(failure.to_string(), "octroi: cannot open x: gone");
        assert_eq!(failure.code as u8, 1);
        assert_eq!(Failure::new("no \x1b[31m").to_string(), "octroi: no \\u{1b}[31m");
        assert_eq!(Failure::usage("x").code as u8, 2);
    }
}
