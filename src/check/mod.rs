//! What a gate asks of a content beside its size: what type it is of, and what commands say of it.

mod content_type;
mod last_line;
mod order;
mod runner;
pub mod sandbox;
mod usage;
mod verdict;

pub use content_type::{ContentType, TypeSniffer, allowed, can_be_found};
pub use order::HELPER;
pub use runner::{About, Runner};
pub use verdict::{Outcome, Verdict};
