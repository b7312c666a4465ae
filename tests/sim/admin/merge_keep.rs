//! `merge --keep`: when the merge has ended, the snapshot's device is a snapshot of the merged
//! origin. With an end of the server at every step, and with everything that can prevent it.

use dm_targets::table::TargetParams;

use super::hold_and_are_noticed;
use super::merge_command::snapshot_of;
use super::merge_refused::open_device;
use super::merging::{self, O, S};
use super::model::Content;
use super::town::{Town, What};
use crate::protocol::{Command, DeviceState, MergeChange, MergeObject, Reply, TargetObject};
use crate::server::admin::mutant::Mutant;

impl Town {
    /// `merge --keep`, with `--force` or `--defer`.
    pub(super) fn keep(&mut self, force: bool, defer: bool) -> Result<Reply, String> {
        let device = self.devices[&S].device();
        let bytes_per_second = None;
        self.ask("o", Command::Merge { device, force, defer, keep: true, bytes_per_second })
    }

    pub(super) fn recorded(&self, what: What) -> Option<DeviceState> {
        let cookie = self.devices[&what].cookie;
        self.state("o").ok()?.into_iter().find(|device| device.cookie == cookie)
    }

    /// What `list` shows of the merge of a device.
    pub(super) fn shown_merge(&self, what: What) -> Option<MergeObject> {
        match self.processes["o"].report(self.devices[&what].id).object.parts {
            Some(TargetObject::Snapshot(snapshot)) => snapshot.merge,
            _ => None,
        }
    }

    /// The snapshot's device has the table that it has while its store is merged.
    pub(super) fn rests(&mut self) -> Result<(), String> {
        let state = self.recorded(S).ok_or("it is not on record")?;
        let is_own = |table: &TargetParams| matches!(table, TargetParams::Snapshot(_));
        let own = state.loaded.as_ref().is_some_and(|spec| is_own(&spec.table.params));
        if state.spec.table.params != TargetParams::Error || !own {
            return Err(format!("it has {} on record", state.spec.table));
        }
        match self.read(S) {
            Some(Err(_)) => Ok(()),
            other => Err(format!("it is merged, and a read of it ends with {other:?}")),
        }
    }

    /// The merge has ended: the snapshot's device shows the merged origin.
    pub(super) fn is_kept(&mut self) -> Result<(), String> {
        if self.on_record() != (false, false) || self.target().0 {
            return Err("the merge has not ended".into());
        }
        let state = self.recorded(S).ok_or("the snapshot is gone")?;
        if !matches!(state.spec.table.params, TargetParams::Snapshot(_)) || state.loaded.is_some() {
            return Err(format!("the snapshot is {}", state.spec.table));
        }
        let mut snap = self.origin.frozen();
        self.judge(O)?;
        snap.judge(&self.read(S).ok_or("the snapshot does not answer")??)?;
        self.snaps[0].as_mut().ok_or("no snapshot")?.content = snap;
        Ok(())
    }

    /// The snapshot keeps what it shows, whoever writes, and whichever server it has.
    pub(super) fn is_a_snapshot(&mut self) -> Result<(), String> {
        for round in 0..3 {
            for sector in [0, 3, 5, 7] {
                self.write(O, (sector + round) % 8);
            }
            self.write(S, 2);
            self.judge(S)?;
            self.judge(O)?;
            if round == 2 {
                self.flush(O);
                self.flush(S);
            }
            self.kill("o");
            self.recover()?;
            self.judge(S)?;
            self.judge(O)?;
        }
        Ok(())
    }

    pub(super) fn finish_merge(&mut self) {
        self.until_merged();
        self.notice_end();
    }
}

/// A town whose snapshot is being merged, and is to be kept.
pub(super) fn begun() -> Result<Town, String> {
    let mut town = merging::town();
    let merged = snapshot_of(&town);
    town.keep(false, false)?;
    town.strike_gone();
    town.origin = merged;
    Ok(town)
}

/// From the command to a snapshot that is used.
fn kept() -> Result<(), String> {
    let mut town = begun()?;
    town.rests()?;
    if !town.on_record().0 || town.shown_merge(O).and_then(|merge| merge.keep) != Some(true) {
        return Err("the wish is not shown".into());
    }
    town.judge(O)?;
    town.write(O, 6);
    town.finish_merge();
    town.is_kept()?;
    if town.shown_merge(S).is_some() {
        return Err("it has a merge".into());
    }
    town.is_a_snapshot()?;
    // It can be merged as any other.
    let mut merged = snapshot_of(&town);
    town.merge(S, false)?;
    town.strike_gone();
    if town.has(S) {
        return Err("it is kept without a wish".into());
    }
    town.finish_merge();
    town.shows(&mut merged)
}

/// The wish outlives its server, a pause, and the end of another one.
fn taken_over() -> Result<(), String> {
    let mut town = begun()?;
    let device = town.devices[&O].device();
    town.ask("o", Command::ChangeMerge { device, change: MergeChange::Pause })?;
    for _ in 0..2 {
        town.kill("o");
        town.recover()?;
        town.rests()?;
        town.judge(O)?;
    }
    town.ask("o", Command::ChangeMerge { device, change: MergeChange::Resume })?;
    town.kill("o");
    town.recover()?;
    town.finish_merge();
    town.is_kept()?;
    town.is_a_snapshot()
}

/// Nothing is preserved on the COW as long as the next server would merge it.
fn ended_at_once() -> Result<(), String> {
    let mut town = begun()?;
    town.finish_merge();
    town.is_kept()?;
    town.write(O, 1);
    town.kill("o");
    town.recover()?;
    for _ in 0..3 {
        town.finish_merge();
    }
    town.judge(O)?;
    town.judge(S)
}

