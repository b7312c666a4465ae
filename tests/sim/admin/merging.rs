//! A snapshot that is merged into its origin, whose device stays: with an end of the server at
//! every step, and what is refused.

use dm_targets::disk::Errno;
use dm_targets::sim::disk::{Class, Fault, Matcher};
use dm_targets::snapshot::table::StoreType;
use dm_targets::table::TargetParams;

use super::model::Content;
use super::town::{Town, What};
use crate::protocol::{Command, DeviceSpec, Reply};
use crate::server::admin::mutant::{self, Mutant};

pub(super) const O: What = What::Origin;
pub(super) const S: What = What::Snap(0);

/// An origin and its snapshot, both written since.
pub(super) fn town() -> Town {
    let mut town = Town::new(1, true);
    town.add(O).unwrap();
    town.add(S).unwrap();
    for sector in [0, 1, 4, 7] {
        town.write(S, sector);
    }
    for sector in [1, 2, 5] {
        town.write(O, sector);
    }
    town.flush(S);
    town.flush(O);
    town
}

pub(super) fn spec(merges: bool) -> DeviceSpec {
    let mut spec = Town::spec(if merges { S } else { O });
    if let (TargetParams::Snapshot(table), true) = (&spec.table.params, merges) {
        spec.table.params = TargetParams::SnapshotMerge(table.clone());
    }
    spec
}

/// Every write to the origin's disk fails from now on.
fn fail_writes(town: &Town) {
    let matcher = Matcher::all(Class::Write);
    let fault = Fault { matcher, skip: 0, times: u32::MAX, errno: Errno::EIO };
    town.site.disks[0].disk.borrow().inject(fault);
}

impl Town {
    pub(super) fn load_table(&mut self, merges: bool) -> Result<(), String> {
        let device = self.devices[&O].device();
        self.ask("o", Command::Load { device, spec: spec(merges) }).map(drop)
    }

    /// Loads a table, suspends the device, and resumes it.
    pub(super) fn swap_table(&mut self, merges: bool) -> Result<(), String> {
        self.load_table(merges)?;
        self.suspend(O)?;
        self.resume(O)
    }

    /// Whether the state file says that the origin's device has a merge, and is suspended.
    pub(super) fn on_record(&self) -> (bool, bool) {
        let cookie = self.devices[&O].cookie;
        let state = self.state("o").unwrap();
        let device = state.iter().find(|device| device.cookie == cookie).unwrap();
        let merges = matches!(device.spec.table.params, TargetParams::SnapshotMerge(_));
        (merges, device.suspended)
    }

    pub(super) fn shows(&mut self, content: &mut Content) -> Result<(), String> {
        let read = self.read(O).ok_or("it does not answer")??;
        content.judge(&read)
    }

    /// Lets the merge come to its end.
    pub(super) fn until_merged(&mut self) {
        for _ in 0..50 {
            self.read(O).unwrap().unwrap();
        }
    }
}

#[test]
fn a_snapshot_is_merged_under_the_device_of_its_origin() {
    let mut town = town();
    let mut merged = town.snaps[0].as_ref().unwrap().content.clone();
    town.swap_table(true).unwrap();
    town.strike_gone();
    assert!(!town.has(S), "the snapshot's device has ended");
    assert_eq!(town.on_record(), (true, false));
    town.shows(&mut merged).unwrap();
    town.until_merged();
    town.shows(&mut merged).unwrap();
    town.swap_table(false).unwrap();
    assert_eq!(town.on_record(), (false, false));
    town.shows(&mut merged).unwrap();
}

/// A merge of a snapshot whose exceptions are in memory is refused, and the snapshot stays.
fn transient() -> Result<(), String> {
    let mut town = Town::new(1, true);
    town.add(O)?;
    let mut spec = Town::spec(S);
    if let TargetParams::Snapshot(table) = &mut spec.table.params {
        table.store = StoreType::Transient { overflow: false };
    }
    let added = town.ask("o", Command::Add { name: None, id: None, spec })?;
    let Reply::Added { path, .. } = added else { return Err("it is not added".into()) };
    town.added(S, &path)?;
    town.write(S, 1);
    town.write(O, 2);
    let mut shown = town.snaps[0].as_ref().ok_or("no snapshot")?.content.clone();
    town.load_table(true)?;
    let Err(why) = town.resume(O) else { return Err("it is merged".into()) };
    if !why.contains("transient") {
        return Err(why);
    }
    shown.judge(&town.read(S).ok_or("it does not answer")??)
}

#[test]
fn a_snapshot_in_memory_is_not_merged() {
    transient().unwrap();
    mutant::set(Some(Mutant::TransientTaken));
    let wrong = transient();
    mutant::set(None);
    assert!(wrong.is_err(), "nothing is noticed");
}

#[test]
fn an_unended_merge_cannot_be_taken_away() {
    let mut town = town();
    let mut merged = town.snaps[0].as_ref().unwrap().content.clone();
    town.load_table(true).unwrap();
    town.resume(O).unwrap();
    town.load_table(false).unwrap();
    let why = town.resume(O).unwrap_err();
    assert!(why.contains("still on its COW"), "{why}");
    town.shows(&mut merged).unwrap();
    // A suspended one goes on with the next `resume`: it waits for that to come to its end.
    town.suspend(O).unwrap();
    town.load_table(false).unwrap();
    assert!(town.resume(O).is_err());
    town.resume(O).unwrap();
    town.shows(&mut merged).unwrap();
}

