//! Any bytes as a configuration file.

use std::path::Path;

use super::{Account, Machine, find, load_bytes};
use crate::policy::Policy;

/// Reads them, renders what is said about them, and compiles what is good. Paths are looked up below
/// `/usr`, which every machine has.
pub fn run(data: &[u8]) {
    let known = |account: Account<'_>| match account {
        Account::User("ana") => Ok(Some(1001)),
        Account::Group("curators") => Ok(Some(2001)),
        Account::User("slow") => Err(crate::error::Errno::TIMEDOUT),
        Account::User(_) | Account::Group(_) => Ok(None),
    };
    let machine = Machine { resolve: &known, find: &find };
    match load_bytes(Path::new("/usr/lab.toml"), data.to_vec(), machine, true) {
        Err(errors) => {
            assert!(!errors.render(false).is_empty() && !errors.render(true).is_empty());
        }
        Ok(loaded) => {
            for warning in &loaded.warnings {
                assert!(!warning.render(true).is_empty());
                warning.line();
            }
            assert!(!loaded.config.branches.is_empty());
            Policy::new(loaded.config.policy, 1).expect("patterns that compile");
        }
    }
}
