//! How a disk is written on a command line or a table line.

use std::path::{Path, PathBuf};

use dm_targets::mirror::table::Leg;
use dm_targets::units::Sector;
use dm_targets::words::parse_size;

use crate::failure::{Failure, wrong_usage};
use crate::storage::DiskId;

/// The absolute path, for a server, which has another working directory. A path that is not UTF-8
/// cannot be put in a state file or a table line as it is, and an altered path could lead to
/// another disk.
pub fn absolute(path: &Path) -> Result<String, Failure> {
    let why = |error| Failure::at(path, error);
    let path = std::path::absolute(path).map_err(why)?;
    let word = path.to_str().map(str::to_owned);
    let hint = "name the disk by another path, e.g. through a symbolic link";
    word.ok_or_else(|| wrong_usage(format!("{}: the path is not UTF-8: {hint}", path.display())))
}

/// `DEV` or `DEV:OFFSET`; a path that exists may itself contain colons.
pub fn leg_of(word: &str) -> Result<Leg, Failure> {
    let (path, offset) = split_leg(word, Path::new(word).exists())?;
    Ok(Leg { device: absolute(Path::new(path))?, offset })
}

/// The disk and the offset in `DEV` or `DEV:OFFSET`; `is_whole`: the word is that of a disk.
pub fn split_leg(word: &str, is_whole: bool) -> Result<(&str, Sector), Failure> {
    let (path, offset) = match word.rsplit_once(':') {
        Some((path, offset)) if !is_whole => {
            let bytes =
                parse_size(offset).map_err(|error| wrong_usage(format!("leg {word}: {error}")))?;
            (path, bytes)
        }
        _ => (word, 0),
    };
    if offset % 512 != 0 {
        return Err(wrong_usage(format!("leg {word}: the offset is not a multiple of 512 bytes")));
    }
    Ok((path, Sector(offset / 512)))
}

/// A device word of a table line: a path, or `MAJ:MIN`.
pub fn device_of(word: &str) -> PathBuf {
    match number_of(word) {
        // If no node is found, the path shows in an error message which number was meant.
        Some(number) => by_number(number).unwrap_or_else(|| Path::new("/dev/block").join(word)),
        None => word.into(),
    }
}

fn number_of(word: &str) -> Option<DiskId> {
    // The parser accepts a leading sign, which a device number cannot have.
    let number =
        |text: &str| text.parse().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()));
    let (major, minor) = word.split_once(':')?;
    Some(DiskId::Block { major: number(major)?, minor: number(minor)? })
}

/// The node of a block device. The links in `/dev/block` are made by udev; without udev, the kernel
/// knows the name of the node, and the last resort is to search all nodes.
fn by_number(wanted: DiskId) -> Option<PathBuf> {
    let is_wanted =
        |path: &PathBuf| std::fs::metadata(path).ok().as_ref().and_then(DiskId::of) == Some(wanted);
    let uevent =
        std::fs::read_to_string(format!("/sys/dev/block/{wanted}/uevent")).unwrap_or_default();
    let named = uevent.lines().find_map(|line| line.strip_prefix("DEVNAME="));
    let link = Path::new("/dev/block").join(wanted.to_string());
    let known = [Some(link), named.map(|name| Path::new("/dev").join(name))];
    let known = known.into_iter().flatten().find(is_wanted);
    known.or_else(|| {
        [Path::new("/dev"), Path::new("/dev/mapper")]
            .into_iter()
            .find_map(|dir| node_in(dir, &is_wanted))
    })
}

fn node_in(dir: &Path, is_wanted: &impl Fn(&PathBuf) -> bool) -> Option<PathBuf> {
    std::fs::read_dir(dir).ok()?.filter_map(Result::ok).map(|entry| entry.path()).find(is_wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_two_numbers_are_a_device_number() {
        assert_eq!(number_of("259:3"), Some(DiskId::Block { major: 259, minor: 3 }));
        for word in
            ["259", "259:", ":3", "+259:3", "259:-3", "/dev/x:1", "1:2:3", "99999999999:1", ""]
        {
            assert_eq!(number_of(word), None, "{word}");
        }
        assert_eq!(device_of("/dev/sda"), Path::new("/dev/sda"));
        assert_eq!(device_of("4095:1048575"), Path::new("/dev/block/4095:1048575"));
    }

    #[test]
    fn every_disk_with_a_node_is_found_by_its_number() {
        let Ok(disks) = std::fs::read_dir("/sys/dev/block") else { return };
        for number in disks
            .filter_map(Result::ok)
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
        {
            let wanted = number_of(&number).unwrap();
            if let Some(path) = by_number(wanted) {
                assert_eq!(
                    DiskId::of(&std::fs::metadata(&path).unwrap()),
                    Some(wanted),
                    "{}",
                    path.display()
                );
            }
        }
    }
}
