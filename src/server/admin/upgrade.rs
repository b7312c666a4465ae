//! The two halves of an upgrade: a server leaves its devices while they are in use, and the next
//! one takes them over.
//!
//! The first half is what a server does at SIGTERM with devices in use, for all of its devices;
//! the second is `recover` ([`super::recover`]) of all of them. In between no device has a server:
//! its users wait, and every request that was not answered is sent to the next server. The kernel
//! does not let the requests of a device wait that was added to fail them: it has no upgrade.
//!
//! Rules kept here: a server leaves all of its devices or none, and only those that the next one
//! can take over; what that needs is on record first, anew, so that the next server finds room for
//! its own record; no request is failed. The next server takes
//! all of them over or none: a device is live again only when all of them can be served, since the
//! program that has left them can still do so (I9: no snapshot is left out beside its origin).

use dm_targets::table::TargetParams;

use super::devices::Device;
use super::ending::origins_first;
use super::levels::Again;
use super::machine::{Machine, Thread};
use super::mutant::{self, Mutant};
use super::state::{Administrator, Ending};
use crate::failure::{Failure, Kind, Reason};
use crate::protocol::{DeviceState, OnServerDeath};
use crate::ublk::DeviceInfo;
use crate::ublk::device::{is_recoverable, on_server_death};

/// Why a device cannot pass to another server, whichever server asks; `None`: it can.
pub fn stays_with_server(device: &DeviceState, info: &DeviceInfo) -> Option<Reason> {
    let fails = on_server_death(info) == Some(OnServerDeath::Fail);
    let why = match &device.spec.table.params {
        _ if !is_recoverable(info) => {
            "it was added with --no-recovery, and would end with its server"
        }
        _ if fails && !mutant::is(Mutant::FailingUpgraded) => {
            "its requests would fail between the two servers (--on-server-death fail): delete it \
             when it is not in use, and add it again"
        }
        TargetParams::Snapshot(snapshot) if snapshot.store.is_transient() => {
            "its exceptions are in the memory of its server (a transient store)"
        }
        _ => return None,
    };
    Some(Failure::new(Kind::Refused, format!("{}: {why}", device.name)))
}

impl<M: Machine> Administrator<M> {
    /// Leaves all devices to the next server. Their new requests are held back, and those in their
    /// targets have ended, so that every acknowledged write is where the next server finds it.
    /// Returns what that server needs of them.
    ///
    /// # Errors
    /// The reason; nothing has changed.
    pub(super) fn leave(&mut self) -> Result<Vec<DeviceState>, Reason> {
        self.refuse_to_leave()?;
        self.refuse_unopenable_later()?;
        let mut ids: Vec<u32> = self.devices.keys().copied().collect();
        origins_first(&mut ids, |id| self.is_origin(id));
        // A device that is held holds the operations of the snapshots on it.
        self.sort_top_down(&mut ids);
        if mutant::is(Mutant::CarrierLeftFirst) {
            ids.reverse();
        }
        if !mutant::is(Mutant::LeftOffRecord) {
            self.record_anew()?;
            self.put_back(&ids)?;
        }
        for id in ids {
            if self.devices.get(&id).is_none_or(|entry| entry.suspended) {
                continue;
            }
            if let Err(why) = self.hold(id, true, "upgrade").and_then(|held| held) {
                let why = why.context(format!("/dev/ublkb{id}: its I/O cannot be held back"));
                return Err(why.and_notes(self.stay().err()));
            }
            if mutant::is(Mutant::FailedMeanwhile) {
                self.fail_requests(id)?;
            }
        }
        self.ending = Ending::Leaves;
        log::info!("the devices wait for the next server (upgrade)");
        Ok(self.devices.values().map(Device::state).collect())
    }

    /// Writes the state file, also if it describes the devices already: the next server has to
    /// write it, too, so that a full run directory shows while this server can go on.
    fn record_anew(&self) -> Result<(), Reason> {
        let written = if mutant::is(Mutant::RoomUnasked) {
            self.ensure_recorded()
        } else {
            self.record(None)
        };
        written.map_err(|why| why.context("the next server could not write its state file"))
    }

    /// Goes on with the devices that were to be left.
    ///
    /// # Errors
    /// Requests to some of them still wait.
    pub(super) fn stay(&mut self) -> Result<(), Reason> {
        if self.ending == Ending::Leaves {
            self.ending = Ending::No;
        }
        let mut running: Vec<u32> = self
            .devices
            .iter()
            .filter(|(id, entry)| !entry.suspended && self.refuse_unfinished(**id).is_ok())
            .map(|(id, _)| *id)
            .collect();
        self.sort_bottom_up(&mut running);
        let resumed =
            running.into_iter().filter_map(|id| self.let_through(id, true, "upgrade").err());
        Failure::all(resumed.collect()).map_or(Ok(()), Err)
    }

    /// Refuses to leave the devices if the next server could not take over all of them as they are.
    fn refuse_to_leave(&self) -> Result<(), Reason> {
        for entry in self.devices.values() {
            let state = entry.state();
            stays_with_server(&state, &entry.info).map_or(Ok(()), Err)?;
            self.refuse_unfinished(entry.info.id)?;
            if !entry.suspended {
                self.refuse_held(entry.info.id)?;
            }
        }
        let waiting = self.devices.values().filter(|entry| entry.waits).map(|entry| &entry.name);
        let left_out = self.left_out.values().map(|left| &left.device.name);
        if let Some(name) = waiting.chain(left_out).next() {
            let hint =
                format!("run `ublk-dm recover {name}` or `ublk-dm del --force {name}` first");
            let why = format!("{name}: it waits for a server; {hint}");
            return Err(Failure::new(Kind::Refused, why));
        }
        let busy = self.is_waiting() || !self.kept.is_empty() || !self.taken.is_empty();
        if busy || !self.beside.is_empty() {
            let why = "an earlier command has not ended, because a disk does not answer";
            return Err(Failure::new(Kind::NoAnswer, why));
        }
        Ok(())
    }

    /// Ends the waiting requests of a device with an error.
    fn fail_requests(&self, id: u32) -> Result<(), Reason> {
        self.machine.call(move |thread| async move {
            if let Some(device) = thread.group().device(id) {
                device.end_requests();
            }
        })
    }

    /// Ends this server with devices that it has claimed and that are not live: the kernel takes
    /// them back when the process ends.
    pub(super) fn give_back(&mut self, claimed: Vec<Again<M>>) {
        claimed.into_iter().for_each(|again| self.keep_waiting(again));
        self.ending = Ending::Leaves;
    }
}
