//! The signatures: where each is and how it is told from random data.
//!
//! Positions and numbers are those of the formats' own documents. There are three probes, one for
//! each range that is read; each returns the first signature that matches. The bytes that identify
//! its content are added by the caller.

use super::found::SignatureKind::{
    Encrypted, FileSystem, Member, MirrorLog, PartitionTable, SnapshotStore, Swap,
};
use super::found::{Signature, SignatureKind};
use super::view::{View, ZFS_BYTES, ZFS_OFFSET};

/// A signature that is only bytes at an offset.
struct Magic {
    name: &'static str,
    kind: SignatureKind,
    offset: u64,
    bytes: &'static [u8],
}

/// Declares a row of a table.
const fn magic(
    name: &'static str,
    kind: SignatureKind,
    offset: u64,
    bytes: &'static [u8],
) -> Magic {
    Magic { name, kind, offset, bytes }
}

/// Our own formats, checked first.
const OURS: &[Magic] = &[
    magic("a snapshot's exception store", SnapshotStore, 0, b"SnAp"),
    magic("a mirror's dirty log", MirrorLog, 0, &0x4D69_5272_u32.to_le_bytes()),
];

/// All other magic numbers near the start that are long enough to be sufficient.
const MAGICS: &[Magic] = &[
    magic("XFS", FileSystem, 0, b"XFSB"),
    magic("LUKS", Encrypted, 0, b"LUKS\xba\xbe"),
    magic("LUKS", Encrypted, 0x4000, b"SKUL\xba\xbe"),
    magic("BitLocker", Encrypted, 3, b"-FVE-FS-"),
    magic("dm-integrity", Member, 0, b"integrt\0"),
    magic("dm-verity", Member, 0, b"verity\0\0"),
    magic("VDO", Member, 0, b"dmvdo001"),
    magic("thin pool metadata", Member, 32, &27_022_010_u64.to_le_bytes()),
    magic("dm-cache metadata", Member, 32, &6_142_003_u64.to_le_bytes()),
    magic("dm-writecache", Member, 0, &0x2348_9321_u32.to_le_bytes()),
    magic("Stratis", Member, 516, b"!Stra0tis\x86\xff\x02^\x41rh"),
    magic("btrfs", FileSystem, 65536 + 64, b"_BHRfS_M"),
    magic("f2fs", FileSystem, 1024, &0xF2F5_2010_u32.to_le_bytes()),
    magic("EROFS", FileSystem, 1024, &0xE0F5_E1E2_u32.to_le_bytes()),
    magic("SquashFS", FileSystem, 0, b"hsqs"),
    magic("JFS", FileSystem, 32768, b"JFS1"),
    magic("ReiserFS", FileSystem, 65536 + 52, b"ReIsEr"),
    magic("ISO 9660", FileSystem, 32769, b"CD001"),
    magic("NTFS", FileSystem, 3, b"NTFS    "),
    magic("exFAT", FileSystem, 3, b"EXFAT   "),
    magic(
        "bcache",
        Member,
        4096 + 24,
        b"\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81",
    ),
    magic(
        "bcachefs",
        FileSystem,
        4096 + 24,
        b"\xc6\x85\x73\xf6\x66\xce\x90\xa9\xd9\x6a\x60\xcf\x80\x3d\xf7\xef",
    ),
];

/// md's magic number, little-endian.
const MD_MAGIC: [u8; 4] = 0xa92b_4efc_u32.to_le_bytes();
/// A GPT header's first bytes.
pub(super) const GPT_MAGIC: &[u8] = b"EFI PART";
/// Logical block sizes for which a GPT is searched.
pub(super) const GPT_BLOCKS: [u64; 2] = [512, 4096];

/// The signature near the start.
pub(super) fn head(view: &View<'_>) -> Option<Signature> {
    of_table(view, OURS)
        .or_else(|| of_table(view, MAGICS))
        .or_else(|| ext(view))
        .or_else(|| swap(view))
        .or_else(|| lvm(view))
        .or_else(|| md(view, 0, "md RAID 1.1", true))
        .or_else(|| md(view, 4096, "md RAID 1.2", true))
        .or_else(|| gpt(view, GPT_BLOCKS))
        .or_else(|| boot_sector(view))
}

/// The signature near the end.
pub(super) fn tail(view: &View<'_>) -> Option<Signature> {
    let size = view.size;
    // 1.0: 8 KiB before the end, at a multiple of 4 KiB. 0.90: in the last whole 64 KiB.
    let at_1_0 = size.checked_sub(8192).map(|offset| offset & !4095);
    let at_0_90 = (size & !65535).checked_sub(65536);
    at_1_0
        .and_then(|offset| md(view, offset, "md RAID 1.0", true))
        .or_else(|| md(view, at_0_90?, "md RAID 0.90", false))
        .or_else(|| gpt(view, GPT_BLOCKS.map(|block| size.saturating_sub(block))))
}

