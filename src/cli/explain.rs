//! `octroi explain`

use std::path::PathBuf;

use crate::control::protocol::{Answer, Request};
use crate::policy::Wanted;
use crate::sys::users;

use super::failure::{Failure, cannot};
use super::output::{print, print_json};
use super::target::ViewOption;
use super::{unexpected, why};

/// Say what the policy would decide, and everything that it considers.
///
/// Answers for you; for another user with --as (root and the user who mounted the view). UNIX
/// permissions are the kernel's and not part of the answer: the policy can only take away. What is
/// found in a file when it crosses (type, size, other users of it) is not either. The exit code is 0
/// for both answers.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    octroi explain write /mnt/lab/review/a.csv\n  \
    octroi explain --as ana move /mnt/lab/inbox/a.csv /mnt/lab/review/a.csv")]
pub struct Args {
    /// For this user, by name or number
    #[arg(long = "as", value_name = "USER")]
    user: Option<String>,
    /// A verb or a single operation such as open-read or mkdir; a verb stands for one of its
    /// operations: read for open-read or list, write for open-write, add for create, remove for unlink
    /// or rmdir, attrs for chmod, move and rename for their source side with TARGET
    #[arg(value_name = "VERB")]
    wanted: Wanted,
    /// On what
    path: PathBuf,
    /// The second path of a move, rename or link
    target: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    view: ViewOption,
}

pub fn run(args: &Args) -> Result<(), Failure> {
    let Wanted { file: operation, directory } = args.wanted;
    let two_sided = args.wanted.is_two_sided();
    if two_sided && args.target.is_none() {
        return Err(Failure::usage(format!("cannot explain {operation}: it needs a TARGET")));
    }
    if !two_sided && args.target.is_some() {
        return Err(Failure::usage(format!("cannot explain {operation}: it has no TARGET")));
    }
    let (view, path) = args.view.find_with_path(&args.path)?;
    let is_directory = view.outside(&path).symlink_metadata().is_ok_and(|found| found.is_dir());
    let operation = if is_directory { directory } else { operation };
    let inside = |target: &PathBuf| args.view.inside(&view.mount, target);
    let target = args.target.as_ref().map(inside).transpose()?;
    let uid = args.user.as_deref().map(user_id).transpose()?;
    let request = Request::Explain { uid, operation, path, target };
    let attempt = format!("explain a request in view {}", view.mount.name);
    let Answer::Explain(explanation) = view.client.ask(&request).map_err(cannot(attempt))? else {
        return Err(unexpected());
    };
    if args.json {
        return print_json(&explanation);
    }
    let verdict = if explanation.allowed { "allowed" } else { "denied" };
    print(&format!("{verdict}\n{}", why::explained(&explanation)))
}

fn user_id(user: &str) -> Result<u32, Failure> {
    if let Ok(uid) = user.parse() {
        return Ok(uid);
    }
    let found = users::uid_of(user).map_err(cannot(format!("look up the user {user}")))?;
    found.ok_or_else(|| {
        Failure::usage(format!("cannot look up the user {user}: there is none of that name"))
    })
}
