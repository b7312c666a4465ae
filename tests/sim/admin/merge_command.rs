//! `merge`: a snapshot becomes its origin, whose device gets its plain table back at the end, with
//! an end of the server at every step; how it runs is known to the next server.

use std::num::NonZeroU64;

use dm_targets::sim::image::Image;
use dm_targets::table::TargetParams;
use dm_targets::target::Target;
use dm_targets::units::Sector;

use super::journals::RecordsOfCow;
use super::merge_refused::refused;
use super::merging::{self, O, S};
use super::model::Content;
use super::process::Process;
use super::town::{Town, What};
use crate::protocol::{Command, DeviceSpec, MergeChange, MergeOptions, Reply};
use crate::server::admin::machine::Records;
use crate::server::admin::mutant::{self, Mutant};

impl Town {
    pub(super) fn merge(&mut self, what: What, force: bool) -> Result<(), String> {
        let device = self.devices[&what].device();
        self.ask(
            "o",
            Command::Merge { device, force, defer: false, keep: false, bytes_per_second: None },
        )
        .map(drop)
    }

    fn change_merge(&mut self, change: MergeChange) -> Result<(), String> {
        let device = self.devices[&O].device();
        self.ask("o", Command::ChangeMerge { device, change }).map(drop)
    }

    /// Everything that can happen happens, and the server notices if a merge has ended, as its
    /// control thread does.
    pub(super) fn notice_end(&mut self) {
        self.acting = Some("o");
        if let Some(process) = self.processes.get("o") {
            drop(self.site.run(&process.executor.clone(), || false));
        }
        if self.site.is_dead() {
            return;
        }
        if let Some(process) = self.processes.get_mut("o") {
            process.admin.begin_activated();
            process.admin.end_merges();
        }
    }

    /// Sends a command to a new server.
    fn ask_new(&mut self, command: Command) -> Result<Reply, String> {
        let process = Process::start(&self.site, "o").ok_or("the server did not start")?;
        self.processes.insert("o", process);
        self.ask("o", command)
    }

    /// Whether the target of the origin's device is that of a merge, and whether that is paused,
    /// with its rate.
    pub(super) fn target(&mut self) -> (bool, Option<(bool, Option<u64>)>) {
        let id = self.devices[&O].id;
        let machine = self.processes.get_mut("o").unwrap().admin.machine();
        match machine.thread.group.device(id).unwrap().target() {
            Target::Merge(merge) => {
                let speed = merge.speed();
                (true, Some((speed.paused, speed.limit.map(NonZeroU64::get))))
            }
            _ => (false, None),
        }
    }

    fn merge_on_record(&self) -> Option<MergeOptions> {
        let cookie = self.devices[&O].cookie;
        let state = self.state("o").unwrap();
        state.into_iter().find(|device| device.cookie == cookie).unwrap().spec.merge
    }
}

/// Begins a merge that is paused before its first batch.
pub(super) fn paused(town: &mut Town) -> Result<(), String> {
    let snapshot = Some("snap1".to_owned());
    let merge = Some(MergeOptions { snapshot, paused: true, ..MergeOptions::default() });
    let (device, spec) = (town.devices[&O].device(), DeviceSpec { merge, ..merging::spec(true) });
    town.ask("o", Command::Load { device, spec })?;
    town.suspend(O)?;
    town.resume(O)
}

pub(super) fn snapshot_of(town: &Town) -> Content {
    town.snaps[0].as_ref().unwrap().content.clone()
}

#[test]
fn a_snapshot_is_merged_and_its_cow_used_again() {
    let mut town = merging::town();
    let mut merged = snapshot_of(&town);
    town.merge(S, false).unwrap();
    town.strike_gone();
    assert!(!town.has(S), "the snapshot's device has ended");
    assert_eq!(town.on_record(), (true, false));
    assert_eq!(town.merge_on_record().unwrap().snapshot.as_deref(), Some("snap1"));
    town.shows(&mut merged).unwrap();
    town.until_merged();
    town.notice_end();
    assert_eq!(town.on_record(), (false, false));
    assert_eq!(town.merge_on_record().unwrap().snapshot.as_deref(), Some("snap1"), "it has ended");
    assert!(!town.target().0, "it is plain again");
    town.shows(&mut merged).unwrap();
    // A new snapshot, of the merged content.
    (town.origin, town.snaps[0]) = (merged, None);
    town.add(S).unwrap();
    for sector in [0, 3, 5] {
        town.write(O, sector);
    }
    town.judge(S).unwrap();
    town.judge(O).unwrap();
    assert_eq!(town.end(), Ok(()));
}

