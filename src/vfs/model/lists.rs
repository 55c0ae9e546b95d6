//! The driver's open directories: every name that was there all the time comes once, none that never
//! was, and offsets stay while entries come and go.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};

use crate::branch::FileKind;
use crate::error::errno_name;

use super::operation::Slot;
use super::run::{ROOT, Run};
use super::tree::{Id, Verdict};

/// An open directory.
#[derive(Debug, Clone)]
pub(super) struct List {
    pub id: Id,
    number: u64,
    /// What was got since the start, with the offset behind it.
    got: Vec<(OsString, u64)>,
    /// Names that have been there since reading began.
    steady: BTreeSet<OsString>,
    /// Names that were there at some time since then.
    ever: BTreeSet<OsString>,
}

/// An entry of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub name: OsString,
    pub number: u64,
    pub kind: FileKind,
    pub next: u64,
}

impl Run {
    pub(super) fn list(&mut self, at: &[OsString], slot: Slot) -> Verdict {
        let Some(id) = self.walk(at, false)? else { return Ok(()) };
        if self.world.model.is_dark(id) || self.world.model.is_incomplete(id) {
            // Listed by the comparison of everything.
            return Ok(());
        }
        let errors = match self.world.model.directory(id) {
            Some(_) => vec![],
            None => vec![crate::error::Errno::NOTDIR],
        };
        let result = self.world.vfs.opendir(*ROOT, self.number(id)?);
        if let Some(number) = self.judge("opendir", &errors, result)? {
            self.list_end(slot)?;
            let (steady, ever) = Default::default();
            self.lists[slot] = Some(List { id, number, got: Vec::new(), steady, ever });
        }
        Ok(())
    }

    /// Keeps account of the names in open directories.
    pub(super) fn note_listings(&mut self) {
        for list in self.lists.iter_mut().flatten() {
            let now: BTreeSet<OsString> = self.world.model.listing(list.id).into_keys().collect();
            list.steady.retain(|name| now.contains(name));
            list.ever.extend(now);
        }
    }

    /// Reads some entries more.
    pub(super) fn list_on(&mut self, slot: Slot, count: usize, plus: bool) -> Verdict {
        let Some(list) = &self.lists[slot] else { return Ok(()) };
        let id = list.id;
        let offset = list.got.last().map_or(0, |(_, next)| *next);
        if self.world.model.is_gone(id) {
            // The kernel answers for directories that were removed.
            return Ok(());
        }
        if offset == 0 {
            let now: BTreeSet<OsString> = self.world.model.listing(id).into_keys().collect();
            if let Some(list) = &mut self.lists[slot] {
                (list.steady, list.ever) = (now.clone(), now);
            }
        }
        let Some(list) = &self.lists[slot] else { return Ok(()) };
        let entries = self.entries(list.number, offset, count.max(1), plus)?;
        let ended = entries.len() < count.max(1);
        let Some(list) = &mut self.lists[slot] else { return Ok(()) };
        for entry in entries {
            if list.got.iter().any(|(name, _)| *name == entry.name) {
                return Err(format!("{:?} was listed twice in {id}", entry.name));
            }
            let own = entry.name == OsStr::new(".") || entry.name == OsStr::new("..");
            if !own && !list.ever.contains(&entry.name) {
                return Err(format!("{:?} was listed in {id}, and was never there", entry.name));
            }
            list.got.push((entry.name, entry.next));
        }
        let got: BTreeSet<&OsString> = list.got.iter().map(|(name, _)| name).collect();
        match list.steady.iter().find(|name| ended && !got.contains(name)) {
            Some(name) => Err(format!("{name:?} was all the time in {id}, and not listed")),
            None => Ok(()),
        }
    }

    /// Reads again from an offset that was given out, or from the start.
    pub(super) fn list_back(&mut self, slot: Slot, to: usize, plus: bool) -> Verdict {
        let Some(list) = &self.lists[slot] else { return Ok(()) };
        if self.world.model.is_gone(list.id) || list.got.is_empty() {
            return Ok(());
        }
        let (to, id) = (to.min(list.got.len()), list.id);
        if to == 0 {
            // A new listing, in which what is there still keeps its offset.
            let before: BTreeMap<OsString, u64> = list.got.iter().cloned().collect();
            let steady = list.steady.clone();
            if let Some(list) = &mut self.lists[slot] {
                list.got.clear();
            }
            self.list_on(slot, 1000, plus)?;
            let after = self.lists[slot].iter().flat_map(|list| &list.got);
            for (name, next) in after.filter(|(name, _)| steady.contains(name)) {
                if before.get(name).is_some_and(|was| was != next) {
                    return Err(format!("{name:?} of {id} has another offset after a rewind"));
                }
            }
            return Ok(());
        }
        let from = list.got[to - 1].1;
        let again = self.entries(list.number, from, 1000, plus)?;
        let wanted: Vec<&OsString> = list.got[to..]
            .iter()
            .map(|(name, _)| name)
            .filter(|name| !plus || list.steady.contains(*name))
            .collect();
        let found: Vec<&OsString> =
            again.iter().map(|entry| &entry.name).filter(|name| wanted.contains(name)).collect();
        if wanted != found {
            return Err(format!("{id} from {from} on was {wanted:?} and is {found:?}"));
        }
        Ok(())
    }

    pub(super) fn list_end(&mut self, slot: Slot) -> Verdict {
        if let Some(list) = self.lists[slot].take() {
            self.world.vfs.releasedir(list.number);
        }
        Ok(())
    }

    /// Entries from an offset on. What counts references is given back at once.
    pub(super) fn entries(
        &self,
        handle: u64,
        offset: u64,
        count: usize,
        plus: bool,
    ) -> Verdict<Vec<Entry>> {
        let mut entries: Vec<Entry> = Vec::new();
        let mut numbers = Vec::new();
        let mut take = |found: super::super::DirectoryEntry<'_>| {
            if entries.len() == count {
                return true;
            }
            let super::super::DirectoryEntry { name, number, kind, next } = found;
            entries.push(Entry { name: name.to_owned(), number, kind, next });
            false
        };
        let vfs = &self.world.vfs;
        let result = if plus {
            vfs.readdirplus(*ROOT, handle, offset, &mut |entry, attributes| {
                let full = take(entry);
                if !full && entry.name != "." && entry.name != ".." {
                    numbers.push(attributes.number);
                }
                full
            })
        } else {
            vfs.readdir(handle, offset, &mut take)
        };
        result.map_err(|errno| format!("reading a directory gave {}", errno_name(errno)))?;
        numbers.into_iter().for_each(|number| drop(vfs.forget(number, 1)));
        Ok(entries)
    }
}
