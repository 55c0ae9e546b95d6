//! What /proc tells of a caller. The executable is a hint: the caller may be gone, or somebody else by now.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::thread::CapabilitySet;

use crate::error::Errno;
use crate::types::Caller;

/// How long the answer for a thread holds after it was asked about last: it waited for that call, and
/// execve(2) alone changes the answer and takes longer. 3,000 of a small static program took 360 us or more
/// each (virtual machine, Linux 6.18).
const EXE_HOLDS: Duration = Duration::from_micros(200);

/// After so long it is asked for again in any case: another thread of the process may call execve(2), and what
/// that starts goes on by the same number.
const EXE_HOLDS_MAX: Duration = Duration::from_millis(5);

/// What was found of the thread that asked last.
struct Found {
    pid: u32,
    at: Instant,
    /// When it asked last.
    asked: Instant,
    exe: Arc<str>,
}

static LAST: Mutex<Option<Found>> = Mutex::new(None);

impl Found {
    /// Whether it holds for a thread that asks now.
    fn holds(&mut self, pid: u32, now: Instant) -> bool {
        let holds = self.pid == pid
            && now.saturating_duration_since(self.at) < EXE_HOLDS_MAX
            && now.saturating_duration_since(self.asked) < EXE_HOLDS;
        if holds {
            self.asked = now;
        }
        holds
    }
}

/// The executable of a thread that asks for something now, lossy where it is not UTF-8; `None` if it cannot be
/// told.
pub fn exe_of(pid: u32) -> Option<Arc<str>> {
    if pid == 0 {
        return None;
    }
    let now = Instant::now();
    if let Some(found) = &mut *LAST.lock()
        && found.holds(pid, now)
    {
        return Some(Arc::clone(&found.exe));
    }
    let path = std::fs::read_link(format!("/proc/{pid}/exe")).ok()?;
    let exe: Arc<str> = path.to_string_lossy().into();
    *LAST.lock() = Some(Found { pid, at: now, asked: now, exe: Arc::clone(&exe) });
    Some(exe)
}

/// A thread asks for something of which its executable is not recorded: what was found of it holds on.
pub fn asks(pid: u32) {
    if let Some(found) = &mut *LAST.lock() {
        found.holds(pid, Instant::now());
    }
}

/// A thread is about to become another program.
pub fn forget(pid: u32) {
    LAST.lock().take_if(|found| found.pid == pid);
}

/// What a thread may, as the kernel asks of it for what it does now. A caller waits for its answer and cannot
/// become somebody else meanwhile; but a thread that acts in another's name (of a server of files, or of an
/// io_uring that was set up earlier) shows its own rights: nothing is known of a thread with another file system
/// user than the caller's.
#[derive(Debug)]
pub struct Rights {
    pid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// The capabilities that are in force, in the thread's own user namespace.
    effective: CapabilitySet,
}

impl Rights {
    /// Those of a caller. ESRCH if they cannot be told.
    pub fn of(caller: Caller) -> Result<Self, Errno> {
        let pid = caller.pid;
        let status =
            std::fs::read_to_string(format!("/proc/{pid}/status")).map_err(|_| Errno::SRCH)?;
        let line = |name| status.lines().find_map(|line| line.strip_prefix(name));
        let numbers = |name| -> Result<Vec<u32>, Errno> {
            let words = line(name).ok_or(Errno::SRCH)?.split_whitespace();
            words.map(|id| id.parse().map_err(|_| Errno::SRCH)).collect()
        };
        // Real, effective, saved, file system.
        if numbers("Uid:")?.get(3) != Some(&caller.uid) {
            return Err(Errno::SRCH);
        }
        let bits = line("CapEff:").and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok());
        let effective = CapabilitySet::from_bits_retain(bits.ok_or(Errno::SRCH)?);
        Ok(Self { pid, groups: numbers("Groups:")?, effective })
    }

    /// Whether it holds a capability that is in force for all: one in a user namespace of its own is not.
    pub fn holds(&self, capability: CapabilitySet) -> bool {
        let of = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/user")).ok();
        let ours = || of("self").is_some_and(|ours| of(&self.pid.to_string()) == Some(ours));
        self.effective.contains(capability) && ours()
    }

    /// Whether it holds CAP_DAC_OVERRIDE over what a user and a group own: those of its user namespace
    /// (`capable_wrt_inode_uidgid` in the kernel's kernel/capability.c).
    pub fn override_permissions(&self, uid: u32, gid: u32) -> bool {
        // Lines of: first id inside, first id as we see it, how many.
        let maps = |map: &str, id: u32| {
            let text = std::fs::read_to_string(format!("/proc/{}/{map}", self.pid));
            text.unwrap_or_default().lines().any(|line| {
                let mut words = line.split_whitespace().map(|word| word.parse::<u32>().ok());
                let (Some(Some(first)), Some(Some(count))) = (words.nth(1), words.next()) else {
                    return false;
                };
                id.checked_sub(first).is_some_and(|at| at < count)
            })
        };
        let overrides = self.effective.contains(CapabilitySet::DAC_OVERRIDE);
        overrides && maps("uid_map", uid) && maps("gid_map", gid)
    }
}

/// Whether a caller holds a capability that is in force for all. Not if it cannot be told.
pub fn is_capable(caller: Caller, capability: CapabilitySet) -> bool {
    Rights::of(caller).is_ok_and(|rights| rights.holds(capability))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_process_is_known() {
        let pid = std::process::id();
        assert!(exe_of(pid).is_some_and(|exe| exe.contains("octroi")));
        assert_eq!(exe_of(0), None);
    }

    #[test]
    fn our_own_rights_are_known_and_those_of_others_are_not_taken_for_them() {
        let uid = rustix::process::getuid().as_raw();
        let gid = rustix::process::getgid().as_raw();
        let caller = Caller { uid, gid, pid: std::process::id() };
        let ours = rustix::thread::capabilities(None).expect("capabilities").effective;
        let other = uid.wrapping_add(1);
        let strangers = [
            Caller { pid: u32::MAX, ..caller },
            Caller { pid: 0, ..caller },
            Caller { uid: other, ..caller },
        ];
        for capability in [CapabilitySet::FSETID, CapabilitySet::SYS_RESOURCE] {
            assert_eq!(is_capable(caller, capability), ours.contains(capability));
            assert!(strangers.iter().all(|stranger| !is_capable(*stranger, capability)));
        }
        assert!(strangers.iter().all(|stranger| Rights::of(*stranger).is_err()));
        let rights = Rights::of(caller).expect("ours");
        let overrides = ours.contains(CapabilitySet::DAC_OVERRIDE);
        assert_eq!(rights.override_permissions(uid, gid), overrides);
        assert!(!rights.override_permissions(u32::MAX, gid));
    }
}
