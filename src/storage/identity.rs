//! Lasting names of disks: names that stay the same when the device number or path changes.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use dm_targets::snapshot::format::{StoreId, identity};

use super::id::DiskId;

/// Where sysfs names a disk, best first: world wide names and serial numbers (virtio uses the last
/// of these), then the names of stacked devices.
const NAMES: [&str; 7] =
    ["wwid", "device/wwid", "device/serial", "serial", "dm/uuid", "md/uuid", "dm/name"];
/// Where sysfs names the file below a loop device.
pub(super) const BACKING_FILE: &str = "loop/backing_file";
/// The directory of block devices by number.
pub(super) const SYSFS: &str = "/sys/dev/block";

/// A number that no other disk has had at the same place in this boot: the kernel's sequence number
/// of a block device, the birth time of a file. Zero if there is none.
pub(super) fn number_in_boot(id: DiskId, opened: &fs::Metadata) -> u64 {
    let DiskId::Block { major, minor } = id else { return born_ns(opened) };
    let dir = Path::new(SYSFS).join(format!("{major}:{minor}"));
    let read = |name: &str| {
        let text = fs::read_to_string(dir.join(name)).ok()?;
        text.trim().parse::<u64>().ok()
    };
    // A partition has its disk's sequence number, but its own start.
    let number = read("diskseq").or_else(|| read("../diskseq")).unwrap_or(0);
    number ^ read("start").unwrap_or(0) << 24
}

/// The name of a leg, from the disk's lasting name and the name that earlier versions used.
pub fn name_of_leg(name: &str, former: String) -> String {
    match identity::birth_and_path(name) {
        Some((birth, _)) if !birth.is_empty() => {
            identity::file_name(birth, "").trim_end().to_owned()
        }
        _ => former,
    }
}

/// The name of a disk in journals, and in the records of mirrors by earlier versions; its path if
/// nothing better is known, as for a file.
pub fn lasting_name_of(id: DiskId, path: &Path) -> String {
    let DiskId::Block { major, minor } = id else { return path.display().to_string() };
    let name = lasting_name_in(&Path::new(SYSFS).join(format!("{major}:{minor}")));
    name.unwrap_or_else(|| path.display().to_string())
}

fn lasting_name_in(dir: &Path) -> Option<String> {
    let disk = whole(dir);
    let (name, text) =
        NAMES.iter().chain([&BACKING_FILE]).find_map(|name| Some((name, read(&disk, name)?)))?;
    let start = start_of(dir).map_or_else(String::new, |start| format!("start {start}"));
    Some(format!("{name} {text} {start}"))
}

/// The lasting name of a disk, whatever its number and path: the name of its hardware or of its
/// stack; for a file its birth time, inode number and path; for a loop device those of its file.
/// Empty if there is none, as for a device that reports no name.
pub(super) fn disk_name(path: &Path, id: DiskId) -> String {
    match id {
        DiskId::Block { major, minor } => {
            block_name(&Path::new(SYSFS).join(format!("{major}:{minor}")))
        }
        DiskId::File { .. } => {
            let here = fs::metadata(path).ok().filter(|metadata| DiskId::of(metadata) == Some(id));
            name_of_file(path, here.as_ref(), 0)
        }
    }
}

/// The names by which a disk is searched, best first; its path if nothing else is known. A file,
/// and a loop device on it, is found after a move (by birth time and inode number) and after a
/// restore (by path).
pub(super) fn names_by(path: &Path, name: String) -> Vec<String> {
    let by_path = |path: &str| format!("path {path}");
    match identity::birth_and_path(&name) {
        Some(("", path)) => vec![by_path(path)],
        Some((birth, path)) => {
            vec![identity::file_name(birth, "").trim_end().to_owned(), by_path(path)]
        }
        None if name.is_empty() => {
            let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
            vec![by_path(&path.display().to_string())]
        }
        None => vec![name],
    }
}

