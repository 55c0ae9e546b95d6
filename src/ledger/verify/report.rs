//! What a verification has found.

use std::collections::BTreeMap;

use super::PROBLEMS_MAX;
use crate::ledger::record::KeptRecord;
use crate::types::counted;

/// What is wrong, and where.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Problem {
    /// Such as `00000001.jsonl line 7`.
    pub place: String,
    /// In words.
    pub what: String,
}

/// A loss that somebody accepted.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct AcceptedLoss {
    /// Position of its record.
    pub seq: u64,
    /// When, RFC 3339.
    pub time: String,
    /// Why.
    pub why: String,
    /// Who.
    pub uid: u32,
    /// What was taken out of the ledger then, and where it is kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kept: Option<KeptRecord>,
}

/// A key that began to sign.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct BegunKey {
    /// Position of its record.
    pub seq: u64,
    /// When, RFC 3339.
    pub time: String,
    /// The public key.
    pub key: String,
    /// The key before it has signed that it comes next.
    pub signed: bool,
}

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Report {
    /// Lines that were read.
    pub lines: u64,
    /// Segments that were read.
    pub segments: u64,
    /// `time` of the first line and of the last.
    pub times: Option<[String; 2]>,
    /// The key's name, which is the log's identity.
    pub origin: String,
    /// The key that was used, `NAME+HASH+KEY`.
    pub key: String,
    /// Lines that the checkpoint vouches for; none without a checkpoint that is good.
    pub signed: Option<u64>,
    /// Lines after these.
    pub unsigned: u64,
    /// Lines in the files that count for nothing: they come after what a failed sync left good.
    pub void: u64,
    /// Its root, in base64.
    pub root: Option<String>,
    /// Copies that agree, by their places.
    pub copies: Vec<String>,
    /// Checkpoints that were carried away and agree.
    pub witnessed: u64,
    /// Tiles that were compared.
    pub tiles: u64,
    /// Crossings, undos and rearrangements by how they ended; `open` for those that have not.
    pub crossings: BTreeMap<String, u64>,
    /// Keys that began to sign.
    pub keys: Vec<BegunKey>,
    /// Losses that were accepted.
    pub losses: Vec<AcceptedLoss>,
    /// What is no problem and worth knowing.
    pub notes: Vec<String>,
    /// What is wrong.
    pub problems: Vec<Problem>,
    /// How many more problems there are than are told.
    pub more_problems: u64,
}

impl Report {
    /// What a ledger without problems can be said to be: what was before a loss is proven by nobody, nor is
    /// what nobody has signed, or what counts for nothing.
    pub fn verdict(&self) -> String {
        let mut verdict = match self.losses.last() {
            None if self.unsigned > 0 => "everything that is signed is as it was signed".to_owned(),
            None => "everything is as it was signed".to_owned(),
            Some(loss) => {
                let signed = if self.unsigned > 0 { "is signed and " } else { "" };
                format!(
                    "all that {signed}came after the loss accepted at seq {} is as it was signed; nothing proves \
                     what was before it",
                    loss.seq
                )
            }
        };
        if self.unsigned > 0 {
            let lines = counted(self.unsigned, "line after it is", "lines after it are");
            verdict.push_str(&format!("; the {lines} not signed yet"));
        }
        if self.void > 0 {
            let lines = counted(self.void, "line is", "lines are");
            verdict.push_str(&format!("; {lines} in the files that count for nothing"));
        }
        verdict
    }

    /// Takes in a problem.
    pub fn problem(&mut self, place: impl Into<String>, what: impl Into<String>) {
        if self.problems.len() < PROBLEMS_MAX {
            self.problems.push(Problem { place: place.into(), what: what.into() });
        } else {
            self.more_problems = self.more_problems.saturating_add(1);
        }
    }
}
