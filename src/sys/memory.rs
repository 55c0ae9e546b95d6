//! The allocator, and what it holds that nobody needs.

#[cfg(not(fuzzing))]
use tikv_jemallocator::Jemalloc;

/// glibc's keeps a page for each small piece that a thread has set aside: after a storm of requests 45 MB stayed for
/// 8 MB that were in use, and 19 MB with this one.
#[cfg(not(fuzzing))]
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

/// Has the allocator give unused pages back to the kernel at once. By itself it does so over ten seconds, while
/// somebody allocates.
pub fn give_back() {
    // `arena.4096` is all of them (MALLCTL_ARENAS_ALL of jemalloc(3)).
    // SAFETY: mallctl(3) takes a C string, and this control neither reads nor writes a value.
    unsafe {
        tikv_jemalloc_sys::mallctl(
            c"arena.4096.purge".as_ptr(),
            std::ptr::null_mut(),
            std::ptr::null_mut(),
            std::ptr::null_mut(),
            0,
        );
    }
}
