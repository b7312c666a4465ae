//! Repetitions among records, and the holes between them, in bounded memory.
//!
//! The numbers of all records are sorted. If there are more than [`PART_RECORDS`], a keyed hash
//! divides them into as many parts as needed and the areas are read once per part, so neither a
//! huge store nor a crafted one takes more than about 32 bytes times that limit.

use std::hash::{BuildHasher, RandomState};

use dm_targets::snapshot::format::{Record, RecordError, RecordFault};
use dm_targets::units::CowChunk;

use super::error::Error;
use super::report::{Findings, HoleRange, Holes, MAX_LISTED_HOLES};
use super::store::Store;

/// How many records are sorted at once: 256 MiB of numbers.
const PART_RECORDS: u64 = 1 << 24;

/// Finds records of the same origin chunk.
pub(super) fn old_chunks(
    store: &Store<'_>,
    records: u64,
    findings: &mut Findings,
) -> Result<(), Error> {
    let mut search =
        Search { store, fault: RecordFault::OldTwice, findings, seen: Vec::new(), repeated: 0 };
    search.run(records, PART_RECORDS, &|record| Some(record.old.0))?;
    Ok(())
}

/// Finds records that use the same COW chunk, and the data chunks before `next_free` that no record
/// uses.
pub(super) fn new_chunks(
    store: &Store<'_>,
    records: u64,
    next_free: CowChunk,
    findings: &mut Findings,
) -> Result<Holes, Error> {
    let mut search =
        Search { store, fault: RecordFault::NewTwice, findings, seen: Vec::new(), repeated: 0 };
    let used = search.run(records, PART_RECORDS, &|record| {
        store.new_is_usable(record).then_some(record.new.0)
    })?;
    let chunks = store.data_chunks_before(next_free).saturating_sub(used);
    let ranges = (records <= PART_RECORDS).then(|| hole_ranges(store, &search.seen));
    Ok(Holes { chunks, ranges })
}

/// A search for repeated numbers of one kind.
struct Search<'a, 'b> {
    store: &'a Store<'b>,
    fault: RecordFault,
    findings: &'a mut Findings,
    /// Numbers of the current part, and the records that have them.
    seen: Vec<(u64, u64)>,
    repeated: u64,
}

impl Search<'_, '_> {
    /// Searches all records and returns the count of different numbers.
    fn run(
        &mut self,
        records: u64,
        part_records: u64,
        key: &dyn Fn(Record) -> Option<u64>,
    ) -> Result<u64, Error> {
        let parts = records.div_ceil(part_records).max(1);
        let mut numbers = 0;
        let dealer = RandomState::new();
        for part in 0..parts {
            self.seen.clear();
            let mut limit = usize::try_from(part_records.saturating_mul(2)).unwrap_or(usize::MAX);
            let store = self.store;
            store.read_all(&mut |area, index, record| {
                let Some(key) = key(record) else { return Ok(()) };
                if parts > 1 && dealer.hash_one(key) % parts != part {
                    return Ok(());
                }
                numbers += 1;
                self.seen.push((key, store.ordinal(area, index)));
                if self.seen.len() >= limit {
                    // Only repetitions, or a very uneven hash, fill a part that far.
                    self.report_repeated()?;
                    limit = limit.max(self.seen.len() * 2);
                }
                Ok(())
            })?;
            self.report_repeated()?;
        }
        Ok(numbers - self.repeated)
    }

    /// Sorts the numbers seen, reports repetitions and drops them.
    fn report_repeated(&mut self) -> Result<(), Error> {
        self.seen.sort_unstable();
        for pair in self.seen.windows(2) {
            let [(first, earlier), (second, later)] = pair else { continue };
            if first != second {
                continue;
            }
            self.repeated += 1;
            let ((area, index), (earlier_area, earlier_index)) =
                (self.store.place(*later), self.store.place(*earlier));
            let record =
                if self.findings.has_room() { self.store.record_at(area, index)? } else { None };
            // Without a record the list is full, or the device has changed since it was read.
            let Some(record) = record else {
                self.findings.count_only();
                continue;
            };
            let more = format!(", as record {earlier_index} of area {earlier_area}");
            self.store.add(
                self.findings,
                RecordError { area, index, record, fault: self.fault },
                &more,
            );
        }
        self.seen.dedup_by_key(|(key, _)| *key);
        Ok(())
    }
}

