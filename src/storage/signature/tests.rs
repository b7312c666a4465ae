//! Every signature on an otherwise empty disk, and random data that must not be taken for one.

use std::convert::Infallible;
use std::io::Write;

use super::*;

/// A disk of zeros with some bytes put in.
struct Image(Vec<u8>);

impl Image {
    fn new(size: usize) -> Image {
        Image(vec![0; size])
    }

    fn put(mut self, offset: usize, bytes: &[u8]) -> Image {
        self.0[offset..offset + bytes.len()].copy_from_slice(bytes);
        self
    }

    fn find(&self) -> Option<Signature> {
        let mut reads = 0;
        let read = |offset: u64, buffer: &mut [u8]| {
            reads += 1;
            assert_eq!(offset % 4096, 0);
            let from = usize::try_from(offset).unwrap();
            buffer.copy_from_slice(&self.0[from..from + buffer.len()]);
            Ok::<(), Infallible>(())
        };
        let found = find(read, self.0.len() as u64).unwrap();
        assert!(reads <= 3);
        found
    }

    fn name(&self) -> &'static str {
        self.find().map_or("nothing", |found| found.name)
    }
}

const MIB: usize = 1 << 20;

fn disk() -> Image {
    Image::new(MIB)
}

/// A superblock with the features compat, incompat, ro_compat.
fn ext(compat: u32, incompat: u32, ro_compat: u32) -> Image {
    disk()
        .put(1024, &64_u32.to_le_bytes())
        .put(1024 + 0x38, &[0x53, 0xEF])
        .put(1024 + 0x4C, &1_u32.to_le_bytes())
        .put(1024 + 0x5C, &compat.to_le_bytes())
        .put(1024 + 0x60, &incompat.to_le_bytes())
        .put(1024 + 0x64, &ro_compat.to_le_bytes())
}

#[test]
fn an_empty_disk_holds_nothing() {
    for size in [512, 4096, 65536, 131_072, MIB, MIB + 512] {
        assert_eq!(Image::new(size).find(), None);
    }
    assert_eq!(Image::new(MIB).put(0, &[0xff; MIB]).find(), None);
}

#[test]
fn stores_of_ours_come_first() {
    let store = ext(0, 0, 0).put(0, &0x7041_6E53_u32.to_le_bytes()).find().unwrap();
    assert_eq!((store.kind, store.offset), (SignatureKind::SnapshotStore, 0));
    let log = disk().put(0, &[0x72, 0x52, 0x69, 0x4d]).put(MIB - 512, b"EFI PART").find().unwrap();
    assert_eq!(log.kind, SignatureKind::MirrorLog);
}

#[test]
fn the_ext_family() {
    assert_eq!(ext(0, 0x2, 0x3).name(), "ext2");
    assert_eq!(ext(0x4, 0x6, 0x3).name(), "ext3");
    assert_eq!(ext(0x4, 0x2c2, 0x46b).name(), "ext4");
    assert_eq!(ext(0, 0x8, 0).name(), "an external ext journal");
    assert_eq!(disk().put(1024 + 0x38, &[0x53, 0xEF]).name(), "nothing");
    assert_eq!(ext(0, 0, 0).put(1024 + 0x18, &[99]).name(), "nothing");
}

#[test]
fn magic_numbers_of_file_systems() {
    assert_eq!(disk().put(0, b"XFSB").name(), "XFS");
    assert_eq!(disk().put(65600, b"_BHRfS_M").name(), "btrfs");
    assert_eq!(disk().put(32769, b"CD001").name(), "ISO 9660");
    assert_eq!(disk().put(1024, &[0x10, 0x20, 0xf5, 0xf2]).name(), "f2fs");
    assert_eq!(disk().put(3, b"NTFS    ").name(), "NTFS");
    assert_eq!(disk().put(3, b"EXFAT   ").name(), "exFAT");
    assert_eq!(disk().put(65588, b"ReIsEr2Fs").name(), "ReiserFS");
}

#[test]
fn swap_of_any_page_size() {
    for page in [4096, 8192, 16384, 65536] {
        let found = disk().put(page - 10, b"SWAPSPACE2").find().unwrap();
        assert_eq!((found.kind, found.offset), (SignatureKind::Swap, page as u64 - 10));
    }
    assert_eq!(disk().put(4086, b"S1SUSPEND\0").name(), "swap");
}

