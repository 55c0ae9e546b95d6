//! `octroi audit witness`

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use crate::error::Errno;
use crate::ledger::checkpoint::Checkpoint;
use crate::ledger::note::VerifierKey;
use crate::types::{after, within};
use parking_lot::Mutex;

use super::super::failure::{Failure, cannot};
use super::super::output::{plain, say};
use super::super::target::ViewOption;
use super::carried::{Carried, Seen};
use super::signed::{Signed, key_of};

/// How often it looks for a new checkpoint.
const EVERY: Duration = Duration::from_secs(1);

/// So often tiles may be missing in a row: those of a checkpoint are replaced when the next is published.
const MISSING_MAX: u32 = 30;

/// How often it is looked whether a command has ended.
const LOOK: Duration = Duration::from_millis(20);

/// What may have happened to the key.
const OTHER_KEY: &str = "after an accepted loss another key signs: keep this file, begin another; \
    octroi audit verify --witness FILE still holds the ledger against it";

/// How long a command, or the disk of a file, is waited for.
const CARRY_MAX: Duration = Duration::from_secs(60);

/// Carry each checkpoint of the ledger away, so that what it vouches for can no longer be rewritten
/// here: to a file on another disk, or to a command, such as ssh to another machine.
///
/// Runs until it is ended. A checkpoint is carried away only if the ledger still extends the last one;
/// if it does not, that is said and the exit code is 1. octroi audit verify --witness FILE holds the
/// ledger against all of them. A command, and the disk of the file, have a minute for each: a command that
/// takes longer is killed, and it is tried again.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    octroi audit witness --to /mnt/usb/lab.checkpoints\n  \
    octroi audit witness --view lab/octroi.toml --to lab.checkpoints -- ssh log@elsewhere 'cat >>lab.checkpoints'\n\n\
    A line of the file, and what the command gets on standard input, is one JSON object with the time and\n\
    the checkpoint, a signed note (c2sp.org/tlog-checkpoint).")]
pub struct WitnessArgs {
    /// The file that checkpoints are appended to
    #[arg(long, value_name = "FILE")]
    to: Option<PathBuf>,
    /// Run for each checkpoint, which it gets on standard input; it is carried away when the command
    /// ends well. With --to it is then also appended to the file, from which a later run knows the last
    /// one; without, a later run begins as if nothing had been seen
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
    /// The public key that must have signed, or a file that holds it; without it the ledger's own
    #[arg(long, value_name = "KEY|FILE")]
    key: Option<String>,
    /// Carry the newest checkpoint away and end
    #[arg(long)]
    once: bool,
    #[command(flatten)]
    view: ViewOption,
}

pub fn run(args: &WitnessArgs) -> Result<(), Failure> {
    if args.to.is_none() && args.command.is_empty() {
        return Err(Failure::usage("cannot carry checkpoints away: it is not said where to").hint(
            "--to FILE, or -- COMMAND, or both: octroi audit witness --help shows examples",
        ));
    }
    let given = args.key.as_deref().map(key_of).transpose()?;
    let mut last = match &args.to {
        Some(path) if path.exists() => {
            let carried = Carried::open(path)?;
            let last = carried.all().last().map(|copy| copy.note);
            let judged = carried.judged()?;
            let wrong = judged.problems.into_iter().map(|(place, what)| format!("{place}: {what}"));
            let said = wrong.chain(judged.notes);
            said.for_each(|what| say(format_args!("octroi: note: {}", plain(&what))));
            last
        }
        _ => None,
    };
    let mut view = args.view.clone();
    let mut said = None;
    let mut warned = false;
    let mut missing = 0_u32;
    loop {
        let looked = look(args, &mut view, given.as_ref(), &mut last, &mut warned);
        let gives_up = gives_up(&looked, &mut missing);
        match looked {
            Ok(()) => said = None,
            Err(Trouble::Differs(failure)) => return Err(failure),
            Err(Trouble::NotNow(failure) | Trouble::TilesMissing(failure))
                if args.once || gives_up =>
            {
                return Err(failure);
            }
            // It is tried again.
            Err(Trouble::NotNow(failure) | Trouble::TilesMissing(failure)) => {
                let text = failure.to_string();
                if said.as_ref() != Some(&text) {
                    say(&text);
                    said = Some(text);
                }
            }
        }
        if args.once {
            return Ok(());
        }
        std::thread::sleep(EVERY);
    }
}

/// Whether tiles are missing for so long that nobody replaces them: who rewrites a ledger may remove them.
fn gives_up(looked: &Result<(), Trouble>, missing: &mut u32) -> bool {
    *missing = match looked {
        Err(Trouble::TilesMissing(_)) => missing.saturating_add(1),
        _ => 0,
    };
    *missing >= MISSING_MAX
}

