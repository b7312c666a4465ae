//! A mirror's events, and the record of its legs in the run directory.

use std::cell::Cell;
use std::rc::Rc;

use dm_targets::device::Events;
use dm_targets::mirror::Event;
use dm_targets::mirror::leg_state::LegState;
use log::Level;

use crate::server::admin::machine::Records;
use crate::server::admin::mutant::{self, Mutant};
use crate::server::events::tell;

/// Tells a mirror's events, and records the state of its legs.
pub(super) struct LegRecorder<R> {
    records: R,
    events: Rc<Events>,
    /// The last attempt to write the record failed, and that was logged.
    failing: Cell<bool>,
}

impl<R: Records> LegRecorder<R> {
    /// For a mirror with these events.
    pub fn new(records: R, events: Rc<Events>) -> LegRecorder<R> {
        LegRecorder { records, events, failing: Cell::new(false) }
    }

    /// Tells an event and counts it.
    pub fn tell(&self, event: &Event) {
        let (level, word) = match event {
            Event::InSync => (Level::Info, "recovered"),
            Event::LegFailed { .. } => (Level::Warn, "leg-failed"),
            Event::LogFailed(_) => (Level::Warn, "log-failed"),
            Event::LogUnused => (Level::Warn, "log-unused"),
            Event::WritesHeld => (Level::Warn, "writes-held"),
        };
        let name = self.events.name();
        match event {
            Event::LegFailed { leg, disk, .. } => {
                let leg = leg.to_string();
                tell(level, word, &name, &[("leg", &leg), ("disk", disk)], event);
            }
            _ => tell(level, word, &name, &[], event),
        }
        self.events.notify();
    }

    /// Called by the target before it acknowledges a request that depends on the state.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn record(&self, state: &LegState) -> Result<(), String> {
        let written = self.records.write_legs(state);
        let written = if mutant::is(Mutant::LegRecordIgnored) { Ok(()) } else { written };
        let failed_before = self.failing.replace(written.is_err());
        match &written {
            Err(error) if !failed_before => log::error!(
                "{}: the run directory cannot record which legs are up to date: {error}; writes \
                 that depend on that record fail until it can be written",
                self.events.name()
            ),
            Ok(()) if failed_before => {
                log::warn!("{}: the state of its legs is on record again", self.events.name())
            }
            _ => {}
        }
        written
    }
}
