//! `octroi audit accept-loss`

use std::path::PathBuf;

use crate::daemon::{self, DaemonError};

use super::super::failure::Failure;
use super::super::output::{plain, print};

/// Go on with a ledger that was rolled back, cut, edited or damaged, when what is lost cannot be had back.
///
/// It goes on with the lines before the first bad one; all that leaves it is put into a folder of its own in
/// evidence/ of the state folder first, with SHA256SUMS. The ledger's next record says what differed, why it
/// was accepted and by whom, what is kept where, and which checkpoints no longer hold. A new key begins. The
/// view must not be mounted.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  \
    octroi audit accept-loss --view lab/octroi.toml --why \"disk of the state folder failed, restored from Monday\"")]
pub struct LossArgs {
    /// Why, for the record
    #[arg(long, value_name = "TEXT", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    why: String,
    /// The configuration of the view
    #[arg(long, value_name = "CONFIG")]
    view: PathBuf,
}

pub fn run(args: &LossArgs) -> Result<(), Failure> {
    let accepted = daemon::accept_loss(&args.view, &args.why).map_err(|error| match error {
        DaemonError::Config(text) => Failure::diagnostics(text),
        DaemonError::Usage(text) => Failure::usage(text),
        DaemonError::Failed(text) => Failure::new(text),
    })?;
    let list: String = accepted.found.iter().map(|what| format!("  {}\n", plain(what))).collect();
    let kept = accepted.kept.map_or_else(String::new, |folder| {
        format!("what was taken out of the ledger is in {}\n", plain(&folder.to_string_lossy()))
    });
    print(&format!(
        "recorded as lost:\n{list}{kept}a new key signs from here: keep .audit/key.pub anew\n"
    ))
}
