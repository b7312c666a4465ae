//! `up`: the devices of the tab file, each after those that it waits for.
//!
//! Rules kept here: a device that is up is left alone, and one that waits for a server gets one; an
//! origin is not written before its snapshots are there, unless the line of a snapshot says that it
//! may be missing (`nofail`, `noauto`); a line that cannot be used may be that of a snapshot; a
//! device that fails stops only those that need it; an origin into which a part of a snapshot has
//! been merged comes up as the merge ([`unmerged`]), whatever the lines say; and a mirror whose log
//! is on a disk starts without a leg that is not there ([`lost`]).

mod lost;
mod numbers;
pub(super) mod plan;
mod spec;
pub(super) mod unmerged;
mod work;

use std::sync::Mutex;
use std::time::Duration;

use self::numbers::numbers;
use self::plan::Plan;
use self::work::{State, Work};
use super::add;
use super::args;
use super::client::open_rundir;
use super::interrupt::Interrupt;
use super::json;
use super::recover;
use super::results::{self, Named};
use super::running::Running;
use super::side_by_side;
use super::stand_in;
use super::terminal::print;
use super::unnamed;
use super::verdict::verdict;
use crate::failure::{Failure, Reason};
use crate::rundir::RunDir;
use crate::tab::{Disk, Entry, Tab, files};

/// What is to be brought up.
pub(super) struct Asked<'a> {
    names: &'a [String],
    all: bool,
    /// How long disks are waited for, instead of what the lines say.
    timeout: Option<Duration>,
    /// Whether the paths of the devices are printed.
    prints: bool,
}

impl Asked<'_> {
    pub fn of(asked: &args::Up) -> Asked<'_> {
        let timeout = asked.timeout.map(Duration::from_secs);
        Asked { names: &asked.names, all: asked.all, timeout, prints: true }
    }
}

pub(super) fn up(asked: &args::Up) -> Result<(), Failure> {
    unnamed::refuse_listed("up", &asked.names, asked.all)?;
    verdict(brought_up(&open_rundir()?, &Asked::of(asked))?)
}

/// Brings up one device and what it needs, and prints nothing on stdout.
pub(super) fn up_quietly(name: &str) -> Result<(), Failure> {
    let names = &[name.to_owned()];
    let asked = Asked { names, all: false, timeout: None, prints: false };
    verdict(brought_up(&open_rundir()?, &asked)?)
}

/// Brings devices up, and prints the paths of those that are. Returns what could not be done.
pub(super) fn brought_up(rundir: &RunDir, asked: &Asked<'_>) -> Result<Vec<Reason>, Failure> {
    let &Asked { names, all, timeout, prints } = asked;
    let tab = files::read()?;
    let mut running = Running::of(rundir)?;
    let disk = |word: &str| running.disk(word);
    let (plan, mut problems) = Plan::of(&tab, names, all, &disk);
    if all {
        problems.extend(tab.wrong.iter().map(|wrong| wrong.why.clone()));
        warn_of_nothing(&tab);
    }
    plan.entries.iter().for_each(|entry| warn_of_unknown(entry));
    // Caught before anything exists that could be left behind.
    let interrupt = Interrupt::catch()?;
    let unserved = recover(rundir, &plan, &mut running)?;
    let states = Mutex::new(vec![State::NotYet; plan.entries.len()]);
    let merges = Mutex::default();
    let numbers = numbers(&tab, &plan, &running)?;
    let (plan, running, interrupt) = (&plan, &running, &interrupt);
    let work =
        Work { rundir, tab: &tab, plan, running, states, merges, numbers, timeout, interrupt };
    if plan.entries.iter().any(|entry| running.device(&entry.name).is_none()) {
        add::warn_of_kernel();
    }
    let find = |word: &str| running.disk(word);
    let must_wait = |one: usize, other: usize| plan.must_wait(one, other, &find);
    let results = side_by_side::run(plan.entries.len(), must_wait, |at| work.bring_up(at));
    let mut failed = Vec::new();
    for (entry, result) in plan.entries.iter().zip(results) {
        failed.extend(result.err().map(|why| (*entry, why)));
    }
    // Their own reasons are better than that they have no server.
    failed.retain(|(entry, _)| unserved.is_empty() || !running.waits(&entry.name));
    failed.retain(|(entry, why)| {
        let merges = work.is_being_merged(entry);
        if merges {
            log::warn!("{why}");
        }
        !merges
    });
    report(&failed, &mut problems, |name| work.is_up(name));
    let nofail = |name: &String| tab.find(name).is_ok_and(|entry| entry.options.nofail);
    let are_needed = plan.entries.iter().any(|it| running.waits(&it.name) && !nofail(&it.name));
    for why in unserved {
        if are_needed { problems.push(why) } else { log::warn!("{why}") }
    }
    stand_in::delete_unused(rundir, "up");
    if prints {
        problems.extend(print_paths(rundir, plan).err());
    }
    Ok(problems)
}

