//! The run directory of the simulated machine: state files, records of legs and of lost stores,
//! journals. It outlives processes but not a power loss, like memory.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dm_targets::mirror::leg_state::LegState;
use dm_targets::snapshot::losses::{Loss, LossRecord};

use super::journals::Table;
use crate::failure::Reason;
use crate::protocol::{Cow, DeviceState, KnownDisk, Part, Which};
use crate::rundir::all_among;
use crate::rundir::departed::Departure;
use crate::rundir::lost::is_loss_of;
use crate::server::admin::machine::{Losses, Records};
use crate::server::admin::mutant::{self, Mutant};
use crate::storage::DiskId;

/// A state file: its content, or that it is unreadable.
#[derive(Clone)]
pub enum StateFile {
    Whole(Vec<DeviceState>),
    Damaged,
}

/// The content of the directory.
#[derive(Clone, Default)]
pub struct Files {
    pub states: BTreeMap<String, StateFile>,
    legs: BTreeMap<String, LegState>,
    /// Of mirrors that have ended.
    ended: Vec<LegState>,
    /// Keyed by the store, and the COW's disk.
    lost: BTreeMap<String, (Cow, Loss)>,
    /// Keyed likewise.
    departed: BTreeMap<String, Departure>,
    pub(super) journals: BTreeMap<String, Table>,
}

impl Files {
    /// No store is recorded as lost, and no snapshot as departed.
    pub fn tells_of_no_cow(&self) -> bool {
        self.lost.is_empty() && self.departed.is_empty()
    }

    /// The machine restarts, and the directory stays; users discard journals of another boot.
    pub fn reboot(&mut self) {
        self.states.clear();
        self.legs.clear();
        self.ended.clear();
        self.journals.clear();
    }

    /// What a server of 0.2.0 leaves: only the state file records which left-out snapshot is lost.
    pub fn forget_records(&mut self) {
        self.lost.clear();
        self.departed.clear();
    }

    /// The record of a mirror's legs is removed.
    pub fn remove_legs(&mut self, key: &str) {
        self.legs.remove(key);
    }

    /// Nothing is recorded of any mirror's legs.
    pub fn no_legs(&self) -> bool {
        self.legs.is_empty() && self.ended.is_empty()
    }

    /// The state file of a family is damaged, or all its files and all journals are removed.
    pub fn spoil(&mut self, key: &str, damage: bool) {
        if damage {
            if let Some(state) = self.states.get_mut(key) {
                *state = StateFile::Damaged;
            }
        } else {
            self.states.remove(key);
            self.legs.remove(key);
            self.ended.clear();
            if key == "o" {
                self.journals.clear();
            }
        }
    }
}

impl Files {
    /// The record of a mirror that has ended takes the place of what others say of its legs.
    fn keep_legs(&mut self, key: &str) -> Option<LegState> {
        let state = self.legs.remove(key)?;
        let others = std::mem::take(&mut self.ended).into_iter();
        self.ended = others.filter_map(|other| other.outdated_by(&state)).collect();
        let kept = Some(state).filter(LegState::has_stale);
        self.ended.extend(kept.clone());
        kept
    }
}

/// The state that all processes share.
#[derive(Default)]
pub struct Shared {
    pub files: Files,
    /// Nothing can be written.
    pub full: bool,
    /// The machine, or the process that writes, has ended.
    pub dead: bool,
    /// Counts what has been changed.
    pub changes: u64,
    /// The change at which everything ends.
    pub crash_at: Option<u64>,
    /// The change at which nothing can be written any more.
    pub full_at: Option<u64>,
    /// The change at which the state file of a family is damaged.
    pub damage_at: Option<(u64, &'static str)>,
    /// What another family's server writes down just before one of ours takes the lock.
    pub before_lock: Option<(String, Vec<DeviceState>)>,
    /// State files that have been damaged so.
    pub damaged: Vec<&'static str>,
}

impl Shared {
    /// Counts a change before it is made; `false` if everything has ended before it.
    pub fn step(&mut self) -> bool {
        if self.dead {
            return false;
        }
        self.changes += 1;
        self.full |= self.full_at.take_if(|at| *at <= self.changes).is_some();
        if let Some((_, key)) = self.damage_at.take_if(|(at, _)| *at <= self.changes) {
            self.files.spoil(key, true);
            self.damaged.push(key);
        }
        self.dead = self.crash_at == Some(self.changes);
        !self.dead
    }

