//! The devices below a disk, through all layers: partitions, device-mapper, md, loop devices, file
//! systems, ublk devices.
//!
//! Rule kept here: a server never needs storage that it serves itself ([`circle`]).
//!
//! Everything is read from the kernel's own tables (sysfs and the list of mounts). No disk and no
//! file is opened or looked up on the way: one above a device whose server has died would never
//! answer.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::DiskId;
use super::busy::mounts;

/// The kernel's directory of block devices by number.
const SYSFS: &str = "/sys/dev/block";
/// The mounts of this process.
const MOUNTS: &str = "/proc/self/mountinfo";

/// The disks below other ublk devices, as far as known, by the N of `/dev/ublkbN`.
pub type Through = BTreeMap<u32, Vec<(u32, u32)>>;

/// A disk of a target, identified but not yet opened.
pub struct Standing<'a> {
    /// Its path.
    pub path: &'a Path,
    /// Its identity.
    pub id: DiskId,
}

/// A device or disk that is below a disk of a target and must not be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ground {
    /// A ublk device of the target's own server.
    Ublk(u32),
    /// Another disk of the target, by its index.
    Disk(usize),
}

/// The numbers N of the `/dev/ublkbN` below the block devices of these numbers, those devices
/// included.
pub fn ublk_devices_below(numbers: &[(u32, u32)]) -> BTreeSet<u32> {
    below(Path::new(SYSFS), &mountinfo(), numbers, &Through::new()).ublk
}

/// N, if a disk is `/dev/ublkbN`.
pub fn ublk_number(disk: DiskId) -> Option<u32> {
    let DiskId::Block { major, minor } = disk else { return None };
    ublk_id(&Path::new(SYSFS).join(format!("{major}:{minor}")))
}

