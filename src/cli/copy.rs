//! `copy` and `zero`: the copy engine for users, on the command's own ring.

mod work;

use std::cell::RefCell;
use std::future::Future;
use std::path::Path;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Instant;

use dm_targets::copy::{Client, MAX_DESTINATIONS, Outcome, Throttle};
use dm_targets::disk::Disk;
use dm_targets::exec::Executor;
use dm_targets::io::IoRegion;
use dm_targets::units::{SECTOR_BYTES, Sector, Sectors};
use dm_targets::words::parse_size;
use serde_json::json;

use self::work::{copy_on, zero_on};
use super::results;
use super::terminal::progress_bar;
use crate::data::{disk_limits, disk_on};
use crate::failure::{Failure, wrong_usage};
use crate::protocol::{Cow, Which};
use crate::ring::Ring;
use crate::rundir::RunDir;
use crate::server::claims::{known, refuse_claimed};
use crate::server::users::with_device;
use crate::storage::{Access, Claim, DiskId, OpenDisk, lasting_name, names_of};

/// A range of a disk as the user wrote it.
struct Range {
    disk: OpenDisk,
    start: Sector,
    count: Sectors,
}

fn wrong(message: String) -> Failure {
    wrong_usage(message)
}

/// Splits `DEV`, `DEV:START` or `DEV:START+LEN`; a path that exists may itself contain colons.
fn split(word: &str) -> Result<(&str, Option<u64>, Option<u64>), Failure> {
    let size = |text: &str| parse_size(text).map_err(|error| wrong(format!("{word}: {error}")));
    match word.rsplit_once(':') {
        Some((path, range)) if !Path::new(word).exists() => match range.split_once('+') {
            Some((start, len)) => Ok((path, Some(size(start)?), Some(size(len)?))),
            None => Ok((path, Some(size(range)?), None)),
        },
        _ => Ok((word, None, None)),
    }
}

/// Checks what a word has of a range; `of_source`: its length is that of the source.
fn check_words(
    word: &str,
    of_source: bool,
    start: Option<u64>,
    own_len: Option<u64>,
) -> Result<(), Failure> {
    let what = match (of_source, start, own_len) {
        (true, _, Some(_)) => "the length is that of the source; only a start can be given here",
        (false, Some(_), None) => {
            "a start without a length; DEV:START+LEN is a part of the disk, DEV all of it"
        }
        (_, _, Some(0)) => "the range is empty: its length is 0",
        _ => return Ok(()),
    };
    Err(wrong(format!("{word}: {what}")))
}

/// Opens a range. If the word has no length, it is `len`, or else the rest of the disk.
///
/// `claimed` are the disks that this command already holds: several ranges may be on one disk.
fn open(
    word: &str,
    access: Access,
    force: bool,
    len: Option<Sectors>,
    claimed: &[DiskId],
) -> Result<Range, Failure> {
    let (path, start, own_len) = split(word)?;
    let id = std::fs::metadata(path).ok().and_then(|metadata| DiskId::of(&metadata));
    check_words(word, len.is_some(), start, own_len)?;
    let ours = id.is_some_and(|id| claimed.contains(&id));
    let claim =
        if force || ours || access == Access::ReadOnly { Claim::Shared } else { Claim::Exclusive };
    let disk =
        OpenDisk::open_unless_in_use(path, access, claim).map_err(|error| {
            match RunDir::open() {
                Ok(rundir) => with_device(&rundir, error),
                Err(_) => error,
            }
        })?;
    if claim == Claim::Exclusive {
        refuse_claimed(&RunDir::open()?, &disk)
            .map_err(|error| Failure::from(error).ending("; --force writes to it nevertheless"))?;
    }
    let block = u64::from(disk.limits.logical_block_size);
    let mut own = [start, own_len].into_iter().flatten();
    if let Some(why) = own.find_map(|bytes| within_block(word, bytes, block)) {
        return Err(wrong(why));
    }
    let start = Sector(start.unwrap_or(0) / SECTOR_BYTES);
    let left = disk.size_sectors.saturating_sub(start.0);
    let count = len.map(|len| len.0).or(own_len.map(|bytes| bytes / SECTOR_BYTES)).unwrap_or(left);
    if count > left {
        return Err(Failure::from(format!(
            "{word}: {count} sectors from sector {start} do not fit on a disk of {} sectors",
            disk.size_sectors
        )));
    }
    // The word may have no length of its own: it is the source's.
    if let Some(why) = within_block(word, count * SECTOR_BYTES, block) {
        return Err(why.into());
    }
    Ok(Range { disk, start, count: Sectors(count) })
}

