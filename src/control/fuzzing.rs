//! Any bytes as what a peer of the control socket sends, on either side.

use std::fs::File;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use super::client::{MoveClient, Received, read_answer};
use super::protocol::{Answer, Request, encode};
use super::server::{Service, serve_alone};
use crate::sys::descriptors;
use crate::types::Caller;

/// Who sends a request; the first byte chooses.
const PEERS: [u32; 3] = [0, 1001, u32::MAX - 1];

/// Reads them as a daemon would, and as the two kinds of client would.
pub fn run(data: &[u8], service: &dyn Service) {
    let Some((first, bytes)) = data.split_first() else { return };
    if first & 0x80 == 0 {
        let uid = PEERS[usize::from(first & 0x7f) % PEERS.len()];
        ask(Caller { uid, gid: uid, pid: 1 }, bytes, first & 0x40 != 0, service);
    } else {
        answer(bytes);
    }
    if let Ok(request) = serde_json::from_slice::<Request>(bytes) {
        let again = encode(&request).expect("encoded");
        assert_eq!(serde_json::from_slice::<Request>(&again).expect("decoded"), request);
    }
    if let Ok(answer) = serde_json::from_slice::<Answer>(bytes) {
        let again = encode(&answer).expect("encoded");
        assert_eq!(serde_json::from_slice::<Answer>(&again).expect("decoded"), answer);
    }
}

fn ask(peer: Caller, line: &[u8], with_folders: bool, service: &dyn Service) {
    let (mut client, server) = UnixStream::pair().expect("a pair");
    let root = File::open("/").expect("opened");
    let sent = if with_folders && !line.is_empty() {
        descriptors::send(&client, line, &[root.as_fd(), root.as_fd()])
    } else {
        client.write_all(line)
    };
    sent.expect("it fits into the socket");
    client.shutdown(Shutdown::Write).expect("shut down");
    serve_alone(server, peer, service);
    let mut said = Vec::new();
    // A reset where the daemon did not want to read all of it.
    let _ = client.read_to_end(&mut said);
    for line in said.split_inclusive(|byte| *byte == b'\n') {
        serde_json::from_slice::<Answer>(line).expect("an answer of the protocol");
    }
}

fn answer(bytes: &[u8]) {
    let pair = || {
        let (client, mut server) = UnixStream::pair().expect("a pair");
        server.write_all(bytes).expect("it fits into the socket");
        client
    };
    let _ = read_answer(pair()).expect("read");
    let mut client = MoveClient::new(pair()).expect("not blocking");
    // Each answer takes a byte at least.
    for _ in 0..=bytes.len() {
        match client.receive() {
            Ok(Received::Answer(_)) | Err(_) => {}
            Ok(Received::Nothing) => panic!("the daemon has closed"),
            Ok(Received::Closed) => return,
        }
    }
    panic!("more answers than bytes");
}
