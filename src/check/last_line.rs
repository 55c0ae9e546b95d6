//! The last line of an output of any length, kept in little memory.

/// How many bytes of a line are kept.
const LINE_MAX: usize = 256;

/// Takes output in pieces and remembers the beginning of its last line that is not blank.
#[derive(Debug, Default)]
pub(super) struct LastLine {
    /// All bytes that came.
    pub total: u64,
    line: Vec<u8>,
    /// What has come of the line after it.
    open: Vec<u8>,
}

impl LastLine {
    pub(super) fn push(&mut self, piece: &[u8]) {
        self.total = self.total.saturating_add(piece.len() as u64);
        for byte in piece {
            // Progress bars write one line over another with carriage returns.
            if matches!(byte, b'\n' | b'\r') {
                self.end_line();
            } else if self.open.len() <= LINE_MAX {
                self.open.push(*byte);
            }
        }
    }

    fn end_line(&mut self) {
        if !self.open.trim_ascii().is_empty() {
            std::mem::swap(&mut self.line, &mut self.open);
        }
        self.open.clear();
    }

    /// The line as text that changes no terminal: control characters are spaces, what is not UTF-8 is
    /// replaced, and what was cut off is three dots.
    pub(super) fn finish(mut self) -> Option<String> {
        self.end_line();
        let cut = self.line.len() > LINE_MAX;
        self.line.truncate(LINE_MAX);
        let text = String::from_utf8_lossy(&self.line);
        let shown = |c: char| if is_control(c) { ' ' } else { c };
        let mut text: String = text.trim_end_matches('\u{fffd}').chars().map(shown).collect();
        text = text.trim().to_owned();
        if cut {
            text.push('…');
        }
        (!text.is_empty()).then_some(text)
    }
}

/// Control characters, and those that turn the direction of text.
fn is_control(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200e}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(output: &[u8], wanted: Option<&str>) {
        for size in [1, 7, output.len().max(1)] {
            let mut last = LastLine::default();
            output.chunks(size).for_each(|piece| last.push(piece));
            assert_eq!(last.total, output.len() as u64);
            assert_eq!(last.finish().as_deref(), wanted, "in pieces of {size}");
        }
    }

    #[test]
    fn the_last_line_that_says_something_is_kept() {
        check(b"", None);
        check(b"\n \n\t\r\n", None);
        check(b"one\ntwo\n", Some("two"));
        check(b"one\ntwo", Some("two"));
        check(b"one\n\n  \n", Some("one"));
        check(b"10%\r20%\rdone\r\n", Some("done"));
    }

    #[test]
    fn nothing_reaches_a_terminal_but_text() {
        check(b"\x1b[31mred\x07\n", Some("[31mred"));
        check("a\u{202e}b\u{9b}c".as_bytes(), Some("a b c"));
        check(b"latin \xe4 one", Some("latin \u{fffd} one"));
    }

    #[test]
    fn a_long_line_is_cut_and_says_so() {
        let long = "x".repeat(100_000);
        check(long.as_bytes(), Some(&format!("{}…", "x".repeat(LINE_MAX))));
        // In the middle of a character.
        let wide = "ä".repeat(200);
        check(format!("a{wide}").as_bytes(), Some(&format!("a{}…", "ä".repeat(127))));
    }
}
