//! Merges that are left to the next activation of their origin: the snapshot's device runs on
//! meanwhile, and keeps the wish.
//!
//! An origin is activated when `recover` has a server take its devices over, and when its device is
//! added. The end of a use is no activation: the next user may not expect other content. Nor is an
//! upgrade, which changes nothing that users see.
//!
//! Rules kept here: a wish is on record before the command ends, so that the next server knows of
//! it; it is carried out only while the devices are unused and not open, and for a snapshot
//! that cannot have refused a write; and what cannot begin stays a wish. An `add` begins no merge
//! before its user can no longer have it undone.

use dm_targets::snapshot::target::Snapshot;
use dm_targets::table::TargetParams;
use dm_targets::target::Target;

use super::devices::{Device, no_device};
use super::keeping::How;
use super::machine::{Machine, Thread};
use super::mutant::{self, Mutant};
use super::state::{Activation, Administrator};
use crate::failure::Reason;
use crate::protocol::{DeviceRef, DeviceSpec, DeviceState, MergeOptions, Problem, Reply};

/// What has become of the merges that were left to the activation of their origins.
#[derive(Default)]
pub(super) struct Begun {
    /// Why those did not begin that could have.
    problems: Vec<Problem>,
    /// Which have begun, or why they stay deferred.
    notes: Vec<String>,
}

impl Begun {
    /// The reply to a command that has taken devices over, with these problems.
    pub(super) fn reply(self, mut problems: Vec<Problem>) -> Reply {
        problems.extend(self.problems);
        Reply::Recovered { problems, notes: self.notes }
    }
}

impl<M: Machine> Administrator<M> {
    /// Leaves the merge of a snapshot to the next activation of its origin, if it, or its origin,
    /// is in use; `None` if both are unused, so that the merge can begin.
    ///
    /// # Errors
    /// It cannot be merged, or the wish cannot be recorded: nothing has changed.
    pub(super) fn defer_merge(
        &mut self,
        id: u32,
        (rate, keep): How,
    ) -> Result<Option<Reply>, Reason> {
        let name = self.name_of(id)?;
        let refused = |why: Reason| why.context(format!("{name}: its merge is not deferred"));
        let table = self.mergeable(id).map_err(refused)?;
        let origin = self.device_to_merge_into(id, &table).map_err(refused)?;
        let keep = keep || self.is_wished_to_be_kept(id);
        if keep {
            self.refuse_to_keep(id).map_err(refused)?;
        }
        let Err(used) = self.refuse_any_user(id, origin) else { return Ok(None) };
        let before = self.devices.get(&id).and_then(|entry| entry.spec.deferred_merge());
        let rate = rate.or_else(|| before?.bytes_per_second);
        let snapshot = Some(name.clone());
        let wish =
            MergeOptions { snapshot, bytes_per_second: rate, keep, ..MergeOptions::default() };
        self.set_wish(id, Some(wish)).map_err(refused)?;
        let used = used.without_end();
        let note = format!(
            "{name}: it is merged when its origin is next activated (`add origin`, or `recover` \
             after an end of the server) and unused; `ublk-dm merge {name} --pause` takes that \
             back. Not now: {used}"
        );
        log::info!("{note}");
        Ok(Some(Reply::Deferred { note }))
    }

    /// Whether a snapshot is to be kept when its deferred merge has ended.
    pub(super) fn is_wished_to_be_kept(&self, id: u32) -> bool {
        let wish = self.devices.get(&id).and_then(|entry| entry.spec.deferred_merge());
        wish.is_some_and(|wish| wish.keep) && !mutant::is(Mutant::DeferredKeepForgotten)
    }

    /// The snapshot whose merge is deferred: a device itself, or the one that is to be merged into
    /// it.
    pub(super) fn deferred(&self, device: u32) -> Option<u32> {
        let entry = self.devices.get(&device)?;
        let is_it = |(id, other): &(&u32, &Device)| {
            let into = entry.is_origin() && other.deps.carrier() == entry.deps.carrier();
            other.spec.deferred_merge().is_some() && (**id == device || into)
        };
        self.devices.iter().find(is_it).map(|(id, _)| *id)
    }

