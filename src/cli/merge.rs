//! `merge`: begins to merge a snapshot into its origin, changes how a merge runs, and waits for its
//! end.
//!
//! The server merges, and puts the origin's plain table back at the end, whether a command waits or
//! not.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use dm_targets::units::Sectors;
use indicatif::ProgressBar;
use log::Level;
use serde::Serialize;
use serde_json::json;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

use super::args::Merge;
use super::client::{Family, Known, must_answer, open_rundir, other_answer};
use super::json;
use super::results::{self, Named};
use super::terminal::{print, progress_bar};
use crate::failure::{Failure, Kind, Reason};
use crate::protocol::{
    self, Command, DeviceRef, DeviceReport, MergeChange, MergeObject, MergeState, Reply, RunState,
    TargetObject,
};
use crate::rundir::RunDir;

/// How often a merge is looked at.
const LOOK: Duration = Duration::from_millis(250);
/// How often its progress is printed as JSON.
const PRINT: Duration = Duration::from_secs(1);
/// How long a device that waits is left to a server that lives: that server is taking it over.
const TAKE_OVER_LIMIT: Duration = Duration::from_secs(60);
/// The exit code of a second Ctrl-C, which ends the command at once.
const KILLED: i32 = 130;

/// Carries out what the flags ask for.
pub(super) fn merge(asked: &Merge) -> Result<(), Failure> {
    let rundir = open_rundir()?;
    let known = Known::of(&rundir)?;
    let (family, device) = find(&known, &asked.device).map_err(|why| no_longer(asked, why))?;
    must_answer(device)?;
    let word = &asked.device;
    let interrupted = asked.wait.then(catch).transpose()?;
    let command = command(asked, family, device)?;
    let mut result = command.as_ref().map_or("none", result_of);
    if let Some(command) = &command {
        if let Some(note) = ask(&rundir, family, device, command)? {
            log::warn!("{note}");
            result = "deferred";
        }
    }
    let Some(interrupted) = interrupted.filter(|_| result != "deferred") else {
        return results::show(|| json!({ "device": Named::of(device), "result": result }));
    };
    // A snapshot's device has ended by now; its origin's is the one of its family.
    let is_origin = |device: &&DeviceReport| {
        matches!(device.object.target.as_str(), "snapshot-origin" | "snapshot-merge")
    };
    let origin = family.devices.iter().find(is_origin);
    let origin = origin.ok_or_else(|| format!("{word}: its origin has no device"))?;
    wait(&rundir, origin, &interrupted)
}

/// The word for what a command has done.
fn result_of(command: &Command) -> &'static str {
    match command {
        Command::ChangeMerge { change: MergeChange::Pause, .. } => "paused",
        Command::ChangeMerge { change: MergeChange::Resume, .. } => "resumed",
        Command::ChangeMerge { change: MergeChange::Rate(_), .. } => "rate_changed",
        _ => "begun",
    }
}

/// The device that a word names, or the one into which a snapshot with that name is merged.
fn find<'a>(known: &'a Known, word: &str) -> Result<(&'a Family, &'a DeviceReport), Reason> {
    let named = known.find(word);
    let name = match &named {
        // The device of a snapshot that is kept.
        Ok((_, device)) if device.object.target == "error" => device.name.as_str(),
        Err(why) if why.kind == Kind::NotFound => word,
        _ => return named,
    };
    let is_merged = |device: &&DeviceReport| {
        merge_of(device).is_some_and(|merge| merge.snapshot.as_deref() == Some(name))
    };
    let mut families = known.families.iter();
    let found = families.find_map(|family| Some((family, family.devices.iter().find(is_merged)?)));
    found.map_or(named, Ok)
}

/// Why a merge is not changed or waited for whose snapshot no word names any more: the snapshot's
/// device ends when its merge begins, and a merge ends by itself.
fn no_longer(asked: &Merge, why: Reason) -> Reason {
    let changes = asked.pause || asked.resume || asked.rate.is_some() || asked.wait;
    if why.kind != Kind::NotFound || !changes {
        return why;
    }
    let word = &asked.device;
    let what = "no merge of a snapshot with this name is running, and there is no such device";
    Failure::new(Kind::NotFound, format!("{word}: {what}; see `ublk-dm list`")).of_device(word)
}

/// What a device tells of its merge.
fn merge_of(device: &DeviceReport) -> Option<&MergeObject> {
    match &device.object.parts {
        Some(TargetObject::Snapshot(snapshot)) => snapshot.merge.as_ref(),
        _ => None,
    }
}

