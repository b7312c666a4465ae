//! The run directory as the server of one family sees it.
//!
//! Nothing is decided here: each call goes to the run directory, with the family's key.

use dm_targets::mirror::leg_state::LegState;

use crate::failure::{Failure, Reason};
use crate::protocol::{Cow, DeviceState, KnownDisk, Part};
use crate::rundir::RunDir;
use crate::rundir::all_among;
use crate::rundir::departed::Departure;
use crate::rundir::lost::LostStore;
use crate::server::admin::machine::{Losses, Records};
use crate::server::claims;
use crate::storage::{DiskId, ublk_number};

/// A family's files.
#[derive(Clone)]
pub struct Files {
    pub(super) rundir: RunDir,
    pub(super) key: String,
}

impl Records for Files {
    type Lock = std::fs::File;
    type Losses = LostStore;

    fn write_state(&self, devices: Vec<DeviceState>) -> Result<(), Reason> {
        self.rundir.write_state(&self.key, devices)
    }

    fn has_state(&self) -> bool {
        self.rundir.state(&self.key).is_ok_and(|state| state.is_some())
    }

    fn lock(&self) -> Result<std::fs::File, Reason> {
        self.rundir.lock()
    }

    fn names_beside(&self) -> Result<Vec<String>, Reason> {
        self.rundir.names_beside(&self.key)
    }

    fn devices_beside(&self, named: Option<DiskId>) -> Result<Vec<DeviceState>, Reason> {
        all_among(self.rundir.devices_by_family(Some(&self.key))?, named)
    }

    fn refuse_unrecorded(&self, disk: DiskId) -> Result<(), Reason> {
        ublk_number(disk).map_or(Ok(()), |id| claims::refuse_unrecorded(&self.rundir, id))
    }

    fn legs(&self) -> Result<LegState, String> {
        self.rundir.legs(&self.key)
    }

    fn write_legs(&self, state: &LegState) -> Result<(), String> {
        let written = self.rundir.write_legs(&self.key, state);
        written.map_err(|error| Failure::from(error).to_string())
    }

    fn ended_legs(&self, identities: &[u64]) -> Result<Vec<LegState>, Reason> {
        self.rundir.ended_legs(identities)
    }

    fn keep_legs(&self) -> Result<Option<LegState>, Reason> {
        self.rundir.keep_legs(&self.key)
    }

    fn forget_legs(&self) -> Result<(), Reason> {
        self.rundir.forget_legs(&self.key)
    }

    fn departures(&self, disk: &KnownDisk, parts: &[Part]) -> Result<Vec<Departure>, Reason> {
        self.rundir.departures(&self.key, disk, parts).map_err(Failure::from)
    }

    fn departures_of_gone(&self) -> Result<Vec<Departure>, Reason> {
        self.rundir.departures_of_gone().map_err(Failure::from)
    }

    fn part_from_gone(&self, disk: &KnownDisk, parts: &[Part]) -> Result<(), Reason> {
        self.rundir.part_from_gone(disk, parts).map_err(Failure::from)
    }

    fn left_another(&self, cow: &Cow, number: u64) -> Result<bool, Reason> {
        self.rundir.left_another(cow, number).map_err(Failure::from)
    }

    fn record_departure(&self, departure: &Departure) -> Result<(), Reason> {
        self.rundir.write_departure(&self.key, departure).map_err(Failure::from)
    }

    fn forget_departure(&self, cow: &Cow) -> Result<(), Reason> {
        self.rundir.forget_departure(cow).map_err(Failure::from)
    }

    fn losses(&self, cow: Cow) -> LostStore {
        LostStore::of(&self.rundir, cow)
    }
}

impl Losses for LostStore {
    fn found(&self, again: bool) -> Result<Option<String>, Reason> {
        LostStore::found(self, again).map_err(Failure::from)
    }

    fn tidy(&self, here: bool) {
        LostStore::tidy(self, here);
    }

    fn forget(&self) {
        LostStore::forget(self);
    }
}
