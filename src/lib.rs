//! Octroi: a FUSE filesystem that shows one tree over isolated backing directories, checks every
//! operation against a policy, and turns moves between the directories into logged transactions.
//!
//! # Codemap
//!
//! A module imports only from rows below its own (`tests/it/tidy.rs` checks it):
//!
//! ```text
//! 8  main.rs              parse, run, print the error, exit
//! 7  cli  fuzzing         one file a subcommand: control client, config, ledger reader; fuzz targets
//! 6  daemon               wire it up: lock, recover, build, serve, signals, unmount
//! 5  fuse  control        transports: requests become a caller and owned arguments for vfs
//! 4  vfs                  the operations: facts, decide, act, record
//! 3  mover  config  audit_dir   crossings; TOML text to validated values; the nodes of .audit
//! 2  view                 inode table, name locks, open handles; sends invalidations on a channel
//! 1  policy  ledger  branch  check   pure decisions; the log; one branch's operations; what contents are
//! 0  storage  sys  stats  types  error   durable steps, real and simulated; all unsafe code
//! ```
//!
//! A request goes one way: kernel, `fuse`, `vfs` (which asks `view` for facts, `policy` for a
//! decision, `branch` or `mover` for the act, `ledger` for the record), reply.
//!
//! # Invariants, stated as absences
//!
//! - Nothing but `fuse` names the fuser crate; nothing below `vfs` knows that there is a kernel.
//! - `policy` and the encoding of records do no I/O.
//! - Nothing below `daemon` and `cli` sees the whole configuration: values are passed.
//! - No path is ever resolved by name from the root of the file system while serving: a branch is
//!   walked one component at a time below a descriptor, never through a link or a mount point.
//! - No `unsafe` outside `sys`.
//! - No durable step of `mover` or `ledger` goes round `storage`, so that the simulated disk sees all.

#![deny(unsafe_code)]
// Tests and fuzzers fail by panicking. The same files are linted without tests too, as what users get.
#![cfg_attr(
    any(test, fuzzing),
    allow(
        clippy::arithmetic_side_effects,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic,
        clippy::print_stderr,
        clippy::print_stdout,
        clippy::string_slice,
        clippy::unreachable,
        clippy::unwrap_used
    )
)]

pub mod error;
pub mod stats;
pub mod storage;
#[allow(unsafe_code)]
pub mod sys;
pub mod types;

pub mod branch;
pub mod check;
pub mod ledger;
pub mod policy;

pub mod view;

pub mod config;
pub mod mover;

pub mod audit_dir;
pub mod vfs;

pub mod control;
pub mod fuse;

pub mod daemon;

pub mod cli;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
