//! Which boot of the machine this is.

use std::fs;
use std::io;

/// Tells one boot of the machine from another.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// The machine's boot, by a name that no other boot has.
pub(super) fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string(BOOT_ID)?.trim().to_owned())
}

/// The same as two numbers.
pub(super) fn boot_numbers() -> io::Result<(u64, u64)> {
    let text = boot_id()?;
    let digits = text.replace('-', "");
    let number = |range: std::ops::Range<usize>| {
        digits.get(range).and_then(|part| u64::from_str_radix(part, 16).ok())
    };
    let id = number(0..16).zip(number(16..32));
    id.ok_or_else(|| io::Error::other(format!("{BOOT_ID} holds no id: {text}")))
}
