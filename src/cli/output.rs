//! Printing: tables, sizes, times, and a closed pipe taken for the end.

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};

use serde::Serialize;

use super::failure::{Failure, cannot};

/// Prints to standard output. A reader that has gone (`octroi tx list | head`) is no error.
pub fn print(text: &str) -> Result<(), Failure> {
    print_bytes(text.as_bytes()).map(|_there| ())
}

/// Says something on standard error. Where that is full or closed, what is done goes on.
pub fn say(what: impl Display) {
    let _ = writeln!(io::stderr(), "{what}");
}

/// Prints to standard output and says whether there still is a reader: what goes on without end must
/// end when there is none.
pub fn print_bytes(bytes: &[u8]) -> Result<bool, Failure> {
    let mut printer = Printer::new();
    Ok(printer.print(bytes)? && printer.flush()?)
}

/// Prints much in large pieces, for as long as there is a reader.
pub struct Printer(io::BufWriter<io::Stdout>);

impl Printer {
    /// A printer to standard output.
    pub fn new() -> Self {
        Self(io::BufWriter::with_capacity(1 << 16, io::stdout()))
    }

    /// False once the reader is gone.
    pub fn print(&mut self, bytes: &[u8]) -> Result<bool, Failure> {
        Self::there(self.0.write_all(bytes))
    }

    fn flush(&mut self) -> Result<bool, Failure> {
        Self::there(self.0.flush())
    }

    /// What is left.
    pub fn finish(mut self) -> Result<(), Failure> {
        self.flush().map(|_there| ())
    }

    fn there(written: io::Result<()>) -> Result<bool, Failure> {
        match written {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
            written => written.map(|()| true).map_err(cannot("write to standard output")),
        }
    }
}

/// Prints a value as JSON for scripts.
pub fn print_json<T: Serialize>(value: &T) -> Result<(), Failure> {
    let mut text = serde_json::to_string_pretty(value).map_err(cannot("write JSON"))?;
    text.push('\n');
    print(&text)
}

/// Whether people look at standard output.
pub fn is_terminal() -> bool {
    io::stdout().is_terminal()
}

/// Whether to print in colour: on a terminal that has any, unless `NO_COLOR` says not to (no-color.org).
pub fn in_colour() -> bool {
    let asked_not = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let able = std::env::var_os("TERM").is_some_and(|term| term != "dumb");
    is_terminal() && able && !asked_not
}

/// A longer cell, such as a path, makes its own row longer and not all others.
const PADDED_MAX: usize = 48;

/// Rows in columns two spaces apart, the first row a heading. Control characters in names cannot
/// reach the terminal.
pub fn table(rows: &[Vec<String>]) -> String {
    let rows: Vec<Vec<String>> =
        rows.iter().map(|row| row.iter().map(|cell| plain(cell)).collect()).collect();
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.filter(|width| *width <= PADDED_MAX).max()
    };
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let mut text = String::new();
    for row in &rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// Text with control characters escaped, as names and ledgers may hold any, also those that end a line or turn the
/// direction of what follows.
pub fn plain(text: &str) -> String {
    let escape = |character: char| match character {
        '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
            character.escape_unicode().collect()
        }
        control if control.is_control() => control.escape_default().collect(),
        other => String::from(other),
    };
    text.chars().map(escape).collect()
}

/// A message of several lines, as errors have with a hint, as one that is safe for a terminal.
pub fn one_line(text: &str) -> String {
    plain(&text.replace("\nhint: ", "; "))
}

/// Bytes for people, in powers of 1024.
pub fn size(bytes: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let exponent = (bytes.ilog2() / 10).clamp(1, 6);
    let unit = units.get((exponent as usize).saturating_sub(1)).copied().unwrap_or("EiB");
    format!("{:.1} {unit}", bytes as f64 / 1024_f64.powi(exponent as i32))
}

/// A time of the ledger in the local time zone, to the second; as it is where it is no time.
pub fn local_time(text: &str) -> String {
    match text.parse::<jiff::Timestamp>() {
        Ok(time) => time
            .to_zoned_datetime(jiff::tz::TimeZone::system())
            .strftime("%Y-%m-%d %H:%M:%S")
            .to_string(),
        Err(_) => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_well() {
        assert_eq!(size(0), "0 B");
        assert_eq!(size(1023), "1023 B");
        assert_eq!(size(1536), "1.5 KiB");
        assert_eq!(size(2 << 30), "2.0 GiB");
        assert_eq!(size(u64::MAX), "16.0 EiB");
    }

    #[test]
    fn a_message_with_a_hint_is_one_line() {
        assert_eq!(one_line("it is open\nhint: close it"), "it is open; close it");
        assert_eq!(one_line("a\nb"), "a\\nb", "a name may have one");
    }

    #[test]
    fn tables_align_and_hide_control_characters() {
        let rows = [vec!["a".into(), "b".into()], vec!["long".into(), "\x1b[2J".into()]];
        assert_eq!(table(&rows), "a     b\nlong  \\u{1b}[2J\n");
        let path = "p".repeat(PADDED_MAX.saturating_add(1));
        let rows = [vec!["path".into(), "b".into()], vec![path.clone(), "c".into()]];
        assert_eq!(
            table(&rows),
            format!("path  b\n{path}  c\n"),
            "one long path makes no row longer"
        );
    }
}
