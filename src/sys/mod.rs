//! System calls that no crate offers safely. All unsafe code of the program is here, each block with
//! the reason why it is sound.

pub mod cachestat;
pub mod descriptors;
pub mod handle;
pub mod identity;
pub mod lease;
pub mod limits;
pub mod memory;
pub mod peer;
pub mod process;
pub mod resolve;
pub mod sandbox;
pub mod schedule;
pub mod users;