/// Why a range cannot begin or end at this byte: it is within a block of the disk.
fn within_block(word: &str, bytes: u64, block: u64) -> Option<String> {
    (bytes % block != 0).then(|| {
        format!(
            "{word}: {bytes} bytes are not a multiple of the disk's block size of {block} bytes"
        )
    })
}

/// Refuses overlapping ranges of one disk, whatever its paths are: what is read from them would
/// depend on the order of the writes.
fn refuse_overlap(ranges: &[(&Range, &str)]) -> Result<(), Failure> {
    let placed: Vec<_> = ranges
        .iter()
        .map(|(range, word)| {
            let place = range.disk.known.place.part(range.start.bytes(), range.count.bytes());
            (place, *word)
        })
        .collect();
    for (at, (place, word)) in placed.iter().enumerate() {
        if let Some((_, other)) = placed[..at].iter().find(|(other, _)| other.overlaps(place)) {
            return Err(wrong(format!("{other} and {word} overlap")));
        }
    }
    Ok(())
}

fn open_destinations(
    words: &[String],
    force: bool,
    len: Option<Sectors>,
) -> Result<Vec<Range>, Failure> {
    if words.len() > MAX_DESTINATIONS {
        return Err(wrong(format!(
            "{} destinations: at most {MAX_DESTINATIONS} can be written at once",
            words.len()
        )));
    }
    let (mut ranges, mut claimed) = (Vec::new(), Vec::new());
    for word in words {
        let range = open(word, Access::ReadWrite, force, len, &claimed)?;
        claimed.push(range.disk.id);
        ranges.push(range);
    }
    Ok(ranges)
}

/// Records as lost what has left the disks that are about to be written: their snapshots were
/// deleted, and do not know of these writes.
fn lose_departures(ranges: &[Range]) -> Result<(), Failure> {
    let rundir = RunDir::open()?;
    for Range { disk, start, count } in ranges {
        let shown = disk.path.display();
        let lost = rundir.lose_departures(&known(disk), (*start, *count));
        if lost.map_err(|why| why.context(format!("{shown}: nothing is written")))? {
            log::warn!("{shown}: a snapshot of it that was deleted is lost: it is written now");
        }
    }
    Ok(())
}

/// The COWs, as they are on record, whose stores are gone when these ranges are zeroed.
fn stores(ranges: &[Range]) -> Vec<Cow> {
    let from_start = ranges.iter().filter(|range| range.start == Sector(0));
    let cow = |Range { disk, .. }: &Range| Cow {
        store: Which::Unknown,
        names: names_of(disk),
        former: lasting_name(disk),
        number: disk.known.number,
        origin: String::new(),
    };
    from_start.map(cow).collect()
}

/// Copies a range to up to eight destinations.
pub fn copy(from: &str, to: &[String], throttle: u32, force: bool) -> Result<ExitCode, Failure> {
    let source = open(from, Access::ReadOnly, force, None, &[])?;
    let destinations = open_destinations(to, force, Some(source.count))?;
    let mut ranges = vec![(&source, from)];
    ranges.extend(destinations.iter().zip(to.iter().map(String::as_str)));
    refuse_overlap(&ranges)?;
    let engine = Engine::new(throttle)?;
    lose_departures(&destinations)?;
    let total = source.count;
    let from = engine.region(source);
    let regions = engine.regions(destinations);
    let client = engine.client.clone();
    engine.finish(total, to, async move { copy_on(&client, &from, &regions).await })
}

