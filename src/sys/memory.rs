//! The allocator, and what it holds that nobody needs.

#[cfg(not(fuzzing))]
use tikv_jemallocator::Jemalloc;

/// glibc's keeps a page for each small piece that a thread has set aside: after a storm of requests 45 MB stayed for
/// 8 MB that were in use, and 19 MB with this one.
#[cfg(not(fuzzing))]
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

/// What each thread keeps of what it freed, for itself: 20 pieces of each size up to 1 KiB. jemalloc's own measure is
/// up to 200, and of up to 32 KiB: of 55 threads that were idle after crossings, 8 MB of 22.
#[cfg(not(fuzzing))]
#[unsafe(export_name = "_rjem_malloc_conf")]
static CONFIGURATION: Option<&'static std::ffi::c_char> = {
    let text = c"tcache_max:1024,tcache_nslots_small_max:20";
    // SAFETY: the pointer is not null, and what it points at is there forever.
    unsafe { text.as_ptr().as_ref() }
};

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

#[cfg(all(test, not(fuzzing)))]
mod tests {
    #[test]
    fn the_allocator_knows_what_threads_may_keep() {
        let (mut max, mut size) = (0_usize, size_of::<usize>());
        // SAFETY: the name is a C string, and the control writes a number of that size.
        let got = unsafe {
            tikv_jemalloc_sys::mallctl(
                c"opt.tcache_max".as_ptr(),
                (&raw mut max).cast(),
                &raw mut size,
                std::ptr::null_mut(),
                0,
            )
        };
        assert_eq!((got, max), (0, 1024));
    }
}
