//! Reads of a mirror.
//!
//! Rules kept here: I6, and: where the legs may differ, only source legs are read, the default leg
//! first.

use super::leg_set::LegSet;
use super::legs::Failure;
use super::target::{Mirror, State};
use crate::disk::{DiskError, Errno, FailedOp, OpKind};
use crate::request::{Request, TargetError, payload};
use crate::units::{RegionIndex, Sector, Sectors};

impl Mirror {
    pub(super) async fn read(&self, request: &Request) -> Result<(), TargetError> {
        let mut done = Sectors(0);
        while done < request.count {
            let (sector, left) = (request.sector.plus(done), Sectors(request.count.0 - done.0));
            let (first, last) =
                (self.region_of(sector), self.region_of(Sector(sector.0 + left.0 - 1)));
            let (_, span) = self.state.borrow().regions.alike_for_read(first, last);
            let count = self.until_end_of(RegionIndex(first.0 + span.count - 1), sector, left);
            self.read_stretch(request, (done, count), LegSet::default(), None).await?;
            done.0 += count.0;
        }
        Ok(())
    }

    /// Reads a part of a request, trying one leg after the other until a read succeeds: those that
    /// have not been tried yet, the first with this error.
    pub(super) async fn read_stretch(
        &self,
        request: &Request,
        (offset, count): (Sectors, Sectors),
        mut tried: LegSet,
        mut first_error: Option<DiskError>,
    ) -> Result<(), TargetError> {
        let sector = request.sector.plus(offset);
        loop {
            let leg = self.pick_leg(sector, count, tried);
            let Some(leg) = leg else {
                return Err(first_error.unwrap_or_else(|| self.no_leg(sector, count)).into());
            };
            let (disk, at) = self.place(leg, sector);
            let started_ms = self.host.now_ms();
            let result = disk.read(at, count, payload(request, offset)).await;
            self.state
                .borrow_mut()
                .legs
                .end_read(leg, self.host.now_ms().saturating_sub(started_ms));
            match result {
                Ok(()) => return Ok(()),
                Err(error) => {
                    let error = self.after_failed_read(leg, error, &mut tried)?;
                    first_error.get_or_insert(error);
                }
            }
        }
    }

    /// A leg has failed a read, and is not tried again; the error of a read that no disk supports.
    pub(super) fn after_failed_read(
        &self,
        leg: usize,
        error: DiskError,
        tried: &mut LegSet,
    ) -> Result<DiskError, TargetError> {
        if error.errno.is_unsupported() {
            return Err(error.into());
        }
        self.leg_failed(leg, Failure::Read, &error);
        tried.add(leg);
        Ok(error)
    }

    /// Picks the leg for a read and begins the read. The regions are checked again for each
    /// attempt: they may have gone out of sync.
    pub(super) fn pick_leg(&self, sector: Sector, count: Sectors, tried: LegSet) -> Option<usize> {
        let State { regions, legs } = &mut *self.state.borrow_mut();
        let (first, last) =
            (self.region_of(sector), self.region_of(Sector(sector.0 + count.0 - 1)));
        let in_sync = (first.0..=last.0).all(|region| regions.is_in_sync(RegionIndex(region)));
        let leg = if in_sync { legs.pick(sector, tried) } else { legs.pick_source(tried) }?;
        legs.begin_read(leg, sector, count);
        Some(leg)
    }

    fn no_leg(&self, sector: Sector, count: Sectors) -> DiskError {
        let (disk, sector) = self.place(0, sector);
        let (kind, disk, errno) = (OpKind::Read, disk.name().clone(), Errno::EIO);
        FailedOp { kind, disk, sector, count, errno }.into()
    }
}
