//! The `ublk-dm` program.
fn main() {}
