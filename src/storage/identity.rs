//! A name of a disk that stays the same when its device number or path changes, where there is one.

use std::fs;
use std::io;
use std::path::Path;

use dm_targets::snapshot::format::{StoreId, identity};

use super::{DiskId, OpenDisk};

/// Where the kernel tells what a disk is, best first: world wide names and serial numbers (the last is where virtio has
/// it), then what stacked devices are called.
const NAMES: [&str; 8] =
    ["wwid", "device/wwid", "device/serial", "serial", "dm/uuid", "md/uuid", "dm/name", "loop/backing_file"];

impl OpenDisk {
    /// A number that no other disk has had at the same place since the machine was started: the kernel's sequence number of
    /// a block device, the time of birth of a file. Zero if the machine knows none.
    pub fn number_in_boot(&self) -> u64 {
        let DiskId::Block { major, minor } = self.id else {
            return self.file.metadata().map_or(0, |metadata| born_ns(&metadata));
        };
        let dir = Path::new("/sys/dev/block").join(format!("{major}:{minor}"));
        let read = |name: &str| {
            let text = fs::read_to_string(dir.join(name)).ok()?;
            text.trim().parse::<u64>().ok()
        };
        // A partition has its disk's number, and a place of its own.
        let number = read("diskseq").or_else(|| read("../diskseq")).unwrap_or(0);
        number ^ read("start").unwrap_or(0) << 24
    }
}

/// What a disk is called for good; its path if nothing better is known, as for a file.
pub fn lasting_name(disk: &OpenDisk) -> String {
    lasting_name_of(disk.id, &disk.path)
}

/// As [`lasting_name`], of a disk that is open elsewhere.
pub fn lasting_name_of(id: DiskId, path: &Path) -> String {
    kernel_name(id).unwrap_or_else(|| path.display().to_string())
}

/// What the kernel calls a disk for good, if it is a block device that has such a name.
fn kernel_name(id: DiskId) -> Option<String> {
    let DiskId::Block { major, minor } = id else { return None };
    let dir = Path::new("/sys/dev/block").join(format!("{major}:{minor}"));
    let read = |dir: &Path, name: &str| {
        let text = fs::read_to_string(dir.join(name)).unwrap_or_default();
        let text = text.trim();
        (!text.is_empty()).then(|| format!("{name} {text}"))
    };
    // A partition is a part of its disk, by where it starts.
    let partition = read(&dir, "partition").and_then(|_| read(&dir, "start")).unwrap_or_default();
    let whole = if partition.is_empty() { dir } else { dir.join("..") };
    NAMES.iter().find_map(|name| read(&whole, name)).map(|name| format!("{name} {partition}"))
}

/// By what a store knows its origin again, whatever its number and path have become; empty if nothing lasts, as of a
/// device that says nothing of itself.
pub fn origin_name(path: &Path, id: DiskId) -> String {
    let DiskId::File { ino, .. } = id else {
        return kernel_name(id).map_or_else(String::new, |name| name.trim_end().to_owned());
    };
    let here = fs::metadata(path).ok().filter(|metadata| DiskId::of(metadata) == Some(id));
    let birth = here.map_or(0, |metadata| born_ns(&metadata));
    let birth = if birth == 0 { String::new() } else { format!("{birth}-{ino}") };
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    identity::file_name(&birth, &path.display().to_string())
}

/// When a file was made, in nanoseconds since 1970; zero if its file system does not say.
fn born_ns(metadata: &fs::Metadata) -> u64 {
    let age = metadata.created().ok().and_then(|born| born.duration_since(std::time::UNIX_EPOCH).ok());
    age.map_or(0, |age| u64::try_from(age.as_nanos()).unwrap_or(0))
}

/// An id that no store has had.
///
/// # Errors
/// Those of reading the kernel's file.
pub fn new_store_id() -> io::Result<StoreId> {
    /// A random number, as the kernel writes it.
    const UUID: &str = "/proc/sys/kernel/random/uuid";
    let text = fs::read_to_string(UUID)?.trim().replace('-', "");
    let number = u128::from_str_radix(&text, 16).map_err(|_| io::Error::other(format!("{UUID}: {text:?} is no id")))?;
    Ok(StoreId(number.to_be_bytes()))
}
