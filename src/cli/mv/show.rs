//! How far a move is: a bar on a terminal, a line a second elsewhere.

use std::io::{self, IsTerminal as _};
use std::time::{Duration, Instant};

use console::Term;
use indicatif::{ProgressBar, ProgressStyle};

use crate::control::protocol::{ActiveCrossing, RunningCheck};

use super::super::output::{plain, say, size};
use super::line::fit;

/// Between two lines.
const LINE_EVERY: Duration = Duration::from_secs(1);
/// Characters of a command that say which it is.
const FIRST_WORDS: usize = 40;

enum Mode {
    Bar(ProgressBar),
    Lines { last: Instant },
    Silent,
}

/// The progress of one source. Dropped, its bar is gone.
pub(in crate::cli) struct Show {
    mode: Mode,
    name: String,
    /// Which of several sources it is, such as `2 of 3: `.
    which: String,
    step: String,
    step_begun: Instant,
}

impl Show {
    /// `which` counts from 1, of how many.
    pub(in crate::cli) fn new(name: &str, which: (usize, usize), quiet: bool) -> Self {
        let now = Instant::now();
        let mode = match (quiet, io::stderr().is_terminal()) {
            (true, _) => Mode::Silent,
            (false, true) => Mode::Bar(bar()),
            (false, false) => Mode::Lines { last: now },
        };
        let which = match which {
            (_, 0 | 1) => String::new(),
            (number, all) => format!("{number} of {all}: "),
        };
        Self { mode, name: plain(name), which, step: String::new(), step_begun: now }
    }

    pub(super) fn update(&mut self, progress: &ActiveCrossing) {
        if self.step != progress.step {
            self.step.clone_from(&progress.step);
            self.step_begun = Instant::now();
        }
        let words = || words(progress, self.step_begun.elapsed());
        match &mut self.mode {
            Mode::Silent => {}
            Mode::Bar(bar) => {
                let (_, columns) = Term::stderr().size();
                let done = (progress.bytes, progress.size);
                bar.set_message(fit(&self.which, &self.name, &words(), done, columns.into()));
            }
            Mode::Lines { last } if last.elapsed() >= LINE_EVERY => {
                *last = Instant::now();
                let (which, name) = (&self.which, &self.name);
                let text = words().texts.into_iter().next().unwrap_or_default();
                say(format_args!("{which}{name}: {text}"));
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

/// One line, which is drawn over the one before.
fn bar() -> ProgressBar {
    let bar = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{msg}") {
        bar.set_style(style);
    }
    bar
}

/// What is being done, how far it is, how fast, and how long it will take.
pub(super) struct Words {
    /// The same in fewer and fewer words.
    pub(super) texts: Vec<String>,
    /// Whether the bytes tell how far it is.
    pub(super) counted: bool,
}

fn words(progress: &ActiveCrossing, elapsed: Duration) -> Words {
    let one = |text: &str| Words { texts: vec![text.to_owned()], counted: false };
    let step = match progress.step.as_str() {
        "waiting" => return one("waiting for its turn"),
        "prepare" => "preparing",
        "stage" => "copying",
        "check" => "checking",
        "meta" => "setting attributes",
        "verify" => "verifying",
        "prepared" => return one("ready"),
        other => other,
    };
    let mut amount = format!("{step} {} of {}", size(progress.bytes), size(progress.size));
    if progress.files_all > 1 {
        amount.push_str(&format!(", {} of {} files", progress.files, progress.files_all));
    }
    // A command of the gate tells nothing of how far it is.
    let check = progress.check.as_ref();
    if let Some(check) = check.filter(|check| step == "checking" || check.seconds > 0) {
        let running = checks(check);
        if step == "checking" && progress.files_all <= 1 {
            return Words { texts: running, counted: false };
        }
        let whole = running.iter().map(|check| format!("{amount}, {check}"));
        let texts = whole.chain(running.iter().cloned()).collect();
        return Words { texts, counted: true };
    }
    let rate = progress.bytes as f64 / elapsed.as_secs_f64().max(0.001);
    let (mut speed, mut left) = (String::new(), String::new());
    if elapsed >= Duration::from_millis(500) && rate >= 1.0 {
        speed = format!(", {}/s", size(rate as u64));
        // What is read and not finished has something else to wait for.
        if progress.bytes < progress.size {
            let seconds = progress.size.saturating_sub(progress.bytes) as f64 / rate;
            left = format!(", {} left", duration(seconds));
        }
    }
    let texts = vec![
        format!("{amount}{speed}{left}"),
        format!("{step}{speed}{left}"),
        format!("{step}{left}"),
        step.to_owned(),
    ];
    Words { texts, counted: true }
}

/// A command that runs: as it is, by its first words, by the program's name, without.
fn checks(RunningCheck { command, seconds }: &RunningCheck) -> Vec<String> {
    let (command, time) = (plain(command), duration(*seconds as f64));
    let program = command.split_whitespace().next().unwrap_or_default();
    let program = program.rsplit('/').next().unwrap_or_default();
    let first: String = command.chars().take(FIRST_WORDS).collect();
    let first = if first.len() < command.len() { format!("{first}…") } else { first };
    let mut texts: Vec<String> = [command.as_str(), &first, program]
        .map(|name| format!("check {name} running for {time}"))
        .into();
    texts.push(format!("check running for {time}"));
    texts
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
        let full = |progress: &ActiveCrossing, after| words(progress, after).texts[0].clone();
        let expected = "copying 16.0 MiB of 64.0 MiB, 8.0 MiB/s, 6 s left";
        assert_eq!(full(&progress, after), expected);
        let shorter = ["copying, 8.0 MiB/s, 6 s left", "copying, 6 s left", "copying"];
        assert_eq!(words(&progress, after).texts[1..], shorter);
        assert_eq!(full(&progress, Duration::ZERO), "copying 16.0 MiB of 64.0 MiB");
        (progress.files, progress.files_all) = (3, 10);
        assert!(full(&progress, after).contains("64.0 MiB, 3 of 10 files, 8.0"));
        progress.step = "check".to_owned();
        assert!(full(&progress, after).starts_with("checking 16.0 MiB of"));
        progress.check = Some(RunningCheck { command: "/usr/bin/scan -".into(), seconds: 75 });
        let check = "check /usr/bin/scan - running for 1 min 15 s";
        let copied = "16.0 MiB of 64.0 MiB, 3 of 10 files";
        assert_eq!(full(&progress, after), format!("checking {copied}, {check}"));
        progress.step = "stage".to_owned();
        assert_eq!(full(&progress, after), format!("copying {copied}, {check}"));
        (progress.step, progress.files_all) = ("check".to_owned(), 1);
        let told = words(&progress, after);
        assert_eq!((told.texts[0].as_str(), told.counted), (check, false));
        assert_eq!(told.texts[2], "check scan running for 1 min 15 s");
        (progress.check, progress.bytes) = (None, progress.size);
        assert_eq!(full(&progress, after), "checking 64.0 MiB of 64.0 MiB, 32.0 MiB/s");
        progress.step = "waiting".to_owned();
        assert_eq!(full(&progress, after), "waiting for its turn");
        assert_eq!(duration(3725.4), "1 h 02 min");
        assert_eq!(duration(61.0), "1 min 01 s");
    }
}