/// The name of the block device with this directory in sysfs.
fn block_name(dir: &Path) -> String {
    let (disk, start) = (whole(dir), start_of(dir));
    if let Some((name, text)) = NAMES.iter().find_map(|name| Some((name, read(&disk, name)?))) {
        return start.map_or_else(
            || format!("{name} {text}"),
            |start| format!("{name} {text} start {start}"),
        );
    }
    // Only the end of line is trimmed: it is a path.
    let Ok(file) = fs::read_to_string(disk.join(BACKING_FILE)) else { return String::new() };
    let file = Path::new(file.trim_end_matches('\n'));
    let offset =
        read(&disk, "loop/offset").and_then(|offset| offset.parse::<u64>().ok()).unwrap_or(0);
    // A deleted file has no metadata at its path, and the path in sysfs says that it is deleted.
    name_of_file(file, fs::metadata(file).ok().as_ref(), offset + start.unwrap_or(0) * 512)
}

/// The name of a disk that begins at a byte of a file. Birth time and inode number are enough
/// without the file system's name, which few file systems keep: a file with the same ones elsewhere
/// is in a copy of the file system, and so a copy.
fn name_of_file(path: &Path, metadata: Option<&fs::Metadata>, offset: u64) -> String {
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let birth = metadata.map_or(0, born_ns);
    let birth =
        metadata.filter(|_| birth != 0).map(|metadata| format!("{birth}-{}", metadata.ino()));
    let (birth, path) = (birth.unwrap_or_default(), path.display());
    match offset {
        0 => identity::file_name(&birth, &path.to_string()),
        _ if birth.is_empty() => identity::file_name("", &format!("{path} +{offset}")),
        _ => identity::file_name(&format!("{birth}+{offset}"), &format!("{path} +{offset}")),
    }
}

/// The directory of the whole disk: a partition's disk, or the block device itself.
pub(super) fn whole(dir: &Path) -> PathBuf {
    if dir.join("partition").exists() { dir.join("..") } else { dir.to_owned() }
}

/// Where a partition starts, in sectors.
pub(super) fn start_of(dir: &Path) -> Option<u64> {
    read(dir, "partition")?;
    read(dir, "start")?.parse().ok()
}

/// A line of sysfs, if it exists and is not empty.
pub(super) fn read(dir: &Path, name: &str) -> Option<String> {
    let text = fs::read_to_string(dir.join(name)).unwrap_or_default();
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

/// Whether two names certainly belong to two disks: hardware does not change its name, a moved file
/// keeps its birth time, and a restored file keeps its path. A stacked device can have several
/// names.
pub fn certainly_differ(one: &str, other: &str) -> bool {
    /// First words of the names that a disk keeps.
    const HARDWARE: [&str; 4] = ["wwid", "device/wwid", "device/serial", "serial"];
    let (one, other) = (one.trim_end(), other.trim_end());
    if let (Some(one), Some(other)) =
        (identity::birth_and_path(one), identity::birth_and_path(other))
    {
        return !one.0.is_empty() && !other.0.is_empty() && one.0 != other.0 && one.1 != other.1;
    }
    let kind = |name: &str| {
        HARDWARE.iter().position(|kind| name.split_once(' ').is_some_and(|(word, _)| word == *kind))
    };
    one != other && kind(one).is_some() && kind(one) == kind(other)
}

/// Whether two names of disks are of one kind, so that comparing them tells whether they belong to
/// one disk: a serial number says nothing about a file's name.
pub fn are_of_one_kind(one: &str, other: &str) -> bool {
    let kind = |name: &str| {
        let word = name.split_once(' ').map_or("", |(word, _)| word);
        // A stacked device can have several names.
        if word.starts_with("dm/") || word.starts_with("md/") {
            "stack".to_owned()
        } else {
            word.to_owned()
        }
    };
    kind(one) == kind(other)
}

/// When a file was created, in nanoseconds since 1970; zero if its file system does not record it.
pub(super) fn born_ns(metadata: &fs::Metadata) -> u64 {
    let age =
        metadata.created().ok().and_then(|born| born.duration_since(std::time::UNIX_EPOCH).ok());
    age.map_or(0, |age| u64::try_from(age.as_nanos()).unwrap_or(0))
}

/// A new, unique store id.
///
/// # Errors
/// Those of reading the kernel's file.
pub fn new_store_id() -> io::Result<StoreId> {
    /// A random UUID, new at each read.
    const UUID: &str = "/proc/sys/kernel/random/uuid";
    let text = fs::read_to_string(UUID)?.trim().replace('-', "");
    let number = u128::from_str_radix(&text, 16)
        .map_err(|_| io::Error::other(format!("{UUID} holds no id: {text}")))?;
    Ok(StoreId(number.to_be_bytes()))
}

#[cfg(test)]
mod tests;