enum Trouble {
    /// The ledger is not the one that was witnessed.
    Differs(Failure),
    /// The checkpoint cannot be had or not be carried away.
    NotNow(Failure),
    /// What shows that the ledger extends the last one is not there; it may be replaced just now, or
    /// somebody has removed it.
    TilesMissing(Failure),
}

fn look(
    args: &WitnessArgs,
    view: &mut ViewOption,
    given: Option<&VerifierKey>,
    last: &mut Option<Vec<u8>>,
    warned: &mut bool,
) -> Result<(), Trouble> {
    let signed = Signed::find(view).map_err(Trouble::NotNow)?;
    // Others may be mounted later, or instead.
    view.view = view.view.take().or_else(|| signed.mountpoint.clone());
    if let Some(to) = args.to.as_deref().filter(|_| !std::mem::replace(warned, true))
        && let Some(what) = near(to, &signed)
    {
        say(format_args!("octroi: warning: {} {}", plain(&to.to_string_lossy()), plain(&what)));
    }
    let place = &signed.place;
    let key = match given {
        Some(key) => key.clone(),
        None => signed
            .key
            .clone()
            .map_err(|why| Trouble::NotNow(cannot(format!("read the key of {place}"))(why)))?,
    };
    let differs = |why: String| Failure::new(format!("the ledger {place} is not as it was: {why}"));
    let Some(note) = &signed.checkpoint else {
        return Err(Trouble::Differs(differs("its checkpoint is missing".to_owned())));
    };
    if last.as_ref() == Some(note) {
        return Ok(());
    }
    let new =
        Checkpoint::open(note, &key).map_err(|why| Trouble::Differs(differs(why.to_string())))?;
    if let Some(last) = last {
        let seen = Checkpoint::open(last, &key).map_err(|why| {
            let what = format!("the last checkpoint that was witnessed: {why}");
            Trouble::Differs(differs(what).hint(OTHER_KEY))
        })?;
        if seen.size > new.size {
            let (seen, new) = (seen.size, new.size);
            let what = format!("{seen} lines were witnessed, and it vouches for {new}");
            return Err(Trouble::Differs(differs(what)));
        }
        let extends = signed.tree.extends(&seen, &new).map_err(|errno| {
            let failure = cannot(format!("read the tiles of {place}"))(errno);
            match errno {
                Errno::NODATA => Trouble::TilesMissing(failure),
                _ => Trouble::NotNow(failure),
            }
        })?;
        if !extends {
            let size = seen.size;
            return Err(Trouble::Differs(differs(format!(
                "its first {size} lines are not shown to be those that were witnessed"
            ))));
        }
    }
    carry(args, &signed, note).map_err(Trouble::NotNow)?;
    *last = Some(note.clone());
    Ok(())
}

/// What is to be said of a file that is part of what it is to witness.
fn near(file: &Path, signed: &Signed) -> Option<String> {
    let file = std::path::absolute(file).ok()?;
    let folder = file.parent()?.canonicalize().ok()?;
    let is_in = |path: &Path| path.canonicalize().is_ok_and(|path| folder.starts_with(path));
    if signed.mountpoint.as_deref().is_some_and(is_in) {
        let what = "is in the view itself: each checkpoint that is appended makes another, and who can \
                    rewrite the view can rewrite it";
        return Some(what.to_owned());
    }
    if let Some(branch) = signed.branches.iter().find(|branch| is_in(&branch.path)) {
        let name = &branch.name;
        return Some(format!(
            "is in branch {name} of the view: who can rewrite that can rewrite it"
        ));
    }
    let state = Path::new(&signed.place).parent()?;
    is_in(state).then(|| "is in the state folder, and goes where that goes".to_owned())
}

fn carry(args: &WitnessArgs, signed: &Signed, note: &[u8]) -> Result<(), Failure> {
    let seen = Seen {
        time: jiff::Timestamp::now().to_string(),
        checkpoint: String::from_utf8_lossy(note).into_owned(),
    };
    let mut line = serde_json::to_vec(&seen).map_err(cannot("write JSON"))?;
    line.push(b'\n');
    if let Some((program, arguments)) = args.command.split_first() {
        hand_over(program, arguments, &line, CARRY_MAX)?;
    }
    let Some(path) = &args.to else { return Ok(()) };
    let failed = cannot(format!("append to {}", path.display()));
    let (to, ledger) = (path.clone(), signed.place.clone());
    match APPENDING.try_lock() {
        None => return Err(failed(std::io::Error::from(Errno::TIMEDOUT))),
        Some(free) => drop(free),
    }
    let appended = within(CARRY_MAX, move || {
        // Held for as long as it takes, so that no other write comes between its parts.
        let _held = APPENDING.lock();
        append(&to, &line, &ledger)
    });
    let ended = appended.and_then(|ended| ended.unwrap_or_else(|| Err(Errno::TIMEDOUT.into())));
    ended.map_err(failed)
}

