//! How far a move is: a bar on a terminal, a line a second elsewhere.

use std::io::{self, IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::control::protocol::{ActiveCrossing, RunningCheck};

use super::super::output::{plain, size};

/// Between two lines.
const LINE_EVERY: Duration = Duration::from_secs(1);

enum Mode {
    Bar(ProgressBar),
    Lines { last: Instant },
    Silent,
}

/// The progress of one source. Dropped, its bar is gone.
pub(super) struct Show {
    mode: Mode,
    name: String,
    step: String,
    step_begun: Instant,
}

impl Show {
    pub(super) fn new(name: &str, quiet: bool) -> Self {
        let now = Instant::now();
        let mode = match (quiet, io::stderr().is_terminal()) {
            (true, _) => Mode::Silent,
            (false, true) => Mode::Bar(bar()),
            (false, false) => Mode::Lines { last: now },
        };
        Self { mode, name: plain(name), step: String::new(), step_begun: now }
    }

    pub(super) fn update(&mut self, progress: &ActiveCrossing) {
        if self.step != progress.step {
            self.step.clone_from(&progress.step);
            self.step_begun = Instant::now();
        }
        let text = || format!("{}: {}", self.name, words(progress, self.step_begun.elapsed()));
        match &mut self.mode {
            Mode::Silent => {}
            Mode::Bar(bar) => {
                bar.set_length(progress.size);
                bar.set_position(progress.bytes);
                bar.set_message(text());
            }
            Mode::Lines { last } if last.elapsed() >= LINE_EVERY => {
                *last = Instant::now();
                // A reader that has gone is no reason to stop.
                let _ = writeln!(io::stderr(), "{}", text());
            }
            Mode::Lines { .. } => {}
        }
    }
}

impl Drop for Show {
    fn drop(&mut self) {
        if let Mode::Bar(bar) = &self.mode {
            bar.finish_and_clear();
        }
    }
}

fn bar() -> ProgressBar {
    let bar = ProgressBar::new(0);
    if let Ok(style) = ProgressStyle::with_template("{wide_msg} [{bar:20}] {percent:>3}%") {
        bar.set_style(style.progress_chars("=> "));
    }
    bar
}

/// What is being done, how far it is, how fast, and how long it will take.
fn words(progress: &ActiveCrossing, elapsed: Duration) -> String {
    let step = match progress.step.as_str() {
        "waiting" => return "waiting for its turn".to_owned(),
        "prepare" => "preparing",
        "stage" => "copying",
        "check" => "checking",
        "meta" => "setting attributes",
        "verify" => "verifying",
        "prepared" => return "ready".to_owned(),
        other => other,
    };
    // A command of the gate tells nothing of how far it is.
    let check = progress.check.as_ref();
    let check = check.filter(|check| step == "checking" || check.seconds > 0);
    let check = check.map(|RunningCheck { command, seconds }| {
        format!("check {} running for {}", plain(command), duration(*seconds as f64))
    });
    if let (Some(check), "checking", 0 | 1) = (&check, step, progress.files_all) {
        return check.clone();
    }
    let mut text = format!("{step} {} of {}", size(progress.bytes), size(progress.size));
    if progress.files_all > 1 {
        text.push_str(&format!(", {} of {} files", progress.files, progress.files_all));
    }
    if let Some(check) = check {
        return format!("{text}, {check}");
    }
    let rate = progress.bytes as f64 / elapsed.as_secs_f64().max(0.001);
    if elapsed >= Duration::from_millis(500) && rate >= 1.0 {
        let left = progress.size.saturating_sub(progress.bytes) as f64 / rate;
        text.push_str(&format!(", {}/s", size(rate as u64)));
        // What is read and not finished has something else to wait for.
        if progress.bytes < progress.size {
            text.push_str(&format!(", {} left", duration(left)));
        }
    }
    text
}

fn duration(seconds: f64) -> String {
    let seconds = seconds.round() as u64;
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, seconds) => format!("{seconds} s"),
        (0, minutes, seconds) => format!("{minutes} min {seconds:02} s"),
        (hours, minutes, _) => format!("{hours} h {minutes:02} min"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_reads_well() {
        let mut progress = ActiveCrossing {
            txid: crate::types::TxId(ulid::Ulid::generate()),
            uid: 0,
            source: crate::types::ViewPath::root(),
            target: crate::types::ViewPath::root(),
            step: "stage".to_owned(),
            bytes: 16 << 20,
            size: 64 << 20,
            files: 0,
            files_all: 1,
            check: None,
        };
        let after = Duration::from_secs(2);
        let expected = "copying 16.0 MiB of 64.0 MiB, 8.0 MiB/s, 6 s left";
        assert_eq!(words(&progress, after), expected);
        assert_eq!(words(&progress, Duration::ZERO), "copying 16.0 MiB of 64.0 MiB");
        (progress.files, progress.files_all) = (3, 10);
        assert!(words(&progress, after).contains("64.0 MiB, 3 of 10 files, 8.0"));
        progress.step = "check".to_owned();
        assert!(words(&progress, after).starts_with("checking 16.0 MiB of"));
        progress.check = Some(RunningCheck { command: "/usr/bin/scan -".into(), seconds: 75 });
        let check = "check /usr/bin/scan - running for 1 min 15 s";
        let copied = "16.0 MiB of 64.0 MiB, 3 of 10 files";
        assert_eq!(words(&progress, after), format!("checking {copied}, {check}"));
        progress.step = "stage".to_owned();
        assert_eq!(words(&progress, after), format!("copying {copied}, {check}"));
        (progress.step, progress.files_all) = ("check".to_owned(), 1);
        assert_eq!(words(&progress, after), check);
        (progress.check, progress.bytes) = (None, progress.size);
        assert_eq!(words(&progress, after), "checking 64.0 MiB of 64.0 MiB, 32.0 MiB/s");
        progress.step = "waiting".to_owned();
        assert_eq!(words(&progress, after), "waiting for its turn");
        assert_eq!(duration(3725.4), "1 h 02 min");
        assert_eq!(duration(61.0), "1 min 01 s");
    }
}