/// What the server is asked for; `None`: a merge that runs is only waited for.
fn command(
    asked: &Merge,
    family: &Family,
    device: &DeviceReport,
) -> Result<Option<Command>, Failure> {
    let (name, rate) = (&device.name, asked.rate.map(NonZeroU64::new));
    let device_ref = device.device();
    let change = |change| Some(Command::ChangeMerge { device: device_ref, change });
    if asked.pause {
        return Ok(change(MergeChange::Pause));
    }
    // The merge that was to be waited for, continued or changed may have ended by now.
    let begins = asked.force || asked.defer || asked.keep;
    let changes = asked.resume || rate.is_some();
    if device.object.target == "snapshot-origin" && !begins && (changes || asked.wait) {
        refuse_deferred(family)?;
        if asked.wait && device.merged == Some(false) {
            return Err(protocol::never_merged(name));
        }
        let level = if changes { Level::Warn } else { Level::Info };
        log::log!(level, "{}", protocol::no_merge_into(name));
        return Ok(None);
    }
    // Who changes the rate does not ask for a deferred merge to begin.
    if rate.is_some() && !begins && !asked.wait && is_deferred(device) {
        refuse_deferred(family)?;
    }
    if asked.resume {
        return Ok(change(MergeChange::Resume));
    }
    if device.object.target == "snapshot-merge" {
        let keeps = merge_of(device).and_then(|merge| merge.keep) == Some(true);
        if asked.keep && !keeps {
            let why = "its snapshot's device ended when the merge began";
            return Err(format!("{name}: --keep: {why}").into());
        }
        return match rate {
            Some(rate) => Ok(change(MergeChange::Rate(rate))),
            None if asked.wait => Ok(None),
            None => Err(format!(
                "{name}: a snapshot is being merged into it already; --wait waits for the end, \
                 --rate changes the rate"
            )
            .into()),
        };
    }
    let Merge { force, defer, keep, .. } = *asked;
    let bytes_per_second = rate.flatten();
    Ok(Some(Command::Merge { device: device_ref, force, defer, keep, bytes_per_second }))
}

/// Whether a snapshot's merge is left to the next activation of its origin.
fn is_deferred(device: &DeviceReport) -> bool {
    merge_of(device).is_some_and(|merge| merge.state == MergeState::Deferred)
}

/// A merge that has not begun is not waited for, and cannot be continued.
fn refuse_deferred(family: &Family) -> Result<(), Failure> {
    let deferred = family.devices.iter().find(|device| is_deferred(device));
    deferred.map_or(Ok(()), |device| Err(protocol::not_begun(&device.name)))
}

/// Sends a command; returns what the user should know if its merge has not begun.
fn ask(
    rundir: &RunDir,
    family: &Family,
    device: &DeviceReport,
    command: &Command,
) -> Result<Option<String>, Failure> {
    let server = rundir.server(&family.key).and_then(|server| server.connection);
    match protocol::ask(server.ok_or_else(|| has_died(device))?, command) {
        Ok(Reply::Done) => Ok(None),
        Ok(Reply::Deferred { note }) => Ok(Some(note)),
        Ok(Reply::Noted { note }) => {
            log::warn!("{note}");
            Ok(None)
        }
        Ok(Reply::Failed(why)) => Err(why.of_device(&device.name)),
        Ok(_) => Err(other_answer()),
        Err(error) => {
            let why = Failure::from(error).context(&device.object.block_device);
            Err(why.of_device(&device.name))
        }
    }
}

fn has_died(device: &DeviceReport) -> Failure {
    let name = &device.name;
    let why = format!("{name}: its server has died; `ublk-dm recover {name}` continues");
    Failure::new(Kind::NoAnswer, why).of_device(name)
}

/// Counts Ctrl-C from now on; a second one ends the process.
fn catch() -> Result<Arc<AtomicBool>, Failure> {
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        flag::register_conditional_shutdown(signal, KILLED, interrupted.clone())?;
        flag::register(signal, interrupted.clone())?;
    }
    Ok(interrupted)
}

/// A line of `--json`.
#[derive(Serialize)]
struct Line<'a> {
    name: &'a str,
    block_device: &'a str,
    #[serde(flatten)]
    merge: &'a MergeObject,
}

/// What a wait shows.
struct Shown<'a> {
    device: &'a DeviceReport,
    bar: Option<ProgressBar>,
    last: Option<MergeObject>,
    printed: Option<Instant>,
    /// Why the merge rests, as the user was told last.
    rests: &'static str,
    /// The user knows of that.
    said: bool,
}

