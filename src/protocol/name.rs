//! The names of devices, and their uuids.

use crate::failure::{Failure, wrong_usage};

/// The longest name of a device, in bytes: device-mapper's limit, so that a name is valid there as
/// well.
const MAX_NAME_BYTES: usize = 127;

/// The longest uuid of a device, in bytes: device-mapper's limit.
const MAX_UUID_BYTES: usize = 128;

/// Refuses uuids that could be mistaken for something else, or that could control the terminal that
/// shows them.
///
/// # Errors
/// What is wrong with it.
pub fn refuse_odd_uuid(uuid: &str) -> Result<(), &'static str> {
    match uuid {
        "" => Err("it is empty"),
        _ if uuid.len() > MAX_UUID_BYTES => Err("it has more than 128 bytes"),
        _ if uuid.contains(char::is_control) => Err("it has a control character"),
        _ if uuid.contains(char::is_whitespace) => Err("it has a space"),
        // It is the end of a link's path.
        _ if uuid.split('/').any(|part| matches!(part, "" | "." | "..")) => {
            Err("as a path it would lead elsewhere")
        }
        _ => Ok(()),
    }
}

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
        "." | ".." => "it is a directory in every path",
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uuid_is_one_word_that_can_be_shown() {
        for uuid in ["LVM-abc", "4f0c2d1e-0000-4000-8000-000000000000", "a/b,c", &"x".repeat(128)] {
            assert_eq!(refuse_odd_uuid(uuid), Ok(()), "{uuid}");
        }
        for uuid in ["", "..", "a/../b", "a/", "/a", "a b", "a\tb", "\u{1b}[1m", &"x".repeat(129)] {
            assert!(refuse_odd_uuid(uuid).is_err(), "{uuid}");
        }
    }
}
