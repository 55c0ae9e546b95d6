//! Whether what has crossed is still what the ledger says, where it is still in place: the same inode,
//! not written since.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::fmt;
use std::path::Path;

use ring::digest::{Context, SHA256};
use serde::Serialize;

use crate::branch::BranchSpec;
use crate::error::Errno;
use crate::ledger::record::{Act, Area, CrossingRecord};
use crate::ledger::verify::{Problem, Report};
use crate::storage::real::{RealDir, RealStorage};
use crate::storage::{Kind, Storage};
use crate::types::counted;

use super::verify::place_of;

/// Bytes read at once.
const PIECE: usize = 1 << 20;

/// Problems that are told one by one.
const PROBLEMS_MAX: usize = 100;

/// What came of it.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct Compared {
    /// Files with the hash that the ledger has.
    pub same: u64,
    /// Files with another.
    pub different: u64,
    /// Crossings whose file was since written, replaced, moved on or removed.
    pub elsewhere: u64,
    /// Folders and links, whose hashes are not compared, and what went to branches that are away.
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
             written since or no longer in place, {not_compared} not compared"
        )
    }
}

/// Compares as crossings come.
pub(super) struct Files {
    roots: HashMap<String, RealDir>,
    compared: Compared,
    problems: Vec<Problem>,
    more_problems: u64,
    /// Branches that are not there, and the crossings into them.
    away: BTreeMap<String, u64>,
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
        Self {
            roots,
            compared: Compared::default(),
            problems: Vec::new(),
            more_problems: 0,
            away: BTreeMap::new(),
        }
    }

    /// A crossing that is done, by the record of its COMMIT.
    pub(super) fn compare(&mut self, commit: &CrossingRecord) {
        if commit.rearrangement {
            return;
        }
        let [_, branch] = &commit.branches;
        let Some(root) = self.roots.get(branch) else {
            let away = self.away.entry(branch.clone()).or_default();
            *away = away.saturating_add(1);
            self.compared.not_compared = self.compared.not_compared.saturating_add(1);
            return;
        };
        let compared = &mut self.compared;
        let (count, what) = match look(root, commit) {
            Ok(Outcome::Same) => (&mut compared.same, None),
            Ok(Outcome::Different(what)) => (&mut compared.different, Some(what)),
            Ok(Outcome::Elsewhere) => (&mut compared.elsewhere, None),
            Ok(Outcome::NotCompared) => (&mut compared.not_compared, None),
            Err(errno) => (&mut compared.unreadable, Some(format!("cannot read it: {errno}"))),
        };
        *count = count.saturating_add(1);
        if let Some(what) = what {
            let place = format!("{}, {}", place_of(commit.txid), commit.target);
            if self.problems.len() < PROBLEMS_MAX {
                self.problems.push(Problem { place, what });
            } else {
                self.more_problems = self.more_problems.saturating_add(1);
            }
        }
    }

    pub(super) fn finish(self, report: &mut Report) -> Compared {
        report.problems.extend(self.problems);
        report.more_problems = report.more_problems.saturating_add(self.more_problems);
        report.notes.extend(self.away.into_iter().map(|(branch, count)| {
            let count = counted(count, "crossing into it was", "crossings into it were");
            format!("branch {branch} is not there; {count} not compared")
        }));
        self.compared
    }
}

fn look(root: &RealDir, commit: &CrossingRecord) -> Result<Outcome, Errno> {
    let applied = commit.moves.iter().find(|step| step.act == Act::Apply);
    let (Some(step), Some(wanted)) = (applied, &commit.sha256) else {
        return Ok(Outcome::NotCompared);
    };
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
    let mut hash = Context::new(&SHA256);
    let mut piece = vec![0; PIECE];
    let mut at = 0_u64;
    loop {
        let read = RealStorage.read_at(&file, &mut piece, at)?;
        if read == 0 {
            return Ok(hash.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect());
        }
        hash.update(piece.get(..read).unwrap_or_default());
        at = at.saturating_add(read as u64);
    }
}
