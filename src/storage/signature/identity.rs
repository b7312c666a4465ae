//! The bytes that tell a signature's content from other content of the same kind: the UUID, where
//! the format has one and this project knows its place, and the superblock otherwise.
//!
//! A UUID of zeroes identifies nothing; the superblock counts then.

use std::hash::{DefaultHasher, Hash, Hasher};

use super::found::Signature;
use super::view::View;

/// Bytes of a superblock that count if there is no UUID.
const SECTOR: u64 = 512;

impl Signature {
    /// The signature with what identifies its content.
    pub(super) fn identified(self, view: &View<'_>) -> Signature {
        let fields: Vec<_> = fields(&self)
            .into_iter()
            .filter_map(|(offset, len)| view.get(offset, len))
            .filter(|bytes| bytes.iter().any(|byte| *byte != 0))
            .collect();
        let mut hasher = DefaultHasher::new();
        if fields.is_empty() {
            let sector = self.offset / SECTOR * SECTOR;
            view.get(sector, 512).hash(&mut hasher);
        } else {
            fields.hash(&mut hasher);
        }
        Signature { content: hasher.finish(), ..self }
    }
}

/// Where the identifying bytes are, and how many; none if the superblock counts.
fn fields(found: &Signature) -> Vec<(u64, usize)> {
    let at = found.offset;
    match found.name {
        // Where the magic number is in the superblock: 0x38.
        "ext2" | "ext3" | "ext4" | "an external ext journal" => vec![(at + 0x30, 16)],
        "XFS" => vec![(at + 32, 16)],
        "LUKS" => vec![(at + 168, 40)],
        // The file system's UUID, and that of the disk in it.
        "btrfs" => vec![(at - 64 + 32, 16), (at - 64 + 267, 16)],
        "f2fs" => vec![(at + 108, 16)],
        "EROFS" => vec![(at + 48, 16)],
        "ISO 9660" => vec![(at - 1, 2048)],
        "JFS" => vec![(at + 136, 16)],
        "ReiserFS" => vec![(at + 32, 16)],
        "NTFS" => vec![(72, 8)],
        "exFAT" => vec![(100, 4)],
        // The serial number and the label.
        "FAT" if at == 54 => vec![(39, 15)],
        "FAT" => vec![(67, 15)],
        "bcache" | "bcachefs" => vec![(at + 16, 32)],
        // The header's UUID and label, the same for every size of a page.
        "swap" => vec![(1036, 32)],
        "an LVM2 physical volume" => vec![(at + 32, 32)],
        // The array's UUID, and that of the disk in it.
        "md RAID 1.0" | "md RAID 1.1" | "md RAID 1.2" => vec![(at + 16, 16), (at + 168, 16)],
        // What does not change while the array is used, and which disk of the array this is.
        "md RAID 0.90" => vec![(at, 128), (at + 3968, 128)],
        "a GPT partition table" => vec![(at + 56, 16)],
        "an MBR partition table" => vec![(440, 70)],
        _ => Vec::new(),
    }
}