/// Zeroes ranges.
pub fn zero(to: &[String], force: bool) -> Result<ExitCode, Failure> {
    let destinations = open_destinations(to, force, None)?;
    let ranges: Vec<_> = destinations.iter().zip(to.iter().map(String::as_str)).collect();
    refuse_overlap(&ranges)?;
    let engine = Engine::new(100)?;
    lose_departures(&destinations)?;
    let stores = stores(&destinations);
    let total = Sectors(destinations.iter().map(|range| range.count.0).sum());
    let regions = engine.regions(destinations);
    let client = engine.client.clone();
    let zeroed = engine.finish(total, to, async move { zero_on(&client, &regions).await });
    if let (Ok(_), Ok(rundir)) = (&zeroed, RunDir::open()) {
        stores.into_iter().for_each(|cow| rundir.forget_stores(cow));
    }
    zeroed
}

struct Engine {
    ring: Ring,
    executor: Executor,
    client: Client,
}

impl Engine {
    fn new(throttle: u32) -> Result<Engine, Failure> {
        let ring = Ring::new().map_err(|error| Failure::from(error).context("io_uring"))?;
        let executor = Executor::new();
        let client = Client::new(&executor, &ring.host(), Some(Throttle::new(throttle)));
        let client = client.ok_or_else(|| "no memory for buffers".to_owned())?;
        Ok(Engine { ring, executor, client })
    }

    fn region(&self, range: Range) -> IoRegion {
        let limits = disk_limits(&range.disk);
        let disk: Disk = disk_on(&self.ring, range.disk, limits);
        IoRegion { disk, sector: range.start, count: range.count }
    }

    fn regions(&self, ranges: Vec<Range>) -> Vec<IoRegion> {
        ranges.into_iter().map(|range| self.region(range)).collect()
    }

    /// Runs the work to its end, showing its progress, and prints the result.
    fn finish(
        self,
        total: Sectors,
        words: &[String],
        work: impl Future<Output = Outcome> + 'static,
    ) -> Result<ExitCode, Failure> {
        let bar = progress_bar(total);
        let result = Rc::new(RefCell::new(None));
        let slot = result.clone();
        let start = Instant::now();
        self.executor.spawn(async move {
            let outcome = work.await;
            *slot.borrow_mut() = Some(outcome);
        });
        let outcome = loop {
            self.executor.run_ready();
            bar.set_position(self.client.moved().bytes());
            if let Some(outcome) = result.borrow_mut().take() {
                break outcome;
            }
            self.ring.turn(self.executor.ready() > 0)?;
        };
        bar.finish_and_clear();
        let failed = outcome.first_error.map(Failure::from);
        let object = || {
            let errors = words.iter().enumerate().map(|(index, word)| {
                let failed = outcome.write_err & (1 << index) != 0;
                json!({ "path": word, "failed": failed })
            });
            json!({
                "bytes": outcome.written.bytes(),
                "total_bytes": total.bytes(),
                "seconds": start.elapsed().as_secs_f64(),
                "read_error": outcome.read_err,
                "destinations": errors.collect::<Vec<_>>(),
                "error": failed.as_ref().map(ToString::to_string),
            })
        };
        // If the result cannot be printed, the error line says whether everything is written.
        let done = if failed.is_none() { "everything is written, but " } else { "" };
        let why = failed.as_ref().map_or_else(String::new, |why| format!("{why}; "));
        results::show(object).map_err(|error| error.after(format!("{why}{done}")))?;
        match failed {
            Some(why) => Err(why),
            None => Ok(ExitCode::SUCCESS),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_begins_and_ends_with_a_block() {
        for (bytes, block) in [(0, 4096), (8192, 4096), (512, 512)] {
            assert_eq!(within_block("/d", bytes, block), None);
        }
        let why = within_block("/d:512", 512, 4096).unwrap();
        assert_eq!(
            why,
            "/d:512: 512 bytes are not a multiple of the disk's block size of 4096 bytes"
        );
    }
}
