//! What a wish about a dead letter is refused for before it is recorded: nothing has changed then.

use super::Mover;
use super::journal::Transaction;
use super::letters::{LetterError, Settle};
use super::moves::{self, PlacedMove, Whereabouts};
use super::recover::NotNow;
use super::sabotage::sabotaged;
use crate::ledger::record::{Act, CrossingRecord, Move};
use crate::storage::Storage;
use crate::types::TxId;

impl<S: Storage> Mover<S> {
    /// Whether a wish would be gone on with now. Changes nothing.
    pub fn check_settle(&self, txid: TxId, settle: Settle) -> Result<(), LetterError> {
        self.check_wish(&self.letter(txid, settle)?, settle)
    }

    pub(super) fn check_wish(
        &self,
        letter: &Transaction,
        settle: Settle,
    ) -> Result<(), LetterError> {
        let record = &letter.record;
        match settle {
            Settle::Retry if sabotaged("letters: worth trying") => Ok(()),
            Settle::Retry => self.check_worth_trying(record.txid),
            Settle::Withdraw => {
                self.check_may_leave(record)?;
                self.check_all_can_move(record).map_err(|why| {
                    let hint = "try again when the branch is well";
                    LetterError::InVain { why, hint }
                })
            }
            Settle::Accept => Ok(()),
            Settle::Discard => self.check_discard(letter, false),
            Settle::GiveUp => self.check_discard(letter, true),
        }
    }

    /// The moves of what has arrived: users may have worked on it, or be at it.
    pub(super) fn arrived(&self, record: &CrossingRecord) -> Vec<Move> {
        let has_arrived = |step: &&Move| {
            let at = self.open_ends(step).ok();
            let at = at.and_then(|placed| moves::whereabouts(&*self.storage, &placed).ok());
            step.act == Act::Apply && matches!(at, Some(Whereabouts::To | Whereabouts::Both))
        };
        record.moves.iter().filter(has_arrived).cloned().collect()
    }

    /// Whether all can be moved that is taken back: by halves, what crossed would be at neither end. An error, in
    /// words, says nothing.
    pub(super) fn check_all_can_move(&self, record: &CrossingRecord) -> Result<(), String> {
        let mut placed = Vec::new();
        for step in &record.moves {
            match (self.open_spot(&step.from), self.open_spot(&step.to)) {
                (Err(NotNow::LeftOpen(why)), _) | (_, Err(NotNow::LeftOpen(why))) => {
                    return Err(why);
                }
                // What has a folder that is gone stays where it is.
                (Err(NotNow::Impossible(_)), _) | (_, Err(NotNow::Impossible(_))) => {}
                (Ok(from), Ok(to)) => placed.push(PlacedMove { step: step.clone(), from, to }),
            }
        }
        // Then all stays where it is.
        if self.is_worked_on(record)? {
            return Ok(());
        }
        for placed in &placed {
            if !matches!(self.where_is(placed)?, Whereabouts::To | Whereabouts::Both) {
                continue;
            }
            for spot in [&placed.step.from, &placed.step.to] {
                if let Some(branch) = self.branch_by_uuid(spot.branch) {
                    self.check_writable(branch.index).map_err(|error| error.to_string())?;
                }
            }
        }
        Ok(())
    }
}
