//! The `octroi` program.
fn main() {}
