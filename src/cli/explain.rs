//! `octroi explain`

use std::path::{Path, PathBuf};

use jiff::Timestamp;

use crate::config;
use crate::control::protocol::{Answer, Request};
use crate::policy::{Supposed, Wanted};
use crate::sys::users;
use crate::types::{Operation, ViewPath};

use super::failure::{Failure, cannot};
use super::output::{print, print_json};
use super::target::{View, ViewOption};
use super::{unexpected, why};

/// Say what the policy would decide, and everything that it considers.
///
/// Answers for you; for another user with --as (root and the user who mounted the view). UNIX
/// permissions are the kernel's and not part of the answer: the policy can only take away. What is
/// found in a file when it crosses (type, size, other users of it) is not either. A TARGET that is a
/// directory, or ends in `/`, stands for the name in it, as for mv and ln. The exit code is 0 for both
/// answers.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    octroi explain write /mnt/lab/review/a.csv\n  \
    octroi explain --as ana move /mnt/lab/inbox/a.csv /mnt/lab/review/\n  \
    octroi explain --as ana write /mnt/lab/inbox/a.csv --size 3GiB")]
pub struct Args {
    /// For this user, by name or number; user:NAME as in rules is as good
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
    /// As if the file had this size afterwards, such as 2GiB; write is write-data then
    #[arg(long, value_name = "SIZE", value_parser = size_of)]
    size: Option<u64>,
    /// As if the object had these labels
    #[arg(long, value_name = "LABEL,...", value_delimiter = ',')]
    labels: Option<Vec<String>>,
    /// As if setxattr or removexattr changed the labels
    #[arg(long)]
    changes_labels: bool,
    /// As at this time, such as 2026-01-05T09:00[Europe/Paris]
    #[arg(long, value_name = "TIME", value_parser = time_of)]
    at: Option<Timestamp>,
    /// Show everything that is considered, not only what speaks of the request or nearly does
    #[arg(short, long)]
    verbose: bool,
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
    let is_directory = outside(&view, &path).symlink_metadata().is_ok_and(|found| found.is_dir());
    let operation = if is_directory { directory } else { operation };
    let operation = sized(args, operation)?;
    let target = args.target.as_ref().map(|target| target_of(args, &view, &path, target));
    let target = target.transpose()?;
    let uid = args.user.as_deref().map(user_id).transpose()?;
    let supposed = Supposed {
        size: args.size,
        labels: args.labels.clone(),
        changes_labels: args.changes_labels,
        at: args.at.map(Timestamp::as_second),
    };
    let request = Request::Explain { uid, operation, path, target, supposed };
    let attempt = format!("explain a request in view {}", view.mount.name);
    let Answer::Explain(explanation) = view.client.ask(&request).map_err(cannot(attempt))? else {
        return Err(unexpected());
    };
    if args.json {
        return print_json(&explanation);
    }
    let verdict = if explanation.allowed { "allowed" } else { "denied" };
    print(&format!("{verdict}\n{}", why::explained(&explanation, args.verbose)))
}

/// The operation that `--size` is about; reported where none is.
fn sized(args: &Args, operation: Operation) -> Result<Operation, Failure> {
    let labels = [Operation::Setxattr, Operation::Removexattr];
    if args.changes_labels && !labels.contains(&operation) {
        return Err(Failure::usage(format!("cannot explain {operation}: it changes no labels"))
            .hint("--changes-labels goes with setxattr and removexattr"));
    }
    match (args.size, operation) {
        (Some(_), Operation::OpenWrite) => Ok(Operation::WriteData),
        (Some(_), operation) if !operation.has_size() && !args.wanted.is_two_sided() => {
            let names = Operation::ALL.into_iter().filter(|one| one.has_size());
            let names: Vec<_> = names.map(Operation::name).collect();
            Err(Failure::usage(format!("cannot explain {operation}: it makes no file larger"))
                .hint(format!("--size goes with write and {}", names.join(", "))))
        }
        (_, operation) => Ok(operation),
    }
}

/// Where a mount shows a path of the view; nowhere if none does.
fn outside(view: &View, path: &ViewPath) -> PathBuf {
    view.outside(&[path]).and_then(|at| at.into_iter().next()).unwrap_or_default()
}

/// The second path; the name in it where it is a directory, as mv and ln take it.
fn target_of(
    args: &Args,
    view: &View,
    path: &ViewPath,
    target: &Path,
) -> Result<ViewPath, Failure> {
    let inside = args.view.inside(&view.mount, target)?;
    let slash = target.as_os_str().as_encoded_bytes().ends_with(b"/");
    let is_directory = || outside(view, &inside).metadata().is_ok_and(|found| found.is_dir());
    match path.name() {
        Some(name) if slash || is_directory() => Ok(inside.join(name)),
        _ => Ok(inside),
    }
}

fn size_of(text: &str) -> Result<u64, String> {
    config::parse_size(text).map_err(|wanted| format!("expected {wanted}, such as 512KiB or 2GiB"))
}

fn time_of(text: &str) -> Result<Timestamp, String> {
    config::parse_time(text).map_err(|mistake| mistake.to_string())
}

fn user_id(user: &str) -> Result<u32, Failure> {
    let user = user.strip_prefix("user:").unwrap_or(user);
    if let Ok(uid) = user.parse() {
        return Ok(uid);
    }
    let found = users::uid_of(user).map_err(cannot(format!("look up the user {user}")))?;
    found.ok_or_else(|| {
        Failure::usage(format!("cannot look up the user {user}: there is none of that name"))
    })
}
