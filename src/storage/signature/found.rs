//! What can be found on a disk: a signature and its kind.

/// The kind of a signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SignatureKind {
    /// A device-mapper exception store: the COW of a snapshot.
    SnapshotStore,
    /// A device-mapper dirty log of a mirror.
    MirrorLog,
    /// A file system.
    FileSystem,
    /// Swap space, or a hibernation image in it.
    Swap,
    /// A partition table.
    PartitionTable,
    /// A part of something larger: RAID, LVM, a cache, a pool.
    Member,
    /// An encrypted disk.
    Encrypted,
}

/// A signature found on a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Signature {
    /// What it is called, as in "it holds NAME".
    pub name: &'static str,
    /// Its kind.
    pub kind: SignatureKind,
    /// Where it was recognised, in bytes from the start.
    pub offset: u64,
    /// Stands for the bytes that identify the content: its UUID, or its superblock.
    pub content: u64,
}

impl Signature {
    /// Whether the other signature is of a copy of the same content, perhaps of another moment.
    pub fn is_copy_of(&self, other: &Signature) -> bool {
        self.kind == other.kind && self.content == other.content
    }
}
