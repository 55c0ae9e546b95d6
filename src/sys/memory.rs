//! Memory that the allocator holds and nobody needs.

/// Has the allocator give whole free pages back to the kernel. glibc's keeps what lies below the top of
/// each heap until it is asked; others give back by themselves.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim(3) takes no pointer and is safe on any thread at any time; it frees pages in
    // which nothing is allocated.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// What is larger has pages of its own, which go back to the kernel when it is freed, in bytes: the buffers
/// in which requests are read (16 MiB each), not what one write brings.
const OWN_PAGES: libc::c_int = 4 << 20;

/// Has the allocator keep one heap a processor, and large buffers out of it. glibc's keeps eight heaps, each
/// with pages that little is left in: of a million inodes that are forgotten 5% stayed, and 2% with two
/// heaps. From the first large buffer that is freed it takes others from the heaps: 134 MB of buffers lay
/// between what inodes leave there.
pub fn tune() {
    #[cfg(target_env = "gnu")]
    if let Ok(processors) = std::thread::available_parallelism().map(|count| count.get())
        && let Ok(heaps) = libc::c_int::try_from(processors)
    {
        // SAFETY: mallopt(3) takes no pointer, and is called before other threads are started.
        unsafe {
            libc::mallopt(libc::M_ARENA_MAX, heaps);
            libc::mallopt(libc::M_MMAP_THRESHOLD, OWN_PAGES);
            // The two are one setting: the default of this one is twice the default of the other.
            libc::mallopt(libc::M_TRIM_THRESHOLD, OWN_PAGES.saturating_mul(2));
        }
    }
}
