//! Listings of open directories, and the memory that they may take.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::branch::FileKind;
use crate::error::Errno;

/// What each user may have listed even where all have too much, in bytes.
const SMALL: usize = 1024 * 1024;
/// Bytes that are counted at once at least, and at most: counting each entry would take a lock each time.
const STEP: (usize, usize) = (4096, 256 * 1024);

/// An entry of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// One component.
    pub name: OsString,
    /// Inode number as users see it.
    pub number: u64,
    /// What it is.
    pub kind: FileKind,
}

impl Listed {
    /// Memory that an entry takes, in bytes, with what the allocator adds for its name.
    pub fn size(name: &OsStr) -> usize {
        size_of::<Option<Self>>().saturating_add(name.len()).saturating_add(16)
    }
}

/// A listing that is being taken.
#[derive(Debug)]
pub struct Listing {
    entries: Vec<Listed>,
    share: Share,
}

impl Listing {
    /// Without entries.
    pub fn new(share: Share) -> Self {
        Self { entries: Vec::new(), share }
    }

    /// Adds an entry. ENOMEM if there is too much.
    pub fn push(&mut self, listed: Listed) -> Result<(), Errno> {
        self.share.take(Listed::size(&listed.name))?;
        self.entries.push(listed);
        Ok(())
    }

    /// Memory for what is needed meanwhile.
    pub fn another_share(&self) -> Share {
        self.share.listings.share(self.share.uid)
    }
}

/// Entries of a listing; an entry's offset is its position + 1. `None` where an entry was that is gone.
pub type Entries = Arc<Vec<Option<Listed>>>;

/// A listing as it is read.
#[derive(Debug, Default)]
pub struct Snapshot {
    entries: Entries,
    /// What it takes, until it is dropped.
    _share: Option<Share>,
}

impl Snapshot {
    /// What was listed.
    pub fn entries(&self) -> &Entries {
        &self.entries
    }

    /// Takes a new listing, in which entries that were in the old one keep their positions, unless most of these
    /// would be empty then: no position is good after rewinddir(3), and one that stays open would grow for ever.
    /// ENOMEM if there is too much.
    pub fn renew(&mut self, Listing { entries: new, mut share }: Listing) -> Result<(), Errno> {
        let mut entries: Vec<_>;
        if self.entries.is_empty() {
            entries = new.into_iter().map(Some).collect();
        } else {
            let mut found: HashMap<OsString, Listed> =
                new.into_iter().map(|listed| (listed.name.clone(), listed)).collect();
            let kept = self.entries.iter().map(|was| found.remove(&was.as_ref()?.name));
            entries = kept.collect();
            entries.extend(found.into_values().map(Some));
            let gone = entries.iter().filter(|entry| entry.is_none()).count();
            if gone > entries.len() / 2 {
                entries.retain(Option::is_some);
            } else {
                share.take(gone.saturating_mul(size_of::<Option<Listed>>()))?;
            }
        }
        entries.shrink_to_fit();
        *self = Self { entries: Arc::new(entries), _share: Some(share) };
        Ok(())
    }
}

#[derive(Debug, Default)]
struct Counts {
    by_user: HashMap<u32, usize>,
    all: usize,
}

/// The memory of the listings of all users. A user may have half of `max`, all together `max`, and who has
/// little still gets it when the others have that: up to twice `max`. Root is not refused.
#[derive(Debug)]
pub struct Listings {
    counts: Mutex<Counts>,
    max: usize,
}

