//! What `check` and `dump` found: one structure that text and JSON are made from.
//!
//! In JSON sizes are bytes, unknown is `null` and an empty list is `[]`; keys may be added, never
//! renamed.

use std::borrow::Cow;

use dm_targets::snapshot::format::{Header, Identity};
use dm_targets::units::SECTOR_BYTES;
use serde::Serialize;

use super::image::Image;

/// Most violations that are listed; all are counted.
pub(super) const MAX_LISTED_VIOLATIONS: usize = 1000;
/// Most holes that are listed; all are counted.
pub(super) const MAX_LISTED_HOLES: usize = 1000;

/// Everything that was found.
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

/// What is wrong, and what is odd.
#[derive(Default, Serialize)]
pub(super) struct Findings {
    /// How many violations there are, listed or not.
    pub(super) violations_total: u64,
    pub(super) violations: Vec<Finding>,
    /// What the kernel and this program live with.
    pub(super) warnings: Vec<Finding>,
}

/// One thing that is wrong, and where.
#[derive(Serialize)]
pub(super) struct Finding {
    pub(super) kind: Kind,
    pub(super) area: Option<u64>,
    pub(super) index: Option<u64>,
    pub(super) offset_bytes: Option<u64>,
    pub(super) message: Cow<'static, str>,
}

/// What can be wrong.
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
    /// Which store it is and whose; `null` if the kernel has made it.
    pub(super) identity: Option<IdentityReport>,
    /// `null` from here on when the header cannot be used.
    pub(super) contents: Option<StoreContents>,
}

/// What a store says of itself in bytes that the kernel leaves alone.
#[derive(Serialize)]
pub(super) struct IdentityReport {
    pub(super) store_id: String,
    /// The origin that it was made for, by a name that lasts; `null` if that has none.
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

/// The header's words.
#[derive(Serialize)]
pub(super) struct HeaderReport {
    pub(super) valid: bool,
    pub(super) valid_word: u32,
    pub(super) version: u32,
    pub(super) chunk_sectors: u32,
    pub(super) chunk_size_bytes: u64,
}

/// What the areas say.
#[derive(Serialize)]
pub(super) struct StoreContents {
    /// Whole chunks on the COW.
    pub(super) chunks: u64,
    pub(super) records_per_area: u64,
    /// Areas that were read, the one that takes the next record included.
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

/// Data chunks below the next free one that no record names: lost, but harmless.
#[derive(Default, Serialize)]
pub(super) struct Holes {
    pub(super) chunks: u64,
    /// `null` when there are too many records to list the holes between them; cut at a limit.
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
    /// Where it starts.
    pub(super) offset_bytes: u64,
    /// Records that would count if the terminator were overwritten.
    pub(super) records: u64,
}

/// The origin that bounds the records.
#[derive(Serialize)]
pub(super) struct OriginReport {
    pub(super) path: String,
    pub(super) size_bytes: u64,
    pub(super) chunks: u64,
}

/// A mirror's dirty log.
#[derive(Serialize)]
pub(super) struct LogReport {
    pub(super) version: u32,
    /// `null` in a log that was made for a mirror but never opened by one.
    pub(super) regions: Option<u64>,
    pub(super) clean_regions: Option<u64>,
    pub(super) dirty_regions: Option<u64>,
    /// The legs that it names, in the table's order; `null` if none has ever failed or been changed
    /// by ublk-dm.
    pub(super) legs: Option<Vec<LegReport>>,
}

/// What a dirty log says of a leg.
#[derive(Serialize)]
pub(super) struct LegReport {
    /// It missed something, and is not recovered from.
    pub(super) stale: bool,
}

impl Report {
    /// A report about nothing yet.
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

    /// The report with its verdict, its violations in the order in which they lie on the device.
    pub(super) fn judged(mut self) -> Report {
        self.good = self.findings.violations_total == 0;
        self.findings.violations.sort_by_key(|finding| finding.offset_bytes);
        self
    }
}

impl Findings {
    /// Notes a violation that belongs to no record.
    pub(super) fn violation(&mut self, kind: Kind, offset_bytes: Option<u64>, message: String) {
        self.add(Finding { kind, area: None, index: None, offset_bytes, message: message.into() });
    }

    /// Notes a violation.
    pub(super) fn add(&mut self, finding: Finding) {
        self.violations_total += 1;
        if self.violations.len() < MAX_LISTED_VIOLATIONS {
            self.violations.push(finding);
        }
    }

    /// Whether one more violation would be listed; if not, its text need not be made.
    pub(super) fn has_room(&self) -> bool {
        self.violations.len() < MAX_LISTED_VIOLATIONS
    }

    /// Counts a violation that is not listed.
    pub(super) fn count_only(&mut self) {
        self.violations_total += 1;
    }
}

impl StoreReport {
    /// A store of which only the header can be told.
    pub(super) fn header_only(header: Header) -> StoreReport {
        let header = HeaderReport {
            valid: header.valid != 0,
            valid_word: header.valid,
            version: header.version,
            chunk_sectors: header.chunk_sectors,
            chunk_size_bytes: u64::from(header.chunk_sectors) * SECTOR_BYTES,
        };
        StoreReport { header, identity: None, contents: None }
    }
}
