//! The legs with which a mirror may be opened after a crash during a change of its legs.
//!
//! Until the change has been acknowledged, a server that takes over knows only the old legs; an
//! outdated script names them forever. The new legs may be named as soon as the log names the new
//! leg, or that may have been written. A leg that was taken out, or was never added, is not up to
//! date when it returns, and the log's bits do not apply to it.

use dm_targets::mirror::leg_state::Past;
use dm_targets::sim::image::Image;
use dm_targets::units::{Sector, Sectors};

use super::super::fixture::Setup;
use super::{Admin, Case, Run};

/// The identity of the spare disk.
pub(super) const SPARE_IDENTITY: u64 = 99;

/// Legs to open a mirror with.
pub(super) struct Table {
    /// Their disks in the world, in order.
    pub(super) legs: Vec<usize>,
    /// Places of those that the log's bits speak of.
    pub(super) told: Vec<usize>,
}

impl Table {
    /// The mirror with these legs, and the images of its disks.
    pub(super) fn open(&self, case: &Case, images: &[Image]) -> (Setup, Vec<Image>) {
        let mut setup = Setup { legs: self.legs.len(), ..case.setup.clone() };
        for (identity, disk) in setup.identities.iter_mut().zip(&self.legs) {
            *identity = identity_of(case, *disk);
        }
        let log = case.setup.log.then_some(case.setup.legs);
        let images =
            self.legs.iter().copied().chain(log).map(|disk| images[disk].clone()).collect();
        (setup, images)
    }
}

fn identity_of(case: &Case, disk: usize) -> u64 {
    if disk < case.setup.legs { case.setup.identities[disk] } else { SPARE_IDENTITY }
}

impl Run<'_> {
    /// The identity of a disk of the world.
    pub(super) fn identity(&self, disk: usize) -> u64 {
        identity_of(self.case, disk)
    }

    /// The tables with which the mirror may be opened after a crash now.
    pub(super) fn tables(&self, images: &[Image]) -> Vec<Table> {
        let old = self.case.setup.places();
        let mut new = old.clone();
        let spare = self.world.disks().len() - 1;
        match self.case.admin {
            Admin::Replace(leg) => new[leg] = spare,
            Admin::Add => new.push(spare),
            Admin::Remove(leg) => drop(new.remove(leg)),
            Admin::Nothing
            | Admin::Compare
            | Admin::Repair(_)
            | Admin::Resume
            | Admin::Suspend
            | Admin::Grow(_) => {}
        }
        if !self.admin_started || new == old {
            // A mirror that has been opened has told the log of all its legs.
            let told = if self.mirror.is_none() { self.case.told.clone() } else { old.clone() };
            return vec![Table { legs: old, told }];
        }
        let mut tables = Vec::new();
        let stayed: Vec<usize> = old.iter().copied().filter(|leg| new.contains(leg)).collect();
        // If the legs that stayed fail one by one, only the new leg may be valid, and it is then
        // required.
        let sound = stayed.iter().any(|leg| self.case.faults.iter().all(|(disk, _)| disk != leg));
        if sound || !self.in_sync_since {
            tables.push(Table { legs: old, told: stayed });
        }
        let done = matches!(*self.admin.borrow(), Some(Ok(())));
        let written = spare > self.case.setup.legs && self.world.disks()[spare].writes() > 0;
        if done || written || self.case.setup.log && names_spare(&images[self.case.setup.legs]) {
            tables.push(Table { told: (0..new.len()).collect(), legs: new });
        }
        tables
    }

    /// A leg of the table with these legs that has everything, durably, if there is one.
    pub(super) fn right_leg(&self, table: &[usize]) -> Option<usize> {
        let Some(mirror) = &self.mirror else {
            let begins = matches!(self.case.setup.past, Past::None);
            return begins.then_some(self.case.setup.source.unwrap_or(0));
        };
        let record = self.record.left()?;
        let is_right = |disk: usize| {
            let identity = self.identity(disk);
            let known = record.legs.iter().position(|leg| leg.source && leg.identity == identity);
            known.is_some_and(|leg| mirror.legs().get(leg).is_some_and(|leg| leg.flushed))
        };
        table.iter().position(|disk| is_right(*disk))
    }
}

/// Whether a log's header names the spare disk.
fn names_spare(log: &Image) -> bool {
    let header = log.read(Sector(0), Sectors(1));
    header[32..104].chunks_exact(8).any(|identity| identity == SPARE_IDENTITY.to_le_bytes())
}
