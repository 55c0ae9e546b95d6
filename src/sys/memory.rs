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
