//! The simulated disk as the mover's tests have it: one call of the mover may be left out, or come
//! too late, as the run was told. See the module above.

use std::ffi::{OsStr, OsString};
use std::ops::{Deref, Range};
use std::panic::Location;
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;

use super::{How, is_of, strikes};
use crate::error::Errno;
use crate::storage::simulated::{
    Names, SimulatedDir, SimulatedFile, SimulatedLease, SimulatedStorage,
};
use crate::storage::{FileSystem, Kind, Metadata, Readback, Storage, Xattrs};
use crate::types::{Handle, Time};

type Call = Box<dyn FnOnce(&SimulatedStorage) -> Result<(), Errno> + Send>;

/// A simulated disk and what was put off.
pub(in super::super) struct Disk {
    simulated: SimulatedStorage,
    late: Mutex<Vec<Call>>,
}

impl Deref for Disk {
    type Target = SimulatedStorage;
    fn deref(&self) -> &SimulatedStorage {
        &self.simulated
    }
}

impl From<SimulatedStorage> for Disk {
    fn from(simulated: SimulatedStorage) -> Self {
        Self { simulated, late: Mutex::default() }
    }
}

impl Disk {
    pub(in super::super) fn new(names: Names) -> Self {
        SimulatedStorage::new(names).into()
    }

    pub(in super::super) fn crash(&self, seed: u64) -> Self {
        self.simulated.crash(seed).into()
    }

    pub(in super::super) fn after_kill(&self) -> Self {
        self.simulated.after_kill().into()
    }

    pub(in super::super) fn shared(self) -> Arc<Self> {
        Arc::new(self)
    }

    /// A call that changes something. One that is late comes after the mover's next such call or the
    /// ledger's next sync, whichever is first.
    #[track_caller]
    fn change(
        &self,
        method: &'static str,
        call: impl FnOnce(&SimulatedStorage) -> Result<(), Errno> + Send + 'static,
    ) -> Result<(), Errno> {
        let caller = Location::caller();
        match strikes(caller, method) {
            Some(How::Omit) => return Ok(()),
            Some(How::Late) => {
                self.late.lock().push(Box::new(call));
                return Ok(());
            }
            None => {}
        }
        let done = call(&self.simulated);
        if is_of(caller, "src/mover/") || (method == "sync_file" && is_of(caller, "src/ledger/")) {
            for call in std::mem::take(&mut *self.late.lock()) {
                let _ = call(&self.simulated);
            }
        }
        done
    }

    /// Whether a call that only looks is left out. It then answers what keeps the caller going.
    #[track_caller]
    fn omits(&self, method: &'static str) -> bool {
        strikes(Location::caller(), method) == Some(How::Omit)
    }
}

/// Delegates calls that change names or attributes, with their arguments kept for later.
macro_rules! changes {
    ($(fn $method:ident($dir:ident: &SimulatedDir $(, $name:ident: &$kept:ty)* $(; $value:ident: $copied:ty)*);)*) => {$(
        #[track_caller]
        fn $method(&self, $dir: &SimulatedDir $(, $name: &$kept)* $(, $value: $copied)*) -> Result<(), Errno> {
            let $dir = $dir.clone();
            $(let $name = $name.to_owned();)*
            self.change(stringify!($method), move |disk| disk.$method(&$dir $(, &$name)* $(, $value)*))
        }
    )*};
}

impl Storage for Disk {
    type Dir = SimulatedDir;
    type File = SimulatedFile;
    type Lease = SimulatedLease;

    changes! {
        fn create_dir(dir: &SimulatedDir, name: &OsStr);
        fn remove_dir(dir: &SimulatedDir, name: &OsStr);
        fn create_special(dir: &SimulatedDir, name: &OsStr, kind: &Kind);
        fn sync_dir(dir: &SimulatedDir);
        fn replace(dir: &SimulatedDir, source: &OsStr, target: &OsStr);
        fn unlink(dir: &SimulatedDir, name: &OsStr);
        fn set_owner(dir: &SimulatedDir, name: &OsStr; uid: u32; gid: u32);
        fn set_mode(dir: &SimulatedDir, name: &OsStr; mode: u32);
        fn set_times(dir: &SimulatedDir, name: &OsStr; atime: Time; mtime: Time);
        fn set_xattr(dir: &SimulatedDir, name: &OsStr, key: &OsStr, value: &[u8]);
        fn sync_special(dir: &SimulatedDir, name: &OsStr);
        fn sync_file_system(dir: &SimulatedDir);
    }