/// The server ends at every step of a merge from its command to the plain table, and the next one
/// goes on; or there was no merge yet. Returns what is wrong.
fn with_an_end_at_every_step(force: bool) -> Result<(), String> {
    for step in 1..800 {
        let mut town = merging::town();
        let (mut merged, mut plain) = (snapshot_of(&town), town.origin.clone());
        if force {
            town.set_use(O, true);
        }
        {
            let mut shared = town.site.shared.lock().map_err(|error| error.to_string())?;
            shared.crash_at = Some(shared.changes + step);
        }
        let mut done = town.merge(S, force);
        for _ in 0..50 {
            if !town.site.is_dead() && done.is_ok() {
                done = town.read(O).unwrap_or(Err("it does not answer".into())).map(drop);
            }
        }
        if !town.site.is_dead() {
            town.notice_end();
        }
        if !town.site.is_dead() {
            town.site.shared.lock().map_err(|error| error.to_string())?.crash_at = None;
            return done.and_then(|()| town.shows(&mut merged));
        }
        town.crash(false);
        drop(town.recover());
        town.strike_gone();
        let wrong = |why: String| format!("step {step}: {why}");
        if town.on_record().1 {
            town.resume(O).map_err(wrong)?;
            town.strike_gone();
        }
        let has_begun = !town.has(S);
        town.shows(if has_begun { &mut merged } else { &mut plain }).map_err(wrong)?;
        if !has_begun {
            let read = town.read(S).ok_or(wrong("the snapshot is gone".into()))?;
            merged.judge(&read?).map_err(wrong)?;
            continue;
        }
        town.until_merged();
        town.notice_end();
        if town.on_record() != (false, false) || town.target().0 {
            return Err(wrong("it does not come to its end".into()));
        }
        town.shows(&mut merged).map_err(wrong)?;
        (town.origin, town.snaps[0]) = (merged, None);
        town.add(S).map_err(wrong)?;
        town.write(O, 3);
        town.judge(S).map_err(wrong)?;
    }
    Err("it does not end".to_owned())
}

#[test]
fn the_next_server_goes_on_with_a_merge_to_its_end() {
    with_an_end_at_every_step(false).unwrap();
    with_an_end_at_every_step(true).unwrap();
}

/// A server that takes a merge over knows how it runs.
fn taken_over() -> Result<(), String> {
    let mut town = merging::town();
    let mut merged = snapshot_of(&town);
    paused(&mut town)?;
    town.strike_gone();
    town.change_merge(MergeChange::Rate(NonZeroU64::new(512)))?;
    for _ in 0..2 {
        town.kill("o");
        town.recover()?;
        if town.target() != (true, Some((true, Some(512)))) {
            return Err("the merge runs otherwise".into());
        }
        town.until_merged();
        town.notice_end();
        if !town.on_record().0 {
            return Err("it was paused and has ended".into());
        }
        town.shows(&mut merged)?;
    }
    town.change_merge(MergeChange::Rate(None))?;
    town.change_merge(MergeChange::Resume)?;
    town.until_merged();
    town.notice_end();
    town.shows(&mut merged)?;
    if town.on_record().0 { Err("it does not go on".into()) } else { Ok(()) }
}

#[test]
fn how_a_merge_runs_is_known_to_the_next_server() {
    taken_over().unwrap();
    mutant::set(Some(Mutant::MergeOptionsForgotten));
    let wrong = taken_over();
    mutant::set(None);
    assert!(wrong.is_err(), "nothing is noticed");
}

/// With a run directory that is full nothing begins, changes or ends that is not on record.
fn full_directory() -> Result<(), String> {
    let mut town = merging::town();
    let mut merged = snapshot_of(&town);
    town.fill(true);
    refused(&mut town, S, true, "cannot be recorded")?;
    town.fill(false);
    paused(&mut town)?;
    town.strike_gone();
    town.fill(true);
    let Err(why) = town.change_merge(MergeChange::Resume) else {
        return Err("it continues".into());
    };
    if !why.contains("its merge is not changed") || town.target() != (true, Some((true, None))) {
        return Err(why);
    }
    town.fill(false);
    town.change_merge(MergeChange::Resume)?;
    town.fill(true);
    town.until_merged();
    town.notice_end();
    if !town.target().0 {
        return Err("it is plain, and the next server does not know of that".into());
    }
    town.shows(&mut merged)?;
    town.fill(false);
    town.notice_end();
    if town.target().0 || town.on_record().0 {
        return Err("it does not become plain".into());
    }
    town.shows(&mut merged)
}

#[test]
fn nothing_of_a_merge_happens_that_is_not_on_record() {
    full_directory().unwrap();
    mutant::set(Some(Mutant::PlainUnrecorded));
    let wrong = full_directory();
    mutant::set(None);
    assert!(wrong.is_err(), "nothing is noticed");
}