/// The merge has failed at its first write, and all of the snapshot is still on the COW.
#[test]
fn a_merge_that_is_taken_away_would_be_noticed() {
    let mut town = town();
    let mut merged = town.snaps[0].as_ref().unwrap().content.clone();
    town.load_table(true).unwrap();
    fail_writes(&town);
    town.resume(O).unwrap();
    town.until_merged();
    town.site.disks[0].disk.borrow().mend();
    mutant::set(Some(Mutant::MergeTakenAway));
    town.load_table(false).unwrap();
    let taken = town.resume(O);
    mutant::set(None);
    assert!(taken.is_err() || town.shows(&mut merged).is_err(), "nothing is noticed");
}

/// The server ends at every step of the change, and the next one goes on with what is on record:
/// the origin beside its snapshot, or the merge. Returns what is wrong.
fn with_an_end_at_every_step() -> Result<(), String> {
    for step in 1..500 {
        let mut town = town();
        let mut merged = town.snaps[0].as_ref().ok_or("no snapshot")?.content.clone();
        let mut plain = town.origin.clone();
        {
            let mut shared = town.site.shared.lock().map_err(|error| error.to_string())?;
            shared.crash_at = Some(shared.changes + step);
        }
        let swapped = town.swap_table(true);
        if !town.site.is_dead() {
            return swapped;
        }
        town.crash(false);
        let said = |town: &Town| town.log.clone().unwrap_or_default().join("\n");
        drop(town.recover());
        town.strike_gone();
        let (merges, suspended) = town.on_record();
        if suspended {
            town.resume(O).map_err(|why| format!("step {step}: {why}\n{}", said(&town)))?;
        }
        let merges = merges || town.on_record().0;
        let content = if merges { &mut merged } else { &mut plain };
        town.shows(content)
            .map_err(|why| format!("step {step}, {merges}: {why}\n{}", said(&town)))?;
        if !merges {
            let read = town.read(S).ok_or(format!("step {step}: the snapshot is gone"))?;
            merged.judge(&read?).map_err(|why| format!("step {step}: {why}"))?;
            continue;
        }
        if town.has(S) && town.read(S).is_some() {
            return Err(format!("step {step}: its store is merged, and the snapshot is served"));
        }
    }
    Err("it does not end".to_owned())
}

#[test]
fn the_next_server_goes_on_with_a_merge_or_with_the_snapshot() {
    with_an_end_at_every_step().unwrap();
}

/// The server ends at every step of the change, its successor cannot write to the origin, and ends
/// as well: what the successor did must not have given the store up that is merged.
fn with_two_ends() -> Result<(), String> {
    for step in 1..500 {
        let mut town = town();
        let mut merged = town.snaps[0].as_ref().ok_or("no snapshot")?.content.clone();
        {
            let mut shared = town.site.shared.lock().map_err(|error| error.to_string())?;
            shared.crash_at = Some(shared.changes + step);
        }
        let swapped = town.swap_table(true);
        if !town.site.is_dead() {
            return swapped;
        }
        town.crash(false);
        fail_writes(&town);
        drop(town.recover());
        town.strike_gone();
        let (merges, suspended) = town.on_record();
        if merges && suspended {
            town.resume(O).map_err(|why| format!("step {step}: {why}"))?;
        }
        town.site.disks[0].disk.borrow().mend();
        if !merges {
            continue;
        }
        town.kill("o");
        drop(town.recover());
        town.shows(&mut merged).map_err(|why| format!("step {step}: {why}"))?;
    }
    Err("it does not end".to_owned())
}

#[test]
fn the_server_after_the_next_one_goes_on_with_a_merge_as_well() {
    with_two_ends().unwrap();
}

#[test]
fn a_store_that_is_given_up_with_its_snapshots_device_would_be_noticed() {
    mutant::set(Some(Mutant::MergedStoreGivenUp));
    let wrong = with_an_end_at_every_step().and_then(|()| with_two_ends());
    mutant::set(None);
    assert!(wrong.is_err(), "nothing is noticed");
}

#[test]
fn the_snapshot_comes_back_if_the_table_does_not_fit() {
    let mut town = town();
    let mut plain = town.origin.clone();
    let mut snap = town.snaps[0].as_ref().unwrap().content.clone();
    let device = town.devices[&O].device();
    let mut spec = spec(true);
    spec.table.len.0 -= 2;
    town.ask("o", Command::Load { device, spec }).unwrap();
    let why = town.resume(O).unwrap_err();
    assert!(why.contains("the device continues to run"), "{why}");
    town.shows(&mut plain).unwrap();
    let read = town.read(S).unwrap().unwrap();
    snap.judge(&read).unwrap();
}

#[test]
fn a_second_device_of_an_origin_with_a_merge_is_refused() {
    let mut town = town();
    town.swap_table(true).unwrap();
    town.strike_gone();
    let add = |spec| Command::Add { name: None, id: None, spec };
    for merges in [false, true] {
        let why = town.ask("o", add(spec(merges))).unwrap_err();
        assert!(why.contains("already has a device"), "{why}");
    }
    town.kill("o");
    town.attach(1, false);
    drop(town.recover());
    town.attach(1, true);
    if town.processes.contains_key("o") {
        let why = town.ask("o", add(spec(false))).unwrap_err();
        assert!(why.contains("a snapshot is being merged into it"), "{why}");
    }
}
