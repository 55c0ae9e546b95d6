//! Which of the cases that matter a run has met: without it, a change of the dice could end in runs
//! that meet none of them.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};

use crate::error::Errno;

use super::operation::{Op, split};
use super::run::Run;
use super::tree::{Errors, Id};

/// How often each case was met.
pub(super) type Met = BTreeMap<&'static str, usize>;

pub(super) const CASES: [&str; 9] = [
    "a file is removed while it is open",
    "one of several names is removed",
    "an open file is read that has no name",
    "a file is renamed over an open one",
    "a folder with an open file in it is renamed",
    "a file crosses",
    "a change of a branch that is only read is refused",
    "a change of a branch for gates only is refused",
    "something of a branch that is away is refused",
];

impl Run {
    /// The case that an operation is about to meet.
    pub(super) fn case(&self, op: &Op) -> Option<&'static str> {
        let model = &self.world.model;
        match op {
            Op::Unlink { at } => {
                let (parent, name) = self.spot(at)?;
                let file = model.child(parent, name)?;
                match model.unlink_errors(parent, name) {
                    errors if !errors.is_empty() => refusal(&errors),
                    _ if self.is_open(file) => Some(CASES[0]),
                    _ => (model.links(file) > 1).then_some(CASES[1]),
                }
            }
            Op::Read { slot, .. } => {
                let file = self.near_file(*slot)?;
                model.is_gone(file.id).then_some(CASES[2])
            }
            Op::Rename { from, to, flags } => {
                let (from, to) = (self.spot(from)?, self.spot(to)?);
                let source = model.child(from.0, from.1)?;
                let errors = model.rename_errors(from, to, *flags);
                if !errors.is_empty() {
                    return refusal(&errors);
                }
                let domain = |id: Id| model.object(id).domain;
                let over = model.child(to.0, to.1).filter(|target| *target != source);
                match over {
                    Some(target) if self.is_open(target) => Some(CASES[3]),
                    _ if model.directory(source).is_some() => {
                        let open = model.below(source).iter().any(|id| self.is_open(*id));
                        open.then_some(CASES[4])
                    }
                    _ => (domain(from.0) != domain(to.0)).then_some(CASES[5]),
                }
            }
            _ => None,
        }
    }

    fn is_open(&self, id: Id) -> bool {
        self.files.iter().flatten().any(|file| file.id == id)
    }

    /// The folder of a name, by what the model knows.
    fn spot<'a>(&self, way: &'a [OsString]) -> Option<(Id, &'a OsStr)> {
        let model = &self.world.model;
        let (folders, name) = split(way);
        let folder = folders.iter().try_fold(model.root, |at, name| model.child(at, name));
        Some((folder?, name))
    }
}

fn refusal(errors: &Errors) -> Option<&'static str> {
    let only = |errno| errors.iter().all(|error| *error == errno);
    match () {
        () if only(Errno::ROFS) => Some(CASES[6]),
        () if only(Errno::ACCESS) => Some(CASES[7]),
        () => only(Errno::IO).then_some(CASES[8]),
    }
}
