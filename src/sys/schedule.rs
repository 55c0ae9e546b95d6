//! `sched_setattr(2)`: for how long a thread runs at a time when others want the processor.
//!
//! Since Linux 6.12 an ordinary thread may ask for its own length (include/uapi/linux/sched/types.h,
//! `sched_runtime`): one that asks for less and wakes up takes the processor from one that asked for
//! more at once, and nobody gets more of it in all. Older kernels take the call and do as ever.

use crate::error::Errno;

/// For how long a thread runs at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Slice {
    /// As the kernel chooses.
    Usual,
    /// The shortest there is: for what others wait for.
    Short,
    /// The longest there is: for work that takes long.
    Long,
}

impl Slice {
    fn nanos(self) -> u64 {
        match self {
            Self::Usual => 0,
            Self::Short => 100_000,
            Self::Long => 100_000_000,
        }
    }
}

/// Asks for a slice for this thread and those that it starts from now on. What the kernel refuses stays
/// as it is: nothing depends on it.
pub fn set_slice(slice: Slice) {
    if let Err(errno) = change_slice(slice.nanos()) {
        log::debug!("cannot set for how long a thread runs: {errno}");
    }
}

/// Sets the slice in nanoseconds; gives what it was.
fn change_slice(nanos: u64) -> Result<u64, Errno> {
    let size = u32::try_from(size_of::<libc::sched_attr>()).unwrap_or(0);
    // SAFETY: all fields are numbers, for which zero is valid.
    let mut attributes: libc::sched_attr = unsafe { std::mem::zeroed() };
    // SAFETY: the structure is as large as is said and lives until the call returns. 0 is this thread.
    let got = unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attributes, size, 0) };
    if got != 0 {
        return Err(crate::error::errno_of(&std::io::Error::last_os_error()));
    }
    let before = attributes.sched_runtime;
    attributes.size = size;
    attributes.sched_runtime = nanos;
    // SAFETY: as above; the kernel only reads it.
    let set = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
    if set != 0 {
        return Err(crate::error::errno_of(&std::io::Error::last_os_error()));
    }
    Ok(before)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slice_is_taken_over_by_threads_that_are_started() {
        let change = |slice: Slice| change_slice(slice.nanos()).unwrap();
        std::thread::spawn(move || {
            let usual = change(Slice::Long);
            let known = std::thread::spawn(move || change(Slice::Short)).join().unwrap();
            // Before Linux 6.12 there is none.
            assert!(known == Slice::Long.nanos() || known == usual, "{known}");
            assert_eq!(change(Slice::Usual), known);
            assert_eq!(change(Slice::Usual), usual);
        })
        .join()
        .unwrap();
    }
}
