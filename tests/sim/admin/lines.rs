//! A device made of ranges (`linear`, `error`, `zero`), or the device of an origin without
//! snapshots, which shows a range as well. Its table is replaced by others in random lives, with an
//! end of the server or of the power at every step. The model knows which sector of which disk each
//! sector of each table is, and nothing else.

use dm_targets::request::RequestKind;
use dm_targets::segments::table::{SegmentParams, placed};
use dm_targets::sim::Rng;
use dm_targets::table::Table;
use dm_targets::units::{Sector, Sectors};

use super::kernel::Pending;
use super::model::{self, Content};
use super::process::Process;
use super::town::{Broken, SECTORS, Town, What};
use crate::protocol::{Command, DeviceSpec, Reply};
use crate::server::admin::devices::ranges_of;
use crate::server::admin::mutant::{self, Mutant};

const L: What = What::Lines;
/// The disks below the tables, as the town counts them.
const DISKS: [(usize, &str); 3] = [(3, "/a"), (4, "/b"), (5, "/c")];
const TABLES: [&str; 7] = [
    "0 8 linear /a 0",
    "0 4 linear /a 0\n4 4 linear /b 4",
    "0 2 zero\n2 4 linear /c 0\n6 2 error",
    "0 8 error",
    "0 8 zero",
    "0 3 linear /b 5\n3 5 linear /b 0",
    "0 8 snapshot-origin /a",
];

#[derive(Clone, Copy, Debug)]
enum Step {
    Write(usize),
    Read(usize),
    Flush,
    Load(usize),
    Suspend,
    Resume,
    Kill,
    /// The path of a disk is missing, or none is.
    Absent(Option<usize>),
}

/// What a sector of a table is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Disk(usize, usize),
    Error,
    Zero,
}

fn table(number: usize) -> Table {
    Table::parse_table(TABLES[number]).unwrap()
}

fn place(number: usize, sector: usize) -> Place {
    let (table, at) = (table(number), Sector(sector as u64));
    let segments = ranges_of(&table).unwrap();
    let found = placed(&segments).filter(|(start, _)| *start <= at).last();
    let (start, segment) = found.unwrap();
    match &segment.params {
        SegmentParams::Linear(linear) => {
            let disk = DISKS.iter().position(|(_, path)| *path == linear.device).unwrap();
            let at = linear.offset.plus(Sectors(at.0 - start.0)).0;
            Place::Disk(disk, usize::try_from(at).unwrap())
        }
        SegmentParams::Error => Place::Error,
        SegmentParams::Zero => Place::Zero,
    }
}

fn spec(number: usize) -> DeviceSpec {
    DeviceSpec { table: table(number), ..Town::spec(L) }
}

struct Life {
    town: Town,
    disks: [Content; 3],
    table: usize,
    loaded: Option<usize>,
    /// Writes that a suspended device holds back.
    waiting: Vec<(usize, u32, Pending)>,
    value: u32,
}

impl Life {
    fn new(seed: u64) -> Life {
        let content = |first: u32| Content::of((first..).take(SECTORS));
        let zeroes = Content::of(std::iter::repeat_n(0, SECTORS));
        let disks = [content(200), content(200), zeroes];
        let town = Town::new(seed, true);
        Life { town, disks, table: 0, loaded: None, waiting: Vec::new(), value: 1000 }
    }

    fn is_suspended(&self) -> bool {
        self.town.devices.get(&L).is_some_and(|known| known.suspended)
    }

    /// A write that waits may be carried out with this table.
    fn begin(&mut self, table: usize) {
        for (sector, value, _) in &self.waiting {
            if let Place::Disk(disk, at) = place(table, *sector) {
                self.disks[disk].begin(at, *value);
            }
        }
    }

    /// Handles the results of writes.
    fn collect_replies(&mut self) -> Result<(), Broken> {
        if self.town.site.is_dead() {
            return Ok(());
        }
        let mut still = Vec::new();
        for (sector, value, pending) in std::mem::take(&mut self.waiting) {
            if let Some(process) = self.town.processes.get(L.key()) {
                let done = || pending.result.borrow().is_some();
                drop(self.town.site.run(&process.executor, done));
            }
            let result = pending.result.borrow().clone();
            match (result, place(self.table, sector)) {
                (None, _) => {
                    still.push((sector, value, pending));
                    continue;
                }
                (Some(Ok(())), Place::Disk(disk, at)) => self.disks[disk].acknowledge(at, value),
                (Some(Ok(())), Place::Zero) | (Some(Err(_)), Place::Error) => {}
                (Some(result), place) => {
                    return Err(format!("a write to {place:?} ends with {result:?}"));
                }
            }
            self.town.strike(&pending);
        }
        self.waiting = still;
        Ok(())
    }

