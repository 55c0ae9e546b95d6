//! What /proc tells of a caller. Hints: the caller may be gone, or somebody else by now.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::thread::CapabilitySet;

use crate::error::Errno;

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

/// The supplementary groups that a thread holds now. ESRCH if it cannot be told.
pub fn groups_of_thread(pid: u32) -> Result<Vec<u32>, Errno> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).map_err(|_| Errno::SRCH)?;
    let line = status.lines().find_map(|line| line.strip_prefix("Groups:")).ok_or(Errno::SRCH)?;
    line.split_whitespace().map(|gid| gid.parse().map_err(|_| Errno::SRCH)).collect()
}

/// Whether a thread holds a capability now, as the kernel would ask of it where the file system is: one that is
/// in force in a user namespace of its own is none here. Not if it cannot be told.
pub fn is_capable(pid: u32, capability: CapabilitySet) -> bool {
    let of = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/user")).ok();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = effective.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok());
    let holds = effective.is_some_and(|bits| bits & capability.bits() != 0);
    let ours = || of("self").is_some_and(|ours| of(&pid.to_string()) == Some(ours));
    holds && ours()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_process_is_known() {
        let pid = std::process::id();
        assert!(exe_of(pid).is_some_and(|exe| exe.contains("octroi")));
        assert!(groups_of_thread(pid).is_ok());
        assert_eq!(groups_of_thread(u32::MAX).err(), Some(Errno::SRCH));
        assert_eq!(exe_of(0), None);
        let ours = rustix::thread::capabilities(None).expect("capabilities").effective;
        for capability in [CapabilitySet::FSETID, CapabilitySet::SYS_RESOURCE] {
            assert_eq!(is_capable(pid, capability), ours.contains(capability));
            assert!(!is_capable(u32::MAX, capability) && !is_capable(0, capability));
        }
    }
}