/// The first of a target's disks that is above a device of its own server (`own`), or above another
/// of the disks, through any number of layers: a write to the upper one would first have to be
/// written to the lower one.
pub fn circle(
    disks: &[Standing<'_>],
    own: &BTreeSet<u32>,
    through: &Through,
) -> Option<(usize, Ground)> {
    circle_in(Path::new(SYSFS), &mountinfo(), disks, own, through)
}

/// The number of the file system that holds a file that shows another number (btrfs), according to
/// the list of mounts and its path. The path is not looked up: its file system may not answer.
pub fn number_of_mount(path: &Path, shown: (u32, u32)) -> (u32, u32) {
    number_in_mounts(&mountinfo(), path, shown)
}

fn mountinfo() -> String {
    fs::read_to_string(MOUNTS).unwrap_or_default()
}

fn circle_in(
    sysfs: &Path,
    mountinfo: &str,
    disks: &[Standing<'_>],
    own: &BTreeSet<u32>,
    through: &Through,
) -> Option<(usize, Ground)> {
    let numbers: Vec<(u32, u32)> = disks.iter().map(|disk| number_of(mountinfo, disk)).collect();
    disks.iter().enumerate().find_map(|(at, disk)| {
        let below = below(sysfs, mountinfo, &[numbers[at]], through);
        let stands_on = |(place, other): (usize, &Standing<'_>)| {
            let found = match other.id {
                _ if other.id == disk.id => false,
                DiskId::Block { major, minor } => below.numbers.contains(&(major, minor)),
                // Looked up only in a file system that has just answered for the other disk.
                DiskId::File { .. } => {
                    let here = below.files.iter().filter(|(_, mount)| *mount == numbers[place]);
                    let mut ids =
                        here.filter_map(|(path, _)| DiskId::of(&fs::metadata(path).ok()?));
                    ids.any(|id| id == other.id)
                }
            };
            found.then_some(Ground::Disk(place))
        };
        let ublk = below.ublk.intersection(own).next().map(|id| Ground::Ublk(*id));
        Some((at, ublk.or_else(|| disks.iter().enumerate().find_map(stands_on))?))
    })
}

/// The number at which the search below a disk starts: its own, or its file system's.
fn number_of(mountinfo: &str, disk: &Standing<'_>) -> (u32, u32) {
    let path = fs::canonicalize(disk.path).unwrap_or_else(|_| disk.path.to_owned());
    number_in_mounts(mountinfo, &path, disk.id.block_number())
}

/// A file system may show another number in its files than in the list of mounts (btrfs): then the
/// path decides.
fn number_in_mounts(mountinfo: &str, path: &Path, shown: (u32, u32)) -> (u32, u32) {
    if shown.0 != 0 || mounts(mountinfo).any(|(text, ..)| number(text) == Some(shown)) {
        return shown;
    }
    mount_of(mountinfo, path).unwrap_or(shown)
}

/// The devices below some disks, the disks included.
#[derive(Debug, Default)]
struct Below {
    /// The block devices and file systems.
    numbers: BTreeSet<(u32, u32)>,
    /// The N of the `/dev/ublkbN` among them.
    ublk: BTreeSet<u32>,
    /// The files behind loop devices, with their file systems.
    files: Vec<(PathBuf, (u32, u32))>,
}

/// Finds the devices below some disks; continues below the ublk devices in `through`.
fn below(sysfs: &Path, mountinfo: &str, numbers: &[(u32, u32)], through: &Through) -> Below {
    let mut found = Below::default();
    let mut left: Vec<(u32, u32)> = numbers.to_vec();
    while let Some(number) = left.pop() {
        if !found.numbers.insert(number) {
            continue;
        }
        if number.0 == 0 {
            // A file system with its own number (btrfs): continue with the device it was mounted
            // from.
            left.extend(source_of(mountinfo, number));
            continue;
        }
        let dir = sysfs.join(format!("{}:{}", number.0, number.1));
        if dir.join("partition").exists() {
            // A partition: continue with its disk.
            left.extend(number_in(&parent(&dir)));
            continue;
        }
        if let Some(id) = ublk_id(&dir) {
            found.ublk.insert(id);
            left.extend(through.get(&id).into_iter().flatten());
            continue;
        }
        for slave in fs::read_dir(dir.join("slaves")).into_iter().flatten().flatten() {
            left.extend(number_in(&slave.path()));
        }
        if let Ok(file) = fs::read_to_string(dir.join("loop/backing_file")) {
            let file = Path::new(file.trim_end_matches('\n'));
            if let Some(mount) = mount_of(mountinfo, file) {
                left.push(mount);
                found.files.push((file.to_owned(), mount));
            }
        }
    }
    found
}

/// The directory of a partition's disk.
fn parent(dir: &Path) -> PathBuf {
    fs::canonicalize(dir)
        .ok()
        .and_then(|dir| dir.parent().map(Path::to_owned))
        .unwrap_or_else(|| dir.join(".."))
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

/// The file system that holds a path: the mount with the longest mount point that begins the path.
fn mount_of(mountinfo: &str, path: &Path) -> Option<(u32, u32)> {
    // Of two mounts at one mount point the later one is on top.
    let over = mounts(mountinfo).filter(|(_, place, _)| path.starts_with(place));
    let (text, ..) = over.max_by_key(|(_, place, _)| place.len())?;
    number(text)
}

/// The number of the block device that a file system was mounted from.
fn source_of(mountinfo: &str, wanted: (u32, u32)) -> Option<(u32, u32)> {
    let (.., source) = mounts(mountinfo).find(|(text, ..)| number(text) == Some(wanted))?;
    // Only a node in /dev is looked up: /dev is in memory.
    let metadata = source.starts_with("/dev/").then(|| fs::metadata(&source).ok()).flatten()?;
    let number = metadata.rdev();
    (number != 0).then(|| (libc::major(number), libc::minor(number)))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// A sysfs with a ublk disk (259:0) that has a partition (259:1), a mapped device (252:0) over
    /// the partition, a file system on that, and a loop device (7:0) over a file in it; beside it a
    /// disk (8:0) with two partitions and another ublk disk (259:2).
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
        for part in ["1", "2"] {
            device(&format!("sda/sda{part}"), &format!("8:{part}"));
            fs::write(at(&format!("sda/sda{part}/partition")), part).unwrap();
        }
        device("ublkb13", "259:2");
        let mounts =
            "1 1 8:0 / / rw - ext4 /dev/sda rw\n2 1 252:0 / /mnt/files rw - ext4 /dev/dm-0 rw\n";
        (dir, mounts.to_owned())
    }

    fn ublk(dir: &Path, mounts: &str, number: (u32, u32), through: &Through) -> Vec<u32> {
        below(dir, mounts, &[number], through).ublk.into_iter().collect()
    }

    #[test]
    fn what_is_below_is_found_through_everything() {
        let (dir, mounts) = stack();
        for number in [(259, 0), (259, 1), (252, 0), (7, 0)] {
            assert_eq!(ublk(dir.path(), &mounts, number, &Through::new()), [12], "{number:?}");
        }
        assert!(ublk(dir.path(), &mounts, (8, 0), &Through::new()).is_empty());
        assert!(
            ublk(dir.path(), &mounts, (99, 99), &Through::new()).is_empty(),
            "a device that is gone stands on nothing"
        );
    }

    #[test]
    fn a_ublk_device_stands_on_what_its_server_says() {
        let (dir, mounts) = stack();
        let mirror = Through::from([(13, vec![(7, 0), (8, 0)])]);
        assert_eq!(ublk(dir.path(), &mounts, (259, 2), &Through::new()), [13]);
        assert_eq!(ublk(dir.path(), &mounts, (259, 2), &mirror), [12, 13]);
        // Two devices, each above the other: this can be found, and must not hang.
        let both = Through::from([(13, vec![(259, 0)]), (12, vec![(259, 2)])]);
        assert_eq!(ublk(dir.path(), &mounts, (259, 2), &both), [12, 13]);
    }

    const BLOCK: fn(u32, u32) -> DiskId = |major, minor| DiskId::Block { major, minor };

    fn circle_of(
        disks: &[(&str, DiskId)],
        own: &[u32],
        through: &Through,
    ) -> Option<(usize, Ground)> {
        let (dir, mounts) = stack();
        let disks: Vec<_> =
            disks.iter().map(|(path, id)| Standing { path: Path::new(path), id: *id }).collect();
        circle_in(dir.path(), &mounts, &disks, &own.iter().copied().collect(), through)
    }

    #[test]
    fn a_disk_that_stands_on_its_own_server_is_found() {
        let (origin, none) = (("/dev/sda", BLOCK(8, 0)), Through::new());
        let file = ("/mnt/files/cow.img", DiskId::File { dev: libc::makedev(252, 0), ino: 9 });
        for cow in [file, ("/dev/loop0", BLOCK(7, 0)), ("/dev/ublkb12p1", BLOCK(259, 1))] {
            assert_eq!(
                circle_of(&[origin, cow], &[12], &none),
                Some((1, Ground::Ublk(12))),
                "{}",
                cow.0
            );
            assert_eq!(
                circle_of(&[origin, cow], &[13], &none),
                None,
                "{}: another server's device",
                cow.0
            );
        }
        let (cow, mirror) =
            (("/dev/ublkb13", BLOCK(259, 2)), Through::from([(13, vec![(7, 0), (8, 16)])]));
        assert_eq!(circle_of(&[origin, cow], &[12], &mirror), Some((1, Ground::Ublk(12))));
        assert_eq!(circle_of(&[origin, cow], &[12], &none), None);
        // A file system whose files show another number than its mount: the path decides.
        let file = ("/mnt/files/cow.img", DiskId::File { dev: libc::makedev(0, 77), ino: 9 });
        assert_eq!(circle_of(&[origin, file], &[12], &none), Some((1, Ground::Ublk(12))));
    }

    #[test]
    fn a_disk_that_stands_on_another_of_its_target_is_found() {
        let (sda, one, two) =
            (("/dev/sda", BLOCK(8, 0)), ("/dev/sda1", BLOCK(8, 1)), ("/dev/sda2", BLOCK(8, 2)));
        let file = ("/a.img", DiskId::File { dev: libc::makedev(8, 0), ino: 9 });
        let other = ("/b.img", DiskId::File { dev: libc::makedev(8, 0), ino: 10 });
        let found = |disks: &[(&str, DiskId)]| circle_of(disks, &[], &Through::new());
        assert_eq!(found(&[sda, file]), Some((1, Ground::Disk(0))));
        assert_eq!(found(&[sda, one]), Some((1, Ground::Disk(0))));
        assert_eq!(found(&[one, sda]), Some((0, Ground::Disk(1))));
        // Side by side, or the same disk twice (legs at different offsets).
        for disks in [[one, two], [file, other], [sda, sda], [file, file]] {
            assert_eq!(found(&disks), None);
        }
    }

    #[test]
    fn a_loop_device_stands_on_its_file() {
        let (dir, _) = stack();
        let path = dir.path().join("backing");
        fs::write(&path, "x").unwrap();
        fs::write(dir.path().join("loop0/loop/backing_file"), format!("{}\n", path.display()))
            .unwrap();
        let id = DiskId::of(&fs::metadata(&path).unwrap()).unwrap();
        let (major, minor) = id.block_number();
        let mounts = format!("1 1 {major}:{minor} / / rw - ext4 /dev/sda rw\n");
        let disks = [("/dev/loop0", BLOCK(7, 0)), (path.to_str().unwrap(), id)];
        let disks = disks.map(|(path, id)| Standing { path: Path::new(path), id });
        let found = circle_in(dir.path(), &mounts, &disks, &BTreeSet::new(), &Through::new());
        assert_eq!(found, Some((0, Ground::Disk(1))));
    }

    #[test]
    fn a_file_belongs_to_the_nearest_mount() {
        let (_dir, mounts) = stack();
        assert_eq!(mount_of(&mounts, Path::new("/mnt/files/a")), Some((252, 0)));
        assert_eq!(mount_of(&mounts, Path::new("/mnt/filesystem/a")), Some((8, 0)));
    }
}
