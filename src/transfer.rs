//! `copy` and `zero`: the copy engine in a user's hands.

use std::process::ExitCode;

use crate::commands::Failure;

/// Copies a range to up to eight destinations.
pub fn copy(_from: &str, _to: &[String], _throttle: u32, _json: bool, _force: bool) -> Result<ExitCode, Failure> {
    Err("not there yet".to_owned().into())
}

/// Zeroes ranges.
pub fn zero(_to: &[String], _json: bool, _force: bool) -> Result<ExitCode, Failure> {
    Err("not there yet".to_owned().into())
}
