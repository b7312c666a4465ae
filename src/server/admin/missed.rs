//! Snapshots that missed writes of their origin: its device was brought up without them, say since
//! their COW was not there, and has been written.
//!
//! Rule kept here: I9. What an origin's device writes is lost for a snapshot that neither is there
//! nor has left it, and nothing on the COW tells: so a store that keeps chunks is no snapshot of an
//! origin that has been written in this life of its device, unless the origin knows it; nor is an
//! empty one that its user expects, as in the tab file, to be of an earlier moment. A device that
//! is taken over may have been written; a read-only one, too, by a merge. What is changed after
//! this look is noticed when the snapshot joins the origin.

use std::rc::Rc;

use super::devices::{Device, LeftOut, is_origins};
use super::machine::{Machine, Records, Thread};
use super::mutant::{self, Mutant};
use super::open_origins::Origin;
use super::state::Administrator;
use crate::failure::{Failure, Kind, Reason};
use crate::protocol::{Cow, DeviceRef};

/// What a store keeps that may have missed changes of its origin.
pub(super) struct Kept {
    /// How its COW is prepared for another snapshot.
    pub(super) zero: String,
    /// No chunk; it is nevertheless of an earlier moment.
    pub(super) is_empty: bool,
}

impl<M: Machine> Administrator<M> {
    /// Refuses a store that was on a COW, at a path, for a snapshot of an origin that has been
    /// written without it. `kept`: what the store keeps.
    ///
    /// # Errors
    /// It has, or that cannot be determined.
    pub(super) fn refuse_missed(
        &self,
        (path, cow): (&str, &Cow),
        origin: &Origin,
        kept: &Kept,
    ) -> Result<(), Reason> {
        let by_path = mutant::is(Mutant::MissedByPath);
        let is_it = |other: &Cow| if by_path { other.is_near(cow) } else { other.may_be(cow) };
        let is_served = self.devices.values().any(|entry| entry.cow.as_ref().is_some_and(is_it));
        if is_served || mutant::is(Mutant::MissedTaken) {
            return Ok(());
        }
        let Some(name) = self.written_through(origin)? else { return Ok(()) };
        let departures = self.machine.records().departures(&origin.known, &[])?;
        if departures.iter().any(|departure| is_it(&departure.cow)) {
            return Ok(());
        }
        let Kept { zero, is_empty } = kept;
        let shows = if *is_empty { "a later moment" } else { "a mixture of two moments" };
        let why = format!(
            "{path}: {name} was in use without the snapshot that is on it, which would show \
             {shows}; {zero} for a new one; only if nothing has been written to {name}, \
             `add snapshot --other-origin` takes it (in the tab file, the option other-origin)"
        );
        Err(Failure::new(Kind::Refused, why).of_disk(path))
    }

    /// The name of a device through which an origin has been changed, or may have been; by
    /// whichever way that was.
    fn written_through(&self, origin: &Origin) -> Result<Option<String>, Reason> {
        let carrier = origin.known.device;
        let writes = |id: u32, entry: &Device| match carrier {
            Some(carrier) => carrier.id == id,
            None => entry.deps.carrier().is_none() && is_origins(&entry.spec),
        };
        if let Some(left) = self.left_out_writer(carrier) {
            return Ok(Some(left));
        }
        let writers = self.devices.iter().filter(|(id, entry)| writes(**id, entry));
        let writers: Vec<u32> = writers.map(|(id, _)| *id).collect();
        let (first, key) = (writers.first().copied(), origin.disk.key());
        // Another table of a disk's device leaves the disk as it is.
        let by_table = carrier.is_some() && !mutant::is(Mutant::MissedBeside);
        let (written, is_changed) = self.machine.call(move |thread: Rc<M::Thread>| async move {
            let is_it = |id: &u32| {
                let device = thread.group().device(*id);
                device.is_some_and(|it| it.was_in_use() || by_table && it.is_exchanged())
            };
            (writers.into_iter().find(is_it), thread.group().is_origin_changed(key))
        })?;
        // A merge writes to it, a snapshot may discard it, and who has written may have another
        // table by now.
        let is_changed = is_changed && !mutant::is(Mutant::MissedBeside);
        let id = written.or(first.filter(|_| is_changed));
        let name = id.and_then(|id| self.devices.get(&id)).map(|entry| entry.name.clone());
        Ok(name.or_else(|| is_changed.then(|| "its origin".to_owned())))
    }

    /// Whether the snapshot that had this name was the last one that was merged into its origin:
    /// that has emptied its store, which keeps no earlier moment.
    pub(super) fn has_merged(&self, name: Option<&str>) -> bool {
        let merged = |entry: &Device| {
            let merge = entry.spec.merge.as_ref();
            is_origins(&entry.spec) && merge.is_some_and(|it| it.snapshot.as_deref() == name)
        };
        name.is_some() && self.devices.values().any(merged)
    }

    /// The name of an origin's device that is left out: it may have been written before its server
    /// died.
    fn left_out_writer(&self, carrier: Option<DeviceRef>) -> Option<String> {
        let writes = |left: &&LeftOut| match carrier {
            Some(carrier) => carrier.id == left.device.id,
            None => left.device.carrier().is_none() && is_origins(&left.device.spec),
        };
        let mut left = self.left_out.values().filter(writes);
        left.next().filter(|_| !mutant::is(Mutant::MissedLeftOut)).map(|it| it.device.name.clone())
    }
}