    /// Takes a wish back.
    ///
    /// # Errors
    /// There is none, or this cannot be recorded: the wish stays.
    pub(super) fn take_back_wish(&mut self, id: u32) -> Result<Reply, Reason> {
        let name = self.name_of(id)?;
        self.set_wish(id, None)
            .map_err(|why| why.context(format!("{name}: its merge stays deferred")))?;
        let note = format!(
            "{name}: its deferred merge is taken back: it is not merged when its origin is next \
             activated"
        );
        log::info!("{note}");
        Ok(Reply::Noted { note })
    }

    fn set_wish(&mut self, id: u32, wish: Option<MergeOptions>) -> Result<(), Reason> {
        self.refuse_unfinished(id)?;
        let entry = self.devices.get_mut(&id).ok_or_else(|| no_device(id))?;
        let before = std::mem::replace(&mut entry.spec.merge, wish);
        let unrecorded = mutant::is(Mutant::DeferredForgotten);
        if let Err(why) = if unrecorded { Ok(()) } else { self.record(None) } {
            if let Some(entry) = self.devices.get_mut(&id) {
                entry.spec.merge = before;
            }
            return Err(why);
        }
        self.publish();
        Ok(())
    }

    /// Refuses a merge beside the one of another snapshot that is left to the next activation.
    pub(super) fn refuse_beside_deferred(&self, id: u32) -> Result<(), Reason> {
        let carrier = self.devices.get(&id).and_then(|entry| entry.deps.carrier());
        let mut others = self.devices.values().filter(|other| {
            other.info.id != id
                && other.deps.carrier() == carrier
                && other.spec.deferred_merge().is_some()
        });
        match others.next() {
            None => Ok(()),
            Some(Device { name, .. }) => Err(format!(
                "the snapshot {name} is to be merged into the same origin when that is next \
                 activated: `ublk-dm merge {name} --pause` takes that back"
            )
            .into()),
        }
    }

    /// Remembers that a device was added, if it is an origin's into which a merge was deferred.
    /// Returns what its user should know of that merge.
    pub(super) fn expect_activation(&mut self, device: DeviceRef) -> Option<String> {
        let is_origin = self.devices.get(&device.id).is_some_and(Device::is_origin);
        let wish = self.deferred(device.id).filter(|_| is_origin);
        let is_due = mutant::is(Mutant::BegunBeforeUndo);
        self.activation = wish.map(|_| Activation { device, is_due });
        let note = wish.and_then(|snapshot| self.note_of_activation(snapshot));
        self.begin_activated_now();
        note
    }

    /// What the user of a new origin's device should know of the merge that was left to it.
    fn note_of_activation(&self, id: u32) -> Option<String> {
        let device = self.devices.get(&id)?.state();
        let name = &device.name;
        let may_begin = self.is_unused_for_merge(id, &device).and_then(|()| self.refuse_full(id));
        let may_begin = may_begin.and_then(|()| self.refuse_lost_own_store(id));
        Some(match may_begin {
            Ok(()) => format!("{name}: its deferred merge begins now"),
            Err(why) => stays_deferred(name, &why),
        })
    }

    /// Begins the merge that was left to the `add` of its origin, once the server has looked for
    /// commands after that one. Returns whether this is to be called again.
    pub fn begin_activated(&mut self) -> bool {
        let Some(activation) = &mut self.activation else { return false };
        if activation.is_due {
            self.begin_activated_now();
            return false;
        }
        activation.is_due = true;
        true
    }

    fn begin_activated_now(&mut self) {
        let Some(Activation { device, .. }) = self.activation.take_if(|one| one.is_due) else {
            return;
        };
        if self
            .devices
            .get(&device.id)
            .is_some_and(|entry| entry.info.target_flags == device.cookie)
        {
            // The target has one owner from now on, the device.
            self.confirm();
            let wish = self.deferred(device.id);
            wish.into_iter().for_each(|id| self.begin_wish(id, &mut Begun::default()));
        }
    }