/// Says that no line has a device: who has named another file, or none, would take it for done.
fn warn_of_nothing(tab: &Tab) {
    if tab.entries.is_empty() && tab.wrong.is_empty() {
        let why =
            if tab.path.exists() { "there is no line in it" } else { "there is no such file" };
        log::warn!("{}: {why}, so nothing is brought up", tab.path.display());
    }
}

/// Says which options of a line mean nothing to this program.
fn warn_of_unknown(entry: &Entry) {
    for option in &entry.options.unknown {
        log::warn!("{}: {}: option {option}: unknown, and ignored", entry.place, entry.name);
    }
}

/// Sorts what has failed: what may fail is a warning.
fn report(failed: &[(&Entry, Failure)], problems: &mut Vec<Reason>, is_up: impl Fn(&str) -> bool) {
    for (entry, why) in failed {
        // A device that carries its snapshots has to be up before them.
        let origin = entry.origin_of_snapshot().map(Disk::of);
        if let Some(Disk::Named(origin)) =
            origin.filter(|it| matches!(it, Disk::Named(name) if is_up(name)))
        {
            let name = &entry.name;
            log::warn!("{origin}: its snapshot {name} is not up, and is lost with the first write");
        }
        if entry.options.nofail {
            log::warn!("{why}; its line has nofail");
        } else {
            problems.push(why.clone());
        }
    }
}

/// Has servers take over the devices that wait for one, all at once: families are recovered as a
/// whole, and in their own order. Returns what could not be done.
fn recover(
    rundir: &RunDir,
    plan: &Plan<'_>,
    running: &mut Running,
) -> Result<Vec<Reason>, Failure> {
    let names = plan.entries.iter().map(|entry| entry.name.clone());
    // A mirror waits for what stands in for its leg as for any disk.
    let names = names.chain(running.stand_ins());
    let waiting: Vec<String> = names.filter(|name| running.waits(name)).collect();
    if waiting.is_empty() {
        return Ok(Vec::new());
    }
    let problems = recover::recovered(&waiting, false, None)?;
    *running = Running::of(rundir)?;
    Ok(problems)
}

/// Prints the path of each device that is up, after its name.
fn print_paths(rundir: &RunDir, plan: &Plan<'_>) -> Result<(), Failure> {
    let running = Running::of(rundir)?;
    let mut entries: Vec<&&Entry> = plan.entries.iter().collect();
    entries.sort_by(|one, other| {
        (&one.place.file, one.place.line).cmp(&(&other.place.file, other.place.line))
    });
    let up = entries.iter().filter(|entry| !running.waits(&entry.name));
    let mut devices = up.filter_map(|entry| running.device(&entry.name));
    if json::is_on() {
        return results::devices("up", devices.map(Named::of));
    }
    devices
        .try_for_each(|device| print(&format!("{}: {}", device.name, device.object.block_device)))
}
