//! The judge: what each sector of each device may show. It knows only requests and
//! acknowledgements.
//!
//! A device is a row of registers. A write is *binding* when it must survive: after a power cut if
//! it was acknowledged with FUA or before a flush that was acknowledged, after the death of the
//! process if it was acknowledged (I10). A sector shows one of the writes to it, or its initial
//! content; but no content that is older than a binding write.

use std::collections::BTreeSet;

use dm_targets::sim::image::SectorData;

use crate::pattern;

/// The event after which the model is queried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// The power failed.
    PowerCut,
    /// The process died.
    ProcessDeath,
    /// A read that was started at that time is complete.
    Read {
        /// The time of its start.
        started: u64,
    },
}

#[derive(Clone, Debug)]
struct Write {
    id: u32,
    first: u64,
    end: u64,
    fua: bool,
    submitted: u64,
    acked: Option<u64>,
    flushed: bool,
}

impl Write {
    fn binding(&self, moment: Moment) -> bool {
        match moment {
            Moment::PowerCut => self.flushed,
            Moment::ProcessDeath => self.acked.is_some(),
            Moment::Read { started } => self.acked.is_some_and(|time| time < started),
        }
    }
}

/// One device.
#[derive(Clone, Debug)]
pub struct Device {
    /// Its content before any write.
    pub base: Vec<SectorData>,
    /// Its content after a loss of power, if that differs.
    without_journal: Option<Vec<SectorData>>,
    writes: Vec<Write>,
}

impl Device {
    /// A device with this content, and other content if the power fails before its journal is
    /// recorded.
    pub fn new(base: Vec<SectorData>, without_journal: Option<Vec<SectorData>>) -> Device {
        Device { base, without_journal, writes: Vec::new() }
    }

    /// Everything a sector may show.
    pub fn legal(&self, sector: u64, moment: Moment) -> Vec<SectorData> {
        let here: Vec<&Write> = self
            .writes
            .iter()
            .filter(|write| write.first <= sector && sector < write.end)
            .collect();
        let binding: Vec<&&Write> = here.iter().filter(|write| write.binding(moment)).collect();
        let superseded = |write: &Write| {
            binding.iter().any(|later| write.acked.is_some_and(|time| time < later.submitted))
        };
        let mut legal: Vec<SectorData> = here
            .iter()
            .filter(|write| !superseded(write))
            .map(|write| pattern::sector(write.id, sector))
            .collect();
        if binding.is_empty() {
            let at = usize::try_from(sector).unwrap();
            legal.push(self.base[at].clone());
            let without = self.without_journal.as_ref().filter(|_| moment == Moment::PowerCut);
            legal.extend(without.map(|shown| shown[at].clone()));
        }
        legal
    }

    /// Judges the content of a range.
    pub fn judge(&self, first: u64, shown: &[SectorData], moment: Moment) -> Result<(), String> {
        for (sector, data) in (first..).zip(shown) {
            // Most sectors were never written: no list is built for them.
            let untouched =
                !self.writes.iter().any(|write| write.first <= sector && sector < write.end);
            if untouched && self.base[usize::try_from(sector).unwrap()] == *data {
                continue;
            }
            let legal = self.legal(sector, moment);
            if !legal.contains(data) {
                let legal: Vec<_> = legal.iter().map(pattern::describe).collect();
                let (shown, legal) = (pattern::describe(data), legal.join(" | "));
                return Err(format!(
                    "sector {sector} shows {shown}, legal after {moment:?}: {legal}"
                ));
            }
        }
        Ok(())
    }
}

/// One snapshot.
#[derive(Clone, Debug)]
pub struct Snap {
    /// Its content.
    pub device: Device,
    /// Sectors in a chunk.
    pub chunk: u64,
    /// How many exceptions its COW holds.
    pub capacity: u64,
    /// Chunks that have or may have got an exception.
    pub touched: BTreeSet<u64>,
    /// A full COW refuses writes of the snapshot and leaves it readable.
    pub overflows: bool,
    /// A write of the origin has needed one of its chunks.
    pub origin_wrote: bool,
    /// One of its disks has failed.
    pub failed: bool,
    /// It has been durably marked invalid and must never be valid again.
    pub dead: bool,
    /// It has left the origin.
    pub left: bool,
    /// The origin has been written, or may have been, since it left.
    pub outlived: bool,
}

impl Snap {
    /// Whether it may refuse requests.
    pub fn may_fail(&self) -> bool {
        self.may_be_invalid() || self.touched.len() as u64 > self.capacity
    }

    /// Whether it may be invalid: there is no room for a required chunk, or a disk failed.
    pub fn may_be_invalid(&self) -> bool {
        let full =
            self.touched.len() as u64 > self.capacity && (self.origin_wrote || !self.overflows);
        self.dead || self.outlived || self.failed || full
    }
}

/// A write or flush that has been submitted.
#[derive(Clone, Copy, Debug)]
pub enum Ticket {
    /// Index of the write.
    Write(usize),
    /// The time of the flush's submission.
    Flush(u64),
    /// The time of the read's submission.
    Read(u64),
}

