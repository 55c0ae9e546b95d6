//! `octroi mount`

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::daemon::{self, DaemonError, Launch, detach};
use crate::fuse::MountOptions;

use super::failure::{ExitCode, Failure};
use super::output::{plain, say};

/// Mount a view.
///
/// Returns once the view is live, or says why it is not; a daemon goes on in the background, with its log
/// in octroi.log of the state folder (RUST_LOG sets how much it says). Interrupted crossings are completed
/// or rolled back first. A dead mount that an ended daemon has left is cleared.
///
/// As root, other users may enter; else give -o allow_other.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    octroi mount lab/octroi.toml /mnt/lab\n  \
    octroi mount lab/octroi.toml /mnt/lab -o ro,noexec\n  \
    octroi mount lab/octroi.toml /mnt/lab --adopt disk2        after the disk of branch disk2 was replaced\n\n\
    Options of -o: allow_other, ro, rw, dev, nodev, suid, nosuid, exec, noexec, atime, noatime.\n\
    Without: nodev, nosuid.")]
pub struct Args {
    /// The configuration of the view
    config: PathBuf,
    /// An empty folder
    mountpoint: PathBuf,
    /// Stay in the foreground and log to standard error: for services
    #[arg(long)]
    foreground: bool,
    /// Accept another directory for this branch than the one that was mounted before (repeatable)
    #[arg(long, value_name = "BRANCH")]
    adopt: Vec<String>,
    /// Mount over a folder that is not empty
    #[arg(long)]
    nonempty: bool,
    /// Let other users enter (root always does)
    #[arg(long)]
    allow_other: bool,
    /// Mount options, as of mount(8)
    #[arg(short = 'o', value_name = "OPTIONS", value_delimiter = ',')]
    options: Vec<String>,
    /// Serve, and tell the process at the other end of standard output
    #[arg(long, hide = true)]
    background: bool,
}

pub fn run(args: Args) -> Result<(), Failure> {
    let options = options(&args.options, args.allow_other)?;
    let launch = Launch {
        config: args.config,
        mountpoint: args.mountpoint,
        options,
        adopt: args.adopt,
        nonempty: args.nonempty,
    };
    if args.background {
        // The kernel calls it by what was started, /proc/self/exe.
        let _ = rustix::thread::set_name(c"octroi");
        return serve_reporting(&launch);
    }
    if args.foreground {
        super::log::start();
        return daemon::serve(&launch, |_| ()).map_err(failure);
    }
    let loaded = daemon::load(&launch.config).map_err(failure)?;
    let waiting = |log: &Path| {
        say(format_args!(
            "octroi: still mounting: it looks at the branches, reads the ledger or ends interrupted crossings; see {}",
            plain(&log.to_string_lossy())
        ));
    };
    let live = detach::start(&again(), &loaded.config, &launch, waiting).map_err(failure)?;
    for notice in &live.notices {
        say(format_args!("octroi: note: {}", plain(&notice.replace('\n', " "))));
    }
    Ok(())
}

/// The arguments of this process with which it is started again.
fn again() -> Vec<OsString> {
    let mut given = std::env::args_os().skip(1);
    let command = given.next().into_iter();
    command.chain(["--background".into()]).chain(given).collect()
}

fn serve_reporting(launch: &Launch) -> Result<(), Failure> {
    detach::leave();
    super::log::start();
    let mut is_live = false;
    let served = daemon::serve(launch, |live| {
        is_live = true;
        detach::report_live(live);
    });
    if let (Err(error), false) = (&served, is_live) {
        detach::report_failure(error);
    }
    served.map_err(failure)
}

fn failure(error: DaemonError) -> Failure {
    match error {
        DaemonError::Config(text) => Failure::diagnostics(text),
        DaemonError::Usage(text) => Failure::usage(text),
        DaemonError::Failed(text) => Failure { code: ExitCode::Failed, ..Failure::new(text) },
    }
}

fn options(given: &[String], allow_other: bool) -> Result<MountOptions, Failure> {
    let mut options = MountOptions {
        allow_other: allow_other || rustix::process::geteuid().is_root(),
        ..MountOptions::default()
    };
    for option in given.iter().map(|option| option.trim()).filter(|option| !option.is_empty()) {
        match option {
            "allow_other" => options.allow_other = true,
            "ro" => options.read_only = true,
            "rw" => options.read_only = false,
            "dev" => options.devices = true,
            "nodev" => options.devices = false,
            "suid" => options.set_id = true,
            "nosuid" => options.set_id = false,
            "noexec" => options.no_exec = true,
            "exec" => options.no_exec = false,
            "noatime" => options.no_atime = true,
            "atime" => options.no_atime = false,
            "defaults" => {}
            unknown => {
                return Err(Failure::usage(format!(
                    "cannot mount with -o {unknown}: there is no such option"
                ))
                .hint("octroi help mount lists them"));
            }
        }
    }
    Ok(options)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_options_are_those_of_mount() {
        let given = ["ro", "noexec", "suid", "nosuid"].map(str::to_owned);
        let found = options(&given, true).expect("all known");
        assert!(found.read_only && found.no_exec && found.allow_other && !found.set_id);
        let error = options(&["frob".to_owned()], false).expect_err("unknown");
        assert_eq!(error.code, ExitCode::Usage);
        assert!(error.message.contains("frob"));
    }
}