/// The uberblocks of ZFS's first label: one for each KiB, in either byte order.
pub(super) fn zfs(view: &View<'_>) -> Option<Signature> {
    let magics = [0x00ba_b10c_u64.to_le_bytes(), 0x00ba_b10c_u64.to_be_bytes()];
    (ZFS_OFFSET..ZFS_OFFSET + ZFS_BYTES)
        .step_by(1024)
        .find(|&offset| magics.iter().any(|magic| view.has(offset, magic)))
        .map(|offset| Signature { name: "ZFS", kind: Member, offset, content: 0 })
}

/// The first row that matches.
fn of_table(view: &View<'_>, table: &[Magic]) -> Option<Signature> {
    let row = table.iter().find(|row| view.has(row.offset, row.bytes))?;
    Some(Signature { name: row.name, kind: row.kind, offset: row.offset, content: 0 })
}

/// ext2, ext3 and ext4 share a superblock; its features tell them apart.
fn ext(view: &View<'_>) -> Option<Signature> {
    let superblock = 1024;
    let field = |offset: u64| view.u32(superblock + offset);
    let plausible = field(0x00) > 0 && field(0x18) <= 6 && field(0x4C) <= 1;
    if !view.has(superblock + 0x38, &[0x53, 0xEF]) || !plausible {
        return None;
    }
    // Incompatible: extents, 64 bits, multiple mounts, flex groups, checksum seed and later ones.
    // Read-only compatible: huge files, group checksums, link counts, inode size, checksums.
    let (incompat, ro_compat) = (field(0x60), field(0x64));
    let name = if incompat & 0x8 != 0 {
        "an external ext journal"
    } else if incompat & 0xFFFF_FFC0 != 0 || ro_compat & 0xFFFF_FFF8 != 0 {
        "ext4"
    } else if field(0x5C) & 0x4 != 0 {
        "ext3"
    } else {
        "ext2"
    };
    Some(Signature { name, kind: FileSystem, offset: superblock + 0x38, content: 0 })
}

/// Swap space ends its first page with its name; the page's size depends on the machine.
fn swap(view: &View<'_>) -> Option<Signature> {
    let names: [&[u8]; 4] = [b"SWAPSPACE2", b"SWAP-SPACE", b"S1SUSPEND\0", b"LINHIB0001"];
    [4096, 8192, 16384, 32768, 65536]
        .map(|page: u64| page - 10)
        .into_iter()
        .find(|&offset| names.iter().any(|name| view.has(offset, name)))
        .map(|offset| Signature { name: "swap", kind: Swap, offset, content: 0 })
}

/// An LVM label is in one of the first four sectors.
fn lvm(view: &View<'_>) -> Option<Signature> {
    (0..4)
        .map(|sector| sector * 512)
        .find(|&offset| view.has(offset, b"LABELONE") && view.has(offset + 24, b"LVM2 001"))
        .map(|offset| Signature {
            name: "an LVM2 physical volume",
            kind: Member,
            offset,
            content: 0,
        })
}

/// An md superblock. Version 1 is little-endian; 0.90 is in the byte order of the machine that made
/// it.
fn md(view: &View<'_>, offset: u64, name: &'static str, version_1: bool) -> Option<Signature> {
    let mut reversed = MD_MAGIC;
    reversed.reverse();
    let found = if version_1 {
        view.has(offset, &MD_MAGIC) && view.u32(offset + 4) == 1
    } else {
        view.has(offset, &MD_MAGIC) || view.has(offset, &reversed)
    };
    found.then_some(Signature { name, kind: Member, offset, content: 0 })
}

/// A GPT header at one of the offsets.
fn gpt(view: &View<'_>, offsets: [u64; 2]) -> Option<Signature> {
    let offset = offsets.into_iter().find(|&offset| view.has(offset, GPT_MAGIC))?;
    Some(Signature { name: "a GPT partition table", kind: PartitionTable, offset, content: 0 })
}

/// A sector that ends in 55 AA: the start of a FAT, or a partition table with at least one
/// partition.
fn boot_sector(view: &View<'_>) -> Option<Signature> {
    if !view.has(510, &[0x55, 0xAA]) {
        return None;
    }
    if let Some(offset) = [54, 82].into_iter().find(|&offset| view.has(offset, b"FAT")) {
        let jumps = matches!(view.u8(0), 0xEB | 0xE9);
        if jumps {
            return Some(Signature { name: "FAT", kind: FileSystem, offset, content: 0 });
        }
    }
    let entries = [446, 462, 478, 494];
    let flags_fit = entries.iter().all(|&entry| matches!(view.u8(entry), 0x00 | 0x80));
    let partition =
        |entry: u64| view.u8(entry + 4) != 0 && view.u32(entry + 8) > 0 && view.u32(entry + 12) > 0;
    let found = flags_fit && entries.into_iter().any(partition);
    found.then_some(Signature {
        name: "an MBR partition table",
        kind: PartitionTable,
        offset: 510,
        content: 0,
    })
}
