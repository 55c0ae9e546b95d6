//! The commands, one file each. They parse, ask or do, print what was asked for, and hand a
//! [`Failure`] to `main`, which alone prints errors.

use clap::{Parser, Subcommand};

mod audit;
mod check;
mod demo;
mod explain;
mod failure;
mod fsck;
mod init;
mod log;
mod moment;
mod mount;
mod mv;
mod output;
mod policy;
mod reload;
mod status;
mod target;
mod tx;
mod umount;
mod undo;
mod r#where;
mod why;

pub use failure::{ExitCode, Failure};
pub use output::say;

/// One tree over isolated directories: every operation checked, every crossing recorded.
///
/// Octroi mounts a view: a single tree over several backing directories, the branches. Policy is checked
/// at every operation, and a file moves from one branch to another only through a gate: copied,
/// validated and committed as one transaction, and written to a ledger.
#[derive(Debug, Parser)]
#[command(
    name = "octroi",
    version,
    propagate_version = true,
    after_help = "Begin with:\n  \
        octroi demo                                  see the main job, on real files in a temporary folder\n  \
        octroi init lab                              make a working example\n  \
        octroi mount lab/octroi.toml /mnt/lab        mount it\n\n\
        Exit codes: 0 done, 1 failed, 2 usage or configuration."
)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Init(init::Args),
    Check(check::Args),
    Mount(mount::Args),
    Umount(umount::Args),
    Status(status::Args),
    Mv(mv::Args),
    Undo(undo::Args),
    Why(why::Args),
    Where(r#where::Args),
    Explain(explain::Args),
    Policy(policy::Args),
    Reload(reload::Args),
    Tx(tx::Args),
    Audit(audit::Args),
    Fsck(fsck::Args),
    Demo(demo::Args),
    #[command(name = crate::check::HELPER, hide = true)]
    RunGateCheck,
}

/// The daemon's answer belongs to another question.
fn unexpected() -> Failure {
    Failure::new("cannot understand the daemon: is it of another version?")
        .hint("unmount and mount again with this version")
}

/// Runs a command.
pub fn run(cli: Cli) -> Result<(), Failure> {
    match cli.command {
        Command::Init(args) => init::run(&args),
        Command::Check(args) => check::run(&args),
        Command::Mount(args) => mount::run(args),
        Command::Umount(args) => umount::run(&args),
        Command::Status(args) => status::run(&args),
        Command::Mv(args) => mv::run(&args),
        Command::Undo(args) => undo::run(&args),
        Command::Why(args) => why::run(&args),
        Command::Where(args) => r#where::run(&args),
        Command::Explain(args) => explain::run(&args),
        Command::Policy(args) => policy::run(&args),
        Command::Reload(args) => reload::run(&args),
        Command::Tx(args) => tx::run(&args),
        Command::Audit(args) => audit::run(&args),
        Command::Fsck(args) => fsck::run(&args),
        Command::Demo(args) => demo::run(&args),
        Command::RunGateCheck => std::process::exit(crate::check::sandbox::run()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_tree_is_sound() {
        Cli::command().debug_assert();
    }

    #[track_caller]
    fn check(line: &str, good: bool) {
        let parsed = Cli::try_parse_from(line.split(' '));
        assert_eq!(parsed.is_ok(), good, "{line}: {parsed:?}");
    }

    #[test]
    fn commands_are_parsed() {
        check("octroi mount lab.toml /mnt --adopt a --adopt b --nonempty -o ro,allow_other", true);
        check("octroi mount lab.toml", false);
        check("octroi mv a b", true);
        check("octroi mv -nvq -t dir a b c", true);
        check("octroi mv -T -t dir a", false);
        check("octroi mv", false);
        check("octroi tx abort 01JD8Z6Q1M4T0V2W3X4Y5Z6A7B", true);
        check("octroi undo", true);
        check("octroi explain --as ana read /inbox/a", true);
        check("octroi explain --as ana", false);
        check("octroi explain fly /inbox/a", false);
        check("octroi tx list --json", true);
        check("octroi tx list --dead", true);
        check("octroi tx show not-a-ulid", false);
        check("octroi tx retry 01JD8Z6Q1M4T0V2W3X4Y5Z6A7B", true);
        check("octroi tx accept --discard 01JD8Z6Q1M4T0V2W3X4Y5Z6A7B --view lab", true);
        check("octroi tx accept", false);
        check("octroi audit tail -n 5 -f", true);
        check("octroi audit verify --view lab.toml --key lab.pub --files --json", true);
        check("octroi audit verify 7.tlog-proof --key lab.pub", true);
        check("octroi audit verify 7.tlog-proof", false);
        check("octroi audit prove 7 -o -", true);
        check("octroi audit witness --to file --once", true);
        check("octroi audit witness -- ssh elsewhere cat", true);
        check("octroi audit accept-loss --why restored --view lab.toml", true);
        check("octroi audit accept-loss --view lab.toml", false);
        check("octroi reload --view lab --json", true);
        check("octroi reload lab.toml", false);
        check("octroi policy hits --unused", true);
        check("octroi policy", false);
        check("octroi fsck --view lab.toml --repair --json", true);
        check("octroi fsck", false);
        check("octroi frobnicate", false);
    }
}
