//! Any bytes as a key, a note, a checkpoint and a proof.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| octroi::fuzzing::proofs(data));