#[test]
fn encryption() {
    for (offset, magic) in [(0, b"LUKS\xba\xbe"), (0x4000, b"SKUL\xba\xbe")] {
        let found = disk().put(offset, magic).find().unwrap();
        assert_eq!((found.name, found.kind), ("LUKS", SignatureKind::Encrypted));
    }
}

#[test]
fn members_of_something_larger() {
    for sector in 0..4 {
        let image = disk().put(sector * 512, b"LABELONE");
        assert_eq!(image.name(), "nothing");
        assert_eq!(image.put(sector * 512 + 24, b"LVM2 001").name(), "an LVM2 physical volume");
    }
    let bcache = b"\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81";
    assert_eq!(disk().put(4120, bcache).name(), "bcache");
    assert_eq!(disk().put(32, &27_022_010_u64.to_le_bytes()).name(), "thin pool metadata");
    assert_eq!(disk().put(131_072 + 5 * 1024, &0x00ba_b10c_u64.to_le_bytes()).name(), "ZFS");
    assert_eq!(disk().put(131_072 + 7 * 1024, &0x00ba_b10c_u64.to_be_bytes()).name(), "ZFS");
}

#[test]
fn md_of_every_version() {
    let version_1 = [0xfc, 0x4e, 0x2b, 0xa9, 1, 0, 0, 0];
    assert_eq!(disk().put(0, &version_1).name(), "md RAID 1.1");
    assert_eq!(disk().put(4096, &version_1).name(), "md RAID 1.2");
    // Sizes that are not multiples of 4 KiB or 64 KiB: the offsets are rounded down.
    for size in [MIB, MIB + 512, MIB + 65024] {
        let at_1_0 = (size - 8192) / 4096 * 4096;
        assert_eq!(Image::new(size).put(at_1_0, &version_1).name(), "md RAID 1.0");
        let at_0_90 = size / 65536 * 65536 - 65536;
        assert_eq!(Image::new(size).put(at_0_90, &[0xfc, 0x4e, 0x2b, 0xa9]).name(), "md RAID 0.90");
        assert_eq!(Image::new(size).put(at_0_90, &[0xa9, 0x2b, 0x4e, 0xfc]).name(), "md RAID 0.90");
    }
}

#[test]
fn partition_tables() {
    for offset in [512, 4096, MIB - 512, MIB - 4096] {
        let found = disk().put(offset, b"EFI PART").find().unwrap();
        assert_eq!((found.kind, found.offset), (SignatureKind::PartitionTable, offset as u64));
    }
    let boot = || disk().put(510, &[0x55, 0xAA]);
    assert_eq!(boot().name(), "nothing");
    let entry = [0x80, 0, 0, 0, 0x83, 0, 0, 0, 0, 8, 0, 0, 0, 0, 1, 0];
    assert_eq!(boot().put(462, &entry).name(), "an MBR partition table");
    assert_eq!(boot().put(462, &entry).put(446, &[0x13]).name(), "nothing");
    assert_eq!(boot().put(462, &entry).put(512, b"EFI PART").name(), "a GPT partition table");
    assert_eq!(boot().put(0, &[0xEB, 0x3C, 0x90]).put(54, b"FAT16   ").name(), "FAT");
    assert_eq!(boot().put(0, &[0xEB, 0x58, 0x90]).put(82, b"FAT32   ").name(), "FAT");
}

#[test]
fn an_error_of_reading_is_passed_on() {
    assert_eq!(find(|_, _| Err("broken"), 4096), Err("broken"));
}

#[test]
fn an_open_file_is_read_in_blocks() {
    for (size, at) in [(MIB, MIB - 512), (MIB + 512, MIB), (3 * 512, 512)] {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&Image::new(size).put(at, b"EFI PART").0).unwrap();
        let found = find_in_file(&file, size as u64, 512).unwrap().unwrap();
        assert_eq!((found.name, found.offset), ("a GPT partition table", at as u64));
    }
    let file = tempfile::tempfile().unwrap();
    assert_eq!(find_in_file(&file, 4096, 512).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
}

