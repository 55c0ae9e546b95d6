//! A policy made of bytes, and what is asked of it.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| octroi::policy::fuzzing::run(data));
