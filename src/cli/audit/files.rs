//! Whether what has crossed is still what the ledger says, where it is still in place: the same inode,
//! not written since.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fmt;
use std::path::Path;

use serde::Serialize;
use sha2::{Digest as _, Sha256};

use crate::branch::BranchSpec;
use crate::error::Errno;
use crate::ledger::record::{Act, Area, CrossingRecord};
use crate::ledger::verify::{Problem, Report};
use crate::storage::real::{RealDir, RealStorage};
use crate::storage::{Kind, Storage};

use super::verify::place_of;

/// Bytes read at once.
const PIECE: usize = 1 << 20;

/// What came of it.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct Compared {
    /// Files with the hash that the ledger has.
    pub same: u64,
    /// Files with another.
    pub different: u64,
    /// Crossings whose file was since written, replaced, moved on or removed.
    pub elsewhere: u64,
    /// Folders and links, whose hashes are not compared.
    pub not_compared: u64,
    /// Files that could not be read.
    pub unreadable: u64,
}

impl fmt::Display for Compared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { same, different, elsewhere, not_compared, unreadable } = self;
        write!(
            f,
            "{same} as they crossed, {different} different, {unreadable} unreadable; {elsewhere} \
             written since or no longer in place, {not_compared} folders and links not compared"
        )
    }
}

/// Compares as crossings come.
pub(super) struct Files {
    roots: HashMap<String, RealDir>,
    compared: Compared,
    problems: Vec<Problem>,
}

enum Outcome {
    Same,
    Different(String),
    Elsewhere,
    NotCompared,
}

impl Files {
    pub(super) fn new(branches: &[BranchSpec]) -> Self {
        let open = |spec: &BranchSpec| Some((spec.name.clone(), RealDir::open(&spec.path).ok()?));
        let roots = branches.iter().filter_map(open).collect();
        Self { roots, compared: Compared::default(), problems: Vec::new() }
    }

    /// A crossing that is done, by the record of its COMMIT.
    pub(super) fn compare(&mut self, commit: &CrossingRecord) {
        if commit.rearrangement {
            return;
        }
        let compared = &mut self.compared;
        let (count, what) = match look(&self.roots, commit) {
            Ok(Outcome::Same) => (&mut compared.same, None),
            Ok(Outcome::Different(what)) => (&mut compared.different, Some(what)),
            Ok(Outcome::Elsewhere) => (&mut compared.elsewhere, None),
            Ok(Outcome::NotCompared) => (&mut compared.not_compared, None),
            Err(errno) => (&mut compared.unreadable, Some(format!("cannot read it: {errno}"))),
        };
        *count = count.saturating_add(1);
        if let Some(what) = what {
            let place = format!("{}, {}", place_of(commit.txid), commit.target);
            self.problems.push(Problem { place, what });
        }
    }

    pub(super) fn finish(self, report: &mut Report) -> Compared {
        report.problems.extend(self.problems);
        self.compared
    }
}

fn look(roots: &HashMap<String, RealDir>, commit: &CrossingRecord) -> Result<Outcome, Errno> {
    let applied = commit.moves.iter().find(|step| step.act == Act::Apply);
    let (Some(step), Some(wanted)) = (applied, &commit.sha256) else {
        return Ok(Outcome::NotCompared);
    };
    let [_, branch] = &commit.branches;
    let root = roots.get(branch).ok_or(Errno::NODEV)?;
    let path = &step.to.path;
    let (Some(name), true) = (path.file_name(), step.to.area == Area::Tree) else {
        return Ok(Outcome::NotCompared);
    };
    let storage = RealStorage;
    let parent = path.parent().unwrap_or(Path::new(""));
    let folder = match storage.open_dir(root, parent) {
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(Outcome::Elsewhere),
        found => found?,
    };
    let Some(found) = storage.stat(&folder, name)? else { return Ok(Outcome::Elsewhere) };
    if !found.identity.same_content(&step.identity) {
        return Ok(Outcome::Elsewhere);
    }
    if found.kind != Kind::File {
        return Ok(Outcome::NotCompared);
    }
    let hash = hash(&folder, name)?;
    if hash == *wanted {
        return Ok(Outcome::Same);
    }
    Ok(Outcome::Different(format!(
        "the file has the hash {hash}, and crossed with {wanted}, though it was not written since"
    )))
}

fn hash(folder: &RealDir, name: &OsStr) -> Result<String, Errno> {
    let file = RealStorage.open_read(folder, name)?;
    let mut hash = Sha256::new();
    let mut piece = vec![0; PIECE];
    let mut at = 0_u64;
    loop {
        let read = RealStorage.read_at(&file, &mut piece, at)?;
        if read == 0 {
            return Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect());
        }
        hash.update(piece.get(..read).unwrap_or_default());
        at = at.saturating_add(read as u64);
    }
}
