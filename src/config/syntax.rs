//! The first mistake of a text that is not TOML, with what the parser cannot know: where a list or table that
//! swallowed what follows was opened, and that strings are quoted.

use std::ops::Range;

use super::diagnostic::Report;

/// Reports it.
pub(super) fn report(text: &str, span: Range<usize>, message: &str, report: &mut Report) {
    let line = report.line_of(&span);
    let still_open = open_at(text, span.start);
    let value = text.get(..span.start).and_then(|before| before.rsplit('\n').next());
    let written = text.get(span.clone()).unwrap_or_default();
    // A bare word behind `=` or in a list.
    let bare = written.starts_with(|letter: char| letter.is_alphabetic() || letter == '/')
        && value.is_some_and(|before| before.trim_end().ends_with(['=', '[', ',']));
    let error = report.error(span, format!("not valid TOML: {message}"));
    if bare {
        let word = text_of_word(written);
        error.hint(format!("strings are quoted: \"{word}\""));
    }
    if let Some(open) = still_open
        && text.get(..open).map(|before| before.matches('\n').count().saturating_add(1))
            != Some(line)
    {
        error
            .other(open..open.saturating_add(1), "this is still open here")
            .hint("is its end missing?");
    }
}

fn text_of_word(written: &str) -> &str {
    written.split(['\n', '#']).next().unwrap_or(written).trim_end()
}

/// Where the outermost list or inline table stands that is open at a place; strings and comments are passed
/// over.
fn open_at(text: &str, end: usize) -> Option<usize> {
    let before = text.get(..end)?;
    let mut open: Vec<usize> = Vec::new();
    let mut letters = before.char_indices();
    let mut at_line_start = true;
    while let Some((at, letter)) = letters.next() {
        let rest = before.get(at..).unwrap_or_default();
        match letter {
            '#' => skip(&mut letters, rest.find('\n').unwrap_or(rest.len())),
            // The head of a table closes itself.
            '[' if at_line_start && open.is_empty() => {
                skip(&mut letters, rest.find('\n').unwrap_or(rest.len()));
            }
            '"' | '\'' => skip(&mut letters, length_of_string(rest, letter)),
            '[' | '{' => open.push(at),
            ']' | '}' => {
                open.pop();
            }
            _ => {}
        }
        at_line_start =
            letter == '\n' || letter == '#' || (at_line_start && letter.is_whitespace());
    }
    open.first().copied()
}

/// Passes over so many bytes, the current letter's included.
fn skip(letters: &mut std::str::CharIndices<'_>, bytes: usize) {
    let end = letters.offset().saturating_sub(1).saturating_add(bytes);
    while letters.offset() < end {
        if letters.next().is_none() {
            break;
        }
    }
}

/// The bytes of a string, its quotes included; of one that is not closed, to the end of the line.
fn length_of_string(rest: &str, quote: char) -> usize {
    let triple: String = std::iter::repeat_n(quote, 3).collect();
    if let Some(inner) = rest.strip_prefix(triple.as_str()) {
        return inner.find(triple.as_str()).map_or(rest.len(), |at| at.saturating_add(6));
    }
    let mut escaped = false;
    for (at, letter) in rest.char_indices().skip(1) {
        match letter {
            _ if std::mem::take(&mut escaped) => {}
            '\\' if quote == '"' => escaped = true,
            '\n' => return at,
            letter if letter == quote => return at.saturating_add(1),
            _ => {}
        }
    }
    rest.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, wanted: Option<&str>) {
        let found = open_at(text, text.len());
        assert_eq!(found.map(|at| &text[at..]), wanted, "{text}");
    }

    #[test]
    fn what_is_open_is_the_outermost_list_or_table() {
        check("[a]\nx = [\"b\",\n[c]\ny = 1\n", Some("[\"b\",\n[c]\ny = 1\n"));
        check("[a]\nx = [1, 2]\ny = { z = [\"]\"", Some("{ z = [\"]\""));
        check("[[a]]\n# x = [\nx = '['\ny = \"\\\"[\"\nz = \"\"\"\n[\n\"\"\"\n", None);
        check("  [a]\nx = [ # [\n 1 ]\n", None);
    }
}
