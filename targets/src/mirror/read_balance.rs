//! Which leg a read goes to. Pure.
//!
//! Reads of regions in sync go to the least busy leg: the fewest reads in flight, weighted by
//! recent latency. A sequential stream stays on its leg, to benefit from read-ahead, as long as
//! that leg is not much busier than the others. Reads of regions out of sync go to the default leg.

use super::leg_set::LegSet;
use super::legs::{Failure, Legs, STREAMS};
use crate::mutant::{self, Mutant};
use crate::units::{Sector, Sectors};

/// Reads in flight that a leg may have in excess of the least busy one before a stream leaves it.
pub(super) const STREAM_SLACK: u32 = 8;
/// The latest read counts for 1/`AVERAGED` of a leg's average latency.
const AVERAGED: u64 = 8;
/// A leg's average latency decays by 1/`FADING` with each read sent to another leg, so that the leg
/// is tried again.
const FADING: u64 = 256;
/// Fixed-point factor of average latencies.
const SCALE: u64 = 1024;

impl Legs {
    /// Picks the leg for a read of regions in sync, among those not tried yet: a leg without errors
    /// if there is one, else a leg with read errors only, else any leg that is not stale.
    pub fn pick(&mut self, sector: Sector, tried: LegSet) -> Option<usize> {
        let untried = self.all().without(self.stale()).without(tried);
        let at_most = |kinds: u8| {
            let fits = untried.iter().filter(|leg| self.legs[*leg].kinds & !kinds == 0);
            fits.fold(LegSet::default(), |set, leg| LegSet(set.0 | 1 << leg))
        };
        let tiers = [at_most(0), at_most(Failure::Read.bit()), untried];
        let candidates = tiers.into_iter().find(|tier| !tier.is_empty())?;
        let leg = self.stream(sector, candidates).or_else(|| self.least_busy(candidates))?;
        self.turn = (leg + 1) % self.legs.len();
        for other in candidates.without(LegSet::one(leg)).iter() {
            let latency = &mut self.legs[other].latency;
            *latency -= latency.div_ceil(FADING).min(*latency);
        }
        Some(leg)
    }

    /// Picks the leg for a read of a region out of sync: the default leg or, if that was tried,
    /// another source leg, which has the same data.
    pub fn pick_source(&mut self, tried: LegSet) -> Option<usize> {
        if mutant::is(Mutant::OutOfSyncReadsSpread) {
            self.turn = (self.turn + 1) % self.legs.len();
            return (!tried.has(self.turn)).then_some(self.turn);
        }
        let mut untried = self.sources().without(tried).iter();
        if tried.has(self.default_leg()) { untried.next() } else { Some(self.default_leg()) }
    }

    fn stream(&self, sector: Sector, candidates: LegSet) -> Option<usize> {
        let least = candidates.iter().map(|leg| self.legs[leg].reads_in_flight).min()?;
        candidates.iter().find(|leg| {
            let it = &self.legs[*leg];
            it.streams.contains(&sector.0)
                && sector.0 > 0
                && it.reads_in_flight <= least + STREAM_SLACK
        })
    }

    fn least_busy(&self, candidates: LegSet) -> Option<usize> {
        let count = self.legs.len();
        let cost = |leg: &usize| {
            let it = &self.legs[*leg];
            (u64::from(it.reads_in_flight) + 1) * (SCALE + it.latency)
        };
        // Equally busy legs take turns.
        let in_turn =
            (0..count).map(|step| (self.turn + step) % count).filter(|leg| candidates.has(*leg));
        in_turn.min_by_key(cost)
    }

    /// A read on a leg begins.
    pub fn begin_read(&mut self, leg: usize, sector: Sector, count: Sectors) {
        let Some(it) = self.legs.get_mut(leg) else { return };
        it.reads_in_flight += 1;
        let end = sector.0 + count.0;
        match it.streams.iter_mut().find(|next| **next == sector.0) {
            Some(next) => *next = end,
            None => {
                it.streams[it.next_stream] = end;
                it.next_stream = (it.next_stream + 1) % STREAMS;
            }
        }
    }

    /// A read on a leg has ended after `took_ms`.
    pub fn end_read(&mut self, leg: usize, took_ms: u64) {
        let Some(it) = self.legs.get_mut(leg) else { return };
        it.reads_in_flight = it.reads_in_flight.saturating_sub(1);
        it.latency = (it.latency * (AVERAGED - 1) + took_ms * SCALE) / AVERAGED;
    }
}
