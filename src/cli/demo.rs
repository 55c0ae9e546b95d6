//! `octroi demo`: the main job with real commands on real files, each shown with its real output. A
//! step that does not do what it says ends the demonstration with an error.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGINT, SIGTERM};

use crate::control::mounts;
use crate::daemon::unmount;

use super::failure::{Failure, cannot};
use super::output::print;

/// See the main job, step by step, on real files in a temporary folder.
///
/// Makes a view, mounts it, works in it with ordinary tools, meets a denial, sends a file through a gate,
/// reads the ledger, takes the crossing back and unmounts. Everything is removed at the end. Needs root
/// or fusermount3.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  octroi demo")]
pub struct Args {}

/// One command of the demonstration.
struct Step {
    /// What it shows.
    says: &'static str,
    /// For the shell, in the temporary folder.
    command: &'static str,
    /// Whether it succeeds.
    succeeds: bool,
    /// What its output must contain.
    shows: &'static str,
}

const fn step(says: &'static str, command: &'static str, shows: &'static str) -> Step {
    Step { says, command, succeeds: true, shows }
}

const fn refused(says: &'static str, command: &'static str, shows: &'static str) -> Step {
    Step { says, command, succeeds: false, shows }
}

const STEPS: &[Step] = &[
    step("A working example: closed folders and a configuration.", "octroi init lab", "Next"),
    step(
        "The configuration is checked as a compiler would.",
        "octroi check lab/octroi.toml",
        "good",
    ),
    step(
        "Mounted, the three are one tree.",
        "mkdir view && octroi mount lab/octroi.toml view && ls view",
        "inbox",
    ),
    step(
        "Work in the inbox as in any folder.",
        "printf 'sample,value\\n1,42\\n' > view/inbox/results.csv && cat view/inbox/results.csv",
        "1,42",
    ),
    refused(
        "Nothing can be put beside the gate: review takes content from a gate only.",
        "cp view/inbox/results.csv view/review/results.csv",
        "denied",
    ),
    step("Why?", "octroi why view/review/results.csv", "gates-only"),
    refused(
        "No gate leads from the inbox to the archive.",
        "mv view/inbox/results.csv view/archive/results.csv",
        "denied",
    ),
    step("The file is where it was.", "ls view/inbox view/archive", "results.csv"),
    step(
        "The gate `submit` leads to review. A plain mv is a transaction: copied, checked, committed.",
        "mv view/inbox/results.csv view/review/ && ls view/inbox view/review",
        "results.csv",
    ),
    step("Each crossing has a record.", "octroi tx list --view view", "submit"),
    step(
        "So has what was denied. The ledger is one JSON object a line.",
        "grep -e '\"denied\"' -e '\"commit\"' view/.audit/log.jsonl",
        "\"commit\"",
    ),
    step(
        "Where is it, and how did it come there?",
        "octroi where view/review/results.csv",
        "submit",
    ),
    step("A crossing can be taken back.", "octroi undo view/review/results.csv", "is back"),
    step("The file is in the inbox again, whole.", "cat view/inbox/results.csv", "1,42"),
    step("Unmounting waits until the ledger is closed.", "octroi umount view && ls view", ""),
    step(
        "The ledger tells it all, also with nothing mounted.",
        "octroi audit tail -n 3 --view lab/octroi.toml",
        "unmounted",
    ),
];

pub fn run(_args: &Args) -> Result<(), Failure> {
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&interrupted))
            .map_err(cannot("catch signals"))?;
    }
    let stage = Stage::new()?;
    let ran = run_steps(&stage, &interrupted);
    ran.and(stage.clear())?;
    print("\nThat is the main job. `octroi init` makes the same for you.\n")
}

fn run_steps(stage: &Stage, interrupted: &AtomicBool) -> Result<(), Failure> {
    stage.fill()?;
    print(&format!("in {}\n", stage.folder.display()))?;
    STEPS.iter().try_for_each(|step| run_step(step, stage, interrupted))
}

fn run_step(step: &Step, stage: &Stage, interrupted: &AtomicBool) -> Result<(), Failure> {
    print(&format!("\n# {}\n$ {}\n", step.says, step.command))?;
    let attempt = format!("run `{}`", step.command);
    let output = Command::new("sh")
        .arg("-c")
        .arg(format!("exec 2>&1; {}", step.command))
        .current_dir(&stage.folder)
        .env("PATH", stage.search_path())
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .output()
        .map_err(cannot(&attempt))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    print(&text)?;
    if interrupted.load(Ordering::Relaxed) {
        return Err(Failure::new("cannot go on with the demonstration: it was interrupted"));
    }
    let status = output.status;
    if status.success() != step.succeeds {
        return Err(Failure::new(format!("cannot go on: `{}` ended with {status}", step.command)));
    }
    if !text.to_lowercase().contains(&step.shows.to_lowercase()) {
        let (command, shows) = (step.command, step.shows);
        return Err(Failure::new(format!("cannot go on: `{command}` does not show `{shows}`")));
    }
    Ok(())
}

/// The temporary folder of the demonstration.
struct Stage {
    folder: PathBuf,
}

impl Stage {
    fn new() -> Result<Self, Failure> {
        let name = format!("octroi-demo-{}", ulid::Ulid::generate());
        let folder = std::env::temp_dir().join(name);
        let attempt = format!("make the folder {}", folder.display());
        DirBuilder::new().mode(0o700).create(&folder).map_err(cannot(&attempt))?;
        // As the table of mounts will have it.
        Ok(Self { folder: folder.canonicalize().map_err(cannot(&attempt))? })
    }

    /// Has this program found as `octroi`, wherever it is.
    fn fill(&self) -> Result<(), Failure> {
        let bin = self.folder.join(".bin");
        let attempt = format!("fill the folder {}", self.folder.display());
        std::fs::create_dir(&bin).map_err(cannot(&attempt))?;
        let program = std::env::current_exe().map_err(cannot("find this program"))?;
        std::os::unix::fs::symlink(program, bin.join("octroi")).map_err(cannot(&attempt))
    }

    fn search_path(&self) -> std::ffi::OsString {
        let mut path = self.folder.join(".bin").into_os_string();
        path.push(":");
        path.push(std::env::var_os("PATH").unwrap_or_default());
        path
    }

    /// Unmounts what is mounted, and removes everything.
    fn clear(&self) -> Result<(), Failure> {
        let view = self.folder.join("view");
        if is_mounted(&view) {
            // The command waits for the daemon, so that the state folder is quiet afterwards.
            let program = self.folder.join(".bin/octroi");
            let ended = Command::new(program).arg("umount").arg(&view).status();
            if !ended.is_ok_and(|status| status.success()) {
                let attempt = format!("unmount {}", view.display());
                unmount::unmount(&view, true).map_err(cannot(attempt))?;
            }
        }
        std::fs::remove_dir_all(&self.folder)
            .map_err(cannot(format!("remove {}", self.folder.display())))
    }
}

fn is_mounted(path: &Path) -> bool {
    mounts::mount_at(path).is_ok_and(|mount| mount.is_some())
}
