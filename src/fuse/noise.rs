//! What the fuser crate logs as an error and is none.

/// Whether a record of the log tells of a reply that came after its request was gone. When a signal
/// interrupts a system call, the kernel sends INTERRUPT. fuser refuses it, and the kernel looks for the
/// interrupted request among those of the descriptor by which the refusal came: it was answered
/// meanwhile, or came by another descriptor, and the refusal fails with ENOENT. Nothing is lost: a
/// request that was not answered is still waited for.
pub fn is_noise(record: &log::Record<'_>) -> bool {
    record.target() == "fuser::reply" && {
        let said = record.args().to_string();
        said.starts_with("Failed to send FUSE reply") && said.ends_with("(os error 2)")
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use log::Record;

    use super::*;

    #[track_caller]
    fn check(target: &str, errno: i32, noise: bool) {
        let error = io::Error::from_raw_os_error(errno);
        let mut record = Record::builder();
        record.target(target);
        let said = format_args!("Failed to send FUSE reply: {error}");
        assert_eq!(is_noise(&record.args(said).build()), noise, "{target}, {errno}");
    }

    #[test]
    fn only_a_reply_whose_request_is_gone_is_noise() {
        check("fuser::reply", libc::ENOENT, true);
        check("fuser::reply", libc::EINVAL, false);
        check("fuser::reply", libc::ENODEV, false);
        check("octroi::mover", libc::ENOENT, false);
    }
}
