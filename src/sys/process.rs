//! What /proc tells of a caller. Hints: the caller may be gone, or somebody else by now.

use crate::error::Errno;

/// The executable of a thread, lossy where it is not UTF-8; `None` if it cannot be told.
pub fn exe_of(pid: u32) -> Option<String> {
    if pid == 0 {
        return None;
    }
    let path = std::fs::read_link(format!("/proc/{pid}/exe")).ok()?;
    Some(path.to_string_lossy().into_owned())
}

/// The supplementary groups that a thread holds now. ESRCH if it cannot be told.
pub fn groups_of_thread(pid: u32) -> Result<Vec<u32>, Errno> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).map_err(|_| Errno::SRCH)?;
    let line = status.lines().find_map(|line| line.strip_prefix("Groups:")).ok_or(Errno::SRCH)?;
    line.split_whitespace().map(|gid| gid.parse().map_err(|_| Errno::SRCH)).collect()
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
    }
}
