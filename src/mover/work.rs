//! Whether users have worked on what a transaction gave a name: then nobody takes it out of the view.

use super::Mover;
use super::error::CrossingError;
use super::moves::{self, PlacedMove, Whereabouts};
use super::recover::NotNow;
use super::sabotage::sabotaged;
use crate::ledger::record::{Act, Area, CrossingRecord};
use crate::storage::{Kind, Storage};

impl<S: Storage> Mover<S> {
    /// Whether users have written to what the moves gave a name: then nobody takes it out of the view.
    pub(super) fn is_worked_on(&self, record: &CrossingRecord) -> Result<bool, String> {
        for step in &record.moves {
            let ends = match self.open_ends(step) {
                Ok(ends) => ends,
                Err(NotNow::LeftOpen(why)) => return Err(why),
                Err(NotNow::Impossible(_)) => continue,
            };
            let at = self.where_is(&ends)?;
            let seen = matches!(at, Whereabouts::To | Whereabouts::Both);
            if seen && self.is_written(&ends, at).map_err(|error| error.to_string())? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether the copy that crossed, or what came back from hold, was written to, there or under its name.
    pub(super) fn is_written(
        &self,
        placed: &PlacedMove<S>,
        at: Whereabouts,
    ) -> Result<bool, CrossingError> {
        if placed.step.from.area == Area::Tree {
            return Ok(false);
        }
        let place = match at {
            Whereabouts::From => &placed.from,
            Whereabouts::To | Whereabouts::Both => &placed.to,
            Whereabouts::MovedOn | Whereabouts::Doubt => return Ok(false),
        };
        let found = self
            .storage
            .stat(&place.dir, &place.name)
            .map_err(CrossingError::io("look at", "the copy"))?;
        let Some(found) = found else { return Ok(false) };
        Ok(match found.kind {
            Kind::Directory if placed.step.act == Act::Restore => {
                !moves::is_empty(&*self.storage, place)?
            }
            Kind::Directory => !moves::is_same_below(&*self.storage, placed, place)?,
            _ if sabotaged("letters: the copy was written to") => false,
            _ => !placed.step.identity.same_content(&found.identity),
        })
    }
}
