//! `octroi where`

use std::path::PathBuf;

use crate::control::protocol::{Answer, Location, Request};

use super::failure::{Failure, cannot};
use super::output::{plain, print, print_json};
use super::target::ViewOption;
use super::{tx, unexpected};

/// Show which branch holds a file, and the crossings that brought it there.
///
/// What came inside a directory that crossed has no crossing of its own: ask of the directory. The
/// path on the backing file system is shown to root and the user who mounted the view.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  octroi where /mnt/lab/review/a.csv")]
pub struct Args {
    /// The file
    path: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    view: ViewOption,
}

pub fn run(args: &Args) -> Result<(), Failure> {
    let (view, path) = args.view.find_with_path(&args.path)?;
    let request = Request::Where { path: path.clone() };
    let answer = view.client.ask(&request).map_err(cannot(format!("locate {path}")))?;
    let Answer::Where(location) = answer else { return Err(unexpected()) };
    if args.json {
        return print_json(&location);
    }
    print(&render(&location))
}

fn render(location: &Location) -> String {
    let branch = location.branch.as_deref().unwrap_or("none: octroi's own folder");
    let mut text = format!("branch   {branch}\n");
    if let Some(backing) = &location.backing {
        text.push_str(&format!("backing  {}\n", plain(&backing.0.to_string_lossy())));
    }
    if !location.history.is_empty() {
        text.push('\n');
        text.push_str(&tx::list(&location.history));
    }
    text
}
