//! The tests are tested. A run of the mover's tests is told, by `OCTROI_SABOTAGE`, one thing to do
//! wrong, and must fail:
//!
//! ```text
//! omit FILE FUNCTION METHOD N     the n-th call of a method of `Storage` in a function is left out;
//!                                 one that only looks answers what keeps the caller going
//! late FILE FUNCTION METHOD N     it comes after the mover's next change, or the ledger's next sync
//! point NAME                      a check is left out, or two steps change places: see `sabotaged`
//! ```
//!
//! So named, a call keeps its name while the lines around it change. With `OCTROI_SABOTAGE_SITES` the run
//! adds a line to that file for each call or point that it comes to. `scripts/prove.d/sabotage` tries all and
//! writes `tests/SABOTAGE.md`; here some lines of that table are tried again.

use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::fmt::Write as _;
use std::io::Write as _;
use std::panic::Location;
use std::sync::LazyLock;

use parking_lot::Mutex;

mod sample;
pub(super) mod storage;

/// What is done wrong with a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum How {
    Omit,
    Late,
}

static CHOSEN: LazyLock<Option<String>> = LazyLock::new(|| std::env::var("OCTROI_SABOTAGE").ok());
static SITES: LazyLock<Option<OsString>> =
    LazyLock::new(|| std::env::var_os("OCTROI_SABOTAGE_SITES"));

/// Whether this run has this place wrong.
pub(in super::super) fn sabotaged(point: &str) -> bool {
    if CHOSEN.is_none() && SITES.is_none() {
        return false;
    }
    note_site(&format!("point {point}"));
    CHOSEN.as_deref().and_then(|chosen| chosen.strip_prefix("point ")) == Some(point)
}

/// Whether a call is done wrong.
pub(super) fn strikes(caller: &'static Location<'static>, method: &'static str) -> Option<How> {
    if CHOSEN.is_none() && SITES.is_none() {
        return None;
    }
    let site = site(caller, method)?;
    note_site(&site);
    let (how, chosen) = CHOSEN.as_deref()?.split_once(' ')?;
    match how {
        _ if chosen != site => None,
        "omit" => Some(How::Omit),
        "late" => Some(How::Late),
        _ => None,
    }
}

/// Whether a call comes from below a folder of the sources; tests do not count.
pub(super) fn is_of(caller: &Location<'_>, folder: &str) -> bool {
    caller.file().starts_with(folder) && !caller.file().contains("/tests")
}

fn note_site(site: &str) {
    static KNOWN: LazyLock<Mutex<HashSet<String>>> = LazyLock::new(Mutex::default);
    let Some(path) = &*SITES else { return };
    if KNOWN.lock().insert(site.to_owned()) {
        let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
        let mut line = String::new();
        let _ = writeln!(line, "{site}");
        file.and_then(|mut file| file.write_all(line.as_bytes())).unwrap();
    }
}

/// The name of a call of the mover: `FILE FUNCTION METHOD N`.
fn site(caller: &'static Location<'static>, method: &'static str) -> Option<String> {
    type Known = HashMap<(&'static str, u32, u32), String>;
    static KNOWN: LazyLock<Mutex<Known>> = LazyLock::new(Mutex::default);
    if !is_of(caller, "src/mover/") {
        return None;
    }
    let mut known = KNOWN.lock();
    let key = (caller.file(), caller.line(), caller.column());
    let named = known.entry(key).or_insert_with(|| {
        let file = caller.file().strip_prefix("src/mover/").unwrap();
        let calls = calls_in(text_of(file), method);
        let at = (caller.line() as usize, caller.column() as usize);
        let (_, named) = calls.into_iter().find(|(found, _)| *found == at).unwrap_or_else(|| {
            panic!("{caller}: no call of {method} is found there");
        });
        format!("{file} {named}")
    });
    Some(named.clone())
}

/// The sources that this binary is made of: those on disk may be newer.
macro_rules! sources {
    ($($file:literal),* $(,)?) => {
        const SOURCES: &[(&str, &str)] = &[$(($file, include_str!(concat!("../../", $file)))),*];
    };
}

sources! {
    "commands.rs",
    "commit.rs",
    "copy.rs",
    "directory.rs",
    "discard.rs",
    "error.rs",
    "granted.rs",
    "inspect.rs",
    "journal.rs",
    "letters.rs",
    "look.rs",
    "merge.rs",
    "mod.rs",
    "moves.rs",
    "pace.rs",
    "parallel.rs",
    "pass.rs",
    "past.rs",
    "prepare.rs",
    "progress.rs",
    "purge.rs",
    "rearrange.rs",
    "recover.rs",
    "remove.rs",
    "request.rs",
    "reread.rs",
    "returning.rs",
    "room.rs",
    "sabotage.rs",
    "stage.rs",
    "start.rs",
    "tree.rs",
    "undo.rs",
    "unrecorded.rs",
    "work.rs",
}

fn text_of(file: &str) -> &'static str {
    let found = SOURCES.iter().find(|(name, _)| *name == file);
    found.unwrap_or_else(|| panic!("{file} is to be added to SOURCES")).1
}

/// The calls of a method in a source: line and column, from 1, and `FUNCTION METHOD N`.
fn calls_in(text: &str, method: &str) -> Vec<((usize, usize), String)> {
    let mut calls = Vec::new();
    let mut function = "";
    let mut count = 0;
    let wanted = format!(".{method}(");
    for (number, line) in text.lines().enumerate() {
        let code = line.trim_start();
        let start = code.split_once("fn ").filter(|(before, _)| {
            before.split(' ').all(|word| {
                word.is_empty() || word.starts_with("pub") || word.ends_with(')') || word == "const"
            })
        });
        if let Some((_, rest)) = start {
            function = rest
                .split(|letter: char| !letter.is_alphanumeric() && letter != '_')
                .next()
                .unwrap();
            count = 0;
        }
        for (at, _) in line.match_indices(&wanted) {
            count += 1;
            calls.push(((number + 1, at + 2), format!("{function} {method} {count}")));
        }
    }
    calls
}
