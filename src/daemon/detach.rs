//! A daemon in the background: the program starts itself again, with the log as its standard error and
//! a pipe as its standard output, and waits for the one line that tells whether the view is mounted.
//! Nothing is forked in a process that has threads.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::event::{PollFd, PollFlags, Timespec};
use serde::{Deserialize, Serialize};

use crate::config::Config;

use super::state::check_outside;
use super::{DaemonError, Launch, Live, mountpoint};

/// What goes through the pipe.
#[derive(Debug, Serialize, Deserialize)]
enum Report {
    Live(Live),
    Failed(DaemonError),
}

/// How long it takes until whoever waits is told why.
const PATIENCE: Timespec = Timespec { tv_sec: 5, tv_nsec: 0 };

/// Starts this program again with `arguments` and waits until its view is mounted, or is not. What can
/// be refused without having made anything is refused here. When it takes long, `waiting` is called once with
/// the path of the log.
pub fn start(
    arguments: &[OsString],
    config: &Config,
    launch: &Launch,
    waiting: impl FnOnce(&Path),
) -> Result<Live, DaemonError> {
    let state = &config.state;
    let mut notices = Vec::new();
    let mountpoint = mountpoint::prepare(launch, config, &mut notices)?;
    check_outside(state, &config.view, &mountpoint)?;
    super::assemble::look_at_branches(config)?;
    super::state::make(state)?;
    let log_path = state.join("octroi.log");
    let log = open_log(&log_path)?;
    let failed = |what: &str, error: std::io::Error| {
        DaemonError::Failed(format!("cannot {what} the daemon: {error}"))
    };
    let mut child = Command::new("/proc/self/exe")
        .arg0("octroi")
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .map_err(|error| failed("start", error))?;
    let mut line = String::new();
    if let Some(pipe) = child.stdout.take() {
        let mut said = [PollFd::new(&pipe, PollFlags::IN)];
        if rustix::event::poll(&mut said, Some(&PATIENCE)) == Ok(0) {
            waiting(&log_path);
        }
        BufReader::new(pipe).read_line(&mut line).map_err(|error| failed("hear from", error))?;
    }
    match serde_json::from_str(&line) {
        Ok(Report::Live(live)) => {
            notices.extend(live.notices);
            Ok(Live { notices, ..live })
        }
        Ok(Report::Failed(error)) => {
            // It ends now; mounting again at once must not meet it.
            child.wait().map_err(|error| failed("wait for", error))?;
            Err(error)
        }
        Err(_) => {
            let status = child.wait().map_err(|error| failed("wait for", error))?;
            Err(DaemonError::Failed(format!(
                "cannot mount: the daemon ended before the view was mounted ({status})\n\
                 hint: see {}",
                log_path.display()
            )))
        }
    }
}

fn open_log(path: &PathBuf) -> Result<File, DaemonError> {
    OpenOptions::new().create(true).append(true).mode(0o600).open(path).map_err(|error| {
        DaemonError::Failed(format!("cannot open the log {}: {error}", path.display()))
    })
}

/// Leaves the terminal and the folder of whoever started us. For the process that [`start`] began.
pub fn leave() {
    // Fails only for a process that leads its group already.
    let _ = rustix::process::setsid();
}

/// Tells the process that waits in [`start`] that the view is mounted. It may have gone.
pub fn report_live(live: &Live) {
    report(&Report::Live(live.clone()));
    // Keeping the folder would keep its file system from being unmounted.
    if let Err(error) = std::env::set_current_dir("/") {
        log::warn!("cannot change to the root folder: {error}");
    }
}

/// Tells it that the view is not mounted.
pub fn report_failure(error: &DaemonError) {
    report(&Report::Failed(error.clone()));
}

fn report(report: &Report) {
    let line = serde_json::to_string(report).unwrap_or_default() + "\n";
    let mut out = std::io::stdout().lock();
    let sent = out.write_all(line.as_bytes()).and_then(|()| out.flush());
    if let Err(error) = sent {
        log::warn!("whoever mounted the view does not listen any more: {error}");
    }
}
