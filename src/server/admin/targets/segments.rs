//! Tables of `linear`, `error` and `zero` before the kernel adds their device, or before they
//! replace the table of one: the disks are opened, claimed and judged, nothing is written.
//!
//! Rules kept here: a disk of several lines is opened once, so that one flush covers it; and a disk
//! that the replaced table has as well keeps its handle, and with that its claim: no other program
//! can take it between the two tables.

use std::rc::Rc;

use dm_targets::device::OpenTarget;
use dm_targets::disk::Disk;
use dm_targets::error::target::Error;
use dm_targets::linear::target::Linear;
use dm_targets::segments::table::{Segment as Line, SegmentParams, placed};
use dm_targets::segments::target::{Segment, Segments};
use dm_targets::target::Target;
use dm_targets::units::{Sector, Sectors};
use dm_targets::zero::target::Zero;

use super::disks::{Sharing, check_place, discard_of};
use super::reused_disks::ReusedDisk;
use crate::failure::Reason;
use crate::protocol::{DeviceSpec, KnownDisk, KnownDisks};
use crate::server::admin::devices::{Deps, no_device};
use crate::server::admin::held::Held;
use crate::server::admin::machine::{Machine, OpenDisk, Thread};
use crate::server::admin::mutant::{self, Mutant};
use crate::server::admin::new_device::NewDevice;
use crate::server::admin::state::Administrator;
use crate::storage::{DiskId, Limits};
use crate::ublk::device;

/// The memory of a new device's users is aligned as if its disks needed what most disks do, so that
/// a later table's may: to 512 bytes, which is the block layer's own default.
const LATER_DMA_MASK: u32 = 511;

/// Where the handle of a disk comes from.
enum DiskHandle<D> {
    /// It has just been opened.
    New(D),
    /// The table that is replaced has it, in this place.
    Replaced(usize),
    /// Another device of this server has it. Nothing is read or written through this one.
    Beside(D),
}

/// A disk of a table.
struct Below<D> {
    id: DiskId,
    handle: DiskHandle<D>,
    limits: Limits,
    read_only: bool,
    shared: bool,
}

/// The disks of a table, each once.
struct Disks<D> {
    disks: Vec<Below<D>>,
    /// For each line, the place of its disk among them.
    of_line: Vec<Option<usize>>,
    deps: Deps,
}

impl<M: Machine> Administrator<M> {
    /// Opens the disks and the target of a table; `over`: the device whose table it replaces.
    pub(in crate::server::admin) fn prepare_segments(
        &mut self,
        lines: Vec<Line>,
        mut spec: DeviceSpec,
        again: Option<&KnownDisks>,
        over: Option<u32>,
    ) -> Result<NewDevice<M>, Reason> {
        if again.is_none() {
            self.refuse_circle_of(&spec.table.params, over)?;
        }
        if over.is_none() && again.is_none() {
            self.refuse_beside_mirror(&spec.table.params)?;
        }
        let Disks { disks, of_line, deps } = self.open_lines(&lines, &spec, again, over)?;
        let limits: Vec<_> = disks.iter().map(|disk| disk.limits).collect();
        check_borders(&lines, &limits)?;
        spec.force = disks.iter().any(|disk| disk.shared);
        let read_only = disks.iter().any(|disk| disk.read_only) || spec.options.read_only;
        let target = self.open_segments(&lines, disks, of_line, over)?;
        let offset = match lines.as_slice() {
            [Line { params: SegmentParams::Linear(linear), .. }] => linear.offset,
            _ => Sector(0),
        };
        let limits = if limits.is_empty() { vec![Limits::NO_DISK] } else { limits };
        let limits: Vec<_> = limits.iter().collect();
        // A later table may be on a disk with a volatile cache, which would not be flushed without
        // flushes from users. Where there is no such cache they cost nothing.
        let (len, discard) = (spec.table.len, discard_of(&limits, offset));
        let mut params = device::params(&limits, true, len, read_only, discard);
        if over.is_none() {
            let widest = |mask: u32| mask.max(LATER_DMA_MASK);
            params.dma_alignment_mask = params.dma_alignment_mask.map(widest);
        }
        Ok(NewDevice { params, target, deps, read_only, spec, cow: None, note: None })
    }

