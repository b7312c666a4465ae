//! A device whose data moves between disks: ranges become a mirror and a mirror ranges, in random
//! lives, with an end of the server or of the power at every step. Each new table has a disk of the
//! old one, so whatever a command does or refuses, the device shows what was written to it.

use dm_targets::disk::Errno;
use dm_targets::request::RequestKind;
use dm_targets::sim::Rng;
use dm_targets::sim::disk::{Class, Fault, Matcher};
use dm_targets::table::Table;

use super::kernel::Pending;
use super::lines::explore;
use super::model::{self, Content};
use super::process::Process;
use super::town::{Broken, SECTORS, Town, What};
use crate::protocol::{Command, DeviceSpec, Reply};
use crate::server::admin::mutant::{self, Mutant};

mod again;

const L: What = What::Lines;
/// The disks below the tables, as the town counts them.
const DISKS: [(usize, &str); 3] = [(3, "/a"), (4, "/b"), (5, "/c")];
const TABLES: [&str; 15] = [
    "0 8 linear /a 0",
    "0 8 linear /b 0",
    "0 8 linear /c 0",
    "0 3 linear /b 0\n3 5 linear /b 3",
    "0 8 mirror core 1 2 2 /a 0 /b 0",
    "0 8 mirror core 1 2 2 /b 0 /a 0",
    "0 8 mirror core 1 4 2 /b 0 /c 0",
    "0 8 mirror core 1 2 2 /c 0 /a 0",
    "0 8 mirror core 1 2 3 /a 0 /b 0 /c 0",
    "0 8 mirror core 1 2 2 /a 0 /c 0 1 handle_errors",
    "0 8 mirror disk 2 /c0 2 2 /a 0 /b 0",
    "0 8 mirror disk 2 /c0 2 2 /b 0 /a 0",
    "0 8 mirror disk 2 /c0 2 2 /c 0 /b 0 1 handle_errors",
    "0 8 mirror disk 2 /c1 2 2 /b 0 /a 0",
    "0 8 mirror disk 2 /c1 2 3 /c 0 /b 0 /a 0",
];

#[derive(Clone, Copy, Debug)]
enum Step {
    Write(usize),
    /// A write that a disk refuses.
    Miss(usize, usize),
    Read(usize),
    Flush,
    Load(usize),
    Suspend,
    Resume,
    /// The machine rests: a mirror is recovered.
    Rest,
    Kill,
}

fn table(number: usize) -> Table {
    Table::parse_table(TABLES[number]).unwrap()
}

fn disks_of(number: usize) -> Vec<usize> {
    let words = table(number).params.devices();
    let disks = DISKS.iter().enumerate().filter(|(_, (_, path))| words.iter().any(|w| w == path));
    disks.map(|(disk, _)| disk).collect()
}

fn spec(number: usize) -> DeviceSpec {
    DeviceSpec { table: table(number), ..Town::spec(L) }
}

struct Life {
    town: Town,
    content: Content,
    table: usize,
    loaded: Option<usize>,
    /// The mirror whose log has been left.
    left: Option<usize>,
    /// Writes that have no result yet.
    waiting: Vec<(usize, u32, Pending)>,
    value: u32,
}

impl Life {
    fn new(seed: u64) -> Life {
        let content = Content::of((200..).take(SECTORS));
        let town = Town::new(seed, true);
        Life { town, content, table: 0, loaded: None, left: None, waiting: Vec::new(), value: 1000 }
    }

    fn is_dead(&self) -> bool {
        self.town.site.is_dead()
    }

    fn is_suspended(&self) -> bool {
        self.town.devices.get(&L).is_some_and(|known| known.suspended)
    }

    /// Handles the results of writes. One that fails may have reached a disk.
    fn collect_replies(&mut self) {
        let mut still = Vec::new();
        for (sector, value, pending) in std::mem::take(&mut self.waiting) {
            if let Some(process) = self.town.processes.get(L.key()).filter(|_| !self.is_dead()) {
                let done = || pending.result.borrow().is_some();
                drop(self.town.site.run(&process.executor, done));
            }
            let result = pending.result.borrow().clone();
            match result {
                None => {
                    still.push((sector, value, pending));
                    continue;
                }
                Some(Ok(())) => self.content.acknowledge(sector, value),
                Some(Err(_)) => {}
            }
            self.town.strike(&pending);
        }
        self.waiting = still;
    }