/// What is found with and without a change, which is far from the magic number.
fn is_copy(image: &Image, offset: usize, byte: u8) -> bool {
    let other = Image(image.0.clone()).put(offset, &[byte]);
    image.find().unwrap().is_copy_of(&other.find().unwrap())
}

#[test]
fn content_is_identified_by_its_uuid() {
    let ext4 = ext(0x4, 0x2c2, 0x46b).put(1024 + 0x68, &[7; 16]);
    assert!(is_copy(&ext4, 1024 + 0x0C, 9), "free blocks change");
    assert!(!is_copy(&ext4, 1024 + 0x70, 9), "the UUID does not");
    for (image, uuid) in [
        (disk().put(0, b"XFSB"), 32),
        (disk().put(0, b"LUKS\xba\xbe"), 168),
        (disk().put(65600, b"_BHRfS_M"), 65536 + 32),
        (disk().put(65600, b"_BHRfS_M"), 65536 + 267),
        (disk().put(4086, b"SWAPSPACE2"), 1036),
        (disk().put(512, b"EFI PART"), 568),
        (disk().put(MIB - 512, b"EFI PART"), MIB - 456),
        (disk().put(512, b"LABELONE").put(536, b"LVM2 001"), 544),
        (disk().put(4096, &[0xfc, 0x4e, 0x2b, 0xa9, 1]), 4096 + 168),
    ] {
        let image = image.put(uuid, &[7; 16]);
        assert!(!is_copy(&image, uuid + 3, 9), "{}", image.name());
        assert!(is_copy(&image, MIB / 2, 9), "{}", image.name());
    }
}

#[test]
fn content_without_a_uuid_is_identified_by_its_superblock() {
    let squash = disk().put(0, b"hsqs");
    assert!(!is_copy(&squash, 40, 9) && is_copy(&squash, 4096, 9));
    // A UUID of zeroes is none.
    assert!(!is_copy(&ext(0x4, 0x2c2, 0x46b), 1024 + 0x0C, 9));
}

fn partitions_of(image: &Image) -> Option<Vec<Range<u64>>> {
    let read = |offset: u64, buffer: &mut [u8]| {
        assert_eq!(offset % 4096, 0);
        let from = usize::try_from(offset).unwrap();
        buffer.copy_from_slice(&image.0[from..from + buffer.len()]);
        Ok::<(), Infallible>(())
    };
    partitions(read, image.0.len() as u64, 512).unwrap()
}

#[test]
fn partitions_of_an_mbr() {
    let boot = || disk().put(510, &[0x55, 0xAA]);
    let entry = |kind, start, len| [0, 0, 0, 0, kind, 0, 0, 0, start, 0, 0, 0, len, 0, 0, 0];
    let two = boot().put(446, &entry(0x83, 8, 8)).put(494, &entry(0x05, 32, 16));
    assert_eq!(partitions_of(&two), Some(vec![0..512, 4096..8192, 16384..24576]));
    assert_eq!(
        partitions_of(&boot().put(446, &entry(0xEE, 1, 9))),
        None,
        "a GPT that is not there"
    );
    assert_eq!(partitions_of(&disk()), None);
}

#[test]
fn partitions_of_a_gpt() {
    let number = |value: u64| value.to_le_bytes();
    let table = |count: u32, each: u32| {
        disk()
            .put(512, b"EFI PART")
            .put(512 + 40, &number(34))
            .put(512 + 48, &number(2014))
            .put(512 + 72, &number(2))
            .put(512 + 80, &count.to_le_bytes())
            .put(512 + 84, &each.to_le_bytes())
    };
    let entry = |image: Image, at: usize, first: u64, last: u64| {
        let image = image.put(at, &[5; 16]).put(at + 32, &number(first));
        image.put(at + 40, &number(last))
    };
    let image = entry(entry(table(128, 128), 1024, 40, 47), 1024 + 127 * 128, 64, 79);
    let tables = [0..34 * 512, 2015 * 512..1 << 20];
    let mut expected = vec![40 * 512..48 * 512, 64 * 512..80 * 512];
    expected.extend(tables);
    assert_eq!(partitions_of(&image), Some(expected));
    assert_eq!(partitions_of(&table(128, 64)), None, "entries that are too short");
    assert_eq!(partitions_of(&table(u32::MAX, 128)), None, "too many");
}
