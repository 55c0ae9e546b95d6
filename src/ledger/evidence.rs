//! What an accepted loss takes out of a ledger is kept: nothing is deleted that somebody may want to
//! look at, or mend, later.
//!
//! `evidence/0001` in the state folder, `0002` the next time, has the segments that are cut or leave, as
//! they were, and a key or checkpoint that could not be read; `SHA256SUMS` in it has their hashes, for
//! `sha256sum -c`, and the record of the loss has the hash of that file.
//!
//! Until the record is durable the folder is called `0001.new`. In this order, each durable before the
//! next: second names for the files, the sums, the cut, the record, the folder's name. After a crash a
//! folder `.new` whose sums no record has keeps the ledger from being opened until the loss is accepted
//! again, which goes on with the same folder.

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::sync::Arc;

use sha2::{Digest as _, Sha256};

use super::accounted::{hash_of, hexadecimal};
use super::keys::KEY;
use super::record::KeptRecord;
use super::replay::Repair;
use super::store::{put, write_new};
use super::{LedgerError, segment};
use crate::error::Errno;
use crate::storage::{Kind, Storage};

/// Folder in the state folder.
const EVIDENCE: &str = "evidence";
const SUMS: &str = "SHA256SUMS";
/// What the name of a folder ends with whose loss is not recorded yet.
const NEW: &str = ".new";
/// Bytes read at once.
const PIECE: usize = 1 << 20;

/// The folders of evidence of a ledger.
pub struct Evidence<S: Storage> {
    storage: Arc<S>,
    state: S::Dir,
    /// Of the folder that is being filled, or of the next.
    number: u64,
    /// The folder is there, as `.new`.
    begun: bool,
    /// SHA-256 of its sums.
    sums: Option<String>,
}

impl<S: Storage> Evidence<S> {
    /// Looks whether an acceptance was cut off.
    pub fn look(storage: &Arc<S>, state: &S::Dir) -> Result<Self, LedgerError> {
        Self::look_now(storage, state).map_err(|errno| failed("read", errno))
    }

    fn look_now(storage: &Arc<S>, state: &S::Dir) -> Result<Self, Errno> {
        let mut found = Self {
            storage: Arc::clone(storage),
            state: state.clone(),
            number: 1,
            begun: false,
            sums: None,
        };
        let folder = match storage.open_dir(state, Path::new(EVIDENCE)) {
            Err(Errno::NOENT) => return Ok(found),
            folder => folder?,
        };
        for name in storage.list(&folder)? {
            let Some(name) = name.to_str() else { continue };
            let (text, begun) = name.strip_suffix(NEW).map_or((name, false), |text| (text, true));
            let Ok(number) = text.parse::<u64>() else { continue };
            match (begun, found.begun) {
                (true, _) => (found.number, found.begun) = (number, true),
                (false, false) => found.number = found.number.max(number.saturating_add(1)),
                (false, true) => {}
            }
        }
        if found.begun {
            let folder = storage.open_dir(&folder, Path::new(&found.new_name()))?;
            found.sums = found.digest(&folder, OsStr::new(SUMS)).ok();
        }
        Ok(found)
    }

    fn name(&self) -> String {
        format!("{:04}", self.number)
    }

    fn new_name(&self) -> String {
        format!("{:04}{NEW}", self.number)
    }

