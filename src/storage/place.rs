//! Where the bytes of a disk ultimately are: which bytes of which file, or of which whole device.
//!
//! Rule kept here: a file, a loop device on it and a partition of the loop device are not taken for
//! different disks ([`Place::overlaps`]).

use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::DiskId;
use super::identity::{BACKING_FILE, SYSFS, born_ns, read, start_of, whole};
use crate::protocol::Place;

/// Where the bytes of an open disk are. A loop device's file may be in a file system that hangs.
pub(super) fn place(id: DiskId, opened: &Metadata) -> Place {
    match id {
        DiskId::Block { major, minor } => of_block(Path::new(SYSFS), (major, minor)),
        DiskId::File { .. } => of_file(opened),
    }
}

/// A file with another birth time is another file: the inode number of a deleted file is reused.
fn of_file(metadata: &Metadata) -> Place {
    let (device, number, born) = (metadata.dev(), metadata.ino(), born_ns(metadata));
    Place { on: format!("file {device} {number} {born}"), start: 0, end: u64::MAX }
}

fn of_block(sysfs: &Path, (major, minor): (u32, u32)) -> Place {
    let dir = sysfs.join(format!("{major}:{minor}"));
    let disk = whole(&dir);
    let number = |name: &str| read(&dir, name).and_then(|text| text.parse::<u64>().ok());
    let disk_place = of_loop(sysfs, &disk).unwrap_or_else(|| {
        let device = read(&disk, "dev").unwrap_or_else(|| format!("{major}:{minor}"));
        let sequence = read(&disk, "diskseq").unwrap_or_default();
        Place { on: format!("block {device} {sequence}"), start: 0, end: u64::MAX }
    });
    match start_of(&dir) {
        Some(start) => {
            let len = number("size").map_or(u64::MAX, |sectors| sectors.saturating_mul(512));
            disk_place.part(start.saturating_mul(512), len)
        }
        None => disk_place,
    }
}

/// The place of a loop device in its file or device. A loop device whose file no longer has a name
/// counts as a separate device.
fn of_loop(sysfs: &Path, dir: &Path) -> Option<Place> {
    let file = fs::read_to_string(dir.join(BACKING_FILE)).ok()?;
    let metadata = fs::metadata(file.trim_end_matches('\n')).ok()?;
    let below = match DiskId::of(&metadata)? {
        DiskId::Block { major, minor } => of_block(sysfs, (major, minor)),
        DiskId::File { .. } => of_file(&metadata),
    };
    let number = |name: &str| read(dir, name).and_then(|text| text.parse::<u64>().ok());
    let len = number("loop/sizelimit").filter(|limit| *limit != 0).unwrap_or(u64::MAX);
    Some(below.part(number("loop/offset").unwrap_or(0), len))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A sysfs with a disk and two partitions of it, a loop device in the middle of a file, and a
    /// partition of that.
    fn fixture() -> (tempfile::TempDir, Place) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, "x").unwrap();
        let backing = path.display().to_string();
        let device = |name: &str, files: &[(&str, &str)]| {
            let at = dir.path().join(name);
            for (file, text) in files {
                let path = at.join(file);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, format!("{text}\n")).unwrap();
            }
            at
        };
        let number = |number: &str, at: &Path| {
            std::os::unix::fs::symlink(at, dir.path().join(number)).unwrap();
        };
        let part = |start, size| [("partition", "1"), ("start", start), ("size", size)];
        number("8:0", &device("sda", &[("dev", "8:0"), ("diskseq", "5"), ("size", "4096")]));
        number("8:1", &device("sda/sda1", &part("8", "8")));
        number("8:2", &device("sda/sda2", &part("16", "8")));
        let on_file = [("dev", "7:0"), ("loop/backing_file", &*backing), ("loop/offset", "4096")];
        number("7:0", &device("loop0", &on_file));
        number("7:1", &device("loop0/loop0p1", &part("8", "8")));
        let limited = [("loop/backing_file", &*backing), ("loop/sizelimit", "4096")];
        number("7:2", &device("loop2", &limited));
        let gone = [("dev", "7:3"), ("diskseq", "9"), ("loop/backing_file", "/no/such (deleted)")];
        number("7:3", &device("loop3", &gone));
        let place = of_file(&fs::metadata(&path).unwrap());
        (dir, place)
    }

    #[test]
    fn a_partition_is_a_part_of_its_disk() {
        let (dir, _) = fixture();
        let [disk, one, two] = [0, 1, 2].map(|minor| of_block(dir.path(), (8, minor)));
        assert_eq!(disk, Place { on: "block 8:0 5".to_owned(), start: 0, end: u64::MAX });
        assert_eq!((one.start, one.end), (4096, 8192));
        assert!(disk.overlaps(&one) && disk.overlaps(&two) && !one.overlaps(&two));
    }

    #[test]
    fn a_loop_device_is_a_part_of_its_file() {
        let (dir, file) = fixture();
        let [whole, part, limited, gone] =
            [0, 1, 2, 3].map(|minor| of_block(dir.path(), (7, minor)));
        assert_eq!((&whole.on, whole.start, whole.end), (&file.on, 4096, u64::MAX));
        assert_eq!((&part.on, part.start, part.end), (&file.on, 8192, 12288));
        assert!(file.overlaps(&whole) && file.overlaps(&part) && whole.overlaps(&part));
        assert!(file.overlaps(&limited) && !limited.overlaps(&whole), "what is before it");
        assert_eq!(gone.on, "block 7:3 9", "nothing can be known of a file without a name");
    }

    #[test]
    fn a_file_is_in_its_place_by_every_path() {
        let (dir, file) = fixture();
        let path = dir.path().join("hard");
        fs::hard_link(dir.path().join("file"), &path).unwrap();
        assert_eq!(of_file(&fs::metadata(&path).unwrap()), file);
    }
}
