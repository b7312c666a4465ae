//! A snapshot's exception store, and how its areas are read.
//!
//! The areas are read several times (for each record by itself, for repetitions, for `dump`) rather
//! than kept: a store may have more records than fit in memory. `store_check` judges the store.

use dm_targets::snapshot::format::{
    self, Layout, NEW_CHUNK_LIMIT, RECORD_BYTES, Record, RecordError, RecordFault,
};
use dm_targets::units::{Chunk, ChunkSize, CowChunk, Sectors};

use super::error::Error;
use super::image::{Image, Progress};
use super::report::{Finding, Findings, Kind};

/// The length of a record as a `usize`; it is 16, so the cast loses nothing.
#[allow(clippy::cast_possible_truncation)]
pub(super) const RECORD_LEN: usize = RECORD_BYTES as usize;

/// A store whose header is usable.
pub(super) struct Store<'a> {
    pub(super) image: &'a Image,
    pub(super) layout: Layout,
    pub(super) cow_size: Sectors,
}

/// The result of reading one area.
pub(super) struct Area {
    /// Records before the terminator, or before the end of the area or device.
    pub(super) records: u64,
    /// How the area ends.
    pub(super) end: AreaEnd,
}

/// How an area ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AreaEnd {
    /// With a terminator; there are no more areas.
    Terminator,
    /// Full; the next area follows.
    Full,
    /// The device ends before the area does.
    CutOff,
}

impl<'a> Store<'a> {
    pub(super) fn new(image: &'a Image, chunk_size: ChunkSize) -> Store<'a> {
        Store {
            image,
            layout: Layout { chunk_size },
            cow_size: Sectors::from_bytes(image.size_bytes()),
        }
    }

    /// Where areas and chunks are.
    pub(super) fn layout(&self) -> Layout {
        self.layout
    }

    /// Whether a record may own its COW chunk: the chunk is on the device, and not metadata.
    pub(super) fn new_is_usable(&self, record: Record) -> bool {
        format::check_record(self.layout, record, None, self.layout.cow_chunks(self.cow_size))
            .is_none()
    }

    /// The offset of a record on the device.
    pub(super) fn record_offset_bytes(&self, area: u64, index: u64) -> u64 {
        self.layout.area_start(area).bytes() + index * RECORD_BYTES
    }

    /// Visits the records of one area with their indices.
    pub(super) fn read_area(
        &self,
        area: u64,
        visit: &mut dyn FnMut(u64, Record) -> Result<(), Error>,
    ) -> Result<Area, Error> {
        let len_bytes = self.layout.chunk_size.bytes();
        let mut found = Area { records: 0, end: AreaEnd::Full };
        self.image.read_pieces(
            self.layout.area_start(area).bytes(),
            len_bytes,
            &mut |_, bytes| {
                for bytes in bytes.chunks_exact(RECORD_LEN) {
                    let Some(record) = Record::decode(bytes) else {
                        found.end = AreaEnd::Terminator;
                        return Ok(Progress::Enough);
                    };
                    visit(found.records, record)?;
                    found.records += 1;
                }
                Ok(Progress::More)
            },
        )?;
        if self.layout.area_chunk(area).0 >= self.layout.cow_chunks(self.cow_size) {
            found.end = AreaEnd::CutOff;
        }
        Ok(found)
    }

    /// Visits all records with their areas and indices.
    pub(super) fn read_all(
        &self,
        visit: &mut dyn FnMut(u64, u64, Record) -> Result<(), Error>,
    ) -> Result<(), Error> {
        for area in 0.. {
            if self.read_area(area, &mut |index, record| visit(area, index, record))?.end
                != AreaEnd::Full
            {
                break;
            }
        }
        Ok(())
    }

    /// Reads one record again.
    pub(super) fn record_at(&self, area: u64, index: u64) -> Result<Option<Record>, Error> {
        let mut bytes = [0; RECORD_LEN];
        self.image.read(self.record_offset_bytes(area, index), &mut bytes)?;
        Ok(Record::decode(&bytes))
    }

    /// Adds a faulty record to the findings.
    pub(super) fn add(&self, findings: &mut Findings, error: RecordError, more: &str) {
        let RecordError { area, index, record, fault } = error;
        let kind = match fault {
            RecordFault::OldBeyondOrigin => Kind::OldBeyondOrigin,
            RecordFault::NewBeyondCow if record.new.0 >= NEW_CHUNK_LIMIT => Kind::NewTooLarge,
            RecordFault::NewBeyondCow => Kind::NewBeyondCow,
            RecordFault::NewIsMetadata => Kind::NewIsMetadata,
            RecordFault::OldTwice => Kind::OldTwice,
            RecordFault::NewTwice => Kind::NewTwice,
        };
        if !findings.has_room() {
            return findings.count_only();
        }
        findings.add(Finding {
            kind,
            area: Some(area),
            index: Some(index),
            offset_bytes: Some(self.record_offset_bytes(area, index)),
            message: format!("{error}{more}").into(),
        });
    }

    /// The number of data chunks before a COW chunk.
    pub(super) fn data_chunks_before(&self, chunk: CowChunk) -> u64 {
        let stride = self.layout.records_per_area() + 1;
        let areas = chunk.0.saturating_sub(self.layout.area_chunk(0).0).div_ceil(stride);
        chunk.0.saturating_sub(areas + 1)
    }

    /// The number of a record, counted over all areas.
    pub(super) fn ordinal(&self, area: u64, index: u64) -> u64 {
        area * self.layout.records_per_area() + index
    }

    /// The area and index of a record by its number.
    pub(super) fn place(&self, ordinal: u64) -> (u64, u64) {
        (ordinal / self.layout.records_per_area(), ordinal % self.layout.records_per_area())
    }
}

/// Consecutive records whose chunks ascend together, for people to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) index: u64,
    pub(super) old: Chunk,
    pub(super) new: CowChunk,
    pub(super) count: u64,
}

impl Run {
    /// A run of one record.
    pub(super) fn new(index: u64, record: Record) -> Run {
        Run { index, old: record.old, new: record.new, count: 1 }
    }

    /// Adds the next record, if it continues the run.
    pub(super) fn extend(&mut self, record: Record) -> bool {
        let next = |first: u64| first.checked_add(self.count);
        let fits = next(self.old.0) == Some(record.old.0) && next(self.new.0) == Some(record.new.0);
        self.count += u64::from(fits);
        fits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_records_that_ascend_together() {
        let record = |old, new| Record { old: Chunk(old), new: CowChunk(new) };
        let mut run = Run::new(7, record(5, 2));
        assert!(run.extend(record(6, 3)));
        for other in [record(6, 3), record(7, 5), record(8, 4), record(0, 0)] {
            assert!(!run.extend(other));
        }
        assert!(run.extend(record(7, 4)));
        assert_eq!(run, Run { index: 7, old: Chunk(5), new: CowChunk(2), count: 3 });
        let mut last = Run::new(0, record(u64::MAX, u64::MAX));
        assert!(!last.extend(record(0, 0)));
    }

    #[test]
    fn data_chunks_are_counted_between_areas() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let image = Image::open(file.path()).unwrap();
        let store = Store::new(&image, ChunkSize::from_sectors(1).unwrap());
        let mut data_chunks = 0;
        for chunk in (0..200).map(CowChunk) {
            assert_eq!(store.data_chunks_before(chunk), data_chunks, "{chunk:?}");
            data_chunks += u64::from(!store.layout().is_metadata(chunk));
        }
    }
}
