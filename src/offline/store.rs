//! A snapshot's exception store, area by area.
//!
//! The areas are read several times (once for the records by themselves, then for repetitions, then for `dump`) rather
//! than kept: a store may have more records than there is memory.

use dm_targets::snapshot::format::{
    self, Cursor, Header, Layout, MIN_COW_CHUNKS, NEW_CHUNK_LIMIT, RECORD_BYTES, Record, RecordError, RecordFault,
};
use dm_targets::snapshot::status::SnapshotStatus;
use dm_targets::units::{Chunk, ChunkSize, CowChunk, MAX_LEN, Sectors};

use super::Error;
use super::image::{Image, Progress};
use super::report::{Finding, Findings, Kind, OriginReport, Report, StaleTail, StoreContents, StoreReport};
use super::unique;

/// The length of a record as memory counts it; 16, so the cast keeps everything.
#[allow(clippy::cast_possible_truncation)]
const RECORD_LEN: usize = RECORD_BYTES as usize;

/// A store whose header can be used.
pub(super) struct Store<'a> {
    image: &'a Image,
    layout: Layout,
    cow_size: Sectors,
}

/// What one area turned out to be.
pub(super) struct Area {
    /// Records before the terminator, or before the end of the area or device.
    pub(super) records: u64,
    /// How it ends.
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

/// What the first pass over all areas collects.
struct Scan {
    cursor: Cursor,
    areas: u64,
    records: u64,
    last: Area,
}

impl<'a> Store<'a> {
    pub(super) fn new(image: &'a Image, chunk_size: ChunkSize) -> Store<'a> {
        Store { image, layout: Layout { chunk_size }, cow_size: Sectors::from_bytes(image.size_bytes()) }
    }

    /// Where things are.
    pub(super) fn layout(&self) -> Layout {
        self.layout
    }

    /// Whether the COW chunk of a record can be its own: on the device, and not metadata.
    pub(super) fn new_is_usable(&self, record: Record) -> bool {
        format::check_record(self.layout, record, None, self.layout.cow_chunks(self.cow_size)).is_none()
    }

    /// Where a record is on the device.
    pub(super) fn record_offset_bytes(&self, area: u64, index: u64) -> u64 {
        self.layout.area_start(area).bytes() + index * RECORD_BYTES
    }

    /// Goes through the records of one area with their indices.
    pub(super) fn read_area(
        &self,
        area: u64,
        visit: &mut dyn FnMut(u64, Record) -> Result<(), Error>,
    ) -> Result<Area, Error> {
        let len_bytes = self.layout.chunk_size.bytes();
        let mut found = Area { records: 0, end: AreaEnd::Full };
        self.image.read_pieces(self.layout.area_start(area).bytes(), len_bytes, &mut |_, bytes| {
            for bytes in bytes.chunks_exact(RECORD_LEN) {
                let Some(record) = Record::decode(bytes) else {
                    found.end = AreaEnd::Terminator;
                    return Ok(Progress::Enough);
                };
                visit(found.records, record)?;
                found.records += 1;
            }
            Ok(Progress::More)
        })?;
        if self.layout.area_chunk(area).0 >= self.layout.cow_chunks(self.cow_size) {
            found.end = AreaEnd::CutOff;
        }
        Ok(found)
    }

    /// Goes through all records with their areas and indices.
    pub(super) fn read_all(&self, visit: &mut dyn FnMut(u64, u64, Record) -> Result<(), Error>) -> Result<(), Error> {
        for area in 0.. {
            if self.read_area(area, &mut |index, record| visit(area, index, record))?.end != AreaEnd::Full {
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

    /// Examines everything and adds it to the report.
    pub(super) fn examine(&self, header: Header, origin: Option<&Image>, report: &mut Report) -> Result<(), Error> {
        let findings = &mut report.findings;
        let cow_chunks = self.layout.cow_chunks(self.cow_size);
        if header.valid == 0 {
            let text = "marked invalid: the snapshot lost something and cannot be used any more";
            findings.violation(Kind::MarkedInvalid, Some(4), text.into());
        }
        if cow_chunks < MIN_COW_CHUNKS {
            let text = format!("has {cow_chunks} chunks; a store needs {MIN_COW_CHUNKS} to hold anything");
            findings.violation(Kind::TooSmall, None, text);
        }
        let origin = origin.map(|image| {
            let chunks = self.layout.chunk_size.chunks_in(Sectors::from_bytes(image.size_bytes()));
            OriginReport { path: image.path().into(), size_bytes: image.size_bytes(), chunks }
        });
        // Without an origin there is still a bound: no device is longer than that.
        let any_origin_chunks = self.layout.chunk_size.chunks_in(MAX_LEN);
        let origin_chunks = origin.as_ref().map_or(any_origin_chunks, |origin| origin.chunks);
        let scan = self.scan(origin_chunks, findings)?;
        self.judge_end(&scan, findings);
        let stale_tail = if scan.last.end == AreaEnd::Terminator { self.stale_tail(&scan, findings)? } else { None };
        unique::old_chunks(self, scan.records, findings)?;
        let holes = unique::new_chunks(self, scan.records, scan.cursor.next_free(), findings)?;

        let usage = scan.cursor.usage(self.cow_size, 0);
        let valid = header.valid != 0;
        let status = SnapshotStatus { valid, merge_failed: false, overflowed: false, usage }.to_string();
        let contents = StoreContents {
            chunks: cow_chunks,
            records_per_area: self.layout.records_per_area(),
            areas: scan.areas,
            records: scan.records,
            last_area_records: scan.last.records,
            next_free_chunk: scan.cursor.next_free().0,
            used_bytes: usage.allocated.bytes(),
            total_bytes: usage.total.bytes(),
            metadata_bytes: usage.metadata.bytes(),
            status,
            holes,
            stale_tail,
            origin,
        };
        report.set_store(StoreReport { contents: Some(contents), ..StoreReport::header_only(header) });
        Ok(())
    }

    /// The first pass: each record by itself.
    fn scan(&self, origin_chunks: u64, findings: &mut Findings) -> Result<Scan, Error> {
        let last = Area { records: 0, end: AreaEnd::Full };
        let mut scan = Scan { cursor: Cursor::new(self.layout), areas: 0, records: 0, last };
        while scan.last.end == AreaEnd::Full {
            let area = scan.areas;
            let cursor = &mut scan.cursor;
            scan.last = self.read_area(area, &mut |index, record| {
                self.judge(area, index, record, origin_chunks, findings);
                // A chunk that is not the record's own takes part in nothing but the count: chunk 0 moves no cursor.
                let new = if self.new_is_usable(record) { record.new } else { CowChunk(0) };
                cursor.load(1, new);
                Ok(())
            })?;
            scan.records += scan.last.records;
            scan.areas += 1;
        }
        Ok(scan)
    }

    fn judge(&self, area: u64, index: u64, record: Record, origin_chunks: u64, findings: &mut Findings) {
        let cow_chunks = self.layout.cow_chunks(self.cow_size);
        let fault = format::check_record(self.layout, record, Some(origin_chunks), cow_chunks);
        let Some(fault) = fault else { return };
        self.add(findings, RecordError { area, index, record, fault }, "");
        if fault == RecordFault::OldBeyondOrigin {
            // Both halves of a record may be wrong.
            if let Some(fault) = format::check_record(self.layout, record, None, cow_chunks) {
                self.add(findings, RecordError { area, index, record, fault }, "");
            }
        }
    }

    /// Notes something wrong with a record.
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

    /// An area that is not all there: the kernel cannot open such a store.
    fn judge_end(&self, scan: &Scan, findings: &mut Findings) {
        if scan.last.end != AreaEnd::CutOff {
            return;
        }
        let area = scan.areas - 1;
        let start = self.layout.area_start(area).bytes();
        let size = self.image.size_bytes();
        let (kind, message) = if area == 0 {
            let text = format!("area 0 at byte {start} does not fit on the device, which ends at byte {size}");
            (Kind::AreaBeyondEnd, text)
        } else {
            let full = area - 1;
            let text =
                format!("area {full} is full, but area {area} at byte {start} does not fit: it ends at byte {size}");
            (Kind::FullAreaWithoutNext, text)
        };
        findings.add(Finding {
            kind,
            area: Some(area),
            index: None,
            offset_bytes: Some(start),
            message: message.into(),
        });
    }

    /// Records behind the terminator: ignored now, but the kernel keeps them and they count again as soon as a new
    /// record takes the terminator's place. This program clears them when it opens a store.
    fn stale_tail(&self, scan: &Scan, findings: &mut Findings) -> Result<Option<StaleTail>, Error> {
        const ZERO_RECORD: [u8; RECORD_LEN] = [0; RECORD_LEN];
        let area = scan.areas - 1;
        let area_start = self.layout.area_start(area).bytes();
        let tail_start = self.record_offset_bytes(area, scan.last.records + 1);
        let len_bytes = (area_start + self.layout.chunk_size.bytes()).saturating_sub(tail_start);
        let mut tail: Option<StaleTail> = None;
        let zeroes = vec![0; 1 << 20];
        self.image.read_pieces(tail_start, len_bytes, &mut |at, bytes| {
            if zeroes.get(..bytes.len()) == Some(bytes) {
                return Ok(Progress::More);
            }
            for (place, record) in bytes.chunks_exact(RECORD_LEN).enumerate() {
                if record == ZERO_RECORD {
                    continue;
                }
                let offset_bytes = at + place as u64 * RECORD_BYTES;
                let index = (offset_bytes - area_start) / RECORD_BYTES;
                let tail = tail.get_or_insert(StaleTail { area, index, offset_bytes, records: 0 });
                tail.records += u64::from(Record::decode(record).is_some());
            }
            Ok(Progress::More)
        })?;
        if let Some(StaleTail { offset_bytes, index, records, .. }) = tail {
            findings.warnings.push(Finding {
                kind: Kind::StaleTail,
                area: Some(area),
                index: Some(index),
                offset_bytes: Some(offset_bytes),
                message: format!("{records} stale records after the end of area {area}; the kernel may revive them")
                    .into(),
            });
        }
        Ok(tail)
    }

    /// Data chunks before a COW chunk.
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
    /// A run of one.
    pub(super) fn new(index: u64, record: Record) -> Run {
        Run { index, old: record.old, new: record.new, count: 1 }
    }

    /// Takes in the next record, if it goes on where the run ends.
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