    fn write(&mut self) -> Result<&mut Files, String> {
        let full = |shared: &Shared| shared.full.then_some("No space left on device (os error 28)");
        if let Some(why) = full(self) {
            return Err(why.to_owned());
        }
        let goes_on = self.step();
        if let Some(why) = full(self) {
            return Err(why.to_owned());
        }
        if goes_on { Ok(&mut self.files) } else { Err("the machine has ended".to_owned()) }
    }
}

/// The directory as one family sees it.
#[derive(Clone)]
pub struct Directory {
    pub shared: Arc<Mutex<Shared>>,
    pub key: String,
}

impl Directory {
    pub fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state files of all other families.
    pub fn files_beside(&self) -> Vec<(String, Result<Vec<DeviceState>, Reason>)> {
        let shared = self.lock();
        let others = shared.files.states.iter().filter(|(key, _)| **key != self.key);
        let others = others.map(|(key, file)| match file {
            StateFile::Whole(devices) => (key.clone(), Ok(devices.clone())),
            StateFile::Damaged => (key.clone(), Err(format!("{key}.json: damaged").into())),
        });
        others.collect()
    }

    /// The devices of all other families, from those of their state files that can be read.
    pub fn devices_beside(&self) -> Vec<DeviceState> {
        self.files_beside().into_iter().flat_map(|(_, file)| file.unwrap_or_default()).collect()
    }

    /// Removes all files of the family, as a server does when it ends.
    pub fn remove(&self) {
        let mut shared = self.lock();
        if shared.step() {
            shared.files.keep_legs(&self.key);
            shared.files.states.remove(&self.key);
        }
    }
}

impl Records for Directory {
    type Lock = ();
    type Losses = Lost;

    fn write_state(&self, devices: Vec<DeviceState>) -> Result<(), Reason> {
        let mut shared = self.lock();
        let files = shared.write()?;
        files.states.insert(self.key.clone(), StateFile::Whole(devices));
        Ok(())
    }

    fn has_state(&self) -> bool {
        let shared = Directory::lock(self);
        matches!(shared.files.states.get(&self.key), Some(StateFile::Whole(_)))
    }

    fn lock(&self) -> Result<(), Reason> {
        let shared = &mut *Directory::lock(self);
        if let Some((key, devices)) = shared.before_lock.take() {
            shared.files.states.insert(key, StateFile::Whole(devices));
        }
        Ok(())
    }

    fn names_beside(&self) -> Result<Vec<String>, Reason> {
        Ok(self.devices_beside().into_iter().map(|device| device.name).collect())
    }

    fn devices_beside(&self, named: Option<DiskId>) -> Result<Vec<DeviceState>, Reason> {
        all_among(self.files_beside().into_iter(), named)
    }

    /// Every device is on record here.
    fn refuse_unrecorded(&self, _disk: DiskId) -> Result<(), Reason> {
        Ok(())
    }

    fn legs(&self) -> Result<LegState, String> {
        Directory::lock(self)
            .files
            .legs
            .get(&self.key)
            .cloned()
            .ok_or_else(|| "there is no record".to_owned())
    }

    fn write_legs(&self, state: &LegState) -> Result<(), String> {
        let mut shared = Directory::lock(self);
        let in_place = shared.files.legs.contains_key(&self.key);
        if in_place && !mutant::is(Mutant::LegsNeedRoom) {
            // What is there can be overwritten where nothing else can be written.
            if !shared.step() {
                return Err("the machine has ended".to_owned());
            }
            shared.files.legs.insert(self.key.clone(), state.clone());
            return Ok(());
        }
        shared.write()?.legs.insert(self.key.clone(), state.clone());
        Ok(())
    }

    fn ended_legs(&self, identities: &[u64]) -> Result<Vec<LegState>, Reason> {
        let shared = Directory::lock(self);
        let concerns = |state: &&LegState| identities.iter().any(|id| state.knows(*id));
        Ok(shared.files.ended.iter().filter(concerns).cloned().collect())
    }

    fn keep_legs(&self) -> Result<Option<LegState>, Reason> {
        let mut shared = Directory::lock(self);
        if !shared.files.legs.contains_key(&self.key) {
            return Ok(None);
        }
        // A file is renamed where nothing can be written, too.
        let goes_on = shared.step();
        if goes_on { Ok(shared.files.keep_legs(&self.key)) } else { Ok(None) }
    }

