//! Snapshots that missed writes of their origin: its device was brought up without them, say since
//! their COW was not there, and has been written.
//!
//! Rule kept here: I9. What an origin's device writes is lost for a snapshot that neither is there
//! nor has left it, and nothing on the COW tells: so a store that keeps chunks is no snapshot of an
//! origin that has been written in this life of its device, unless the origin knows it. A device
//! that is taken over may have been written. What is changed after this look is noticed when the
//! snapshot joins the origin.

use std::rc::Rc;

use super::devices::{Device, is_origins};
use super::machine::{Machine, Records, Thread};
use super::mutant::{self, Mutant};
use super::open_origins::Origin;
use super::state::Administrator;
use crate::failure::{Failure, Kind, Reason};
use crate::protocol::Cow;

impl<M: Machine> Administrator<M> {
    /// Refuses a store that was on a COW, at a path, for a snapshot of an origin that has been
    /// written without it. `zero`: how the COW is prepared for another snapshot.
    ///
    /// # Errors
    /// It has, or that cannot be determined.
    pub(super) fn refuse_missed(
        &self,
        (path, cow): (&str, &Cow),
        origin: &Origin,
        zero: &str,
    ) -> Result<(), Reason> {
        let is_it = |other: &Cow| other.is_near(cow);
        let is_served = self.devices.values().any(|entry| entry.cow.as_ref().is_some_and(is_it));
        if is_served || mutant::is(Mutant::MissedTaken) {
            return Ok(());
        }
        let Some(name) = self.written_through(origin)? else { return Ok(()) };
        let departures = self.machine.records().departures(&origin.known, &[])?;
        if departures.iter().any(|departure| is_it(&departure.cow)) {
            return Ok(());
        }
        let why = format!(
            "{path}: {name} was in use without the snapshot that is on it, which would show a \
             mixture of two moments; {zero} for a new one; only if nothing has been written to \
             {name}, --other-origin takes it (in the tab file, the option other-origin)"
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
}
