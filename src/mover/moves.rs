//! The renames of a decided transaction. Running them for the first time, running them again after
//! a crash and taking them back is the same work: look where each inode is, and move it if needed.

use std::ffi::OsString;
use std::path::Path;

use super::error::CrossingError;
use super::sabotage::sabotaged;
use super::tree::Digest;
use crate::error::Errno;
use crate::ledger::record::{Act, Area, Move};
use crate::storage::{Kind, Metadata, Storage};

/// One end of a move, opened.
pub(super) struct Place<S: Storage> {
    pub(super) dir: S::Dir,
    pub(super) name: OsString,
}

impl<S: Storage> Clone for Place<S> {
    fn clone(&self) -> Self {
        Self { dir: self.dir.clone(), name: self.name.clone() }
    }
}

/// A move with both ends opened.
pub(super) struct PlacedMove<S: Storage> {
    pub(super) step: Move,
    pub(super) from: Place<S>,
    pub(super) to: Place<S>,
}

/// A move of which a folder may be gone.
pub(super) struct HalfOpen<S: Storage> {
    pub(super) from: Option<Place<S>>,
    pub(super) to: Option<Place<S>>,
}

/// Where the inode of a move is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Whereabouts {
    /// The move was not made.
    From,
    /// It was made.
    To,
    /// A rename between directories of which the crash kept the new name and not the removal of
    /// the old one.
    Both,
    /// Not at `from`, which is private to this program, and not at `to`: the move was made, and
    /// somebody has since moved or replaced what it brought.
    MovedOn,
    /// At neither end.
    Doubt,
}

/// Why the moves stopped.
#[derive(Debug)]
pub(super) struct Stopped {
    pub(super) why: CrossingError,
    /// An inode is at neither end, or what has arrived must stay: nobody may delete or take back anything of this
    /// transaction.
    pub(super) doubt: bool,
}

impl From<CrossingError> for Stopped {
    fn from(why: CrossingError) -> Self {
        Self { why, doubt: false }
    }
}

/// Makes all moves that are not made yet. With `lease_holds` it is the first run: nothing may have
/// been moved, and the source must not have been opened for writing. Invariants 3 and 4.
pub(super) fn forward<S: Storage>(
    storage: &S,
    moves: &[PlacedMove<S>],
    lease_holds: Option<&dyn Fn() -> bool>,
) -> Result<(), Stopped> {
    let again = lease_holds.is_none();
    if again && is_unfinished(storage, moves)? {
        check_none_lost(storage, moves)?;
    }
    for placed in moves {
        let act = placed.step.act;
        match whereabouts(storage, placed)? {
            Whereabouts::From => {
                if !sabotaged("moves: compare before a move") {
                    compare(storage, placed, &placed.from)?;
                }
                // Nobody could reach it there while the daemon lived.
                let staged = again && placed.step.from.area == Area::Stage;
                let look = staged && !sabotaged("moves: compare what stage has");
                if look && !is_same_below(storage, placed, &placed.from)? {
                    return Err(CrossingError::CopyChanged.into());
                }
                storage
                    .rename(&placed.from.dir, &placed.from.name, &placed.to.dir, &placed.to.name)
                    .map_err(CrossingError::io(attempt(act), placed.step.to.path.display()))?;
                if !sabotaged("moves: compare after a move") {
                    compare(storage, placed, &placed.to)?;
                    compare_below(storage, placed)?;
                }
            }
            Whereabouts::Both => finish_rename(storage, &placed.to, &placed.from)?,
            // What RETIRE took may have been written by somebody who had it open; what the others
            // brought may have been changed by its users since.
            Whereabouts::To
                if matches!(act, Act::Retire | Act::Displace)
                    && !sabotaged("moves: compare what was moved before") =>
            {
                compare(storage, placed, &placed.to)?;
                compare_below(storage, placed)?;
            }
            Whereabouts::To => {}
            Whereabouts::MovedOn if again => {}
            Whereabouts::MovedOn | Whereabouts::Doubt => {
                return Err(Stopped { why: missing(placed), doubt: true });
            }
        }
        // The lease is on what RETIRE, or APPLY on one file system, has just moved.
        let look = act != Act::Displace && !sabotaged("moves: lease after a move");
        if look && lease_holds.is_some_and(|holds| !holds()) {
            return Err(CrossingError::SourceChanged.into());
        }
    }
    Ok(())
}

