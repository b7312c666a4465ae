//! The names of devices.

use crate::failure::{Failure, wrong_usage};

/// The longest name of a device, in bytes: device-mapper's limit, so that a name is valid there as
/// well.
const MAX_NAME_BYTES: usize = 127;

/// Refuses names that could be mistaken for something else, or that could control the terminal that
/// shows them.
pub fn refuse_odd_name(name: &str) -> Result<(), Failure> {
    if name.len() > MAX_NAME_BYTES {
        let (start, len) = (name.chars().take(16).collect::<String>(), name.len());
        return Err(wrong_usage(format!(
            "name {start}...: it has {len} bytes, more than {MAX_NAME_BYTES}"
        )));
    }
    let why = match name {
        "" => "it is empty",
        _ if name.contains(char::is_control) => "it has a control character",
        _ if name.contains(|letter: char| letter.is_whitespace() || letter == '/') => {
            "it has a space or a slash"
        }
        _ if name.bytes().all(|byte| byte.is_ascii_digit()) => {
            "it is a number and would be taken for an id"
        }
        _ => return Ok(()),
    };
    Err(wrong_usage(format!("name '{name}': {why}; choose another one")))
}