/// The merge of a dead server is deleted by force: what its snapshot had acknowledged is on the
/// COW, none of it has been merged, and no journal stays.
#[test]
fn a_deleted_merge_leaves_no_journal() {
    let mut town = Town::new(1, true);
    town.add(O).unwrap();
    town.add(S).unwrap();
    for sector in [0, 1, 4] {
        town.write(S, sector);
    }
    let journal = RecordsOfCow { shared: town.site.shared.clone(), cow: "/c0".to_owned() };
    town.kill("o");
    assert!(journal.is_left(), "its last writes are in the journal");
    // The server has died while it put a merge in the place of both.
    let mut state = town.state("o").unwrap();
    let (snap, id) = (town.devices.remove(&S).unwrap(), town.devices[&O].id);
    let gone = state.iter().position(|device| device.cookie == snap.cookie).unwrap();
    let gone = state.remove(gone);
    let origin = state.iter_mut().find(|device| device.id == id).unwrap();
    let TargetParams::Snapshot(table) = gone.spec.table.params else { panic!("no snapshot") };
    origin.spec.table.params = TargetParams::SnapshotMerge(table);
    (origin.cow, origin.known) = (gone.cow, gone.known);
    town.site.directory("o").write_state(state).unwrap();
    town.site.kernel.borrow_mut().devices.remove(&snap.id);
    let before = town.site.disks[0].disk.borrow().visible();
    town.del(O, true).unwrap();
    assert!(!journal.is_left(), "the journal stays");
    let now = town.site.disks[0].disk.borrow().visible();
    let read = |image: &Image| image.read(Sector(0), image.size());
    assert!(read(&before) == read(&now), "it was merged");
    let merges = merging::spec(true);
    let added = town.ask_new(Command::Add { name: None, id: None, spec: merges }).unwrap();
    let Reply::Added { path, .. } = added else { panic!("it is not added") };
    town.added(O, &path).unwrap();
    let mut merged = snapshot_of(&town);
    town.shows(&mut merged).unwrap();
}

/// Who deletes the device of a merge that has not ended is told how it goes on; who deletes that of
/// one that has ended is not.
#[test]
fn a_deleted_merge_says_that_the_disks_belong_together() {
    for ends in [false, true] {
        let mut town = merging::town();
        paused(&mut town).unwrap();
        town.strike_gone();
        if ends {
            town.change_merge(MergeChange::Resume).unwrap();
            town.until_merged();
            town.notice_end();
        }
        let devices = vec![town.devices[&O].device()];
        let reply = town.ask("o", Command::Del { devices, force: false }).unwrap();
        match reply {
            Reply::DeletedNoted { notes } if !ends => {
                let [note] = &notes[..] else { panic!("{notes:?}") };
                let table = "create origin0 --table \"0 ";
                assert!(note.contains("is still on /c0") && note.contains(table), "{note}");
                assert!(note.contains(" snapshot-merge "), "{note}");
            }
            Reply::Deleted if ends => {}
            other => panic!("{ends}: {other:?}"),
        }
    }
}

/// The origin's disk alone is a mixture: no device shows it before the merge has gone on, unless
/// the user insists.
#[test]
fn an_origin_whose_merge_has_not_ended_gets_no_other_device() {
    let left = || {
        let mut town = merging::town();
        paused(&mut town).unwrap();
        town.strike_gone();
        let devices = vec![town.devices[&O].device()];
        town.ask("o", Command::Del { devices, force: false }).unwrap();
        town.strike_gone();
        town
    };
    let add = |town: &mut Town, spec: DeviceSpec| {
        if !town.processes.contains_key("o") {
            let process = Process::start(&town.site, "o").unwrap();
            town.processes.insert("o", process);
        }
        town.ask("o", Command::Add { name: None, id: None, spec })
    };
    let refused = ["is still on /c0", "create origin0 --table \"0 ", " snapshot-merge ", "--force"];
    // The store on the COW itself says that it is being merged.
    let line = "`ublk-dm create NAME --table \"0 8 snapshot-merge /o /c0 P 2\"`";
    let marked = ["/c0: a part of its snapshot has been merged into /o", line];
    for (spec, said) in [
        (merging::spec(false), &refused[..]),
        (Town::spec(What::Snap(1)), &refused),
        (Town::spec(S), &marked),
    ] {
        let mut town = left();
        let why = add(&mut town, spec).unwrap_err();
        for words in said {
            assert!(why.contains(words), "{why}");
        }
        // The merge goes on, and it is an origin like any other afterwards.
        add(&mut town, merging::spec(true)).unwrap();
    }
    let mut town = left();
    add(&mut town, DeviceSpec { force: true, ..merging::spec(false) }).unwrap();
    let mut town = left();
    mutant::set(Some(Mutant::UnmergedForgotten));
    let added = add(&mut town, merging::spec(false));
    mutant::set(None);
    assert_eq!(added.is_ok(), cfg!(feature = "mutants"));
}
