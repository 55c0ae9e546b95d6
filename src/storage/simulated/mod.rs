//! A disk in memory that forgets what was not synced.
//!
//! Programs see one state; the disk has another. What lies between survives a crash, or does not,
//! as the seed decides: dirty blocks may be old, new or torn by sectors, a length may be anything
//! between, attributes old or new, and names follow one of two models, see [`Names`]. Two more
//! habits of real disks: a failed sync leaves the cache clean and the data lost, and from the step
//! at which the power goes every call fails.
//!
//! Each call of a [`Storage`] method is one step, so a test counts the steps of what it watches and
//! then cuts the power, or fails one call, at each of them.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::ops::Range;
use std::path::{Component, Path};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::buffer::ALIGNMENT;
use super::{Kind, Metadata, Readback, Storage, Xattrs};
use crate::error::Errno;
use crate::types::{Handle, Identity, Time};

mod content;
mod faults;
#[cfg(test)]
mod image;
#[cfg(test)]
pub(crate) use image::sum_of;
mod names;
pub(crate) mod random;
mod state;
mod steps;
#[cfg(test)]
mod tests;

use content::Content;
use names::Entries;
use random::Random;

/// How names survive a crash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Names {
    /// As ext4 in ordered mode: changes of names are in one journal per device, of which a
    /// beginning survives; any sync writes all of it; a grown file has its data.
    Journal,
    /// As harsh as POSIX allows: each change survives or not, unless its directory was synced. Only
    /// earlier changes of the same name come first, and a rename between directories may leave
    /// both names, never neither.
    Independent,
    /// As `Independent`, but a sync of a directory writes that one alone, as on ext2: a file that was renamed
    /// out of it has no name on the disk until its new directory is synced too.
    Separate,
}

/// What happens at a chosen step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The power goes: this and all later calls do nothing and give EIO.
    Crash,
    /// The program is killed: as `Crash` for the program, but the kernel lives on, see
    /// [`SimulatedStorage::after_kill`].
    Kill,
    /// This one call does nothing and gives the errno. A sync that fails loses what it should have
    /// written.
    Errno(Errno),
    /// A write does half of its work and gives ENOSPC, a read gives half of what it could; nothing
    /// happens to others.
    Short,
    /// This one call comes so much later, and others may come first.
    Delay(Duration),
}

/// What a device can hold.
#[derive(Debug, Clone, Copy)]
pub struct DeviceOptions {
    /// Bytes for content.
    pub capacity: u64,
    /// Whether extended attributes can be set.
    pub xattrs: bool,
    /// Whether read leases can be taken.
    pub leases: bool,
    /// Times are kept in whole seconds, those of changes too.
    pub whole_seconds: bool,
    /// How many inodes it has room for.
    pub inodes: u64,
    /// Whether syncing the whole file system does anything.
    pub syncs_whole: bool,
    /// Whether files can be opened past the cache.
    pub direct: bool,
    /// Whether the disk gives other bytes than were written: what is read past the cache is wrong.
    pub rots: bool,
    /// The most bytes that a read gives.
    pub read_max: usize,
    /// Each read sets the time of access.
    pub strict_atime: bool,
    /// `unlink` of a directory is EPERM, as POSIX has it, not EISDIR.
    pub posix_unlink: bool,
    /// It says that it is mounted read-only.
    pub read_only: bool,
    /// No name goes from a folder whose mode keeps its owner from writing: the daemon is not root.
    pub obeys_modes: bool,
}

impl Default for DeviceOptions {
    fn default() -> Self {
        Self {
            capacity: 1 << 30,
            xattrs: true,
            leases: true,
            whole_seconds: false,
            inodes: u64::MAX,
            syncs_whole: true,
            direct: true,
            rots: false,
            read_max: usize::MAX,
            strict_atime: false,
            posix_unlink: false,
            read_only: false,
            obeys_modes: false,
        }
    }
}

impl DeviceOptions {
    /// A time as the device keeps it.
    fn kept(self, time: Time) -> Time {
        Time { nanos: if self.whole_seconds { 0 } else { time.nanos }, ..time }
    }
}

/// See the module. Cheap to share behind an `Arc`.
pub struct SimulatedStorage {
    state: Mutex<State>,
}