    fn write(&mut self, sector: usize) -> Result<(), Broken> {
        if self.waiting.iter().any(|(other, ..)| *other == sector) {
            return Ok(());
        }
        self.value += 1;
        let (kind, bytes) = (RequestKind::Write { fua: false }, model::sector(self.value));
        if let Some(pending) = self.town.send(L, kind, sector, bytes) {
            self.waiting.push((sector, self.value, pending));
            self.begin(self.table);
        }
        self.collect_replies()
    }

    fn read(&mut self, sector: usize) -> Result<(), Broken> {
        if self.is_suspended() || self.town.site.is_dead() {
            return Ok(());
        }
        let pending = self.town.send(L, RequestKind::Read, sector, vec![0xEE; 512]);
        let Some(pending) = pending else { return Ok(()) };
        let result = pending.result.borrow().clone();
        if self.town.site.is_dead() {
            return Ok(());
        }
        self.town.strike(&pending);
        let seen = model::values(&self.town.site.take_payload(pending.payload))[0];
        match (result, place(self.table, sector)) {
            (Some(Ok(())), Place::Disk(disk, at)) => self.disks[disk].judge_at(at, seen),
            (Some(Ok(())), Place::Zero) if seen == 0 => Ok(()),
            (Some(Err(_)), Place::Error) => Ok(()),
            (result, place) => Err(format!("a read of {place:?} ends with {result:?}, {seen}")),
        }
        .map_err(|why| format!("sector {sector} of table {}: {why}", self.table))
    }

    fn flush(&mut self) -> Result<(), Broken> {
        if self.is_suspended() || self.town.site.is_dead() {
            return Ok(());
        }
        let Some(pending) = self.town.send(L, RequestKind::Flush, 0, Vec::new()) else {
            return Ok(());
        };
        let result = pending.result.borrow().clone();
        if self.town.site.is_dead() {
            return Ok(());
        }
        self.town.strike(&pending);
        if result != Some(Ok(())) {
            return Err(format!("a flush ends with {result:?}"));
        }
        // All that was acknowledged, whatever table the device had then.
        self.disks.iter_mut().for_each(Content::flush);
        Ok(())
    }

    fn resume(&mut self) -> Result<(), Broken> {
        if let Some(loaded) = self.loaded {
            self.begin(loaded);
        }
        let resumed = self.town.resume(L);
        if self.town.site.is_dead() {
            return Ok(());
        }
        match resumed {
            Ok(()) => self.table = self.loaded.take().unwrap_or(self.table),
            Err(why) if why.contains("the old table is still in place") => self.loaded = None,
            Err(why) => return Err(why),
        }
        self.learn(None)?;
        self.collect_replies()
    }

    /// Compares the state file with the model. `crashed`: the tables that may be in place now.
    fn learn(&mut self, crashed: Option<[usize; 2]>) -> Result<(), Broken> {
        let state = self.town.state(L.key())?;
        let Some(device) = state.first() else { return Err("it is not on record".to_owned()) };
        let number = |spec: &DeviceSpec| {
            (0..TABLES.len()).find(|number| table(*number) == spec.table).ok_or("unknown table")
        };
        let on_record = number(&device.spec)?;
        let may_be = crashed.unwrap_or([self.table; 2]);
        if !may_be.contains(&on_record) {
            return Err(format!("table {on_record} is on record, and {may_be:?} in place"));
        }
        self.table = on_record;
        self.loaded = device.loaded.as_ref().map(number).transpose()?;
        if let Some(known) = self.town.devices.get_mut(&L) {
            known.suspended = device.suspended;
        }
        Ok(())
    }

    fn act(&mut self, step: Step) -> Result<(), Broken> {
        match step {
            Step::Write(sector) => self.write(sector)?,
            Step::Read(sector) => self.read(sector)?,
            Step::Flush => self.flush()?,
            Step::Load(number) => {
                let device = self.town.devices[&L].device();
                let spec = spec(number);
                self.town.ask(L.key(), Command::Load { device, spec })?;
                self.loaded = Some(number);
            }
            Step::Suspend => self.town.suspend(L)?,
            Step::Resume => self.resume()?,
            Step::Kill => {
                self.town.kill(L.key());
                self.recover()?;
            }
            Step::Absent(absent) => {
                for (number, (disk, _)) in DISKS.iter().enumerate() {
                    self.town.attach(*disk, absent != Some(number));
                }
            }
        }
        self.collect_replies()
    }

    /// The next server takes the device over.
    fn recover(&mut self) -> Result<(), Broken> {
        DISKS.iter().for_each(|(disk, _)| self.town.attach(*disk, true));
        let state = self.town.left(L.key())?;
        if state.is_empty() {
            return Ok(());
        }
        let tables = [self.table, self.loaded.unwrap_or(self.table)];
        self.learn(Some(tables))?;
        self.begin(self.table);
        let process = Process::start(&self.town.site, L.key()).ok_or("no server")?;
        self.town.processes.insert(L.key(), process);
        match self.town.ask(L.key(), Command::Recover(state)) {
            Ok(Reply::Recovered { problems, .. }) if problems.is_empty() => self.collect_replies(),
            other => Err(format!("not recovered: {other:?}")),
        }
    }

