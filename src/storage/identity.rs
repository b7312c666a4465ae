//! A name of a disk that stays the same when its device number or path changes, where there is one.

use std::fs;
use std::path::Path;

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
            let born = self.file.metadata().and_then(|metadata| metadata.created()).ok();
            let age = born.and_then(|born| born.duration_since(std::time::UNIX_EPOCH).ok());
            return age.map_or(0, |age| u64::try_from(age.as_nanos()).unwrap_or(0));
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
    let path = path.display().to_string();
    let DiskId::Block { major, minor } = id else { return path };
    let dir = Path::new("/sys/dev/block").join(format!("{major}:{minor}"));
    let read = |dir: &Path, name: &str| {
        let text = fs::read_to_string(dir.join(name)).unwrap_or_default();
        let text = text.trim();
        (!text.is_empty()).then(|| format!("{name} {text}"))
    };
    // A partition is a part of its disk, by where it starts.
    let partition = read(&dir, "partition").and_then(|_| read(&dir, "start")).unwrap_or_default();
    let whole = if partition.is_empty() { dir } else { dir.join("..") };
    match NAMES.iter().find_map(|name| read(&whole, name)) {
        Some(name) => format!("{name} {partition}"),
        None => path,
    }
}