/// An open directory: its inode number. It stays valid over a crash that leaves the directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SimulatedDir {
    inode: u64,
}

/// An open file.
#[derive(Debug, Clone)]
pub struct SimulatedFile {
    inode: u64,
    writable: bool,
    direct: bool,
}

/// A read lease on an inode, and how often leases on it had been broken when it was taken.
#[derive(Debug)]
pub struct SimulatedLease {
    inode: u64,
    breaks: u64,
}

#[derive(Debug, Clone)]
struct State {
    names_mode: Names,
    devices: Vec<Device>,
    /// Copies of a disk share what none of them changes.
    inodes: BTreeMap<u64, Arc<Inode>>,
    entries: Entries,
    next_inode: u64,
    clock: u64,
    steps: u64,
    faults: BTreeMap<u64, Fault>,
    /// For the next call of a method.
    next_fault: Option<(&'static str, Fault)>,
    power_off: bool,
    /// The call under way is to be short.
    short: bool,
    log: Option<Vec<String>>,
}

#[derive(Debug, Clone)]
struct Device {
    root: u64,
    options: DeviceOptions,
}

#[derive(Debug, Clone)]
struct Inode {
    device: usize,
    attributes: Attributes,
    /// As the disk has them.
    durable: Attributes,
    content: Content,
    writers: u64,
    lease_breaks: u64,
}

#[derive(Debug, Clone, PartialEq)]
struct Attributes {
    kind: Kind,
    mode: u32,
    uid: u32,
    gid: u32,
    atime: Time,
    mtime: Time,
    ctime: Time,
    xattrs: BTreeMap<OsString, Vec<u8>>,
}

/// Nanoseconds between two events of the simulated clock.
const TICK: u64 = 1_000_003;
/// 2023-11-14, so that times look like times.
const EPOCH: i64 = 1_700_000_000;

impl SimulatedStorage {
    /// A machine without disks.
    pub fn new(names: Names) -> Self {
        Self {
            state: Mutex::new(State {
                names_mode: names,
                devices: Vec::new(),
                inodes: BTreeMap::new(),
                entries: Entries::default(),
                next_inode: 2,
                clock: 0,
                steps: 0,
                faults: BTreeMap::new(),
                next_fault: None,
                power_off: false,
                short: false,
                log: None,
            }),
        }
    }

    /// Adds a device and gives its root.
    pub fn add_device(&self, options: DeviceOptions) -> SimulatedDir {
        let mut state = self.state.lock();
        let device = state.devices.len();
        let root = state.new_inode(device, Kind::Directory, 0o755);
        state.devices.push(Device { root, options });
        SimulatedDir { inode: root }
    }

    /// The root of the n-th device.
    pub fn root(&self, device: usize) -> Option<SimulatedDir> {
        let state = self.state.lock();
        state.devices.get(device).map(|device| SimulatedDir { inode: device.root })
    }

    /// Changes what the n-th device can hold; used to fill it.
    pub fn set_options(&self, device: usize, options: DeviceOptions) {
        if let Some(device) = self.state.lock().devices.get_mut(device) {
            device.options = options;
        }
    }

    /// Steps taken so far, failed ones included.
    pub fn steps(&self) -> u64 {
        self.state.lock().steps
    }

    /// Plans a fault: the `step`-th call from the beginning (the next one is `steps()`).
    pub fn fail_at(&self, step: u64, fault: Fault) {
        self.state.lock().faults.insert(step, fault);
    }

    /// Plans a fault for the next call of a method, whenever that comes.
    pub fn fail_next(&self, method: &'static str, fault: Fault) {
        self.state.lock().next_fault = Some((method, fault));
    }

    /// Drops the planned faults, and says whether one has struck.
    pub fn take_faults(&self) -> bool {
        let mut state = self.state.lock();
        let steps = state.steps;
        std::mem::take(&mut state.faults).into_keys().any(|step| step < steps)
    }

    /// From now on keeps a line for each step, for messages of tests.
    pub fn keep_log(&self) {
        self.state.lock().log = Some(Vec::new());
    }

    /// The steps since `keep_log`.
    pub fn log(&self) -> Vec<String> {
        self.state.lock().log.clone().unwrap_or_default()
    }

