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
use crate::protocol::{Cow, DeviceRef, MergeOptions, Which};

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
        let is_it = |other: &Cow| match by_path {
            true => other.is_near(cow),
            // A copy of it is of another moment.
            false if !mutant::is(Mutant::MissedByCopy) => other.may_be_here(cow),
            false => other.may_be(cow),
        };
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

    /// Refuses a store that is a copy of one which is served from another disk: it does not get
    /// what is kept for that one. `zero`: how the COW is prepared for another snapshot; `taken`:
    /// the user takes it as it is, or another store is made.
    ///
    /// # Errors
    /// It is such a copy.
    pub(super) fn refuse_copy(
        &self,
        (path, cow): (&str, &Cow),
        zero: &str,
        taken: bool,
    ) -> Result<(), Reason> {
        let has_id = matches!(cow.store, Which::Id(_)) && !taken;
        let is_copied = |other: &Cow| other.store == cow.store && !other.is_on_disk_of(cow);
        let copied = |entry: &&Device| entry.cow.as_ref().is_some_and(is_copied);
        let found = self.devices.values().find(copied);
        let Some(entry) = found.filter(|_| has_id && !mutant::is(Mutant::CopyTaken)) else {
            return Ok(());
        };
        let name = &entry.name;
        let why = format!(
            "{path}: the store on it is a copy of that of {name}, which is in use, and shows a \
             mixture of two moments when the origin has been written since; {zero} for a new one; \
             only if nothing has been written since it was copied, `add snapshot --other-origin` \
             takes it (in the tab file, the option other-origin)"
        );
        Err(Failure::new(Kind::Refused, why).of_disk(path))
    }

    /// Refuses the COW of a device that waits for a server: its store belongs to that device, and
    /// may be invalid by now.
    pub(super) fn refuse_cow_of_left_out(&self, path: &str, cow: &Cow) -> Result<(), Reason> {
        if mutant::is(Mutant::LeftOutCowTaken) {
            return Ok(());
        }
        let near =
            |left: &&LeftOut| left.device.cow.as_ref().is_some_and(|other| other.is_near(cow));
        let Some(LeftOut { device, .. }) = self.left_out.values().find(near) else { return Ok(()) };
        let hint = format!(
            "`ublk-dm recover {0}` recovers that device, `ublk-dm del --force {0}` deletes it",
            device.name
        );
        let why = format!("{path}: the COW of {}, which has no server: {hint}", device.name);
        Err(Failure::new(Kind::InUse, why).of_disk(path))
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

    /// Whether the store on a COW was the last one that was merged into its origin: that has
    /// emptied it, and it keeps no earlier moment. One without id, and one of which an earlier
    /// version has recorded nothing, is known by the name that its snapshot had.
    pub(super) fn has_merged(&self, name: Option<&str>, cow: &Cow) -> bool {
        let is_it = |merge: &MergeOptions| match merge.store {
            Which::Id(_) if !mutant::is(Mutant::MergedByName) => merge.store == cow.store,
            Which::WithoutId if cow.store != Which::WithoutId => false,
            _ => name.is_some() && merge.snapshot.as_deref() == name,
        };
        let merged = |entry: &Device| {
            is_origins(&entry.spec) && entry.spec.merge.as_ref().is_some_and(is_it)
        };
        self.devices.values().any(merged)
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