/// An origin and its snapshots. Device 0 is the origin.
#[derive(Clone, Debug)]
pub struct Model {
    /// The origin.
    pub origin: Device,
    /// The snapshots.
    pub snaps: Vec<Snap>,
    /// Whether acknowledged writes can be lost with power.
    pub volatile: bool,
    /// Whether those of snapshots can be lost in any case.
    pub journal: bool,
    now: u64,
}

impl Model {
    /// A model of devices that have not been written yet.
    pub fn new(origin: Device, snaps: Vec<Snap>, volatile: bool) -> Model {
        Model { origin, snaps, volatile, journal: false, now: 0 }
    }

    /// Changes with every submission and acknowledgement.
    pub fn now(&self) -> u64 {
        self.now
    }

    /// The device with a number.
    pub fn device(&mut self, device: usize) -> &mut Device {
        match device.checked_sub(1) {
            None => &mut self.origin,
            Some(snap) => &mut self.snaps[snap].device,
        }
    }

    /// A write is submitted.
    pub fn submit_write(
        &mut self,
        device: usize,
        id: u32,
        first: u64,
        count: u64,
        fua: bool,
    ) -> Ticket {
        self.now += 1;
        for (number, snap) in self.snaps.iter_mut().enumerate() {
            if device == 0 || device == number + 1 {
                snap.origin_wrote |= device == 0;
                snap.outlived |= device == 0 && snap.left;
                snap.touched.extend(first / snap.chunk..(first + count).div_ceil(snap.chunk));
            }
        }
        let submitted = self.now;
        let writes = &mut self.device(device).writes;
        writes.push(Write {
            id,
            first,
            end: first + count,
            fua,
            submitted,
            acked: None,
            flushed: false,
        });
        Ticket::Write(writes.len() - 1)
    }

    /// A discard of the only snapshot may reach the origin, now or at any later time.
    pub fn may_be_discarded_below(&mut self, first: u64, count: u64) {
        self.snaps.iter_mut().for_each(|snap| snap.outlived |= snap.left);
        if self.snaps.iter().filter(|snap| !snap.left).count() == 1 {
            let (id, submitted) = (pattern::DISCARD, self.now);
            let write = Write {
                id,
                first,
                end: first + count,
                fua: false,
                submitted,
                acked: None,
                flushed: false,
            };
            self.origin.writes.push(write);
        }
    }

    /// A flush or read is submitted.
    pub fn submit(&mut self, flush: bool) -> Ticket {
        self.now += 1;
        if flush { Ticket::Flush(self.now) } else { Ticket::Read(self.now) }
    }

    /// The family is open: earlier journals are recorded.
    pub fn opened(&mut self) {
        self.snaps.iter_mut().for_each(|snap| snap.device.without_journal = None);
    }

    /// A request has succeeded. (A failed request may or may not have been carried out, forever.)
    pub fn succeeded(&mut self, device: usize, ticket: Ticket) {
        self.now += 1;
        let (now, volatile) = (self.now, self.volatile || self.journal && device > 0);
        match ticket {
            Ticket::Write(index) => {
                let write = &mut self.device(device).writes[index];
                write.acked = Some(now);
                write.flushed = write.fua || !volatile;
            }
            Ticket::Flush(submitted) => {
                for write in &mut self.device(device).writes {
                    write.flushed |= write.acked.is_some_and(|time| time < submitted);
                }
            }
            Ticket::Read(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel;

    fn legal(model: &Model, moment: Moment) -> Vec<String> {
        model.origin.legal(0, moment).iter().map(pattern::describe).collect()
    }

    #[test]
    fn only_binding_writes_hide_earlier_ones() {
        let mut model = Model::new(
            Device::new(vec![pattern::sector(pattern::ORIGIN, 0)], None),
            Vec::new(),
            true,
        );
        let first = model.submit_write(0, 100, 0, 1, false);
        assert_eq!(legal(&model, Moment::PowerCut).len(), 2);
        model.succeeded(0, first);
        assert_eq!(legal(&model, Moment::PowerCut).len(), 2, "acknowledged is not durable");
        assert_eq!(legal(&model, Moment::ProcessDeath), ["write 100's sector 0"]);
        let flush = model.submit(true);
        let second = model.submit_write(0, 101, 0, 1, true);
        model.succeeded(0, flush);
        assert_eq!(
            legal(&model, Moment::PowerCut),
            ["write 100's sector 0", "write 101's sector 0"]
        );
        model.succeeded(0, second);
        assert_eq!(legal(&model, Moment::PowerCut), ["write 101's sector 0"]);
    }

    #[test]
    fn writes_in_flight_together_may_end_in_any_order() {
        let mut model = Model::new(
            Device::new(vec![pattern::sector(pattern::ORIGIN, 0)], None),
            Vec::new(),
            false,
        );
        let one = model.submit_write(0, 100, 0, 1, false);
        let two = model.submit_write(0, 101, 0, 1, false);
        model.succeeded(0, two);
        model.succeeded(0, one);
        assert_eq!(legal(&model, Moment::PowerCut).len(), 2);
    }

    #[test]
    fn capacity_leaves_room_for_the_next_area() {
        // chunks of one sector: 32 records an area, so 34 chunks would need area 1 as the 35th
        assert_eq!([33, 34, 35, 36].map(|size| kernel::capacity(size, 1, &[])), [31, 31, 32, 33]);
    }
}
