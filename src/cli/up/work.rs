//! Bringing up one of the devices of the tab file, when what it waits for has ended.
//!
//! Rules kept here: a device that is up is left alone; an origin is not written before its
//! snapshots are there, unless the line of a snapshot says that it may be missing; and a mirror
//! whose log is on a disk starts without a leg that is not there ([`lost`]), but leaves nothing
//! behind if it cannot.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::lost;
use super::plan::{Plan, same, writes_origin_of};
use super::spec::spec;
use super::unmerged;
use crate::cli::add;
use crate::cli::client::must_answer;
use crate::cli::interrupt::Interrupt;
use crate::cli::running::Running;
use crate::cli::stand_in;
use crate::failure::{Failure, Kind};
use crate::protocol::{DeviceReport, MergeOptions};
use crate::rundir::RunDir;
use crate::tab::{Disk, Entry, Tab};
use crate::ublk::device;

/// The pause between two looks at disks that are not there yet.
const PAUSE: Duration = Duration::from_millis(100);

/// How many numbers are tried for a device whose line leaves it open: as many devices may be
/// brought up at once, each by a service of its own.
const NUMBER_TRIES: u32 = 64;

/// What became of a device, by its index in the plan.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    NotYet,
    Up,
    Failed,
}

/// All that bringing up one of the devices needs.
pub(super) struct Work<'a> {
    pub rundir: &'a RunDir,
    pub tab: &'a Tab,
    pub plan: &'a Plan<'a>,
    pub running: &'a Running,
    pub states: Mutex<Vec<State>>,
    /// The snapshots whose merges go on, by the names of their origins' devices.
    pub merges: Mutex<BTreeMap<String, String>>,
    /// The numbers of devices whose lines leave them open.
    pub numbers: BTreeMap<String, u32>,
    pub timeout: Option<Duration>,
    pub interrupt: &'a Interrupt,
}

