//! The numbers of the disks below a device, by which a circle is found.

use std::path::Path;

use crate::protocol::DeviceState;
use crate::storage::number_of_mount;

/// The numbers of a device's disks. If a file's number may not be that of a file system, the number
/// of its mount is added.
pub(super) fn numbers(device: &DeviceState) -> Vec<(u32, u32)> {
    const NO_NUMBER: (u32, u32) = (0, 0);
    let unsure = device.disks.iter().any(|number| number.0 == 0);
    let words = device.spec.table.params.devices();
    let files = words.into_iter().filter(|word| unsure && !word.starts_with("/dev/"));
    let places = files.map(|word| number_of_mount(Path::new(&word), NO_NUMBER));
    device.disks.iter().copied().chain(places).collect()
}