    fn write(&mut self, sector: usize) {
        if self.waiting.iter().any(|(other, ..)| *other == sector) {
            return;
        }
        self.value += 1;
        let (kind, bytes) = (RequestKind::Write { fua: false }, model::sector(self.value));
        if let Some(pending) = self.town.send(L, kind, sector, bytes) {
            self.waiting.push((sector, self.value, pending));
            self.content.begin(sector, self.value);
        }
        self.collect_replies();
    }

    fn miss(&mut self, disk: usize, sector: usize) {
        if disks_of(self.table).len() < 2 || self.is_suspended() {
            return;
        }
        let slot = DISKS[disk].0;
        let matcher = Matcher::all(Class::Write);
        let fault = Fault { matcher, skip: 0, times: 1, errno: Errno::EIO };
        self.town.site.disks[slot].disk.borrow().inject(fault);
        self.write(sector);
        self.town.site.disks[slot].disk.borrow().mend();
    }

    fn read(&mut self, sector: usize) -> Result<(), Broken> {
        // What a held write will leave is not known.
        let held = self.waiting.iter().any(|(other, ..)| *other == sector);
        if self.is_suspended() || self.is_dead() || held {
            return Ok(());
        }
        let pending = self.town.send(L, RequestKind::Read, sector, vec![0xEE; 512]);
        let Some(pending) = pending else { return Ok(()) };
        let result = pending.result.borrow().clone();
        if self.is_dead() {
            return Ok(());
        }
        self.town.strike(&pending);
        let seen = model::values(&self.town.site.take_payload(pending.payload))[0];
        let judged = match result {
            Some(Ok(())) => self.content.judge_at(sector, seen),
            result => Err(format!("a read ends with {result:?}")),
        };
        judged.map_err(|why| format!("sector {sector} of table {}: {why}", self.table))
    }

    fn flush(&mut self) {
        if self.is_suspended() || self.is_dead() || !self.waiting.is_empty() {
            return;
        }
        let Some(pending) = self.town.send(L, RequestKind::Flush, 0, Vec::new()) else { return };
        let result = pending.result.borrow().clone();
        if !self.is_dead() {
            self.town.strike(&pending);
        }
        if result == Some(Ok(())) {
            self.content.flush();
        }
    }

    fn rest(&mut self) {
        if let Some(process) = self.town.processes.get(L.key()) {
            drop(self.town.site.run(&process.executor, || false));
        }
    }

    fn load(&mut self, number: usize) -> Result<(), Broken> {
        let common = |disk: &usize| disks_of(self.table).contains(disk);
        if !disks_of(number).iter().any(common) {
            return Ok(());
        }
        let device = self.town.devices[&L].device();
        match self.town.ask(L.key(), Command::Load { device, spec: spec(number) }) {
            Ok(_) => self.loaded = Some(number),
            Err(_) if self.is_dead() => {}
            Err(why) => return Err(why),
        }
        Ok(())
    }

    fn resume(&mut self) -> Result<(), Broken> {
        let resumed = self.town.resume(L);
        if self.is_dead() {
            return Ok(());
        }
        match resumed {
            Ok(()) => {
                let next = self.loaded.take().unwrap_or(self.table);
                self.change_table(next);
            }
            Err(why) if why.contains("the old table is still in place") => self.loaded = None,
            Err(why) => return Err(why),
        }
        self.learn(None)?;
        self.collect_replies();
        Ok(())
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
        self.change_table(on_record);
        self.loaded = device.loaded.as_ref().map(number).transpose()?;
        if let Some(known) = self.town.devices.get_mut(&L) {
            known.suspended = device.suspended;
        }
        Ok(())
    }

    fn act(&mut self, step: Step) -> Result<(), Broken> {
        match step {
            Step::Write(sector) => self.write(sector),
            Step::Miss(disk, sector) => self.miss(disk, sector),
            Step::Read(sector) => self.read(sector)?,
            Step::Flush => self.flush(),
            Step::Load(number) => self.load(number)?,
            Step::Suspend => self.town.suspend(L)?,
            Step::Resume => self.resume()?,
            Step::Rest => self.rest(),
            Step::Kill => {
                self.town.kill(L.key());
                self.recover()?;
            }
        }
        self.collect_replies();
        Ok(())
    }