    /// Opens the disks of lines, and checks that each line fits on its own.
    fn open_lines(
        &self,
        lines: &[Line],
        spec: &DeviceSpec,
        again: Option<&KnownDisks>,
        over: Option<u32>,
    ) -> Result<Disks<M::Open>, Reason> {
        let sharing = Sharing::of(spec, again.is_some());
        let mut opened: Vec<(Below<M::Open>, Sectors)> = Vec::new();
        let (mut of_line, mut deps) = (Vec::new(), Deps::default());
        for Line { len, params } in lines {
            let Some(linear) = params.linear() else {
                of_line.push(None);
                continue;
            };
            let path = linear.device.as_str();
            let id = self.machine.disk_at(path);
            let place = opened.iter().position(|(disk, _)| Some(disk.id) == id);
            let range = (linear.offset, *len);
            let by_force = self.is_shared_by_force(path, spec, again, id);
            let own = id.filter(|_| !by_force);
            own.map_or(Ok(()), |id| self.refuse_overlap(path, id, range, over))?;
            let reused = if place.is_none() { self.open_reused(path, over)? } else { None };
            let reused = match (place, &reused, id) {
                (None, None, Some(id)) => self.open_beside(path, id, spec, again)?,
                _ => reused,
            };
            let place = match place {
                Some(place) => place,
                None => {
                    let sharing = sharing.of_one(path, again);
                    let (disk, size, known) =
                        self.open_below(path, reused, sharing, spec, again)?;
                    deps.insert(path, disk.id, known);
                    opened.push((disk, size));
                    opened.len() - 1
                }
            };
            let (disk, size) = &mut opened[place];
            if let Some(mut known) = deps.of(disk.id) {
                if again.is_none() && !by_force {
                    self.refuse_awaited(path, disk.id, &known, range)?;
                }
                // Beside another device by force: the next server must share it again.
                known.shared |= again.is_none() && self.has_user(disk.id, &known, range, over);
                disk.shared |= known.shared;
                deps.insert(path, disk.id, known);
            }
            check_place(path, linear.offset, *len, *size, disk.limits.logical_block_size)?;
            of_line.push(Some(place));
        }
        let disks = opened.into_iter().map(|(disk, _)| disk).collect();
        Ok(Disks { disks, of_line, deps })
    }

    /// Opens the disk of a line, unless it is `reused`. Returns its size, and what it was known as.
    fn open_below(
        &self,
        path: &str,
        reused: Option<ReusedDisk<M::Open>>,
        sharing: Sharing,
        spec: &DeviceSpec,
        again: Option<&KnownDisks>,
    ) -> Result<(Below<M::Open>, Sectors, KnownDisk), Reason> {
        let is_new = reused.is_none();
        let (disk, place, shared, unclaimed) = match reused {
            Some(ReusedDisk { disk, place, shared, unclaimed }) => (disk, place, shared, unclaimed),
            None => {
                let (disk, shared) = self.open_as_it_is(path, sharing)?;
                let shared = shared || self.is_forced(path, &disk, sharing, spec);
                if !spec.force && again.is_none() {
                    self.refuse_second_name(path, &disk)?;
                }
                (disk, None, shared, sharing.is_unclaimed(path, again))
            }
        };
        let known = KnownDisk { shared, unclaimed, ..self.recognized(path, &disk, again)? };
        let (id, limits, size) = (disk.id(), *disk.limits(), disk.size());
        // The handle of a reused disk is only read, whatever its disk is.
        let read_only = if is_new { disk.is_read_only() } else { limits.read_only };
        let handle = match place {
            Some(place) => DiskHandle::Replaced(place),
            None if is_new => DiskHandle::New(disk),
            None => DiskHandle::Beside(disk),
        };
        Ok((Below { id, handle, limits, read_only, shared }, size, known))
    }

