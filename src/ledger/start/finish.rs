//! What comes of the comparison: a ledger that goes on, is refused, or goes on with a loss.

use std::sync::Arc;

use super::super::accounted::{Accounted, hash_of};
use super::super::checkpoint::Checkpoint;
use super::super::evidence::Evidence;
use super::super::keys::{KEY, begin_key, new_signer_for, record_of};
use super::super::record::{KeyRecord, LossRecord, PruneRecord};
use super::super::replay::Replayed;
use super::super::sealer::Begin;
use super::{Acceptance, LedgerError, MISSING_MAX, Start, Wanted, one_by_one, together};
use crate::storage::Storage;

/// Bytes of all the copies that the record of a loss keeps, as JSON. All of it must fit in a line.
const NOTES_MAX: usize = 24 * 1024;
/// Hashes of copies that it keeps.
const HASHES_MAX: usize = 128;
/// Differences that it keeps.
const FOUND_MAX: usize = 16;
/// Characters of each of them.
const TEXT_MAX: usize = 256;
/// Characters of the reason.
const WHY_MAX: usize = 2048;

/// See [`Start::finish`].
pub struct Finished<S: Storage> {
    /// For the sealer.
    pub begin: Begin,
    /// The key must get its name once a checkpoint is published.
    pub unborn: Option<(Arc<S>, S::Dir)>,
    /// What an acceptance accounts for; what is kept is not in it yet.
    pub lost: Option<LossRecord>,
    /// The record that the key begins, where there is none yet.
    pub key: Option<KeyRecord>,
    /// What differed, in words.
    pub found: Vec<String>,
    /// What earlier losses account for.
    pub accounted: Accounted,
    /// Where what a loss takes out is kept.
    pub evidence: Evidence<S>,
    /// Key or checkpoint that is there and of no use.
    pub useless: Vec<&'static str>,
    /// Tiles that were not as the lines have them, and are written again.
    pub damaged: u64,
    /// Lines before this one have left or are to leave.
    pub pruned: u64,
    /// Takes back a record that nobody has signed, by which lines were to leave.
    pub revoked: Option<PruneRecord>,
}

impl<S: Storage> Start<S> {
    /// The outcome, once all lines are read: what the sealer begins with, or an error that says what
    /// differs. With an acceptance the differences are a loss, which the caller records, and a new key
    /// begins; where the hashes of lines that have left are gone, there is no tree to go on with, and `read`
    /// says then that all segments leave.
    pub fn finish(
        mut self,
        view: &str,
        accept: Option<&Acceptance>,
        read: &mut Replayed,
    ) -> Result<Finished<S>, LedgerError> {
        let unrecorded = self.unrecorded();
        let mut found = read.damage.clone();
        let problems = self.problems();
        match accept {
            Some(_) => found.extend(one_by_one(problems)),
            None => found.extend(together(problems)),
        }
        found.extend(unrecorded.clone());
        let accounted = self.accounted();
        let wanted = std::mem::take(&mut self.wanted);
        let mut lost = None;
        let named = self.named.take().filter(|named| *named == self.key_text());
        let mut key = named.is_none().then(|| record_of(self.signer.verifier(), None));
        match (found.is_empty(), accept) {
            (true, None) => {}
            (true, Some(_)) => return Err(LedgerError::NothingLost),
            (false, None) => return Err(LedgerError::Differs { found }),
            (false, Some(accept)) => {
                if self.headless {
                    self.start_over(read);
                }
                lost = Some(self.loss(accept, &found, &wanted));
                self.unborn = true;
                let next = new_signer_for(view).map_err(|errno| LedgerError::Tree {
                    attempted: "make",
                    file: KEY.to_owned(),
                    errno,
                })?;
                let before = std::mem::replace(&mut self.signer, next);
                let before = Some(&before).filter(|_| self.found_key);
                key = Some(record_of(self.signer.verifier(), before));
            }
        }
        if unrecorded.is_none() {
            self.evidence.settle()?;
        }
        let own = wanted.into_iter().find(|wanted| wanted.own && lost.is_none());
        if self.unborn && own.is_none() {
            begin_key(&*self.storage, &self.state, &self.signer)?;
        }
        let (first, front) = self.front.take().unwrap_or_default();
        let (pruned, revoked) = (self.leaving.first.max(first), self.leaving.revoked());
        let mut begin = Begin {
            signer: self.signer,
            builder: self.builder,
            position: (read.segment, read.length),
            missing: self.missing,
            again: Vec::new(),
            published: own.map(|wanted| (wanted.checkpoint, wanted.note)),
        };
        if begin.missing.len() > MISSING_MAX {
            begin.missing.clear();
            begin.builder = front;
            begin.position = (self.segments.values().next().copied().unwrap_or(0), 0);
            begin.again = self.lengths.into_iter().collect();
            begin.published = None;
        }
        let unborn = self.unborn.then_some((self.storage, self.state));
        let (evidence, useless, damaged) = (self.evidence, self.useless, self.damaged);
        Ok(Finished {
            begin,
            unborn,
            lost,
            key,
            found,
            accounted,
            evidence,
            useless,
            damaged,
            pruned,
            revoked,
        })
    }

    /// What the opening of the ledger would be refused for, once all lines are read.
    pub fn refusals(&self) -> Vec<String> {
        let mut found = together(self.problems());
        found.extend(self.unrecorded());
        found
    }

    fn unrecorded(&self) -> Option<String> {
        let losses = self.accepted.iter().filter_map(|(_, loss)| loss.kept.as_ref());
        self.evidence.unrecorded(losses.map(|kept| kept.sha256.as_str()))
    }

    fn start_over(&mut self, read: &mut Replayed) {
        read.start_over();
        self.builder = Default::default();
        self.front = None;
        self.leaving = Default::default();
        self.missing.clear();
        self.segments.clear();
        self.lengths.clear();
    }

    fn loss(&self, accept: &Acceptance, found: &[String], wanted: &[Wanted]) -> LossRecord {
        let mut texts: Vec<String> =
            found.iter().take(FOUND_MAX).map(|text| shortened(text, TEXT_MAX)).collect();
        let more = found.len().saturating_sub(FOUND_MAX);
        if more > 0 {
            texts.push(format!("and {more} more"));
        }
        let mut loss = LossRecord {
            why: shortened(&accept.why, WHY_MAX),
            uid: accept.uid,
            found: texts,
            checkpoints: Vec::new(),
            first: self.front.as_ref().map_or(0, |(first, _)| *first),
            hashes: Vec::new(),
            key: self.found_key.then(|| self.key_text()),
            kept: None,
        };
        let mut room = NOTES_MAX;
        for wanted in wanted {
            let hash = hash_of(&wanted.note);
            if loss.hashes.contains(&hash) || loss.hashes.len() >= HASHES_MAX {
                continue;
            }
            loss.hashes.push(hash);
            let Ok(note) = std::str::from_utf8(&wanted.note) else { continue };
            let length = serde_json::to_string(note).map_or(usize::MAX, |json| json.len());
            if Checkpoint::unverified(&wanted.note).is_some() && length <= room {
                room = room.saturating_sub(length);
                loss.checkpoints.push(note.to_owned());
            }
        }
        loss
    }
}

fn shortened(text: &str, length: usize) -> String {
    text.chars().take(length).collect()
}
