//! The control protocol: how commands talk to the daemon of a mounted view.
//!
//! One connection carries one request and one reply, each a line of JSON; the reply to a move is
//! several, and its connection is the client's life line ([`moves`]). The daemon knows its peer
//! by `SO_PEERCRED`; nothing that a request says of its sender is believed. The server is a transport
//! as the kernel's is: it calls `vfs` and nothing below.

mod answers;
pub mod client;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
pub mod letters;
pub mod mounts;
pub mod moves;
pub mod protocol;
pub mod server;
pub mod service;
pub mod socket;
mod transactions;

pub use client::{Client, ClientError, MoveClient, Received};
pub use mounts::ViewMount;
pub use server::{Server, Service};
pub use service::{BY_ERROR, NotReloaded, ViewService, by_text};
