//! Any bytes as the segments of a ledger.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| octroi::fuzzing::ledger(data));