    /// The disks as they are found after the power went now. `self` is not changed.
    pub fn crash(&self, seed: u64) -> Self {
        let state = self.state.lock();
        let mut random = Random::new(seed);
        let mut entries = state.entries.crash(&mut random, state.names_mode);
        let ordered = state.names_mode == Names::Journal;
        // What lost its last name is gone, a directory with all that it held.
        let found = entries.reachable(state.devices.iter().map(|device| device.root));
        entries.retain_in(&found);
        let kept = state.inodes.iter().filter(|(number, _)| found.contains(number));
        let inodes =
            kept.map(|(number, inode)| (*number, Inode::crash(inode, &mut random, ordered)));
        let inodes = inodes.collect();
        Self {
            state: Mutex::new(State {
                names_mode: state.names_mode,
                devices: state.devices.clone(),
                inodes,
                entries,
                next_inode: state.next_inode,
                clock: state.clock + 1_000_000,
                steps: 0,
                faults: BTreeMap::new(),
                next_fault: None,
                power_off: false,
                short: false,
                log: None,
            }),
        }
    }

    /// Somebody outside opens a file for writing: refuses leases, breaks those that are held.
    pub fn open_outside(&self, dir: &SimulatedDir, name: &OsStr) -> Result<(), Errno> {
        let mut state = self.state.lock();
        let number = state.entries.get(dir.inode, name).ok_or(Errno::NOENT)?;
        let inode = state.inode_mut(number)?;
        inode.writers += 1;
        inode.lease_breaks += 1;
        Ok(())
    }

    /// That somebody closes it.
    pub fn close_outside(&self, dir: &SimulatedDir, name: &OsStr) -> Result<(), Errno> {
        let mut state = self.state.lock();
        let number = state.entries.get(dir.inode, name).ok_or(Errno::NOENT)?;
        let inode = state.inode_mut(number)?;
        inode.writers = inode.writers.saturating_sub(1);
        Ok(())
    }

    /// Somebody outside makes a hard link.
    pub fn link_outside(
        &self,
        dir: &SimulatedDir,
        name: &OsStr,
        new_dir: &SimulatedDir,
        new_name: &OsStr,
    ) -> Result<(), Errno> {
        self.state.lock().link(dir, name, new_dir, new_name)
    }

    /// Everything reaches the disks, as after `sync(1)`.
    pub fn sync_all(&self) {
        let mut state = self.state.lock();
        let directories: Vec<(u64, usize)> = state
            .inodes
            .iter()
            .filter(|(_, inode)| inode.attributes.kind == Kind::Directory)
            .map(|(number, inode)| (*number, inode.device))
            .collect();
        let names = state.names_mode;
        for (number, device) in directories {
            state.entries.sync(device, names, Some(number));
        }
        for inode in state.inodes.values_mut() {
            Arc::make_mut(inode).sync();
        }
    }

    /// A shared reference, for the generic users of the trait.
    pub fn shared(self) -> Arc<Self> {
        Arc::new(self)
    }
}

impl Inode {
    fn sync(&mut self) {
        self.content.sync();
        self.durable.clone_from(&self.attributes);
    }

    /// As it is found after power loss.
    fn crash(inode: &Arc<Self>, random: &mut Random, ordered: bool) -> Arc<Self> {
        let known_outside = inode.writers > 0 || inode.lease_breaks > 0;
        let is_new = random.flip();
        if inode.attributes == inode.durable && inode.content.is_durable() && !known_outside {
            return Arc::clone(inode);
        }
        let attributes = if is_new { &inode.attributes } else { &inode.durable };
        Arc::new(Self {
            device: inode.device,
            attributes: attributes.clone(),
            durable: attributes.clone(),
            content: inode.content.crash(random, ordered),
            writers: 0,
            lease_breaks: 0,
        })
    }
}

/// The handle of an inode; numbers are never used again, so the generation is always 1.
fn handle_of(number: u64) -> Handle {
    let mut bytes = number.to_be_bytes().to_vec();
    bytes.extend(1_u32.to_be_bytes());
    Handle { kind: Handle::SYNTHETIC, bytes: bytes.into() }
}
