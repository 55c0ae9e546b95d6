//! `octroi policy`: what the rules of a view do, and what others would.

use super::failure::Failure;

mod hits;
mod replay;
mod test;

/// See which rules decide, test a policy, and try another on what was recorded.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    octroi policy test lab/octroi.toml\n  \
    octroi policy hits --unused\n  \
    octroi policy replay --rules new.toml")]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Hits(hits::Args),
    Test(test::Args),
    Replay(replay::Args),
}

pub fn run(args: &Args) -> Result<(), Failure> {
    match &args.command {
        Command::Hits(args) => hits::run(args),
        Command::Test(args) => test::run(args),
        Command::Replay(args) => replay::run(args),
    }
}