    fn forget_legs(&self) -> Result<(), Reason> {
        let mut shared = Directory::lock(self);
        if shared.files.legs.contains_key(&self.key) && shared.step() {
            shared.files.remove_legs(&self.key);
        }
        Ok(())
    }

    fn departures(&self, disk: &KnownDisk, parts: &[Part]) -> Result<Vec<Departure>, Reason> {
        let shared = Directory::lock(self);
        let is_the_same = |left: &Departure| match left.cow.origin.as_str() {
            // A lasting name decides; without one the origin is identified by its number.
            known if !known.is_empty() && !disk.name.is_empty() => known == disk.name,
            _ => left.origin_number == disk.number,
        };
        let is_below = |left: &Departure| {
            left.is_below(disk, parts, true) && !mutant::is(Mutant::DepartedByName)
        };
        let is_of = |left: &&Departure| is_the_same(left) || is_below(left);
        Ok(shared.files.departed.values().filter(is_of).cloned().collect())
    }

    fn departures_of_gone(&self) -> Result<Vec<Departure>, Reason> {
        let shared = Directory::lock(self);
        let of_gone = shared.files.departed.values().filter(|left| left.made_of.is_some());
        Ok(of_gone.cloned().collect())
    }

    fn part_from_gone(&self, disk: &KnownDisk, parts: &[Part]) -> Result<(), Reason> {
        let left: Vec<Departure> = Directory::lock(self).files.departed.values().cloned().collect();
        let parted = left.iter().filter_map(|left| left.parted_from(disk, parts));
        parted.into_iter().try_for_each(|left| self.record_departure(&left))
    }

    fn left_another(&self, cow: &Cow, number: u64) -> Result<bool, Reason> {
        let known_by = self.losses(cow.clone()).known_by;
        let left = Directory::lock(self).files.departed.get(&known_by[0]).cloned();
        Ok(left.is_some_and(|left| left.origin_number != number))
    }

    fn record_departure(&self, departure: &Departure) -> Result<(), Reason> {
        let known_by = self.losses(departure.cow.clone()).known_by;
        let mut shared = Directory::lock(self);
        shared.write()?.departed.insert(known_by[0].clone(), departure.clone());
        Ok(())
    }

    fn forget_departure(&self, cow: &Cow) -> Result<(), Reason> {
        let known_by = self.losses(cow.clone()).known_by;
        let mut shared = Directory::lock(self);
        // A file can be removed even if nothing can be written.
        if shared.files.departed.contains_key(&known_by[0]) && shared.step() {
            shared.files.departed.remove(&known_by[0]);
        }
        Ok(())
    }

    fn losses(&self, cow: Cow) -> Lost {
        let name = cow.names.first().cloned().unwrap_or_default();
        let by = match cow.store {
            Which::Id(id) => format!("{id} on {name}"),
            _ => name.clone(),
        };
        Lost { shared: self.shared.clone(), known_by: vec![by, name], cow }
    }
}

/// The record of one COW.
pub struct Lost {
    shared: Arc<Mutex<Shared>>,
    known_by: Vec<String>,
    cow: Cow,
}

impl LossRecord for Lost {
    fn cow(&self) -> &[String] {
        &self.known_by
    }

    fn record(&self, loss: Loss) -> Result<(), String> {
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        let files = shared.write()?;
        files.lost.insert(self.known_by[0].clone(), (self.cow.clone(), loss));
        files.departed.remove(&self.known_by[0]);
        Ok(())
    }

    fn joins(&self) {
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        let lost = shared.files.lost.get(&self.known_by[0]);
        let is_old = lost.is_some_and(|(_, loss)| *loss == Loss::OriginChanged);
        if is_old && shared.step() {
            shared.files.lost.remove(&self.known_by[0]);
        }
    }
}

impl Losses for Lost {
    fn found(&self, again: bool) -> Result<Option<String>, Reason> {
        let shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        let has_left = shared.files.departed.contains_key(&self.known_by[0]);
        let is_it = |lost: &Cow, loss: Loss| {
            lost.store == self.cow.store && is_loss_of(lost, &self.cow, loss, again, has_left)
        };
        let mut lost = shared.files.lost.values();
        Ok(lost.find(|(lost, loss)| is_it(lost, *loss)).map(|(_, loss)| format!("{loss:?}")))
    }

    /// Stores have ids here, so no store is taken for another.
    fn tidy(&self, _here: bool) {}

    fn forget(&self) {
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        if shared.step() {
            shared.files.lost.remove(&self.known_by[0]);
        }
    }
}