impl Work<'_> {
    /// Brings one device up. What it waits for has ended.
    pub fn bring_up(&self, at: usize) -> Result<(), Failure> {
        let entry = self.plan.entries[at];
        let done = match self.running.device(&entry.name) {
            Some(device) => self.judge(entry, device),
            None => self.make(at, entry),
        };
        let state = if done.is_ok() { State::Up } else { State::Failed };
        self.states.lock().unwrap_or_else(PoisonError::into_inner)[at] = state;
        done.map_err(|why| named(&entry.name, why))
    }

    fn state(&self, at: usize) -> State {
        self.states.lock().unwrap_or_else(PoisonError::into_inner)[at]
    }

    /// Whether a device that exists is the one that its line describes.
    fn judge(&self, entry: &Entry, device: &DeviceReport) -> Result<(), Failure> {
        let name = &entry.name;
        must_answer(device)?;
        if self.running.waits(name) {
            let why = format!("it has no server: `ublk-dm recover {name}` gives it one");
            return Err(why.into());
        }
        if self.running.has_table_of(device, entry) {
            let lost = self.running.lost_legs(device);
            lost::told(entry, &lost).iter().for_each(|told| log::warn!("{told}"));
            return Ok(());
        }
        Err(format!(
            "it is up with another table than that of {}: `ublk-dm save {name}` writes the one \
             that it has, `ublk-dm down {name}` and `up` give it the one that is written",
            entry.place
        )
        .into())
    }

    /// Makes a device that does not exist.
    fn make(&self, at: usize, entry: &Entry) -> Result<(), Failure> {
        for below in self.plan.below(at) {
            let name = &self.plan.entries[below].name;
            match self.state(below) {
                State::Up => {}
                State::Failed => return Err(format!("it stands on {name}, which is not up").into()),
                State::NotYet => {
                    return Err(format!("it stands on itself, by way of {name}").into());
                }
            }
        }
        let waited = self.wait_for_disks(entry);
        if self.interrupt.is_told() {
            return Err("interrupted before it was added".into());
        }
        self.refuse_half_merged(entry)?;
        let merge = self.merge_into(entry)?;
        self.refuse_without_snapshots(at, entry)?;
        let Err(why) = self.make_of_what_is_there(merge.as_ref().unwrap_or(entry)) else {
            return Ok(());
        };
        if !self.interrupt.is_told() && self.is_made_by_another(entry) {
            return Ok(());
        }
        let limit_s = self.timeout_of(entry).as_secs();
        Err(match waited.filter(|_| limit_s > 0) {
            Some(disk) => why.ending(format!("; {disk} was waited for, for {limit_s} s")),
            None => why,
        })
    }

    fn path_of(&self, name: &str) -> Option<PathBuf> {
        self.running.device(name).map(|device| device.object.block_device.clone().into())
    }

    /// Refuses a snapshot of which a part has been merged, if a device of the file goes on with
    /// that.
    fn refuse_half_merged(&self, entry: &Entry) -> Result<(), Failure> {
        let find = &|word: &str| self.running.disk(word);
        let (Some(origin), Some(device)) =
            (entry.origin_of_snapshot(), unmerged::origins_device(entry, self.tab, find))
        else {
            return Ok(());
        };
        if !unmerged::is_half_merged(entry, &|name| self.path_of(name)) {
            return Ok(());
        }
        let (name, by) = (&entry.name, &device.name);
        let up = match self.running.device(by) {
            Some(other) if other.object.target == "snapshot-origin" => {
                format!("ublk-dm down {by} && ublk-dm up {by}")
            }
            _ => format!("ublk-dm up {by}"),
        };
        Err(format!(
            "a part of it has been merged into {origin}: `{up}` goes on with the merge; when it \
             has ended, `ublk-dm up {name}` makes a new snapshot"
        )
        .into())
    }

    /// The device of an origin as the merge that goes on, if one of the file's snapshots has been
    /// merged into it in part.
    fn merge_into(&self, entry: &Entry) -> Result<Option<Entry>, Failure> {
        let find = &|word: &str| self.running.disk(word);
        let half = unmerged::into(entry, self.tab, find, &|name| self.path_of(name));
        let Some(snapshot) = half.first() else { return Ok(None) };
        let name = &snapshot.name;
        let Some(merge) = unmerged::merge_of(entry, snapshot).filter(|_| half.len() == 1) else {
            let rest = unmerged::command(entry, snapshot, &|name| self.path_of(name));
            return Err(format!(
                "a part of its snapshot {name} has been merged into it, and the rest is only on \
                 the COW: it would show a mixture; `{rest}` merges the rest"
            )
            .into());
        };
        log::warn!("{}: {}", entry.name, unmerged::goes_on(name));
        let mut merges = self.merges.lock().unwrap_or_else(PoisonError::into_inner);
        merges.insert(entry.name.clone(), name.clone());
        Ok(Some(merge))
    }

    /// The snapshot whose merge goes on by a device of this command.
    fn merged_by(&self, name: &str) -> Option<String> {
        self.merges.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    /// Whether a snapshot is being merged by the device of its origin, which is up.
    pub fn is_being_merged(&self, snapshot: &Entry) -> bool {
        let find = &|word: &str| self.running.disk(word);
        let Some(device) = unmerged::origins_device(snapshot, self.tab, find) else {
            return false;
        };
        let was = self.running.device(&device.name);
        let merges = was.is_some_and(|device| device.object.target == "snapshot-merge")
            && unmerged::is_half_merged(snapshot, &|name| self.path_of(name));
        self.is_up(&device.name)
            && (merges || self.merged_by(&device.name).as_ref() == Some(&snapshot.name))
    }

    /// Makes a device, a mirror also without the legs that are not there.
    fn make_of_what_is_there(&self, entry: &Entry) -> Result<(), Failure> {
        let missing = lost::legs(entry, is_nowhere);
        if missing.is_empty() {
            return self.make_numbered(entry);
        }
        if let Some(refusal) = lost::refusal(entry, &missing) {
            return self.make_numbered(entry).map_err(|why| why.ending(format!("; {refusal}")));
        }
        let _lock = stand_in::lock(self.rundir, "up")?;
        if self.is_made_by_another(entry) {
            return Ok(());
        }
        stand_in::delete_unused_locked(self.rundir);
        let made = missing
            .iter()
            .try_for_each(|leg| self.make_stand_in(&lost::stand_in(entry, *leg)))
            .and_then(|()| self.make_numbered(&lost::without(entry, &missing)))
            .and_then(|()| self.refuse_failed_log(entry));
        match &made {
            Ok(()) => lost::told(entry, &missing).iter().for_each(|told| log::warn!("{told}")),
            Err(_) => stand_in::delete_unused_locked(self.rundir),
        }
        made
    }

    fn make_stand_in(&self, one: &Entry) -> Result<(), Failure> {
        if let Ok(Entry { place, .. }) = self.tab.find(&one.name) {
            let why = "the name of what would stand in for the leg that is not there";
            return Err(format!("{}: {place} has {why}", one.name).into());
        }
        self.make_numbered(one).map_err(|why| {
            why.context(format!("{} cannot stand in for the leg that is not there", one.name))
        })
    }

    /// Deletes a mirror without some of its legs whose log could not be written: it would still
    /// name those legs as up to date when they come back.
    fn refuse_failed_log(&self, entry: &Entry) -> Result<(), Failure> {
        let running = Running::of(self.rundir)?;
        let device = running.device(&entry.name).ok_or("it has just been deleted")?;
        if device.object.mirror().is_some_and(|mirror| mirror.log_health == Some('A')) {
            return Ok(());
        }
        let why = "it does not start without a leg: its log cannot be written";
        let deleted = stand_in::delete_named(self.rundir, &entry.name);
        Err(deleted.err().map_or_else(|| why.into(), |error| error.context(why)))
    }

    /// Makes a device with a number that its line leaves open, or with its own. Another command may
    /// take such a number at the same moment, as services do that start together: then another
    /// number is tried.
    fn make_numbered(&self, entry: &Entry) -> Result<(), Failure> {
        let mut number = self.numbers.get(&entry.name).copied();
        if number.is_none() && entry.options.id.is_none() {
            number = self.free_number()?;
        }
        for _ in 1..NUMBER_TRIES {
            let Err(why) = self.make_with(entry, number) else { return Ok(()) };
            let is_taken = match number {
                Some(number) => device::numbers()?.contains(&number),
                None => false,
            };
            if !is_taken || self.interrupt.is_told() || self.is_made_by_another(entry) {
                return Err(why);
            }
            log::info!("{}: {why}; another number is tried", entry.name);
            number = self.free_number()?;
        }
        self.make_with(entry, number)
    }

    /// A number that no device has, and no line of the file.
    fn free_number(&self) -> Result<Option<u32>, Failure> {
        let taken = device::numbers()?;
        let listed = |id: &u32| self.tab.entries.iter().any(|it| it.options.id == Some(*id));
        let planned = |id: &u32| self.numbers.values().any(|number| number == id);
        let is_free = |id: &u32| !taken.contains(id) && !listed(id);
        Ok((0..).find(|id| is_free(id) && !planned(id)))
    }

    fn make_with(&self, entry: &Entry, number: Option<u32>) -> Result<(), Failure> {
        let (mut spec, mut common) = spec(entry)?;
        // It ends by itself, like one that a command has begun.
        spec.merge = self
            .merged_by(&entry.name)
            .map(|name| MergeOptions { snapshot: Some(name), ..MergeOptions::default() });
        common.id = common.id.or(number);
        add::add_one_of_several(spec, &common, self.interrupt)
    }

    /// Whether another command has made the device meanwhile.
    fn is_made_by_another(&self, entry: &Entry) -> bool {
        let Ok(now) = Running::of(self.rundir) else { return false };
        now.device(&entry.name).is_some_and(|device| {
            let is_served = !now.waits(&entry.name) && must_answer(device).is_ok();
            is_served && now.has_table_of(device, entry)
        })
    }

    fn timeout_of(&self, entry: &Entry) -> Duration {
        self.timeout.unwrap_or_else(|| entry.options.timeout())
    }

    /// Waits until the disks of a device are there, or the time for that is over. Returns one that
    /// is missing then.
    fn wait_for_disks(&self, entry: &Entry) -> Option<String> {
        let begun = Instant::now();
        let words = entry.table.params.devices();
        let is_missing = |word: &&String| match Disk::of(word) {
            Disk::Path(path) => std::fs::metadata(path).is_err(),
            Disk::Named(_) => false,
        };
        let mut is_said = false;
        loop {
            let missing = words.iter().find(is_missing)?;
            if begun.elapsed() >= self.timeout_of(entry) || self.interrupt.is_told() {
                return Some(missing.clone());
            }
            if !is_said {
                log::info!("{}: waiting for {missing}", entry.name);
                is_said = true;
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// Refuses the device of an origin whose snapshots are not there: what is written to it would
    /// be lost for them.
    fn refuse_without_snapshots(&self, at: usize, entry: &Entry) -> Result<(), Failure> {
        let Some(origin) = entry.origin_written() else { return Ok(()) };
        let find = &|word: &str| self.running.disk(word);
        let is_it = |word: &str| same(word, origin, find) == Some(true);
        if let Some(wrong) = self.tab.wrong.iter().find(|wrong| wrong.may_have(is_it)) {
            let what = "a snapshot of its disk may be on a line that cannot be used";
            return Err(wrong.why.clone().context(what));
        }
        let of_it = |snapshot: &&Entry| writes_origin_of(entry, snapshot, find) == Some(true);
        for snapshot in self.tab.entries.iter().filter(of_it) {
            let (name, options) = (&snapshot.name, &snapshot.options);
            let merges = || self.merged_by(&entry.name).as_ref() == Some(name);
            if self.is_up(name) || self.comes_later(at, snapshot) || merges() {
                continue;
            }
            if !options.nofail && !options.noauto {
                let what = "would be lost with the first write; nofail on its line accepts that";
                return Err(format!("its snapshot {name} is not up and {what}").into());
            }
            log::warn!(
                "{}: its snapshot {name} is not up, and is lost with the first write",
                entry.name
            );
        }
        Ok(())
    }

    /// Whether a device is up, before or by this command.
    pub fn is_up(&self, name: &str) -> bool {
        // One with another table than its line has is up as well.
        let was_up = self.running.device(name).is_some() && !self.running.waits(name);
        let place = self.plan.entries.iter().position(|entry| entry.name == name);
        was_up || place.is_some_and(|at| self.state(at) == State::Up)
    }

    /// Whether a snapshot stands on the device of its origin and so comes after it.
    fn comes_later(&self, at: usize, snapshot: &Entry) -> bool {
        self.plan.entries[at..].iter().any(|entry| entry.name == snapshot.name)
    }
}

/// Whether a path leads nowhere, as that of a disk that is gone. One that cannot be looked at may
/// lead to a disk.
fn is_nowhere(path: &str) -> bool {
    std::fs::metadata(path).is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound)
}

/// A failure with the name of its device.
fn named(name: &str, mut why: Failure) -> Failure {
    // The command line is right.
    if why.kind == Kind::Usage {
        why.kind = Kind::Refused;
    }
    if why.to_string().starts_with(&format!("{name}: ")) { why } else { why.context(name) }
}
