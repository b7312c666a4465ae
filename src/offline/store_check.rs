//! Judges a snapshot's exception store: each record by itself, the end of the last area,
//! repetitions and holes.
//!
//! Rule kept here: nothing found in the store sizes an allocation, and both halves of a record are
//! judged.

use dm_targets::snapshot::format::{
    self, Cursor, Header, MIN_COW_CHUNKS, RECORD_BYTES, Record, RecordError, RecordFault,
};
use dm_targets::snapshot::status::SnapshotStatus;
use dm_targets::units::{CowChunk, MAX_LEN, Sectors};

use super::error::Error;
use super::image::{Image, Progress};
use super::report::{
    Finding, Findings, Kind, OriginReport, Report, StaleTail, StoreContents, StoreReport,
};
use super::store::{Area, AreaEnd, RECORD_LEN, Store};
use super::unique;

/// The result of the first pass over all areas.
struct Scan {
    cursor: Cursor,
    areas: u64,
    records: u64,
    last: Area,
}

impl Store<'_> {
    /// Examines the whole store and adds it to the report.
    pub(super) fn examine(
        &self,
        header: Header,
        origin: Option<&Image>,
        report: &mut Report,
    ) -> Result<(), Error> {
        let findings = &mut report.findings;
        let cow_chunks = self.layout.cow_chunks(self.cow_size);
        if header.valid == 0 {
            let text = "marked invalid: the snapshot has lost data and can no longer be used";
            findings.violation(Kind::MarkedInvalid, Some(4), text.into());
        }
        if cow_chunks < MIN_COW_CHUNKS {
            let text =
                format!("has {cow_chunks} chunks; a store needs {MIN_COW_CHUNKS} to hold anything");
            findings.violation(Kind::TooSmall, None, text);
        }
        let origin = origin.map(|image| {
            let chunks = self.layout.chunk_size.chunks_in(Sectors::from_bytes(image.size_bytes()));
            let (path, size_bytes) = (image.path().into(), image.size_bytes());
            OriginReport { path, size_bytes, chunks, is_the_stores: None }
        });
        // Without an origin there is still a bound: the longest possible device.
        let any_origin_chunks = self.layout.chunk_size.chunks_in(MAX_LEN);
        let origin_chunks = origin.as_ref().map_or(any_origin_chunks, |origin| origin.chunks);
        let scan = self.scan(origin_chunks, findings)?;
        self.check_end(&scan, findings);
        let stale_tail = if scan.last.end == AreaEnd::Terminator {
            self.stale_tail(&scan, findings)?
        } else {
            None
        };
        unique::old_chunks(self, scan.records, findings)?;
        let holes = unique::new_chunks(self, scan.records, scan.cursor.next_free(), findings)?;

        let usage = scan.cursor.usage(self.cow_size, 0);
        let valid = header.valid != 0;
        let status =
            SnapshotStatus { valid, merge_failed: false, overflowed: false, usage }.to_string();
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
        report.set_store(StoreReport {
            contents: Some(contents),
            ..StoreReport::header_only(header)
        });
        Ok(())
    }

    /// The first pass: judges each record by itself.
    fn scan(&self, origin_chunks: u64, findings: &mut Findings) -> Result<Scan, Error> {
        let last = Area { records: 0, end: AreaEnd::Full };
        let mut scan = Scan { cursor: Cursor::new(self.layout), areas: 0, records: 0, last };
        while scan.last.end == AreaEnd::Full {
            let area = scan.areas;
            let cursor = &mut scan.cursor;
            scan.last = self.read_area(area, &mut |index, record| {
                self.check_record(area, index, record, origin_chunks, findings);
                // A chunk that the record may not own affects only the count: chunk 0 moves no
                // cursor.
                let new = if self.new_is_usable(record) { record.new } else { CowChunk(0) };
                cursor.load(1, new);
                Ok(())
            })?;
            scan.records += scan.last.records;
            scan.areas += 1;
        }
        Ok(scan)
    }

    fn check_record(
        &self,
        area: u64,
        index: u64,
        record: Record,
        origin_chunks: u64,
        findings: &mut Findings,
    ) {
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

    /// Reports an area that is cut off: the kernel cannot open such a store.
    fn check_end(&self, scan: &Scan, findings: &mut Findings) {
        if scan.last.end != AreaEnd::CutOff {
            return;
        }
        let area = scan.areas - 1;
        let start = self.layout.area_start(area).bytes();
        let size = self.image.size_bytes();
        let (kind, message) = if area == 0 {
            let text = format!(
                "area 0 at byte {start} does not fit on the device, which ends at byte {size}"
            );
            (Kind::AreaBeyondEnd, text)
        } else {
            let full = area - 1;
            let text = format!(
                "area {full} is full, but area {area} at byte {start} does not fit: it ends at \
                 byte {size}"
            );
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

    /// Records after the terminator: ignored now, but the kernel keeps them, and they become valid
    /// again as soon as a new record replaces the terminator. This program clears them when it
    /// opens a store.
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
                message: format!(
                    "{records} stale records after the end of area {area}; the kernel \
                    may revive them"
                )
                .into(),
            });
        }
        Ok(tail)
    }
}
