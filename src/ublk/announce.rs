//! Tells udev, and whoever else listens, that something about a device has changed.

use std::fs;

/// Has the kernel send the message that a device has changed. It is only a message: a device whose
/// links are not looked at again works all the same.
pub fn announce(id: u32) {
    let path = format!("/sys/class/block/ublkb{id}/uevent");
    if let Err(error) = fs::write(&path, "change") {
        log::debug!("{path}: {error}");
    }
}