impl Listings {
    /// With `max` bytes for all.
    pub fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { counts: Mutex::default(), max })
    }

    /// A share for a listing of a user.
    pub fn share(self: &Arc<Self>, uid: u32) -> Share {
        Share { listings: Arc::clone(self), uid, bytes: 0, counted: 0 }
    }

    fn add(&self, uid: u32, bytes: usize) -> bool {
        let mut counts = self.counts.lock();
        let own = counts.by_user.get(&uid).map_or(0, |own| *own).saturating_add(bytes);
        let all = counts.all.saturating_add(bytes);
        let fits = own <= self.max / 2 && all <= self.max;
        let small = own <= SMALL && all <= self.max.saturating_mul(2);
        if !fits && !small && uid != 0 {
            return false;
        }
        counts.by_user.insert(uid, own);
        counts.all = all;
        true
    }

    fn give_back(&self, uid: u32, bytes: usize) {
        let mut counts = self.counts.lock();
        counts.all = counts.all.saturating_sub(bytes);
        if let Some(own) = counts.by_user.get_mut(&uid) {
            *own = own.saturating_sub(bytes);
            if *own == 0 {
                counts.by_user.remove(&uid);
            }
        }
    }
}

/// The memory of one listing; given back when it is dropped.
#[derive(Debug)]
pub struct Share {
    listings: Arc<Listings>,
    uid: u32,
    /// What it takes.
    bytes: usize,
    /// What is counted for it, which is as much or more.
    counted: usize,
}

impl Share {
    /// Takes some bytes more. ENOMEM if there are too many.
    pub fn take(&mut self, bytes: usize) -> Result<(), Errno> {
        let wanted = self.bytes.saturating_add(bytes);
        if wanted > self.counted {
            let step = self.counted.clamp(STEP.0, STEP.1).max(wanted.saturating_sub(self.counted));
            if !self.listings.add(self.uid, step) {
                return Err(Errno::NOMEM);
            }
            self.counted = self.counted.saturating_add(step);
        }
        self.bytes = wanted;
        Ok(())
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.listings.give_back(self.uid, self.counted);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listing_that_stays_open_keeps_positions_and_does_not_grow() {
        let listings = Listings::new(1 << 20);
        let mut snapshot = Snapshot::default();
        let mut renew = |names: &[&str]| -> Vec<String> {
            let mut listing = Listing::new(listings.share(1));
            for name in names {
                let (name, kind) = (name.into(), FileKind::File);
                listing.push(Listed { name, number: 1, kind }).expect("room");
            }
            snapshot.renew(listing).expect("room");
            let name = |listed: &Listed| listed.name.display().to_string();
            let name = |entry: &Option<Listed>| entry.as_ref().map_or("-".to_owned(), name);
            snapshot.entries().iter().map(name).collect()
        };
        renew(&["a", "b", "c"]);
        assert_eq!(renew(&["c", "d", "a"]), ["a", "-", "c", "d"]);
        for _ in 0..100 {
            for names in [["e", "f"], ["g", "h"]] {
                let shown = renew(&names);
                assert!(shown.len() <= 4, "{shown:?}");
            }
        }
        assert!(renew(&[]).is_empty());
        drop(snapshot);
        assert_eq!(listings.counts.lock().all, 0);
    }

    #[test]
    fn listings_are_bounded_for_a_user_and_for_all() {
        const MAX: usize = 64 * SMALL;
        let listings = Listings::new(MAX);
        let take = |uid, bytes| {
            let mut share = listings.share(uid);
            share.take(bytes).map(|()| share)
        };
        let one = take(1, MAX / 2).expect("half of all");
        assert_eq!(take(1, 1).err(), Some(Errno::NOMEM));
        let mut two = listings.share(2);
        for _ in 0..MAX / 2 / 64 {
            two.take(64).expect("in small steps");
        }
        assert_eq!(two.take(STEP.1).err(), Some(Errno::NOMEM));
        assert_eq!(take(3, SMALL + 1).err(), Some(Errno::NOMEM), "all have what they may");
        let small: Vec<_> = (3..67).map(|uid| take(uid, SMALL).expect("a little")).collect();
        assert_eq!(take(67, 1).err(), Some(Errno::NOMEM), "twice as much");
        assert!(take(0, MAX).is_ok(), "root");
        drop((one, small));
        assert!(take(1, MAX / 2).is_ok());
        drop(two);
        assert_eq!(listings.counts.lock().all, 0);
        assert!(listings.counts.lock().by_user.is_empty());
    }
}
