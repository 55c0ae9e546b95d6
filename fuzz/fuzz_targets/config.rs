//! Any bytes as a configuration.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| octroi::config::fuzzing::run(data));