    /// What is wrong, if a folder has been begun and no record of a loss has its sums.
    pub fn unrecorded<'a>(&self, mut recorded: impl Iterator<Item = &'a str>) -> Option<String> {
        let is_recorded = recorded.any(|sums| self.sums.as_deref() == Some(sums));
        (self.begun && !is_recorded).then(|| {
            let name = self.new_name();
            format!(
                "a loss was being accepted and is not recorded, {EVIDENCE}/{name} has part of it"
            )
        })
    }

    /// The folder gets its name: the record of the loss is durable.
    pub fn settle(&mut self) -> Result<(), LedgerError> {
        if !self.begun {
            return Ok(());
        }
        self.settle_now().map_err(|errno| failed("name", errno))
    }

    fn settle_now(&mut self) -> Result<(), Errno> {
        let folder = self.storage.open_dir(&self.state, Path::new(EVIDENCE))?;
        let (new, name) = (self.new_name(), self.name());
        self.storage.rename(&folder, OsStr::new(&new), &folder, OsStr::new(&name))?;
        self.storage.sync_dir(&folder)?;
        self.number = self.number.saturating_add(1);
        (self.begun, self.sums) = (false, None);
        Ok(())
    }

    /// Puts aside what repairs take out of the ledger, and damaged files, and then does the repairs. None if
    /// there is nothing to keep.
    pub fn keep(
        &mut self,
        ledger: &S::Dir,
        repairs: &[Repair],
        damaged: &[&'static str],
    ) -> Result<Option<KeptRecord>, LedgerError> {
        if !self.begun && repairs.is_empty() && damaged.is_empty() {
            return Ok(None);
        }
        self.keep_now(ledger, repairs, damaged).map(Some).map_err(|errno| failed("fill", errno))
    }

    fn keep_now(
        &mut self,
        ledger: &S::Dir,
        repairs: &[Repair],
        damaged: &[&'static str],
    ) -> Result<KeptRecord, Errno> {
        let folder = self.begin()?;
        let mut aside = Vec::new();
        for repair in repairs {
            let name = segment::file_name(repair.segment());
            if let Some(kept) = self.put_aside(ledger, &name, &folder)? {
                aside.push((*repair, name, kept));
            }
        }
        for name in damaged {
            let from = if *name == KEY { self.state.clone() } else { ledger.clone() };
            self.put_aside(&from, OsStr::new(name), &folder)?;
        }
        self.storage.sync_dir(&folder)?;
        let (files, text) = self.sums_of(&folder)?;
        put(&*self.storage, &folder, SUMS, text.as_bytes())?;
        let sha256 = hash_of(text.as_bytes());
        self.sums = Some(sha256.clone());
        for (repair, name, kept) in aside {
            match repair {
                Repair::Remove { .. } => match self.storage.unlink(ledger, &name) {
                    Ok(()) | Err(Errno::NOENT) => {}
                    Err(errno) => return Err(errno),
                },
                Repair::Cut { length, .. } => {
                    self.begin_of(&folder, &kept, ledger, &name, length)?;
                }
            }
        }
        self.storage.sync_dir(ledger)?;
        Ok(KeptRecord { folder: format!("{EVIDENCE}/{}", self.name()), files, sha256 })
    }

    /// The folder that is filled; its name is durable.
    fn begin(&mut self) -> Result<S::Dir, Errno> {
        let storage = &*self.storage;
        let open = |dir: &S::Dir, name: &str| match storage.open_dir(dir, Path::new(name)) {
            Err(Errno::NOENT) => {
                storage.create_dir(dir, OsStr::new(name))?;
                storage.sync_dir(dir)?;
                storage.open_dir(dir, Path::new(name))
            }
            found => found,
        };
        let folder = open(&self.state, EVIDENCE)?;
        let folder = open(&folder, &self.new_name())?;
        self.begun = true;
        Ok(folder)
    }

    /// Gives a file a name in the folder, which is not one that is there, and says which; none if it is gone
    /// itself. Where there can be no second name, the first one goes.
    fn put_aside(
        &self,
        from: &S::Dir,
        name: &OsStr,
        folder: &S::Dir,
    ) -> Result<Option<OsString>, Errno> {
        let storage = &*self.storage;
        let Some(found) = storage.stat(from, name)? else { return Ok(None) };
        for at in 1_u64.. {
            let mut target = name.to_owned();
            if at > 1 {
                target.push(format!(".{at}"));
            }
            if let Some(there) = storage.stat(folder, &target)? {
                // By an attempt that was cut off.
                if there.identity.handle == found.identity.handle {
                    return Ok(Some(target));
                }
                continue;
            }
            match storage.link(from, name, folder, &target) {
                Ok(()) => return Ok(Some(target)),
                Err(Errno::PERM | Errno::OPNOTSUPP | Errno::MLINK | Errno::NOSYS) => {
                    storage.rename(from, name, folder, &target)?;
                    return Ok(Some(target));
                }
                Err(errno) => return Err(errno),
            }
        }
        Err(Errno::EXIST)
    }

    /// How many files there are, and a line for each.
    fn sums_of(&self, folder: &S::Dir) -> Result<(u64, String), Errno> {
        let mut names = self.storage.list(folder)?;
        names.retain(|name| !name.to_str().is_some_and(|name| name.starts_with(SUMS)));
        names.sort();
        let mut text = String::new();
        for name in &names {
            let shown = name.display();
            let line = match self.digest(folder, name) {
                Ok(hash) => format!("{hash}  {shown}\n"),
                Err(errno) => format!("# {shown} cannot be read: {errno}\n"),
            };
            text.push_str(&line);
        }
        Ok((names.len() as u64, text))
    }

    fn digest(&self, folder: &S::Dir, name: &OsStr) -> Result<String, Errno> {
        // A link or a folder has no bytes; opening it might be the wrong thing to do.
        let is_file = |found: &crate::storage::Metadata| found.kind == Kind::File;
        self.storage.stat(folder, name)?.filter(is_file).ok_or(Errno::INVAL)?;
        let file = self.storage.open_read(folder, name)?;
        let mut hash = Sha256::new();
        let mut piece = vec![0; PIECE];
        let mut offset = 0_u64;
        loop {
            let read = self.storage.read_at(&file, &mut piece, offset)?;
            if read == 0 {
                return Ok(hexadecimal(&hash.finalize()));
            }
            hash.update(piece.get(..read).unwrap_or_default());
            offset = offset.saturating_add(read as u64);
        }
    }

    /// Puts the first bytes of what was put aside where it was: whoever looks finds the one or the other.
    fn begin_of(
        &self,
        folder: &S::Dir,
        kept: &OsStr,
        ledger: &S::Dir,
        name: &OsStr,
        length: u64,
    ) -> Result<(), Errno> {
        let storage = &*self.storage;
        let source = storage.open_read(folder, kept)?;
        let mut new = name.to_owned();
        new.push(NEW);
        let target = write_new(storage, ledger, &new, &[])?;
        let mut offset = 0_u64;
        let mut piece = vec![0; PIECE];
        while offset < length {
            let rest = usize::try_from(length.saturating_sub(offset)).unwrap_or(PIECE);
            let room = piece.get_mut(..rest.min(PIECE)).unwrap_or_default();
            let read = storage.read_at(&source, room, offset)?;
            if read == 0 {
                return Err(Errno::IO);
            }
            storage.write_at(&target, room.get(..read).unwrap_or_default(), offset)?;
            offset = offset.saturating_add(read as u64);
        }
        storage.sync_file(&target)?;
        storage.replace(ledger, &new, name)
    }
}

fn failed(attempted: &'static str, errno: Errno) -> LedgerError {
    LedgerError::Tree { attempted, file: EVIDENCE.to_owned(), errno }
}
