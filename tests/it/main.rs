//! The program as its users meet it: mounted by the real binary, used with ordinary system calls and
//! ordinary tools. One binary, one module a theme. Everything here needs root (or, for the
//! modules that need no second identity, a setuid fusermount3) and `/dev/fuse`; where they are missing
//! the tests fail: a skipped test proves nothing. `scripts/test` sets the machine up.

#![allow(
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::string_slice,
    clippy::unreachable,
    clippy::unwrap_used,
    reason = "tests fail by panicking"
)]

// By the library's own names, for the files of its model that are shared with it.
use octroi::{branch, error, types, vfs};

mod compare;
mod disk;
mod harness;
mod strace;

mod audit_read;
mod bypass;
mod cached;
mod checks;
mod cli;
mod crossing;
mod crowd;
mod examples;
mod faults;
mod faults_crossing;
mod faults_disk;
mod fsck;
mod integrity;
mod isolation;
mod letters;
mod memory;
mod model;
mod mv;
mod not_root;
mod offline;
mod pjdfstest;
mod policy;
mod policy_answers;
mod policy_commands;
mod pool;
mod posix_attributes;
mod posix_content;
mod posix_names;
mod posix_open;
mod readme;
mod real_input;
mod recorded;
mod reload;
mod retention;
mod room;
mod signed;
mod survival;
mod tidy;
mod trouble;
mod trouble_config;
mod trouble_ledger;
mod undo;
mod whole;