    fn open_segments(
        &mut self,
        lines: &[Line],
        disks: Vec<Below<M::Open>>,
        of_line: Vec<Option<usize>>,
        over: Option<u32>,
    ) -> Result<Held<M::Handle>, Reason> {
        let lines = lines.to_vec();
        let handles: Vec<_> =
            disks.into_iter().map(|disk| (disk.id, disk.handle, disk.read_only)).collect();
        let (target, ()) = self.open_target(move |thread: Rc<M::Thread>| async move {
            let old = over.and_then(|id| thread.group().device(id)).map(|device| device.target());
            let shared = &thread.group().shared_disks;
            let handle = |(id, handle, read_only): (DiskId, _, bool)| {
                let is_new = matches!(handle, DiskHandle::New(_));
                let disk = match handle {
                    DiskHandle::New(disk) => Some(thread.disk(disk)),
                    DiskHandle::Replaced(place) => old.as_ref().and_then(|old| old.disk_at(place)),
                    DiskHandle::Beside(disk) if mutant::is(Mutant::BesideUnclaimed) => {
                        Some(thread.disk(disk))
                    }
                    DiskHandle::Beside(_) => shared.get(&id.key()),
                };
                let disk = disk.ok_or_else(|| no_device(over.unwrap_or_default()))?;
                if !is_new {
                    refresh(&disk, read_only)?;
                }
                shared.share(id.key(), &disk);
                Ok::<_, Reason>(disk)
            };
            let disks = handles.into_iter().map(handle).collect::<Result<Vec<_>, _>>()?;
            let disk = |place: Option<usize>| place.map(|place| disks[place].clone());
            let lines = lines.iter().zip(of_line.into_iter().map(disk));
            let has_zeroes = lines.clone().any(|(line, _)| line.params == SegmentParams::Zero);
            let zeroes = has_zeroes.then(|| thread.zeroes()).transpose()?;
            let segments = lines.map(|(line, disk)| segment(line, disk.or(zeroes.clone())));
            let mut segments: Vec<_> = segments.collect();
            let only = if segments.len() == 1 { segments.pop() } else { None };
            let target = match only {
                None => Target::Segments(Rc::new(Segments::new(segments))),
                Some(Segment::Linear(linear)) => Target::Linear(Rc::new(linear)),
                Some(Segment::Error(error)) => Target::Error(Rc::new(error)),
                Some(Segment::Zero(zero)) => Target::Zero(Rc::new(zero)),
            };
            Ok((OpenTarget { target, events: Rc::default() }, ()))
        })?;
        Ok(target)
    }
}

/// Makes the handle of a disk that another table has fit for a new one: the disk may have grown
/// since it was opened.
///
/// # Errors
/// It was opened for other accesses than the new table needs.
pub(super) fn refresh(disk: &Disk, read_only: bool) -> Result<(), Reason> {
    disk.refresh_size();
    if disk.limits().read_only == read_only {
        return Ok(());
    }
    let (was, is) = if read_only { ("not ", "is") } else { ("", "is not") };
    let name = disk.name();
    Err(format!(
        "{name}: it was {was}write-protected when the table that has it was opened, and {is} now"
    )
    .into())
}

/// The target of a line, with its disk or that of zeroes.
fn segment(line: &Line, disk: Option<Disk>) -> Segment {
    match (&line.params, disk) {
        (SegmentParams::Linear(linear), Some(disk)) => {
            Segment::Linear(Linear::new(disk, linear.offset, line.len))
        }
        (SegmentParams::Zero, Some(zeroes)) => Segment::Zero(Zero::new(zeroes, line.len)),
        (_, None) | (SegmentParams::Error, _) => Segment::Error(Error::new(line.len)),
    }
}

/// Refuses lines that begin or end within a block of the device, whose blocks are the largest of
/// its disks': a block would be torn between two of them.
fn check_borders(lines: &[Line], limits: &[Limits]) -> Result<(), Reason> {
    let block = limits.iter().map(|limits| limits.logical_block_size).max().unwrap_or(512);
    let is_odd = |at: u64| at.saturating_mul(512) % u64::from(block) != 0;
    for (number, (start, line)) in (1..).zip(placed(lines)) {
        if is_odd(start.0) || is_odd(line.len.0) {
            let what = format!("{} sectors from sector {start}", line.len);
            let path = line.params.linear().map_or_else(
                || format!("line {number} of the table"),
                |linear| linear.device.clone(),
            );
            return Err(format!(
                "{path}: {what}: not a multiple of the device's block size of {block} bytes"
            )
            .into());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use dm_targets::table::Table;

    use super::*;

    #[test]
    fn lines_begin_and_end_with_a_block_of_the_strictest_disk() {
        let check = |text: &str, blocks: &[u32]| {
            let table = Table::parse_table(text).unwrap();
            let limits = |block: &u32| Limits { logical_block_size: *block, ..Limits::NO_DISK };
            let limits: Vec<_> = blocks.iter().map(limits).collect();
            check_borders(&table.params.segments(table.len).unwrap(), &limits)
        };
        let two = "0 4 linear /a 0\n4 4 linear /b 0";
        assert_eq!(check(two, &[512, 512]), Ok(()));
        assert!(check(two, &[512, 4096]).unwrap_err().contains("/a: 4 sectors from sector 0"));
        assert_eq!(check("0 8 linear /a 0\n8 16 error", &[4096]), Ok(()));
        let why = check("0 8 linear /a 0\n8 4 error", &[4096]).unwrap_err();
        assert!(why.contains("line 2 of the table: 4 sectors from sector 8: not a multiple"));
    }
}