    /// Compares the disks themselves after a loss of power.
    fn judge_disks(&mut self) -> Result<(), Broken> {
        for ((disk, path), content) in DISKS.iter().zip(&mut self.disks) {
            content.power_lost();
            let image = self.town.site.disks[*disk].disk.borrow().visible();
            let values = model::values(&image.read(Sector(0), Sectors(SECTORS as u64)));
            content.judge(&values).map_err(|why| format!("{path} after the power: {why}"))?;
        }
        Ok(())
    }

    fn end(&mut self) -> Result<(), Broken> {
        DISKS.iter().for_each(|(disk, _)| self.town.attach(*disk, true));
        if self.is_suspended() {
            self.resume()?;
        }
        if !self.waiting.is_empty() {
            return Err("a request has no result".to_owned());
        }
        (0..SECTORS).try_for_each(|sector| self.read(sector))?;
        self.flush()?;
        self.town.crash(true);
        self.judge_disks()
    }
}

fn steps(seed: u64) -> Vec<Step> {
    let mut rng = Rng::new(seed);
    let mut steps = Vec::new();
    for _ in 0..10 {
        steps.push(match rng.below(20) {
            0..6 => Step::Write(rng.below(SECTORS)),
            6..8 => Step::Read(rng.below(SECTORS)),
            8..10 => Step::Flush,
            10..14 => Step::Load(rng.below(TABLES.len())),
            14 => Step::Suspend,
            15..18 => Step::Resume,
            18 => Step::Kill,
            _ => Step::Absent(rng.one_in(2).then(|| rng.below(DISKS.len()))),
        });
    }
    steps
}

/// Lives a life with a crash at one change, if any; returns how many changes there were.
fn live(seed: u64, crash: Option<(u64, bool)>) -> (u64, Result<(), Broken>) {
    let mut life = Life::new(seed);
    life.town.add(L).unwrap();
    let changes = |life: &Life| life.town.site.shared.lock().unwrap().changes;
    let first = changes(&life);
    life.town.site.shared.lock().unwrap().crash_at = crash.map(|(at, _)| first + at);
    let mut judged = Ok(());
    for step in steps(seed) {
        let acted = life.act(step);
        life.town.say(|| format!("{step:?}: {acted:?}"));
        if life.town.site.is_dead() {
            let power = crash.is_some_and(|(_, power)| power);
            life.town.crash(power);
            if power {
                return (0, life.judge_disks().map_err(|why| told(&life, &why)));
            }
            judged = judged.and_then(|()| life.recover());
        } else {
            judged = judged.and(acted);
        }
        if judged.is_err() {
            break;
        }
    }
    let changes = changes(&life) - first;
    life.town.site.shared.lock().unwrap().crash_at = None;
    let judged = judged.and_then(|()| life.end());
    (changes, judged.map_err(|why| told(&life, &why)))
}

fn told(life: &Life, why: &str) -> String {
    format!("{why}\n{}", life.town.log.clone().unwrap_or_default().join("\n"))
}

/// A life of a seed, with an end at a change (true: a loss of power) or without one. Returns how
/// many changes it made, and the rule that it broke.
pub(super) type Live = fn(u64, Option<(u64, bool)>) -> (u64, Result<(), String>);

/// Lives of these seeds, each with every crash; the first that breaks a rule.
pub(super) fn explore(seeds: std::ops::Range<u64>, live: Live) -> Result<u64, String> {
    let mut states = 0;
    for seed in seeds {
        let (changes, judged) = live(seed, None);
        judged.map_err(|why| format!("life {seed}: {why}"))?;
        for crash in (1..=changes).flat_map(|at| [(at, false), (at, true)]) {
            live(seed, Some(crash)).1.map_err(|why| format!("life {seed}, {crash:?}: {why}"))?;
            states += 1;
        }
    }
    Ok(states)
}

#[test]
fn tables_of_ranges_replace_each_other_in_any_life() {
    match explore(0..400, live) {
        Ok(states) => println!("{states} states of devices made of ranges"),
        Err(why) => panic!("{why}"),
    }
}

#[test]
fn broken_rules_of_replaced_ranges_are_noticed() {
    for mutant in Mutant::OF_LINES {
        mutant::set(Some(mutant));
        let explored = explore(0..200, live);
        mutant::set(None);
        assert!(explored.is_err(), "{mutant:?} is not noticed");
    }
    dm_targets::mutant::set(Some(dm_targets::mutant::Mutant::SuspendLeavesUnflushed));
    let explored = explore(0..200, live);
    dm_targets::mutant::set(None);
    assert!(explored.is_err(), "what is not flushed is not noticed");
}
