//! Which ublk devices a disk stands on, whatever is between: partitions, device-mapper, md, loop devices, file systems.
//!
//! Everything is read off the kernel's own tables (sysfs and the list of mounts). No disk and no file is opened or looked
//! up on the way: one that stands on a device whose server has died would never answer.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::busy::mounts;

/// Where the kernel shows block devices by their numbers.
const SYSFS: &str = "/sys/dev/block";
/// The mounts of this process.
const MOUNTS: &str = "/proc/self/mountinfo";

/// The numbers N of the `/dev/ublkbN` that block devices of these numbers stand on, themselves included.
pub fn ublk_devices_below(numbers: &[(u32, u32)]) -> BTreeSet<u32> {
    let mountinfo = fs::read_to_string(MOUNTS).unwrap_or_default();
    below(Path::new(SYSFS), &mountinfo, numbers)
}

fn below(sysfs: &Path, mountinfo: &str, numbers: &[(u32, u32)]) -> BTreeSet<u32> {
    let mut found = BTreeSet::new();
    let mut seen = BTreeSet::new();
    let mut left: Vec<(u32, u32)> = numbers.to_vec();
    while let Some(number) = left.pop() {
        if !seen.insert(number) {
            continue;
        }
        let dir = match number.0 {
            // A file system with a number of its own (btrfs): what it was mounted from.
            0 => {
                left.extend(source_of(mountinfo, number));
                continue;
            }
            _ => sysfs.join(format!("{}:{}", number.0, number.1)),
        };
        // A partition is a part of its disk.
        let dir = if dir.join("partition").exists() { parent(&dir) } else { dir };
        if let Some(id) = ublk_id(&dir) {
            found.insert(id);
            continue;
        }
        for slave in fs::read_dir(dir.join("slaves")).into_iter().flatten().flatten() {
            left.extend(number_in(&slave.path()));
        }
        if let Ok(file) = fs::read_to_string(dir.join("loop/backing_file")) {
            left.extend(mount_of(mountinfo, Path::new(file.trim_end_matches('\n'))));
        }
    }
    found
}

/// The directory of a partition's disk.
fn parent(dir: &Path) -> PathBuf {
    fs::canonicalize(dir).ok().and_then(|dir| dir.parent().map(Path::to_owned)).unwrap_or_else(|| dir.join(".."))
}

/// N, if the directory is that of `ublkbN`.
fn ublk_id(dir: &Path) -> Option<u32> {
    let dir = fs::canonicalize(dir).ok()?;
    dir.file_name()?.to_str()?.strip_prefix("ublkb")?.parse().ok()
}

/// The device number in a directory of sysfs.
fn number_in(dir: &Path) -> Option<(u32, u32)> {
    number(fs::read_to_string(dir.join("dev")).ok()?.trim())
}

fn number(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// The file system that holds a path: the mount whose place is the longest part of it.
fn mount_of(mountinfo: &str, path: &Path) -> Option<(u32, u32)> {
    // Of two mounts at one place the later one is on top.
    let over = mounts(mountinfo).filter(|(_, place, _)| path.starts_with(place));
    let (text, ..) = over.max_by_key(|(_, place, _)| place.len())?;
    number(text)
}

/// The number of the block device that a file system was mounted from.
fn source_of(mountinfo: &str, wanted: (u32, u32)) -> Option<(u32, u32)> {
    let (.., source) = mounts(mountinfo).find(|(text, ..)| number(text) == Some(wanted))?;
    // A node in /dev, which is memory.
    let metadata = source.starts_with("/dev/").then(|| fs::metadata(&source).ok()).flatten()?;
    let number = metadata.rdev();
    (number != 0).then(|| (libc::major(number), libc::minor(number)))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// A sysfs with a ublk disk (259:0) that has a partition (259:1), a mapped device (252:0) over the partition, a file
    /// system on that, and a loop device (7:0) over a file in it; and a disk (8:0) beside.
    fn stack() -> (tempfile::TempDir, String) {
        let dir = tempfile::tempdir().unwrap();
        let at = |path: &str| dir.path().join(path);
        let device = |name: &str, number: &str| {
            fs::create_dir_all(at(name)).unwrap();
            fs::write(at(name).join("dev"), format!("{number}\n")).unwrap();
            symlink(at(name), at(number)).unwrap();
        };
        device("ublkb12", "259:0");
        device("ublkb12/ublkb12p1", "259:1");
        fs::write(at("ublkb12/ublkb12p1/partition"), "1\n").unwrap();
        device("dm-0", "252:0");
        fs::create_dir_all(at("dm-0/slaves")).unwrap();
        symlink(at("ublkb12/ublkb12p1"), at("dm-0/slaves/ublkb12p1")).unwrap();
        device("loop0", "7:0");
        fs::create_dir_all(at("loop0/loop")).unwrap();
        fs::write(at("loop0/loop/backing_file"), "/mnt/files/cow.img\n").unwrap();
        device("sda", "8:0");
        let mounts = "1 1 8:0 / / rw - ext4 /dev/sda rw\n2 1 252:0 / /mnt/files rw - ext4 /dev/dm-0 rw\n";
        (dir, mounts.to_owned())
    }

    #[test]
    fn what_is_below_is_found_through_everything() {
        let (dir, mounts) = stack();
        let below = |number| below(dir.path(), &mounts, &[number]).into_iter().collect::<Vec<_>>();
        for number in [(259, 0), (259, 1), (252, 0), (7, 0)] {
            assert_eq!(below(number), [12], "{number:?}");
        }
        assert!(below((8, 0)).is_empty());
        assert!(below((99, 99)).is_empty(), "a device that is gone stands on nothing");
    }

    #[test]
    fn a_file_belongs_to_the_nearest_mount() {
        let (_dir, mounts) = stack();
        assert_eq!(mount_of(&mounts, Path::new("/mnt/files/a")), Some((252, 0)));
        assert_eq!(mount_of(&mounts, Path::new("/mnt/filesystem/a")), Some((8, 0)));
    }
}
