//! The order in which records leave a store, and the blocks that are written for it.

use proptest::prelude::*;

use super::*;
use crate::units::ChunkSize;

fn layout(chunk_sectors: u64) -> Layout {
    Layout { chunk_size: ChunkSize::from_sectors(chunk_sectors).unwrap() }
}

fn record(old: u64, new: u64) -> Record {
    Record { old: Chunk(old), new: CowChunk(new) }
}

/// A tail that has read everything that a batch wants, from records as they are on the disk.
fn fill(tail: &mut Tail, disk: &[Record]) {
    while let Some(stretch) = tail.wanted() {
        let per_area = tail.layout.records_per_area();
        let start = usize::try_from(tail.start()).unwrap();
        assert!(stretch.records > 0 && stretch.count.bytes() <= u64::from(READ_BYTES).max(4096));
        let first = start - stretch.records;
        let (area, index) = (first as u64 / per_area, first as u64 % per_area);
        assert_eq!(
            stretch.at,
            tail.layout.area_start(area).plus(Sectors::from_bytes(index * RECORD_BYTES))
        );
        tail.prepend(disk[first..start].to_vec());
    }
}

fn pieces(chunk_sectors: u64, records: &[Record]) -> Vec<(u64, u64, u64)> {
    let mut tail = Tail::new(layout(chunk_sectors), 512, Bounds::default(), records.len() as u64);
    fill(&mut tail, records);
    let batch = tail.next_batch(Sectors(u64::MAX)).unwrap();
    batch.pieces.iter().map(|piece| (piece.old.0, piece.new.0, piece.count)).collect()
}

#[test]
fn runs_that_descend_on_both_disks_are_one_piece() {
    let records = [record(7, 2), record(8, 3), record(9, 4), record(20, 5), record(21, 7)];
    assert_eq!(pieces(8, &records), [(21, 7, 1), (20, 5, 1), (7, 2, 3)]);
    let down = [record(9, 2), record(8, 3)];
    assert_eq!(pieces(8, &down), [(8, 3, 1), (9, 2, 1)], "ascending on one disk only");
}

#[test]
fn a_batch_is_bounded_and_never_empty() {
    let run: Vec<Record> = (0..3000).map(|number| record(number, number + 2)).collect();
    assert_eq!(pieces(8, &run[..200]), [(0, 2, 200)]);
    // Its COW chunks are numbered as in one area here: the bound is what counts.
    assert_eq!(pieces(8, &run), [(1976, 1978, 1024)], "4 MiB");
    assert_eq!(pieces(1, &run), [(1976, 1978, 1024)], "as many records as are read");
    assert_eq!(pieces(32, &run), [(2744, 2746, 256)], "4 MiB");
    assert_eq!(pieces(1 << 21, &run), [(2999, 3001, 1)], "one chunk, however large");
    let lone: Vec<Record> = (0..600).map(|number| record(2 * number, number + 2)).collect();
    assert_eq!(pieces(8, &lone).len(), BATCH_PIECES);
}

#[test]
fn the_last_block_keeps_what_stands_before() {
    // 32 records an area, 32 a block; the second area has three.
    let records: Vec<Record> = (0..35).map(|number| record(number, number + 2)).collect();
    let mut tail = Tail::new(layout(1), 512, Bounds::default(), 35);
    fill(&mut tail, &records);
    let block =
        |at, kept: &[Record], removed| Block { at: Sector(at), kept: kept.to_vec(), removed };
    assert_eq!(tail.last_block(), block(34, &records[32..], 0));
    assert_eq!(tail.blocks(2), [block(34, &records[32..33], 2)]);
    assert_eq!(tail.blocks(4), [block(34, &[], 3), block(1, &records[..31], 1)]);
    tail.remove(3);
    assert_eq!(tail.blocks(32), [block(1, &[], 32)]);
}

proptest! {
    /// Whatever the sizes, every record leaves once, the last one first, and after each block the
    /// areas hold a prefix of their original records.
    #[test]
    fn records_leave_from_the_tail(
        count in 1_u64..2500,
        chunk_shift in 0_u32..6,
        large_blocks in any::<bool>(),
        jumps in prop::collection::vec(1_u64..4, 1..20),
        records_at_once in 1_usize..1500,
    ) {
        let block_bytes = if large_blocks { 4096 } else { 512 };
        let chunk = 1_u64 << chunk_shift;
        prop_assume!(chunk * 512 >= u64::from(block_bytes));
        let mut next = (0, 1);
        let records: Vec<Record> = (0..count)
            .map(|number| {
                let jump = jumps[usize::try_from(number).unwrap() % jumps.len()];
                next = (next.0 + jump, next.1 + 1);
                record(next.0, next.1)
            })
            .collect();
        let bounds = Bounds { records: records_at_once, ..Bounds::default() };
        let mut tail = Tail::new(layout(chunk), block_bytes, bounds, count);
        let mut left = records.clone();
        loop {
            fill(&mut tail, &records);
            let Some(batch) = tail.next_batch(Sectors(u64::MAX)) else { break };
            let chunks: u64 = batch.pieces.iter().map(|piece| piece.count).sum();
            prop_assert_eq!(chunks, batch.records as u64);
            prop_assert!(chunks * chunk <= bounds.sectors.0.max(chunk));
            let expected = left.iter().rev().take(batch.records).copied();
            prop_assert!(tail.last(batch.records).eq(expected));
            for block in tail.blocks(batch.records) {
                prop_assert!(block.removed > 0 && block.removed <= left.len());
                let per_block = block_bytes as usize / 16;
                let block_start = (left.len() - 1) / per_block * per_block;
                left.truncate(left.len() - block.removed);
                prop_assert_eq!(&block.kept[..], &left[block_start..]);
                tail.remove(block.removed);
            }
            prop_assert_eq!(tail.left(), left.len() as u64);
        }
        prop_assert!(left.is_empty());
    }
}
