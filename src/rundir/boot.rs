//! The id of the current boot.

use std::fs;
use std::io;

/// A UUID that the kernel generates at each boot.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// The id of the current boot; no other boot has the same id.
pub(super) fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string(BOOT_ID)?.trim().to_owned())
}

/// The id of the current boot as two numbers.
pub(super) fn boot_numbers() -> io::Result<(u64, u64)> {
    let text = boot_id()?;
    let digits = text.replace('-', "");
    let number = |range: std::ops::Range<usize>| {
        digits.get(range).and_then(|part| u64::from_str_radix(part, 16).ok())
    };
    let id = number(0..16).zip(number(16..32));
    id.ok_or_else(|| io::Error::other(format!("{BOOT_ID} holds no id: {text}")))
}
