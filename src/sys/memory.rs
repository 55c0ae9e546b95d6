//! The allocator, and what it holds that nobody needs; how much memory there is.

use std::path::Path;

#[cfg(not(fuzzing))]
use tikv_jemallocator::Jemalloc;

/// glibc's keeps a page for each small piece that a thread has set aside: after a storm of requests 45 MB stayed for
/// 8 MB that were in use, and 19 MB with this one.
#[cfg(not(fuzzing))]
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

/// What each thread keeps of what it freed, for itself: 4 pieces of each size up to 1 KiB. jemalloc's own measure is
/// up to 200, and of up to 32 KiB: of 55 threads that were idle after crossings, 8 MB of 22. Each piece keeps a page
/// or more, and so do the fragments in each arena, of which there are four instead of four for each processor: of what
/// stayed after crossings they were 4 MB.
#[cfg(not(fuzzing))]
#[unsafe(export_name = "_rjem_malloc_conf")]
static CONFIGURATION: Option<&'static std::ffi::c_char> = {
    let text = c"narenas:4,tcache_max:1024,tcache_nslots_small_min:2,tcache_nslots_small_max:4";
    // SAFETY: the pointer is not null, and what it points at is there forever.
    unsafe { text.as_ptr().as_ref() }
};

/// Has the allocator give unused pages back to the kernel at once. By itself it does so over ten seconds, while
/// somebody allocates.
pub fn give_back() {
    give_back_own();
    // All of them (MALLCTL_ARENAS_ALL of jemalloc(3)).
    command(c"arena.4096.purge");
}

/// Gives back what the calling thread keeps for itself: to be called where it may have nothing to do for long.
pub fn give_back_own() {
    command(c"thread.tcache.flush");
}

/// Memory that this process may use, in bytes: the machine's, or that of its control group (cgroups(7),
/// version 2) where that is less.
pub fn total() -> usize {
    let info = rustix::system::sysinfo();
    let machine = (info.totalram as u64).saturating_mul(u64::from(info.mem_unit));
    let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let own = groups.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
    let limit = |group: &Path| {
        let limit =
            std::fs::read_to_string(Path::new("/sys/fs/cgroup").join(group).join("memory.max"));
        limit.ok()?.trim_end().parse::<u64>().ok()
    };
    let least = Path::new(own).ancestors().filter_map(limit).min().unwrap_or(machine);
    usize::try_from(least.min(machine)).unwrap_or(usize::MAX)
}

/// Tells the allocator by a control that neither reads nor writes a value.
fn command(name: &std::ffi::CStr) {
    // SAFETY: mallctl(3) takes a C string, and null where there is no value.
    unsafe {
        tikv_jemalloc_sys::mallctl(
            name.as_ptr(),
            std::ptr::null_mut(),
            std::ptr::null_mut(),
            std::ptr::null_mut(),
            0,
        );
    }
}

#[cfg(all(test, not(fuzzing)))]
mod tests {
    use std::ffi::CStr;

    #[track_caller]
    fn check<T: Default + PartialEq + std::fmt::Debug>(name: &CStr, expected: T) {
        let (mut found, mut size) = (T::default(), size_of::<T>());
        // SAFETY: the name is a C string, and the control writes a number of that size.
        let got = unsafe {
            tikv_jemalloc_sys::mallctl(
                name.as_ptr(),
                (&raw mut found).cast(),
                &raw mut size,
                std::ptr::null_mut(),
                0,
            )
        };
        assert_eq!((got, found), (0, expected), "{name:?}");
    }

    #[test]
    fn there_is_memory() {
        let total = super::total();
        assert!(total > 64 << 20, "{total}");
    }

    #[test]
    fn the_allocator_knows_what_threads_may_keep() {
        check(c"opt.tcache_max", 1024_usize);
        check(c"opt.tcache_nslots_small_min", 2_u32);
        check(c"opt.tcache_nslots_small_max", 4_u32);
        check(c"opt.narenas", 4_u32);
    }
}