    #[track_caller]
    fn rename(
        &self,
        source: &SimulatedDir,
        source_name: &OsStr,
        target: &SimulatedDir,
        target_name: &OsStr,
    ) -> Result<(), Errno> {
        let ends = (source.clone(), source_name.to_owned(), target.clone(), target_name.to_owned());
        self.change("rename", move |disk| disk.rename(&ends.0, &ends.1, &ends.2, &ends.3))
    }

    #[track_caller]
    fn link(
        &self,
        source: &SimulatedDir,
        source_name: &OsStr,
        target: &SimulatedDir,
        target_name: &OsStr,
    ) -> Result<(), Errno> {
        let ends = (source.clone(), source_name.to_owned(), target.clone(), target_name.to_owned());
        self.change("link", move |disk| disk.link(&ends.0, &ends.1, &ends.2, &ends.3))
    }

    #[track_caller]
    fn write_at(&self, file: &SimulatedFile, bytes: &[u8], offset: u64) -> Result<(), Errno> {
        let (file, bytes) = (file.clone(), bytes.to_owned());
        self.change("write_at", move |disk| disk.write_at(&file, &bytes, offset))
    }

    #[track_caller]
    fn set_len(&self, file: &SimulatedFile, length: u64) -> Result<(), Errno> {
        let file = file.clone();
        self.change("set_len", move |disk| disk.set_len(&file, length))
    }

    #[track_caller]
    fn reserve(&self, file: &SimulatedFile, length: u64) -> Result<(), Errno> {
        let file = file.clone();
        self.change("reserve", move |disk| disk.reserve(&file, length))
    }

    #[track_caller]
    fn sync_file(&self, file: &SimulatedFile) -> Result<(), Errno> {
        let file = file.clone();
        self.change("sync_file", move |disk| disk.sync_file(&file))
    }

    #[track_caller]
    fn set_attributes(&self, file: &SimulatedFile, wanted: &Metadata) -> Result<(), Errno> {
        let (file, wanted) = (file.clone(), wanted.clone());
        self.change("set_attributes", move |disk| disk.set_attributes(&file, &wanted))
    }

    /// Left out, it stays where it was.
    #[track_caller]
    fn open_dir(&self, dir: &SimulatedDir, path: &Path) -> Result<SimulatedDir, Errno> {
        if self.omits("open_dir") { Ok(dir.clone()) } else { self.simulated.open_dir(dir, path) }
    }

    #[track_caller]
    fn list(&self, dir: &SimulatedDir) -> Result<Vec<OsString>, Errno> {
        if self.omits("list") { Ok(Vec::new()) } else { self.simulated.list(dir) }
    }

    #[track_caller]
    fn create_file(&self, dir: &SimulatedDir, name: &OsStr) -> Result<SimulatedFile, Errno> {
        if self.omits("create_file") {
            Err(Errno::STALE)
        } else {
            self.simulated.create_file(dir, name)
        }
    }

    #[track_caller]
    fn open_read(&self, dir: &SimulatedDir, name: &OsStr) -> Result<SimulatedFile, Errno> {
        if self.omits("open_read") {
            Err(Errno::STALE)
        } else {
            self.simulated.open_read(dir, name)
        }
    }

    #[track_caller]
    fn open_write(&self, dir: &SimulatedDir, name: &OsStr) -> Result<SimulatedFile, Errno> {
        if self.omits("open_write") {
            Err(Errno::STALE)
        } else {
            self.simulated.open_write(dir, name)
        }
    }

