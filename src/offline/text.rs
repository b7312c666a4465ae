//! The report for people: a column of names, a column of values, and the verdict last.

use std::fmt::Display;
use std::io::{self, Write};

use super::content::Content;
use super::error::Error;
use super::log::Log;
use super::report::{
    Finding, Findings, Holes, IdentityReport, LogReport, Report, StoreContents, StoreReport,
};
use super::store::{AreaEnd, Run, Store};

/// Width of the column of names.
const NAME_WIDTH: usize = 14;

/// Prints the result of `check`.
pub(super) fn check(report: &Report, out: &mut dyn Write) -> Result<(), Error> {
    let mut out = io::BufWriter::new(out);
    head(report, &mut out).map_err(Error::Output)?;
    verdict(report, &mut out).map_err(Error::Output)
}

/// Prints the result of `dump`: records and dirty regions between head and verdict.
pub(super) fn dump(
    report: &Report,
    content: &Content<'_>,
    out: &mut dyn Write,
) -> Result<(), Error> {
    let mut out = io::BufWriter::new(out);
    head(report, &mut out).map_err(Error::Output)?;
    if let Some(bytes) = &report.first_bytes {
        name(&mut out, "first bytes", bytes).map_err(Error::Output)?;
    }
    let contents = report.snapshot_store.as_ref().and_then(|store| store.contents.as_ref());
    match (content, contents) {
        (Content::Store(store), Some(contents)) => records(store, contents.areas, &mut out)?,
        (Content::Log(log), _) => dirty_regions(log, &mut out)?,
        _ => {}
    }
    verdict(report, &mut out).map_err(Error::Output)
}

fn name(out: &mut dyn Write, name: &str, value: impl Display) -> io::Result<()> {
    writeln!(out, "{name:<NAME_WIDTH$} {value}")
}

fn head(report: &Report, out: &mut dyn Write) -> io::Result<()> {
    name(out, "device", &report.path)?;
    name(out, "size", format_args!("{} bytes", report.size_bytes))?;
    match (&report.snapshot_store, &report.mirror_log) {
        (Some(store), _) => store_head(store, out),
        (None, Some(log)) => log_head(log, out),
        (None, None) => Ok(()),
    }
}

fn store_head(store: &StoreReport, out: &mut dyn Write) -> io::Result<()> {
    let header = &store.header;
    name(out, "holds", format_args!("a snapshot's exception store, version {}", header.version))?;
    let valid = if header.valid { "yes" } else { "no" };
    name(out, "valid", format_args!("{valid} ({})", header.valid_word))?;
    let (sectors, bytes) = (header.chunk_sectors, header.chunk_size_bytes);
    name(out, "chunk size", format_args!("{sectors} sectors ({bytes} bytes)"))?;
    if let Some(IdentityReport { store_id, origin, origin_size_bytes }) = &store.identity {
        let origin = origin.as_deref().unwrap_or("an origin without a lasting name");
        name(out, "store id", store_id)?;
        name(out, "made for", format_args!("{origin}, {origin_size_bytes} bytes"))?;
    }
    if store.merging {
        let text = "begun and not ended: the origin and this store are right only together; a \
                    table of snapshot-merge continues the merge";
        name(out, "merge", text)?;
    }
    match &store.contents {
        Some(contents) => store_contents(contents, out),
        None => Ok(()),
    }
}

fn store_contents(contents: &StoreContents, out: &mut dyn Write) -> io::Result<()> {
    let StoreContents { areas, records, last_area_records, records_per_area, .. } = contents;
    name(out, "chunks", contents.chunks)?;
    name(
        out,
        "areas",
        format_args!("{areas}, the last with {last_area_records} of {records_per_area} records"),
    )?;
    name(out, "records", records)?;
    name(out, "next free", format_args!("chunk {}", contents.next_free_chunk))?;
    name(out, "status", &contents.status)?;
    name(out, "holes", holes_text(&contents.holes))?;
    match &contents.stale_tail {
        None => name(out, "stale tail", "none")?,
        Some(tail) => {
            let (records, offset) = (tail.records, tail.offset_bytes);
            name(out, "stale tail", format_args!("{records} records from byte {offset} on"))?;
        }
    }
    match &contents.origin {
        None => Ok(()),
        Some(origin) => {
            let is_the_stores = match origin.is_the_stores {
                Some(true) => ", the one that the store was made for",
                Some(false) => ", not the one that the store was made for",
                None => "; whether the store was made for it cannot be verified",
            };
            let (path, chunks) = (&origin.path, origin.chunks);
            name(out, "origin", format_args!("{path}, {chunks} chunks{is_the_stores}"))
        }
    }
}

