//! Judges and shows a mirror's dirty log. The data path defines its format, in
//! `dm_targets::mirror::format`.

use dm_targets::mirror::format::{
    HEADER_BYTES, MAX_REGIONS, OLD_VERSION, REGIONS_UNKNOWN, VERSION, WORDS_BYTES, Words, bit_of,
    bitset_bytes,
};
use dm_targets::mirror::leg_flags::LegFlags;
use dm_targets::units::{RegionIndex, SECTOR_BYTES};

use super::error::Error;
use super::image::{Image, Progress};
use super::report::{Finding, Kind, LegReport, LogReport, Report};

pub(super) use dm_targets::mirror::format::MAGIC;

/// A log whose bits can be read.
pub(super) struct Log<'a> {
    image: &'a Image,
    regions: u64,
}

/// Consecutive dirty regions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub(super) struct DirtyRun {
    pub(super) first_region: u64,
    pub(super) regions: u64,
}

/// Examines a log and adds it to the report; `None` when its bits cannot be read.
pub(super) fn examine<'a>(image: &'a Image, report: &mut Report) -> Result<Option<Log<'a>>, Error> {
    let Some(header) = image.first_bytes::<WORDS_BYTES>()? else { return Ok(None) };
    let words = Words::decode(&header);
    let Words { version, regions, .. } = words;
    let legs = image.first_bytes()?.and_then(|header| LegFlags::recorded(&header));
    let legs = legs.map(|legs| legs.into_iter().map(|stale| LegReport { stale }).collect());
    let mut log =
        LogReport { version, regions: None, clean_regions: None, dirty_regions: None, legs };
    let findings = &mut report.findings;
    if !words.known_version() {
        let text =
            format!("log has format version {version}; only {OLD_VERSION} and {VERSION} are known");
        findings.violation(Kind::LogBadVersion, Some(4), text);
    }
    let least_bytes = if regions == REGIONS_UNKNOWN { 0 } else { bitset_bytes(regions) };
    let least_bytes = least_bytes.saturating_add(HEADER_BYTES as u64);
    if regions != REGIONS_UNKNOWN {
        log.regions = Some(regions);
        if regions > MAX_REGIONS {
            let text = format!("log names {regions} regions; a mirror has at most {MAX_REGIONS}");
            findings.violation(Kind::LogTooManyRegions, Some(8), text);
        }
    }
    if least_bytes.next_multiple_of(SECTOR_BYTES) > image.size_bytes() {
        let text = format!(
            "log needs {least_bytes} bytes, but the device ends at byte {}",
            image.size_bytes()
        );
        findings.violation(Kind::LogTruncated, Some(image.size_bytes()), text);
    }
    let readable = findings.violations_total == 0 && log.regions.is_some();
    let bits = Log { image, regions };
    if readable {
        let padding = bits.count(&mut log)?;
        if padding > 0 {
            report.findings.warnings.push(Finding {
                kind: Kind::LogPadding,
                area: None,
                index: None,
                offset_bytes: Some(bit_of(RegionIndex(regions)).0),
                message: format!("{padding} bits set after the last region; a mirror clears them")
                    .into(),
            });
        }
    }
    report.set_log(log);
    Ok(readable.then_some(bits))
}

impl Log<'_> {
    /// Visits the bits in words of 64 regions, with the first region of each word.
    fn words(&self, visit: &mut dyn FnMut(u64, u64) -> Result<(), Error>) -> Result<(), Error> {
        let len_bytes = bitset_bytes(self.regions);
        let mut first_region = 0;
        self.image.read_pieces(HEADER_BYTES as u64, len_bytes, &mut |_, bytes| {
            for bytes in bytes.chunks_exact(8) {
                let mut word = [0; 8];
                word.copy_from_slice(bytes);
                visit(first_region, u64::from_le_bytes(word))?;
                first_region += 64;
            }
            Ok(Progress::More)
        })
    }

    /// A mask of the bits of a word that belong to regions.
    fn mask(&self, first_region: u64) -> u64 {
        match self.regions.saturating_sub(first_region) {
            64.. => u64::MAX,
            left => (1 << left) - 1,
        }
    }

    /// Counts clean and dirty regions, and returns the number of bits set after the last region.
    fn count(&self, report: &mut LogReport) -> Result<u64, Error> {
        let (mut clean, mut padding) = (0, 0);
        self.words(&mut |first_region, word| {
            let mask = self.mask(first_region);
            clean += u64::from((word & mask).count_ones());
            padding += u64::from((word & !mask).count_ones());
            Ok(())
        })?;
        report.clean_regions = Some(clean);
        report.dirty_regions = Some(self.regions - clean);
        Ok(padding)
    }

    /// Visits the runs of dirty regions in order.
    pub(super) fn dirty_runs(
        &self,
        visit: &mut dyn FnMut(DirtyRun) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut run: Option<DirtyRun> = None;
        self.words(&mut |first_region, word| {
            let mut dirty = !word & self.mask(first_region);
            while dirty != 0 {
                let skipped = dirty.trailing_zeros();
                let count = (dirty >> skipped).trailing_ones();
                let found = DirtyRun {
                    first_region: first_region + u64::from(skipped),
                    regions: u64::from(count),
                };
                dirty &= if skipped + count == 64 { 0 } else { u64::MAX << (skipped + count) };
                match &mut run {
                    Some(run) if run.first_region + run.regions == found.first_region => {
                        run.regions += found.regions
                    }
                    _ => {
                        if let Some(done) = run.replace(found) {
                            visit(done)?;
                        }
                    }
                }
            }
            Ok(())
        })?;
        run.map_or(Ok(()), visit)
    }
}
