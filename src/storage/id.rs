//! The identity of a disk.

use std::fmt;
use std::fs::Metadata;
use std::os::unix::fs::{FileTypeExt, MetadataExt};

use dm_targets::disk::DiskKey;

/// The identity of a disk, whatever path leads to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DiskId {
    /// A block device's number.
    Block {
        /// Its driver.
        major: u32,
        /// The device within the driver.
        minor: u32,
    },
    /// A regular file.
    File {
        /// Number of the file system.
        dev: u64,
        /// Number of the file in it.
        ino: u64,
    },
}

impl fmt::Display for DiskId {
    /// `MAJ:MIN`, as on a table line; for a file see [`DiskId::on_table_line`].
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DiskId::Block { major, minor } => write!(f, "{major}:{minor}"),
            DiskId::File { dev, ino } => {
                write!(f, "file {ino} on {}:{}", libc::major(*dev), libc::minor(*dev))
            }
        }
    }
}

impl DiskId {
    /// The disk's word on a table line: `MAJ:MIN`, or the path of a file.
    pub fn on_table_line(&self, path: &str) -> String {
        match self {
            DiskId::Block { .. } => self.to_string(),
            DiskId::File { .. } => path.to_owned(),
        }
    }

    /// Major and minor of the block device, or of the file system that the file is in.
    pub fn block_number(&self) -> (u32, u32) {
        match *self {
            DiskId::Block { major, minor } => (major, minor),
            DiskId::File { dev, .. } => (libc::major(dev), libc::minor(dev)),
        }
    }

    /// The key of the origin on the disk.
    pub fn key(&self) -> DiskKey {
        match *self {
            // No file has the inode number 0.
            DiskId::Block { major, minor } => DiskKey(u64::from(major) << 32 | u64::from(minor), 0),
            DiskId::File { dev, ino } => DiskKey(dev, ino),
        }
    }

    /// The disk that `metadata` describes; `None` if that is neither a block device nor a file.
    pub fn of(metadata: &Metadata) -> Option<DiskId> {
        let kind = metadata.file_type();
        if kind.is_block_device() {
            let number = metadata.rdev();
            Some(DiskId::Block { major: libc::major(number), minor: libc::minor(number) })
        } else if kind.is_file() {
            Some(DiskId::File { dev: metadata.dev(), ino: metadata.ino() })
        } else {
            None
        }
    }
}
