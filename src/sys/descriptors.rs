//! Descriptors that come with a line (`SCM_RIGHTS`, unix(7)).

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

/// Descriptors that a line may bring. The kernel closes what is beyond.
pub const DESCRIPTORS_MAX: usize = 2;

/// Sends a line, its first byte with the descriptors.
pub fn send(
    mut stream: &UnixStream,
    line: &[u8],
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !ancillary.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let sent = sendmsg(stream, &[IoSlice::new(line)], &mut ancillary, SendFlags::NOSIGNAL)?;
    io::Write::write_all(&mut stream, line.get(sent..).unwrap_or_default())
}

/// Receives bytes, 0 at the end, and what descriptors come with them.
pub fn receive(
    stream: &UnixStream,
    buffer: &mut [u8],
    descriptors: &mut Vec<OwnedFd>,
) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut slices = [IoSliceMut::new(buffer)];
    let received = recvmsg(stream, &mut slices, &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            descriptors.extend(rights);
        }
    }
    Ok(received.bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::fd::AsFd;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn descriptors_arrive_and_name_the_same_files() {
        let (one, other) = UnixStream::pair().expect("a pair");
        let (null, root) = (File::open("/dev/null").expect("open"), File::open("/").expect("open"));
        send(&one, b"line\n", &[null.as_fd(), root.as_fd()]).expect("sent");
        let mut buffer = [0; 16];
        let mut came = Vec::new();
        let length = receive(&other, &mut buffer, &mut came).expect("received");
        assert_eq!((&buffer[..length], came.len()), (&b"line\n"[..], 2));
        let second = File::from(came.remove(1)).metadata().expect("stat");
        assert_eq!(second.ino(), root.metadata().expect("stat").ino());
    }
}