impl Shown<'_> {
    fn show(&mut self, merge: MergeObject) -> Result<(), Failure> {
        let total = Sectors::from_bytes(merge.merged_bytes + merge.left_bytes);
        let bar = self.bar.get_or_insert_with(|| progress_bar(total));
        bar.set_position(merge.merged_bytes);
        let is_due = self.printed.is_none_or(|then| then.elapsed() >= PRINT);
        let has_changed = self.last.as_ref() != Some(&merge);
        let is_last = merge.state != MergeState::Merging;
        self.last = Some(merge);
        if has_changed && (is_due || is_last) {
            self.print()?;
        }
        Ok(())
    }

    fn print(&mut self) -> Result<(), Failure> {
        let Some(merge) = self.last.as_ref().filter(|_| json::is_on()) else { return Ok(()) };
        self.printed = Some(Instant::now());
        let (name, block_device) = (&self.device.name, &self.device.object.block_device);
        print(&json::line_of(&Line { name, block_device, merge })?)
    }

    /// Shows a device that is served; returns whether its merge has ended.
    fn has_ended(&mut self, device: &DeviceReport) -> Result<bool, Failure> {
        let Some(merge) = merge_of(device) else { return Ok(true) };
        self.show(merge.clone())?;
        self.say_if_it_rests(device, merge);
        let (name, error) = (&device.name, merge.error.as_deref().unwrap_or("it gave no reason"));
        match merge.state {
            MergeState::Merging | MergeState::Deferred => Ok(false),
            // The server puts the plain table back, unless a table has begun this merge.
            MergeState::Done => Ok(merge.snapshot.is_none()),
            MergeState::Failed => {
                let hint = format!("`ublk-dm merge {name} --resume` continues");
                Err(format!("{name}: the merge has stopped: {error}; {hint}").into())
            }
            MergeState::Invalid => {
                Err(format!("{name}: the snapshot is invalid: nothing is merged").into())
            }
        }
    }

    /// Says once, each time, that a merge rests because of its users, and what continues it.
    fn say_if_it_rests(&mut self, device: &DeviceReport, merge: &MergeObject) {
        let name = &device.name;
        let (why, what) = if device.object.state == RunState::Suspended {
            ("suspended", format!("`ublk-dm resume {name}`"))
        } else if merge.paused == Some(true) {
            ("paused", format!("`ublk-dm merge {name} --resume`"))
        } else {
            self.rests = "";
            return;
        };
        // The server suspends the device for a moment itself, to put another table in place.
        if self.rests != why {
            (self.rests, self.said) = (why, false);
        } else if !self.said {
            log::warn!("{name}: the merge is {why}; {what} continues it");
            self.said = true;
        }
    }

    /// All of the snapshot is on the origin.
    fn end(&mut self) -> Result<(), Failure> {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
        match &mut self.last {
            Some(merge) if merge.state == MergeState::Done => Ok(()),
            Some(merge) => {
                merge.state = MergeState::Done;
                merge.merged_bytes += std::mem::take(&mut merge.left_bytes);
                self.print()
            }
            // It had ended before it could be looked at.
            None => Ok(()),
        }
    }
}

/// Waits until the origin's device is plain again.
fn wait(rundir: &RunDir, origin: &DeviceReport, interrupted: &AtomicBool) -> Result<(), Failure> {
    let name = &origin.name;
    let mut shown =
        Shown { device: origin, bar: None, last: None, printed: None, rests: "", said: false };
    let mut unserved: Option<Instant> = None;
    loop {
        let (key, device) = report_of(rundir, origin)?;
        must_answer(&device)?;
        if device.object.server_pid.is_some() {
            unserved = None;
            if shown.has_ended(&device)? {
                return shown.end();
            }
        } else {
            let waited = unserved.get_or_insert_with(Instant::now).elapsed();
            let lives = rundir.server(&key).is_some_and(|server| server.lives);
            must_be_coming(&device, lives, waited)?;
        }
        if interrupted.load(Ordering::Relaxed) {
            return Err(format!(
                "{name}: interrupted; the merge goes on, and `ublk-dm merge {name} --wait` waits \
                 for its end"
            )
            .into());
        }
        sleep(LOOK);
    }
}

/// Refuses a device without a server, unless one that lives is about to take it over. `waited`: for
/// so long the device has had none.
fn must_be_coming(device: &DeviceReport, lives: bool, waited: Duration) -> Result<(), Failure> {
    if !lives {
        return Err(has_died(device));
    }
    if device.object.state == RunState::Quiesced && waited < TAKE_OVER_LIMIT {
        return Ok(());
    }
    let name = &device.name;
    Err(format!("{name}: its server has not taken it over; `ublk-dm recover {name}` continues")
        .into())
}

/// The family of a device, and the device as it is now.
fn report_of(rundir: &RunDir, device: &DeviceReport) -> Result<(String, DeviceReport), Failure> {
    let wanted: DeviceRef = device.device();
    let known = Known::of(rundir)?;
    let found = known.families.iter().find_map(|family| {
        let found = family.devices.iter().find(|other| other.device() == wanted)?;
        Some((family.key.clone(), found.clone()))
    });
    found.ok_or_else(|| match known.problems.first() {
        Some(problem) => problem.clone().context(&device.name),
        None => format!("{}: it was deleted before its merge had ended", device.name).into(),
    })
}

#[cfg(test)]
mod tests;