    #[track_caller]
    fn open_readback(
        &self,
        dir: &SimulatedDir,
        name: &OsStr,
    ) -> Result<(SimulatedFile, Readback), Errno> {
        if self.omits("open_readback") {
            return Err(Errno::STALE);
        }
        self.simulated.open_readback(dir, name)
    }

    #[track_caller]
    fn read_at(
        &self,
        file: &SimulatedFile,
        buffer: &mut [u8],
        offset: u64,
    ) -> Result<usize, Errno> {
        if self.omits("read_at") { Ok(0) } else { self.simulated.read_at(file, buffer, offset) }
    }

    #[track_caller]
    fn next_data(&self, file: &SimulatedFile, offset: u64) -> Result<Option<Range<u64>>, Errno> {
        if self.omits("next_data") { Ok(None) } else { self.simulated.next_data(file, offset) }
    }

    #[track_caller]
    fn lease(&self, file: &SimulatedFile) -> Result<Option<SimulatedLease>, Errno> {
        if self.omits("lease") { Ok(None) } else { self.simulated.lease(file) }
    }

    #[track_caller]
    fn lease_holds(&self, lease: &SimulatedLease) -> bool {
        self.omits("lease_holds") || self.simulated.lease_holds(lease)
    }

    #[track_caller]
    fn stat_file(&self, file: &SimulatedFile) -> Result<Metadata, Errno> {
        if self.omits("stat_file") { Err(Errno::STALE) } else { self.simulated.stat_file(file) }
    }

    #[track_caller]
    fn dir_handle(&self, dir: &SimulatedDir) -> Result<Handle, Errno> {
        if self.omits("dir_handle") {
            return Ok(Handle { kind: Handle::SYNTHETIC, bytes: [0; 12].as_slice().into() });
        }
        self.simulated.dir_handle(dir)
    }

    #[track_caller]
    fn stat(&self, dir: &SimulatedDir, name: &OsStr) -> Result<Option<Metadata>, Errno> {
        if self.omits("stat") { Ok(None) } else { self.simulated.stat(dir, name) }
    }

    #[track_caller]
    fn xattrs(&self, dir: &SimulatedDir, name: &OsStr) -> Result<Xattrs, Errno> {
        if self.omits("xattrs") { Ok(Vec::new()) } else { self.simulated.xattrs(dir, name) }
    }

    #[track_caller]
    fn syncs_whole(&self, dir: &SimulatedDir) -> Result<bool, Errno> {
        if self.omits("syncs_whole") { Ok(true) } else { self.simulated.syncs_whole(dir) }
    }

    #[track_caller]
    fn free_space(&self, dir: &SimulatedDir) -> Result<u64, Errno> {
        if self.omits("free_space") { Ok(u64::MAX) } else { self.simulated.free_space(dir) }
    }

    #[track_caller]
    fn file_system(&self, dir: &SimulatedDir) -> Result<FileSystem, Errno> {
        if self.omits("file_system") {
            return Ok(FileSystem { device: 0, size: u64::MAX });
        }
        self.simulated.file_system(dir)
    }

    #[track_caller]
    fn disk_bytes(&self, dir: &SimulatedDir, name: &OsStr) -> Result<u64, Errno> {
        if self.omits("disk_bytes") { Ok(0) } else { self.simulated.disk_bytes(dir, name) }
    }

    #[track_caller]
    fn free_inodes(&self, dir: &SimulatedDir) -> Result<u64, Errno> {
        if self.omits("free_inodes") { Ok(u64::MAX) } else { self.simulated.free_inodes(dir) }
    }

    #[track_caller]
    fn is_read_only(&self, dir: &SimulatedDir) -> Result<bool, Errno> {
        if self.omits("is_read_only") { Ok(false) } else { self.simulated.is_read_only(dir) }
    }

    #[track_caller]
    fn open_direct(&self, file: &SimulatedFile) -> Result<Option<SimulatedFile>, Errno> {
        if self.omits("open_direct") { Ok(None) } else { self.simulated.open_direct(file) }
    }
}
