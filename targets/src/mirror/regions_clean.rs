//! Idle regions, and when they become clean. Pure.
//!
//! A dirty region without writes in flight is queued. When it has been idle for long enough it is
//! *taken*, the legs are flushed, and if no write has begun meanwhile it is clean.
//!
//! Rule kept here: the decision half of I7 (a region becomes clean only if no write touched it
//! since before the flush).

use super::regions::{Entry, Regions};
use crate::mutant::{self, Mutant};
use crate::units::RegionIndex;

impl Regions {
    /// When the next region is due for cleaning, on the clock of [`Regions::take_idle`]; `None` if
    /// no region is queued.
    pub fn next_idle_ms(&self, delay_ms: u64) -> Option<u64> {
        let overdue = self.idle.len() > Self::MAX_IDLE || self.index.len() >= Self::MAX_ENTRIES;
        self.idle.front().map(|(_, queued_ms)| if overdue { 0 } else { queued_ms + delay_ms })
    }

    /// Takes regions that no write has touched for `delay_ms`, at most `most`: they may become
    /// clean when a flush of the legs that starts now has completed, unless a write begins before.
    pub fn take_idle(
        &mut self,
        now_ms: u64,
        delay_ms: u64,
        most: usize,
        taken: &mut Vec<RegionIndex>,
    ) {
        while taken.len() < most
            && self.next_idle_ms(delay_ms).is_some_and(|due_ms| due_ms <= now_ms)
        {
            let overdue = self.idle.len() > Self::MAX_IDLE || self.index.len() >= Self::MAX_ENTRIES;
            let Some((slot, _)) = self.idle.pop_front() else { break };
            let entry = &mut self.entries[slot as usize];
            entry.queued = false;
            let Entry { region, pending, withheld, .. } = *entry;
            if pending > 0 && !mutant::is(Mutant::CleanInFlight) {
                continue;
            }
            if !self.in_sync.get(region) {
                if !withheld {
                    self.drop_entry(region, slot);
                }
                continue;
            }
            if !overdue && entry.touched_ms + delay_ms > now_ms {
                entry.queued = true;
                self.idle.push_back((slot, entry.touched_ms));
                continue;
            }
            entry.cleaning = true;
            taken.push(RegionIndex(entry.region));
        }
    }

    /// The legs were flushed: of the regions taken, those that no write has touched since are
    /// clean. `cleaned` is called with each.
    pub fn finish_cleaning(&mut self, taken: &[RegionIndex], mut cleaned: impl FnMut(RegionIndex)) {
        for region in taken {
            let Some(slot) = self.index.get(&region.0).copied() else { continue };
            let Entry { cleaning, pending, withheld, .. } = self.entries[slot as usize];
            self.entries[slot as usize].cleaning = false;
            let untouched = cleaning && pending == 0 || mutant::is(Mutant::CleanInFlight);
            if untouched && self.in_sync.get(region.0) && self.clean.put(region.0, true) {
                self.dirty -= 1;
                cleaned(*region);
            }
            let done = self.clean.get(region.0) || !self.in_sync.get(region.0);
            if done && !withheld && pending == 0 {
                self.drop_entry(region.0, slot);
            }
        }
    }
}
