//! Requests to a mirror that need no task (`target/remap.rs`): reads and writes of one region. A
//! write only if all legs can be written now, as nearly always.
//!
//! Rules kept here: I6 (a request ends when every leg's operation has been told), I7 (no leg is
//! written before the log batch with the mark has ended: a region is not begun here unless it has).

use super::leg_set::LegSet;
use super::stretch::{Outcome, Stretch};
use super::target::{Mirror, State};
use super::write::Done;
use crate::disk::{DiskError, Errno, OpKind, UserData};
use crate::request::{Next, Request, RequestKind, TargetError, op_kind, payload};
use crate::units::{RegionIndex, Sectors};

/// A request that was remapped.
#[derive(Debug)]
pub(crate) enum Sent {
    /// A write of all legs.
    Write {
        region: RegionIndex,
        /// The region's entry.
        entry: u32,
        /// Operations in flight.
        left: u8,
        /// Legs that do not have it.
        missed: Option<Box<Outcome>>,
    },
    /// A read of this leg.
    Read { leg: usize, started_ms: u64 },
}

/// What is left of a request that not all legs have carried out.
#[derive(Debug)]
pub(crate) enum Rest {
    Unlike(Unlike),
    Unread(Unread),
}

/// A write that not all legs have.
#[derive(Debug)]
pub(crate) struct Unlike {
    stretch: Stretch,
    targets: LegSet,
    outcome: Box<Outcome>,
}

/// A read that has failed on a leg.
#[derive(Debug)]
pub(crate) struct Unread {
    leg: usize,
    error: DiskError,
}

impl Mirror {
    /// Starts a request that needs no task.
    #[inline]
    pub(crate) fn remap(&self, request: &Request, data: UserData) -> Option<Sent> {
        if !self.requests.gate.is_open() || request.count.0 == 0 {
            return None;
        }
        match request.kind {
            RequestKind::Write { .. } => self.remap_write(request, data),
            RequestKind::Read => self.remap_read(request, data),
            RequestKind::Flush | RequestKind::Discard => None,
        }
    }

    /// The region of a request, if it lies in one.
    #[inline]
    fn only_region(&self, request: &Request) -> Option<RegionIndex> {
        let region = self.region_of(request.sector);
        let last = self.region_of(request.sector.plus(Sectors(request.count.0 - 1)));
        (region == last).then_some(region)
    }

    fn remap_write(&self, request: &Request, data: UserData) -> Option<Sent> {
        let (region, log, disks) = (self.only_region(request)?, &self.log, self.disks.borrow());
        let can_mark = !log.is_behind() && !log.health().has_failed();
        if !can_mark || !disks.iter().all(|leg| leg.disk.tells()) {
            return None;
        }
        let begun =
            |state: &mut State| state.regions.begin_ready(region, |mark| log.has_ended(mark));
        let entry = begun(&mut self.state.borrow_mut())?;
        self.requests.gate.enter();
        let mut left = 0;
        for leg in disks.iter() {
            let sector = leg.offset.plus(Sectors(request.sector.0));
            let (kind, memory) = (op_kind(&leg.disk, request.kind), payload(request, Sectors(0)));
            leg.disk.send(kind, (sector, request.count), memory, data.with_part(left));
            left += 1;
        }
        Some(Sent::Write { region, entry, left, missed: None })
    }

    fn remap_read(&self, request: &Request, data: UserData) -> Option<Sent> {
        self.only_region(request)?;
        let disks = self.disks.borrow();
        if !disks.iter().all(|leg| leg.disk.tells()) {
            return None;
        }
        let leg = self.pick_leg(request.sector, request.count, LegSet::default())?;
        self.requests.gate.enter();
        let at = disks[leg].offset.plus(Sectors(request.sector.0));
        let memory = payload(request, Sectors(0));
        disks[leg].disk.send(OpKind::Read, (at, request.count), memory, data);
        Some(Sent::Read { leg, started_ms: self.host.now_ms() })
    }

    /// The operation of a remapped request on leg `part` has completed; of a read, the only one.
    #[inline]
    pub(crate) fn end_io(
        &self,
        request: &Request,
        sent: &mut Sent,
        part: u8,
        result: Result<(), Errno>,
    ) -> Next<Rest> {
        match sent {
            Sent::Write { region, entry, left, missed } => {
                *left -= 1;
                if let Err(errno) = result {
                    let leg = usize::from(part);
                    let error = self.error_of(request, leg, errno);
                    missed.get_or_insert_default().add(leg, error);
                }
                if *left > 0 {
                    return Next::Waits;
                }
                let stretch = Stretch::of_one(request, *region, *entry);
                match missed.take() {
                    // In regions in sync nothing follows a write that all legs have.
                    None => {
                        self.end(&stretch);
                        self.requests.gate.leave();
                        Next::Done(self.acknowledge())
                    }
                    Some(outcome) => {
                        let targets = LegSet::first(self.disks.borrow().len());
                        Next::Rest(Rest::Unlike(Unlike { stretch, targets, outcome }))
                    }
                }
            }
            Sent::Read { leg, started_ms } => {
                let ms = self.host.now_ms().saturating_sub(*started_ms);
                self.state.borrow_mut().legs.end_read(*leg, ms);
                if let Err(errno) = result {
                    let error = self.error_of(request, *leg, errno);
                    return Next::Rest(Rest::Unread(Unread { leg: *leg, error }));
                }
                self.requests.gate.leave();
                Next::Done(Ok(()))
            }
        }
    }

    /// The error of a request's operation on a leg.
    #[cold]
    fn error_of(&self, request: &Request, leg: usize, errno: Errno) -> DiskError {
        let (disk, sector) = self.place(leg, request.sector);
        disk.error_of(request.kind.into(), (sector, request.count), errno)
    }

    /// Goes on with a request in a task.
    pub(crate) async fn finish(&self, request: &Request, rest: Rest) -> Result<(), TargetError> {
        match rest {
            Rest::Unlike(unlike) => self.finish_write(request, unlike).await,
            Rest::Unread(unread) => self.finish_read(request, unread).await,
        }
    }

    /// Goes on with a write that not all legs have.
    async fn finish_write(&self, request: &Request, unlike: Unlike) -> Result<(), TargetError> {
        let Unlike { stretch, targets, mut outcome } = unlike;
        outcome.errors.sort_by_key(|(leg, _)| *leg);
        let result = match self.end_unlike(request, &stretch, targets, *outcome).await {
            Ok(Done::Yes) => Ok(()),
            Ok(Done::Again) => self.write(request).await,
            Err(error) => Err(error),
        };
        self.requests.gate.leave();
        result.and_then(|()| self.acknowledge())
    }

    /// Goes on with a read that a leg has failed, with the other legs.
    async fn finish_read(&self, request: &Request, unread: Unread) -> Result<(), TargetError> {
        let mut tried = LegSet::default();
        let Unread { leg, error } = unread;
        let result = match self.after_failed_read(leg, error, &mut tried) {
            Err(error) => Err(error),
            Ok(first) => {
                self.read_stretch(request, (Sectors(0), request.count), tried, Some(first)).await
            }
        };
        self.requests.gate.leave();
        result
    }
}
