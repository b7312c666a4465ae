//! `up`: the devices of the tab file, each after those that it waits for.
//!
//! Rules kept here: a device that is up is left alone, and one that waits for a server gets one; an
//! origin is not written before its snapshots are there, unless the line of a snapshot says that it
//! may be missing (`nofail`, `noauto`); a line that cannot be used may be that of a snapshot; and a
//! device that fails stops only those that need it.

mod numbers;
pub(super) mod plan;
mod running;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use self::numbers::numbers;
use self::plan::{Plan, same, writes_origin_of};
use self::running::Running;
use super::add;
use super::args;
use super::client::{must_answer, open_rundir};
use super::disk_word::Disks;
use super::interrupt::Interrupt;
use super::json;
use super::recover;
use super::results::{self, Named};
use super::side_by_side;
use super::table;
use super::terminal::print;
use super::unnamed;
use super::verdict::verdict;
use crate::failure::{Failure, Kind, Reason};
use crate::protocol::{DeviceReport, DeviceSpec};
use crate::rundir::RunDir;
use crate::tab::{Disk, Entry, Options, Tab, files};
use crate::ublk::device;

/// The pause between two looks at disks that are not there yet.
const PAUSE: Duration = Duration::from_millis(100);

/// How many numbers are tried for a device whose line leaves it open: as many devices may be
/// brought up at once, each by a service of its own.
const NUMBER_TRIES: u32 = 64;

/// What became of a device, by its index in the plan.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    NotYet,
    Up,
    Failed,
}

/// All that bringing up one of the devices needs.
struct Work<'a> {
    rundir: &'a RunDir,
    tab: &'a Tab,
    plan: &'a Plan<'a>,
    running: &'a Running,
    states: Mutex<Vec<State>>,
    /// The numbers of devices whose lines leave them open.
    numbers: BTreeMap<String, u32>,
    timeout: Option<Duration>,
    interrupt: &'a Interrupt,
}

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
    }
    plan.entries.iter().for_each(|entry| warn_of_unknown(entry));
    // Caught before anything exists that could be left behind.
    let interrupt = Interrupt::catch()?;
    let unserved = recover(rundir, &plan, &mut running)?;
    let states = Mutex::new(vec![State::NotYet; plan.entries.len()]);
    let numbers = numbers(&tab, &plan, &running)?;
    let (plan, running, interrupt) = (&plan, &running, &interrupt);
    let work = Work { rundir, tab: &tab, plan, running, states, numbers, timeout, interrupt };
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
    report(&failed, &mut problems);
    let nofail = |name: &String| tab.find(name).is_ok_and(|entry| entry.options.nofail);
    let are_needed = plan.entries.iter().any(|it| running.waits(&it.name) && !nofail(&it.name));
    for why in unserved {
        if are_needed { problems.push(why) } else { log::warn!("{why}") }
    }
    if prints {
        problems.extend(print_paths(rundir, plan).err());
    }
    Ok(problems)
}

/// Says which options of a line mean nothing to this program.
fn warn_of_unknown(entry: &Entry) {
    for option in &entry.options.unknown {
        log::warn!("{}: {}: option {option}: unknown, and ignored", entry.place, entry.name);
    }
}

/// Sorts what has failed: what may fail is a warning.
fn report(failed: &[(&Entry, Failure)], problems: &mut Vec<Reason>) {
    for (entry, why) in failed {
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
    let mut devices = entries.iter().filter_map(|entry| running.device(&entry.name));
    if json::is_on() {
        return results::devices("up", devices.map(Named::of));
    }
    devices
        .try_for_each(|device| print(&format!("{}: {}", device.name, device.object.block_device)))
}

impl Work<'_> {
    /// Brings one device up. What it waits for has ended.
    fn bring_up(&self, at: usize) -> Result<(), Failure> {
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
            return Err("it has no server".into());
        }
        if self.running.has_table_of(device, entry) {
            return Ok(());
        }
        Err(format!(
            "it is up with another table than that of {}: `ublk-dm save {name}` writes the one \
             that it has",
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
        self.refuse_without_snapshots(at, entry)?;
        let Err(why) = self.make_numbered(entry) else { return Ok(()) };
        if !self.interrupt.is_told() && self.is_made_by_another(entry) {
            return Ok(());
        }
        let limit_s = self.timeout_of(entry).as_secs();
        Err(match waited.filter(|_| limit_s > 0) {
            Some(disk) => why.ending(format!("; {disk} was waited for, for {limit_s} s")),
            None => why,
        })
    }

    /// Makes a device with a number that its line leaves open, or with its own. Another command may
    /// take such a number at the same moment, as services do that start together: then another
    /// number is tried.
    fn make_numbered(&self, entry: &Entry) -> Result<(), Failure> {
        let mut number = self.numbers.get(&entry.name).copied();
        for _ in 1..NUMBER_TRIES {
            let Err(why) = self.make_with(entry, number) else { return Ok(()) };
            let taken = device::numbers()?;
            let is_taken = number.is_some_and(|number| taken.contains(&number));
            if !is_taken || self.interrupt.is_told() || self.is_made_by_another(entry) {
                return Err(why);
            }
            log::info!("{}: {why}; another number is tried", entry.name);
            let listed = |id: &u32| self.tab.entries.iter().any(|it| it.options.id == Some(*id));
            number = (0..).find(|id| !taken.contains(id) && !listed(id));
        }
        self.make_with(entry, number)
    }

    fn make_with(&self, entry: &Entry, number: Option<u32>) -> Result<(), Failure> {
        let (spec, mut common) = spec(entry)?;
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
            if self.is_up(name) || self.comes_later(at, snapshot) {
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

    fn is_up(&self, name: &str) -> bool {
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

/// A failure with the name of its device.
fn named(name: &str, mut why: Failure) -> Failure {
    // The command line is right.
    if why.kind == Kind::Usage {
        why.kind = Kind::Refused;
    }
    if why.to_string().starts_with(&format!("{name}: ")) { why } else { why.context(name) }
}

/// A device as its line describes it.
fn spec(entry: &Entry) -> Result<(DeviceSpec, args::Common), Failure> {
    let Entry { name, table, options, .. } = entry;
    let beside =
        options.beside.as_deref().map(|word| Disks::in_tab().path(Path::new(named_by(word))));
    let common =
        args::Common { beside: beside.transpose()?.map(Into::into), ..common(name, options) };
    let table = table.with_devices(|word| Ok::<_, Failure>(named_by(word).to_owned()))?;
    let source = options.source.as_deref().map(|word| Path::new(named_by(word)));
    let spec = table::of_lines(&table.to_string(), &common, source, Disks::in_tab())?;
    Ok((DeviceSpec { other_origin: options.other_origin, ..spec }, common))
}

/// The options of a line as those of `create`, but for the device that it is beside.
fn common(name: &str, options: &Options) -> args::Common {
    let default = args::Common::named(name.to_owned());
    args::Common {
        id: options.id,
        queues: options.queues.unwrap_or(default.queues),
        depth: options.depth.unwrap_or(default.depth),
        read_only: options.read_only,
        no_zero_copy: options.no_zero_copy,
        no_recovery: options.no_recovery,
        on_server_death: options.on_server_death.map(table::flag_of).unwrap_or_default(),
        uuid: options.uuid.clone(),
        force: options.force,
        shared: options.shared,
        ..default
    }
}

/// The word of a disk without the directory of links to devices: there may be no such links.
fn named_by(word: &str) -> &str {
    match Disk::of(word) {
        Disk::Named(name) => name,
        Disk::Path(path) => path,
    }
}
