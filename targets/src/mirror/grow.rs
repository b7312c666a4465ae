//! A mirror that grows under I/O. Requests wait at the gate meanwhile, as long as the requests in
//! flight and two writes of the log take.
//!
//! Rules kept here, whatever length the mirror is opened with after a crash:
//!
//! * The new regions are out of sync, and recovered from a leg that is a source: what the legs have
//!   there was never made equal. So is the last region of before, if it was shorter than the
//!   others.
//! * That the legs will differ is journaled in the record of the legs first. One source is left:
//!   several would count as equal in the new regions.
//! * The bits of the new regions are durable in the log before its header counts these regions.

use std::rc::Rc;

use super::change_legs::ChangeError;
use super::config::{LegParts, check_leg};
use super::format::MAX_REGIONS;
use super::leg_set::LegSet;
use super::log::Unusable;
use super::log::grow::NotGrown;
use super::open_error::OpenError;
use super::target::{Mirror, State};
use crate::mutant::{self, Mutant};
use crate::units::{RegionIndex, Sectors};

impl Mirror {
    /// How long the mirror could be on its legs, whose sizes are read again, and the disk that sets
    /// this limit.
    pub fn room(&self) -> Option<(Sectors, Rc<str>)> {
        let disks = self.disks.borrow();
        let room = |leg: &LegParts| {
            let room = leg.disk.refresh_size().0.saturating_sub(leg.offset.0);
            (Sectors(room), leg.disk.name().clone())
        };
        disks.iter().map(room).min_by_key(|(room, _)| *room)
    }

    /// Checks that the mirror can be so long: its legs and its log have room, and there are not too
    /// many regions.
    ///
    /// # Errors
    /// Why not.
    pub fn check_size(&self, len: Sectors) -> Result<(), OpenError> {
        let regions = self.region_size.regions_in(len);
        if regions > MAX_REGIONS {
            return Err(OpenError::RegionSize(self.region_size.sectors()));
        }
        for leg in self.disks.borrow().iter() {
            check_leg(leg, leg.disk.refresh_size(), len, self.region_size)?;
        }
        self.log.check_room(regions).map_err(|unusable| match (unusable, self.log.disk_name()) {
            (Unusable::TooSmall(needed), Some(disk)) => OpenError::LogTooSmall { disk, needed },
            _ => OpenError::NoMemory,
        })
    }

    /// Makes the mirror longer, before its users can see that. The new regions are recovered. A
    /// mirror that is as long already stays as it is, and one that is longer, because an attempt
    /// could not be taken back, is cut.
    ///
    /// # Errors
    /// It cannot be so long, it is suspended or being changed, the change was given up, or its log
    /// could not be written: it is as long as before then.
    pub async fn grow(&self, len: Sectors) -> Result<(), ChangeError> {
        self.check_size(len).map_err(ChangeError::Unfit)?;
        if self.log.health().has_failed() {
            return Err(ChangeError::Log);
        }
        if len <= self.len() {
            return self.shrink_back(len).await;
        }
        self.begin_change().await?;
        let result = self.put_on(len).await;
        self.end_change().await;
        result
    }

    async fn put_on(&self, len: Sectors) -> Result<(), ChangeError> {
        let (before, regions) = (self.len(), self.region_size.regions_in(len));
        let no_memory = ChangeError::Unfit(OpenError::NoMemory);
        self.record_divergence().map_err(ChangeError::Record)?;
        let growth = match self.log.begin_growth(&self.host, regions).await {
            Ok(growth) => growth,
            Err(NotGrown::NoMemory) => return Err(no_memory),
            Err(NotGrown::Unreadable(error)) => return Err(ChangeError::LogUnreadable(error)),
        };
        // No await from here on until the regions, the log and the length agree again.
        let last = self.region_size.regions_in(before).saturating_sub(1);
        let is_short = before.0 % self.region_size.sectors().0 != 0;
        {
            let State { regions: known, legs } = &mut *self.state.borrow_mut();
            if !known.grow(regions, is_short.then_some(RegionIndex(last))) {
                return Err(no_memory);
            }
            if legs.sources() != LegSet::one(legs.default_leg()) {
                legs.diverge();
            }
        }
        self.log.grow(growth, RegionIndex(last));
        self.len.set(len);
        self.remember_stale();
        if mutant::is(Mutant::GrownHeaderEarly) {
            self.log.count_regions();
        }
        self.write_change().await;
        if !self.log.health().has_failed() {
            self.log.count_regions();
            self.write_change().await;
        }
        if self.log.health().has_failed() {
            self.cut(before).await;
            return Err(ChangeError::Log);
        }
        Ok(())
    }

    /// Takes a growth back that users have never seen: they have had at most `len`. A mirror that
    /// is no longer than that stays as it is.
    ///
    /// # Errors
    /// It is suspended or being changed, or the change was given up: it is as long as before then.
    pub async fn shrink_back(&self, len: Sectors) -> Result<(), ChangeError> {
        if len >= self.len() {
            return Ok(());
        }
        self.begin_change().await?;
        self.cut(len).await;
        self.end_change().await;
        Ok(())
    }

    /// Forgets everything behind `len`, where no user has written anything. The log is written by
    /// the end of the change; with its old header or its new one, the regions that are left have
    /// their bits.
    async fn cut(&self, len: Sectors) {
        self.log.until_idle().await;
        // No await from here on until the regions, the log and the length agree again.
        let regions = self.region_size.regions_in(len);
        self.state.borrow_mut().regions.cut(regions);
        self.log.cut(regions);
        self.len.set(len);
        self.log.count_regions();
    }
}
