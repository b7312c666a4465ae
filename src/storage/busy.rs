//! The user of a disk, described for a message.
//!
//! Searches mounts, swap, devices stacked above, and processes. A best effort after the kernel has
//! refused a claim; no decision depends on it.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::DiskId;

/// The user of the disk, as the end of "it is ...", or `None` if none is found.
pub fn user_of(id: DiskId) -> Option<String> {
    match id {
        DiskId::Block { major, minor } => {
            let mountinfo = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
            let swaps = fs::read_to_string("/proc/swaps").unwrap_or_default();
            let here = sysfs_dir(&id.to_string());
            mounted_at(&mountinfo, major, minor)
                .map(|point| format!("mounted on {point}"))
                .or_else(|| {
                    mounted_by_name(&mountinfo, id).map(|point| format!("mounted on {point}"))
                })
                .or_else(|| swap_of(&swaps, id).then(|| "used as swap".to_owned()))
                .or_else(|| holder_in(&here).map(|holder| format!("used by {holder}")))
                .or_else(|| partition_user(&here, &mountinfo))
                .or_else(|| process_with(id, |_| 1))
        }
        DiskId::File { .. } => process_with(id, |_| 1),
    }
}

/// The user of a file that this process has just opened, too: by that alone this process is none.
/// A process that was killed keeps its lock for a moment, and is not found.
pub(super) fn other_user_of(id: DiskId) -> Option<String> {
    process_with(id, |pid| if pid == std::process::id() { 2 } else { 1 })
}

/// The kernel's directory of a block device.
fn sysfs_dir(number: &str) -> PathBuf {
    Path::new("/sys/dev/block").join(number)
}

/// The mount points in a `mountinfo`, with their device numbers and sources.
pub(super) fn mounts(mountinfo: &str) -> impl Iterator<Item = (&str, String, String)> {
    mountinfo.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(2);
        let number = fields.next()?;
        let point = unescape(fields.nth(1)?);
        // After the optional fields, which a single dash ends: type, source.
        let source = fields.skip_while(|&field| field != "-").nth(2)?;
        Some((number, point, unescape(source)))
    })
}

/// Where the device is mounted.
fn mounted_at(mountinfo: &str, major: u32, minor: u32) -> Option<String> {
    let wanted = format!("{major}:{minor}");
    mounts(mountinfo).find(|(number, ..)| *number == wanted).map(|(_, point, _)| point)
}

/// Where the disk is mounted by a file system with its own device number (btrfs).
fn mounted_by_name(mountinfo: &str, id: DiskId) -> Option<String> {
    mounts(mountinfo)
        .find(|(number, _, source)| number.starts_with("0:") && is_disk(source, id))
        .map(|(_, point, _)| point)
}

/// Whether the path leads to the disk.
fn is_disk(path: &str, id: DiskId) -> bool {
    path.starts_with('/') && fs::metadata(path).ok().as_ref().and_then(DiskId::of) == Some(id)
}

/// Whether the device is in `/proc/swaps`.
fn swap_of(swaps: &str, id: DiskId) -> bool {
    swaps
        .lines()
        .skip(1)
        .filter_map(|line| line.split_whitespace().next())
        .any(|path| is_disk(&unescape(path), id))
}

/// Undoes the octal escapes of `/proc`: space, tab, newline, backslash.
fn unescape(field: &str) -> String {
    let escapes = [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")];
    escapes.iter().fold(field.to_owned(), |text, (escape, plain)| text.replace(escape, plain))
}

/// A device stacked above: device-mapper, md, bcache.
fn holder_in(dir: &Path) -> Option<String> {
    let holder = fs::read_dir(dir.join("holders")).ok()?.filter_map(Result::ok).next()?;
    let kernel_name = holder.file_name().to_string_lossy().into_owned();
    match fs::read_to_string(holder.path().join("dm/name")) {
        Ok(name) => Some(format!("{kernel_name} (device-mapper {})", name.trim())),
        Err(_) => Some(kernel_name),
    }
}

/// The user of a disk's partition, or of a partition's disk: the use of one claims the other.
fn partition_user(dir: &Path, mountinfo: &str) -> Option<String> {
    let use_of = |dir: &Path, what: &str| {
        let number = fs::read_to_string(dir.join("dev")).ok()?;
        let (major, minor) = number.trim().split_once(':')?;
        let name = dir.canonicalize().ok()?.file_name()?.to_string_lossy().into_owned();
        mounted_at(mountinfo, major.parse().ok()?, minor.parse().ok()?)
            .map(|point| format!("in use: its {what} {name} is mounted on {point}"))
            .or_else(|| {
                holder_in(dir)
                    .map(|holder| format!("in use: its {what} {name} is used by {holder}"))
            })
    };
    if dir.join("partition").exists() {
        return use_of(&dir.join(".."), "disk");
    }
    let inside = fs::read_dir(dir).ok()?.filter_map(Result::ok).map(|entry| entry.path());
    inside
        .filter(|path| path.join("partition").exists())
        .find_map(|path| use_of(&path, "partition"))
}

/// A process that has at least so many descriptors of the disk.
fn process_with(id: DiskId, least: impl Fn(u32) -> usize) -> Option<String> {
    fs::read_dir("/proc").ok()?.filter_map(Result::ok).find_map(|entry| {
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        let open = fs::read_dir(entry.path().join("fd")).ok()?.filter_map(Result::ok);
        // Follows the link to the open file itself, which may have been unlinked.
        let of_disk = |path| fs::metadata(path).is_ok_and(|found| same(&found, id));
        let open = open.filter(|fd| of_disk(fd.path())).count() >= least(pid);
        open.then(|| {
            let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            format!("in use by process {pid} ({})", name.trim())
        })
    })
}

/// Whether the open file is the disk.
fn same(found: &fs::Metadata, id: DiskId) -> bool {
    match id {
        DiskId::File { dev, ino } => found.dev() == dev && found.ino() == ino,
        DiskId::Block { .. } => DiskId::of(found) == Some(id),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTINFO: &str = "\
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
30 22 0:25 / /proc rw - proc proc rw
31 22 259:4 /sub /mnt/with\\040space rw,nosuid master:2 propagate_from:3 - xfs /dev/nvme0n1p4 rw
32 22 0:40 / /mnt/b rw - btrfs /dev/null rw
";

    #[test]
    fn a_mount_is_found_by_number() {
        assert_eq!(mounted_at(MOUNTINFO, 254, 0).as_deref(), Some("/"));
        assert_eq!(mounted_at(MOUNTINFO, 259, 4).as_deref(), Some("/mnt/with space"));
        assert_eq!(mounted_at(MOUNTINFO, 259, 40), None);
        assert_eq!(mounted_at("garbage\n1 2\n", 1, 2), None);
    }

    #[test]
    fn sources_follow_the_optional_fields() {
        let sources: Vec<String> = mounts(MOUNTINFO).map(|(.., source)| source).collect();
        assert_eq!(sources, ["/dev/vda", "proc", "/dev/nvme0n1p4", "/dev/null"]);
    }

    #[test]
    fn this_process_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let id = DiskId::of(&file.as_file().metadata().unwrap()).unwrap();
        let by = user_of(id).unwrap();
        assert!(by.contains(&format!("process {} ", std::process::id())), "{by}");
        assert_eq!(other_user_of(id), None);
    }
}
