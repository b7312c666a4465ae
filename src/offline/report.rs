//! The result of `check` and `dump`: one structure that text and JSON are made from.
//!
//! In JSON, sizes are in bytes, an unknown value is `null` and an empty list is `[]`; keys may be
//! added, never renamed.

use std::borrow::Cow;

use dm_targets::snapshot::format::{Header, Identity};
use dm_targets::units::SECTOR_BYTES;
use serde::Serialize;

use super::image::Image;

/// How many violations are listed at most; all are counted.
pub(super) const MAX_LISTED_VIOLATIONS: usize = 1000;
/// How many holes are listed at most; all are counted.
pub(super) const MAX_LISTED_HOLES: usize = 1000;

/// The whole result.
#[derive(Serialize)]
pub(super) struct Report {
    version: u32,
    pub(super) path: String,
    /// `snapshot_store`, `mirror_log`, or `null` for neither.
    pub(super) kind: Option<&'static str>,
    pub(super) good: bool,
    pub(super) size_bytes: u64,
    /// The first 16 bytes in hexadecimal.
    pub(super) first_bytes: Option<String>,
    pub(super) snapshot_store: Option<StoreReport>,
    pub(super) mirror_log: Option<LogReport>,
    #[serde(flatten)]
    pub(super) findings: Findings,
}

/// Violations and warnings.
#[derive(Default, Serialize)]
pub(super) struct Findings {
    /// The number of violations, listed or not.
    pub(super) violations_total: u64,
    pub(super) violations: Vec<Finding>,
    /// Faults that the kernel and this program tolerate.
    pub(super) warnings: Vec<Finding>,
}

/// One fault, and its position.
#[derive(Serialize)]
pub(super) struct Finding {
    pub(super) kind: Kind,
    pub(super) area: Option<u64>,
    pub(super) index: Option<u64>,
    pub(super) offset_bytes: Option<u64>,
    pub(super) message: Cow<'static, str>,
}

/// The kinds of faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Kind {
    TooSmall,
    NoStore,
    ForeignMagic,
    BadVersion,
    BadChunkSize,
    MarkedInvalid,
    AreaBeyondEnd,
    FullAreaWithoutNext,
    OldBeyondOrigin,
    OtherOrigin,
    NewBeyondCow,
    NewTooLarge,
    NewIsMetadata,
    OldTwice,
    NewTwice,
    StaleTail,
    LogBadVersion,
    LogTooManyRegions,
    LogTruncated,
    LogPadding,
}

/// A snapshot's exception store.
#[derive(Serialize)]
pub(super) struct StoreReport {
    pub(super) header: HeaderReport,
    /// Whether a merge of the snapshot has begun and not ended, as far as the header says: the
    /// kernel's merge leaves no mark.
    pub(super) merging: bool,
    /// The store's id and origin; `null` if the kernel made the store.
    pub(super) identity: Option<IdentityReport>,
    /// `null` when the header cannot be used.
    pub(super) contents: Option<StoreContents>,
}

/// What a store records about itself, in bytes that the kernel leaves alone.
#[derive(Serialize)]
pub(super) struct IdentityReport {
    pub(super) store_id: String,
    /// The lasting name of the origin that the store was made for; `null` if it has none.
    pub(super) origin: Option<String>,
    /// The origin's size at that time.
    pub(super) origin_size_bytes: u64,
}

impl IdentityReport {
    pub(super) fn of(identity: &Identity) -> IdentityReport {
        IdentityReport {
            store_id: identity.store.to_string(),
            origin: (!identity.origin.is_empty()).then(|| identity.origin_text().to_owned()),
            origin_size_bytes: identity.origin_sectors.saturating_mul(SECTOR_BYTES),
        }
    }
}

/// The words of the header.
#[derive(Serialize)]
pub(super) struct HeaderReport {
    pub(super) valid: bool,
    pub(super) valid_word: u32,
    pub(super) version: u32,
    pub(super) chunk_sectors: u32,
    pub(super) chunk_size_bytes: u64,
}

/// The content of the areas.
#[derive(Serialize)]
pub(super) struct StoreContents {
    /// Whole chunks on the COW.
    pub(super) chunks: u64,
    pub(super) records_per_area: u64,
    /// Areas that were read, including the one that takes the next record.
    pub(super) areas: u64,
    pub(super) records: u64,
    /// Records in the last area.
    pub(super) last_area_records: u64,
    pub(super) next_free_chunk: u64,
    pub(super) used_bytes: u64,
    pub(super) total_bytes: u64,
    pub(super) metadata_bytes: u64,
    /// The arguments of the status line that the snapshot would have.
    pub(super) status: String,
    pub(super) holes: Holes,
    pub(super) stale_tail: Option<StaleTail>,
    pub(super) origin: Option<OriginReport>,
}