    /// All origins have been activated: begins the merges that were left to this moment, if no
    /// program uses their devices.
    pub(super) fn begin_deferred(&mut self) -> Begun {
        let wishes = self.devices.iter().filter(|(_, one)| one.spec.deferred_merge().is_some());
        let ids: Vec<u32> = wishes.map(|(id, _)| *id).collect();
        let mut begun = Begun::default();
        ids.into_iter().for_each(|id| self.begin_wish(id, &mut begun));
        begun
    }

    /// Begins the deferred merge of a snapshot.
    fn begin_wish(&mut self, id: u32, begun: &mut Begun) {
        let Some(entry) = self.devices.get(&id) else { return };
        let Some(wish) = entry.spec.deferred_merge() else { return };
        let (device, how) = (entry.state(), (wish.bytes_per_second, wish.keep));
        if let Err(why) = self.is_unused_for_merge(id, &device) {
            let note = stays_deferred(&device.name, &why);
            log::info!("{note}");
            return begun.notes.push(note);
        }
        let force = mutant::is(Mutant::DeferredUnderMount);
        match self.refuse_full(id).and_then(|()| self.begin_merge(id, force, how)) {
            Ok(()) => begun.notes.push(format!("{}: its deferred merge has begun", device.name)),
            Err(why) => {
                let why = why.context(format!("{}: its deferred merge has not begun", device.name));
                log::warn!("{why}");
                begun.problems.push(Problem::of(&device, why));
            }
        }
    }

    fn is_unused_for_merge(&self, id: u32, device: &DeviceState) -> Result<(), Reason> {
        let TargetParams::Snapshot(table) = &device.spec.table.params else { return Ok(()) };
        let origin = self.device_to_merge_into(id, table)?;
        if device.suspended {
            return Err("its device is suspended".into());
        }
        if mutant::is(Mutant::DeferredUnderMount) {
            return Ok(());
        }
        self.refuse_any_user(id, origin).map_err(Reason::without_end)
    }

    /// As [`Administrator::refuse_users`], and refuses an origin that a process has open: who
    /// defers a merge is not there when it begins.
    fn refuse_any_user(&self, id: u32, origin: u32) -> Result<(), Reason> {
        self.refuse_users(id, origin, false)?;
        if mutant::is(Mutant::DeferredUnderOpen) { Ok(()) } else { self.machine.not_open(origin) }
    }

    /// Refuses a snapshot whose COW is full. That it has refused a write is known to the server
    /// that did so alone.
    fn refuse_full(&self, id: u32) -> Result<(), Reason> {
        let is_full = self.machine.call(move |thread| async move {
            match thread.group().device(id)?.target() {
                Target::Snapshot(snapshot) => Some(is_full(&snapshot)),
                _ => None,
            }
        })?;
        if is_full != Some(true) || mutant::is(Mutant::FullMerged) {
            return Ok(());
        }
        Err("its COW is full, so it may have refused a write: look at its content, and merge it \
             with `ublk-dm merge` if it is right"
            .into())
    }
}

/// What the user of a snapshot that is deleted should know of its deferred merge.
pub(super) fn canceled_with(spec: &DeviceSpec) -> Option<String> {
    let canceled = "its deferred merge is canceled with it";
    spec.deferred_merge().map(|_| canceled.to_owned())
}

/// The same of a snapshot whose table is replaced.
pub(super) fn replaced_with(spec: &DeviceSpec) -> Option<String> {
    let given_up = "its deferred merge is given up: its table has been replaced".to_owned();
    spec.deferred_merge().filter(|_| !mutant::is(Mutant::WishDroppedUntold)).map(|_| given_up)
}

/// What the user of an activated origin should know whose merge does not begin.
fn stays_deferred(name: &str, why: &Reason) -> String {
    format!("{name}: its merge stays deferred: {why}")
}

/// Whether the COW has no room for another chunk and the area that this may need.
fn is_full(snapshot: &Snapshot) -> bool {
    let usage = snapshot.usage();
    usage.allocated.0 + 2 * snapshot.chunk_size().sectors().0 > usage.total.0
}
