//! What the daemon asks of the kernel for itself, once, before it starts a thread.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CapabilitySet, capabilities, set_capabilities};

use crate::error::Errno;

/// Raises the number of descriptors that may be open to the most that is allowed; gives that number,
/// `None` for no limit. The default of 1024 is what select(2) can bear, which nothing here calls.
pub fn raise_open_files() -> Result<Option<u64>, Errno> {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?;
    Ok(maximum)
}

/// Takes away, as far as may be, the limits of the shell that started this: of the size of files, beyond which
/// SIGXFSZ would end the daemon, and of processor time. Those of users hold for what they do themselves. Gives
/// how many bytes a file may have still.
pub fn lift_limits() -> Result<Option<u64>, Errno> {
    for resource in [Resource::Fsize, Resource::Cpu] {
        let Rlimit { maximum, .. } = getrlimit(resource);
        setrlimit(resource, Rlimit { current: None, maximum: None })
            .or_else(|_| setrlimit(resource, Rlimit { current: maximum, maximum }))?;
    }
    Ok(getrlimit(Resource::Fsize).current)
}

/// How many descriptors may be open now; `None` for no limit.
pub fn open_files() -> Option<u64> {
    getrlimit(Resource::Nofile).current
}

/// Descriptors that are kept back for what the daemon itself opens: those of requests under way, of
/// crossings, of the ledger, of the control socket.
const RESERVE: u64 = 1024;

/// How many files users may have open, given how many descriptors may be open in all: so many are left
/// that the daemon goes on working when users open all they can.
pub fn open_files_for_users(limit: Option<u64>) -> usize {
    let Some(limit) = limit else { return usize::MAX };
    usize::try_from(limit.saturating_sub(RESERVE.min(limit / 2))).unwrap_or(usize::MAX)
}

/// Gives CAP_SYS_RESOURCE up, under which the daemon would write over quotas and, but for ext4, which asks for
/// the user id too (fs/ext4/balloc.c, `ext4_has_free_clusters`), into blocks reserved for root. Capabilities
/// are a thread's: to be called before others are started, which inherit them.
pub fn drop_resource_capability() -> Result<(), Errno> {
    let mut sets = capabilities(None)?;
    for set in [&mut sets.effective, &mut sets.permitted, &mut sets.inheritable] {
        set.remove(CapabilitySet::SYS_RESOURCE);
    }
    set_capabilities(None, sets)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_becomes_the_hard_one() {
        let hard = raise_open_files().expect("raising to the hard limit is always allowed");
        assert_eq!(getrlimit(Resource::Nofile).current, hard);
    }

    #[test]
    fn the_daemon_keeps_descriptors_for_itself() {
        for (limit, users) in [(1 << 20, (1 << 20) - 1024), (4096, 3072), (1024, 512), (0, 0)] {
            assert_eq!(open_files_for_users(Some(limit)), users);
        }
        assert_eq!(open_files_for_users(None), usize::MAX);
    }

    #[test]
    fn the_resource_capability_is_gone_for_good() {
        // On a thread of its own: it would be missing to other tests.
        let kept = std::thread::spawn(|| {
            drop_resource_capability().expect("giving up is always allowed");
            let sets = capabilities(None).expect("capabilities");
            (sets.effective | sets.permitted).contains(CapabilitySet::SYS_RESOURCE)
        });
        assert!(!kept.join().expect("no panic"));
    }
}
