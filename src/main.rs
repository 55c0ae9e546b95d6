//! The `octroi` program: parse, run, print the error, exit.

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    let cli = octroi::cli::Cli::parse();
    match octroi::cli::run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            octroi::cli::say(&failure);
            failure.code.into()
        }
    }
}
