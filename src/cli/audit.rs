//! `octroi audit`

mod carried;
mod export;
mod files;
mod filter;
mod log;
mod loss;
mod ocsf;
mod prove;
mod query;
mod report;
mod schema;
mod scope;
mod search;
mod show;
mod signed;
mod tail;
mod verify;
mod witness;

use super::failure::Failure;
pub(super) use log::Log;

/// Look at the ledger.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    octroi audit tail -f\n  \
    octroi audit query --denied --since 7d\n  \
    octroi audit verify --key lab.pub")]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Tail(tail::TailArgs),
    Query(query::QueryArgs),
    Export(export::ExportArgs),
    Report(report::ReportArgs),
    Schema(schema::SchemaArgs),
    Verify(verify::VerifyArgs),
    Prove(prove::ProveArgs),
    Witness(witness::WitnessArgs),
    AcceptLoss(loss::LossArgs),
}

pub fn run(args: &Args) -> Result<(), Failure> {
    match &args.command {
        Command::Tail(args) => tail::run(args),
        Command::Query(args) => query::run(args),
        Command::Export(args) => export::run(args),
        Command::Report(args) => report::run(args),
        Command::Schema(args) => schema::run(args),
        Command::Verify(args) => verify::run(args),
        Command::Prove(args) => prove::run(args),
        Command::Witness(args) => witness::run(args),
        Command::AcceptLoss(args) => loss::run(args),
    }
}
