//! VERIFY of a tree: its copies are read again.

use parking_lot::Mutex;

use super::copy::{Arrived, Copy, Origin, Work, digest_of};
use super::error::CrossingError;
use super::moves::Place;
use crate::policy::Verify;
use crate::storage::{Readback, Storage};

impl<S: Storage> Work<'_, S> {
    /// Reads the copies again and compares. The word is that of the record's `readback`; the flag says
    /// that times had to be set again, so that another sync is due.
    pub(super) fn read_back(
        &self,
        arrived: &[Arrived],
    ) -> Result<(&'static str, bool), CrossingError> {
        let stream = |origin: &Origin<'_, S>| {
            origin.leaving.is_some_and(|part| match part.terms.verify {
                Verify::Stream => true,
                Verify::Readback => false,
            })
        };
        let seen = Mutex::new((false, false));
        self.each(|hands, at, entry| {
            let letter = self.plan.item(self.trees, entry)?.letter;
            let origin = self.origins.get(usize::from(entry.part)).and_then(Option::as_ref);
            if letter != b'f' || origin.is_none_or(stream) || self.leader(at).is_some() {
                return Ok(());
            }
            let Some((place, copy)) = self.copy_place(hands, entry)? else { return Ok(()) };
            let arrived = arrived.get(at).ok_or(CrossingError::SourceChanged)?;
            if arrived.compared {
                return Ok(());
            }
            let size = self.plan.item(self.trees, entry)?.measure;
            let (cached, dressed) = self.read_back_file(&place, copy, arrived, size)?;
            let mut seen = seen.lock();
            *seen = (seen.0 || cached, seen.1 || dressed);
            Ok(())
        })?;
        let (cached, dressed) = seen.into_inner();
        let word = match (self.origins.iter().flatten().any(stream), cached) {
            (true, _) => "stream",
            (false, true) => "cached",
            (false, false) => "disk",
        };
        Ok((word, dressed))
    }

    /// Whether the page cache may have answered, and whether times had to be set again.
    fn read_back_file(
        &self,
        place: &Place<S>,
        copy: &Copy<'_, S>,
        arrived: &Arrived,
        size: u64,
    ) -> Result<(bool, bool), CrossingError> {
        let storage = &*self.mover.storage;
        let (file, readback) = storage
            .open_readback(&place.dir, &place.name)
            .map_err(CrossingError::io("read back", "the copy"))?;
        let differs = || CrossingError::Verification { branch: copy.branch.to_owned() };
        let again = self.pass(&file, None, size);
        let again = again.map_err(|error| match error {
            CrossingError::SourceChanged => differs(),
            other => other,
        })?;
        if digest_of(&again)? != arrived.sha256 {
            return Err(differs());
        }
        let found = self.mover.stat_file(&file)?;
        let (_, atime) = arrived.copy.as_ref().ok_or_else(differs)?;
        let dressed = found.atime != *atime;
        if dressed {
            let mtime = found.identity.mtime;
            storage
                .set_times(&place.dir, &place.name, *atime, mtime)
                .map_err(CrossingError::io("set the times of", "the copy"))?;
            if copy.sync_each {
                self.mover.make_durable(&file)?;
            }
        }
        Ok((readback == Readback::Cached, dressed))
    }
}