/// What another process has open is not kept, by force or not.
fn open_is_refused() -> Result<(), String> {
    let mut town = merging::town();
    let mut snap = snapshot_of(&town);
    open_device(&town, S, true);
    for force in [false, true] {
        let Err(why) = town.keep(force, false) else { return Err("it is merged".into()) };
        if !why.contains("it is open") || town.on_record().0 {
            return Err(why);
        }
    }
    snap.judge(&town.read(S).ok_or("the snapshot does not answer")??)
}

/// A device that ends with its server cannot be kept for the next one.
fn unrecoverable_is_refused() -> Result<(), String> {
    let mut town = Town::new(1, true);
    town.add(O)?;
    let mut spec = Town::spec(S);
    spec.options.recovery = false;
    let Reply::Added { path, .. } = town.ask("o", Command::Add { name: None, id: None, spec })?
    else {
        return Err("it is not added".into());
    };
    town.added(S, &path)?;
    for defer in [false, true] {
        let Err(why) = town.keep(false, defer) else { return Err("it is merged".into()) };
        if !why.contains("--no-recovery") || town.on_record().0 || !town.has(S) {
            return Err(why);
        }
    }
    Ok(())
}

/// The wish goes along with a merge that is deferred, and with its command.
fn deferred() -> Result<(), String> {
    for again in [false, true] {
        let mut town = merging::town();
        town.set_use(O, true);
        let Reply::Deferred { .. } = town.keep(false, true)? else {
            return Err("it is not deferred".into());
        };
        if town.shown_merge(S).and_then(|merge| merge.keep) != Some(true) {
            return Err("the wish is not shown".into());
        }
        town.kill("o");
        town.recover()?;
        town.set_use(O, false);
        let merged = snapshot_of(&town);
        if again {
            town.merge(S, false)?;
        } else {
            town.kill("o");
            town.recover()?;
        }
        town.strike_gone();
        town.origin = merged;
        if !town.has(S) {
            return Err("it is not kept".into());
        }
        town.rests()?;
        town.finish_merge();
        town.is_kept()?;
        town.is_a_snapshot()?;
    }
    Ok(())
}

/// A rule; the error says how it is broken.
#[test]
fn a_snapshot_is_kept_over_its_merge() {
    let rules: [(super::Rule, Mutant); 6] = [
        (kept, Mutant::KeptUnjoined),
        (taken_over, Mutant::KeptWishForgotten),
        (ended_at_once, Mutant::KeptUnrecorded),
        (open_is_refused, Mutant::OpenKept),
        (unrecoverable_is_refused, Mutant::UnrecoverableKept),
        (deferred, Mutant::DeferredKeepForgotten),
    ];
    hold_and_are_noticed(&rules);
}

/// What the devices must show, from what is on record: `true` if the merge has begun.
fn has_begun(town: &mut Town, plain: &Content, merged: &Content) -> Result<bool, String> {
    let read = town.read(O).ok_or("it does not answer")??;
    let is = |content: &Content| content.clone().judge(&read).is_ok();
    match (is(plain), is(merged)) {
        (true, false) if !town.on_record().0 => Ok(false),
        (false, true) => Ok(true),
        other => Err(format!("it shows {read:?}: {other:?}")),
    }
}

/// The server ends at every step from the command to a write after the end; the next one finishes.
/// The server ends some changes later.
fn crash_after(town: &Town, changes: u64) {
    let mut shared = town.site.shared.lock().unwrap();
    shared.crash_at = Some(shared.changes + changes);
}

#[test]
fn the_next_server_keeps_the_snapshot_at_every_step() {
    let (mut before, mut within, mut after) = (0, 0, 0);
    for step in 1..900 {
        let mut town = merging::town();
        let (mut merged, plain) = (snapshot_of(&town), town.origin.clone());
        crash_after(&town, step);
        let wrong = |why: String| -> String { format!("step {step}: {why}") };
        let mut done = town.keep(false, false).map(drop);
        for _ in 0..50 {
            if !town.site.is_dead() && done.is_ok() {
                done = town.read(O).unwrap_or(Err("it does not answer".into())).map(drop);
            }
        }
        if !town.site.is_dead() {
            town.notice_end();
        }
        let has_ended = !town.site.is_dead();
        if has_ended {
            done.map_err(wrong).unwrap();
            // What a write overwrites is preserved, whether it is acknowledged or not.
            town.origin = merged.clone();
            town.snaps[0].as_mut().unwrap().content = merged.frozen();
            town.write(O, 2);
        }
        if !town.site.is_dead() {
            town.site.shared.lock().unwrap().crash_at = None;
            town.judge(O).map_err(wrong).unwrap();
            town.judge(S).map_err(wrong).unwrap();
            assert!(before > 2 && within > 20 && after > 5, "{before} {within} {after}");
            return;
        }
        town.crash(false);
        drop(town.recover());
        town.strike_gone();
        assert!(town.has(S), "step {step}: the snapshot is gone");
        if town.on_record().1 {
            town.resume(O).map_err(wrong).unwrap();
        }
        if !has_ended && !has_begun(&mut town, &plain, &merged).map_err(wrong).unwrap() {
            let read = town.read(S).unwrap().map_err(wrong).unwrap();
            merged.judge(&read).map_err(wrong).unwrap();
            before += 1;
            continue;
        }
        if !has_ended {
            if town.on_record().0 {
                town.rests().map_err(wrong).unwrap();
                within += 1;
            }
            town.finish_merge();
            town.origin = merged;
            town.is_kept().map_err(wrong).unwrap();
        }
        after += u32::from(has_ended);
        town.is_a_snapshot().map_err(wrong).unwrap();
    }
    panic!("it does not end");
}
