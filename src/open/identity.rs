//! A name of a disk that stays the same when its device number or path changes, where there is one.

use std::fs;
use std::path::Path;

use super::{DiskId, OpenDisk};

/// Where the kernel tells what a disk is, best first: world wide names, then what stacked devices are called.
const NAMES: [&str; 7] = ["wwid", "device/wwid", "device/serial", "dm/uuid", "md/uuid", "dm/name", "loop/backing_file"];

/// What a disk is called for good; its path if nothing better is known, as for a file.
pub fn lasting_name(disk: &OpenDisk) -> String {
    let path = disk.path.display().to_string();
    let DiskId::Block { major, minor } = disk.id else { return path };
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