/// Data chunks below the next free one that no record uses: lost, but harmless.
#[derive(Default, Serialize)]
pub(super) struct Holes {
    pub(super) chunks: u64,
    /// `null` when there are too many records to list the holes; cut at a limit.
    pub(super) ranges: Option<Vec<HoleRange>>,
}

/// Data chunks from the first to the last; areas between them are not counted.
#[derive(Serialize)]
pub(super) struct HoleRange {
    pub(super) first_chunk: u64,
    pub(super) last_chunk: u64,
    pub(super) chunks: u64,
}

/// Bytes other than zero after the terminator of the last area.
#[derive(Clone, Copy, Serialize)]
pub(super) struct StaleTail {
    pub(super) area: u64,
    /// The first record that is not zero.
    pub(super) index: u64,
    /// The offset of that record.
    pub(super) offset_bytes: u64,
    /// Records that would be valid if the terminator were overwritten.
    pub(super) records: u64,
}

/// The origin that bounds the records.
#[derive(Serialize)]
pub(super) struct OriginReport {
    pub(super) path: String,
    pub(super) size_bytes: u64,
    pub(super) chunks: u64,
    /// Whether the store was made for it; `null` if that cannot be verified.
    pub(super) is_the_stores: Option<bool>,
}

/// A mirror's dirty log.
#[derive(Serialize)]
pub(super) struct LogReport {
    pub(super) version: u32,
    /// `null` in a log that was made for a mirror but never opened by one.
    pub(super) regions: Option<u64>,
    pub(super) clean_regions: Option<u64>,
    pub(super) dirty_regions: Option<u64>,
    /// The legs that the log names, in the table's order; `null` if no leg has ever failed or been
    /// changed by ublk-dm.
    pub(super) legs: Option<Vec<LegReport>>,
}

/// What a dirty log records about a leg.
#[derive(Serialize)]
pub(super) struct LegReport {
    /// The leg missed a write, and is not a source of recovery.
    pub(super) stale: bool,
}

impl Report {
    /// An empty report.
    pub(super) fn new(image: &Image) -> Report {
        Report {
            version: 1,
            path: image.path().into(),
            kind: None,
            good: false,
            size_bytes: image.size_bytes(),
            first_bytes: None,
            snapshot_store: None,
            mirror_log: None,
            findings: Findings::default(),
        }
    }

    pub(super) fn set_first_bytes(&mut self, bytes: &[u8]) {
        self.first_bytes = Some(bytes.iter().map(|byte| format!("{byte:02x}")).collect());
    }

    pub(super) fn set_store(&mut self, store: StoreReport) {
        self.kind = Some("snapshot_store");
        self.snapshot_store = Some(store);
    }

    pub(super) fn set_log(&mut self, log: LogReport) {
        self.kind = Some("mirror_log");
        self.mirror_log = Some(log);
    }

    /// The report with its verdict, its violations sorted by their offset on the device.
    pub(super) fn with_verdict(mut self) -> Report {
        self.good = self.findings.violations_total == 0;
        self.findings.violations.sort_by_key(|finding| finding.offset_bytes);
        self
    }
}

impl Findings {
    /// Adds a violation that belongs to no record.
    pub(super) fn violation(&mut self, kind: Kind, offset_bytes: Option<u64>, message: String) {
        self.add(Finding { kind, area: None, index: None, offset_bytes, message: message.into() });
    }

    /// Adds a violation.
    pub(super) fn add(&mut self, finding: Finding) {
        self.violations_total += 1;
        if self.violations.len() < MAX_LISTED_VIOLATIONS {
            self.violations.push(finding);
        }
    }

    /// Whether one more violation would be listed; if not, its text need not be formatted.
    pub(super) fn has_room(&self) -> bool {
        self.violations.len() < MAX_LISTED_VIOLATIONS
    }

    /// Counts a violation that is not listed.
    pub(super) fn count_only(&mut self) {
        self.violations_total += 1;
    }
}

impl StoreReport {
    /// A store of which only the header could be read.
    pub(super) fn header_only(header: Header) -> StoreReport {
        let header = HeaderReport {
            valid: header.valid != 0,
            valid_word: header.valid,
            version: header.version,
            chunk_sectors: header.chunk_sectors,
            chunk_size_bytes: u64::from(header.chunk_sectors) * SECTOR_BYTES,
        };
        StoreReport { header, merging: false, identity: None, contents: None }
    }
}
