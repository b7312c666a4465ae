//! The names by which open disks are found again, in the records of mirrors, COWs and journals.
//!
//! Rule kept here: nothing is asked of a disk again that is known since it was opened.

use std::fs;
use std::path::{Path, PathBuf};

use super::id::DiskId;
use super::identity::{disk_name, lasting_name_of, name_of_leg, names_by};
use super::links::lasting_path;
use super::open::OpenDisk;

/// The block devices of this machine, by their names.
const DISKS: &str = "/sys/class/block";

/// The name of a leg in the records of mirrors. A file, and a loop device on it, is identified by
/// birth time and inode number: another file at its path is another leg. All other names keep their
/// form, since those records are on disks: another form would make their legs foreign.
pub fn leg_name(disk: &OpenDisk) -> String {
    name_of_leg(&disk.known.name, lasting_name(disk))
}

/// The name of a disk in journals, and in the records of mirrors by earlier versions; its path if
/// nothing better is known, as for a file.
pub fn lasting_name(disk: &OpenDisk) -> String {
    lasting_name_of(disk.id, &disk.path)
}

/// The lasting name of the disk at a path, which is not opened; empty if it has none.
pub fn name_at(path: &Path) -> String {
    let id = fs::metadata(path).ok().and_then(|metadata| DiskId::of(&metadata));
    id.map_or_else(String::new, |id| disk_name(path, id))
}

/// The names by which an open disk is searched, best first; its path if nothing else is known.
pub fn names_of(disk: &OpenDisk) -> Vec<String> {
    names_by(&disk.path, disk.known.name.clone())
}

/// The same of the disk at a path, which is not opened.
pub fn names_at(path: &Path) -> Vec<String> {
    names_by(path, name_at(path))
}

/// A lasting path of the block device that is searched by a name, if it is there. No disk is
/// opened.
pub fn path_of(name: &str) -> Option<PathBuf> {
    let disks = fs::read_dir(DISKS).ok()?.flatten();
    // sysfs writes a slash in a device's name like this.
    let node =
        |disk: fs::DirEntry| disk.file_name().into_string().ok().map(|it| it.replace('!', "/"));
    let mut nodes: Vec<PathBuf> =
        disks.filter_map(node).map(|name| Path::new("/dev").join(name)).collect();
    nodes.sort();
    let found = nodes.into_iter().find(|node| names_at(node).iter().any(|other| other == name));
    found.map(|node| lasting_path(&node))
}
