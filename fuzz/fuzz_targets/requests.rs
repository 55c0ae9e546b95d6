//! Any bytes as requests of the kernel.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| octroi::fuzzing::requests(data));