/// A file is being appended to.
static APPENDING: Mutex<()> = Mutex::new(());

fn hand_over(
    program: &str,
    arguments: &[String],
    line: &[u8],
    limit: Duration,
) -> Result<(), Failure> {
    let run = || {
        let mut child = Command::new(program).args(arguments).stdin(Stdio::piped()).spawn()?;
        if let Some(mut input) = child.stdin.take() {
            let line = line.to_vec();
            // A command that does not read tells by how it ends.
            let write = move || drop(input.write_all(&line));
            std::thread::Builder::new().name("hand-over".into()).spawn(write)?;
        }
        let deadline = after(Instant::now(), limit);
        loop {
            if let Some(status) = child.try_wait()? {
                return Ok(Some(status));
            }
            if Instant::now() > deadline {
                child.kill()?;
                // One that a disk holds up dies when that answers.
                std::thread::Builder::new().name("reap".into()).spawn(move || child.wait())?;
                return Ok(None);
            }
            std::thread::sleep(LOOK);
        }
    };
    let ended: std::io::Result<Option<ExitStatus>> = run();
    match ended.map_err(cannot(format!("run {program}")))? {
        Some(status) if status.success() => Ok(()),
        Some(status) => Err(Failure::new(format!(
            "cannot carry a checkpoint away: {program} ended with {status}"
        ))),
        None => Err(Failure::new(format!(
            "cannot carry a checkpoint away: {program} had not ended after {} s",
            limit.as_secs()
        ))),
    }
}

fn append(path: &Path, line: &[u8], ledger: &str) -> std::io::Result<()> {
    let new = !path.exists();
    let mut file = OpenOptions::new().read(true).append(true).create(true).open(path)?;
    if new && file.metadata()?.dev() == std::fs::metadata(ledger)?.dev() {
        say(format_args!(
            "octroi: note: {} is on the disk of the ledger itself, and goes where that goes",
            path.display()
        ));
    }
    // What a crash or a full disk has left of a line stays, and is none of the next.
    let before = file.metadata()?.len();
    let mut last = [b'\n'];
    if let Some(at) = before.checked_sub(1) {
        file.read_exact_at(&mut last, at)?;
    }
    let whole = if last == *b"\n" { line.to_vec() } else { [b"\n", line].concat() };
    let written = file.write_all(&whole).and_then(|()| file.sync_data());
    if written.is_err() {
        // It is tried again; if this fails too, a fragment stays.
        let _ = file.set_len(before);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(script: &str) -> Vec<String> {
        vec!["-c".to_owned(), script.to_owned()]
    }

    #[test]
    fn tiles_that_stay_away_end_it() {
        let failed = |trouble: fn(Failure) -> Trouble| Err(trouble(Failure::new("no tile")));
        let mut missing = 0;
        for _ in 1..MISSING_MAX {
            assert!(!gives_up(&failed(Trouble::TilesMissing), &mut missing));
        }
        assert!(!gives_up(&failed(Trouble::NotNow), &mut missing), "they may be back");
        for _ in 1..MISSING_MAX {
            assert!(!gives_up(&failed(Trouble::TilesMissing), &mut missing));
        }
        assert!(gives_up(&failed(Trouble::TilesMissing), &mut missing));
    }

    #[test]
    fn a_command_that_does_not_end_or_read_is_not_waited_for() {
        let limit = Duration::from_millis(300);
        let said = hand_over("sh", &arguments("exec sleep 1000"), &[b'x'; 1 << 20], limit);
        let said = said.expect_err("it is killed").to_string();
        assert!(said.contains("had not ended"), "{said}");
        hand_over("sh", &arguments("cat >/dev/null"), &[b'x'; 1 << 20], CARRY_MAX)
            .expect("it reads");
        let said = hand_over("sh", &arguments("exit 3"), b"x", CARRY_MAX).expect_err("it fails");
        assert!(said.to_string().contains("exit status: 3"), "{said}");
    }

    #[test]
    fn what_does_not_come_to_an_end_is_left_to_itself() {
        let (sender, receiver) = crossbeam_channel::bounded::<()>(0);
        let hung = within(Duration::from_millis(50), move || receiver.recv());
        assert_eq!(hung.expect("a thread"), None);
        drop(sender);
        assert_eq!(within(CARRY_MAX, || 7).expect("a thread"), Some(7));
    }
}
