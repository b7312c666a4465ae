//! The format of snapshot stores: bytes, positions and numbers, compared with the kernel's.

use super::*;
use crate::units::{Chunk, ChunkSize, CowChunk, Sectors};

fn layout(sectors: u64) -> Layout {
    Layout { chunk_size: ChunkSize::from_sectors(sectors).unwrap() }
}

#[test]
fn the_header_is_the_kernels() {
    let fresh = Header::new(ChunkSize::from_sectors(8).unwrap(), true).encode();
    assert_eq!(fresh, *b"SnAp\x01\0\0\0\x01\0\0\0\x08\0\0\0");
    assert!(matches!(examine(&fresh), Ok(Found::Store { .. })));
    let invalid = Header::new(ChunkSize::from_sectors(8).unwrap(), false).encode();
    assert_eq!(invalid, *b"SnAp\0\0\0\0\x01\0\0\0\x08\0\0\0");
    assert_eq!(examine(&[0; 16]), Ok(Found::Empty));
    assert_eq!(
        examine(b"\0\0\0\0abcdefghijkl"),
        Ok(Found::Empty),
        "only the magic word is looked at"
    );
    assert_eq!(
        examine(b"ABCD\x01\0\0\0\x01\0\0\0\x08\0\0\0"),
        Err(HeaderError::Foreign { magic: 0x4443_4241 })
    );
    for sectors in [0_u8, 3, 7] {
        let mut bytes = fresh;
        bytes[12] = sectors;
        assert_eq!(examine(&bytes), Err(HeaderError::ChunkSize { sectors: sectors.into() }));
    }
    let mut bytes = fresh;
    bytes[8] = 2;
    assert_eq!(examine(&bytes), Err(HeaderError::Version { version: 2 }));
}

#[test]
fn areas_lie_where_the_kernel_puts_them() {
    let small = layout(8);
    assert_eq!([0, 1, 2].map(|area| small.area_chunk(area).0), [1, 0x102, 0x203]);
    let larger = layout(16);
    assert_eq!([0, 1].map(|area| larger.area_start(area).bytes()), [0x2000, 0x40_4000]);
    assert!(small.is_metadata(CowChunk(258)) && !small.is_metadata(CowChunk(257)));
}

#[test]
fn usage_matches_observed_status_lines() {
    let total = Sectors(32768);
    let line = |cursor: &Cursor| {
        let usage = cursor.usage(total, 0);
        (usage.allocated.0, usage.metadata.0)
    };
    let mut cursor = Cursor::new(layout(8));
    assert_eq!(line(&cursor), (16, 16));
    for index in 0..300 {
        let new = cursor.allocate(total).unwrap();
        assert_eq!(new.0, if index < 256 { 2 + index } else { 3 + index });
        cursor.commit();
        if index == 255 {
            assert_eq!(line(&cursor), (2072, 24));
        }
    }
    assert_eq!(line(&cursor), (2424, 24));
}

#[test]
fn stores_with_holes_go_on_after_their_highest_chunk() {
    let mut cursor = Cursor::new(layout(8));
    cursor.load(1, CowChunk(2));
    cursor.load(1, CowChunk(257));
    assert_eq!(cursor.allocate(Sectors(3200)), Some(CowChunk(259)));
    let mut cursor = Cursor::new(layout(8));
    cursor.load(200, CowChunk(201));
    cursor.load(1, CowChunk(260));
    cursor.load(1, CowChunk(257));
    assert_eq!(cursor.allocate(Sectors(3200)), Some(CowChunk(261)));
    let mut cursor = Cursor::new(layout(8));
    cursor.load(2 * 256 + 7, CowChunk(5));
    assert_eq!((cursor.position(), cursor.next_free()), ((2, 7), CowChunk(6)));
}

#[test]
fn a_cow_that_ends_with_a_stride_is_full_one_record_early() {
    // 258 chunks: header, area 0, 256 data chunks, and no room for area 1
    let exact = Sectors(258 * 8);
    let mut cursor = Cursor::new(layout(8));
    for _ in 0..255 {
        assert!(cursor.allocate(exact).is_some());
    }
    assert_eq!(cursor.allocate(exact), None);
    // one chunk more holds area 1, so its predecessor may be filled
    assert!(cursor.allocate(Sectors(259 * 8)).is_some());
    assert_eq!(cursor.allocate(Sectors(259 * 8)), None);
}

#[test]
fn records_are_checked_one_by_one() {
    let check = |old, new| {
        check_record(layout(8), Record { old: Chunk(old), new: CowChunk(new) }, Some(10), 300)
    };
    assert_eq!(check(9, 299), None);
    assert_eq!(check(10, 2), Some(RecordFault::OldBeyondOrigin));
    assert_eq!(check(0, 300), Some(RecordFault::NewBeyondCow));
    assert_eq!(check(0, u64::MAX), Some(RecordFault::NewBeyondCow));
    assert_eq!(check(0, 258), Some(RecordFault::NewIsMetadata));
    assert_eq!(check(0, 1), Some(RecordFault::NewIsMetadata));
}
