//! A merge that is left to the next activation of its origin: it outlives the server, it is carried
//! out once the devices are unused, and it can be taken back.

use std::num::NonZeroU64;

use super::hold_and_are_noticed;
use super::merge_command::snapshot_of;
use super::merge_refused::{full_cow, open_device};
use super::merging::{self, O, S};
use super::takeback::take_back;
use super::town::{Town, What};
use super::undone::Way;
use crate::protocol::{Command, MergeChange, MergeOptions, MergeState, Reply, TargetObject};
use crate::server::admin::machine::Records;
use crate::server::admin::mutant::{self, Mutant};

const RATE: Option<NonZeroU64> = NonZeroU64::new(1 << 20);

impl Town {
    /// `merge --defer`; returns whether the merge is deferred.
    pub(super) fn defer(&mut self, what: What) -> Result<bool, String> {
        let device = self.devices[&what].device();
        let command = Command::Merge {
            device,
            force: false,
            defer: true,
            keep: false,
            bytes_per_second: RATE,
        };
        match self.ask("o", command)? {
            Reply::Deferred { note } if note.contains("--pause` takes that back") => Ok(true),
            Reply::Done => Ok(false),
            other => Err(format!("{other:?}")),
        }
    }

    fn take_back_wish(&mut self) -> Result<(), String> {
        let device = self.devices[&S].device();
        match self.ask("o", Command::ChangeMerge { device, change: MergeChange::Pause })? {
            Reply::Noted { note } if note.contains("its deferred merge is taken back") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    }

    /// Whether `list` shows that the snapshot's merge is deferred.
    fn is_shown(&self) -> bool {
        let report = self.processes["o"].report(self.devices[&S].id);
        let Some(TargetObject::Snapshot(snapshot)) = report.object.parts else { return false };
        snapshot.merge.is_some_and(|merge| {
            merge.state == MergeState::Deferred
                && merge.limit_bytes_per_second == RATE.map(NonZeroU64::get)
        })
    }

    /// Whether users were told one thing, which begins with these words.
    fn has_told(&mut self, words: &str) -> Result<(), String> {
        match &std::mem::take(&mut self.told)[..] {
            [one] if one.starts_with(words) => Ok(()),
            other => Err(format!("not told '{words}': {other:?}")),
        }
    }

    /// The server dies, and the next one takes the devices over.
    fn again(&mut self) -> Result<(), String> {
        self.kill("o");
        let recovered = self.recover();
        self.strike_gone();
        recovered
    }
}

/// A town whose origin is mounted, and whose snapshot is to be merged later.
fn deferred() -> Result<Town, String> {
    let mut town = merging::town();
    town.set_use(O, true);
    town.told.clear();
    if !town.defer(S)? {
        return Err("it is not deferred".into());
    }
    Ok(town)
}

/// Nothing has been merged: both devices are as they were.
fn is_untouched(town: &mut Town) -> Result<(), String> {
    let (mut snap, mut plain) = (snapshot_of(town), town.origin.clone());
    if town.on_record().0 {
        return Err("it is merged".into());
    }
    town.shows(&mut plain)?;
    snap.judge(&town.read(S).ok_or("the snapshot does not answer")??)
}

/// It waits through servers as long as the origin is mounted, and begins at the next activation.
fn waits_and_begins() -> Result<(), String> {
    let mut town = deferred()?;
    let mut merged = snapshot_of(&town);
    if !town.is_shown() {
        return Err("it is not shown".into());
    }
    for _ in 0..2 {
        town.again()?;
        town.has_told("snap1: its merge stays deferred: ")?;
        is_untouched(&mut town)?;
        if !town.is_shown() {
            return Err("the next server does not show it".into());
        }
    }
    // The end of a use is no activation, nor is an upgrade.
    town.set_use(O, false);
    town.notice_end();
    is_untouched(&mut town)?;
    town.upgrade("o", true)?;
    is_untouched(&mut town)?;
    if !town.told.is_empty() {
        return Err(format!("{:?}", town.told));
    }
    town.again()?;
    town.has_told("snap1: its deferred merge has begun")?;
    if town.has(S) || !town.target().0 {
        return Err("it has not begun".into());
    }
    if town.target().1 != Some((false, RATE.map(NonZeroU64::get))) {
        return Err("it runs otherwise".into());
    }
    town.shows(&mut merged)?;
    town.until_merged();
    town.notice_end();
    town.shows(&mut merged)?;
    if town.target().0 { Err("it does not end".into()) } else { Ok(()) }
}

#[test]
fn a_deferred_merge_waits_for_an_activation_with_unused_devices() {
    waits_and_begins().unwrap();
    for mutant in [Mutant::DeferredForgotten, Mutant::DeferredUnderMount, Mutant::BegunByUpgrade] {
        mutant::set(Some(mutant));
        let wrong = waits_and_begins();
        mutant::set(None);
        assert!(wrong.is_err(), "{mutant:?}: nothing is noticed");
    }
}

#[test]
fn a_deferred_merge_begins_when_the_origin_is_added() {
    let mut town = deferred().unwrap();
    let mut merged = snapshot_of(&town);
    town.set_use(O, false);
    town.del(O, false).unwrap();
    assert!(town.has(S) && town.is_shown());
    town.add(O).unwrap();
    town.has_told("snap1: its deferred merge begins now").unwrap();
    town.notice_end();
    assert!(town.has(S), "the add can still be undone");
    town.notice_end();
    town.strike_gone();
    assert!(!town.has(S), "its device has ended");
    assert_eq!(town.on_record(), (true, false));
    town.shows(&mut merged).unwrap();
    town.until_merged();
    town.notice_end();
    town.shows(&mut merged).unwrap();
    assert!(!town.target().0);
}

#[test]
fn what_is_not_in_use_is_merged_at_once() {
    let mut town = merging::town();
    let mut merged = snapshot_of(&town);
    assert!(!town.defer(S).unwrap());
    town.strike_gone();
    assert!(!town.has(S));
    town.shows(&mut merged).unwrap();
    // A snapshot that is mounted is deferred as well.
    let mut town = merging::town();
    town.set_use(S, true);
    assert!(town.defer(S).unwrap());
    town.again().unwrap();
    is_untouched(&mut town).unwrap();
}

#[test]
fn a_deferred_merge_is_taken_back() {
    let mut town = deferred().unwrap();
    // Under the name of the origin's device as well.
    let device = town.devices[&O].device();
    town.ask("o", Command::ChangeMerge { device, change: MergeChange::Pause }).unwrap();
    assert!(!town.is_shown() && town.defer(S).unwrap());
    town.take_back_wish().unwrap();
    assert!(!town.is_shown());
    let why = town.take_back_wish().unwrap_err();
    assert!(why.contains("no merge of it is deferred"), "{why}");
    town.set_use(O, false);
    town.again().unwrap();
    is_untouched(&mut town).unwrap();
    // With its snapshot it is gone as well.
    let mut town = deferred().unwrap();
    let device = town.devices[&S].device();
    match town.ask("o", Command::Del { devices: vec![device], force: false }).unwrap() {
        Reply::DeletedNoted { notes } => {
            assert!(notes[0].contains("its deferred merge is canceled with it"), "{notes:?}");
        }
        other => panic!("{other:?}"),
    }
    town.strike_gone();
    town.set_use(O, false);
    town.again().unwrap();
    let mut plain = town.origin.clone();
    town.shows(&mut plain).unwrap();
    assert!(!town.has(S) && !town.on_record().0);
}

#[test]
fn another_snapshot_is_not_merged_beside_a_deferred_merge() {
    let mut town = deferred().unwrap();
    town.add(What::Snap(1)).unwrap();
    let (other, words) = (What::Snap(1), "`ublk-dm merge snap1 --pause` takes that back");
    let why = town.merge(other, true).unwrap_err();
    assert!(why.contains(words), "{why}");
    let why = town.defer(other).unwrap_err();
    assert!(why.contains(words), "{why}");
    town.take_back_wish().unwrap();
    assert!(town.defer(other).unwrap());
}

/// What cannot be recorded is refused, or stays.
#[test]
fn a_wish_that_cannot_be_recorded_is_none() {
    let mut town = merging::town();
    town.set_use(O, true);
    town.fill(true);
    let why = town.defer(S).unwrap_err();
    assert!(why.contains("its merge is not deferred") && !town.is_shown(), "{why}");
    town.fill(false);
    assert!(town.defer(S).unwrap());
    town.fill(true);
    let why = town.take_back_wish().unwrap_err();
    assert!(why.contains("its merge stays deferred") && town.is_shown(), "{why}");
}

/// A suspended origin is not merged into; the wish stays.
#[test]
fn a_deferred_merge_does_not_begin_under_a_suspended_origin() {
    let mut town = deferred().unwrap();
    town.set_use(O, false);
    town.suspend(O).unwrap();
    town.again().unwrap();
    assert!(town.has(S) && town.is_shown());
    town.resume(O).unwrap();
    is_untouched(&mut town).unwrap();
    // Nor is a suspended snapshot merged.
    town.suspend(S).unwrap();
    town.again().unwrap();
    assert!(town.has(S) && town.is_shown());
    town.resume(S).unwrap();
    is_untouched(&mut town).unwrap();
}

/// Who has the origin open is not there when a deferred merge begins.
fn waits_for_open_origins() -> Result<(), String> {
    let mut town = merging::town();
    open_device(&town, O, true);
    if !town.defer(S)? {
        return Err("it has begun".into());
    }
    town.again()?;
    is_untouched(&mut town)?;
    // Given again without a rate, it keeps the one that it has.
    let device = town.devices[&S].device();
    let again =
        Command::Merge { device, force: false, defer: true, keep: false, bytes_per_second: None };
    town.ask("o", again)?;
    if !town.is_shown() {
        return Err("its rate is forgotten".into());
    }
    open_device(&town, O, false);
    town.again()?;
    if town.has(S) { Err("it has not begun".into()) } else { Ok(()) }
}

/// What its last server knew of a snapshot that has refused a write, the next one does not.
fn full_snapshots_are_not_merged() -> Result<(), String> {
    for (overflow, word) in [(false, "invalid"), (true, "its COW is full")] {
        let mut town = full_cow(overflow)?;
        let mut state = town.state("o")?;
        let id = town.devices[&S].id;
        let snap = state.iter_mut().find(|device| device.id == id).ok_or("no snapshot")?;
        snap.spec.merge = Some(MergeOptions::default());
        town.kill("o");
        town.site.directory("o").write_state(state).map_err(|why| why.to_string())?;
        let Err(why) = town.recover() else { return Err(format!("{word}: nothing is said")) };
        if !why.contains("its deferred merge has not begun") || !why.contains(word) {
            return Err(why);
        }
        if !town.has(S) || !town.has(O) || town.on_record().0 {
            return Err(format!("{word}: it is merged"));
        }
    }
    Ok(())
}

/// An `add` of the origin that is undone begins no merge.
fn undone_adds_begin_none() -> Result<(), String> {
    for way in [Way::Asked, Way::Left] {
        let mut town = deferred()?;
        town.set_use(O, false);
        town.del(O, false)?;
        town.client_leaves = way == Way::Left;
        let added = town.ask("o", Command::Add { name: None, id: None, spec: Town::spec(O) });
        match added {
            Ok(Reply::Added { device, .. }) => drop(take_back(&mut town, device)?),
            Ok(_) => return Err("another answer".into()),
            Err(_) => {}
        }
        for _ in 0..3 {
            town.notice_end();
        }
        if !town.processes.contains_key("o") || !town.has(S) || !town.is_shown() {
            return Err("it has begun".into());
        }
        town.add(O)?;
        is_untouched(&mut town)?;
    }
    Ok(())
}

#[test]
fn a_deferred_merge_begins_only_where_nobody_is_surprised() {
    let rules: [(super::Rule, Mutant); 3] = [
        (waits_for_open_origins, Mutant::DeferredUnderOpen),
        (full_snapshots_are_not_merged, Mutant::FullMerged),
        (undone_adds_begin_none, Mutant::BegunBeforeUndo),
    ];
    hold_and_are_noticed(&rules);
}

/// The server ends at every step of `merge --defer`, or of the take-over that carries the wish
/// out: the next one has the origin beside its snapshot, or the merge.
#[test]
fn the_next_server_knows_of_a_deferred_merge_at_every_step() {
    for step in 1..800u64 {
        let at_first = step.is_multiple_of(2);
        let mut town = if at_first { merging::town() } else { deferred().unwrap() };
        let mut merged = snapshot_of(&town);
        town.set_use(O, at_first);
        if !at_first {
            town.kill("o");
        }
        {
            let mut shared = town.site.shared.lock().unwrap();
            shared.crash_at = Some(shared.changes + step / 2 + 1);
        }
        let done = if at_first { town.defer(S).map(drop) } else { town.recover() };
        let is_over = !town.site.is_dead();
        if is_over {
            done.unwrap();
            town.site.shared.lock().unwrap().crash_at = None;
            if !at_first {
                town.strike_gone();
                town.shows(&mut merged).unwrap();
                return;
            }
        }
        if !is_over {
            town.crash(false);
            drop(town.recover());
            town.strike_gone();
        }
        if at_first {
            is_untouched(&mut town).unwrap_or_else(|why| panic!("step {step}: {why}"));
            continue;
        }
        if town.on_record().1 {
            town.resume(O).unwrap_or_else(|why| panic!("step {step}: {why}"));
            town.strike_gone();
        }
        // The origin stayed suspended, or a second take-over begins it.
        if town.has(S) {
            town.again().unwrap_or_else(|why| panic!("step {step}: {why}"));
        }
        assert!(!town.has(S), "step {step}: it is forgotten");
        town.until_merged();
        town.notice_end();
        town.shows(&mut merged).unwrap_or_else(|why| panic!("step {step}: {why}"));
        assert!(!town.target().0, "step {step}: it does not come to its end");
    }
    panic!("it does not end");
}
