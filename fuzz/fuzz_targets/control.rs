//! Any bytes on the control socket, on both sides.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| octroi::fuzzing::control(data));