fn holes_text(holes: &Holes) -> String {
    /// How many ranges are shown; the JSON lists more.
    const SHOWN: usize = 8;
    if holes.chunks == 0 {
        return "none".into();
    }
    let mut text = format!("{} chunks lost", holes.chunks);
    let ranges = holes.ranges.as_deref().unwrap_or_default();
    for (at, range) in ranges.iter().take(SHOWN).enumerate() {
        let before = if at == 0 { ": " } else { ", " };
        text += &match (range.first_chunk, range.last_chunk) {
            (first, last) if first == last => format!("{before}{first}"),
            (first, last) => format!("{before}{first}-{last}"),
        };
    }
    if ranges.len() > SHOWN {
        text += ", ...";
    }
    text
}

fn log_head(log: &LogReport, out: &mut dyn Write) -> io::Result<()> {
    name(out, "holds", format_args!("a mirror's dirty log, version {}", log.version))?;
    let known =
        |count: Option<u64>| count.map_or_else(|| "unknown".to_string(), |count| count.to_string());
    name(out, "regions", known(log.regions))?;
    name(out, "clean", known(log.clean_regions))?;
    name(out, "dirty", known(log.dirty_regions))?;
    let Some(legs) = &log.legs else { return Ok(()) };
    let stale = legs
        .iter()
        .zip(0..)
        .filter(|(leg, _)| leg.stale)
        .map(|(_, number): (_, usize)| format!("leg {number}"));
    let stale = stale.collect::<Vec<_>>().join(", ");
    name(out, "legs", legs.len())?;
    name(out, "stale legs", if stale.is_empty() { "none" } else { &stale })
}

/// Prints all records, consecutive ones on one line.
fn records(store: &Store<'_>, areas: u64, out: &mut dyn Write) -> Result<(), Error> {
    for area in 0..areas {
        let chunk = store.layout().area_chunk(area).0;
        let start = store.layout().area_start(area).bytes();
        writeln!(out, "area {area} at chunk {chunk}, byte {start}").map_err(Error::Output)?;
        let mut run: Option<Run> = None;
        let found = store.read_area(area, &mut |index, record| {
            if run.as_mut().is_some_and(|run| run.extend(record)) {
                return Ok(());
            }
            match run.replace(Run::new(index, record)) {
                Some(done) => print_run(done, out),
                None => Ok(()),
            }
        })?;
        if let Some(run) = run {
            print_run(run, out)?;
        }
        let end = match found.end {
            AreaEnd::Terminator => "then the end of all records",
            AreaEnd::Full => "full",
            AreaEnd::CutOff => "cut off by the end of the device",
        };
        writeln!(out, "  {} records, {end}", found.records).map_err(Error::Output)?;
    }
    Ok(())
}

fn print_run(run: Run, out: &mut dyn Write) -> Result<(), Error> {
    let Run { index, old, new, count } = run;
    let (old_end, new_end) = (old.0 + (count - 1), new.0 + (count - 1));
    let line = if count == 1 {
        writeln!(out, "  record {index:>8}: origin chunk {} -> COW chunk {}", old.0, new.0)
    } else {
        let (old, new) = (old.0, new.0);
        writeln!(
            out,
            "  record {index:>8}: origin chunks {old}-{old_end} -> COW chunks {new}-{new_end} \
             ({count})"
        )
    };
    line.map_err(Error::Output)
}

fn dirty_regions(log: &Log<'_>, out: &mut dyn Write) -> Result<(), Error> {
    log.dirty_runs(&mut |run| {
        let (first, last) = (run.first_region, run.first_region + run.regions - 1);
        let line = if first == last {
            writeln!(out, "  dirty region {first}")
        } else {
            writeln!(out, "  dirty regions {first}-{last} ({})", run.regions)
        };
        line.map_err(Error::Output)
    })
}

fn verdict(report: &Report, out: &mut dyn Write) -> io::Result<()> {
    let Findings { violations_total, violations, warnings } = &report.findings;
    for finding in warnings {
        found(out, "warning", finding)?;
    }
    for finding in violations {
        found(out, "bad", finding)?;
    }
    let unlisted = violations_total - violations.len() as u64;
    if unlisted > 0 {
        name(out, "bad", format_args!("... and {unlisted} more"))?;
    }
    match violations_total {
        0 => name(out, "verdict", "good")?,
        1 => name(out, "verdict", "BAD: 1 violation")?,
        _ => name(out, "verdict", format_args!("BAD: {violations_total} violations"))?,
    }
    out.flush()
}

fn found(out: &mut dyn Write, what: &str, finding: &Finding) -> io::Result<()> {
    match finding.offset_bytes {
        Some(offset_bytes) => {
            name(out, what, format_args!("byte {offset_bytes}: {}", finding.message))
        }
        None => name(out, what, &finding.message),
    }
}
