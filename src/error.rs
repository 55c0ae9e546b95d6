//! The error that the kernel understands, and its names.

/// An errno, as rustix has it. It is the only error that crosses the border between the
/// filesystem and its callers; families of operations with more to say have an enum of their own
/// with one `errno()` that maps every variant.
pub use rustix::io::Errno;

/// The symbolic name of an errno, such as `ENOENT`, as the ledger and messages show it.
/// Unknown numbers give `E?`.
pub fn errno_name(errno: Errno) -> &'static str {
    // The numbers are those of include/uapi/asm-generic/errno.h, read through libc's constants.
    macro_rules! names {
        ($($name:ident)*) => {
            match errno.raw_os_error() {
                $(libc::$name => stringify!($name),)*
                _ => "E?",
            }
        };
    }
    names!(EPERM ENOENT ESRCH EINTR EIO ENXIO E2BIG ENOEXEC EBADF ECHILD EAGAIN ENOMEM EACCES EFAULT
        ENOTBLK EBUSY EEXIST EXDEV ENODEV ENOTDIR EISDIR EINVAL ENFILE EMFILE ENOTTY ETXTBSY EFBIG
        ENOSPC ESPIPE EROFS EMLINK EPIPE EDOM ERANGE EDEADLK ENAMETOOLONG ENOLCK ENOSYS ENOTEMPTY
        ELOOP ENODATA ETIME EOVERFLOW EPROTO EBADMSG EOPNOTSUPP ENOTCONN ETIMEDOUT ECONNREFUSED
        ESTALE EDQUOT ECANCELED EUCLEAN EREMOTEIO)
}

/// The [`Errno`] of a standard I/O error; EIO where it carries none.
pub fn errno_of(error: &std::io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}
