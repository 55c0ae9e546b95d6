//! `octroi audit schema`

use crate::ledger::schema::schema;

use super::super::failure::Failure;
use super::super::output::print;

/// Print the JSON Schema of the ledger's lines. Each field is explained in .audit/README.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  octroi audit schema > ledger.schema.json")]
pub(super) struct SchemaArgs {}

pub(super) fn run(_: &SchemaArgs) -> Result<(), Failure> {
    print(&schema())
}