/// The gaps between sorted COW chunks, from the first data chunk on.
fn hole_ranges(store: &Store<'_>, seen: &[(u64, u64)]) -> Vec<HoleRange> {
    let mut ranges = Vec::new();
    let mut next = 2;
    for (chunk, _) in seen {
        if ranges.len() == MAX_LISTED_HOLES {
            break;
        }
        ranges.extend(hole(store, next, *chunk));
        next = chunk + 1;
    }
    ranges
}

/// The data chunks from `first` up to, not including, `end`.
fn hole(store: &Store<'_>, first: u64, end: u64) -> Option<HoleRange> {
    let chunks = store
        .data_chunks_before(CowChunk(end))
        .checked_sub(store.data_chunks_before(CowChunk(first)))?;
    if chunks == 0 {
        return None;
    }
    // No two areas lie side by side.
    let first_chunk = first + u64::from(store.layout().is_metadata(CowChunk(first)));
    let last_chunk = end - 1 - u64::from(store.layout().is_metadata(CowChunk(end - 1)));
    Some(HoleRange { first_chunk, last_chunk, chunks })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::offline::image::Image;
    use dm_targets::units::{Chunk, ChunkSize};
    use std::io::Write;

    /// A store of one-sector chunks with these records, and free chunks after them.
    fn with_store(records: &[Record], test: impl FnOnce(&Store<'_>)) {
        let chunk_size = ChunkSize::from_sectors(1).unwrap();
        let mut bytes = vec![0; (records.len() + 200) * 512];
        let layout = dm_targets::snapshot::format::Layout { chunk_size };
        for (number, record) in records.iter().enumerate() {
            let (area, index) = (number / 32, number % 32);
            let start =
                usize::try_from(layout.area_start(area as u64).bytes()).unwrap() + index * 16;
            bytes[start..start + 16].copy_from_slice(&record.encode());
        }
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&bytes).unwrap();
        let image = Image::open(file.path()).unwrap();
        test(&Store::new(&image, chunk_size));
    }

    #[test]
    fn parts_find_what_one_search_finds() {
        // 100 records, of which 20 repeat an origin chunk and 30 are about the same one
        let old = |number: u64| if number < 70 { number % 50 } else { 1000 };
        let records: Vec<_> = (0..100)
            .map(|n| Record { old: Chunk(old(n)), new: CowChunk(n + 2 + n / 32) })
            .collect();
        with_store(&records, |store| {
            for part_records in [1, 3, 10, 99, 100, 1000] {
                let mut findings = Findings::default();
                let fault = RecordFault::OldTwice;
                let mut search =
                    Search { store, fault, findings: &mut findings, seen: Vec::new(), repeated: 0 };
                let different =
                    search.run(100, part_records, &|record| Some(record.old.0)).unwrap();
                assert_eq!((different, findings.violations_total), (51, 49), "{part_records}");
                let mut places: Vec<_> =
                    findings.violations.iter().map(|found| (found.area, found.index)).collect();
                places.sort_unstable();
                let expected =
                    (50..70).chain(71..100).map(|number| (Some(number / 32), Some(number % 32)));
                assert!(places.into_iter().eq(expected), "{part_records}");
            }
        });
    }

    #[test]
    fn holes_are_data_chunks_only() {
        // 2..=33 are the data chunks of the first stride, 34 is an area
        let records = [2, 3, 6, 32, 36].map(|new| Record { old: Chunk(new), new: CowChunk(new) });
        with_store(&records, |store| {
            let holes = new_chunks(store, 5, CowChunk(37), &mut Findings::default()).unwrap();
            let ranges = holes.ranges.unwrap();
            let ranges: Vec<_> = ranges
                .iter()
                .map(|hole| (hole.first_chunk, hole.last_chunk, hole.chunks))
                .collect();
            assert_eq!(ranges, [(4, 5, 2), (7, 31, 25), (33, 35, 2)]);
            assert_eq!(holes.chunks, 29);
        });
    }
}
