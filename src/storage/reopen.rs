//! Disks that are gone when they have been closed.

use std::fs;
use std::path::Path;

use super::DiskId;

/// Where the kernel shows block devices by their numbers.
const DEVICES: &str = "/sys/dev/block";

/// Whether a disk is gone when its last user closes it: a loop device, or a partition of one, that
/// was detached while it was in use (`autoclear` in `drivers/block/loop.c` of the kernel).
pub fn ends_when_closed(disk: DiskId) -> bool {
    ends_in(Path::new(DEVICES), disk)
}

fn ends_in(devices: &Path, disk: DiskId) -> bool {
    let DiskId::Block { major, minor } = disk else { return false };
    let device = devices.join(format!("{major}:{minor}"));
    let is_set = |file: &str| {
        fs::read_to_string(device.join(file)).is_ok_and(|content| content.trim() == "1")
    };
    is_set("loop/autoclear") || is_set("../loop/autoclear")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loop_device_that_was_detached_in_use_ends_when_it_is_closed() {
        let devices = tempfile::tempdir().unwrap();
        for (device, autoclear) in [("7:0", Some("1\n")), ("7:1", Some("0\n")), ("8:0", None)] {
            fs::create_dir_all(devices.path().join(device).join("loop")).unwrap();
            if let Some(set) = autoclear {
                fs::write(devices.path().join(device).join("loop/autoclear"), set).unwrap();
            }
        }
        let ends = |major, minor| ends_in(devices.path(), DiskId::Block { major, minor });
        assert!(ends(7, 0) && !ends(7, 1) && !ends(8, 0) && !ends(9, 0));
        assert!(!ends_in(devices.path(), DiskId::File { dev: 7, ino: 0 }));
        // A partition is below its disk.
        fs::create_dir_all(devices.path().join("7:0/part")).unwrap();
        std::os::unix::fs::symlink("7:0/part", devices.path().join("259:0")).unwrap();
        assert!(ends(259, 0));
    }
}
