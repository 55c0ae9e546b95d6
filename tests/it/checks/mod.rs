//! Commands of gates: what they can and cannot do, and what their answers do to a crossing.

mod crossing;
mod examples;
mod limits;
mod sandbox;
mod stuck;

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use octroi::check::{About, Outcome, Runner, Verdict};
use octroi::types::{Check, CheckInput, ViewPath};

use crate::harness::OCTROI;

/// A command that is run without a view, as the daemon runs it.
struct Shut {
    folder: tempfile::TempDir,
    check: Check,
}

impl Shut {
    /// A script of bash, with a content of `content`.
    fn script(script: &str) -> Self {
        let run = ["/bin/bash", "-c", script, "bash"].map(str::to_owned).to_vec();
        let folder = tempfile::Builder::new().prefix("octroi-check-").tempdir().expect("a folder");
        fs::write(folder.path().join("file"), "content").expect("a file");
        let (timeout, memory) = (Duration::from_secs(60), 256 << 20);
        let check = Check { run, input: CheckInput::Stdin, timeout, memory, read: Vec::new() };
        Self { folder, check }
    }

    /// With the content as a file, `$1`.
    fn by_path(mut self) -> Self {
        self.check.input = CheckInput::Path;
        self
    }

    fn reading(mut self, path: &Path) -> Self {
        self.check.read.push(path.to_owned());
        self
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("file")
    }

    fn run(&self) -> Verdict {
        self.run_until(&|| false)
    }

    fn run_until(&self, cancelled: &dyn Fn() -> bool) -> Verdict {
        self.run_by(&Runner::new(PathBuf::from(OCTROI), Vec::new()), cancelled)
    }

    fn run_with(&self, runner: &Runner) -> Verdict {
        self.run_by(runner, &|| false)
    }

    fn run_by(&self, runner: &Runner, cancelled: &dyn Fn() -> bool) -> Verdict {
        let file = File::open(self.file()).expect("the file");
        let view = |path: &str| ViewPath::parse(Path::new(path)).expect("a path of the view");
        let (source, target) = (view("/inbox/a b"), view("/review/a"));
        let about = About { gate: "submit", source: &source, target: &target };
        runner.run(&self.check, file.as_fd(), &about, cancelled)
    }

    /// Runs it, which must pass, and gives the last line.
    #[track_caller]
    fn says(&self) -> String {
        let verdict = self.run();
        assert_eq!(verdict.outcome, Outcome::Passed, "{:?}", verdict.last_line);
        verdict.last_line.unwrap_or_default()
    }
}

/// A condition of bash that the command must find to be so.
#[track_caller]
fn holds(condition: &str) {
    let verdict = Shut::script(condition).by_path().run();
    assert_eq!(verdict.outcome, Outcome::Passed, "{condition}: {:?}", verdict.last_line);
}