    /// The next server takes the device over.
    fn recover(&mut self) -> Result<(), Broken> {
        DISKS.iter().for_each(|(disk, _)| self.town.site.disks[*disk].disk.borrow().mend());
        let state = self.town.left(L.key())?;
        if state.is_empty() {
            return Ok(());
        }
        self.learn(Some([self.table, self.loaded.unwrap_or(self.table)]))?;
        let process = Process::start(&self.town.site, L.key()).ok_or("no server")?;
        self.town.processes.insert(L.key(), process);
        match self.town.ask(L.key(), Command::Recover(state)) {
            Ok(Reply::Recovered { problems, .. }) if problems.is_empty() => {
                self.collect_replies();
                Ok(())
            }
            other => Err(format!("not recovered: {other:?}")),
        }
    }

    fn end(&mut self) -> Result<(), Broken> {
        if self.is_suspended() {
            self.resume()?;
        }
        self.rest();
        (0..SECTORS).try_for_each(|sector| self.read(sector))?;
        self.flush();
        self.town.crash(true);
        self.judge_disks([self.table; 2])
    }
}

/// The same mirror was there before.
const THERE_AND_BACK: [Step; 6] =
    [Step::Write(2), Step::Flush, Step::Load(10), Step::Resume, Step::Read(2), Step::Read(2)];

fn steps(seed: u64) -> Vec<Step> {
    if seed == 0 {
        return THERE_AND_BACK.into();
    }
    let mut rng = Rng::new(seed);
    let mut steps = Vec::new();
    for _ in 0..12 {
        steps.push(match rng.below(24) {
            0..5 => Step::Write(rng.below(SECTORS)),
            5 => Step::Miss(rng.below(DISKS.len()), rng.below(SECTORS)),
            6..8 => Step::Read(rng.below(SECTORS)),
            8 => Step::Flush,
            9..16 => Step::Load(rng.below(TABLES.len())),
            16 => Step::Suspend,
            17..21 => Step::Resume,
            21..23 => Step::Rest,
            _ => Step::Kill,
        });
        if let (Some(Step::Load(_)), true) = (steps.last(), rng.one_in(2)) {
            steps.push(Step::Resume);
        }
    }
    steps
}

/// Lives a life with a crash at one change, if any; returns how many changes there were.
fn live(seed: u64, crash: Option<(u64, bool)>) -> (u64, Result<(), Broken>) {
    let mut life = Life::new(seed);
    if seed == 0 {
        life.add(10, None).unwrap();
        life.rest();
        life.town.del(L, false).unwrap();
    }
    life.town.add(L).unwrap();
    let changes = |life: &Life| life.town.site.shared.lock().unwrap().changes;
    let first = changes(&life);
    life.town.site.shared.lock().unwrap().crash_at = crash.map(|(at, _)| first + at);
    let mut judged = Ok(());
    for step in steps(seed) {
        let acted = life.act(step);
        life.town.say(|| format!("{step:?}: {acted:?}"));
        if life.is_dead() {
            let power = crash.is_some_and(|(_, power)| power);
            life.town.crash(power);
            if power {
                let tables = [life.table, life.loaded.unwrap_or(life.table)];
                return (0, life.judge_disks(tables).map_err(|why| told(&life, &why)));
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

#[test]
fn data_move_between_disks_in_any_life() {
    match explore(0..300, live) {
        Ok(states) => println!("{states} states of devices whose data move"),
        Err(why) => panic!("{why}"),
    }
}

#[test]
fn broken_rules_of_moves_are_noticed() {
    for mutant in Mutant::OF_MOVES {
        mutant::set(Some(mutant));
        let explored = explore(0..1000, live);
        mutant::set(None);
        match explored {
            Err(why) => println!("{mutant:?}: {}", why.lines().next().unwrap_or_default()),
            Ok(_) => panic!("{mutant:?} is not noticed"),
        }
    }
    use dm_targets::mutant::Mutant as Of;
    for mutant in [Of::SourceUnflushed, Of::LeftLogUntold] {
        dm_targets::mutant::set(Some(mutant));
        let explored = explore(0..1000, live);
        dm_targets::mutant::set(None);
        match explored {
            Err(why) => println!("{mutant:?}: {}", why.lines().next().unwrap_or_default()),
            Ok(_) => panic!("{mutant:?} is not noticed"),
        }
    }
}