/// Whether one of the moves was not made. Then no user has had any of it, and what is not in stage or hold has not
/// been moved on: it is lost.
fn is_unfinished<S: Storage>(storage: &S, moves: &[PlacedMove<S>]) -> Result<bool, CrossingError> {
    for placed in moves {
        if matches!(whereabouts(storage, placed)?, Whereabouts::From | Whereabouts::Both) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// An error if something has left stage or hold: nothing is moved then.
fn check_none_lost<S: Storage>(storage: &S, moves: &[PlacedMove<S>]) -> Result<(), CrossingError> {
    for placed in moves {
        let lost = whereabouts(storage, placed)? == Whereabouts::MovedOn;
        if lost && !sabotaged("moves: nothing is lost") {
            return Err(missing(placed));
        }
    }
    Ok(())
}

fn missing<S: Storage>(placed: &PlacedMove<S>) -> CrossingError {
    CrossingError::Io {
        attempted: attempt(placed.step.act),
        what: placed.step.from.path.display().to_string(),
        errno: Errno::NOENT,
    }
}

/// Takes back all moves that were made, last first. Never replaces anything.
pub(super) fn back<S: Storage>(storage: &S, moves: &[PlacedMove<S>]) -> Result<(), CrossingError> {
    let unfinished = is_unfinished(storage, moves)?;
    let mut order: Vec<&PlacedMove<S>> = moves.iter().rev().collect();
    if sabotaged("moves: the last is taken back first") {
        order.reverse();
    }
    for placed in order {
        match whereabouts(storage, placed)? {
            Whereabouts::To => storage
                .rename(&placed.to.dir, &placed.to.name, &placed.from.dir, &placed.from.name)
                .map_err(CrossingError::io("put back", placed.step.from.path.display()))?,
            Whereabouts::Both => finish_rename(storage, &placed.from, &placed.to)?,
            Whereabouts::From => {}
            Whereabouts::MovedOn if unfinished => {}
            Whereabouts::MovedOn | Whereabouts::Doubt => {
                return Err(CrossingError::Io {
                    attempted: "put back",
                    what: placed.step.from.path.display().to_string(),
                    errno: Errno::NOENT,
                });
            }
        }
    }
    Ok(())
}

/// Makes the names durable, those that appeared before those that disappeared: where a disk keeps
/// each by itself, the file never has none. `taken_back` swaps the ends, and the last move comes first: what
/// it took away again may stand where an earlier one has brought something back.
pub(super) fn sync<S: Storage>(
    storage: &S,
    moves: &[PlacedMove<S>],
    taken_back: bool,
) -> Result<(), CrossingError> {
    match taken_back {
        true => sync_ends(storage, moves.iter().rev().map(|placed| (&placed.from, &placed.to))),
        false => sync_ends(storage, moves.iter().map(|placed| (&placed.to, &placed.from))),
    }
}

/// As [`sync`] where some moves were made and others not, or were taken back: as far as they got.
pub(super) fn sync_as_they_are<S: Storage>(
    storage: &S,
    moves: &[PlacedMove<S>],
) -> Result<(), CrossingError> {
    let (mut back, mut made) = (Vec::new(), Vec::new());
    for placed in moves {
        match whereabouts(storage, placed)? {
            Whereabouts::From => back.push((&placed.from, &placed.to)),
            Whereabouts::To | Whereabouts::Both | Whereabouts::MovedOn | Whereabouts::Doubt => {
                made.push((&placed.to, &placed.from));
            }
        }
    }
    sync_ends(storage, back.into_iter().rev().chain(made))
}

/// As [`sync`] of moves that were made, in the folders that there are.
pub(super) fn sync_half_open<S: Storage>(
    storage: &S,
    moves: &[HalfOpen<S>],
) -> Result<(), CrossingError> {
    sync_ends(storage, moves.iter().map(|ends| (ends.to.as_ref(), ends.from.as_ref())))
}

/// `ends`: of each move that where the name appeared, and that where it disappeared.
fn sync_ends<'a, S: Storage, P: Into<Option<&'a Place<S>>>>(
    storage: &S,
    ends: impl Iterator<Item = (P, P)>,
) -> Result<(), CrossingError> {
    let mut synced = Vec::new();
    let (appeared, gone): (Vec<P>, Vec<P>) = ends.unzip();
    let mut places: Vec<&Place<S>> =
        appeared.into_iter().chain(gone).filter_map(Into::into).collect();
    if sabotaged("moves: what appeared is synced first") {
        places.reverse();
    }
    for place in places {
        let handle = storage
            .dir_handle(&place.dir)
            .map_err(CrossingError::io("look at the folder of", place.name.display()))?;
        if !synced.contains(&handle) {
            storage
                .sync_dir(&place.dir)
                .map_err(CrossingError::io("sync the folder of", place.name.display()))?;
            synced.push(handle);
        }
    }
    Ok(())
}

pub(super) fn whereabouts<S: Storage>(
    storage: &S,
    placed: &PlacedMove<S>,
) -> Result<Whereabouts, CrossingError> {
    let handle = &placed.step.identity.handle;
    let to = look(storage, &placed.to)?;
    let from = look(storage, &placed.from)?;
    let is_it = |found: &Option<Metadata>| {
        found
            .as_ref()
            .is_some_and(|found| found.identity.handle == *handle || sabotaged("moves: handle"))
    };
    Ok(match (is_it(&from), is_it(&to)) {
        (true, false) => Whereabouts::From,
        (false, true) => Whereabouts::To,
        (true, true) => Whereabouts::Both,
        (false, false) if from.is_none() && placed.step.from.area != Area::Tree => {
            Whereabouts::MovedOn
        }
        (false, false) => Whereabouts::Doubt,
    })
}

fn look<S: Storage>(storage: &S, place: &Place<S>) -> Result<Option<Metadata>, CrossingError> {
    storage
        .stat(&place.dir, &place.name)
        .map_err(CrossingError::io("look at", place.name.display()))
}

/// The inode at `place` must still be what the record says. What is replaced or restored may
/// have any content; symlinks and special files cannot change theirs; of directories see below.
fn compare<S: Storage>(
    storage: &S,
    placed: &PlacedMove<S>,
    place: &Place<S>,
) -> Result<(), CrossingError> {
    let found = look(storage, place)?.ok_or(CrossingError::SourceChanged)?;
    let expected = &placed.step.identity;
    let content_matters =
        matches!(placed.step.act, Act::Retire | Act::Apply) && found.kind == Kind::File;
    let same = if content_matters {
        expected.same_content(&found.identity)
    } else {
        expected.handle == found.identity.handle
    };
    if !same && !sabotaged("moves: identity") {
        return Err(CrossingError::SourceChanged);
    }
    match placed.step.act {
        Act::Displace if sabotaged("moves: what makes way is empty") => Ok(()),
        Act::Displace => check_empty(storage, place, &found),
        Act::Retire | Act::Apply | Act::Restore | Act::Rename => Ok(()),
    }
}

/// A directory that makes way for something must be empty; another kind always may.
pub(super) fn check_empty<S: Storage>(
    storage: &S,
    place: &Place<S>,
    found: &Metadata,
) -> Result<(), CrossingError> {
    if found.kind != Kind::Directory {
        return Ok(());
    }
    match is_empty(storage, place)? {
        true => Ok(()),
        false => Err(CrossingError::io("replace", place.name.display())(Errno::NOTEMPTY)),
    }
}

/// Whether nothing is in a directory.
pub(super) fn is_empty<S: Storage>(storage: &S, place: &Place<S>) -> Result<bool, CrossingError> {
    let names = storage
        .open_dir(&place.dir, Path::new(&place.name))
        .and_then(|dir| storage.list(&dir))
        .map_err(CrossingError::io("list", place.name.display()))?;
    Ok(names.is_empty())
}

/// Sources that RETIRE has not moved yet must be what the record says, also below: else they stay where they are.
pub(super) fn check_sources_below<S: Storage>(
    storage: &S,
    moves: &[PlacedMove<S>],
) -> Result<(), CrossingError> {
    for placed in moves.iter().filter(|placed| placed.step.act == Act::Retire) {
        let stands = whereabouts(storage, placed)? == Whereabouts::From;
        if stands && !is_same_below(storage, placed, &placed.from)? {
            return Err(CrossingError::SourceChanged);
        }
    }
    Ok(())
}

/// What came out of the tree with a directory must be what the record says. Others cannot reach
/// what comes out of stage or hold, until they may change it.
fn compare_below<S: Storage>(storage: &S, placed: &PlacedMove<S>) -> Result<(), CrossingError> {
    if placed.step.from.area != Area::Tree || is_same_below(storage, placed, &placed.to)? {
        return Ok(());
    }
    Err(CrossingError::SourceChanged)
}

/// Whether what is below a directory is what the record says.
pub(super) fn is_same_below<S: Storage>(
    storage: &S,
    placed: &PlacedMove<S>,
    place: &Place<S>,
) -> Result<bool, CrossingError> {
    let Some(expected) = &placed.step.below else { return Ok(true) };
    let top = storage
        .open_dir(&place.dir, Path::new(&place.name))
        .map_err(CrossingError::io("open", place.name.display()))?;
    match Digest::of(storage, &top) {
        Ok(found) => Ok(found == *expected || sabotaged("moves: digest of what is below")),
        Err(CrossingError::SourceChanged) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Removes the old name of a rename that a crash left half done.
pub(super) fn finish_rename<S: Storage>(
    storage: &S,
    keep: &Place<S>,
    remove: &Place<S>,
) -> Result<(), CrossingError> {
    storage
        .sync_dir(&keep.dir)
        .map_err(CrossingError::io("sync the folder of", keep.name.display()))?;
    storage
        .unlink(&remove.dir, &remove.name)
        .map_err(CrossingError::io("remove the second name", remove.name.display()))
}

fn attempt(act: Act) -> &'static str {
    match act {
        Act::Retire => "move the source to hold as",
        Act::Displace => "move what stands at the target to hold as",
        Act::Apply => "give what crosses its new name",
        Act::Restore => "restore what had been replaced at",
        Act::Rename => "rename",
    }
}
