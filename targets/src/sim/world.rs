//! The simulated machine as a whole, and the scheduler that picks what happens next.
//!
//! At every step one thing happens: a ready task runs, an operation in flight completes, or the
//! driver of the world acts. Which one is drawn from the seed, by one of several schedules: uniform
//! choice finds the ordinary races, fixed random priorities starve single operations for long (the
//! races that need one slow disk), and tasks first is how a real machine behaves when its disks are
//! slow.

use std::cell::RefCell;
use std::rc::Rc;

use super::Rng;
use super::crash::{self, CrashKind, CrashSpace};
use super::disk::{DiskConfig, SimDisk};
use super::host::SimHost;
use super::image::Image;
use super::journal::SimJournal;
use super::losses::SimLosses;
use super::trace::Trace;
use crate::disk::OpId;
use crate::exec::Executor;
use crate::snapshot::journal::{Journal, Journaled};
use crate::snapshot::losses::Loss;

/// How the scheduler chooses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Schedule {
    /// Everything in the order in which it became possible.
    InOrder,
    /// Anything possible, equally likely.
    Uniform,
    /// Ready tasks before completions.
    TasksFirst,
    /// Every operation has a random priority for life, and the highest one completes.
    Priorities,
}

impl Schedule {
    /// The schedules that depend on the seed.
    pub const RANDOM: [Schedule; 3] =
        [Schedule::Uniform, Schedule::TasksFirst, Schedule::Priorities];
}

/// The kind of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A task ran.
    Task,
    /// An operation completed.
    Completion,
    /// It is the driver's turn.
    Driver,
    /// The clock moved to the next timer.
    Time,
    /// Nothing can happen: everything has ended, or hangs.
    Nothing,
}

/// Buffers that a world lends by default.
const BUFFERS: usize = 64;

/// A machine: memory, disks, tasks and a seed.
pub struct World {
    /// Runs the tasks.
    pub executor: Executor,
    /// Its memory and time.
    pub host: Rc<SimHost>,
    /// What happened.
    pub trace: Trace,
    disks: Vec<Rc<SimDisk>>,
    journals: Vec<Rc<SimJournal>>,
    losses: Vec<Rc<SimLosses>>,
    schedule: Schedule,
    seed: u64,
    rng: RefCell<Rng>,
}

impl World {
    /// A machine without disks.
    pub fn new(seed: u64, schedule: Schedule, trace: Trace) -> World {
        World {
            executor: Executor::new(),
            host: Rc::new(SimHost::new(BUFFERS)),
            trace,
            disks: Vec::new(),
            journals: Vec::new(),
            losses: Vec::new(),
            schedule,
            seed,
            rng: RefCell::new(Rng::new(seed)),
        }
    }

    /// Adds a disk with that content.
    pub fn add_disk(&mut self, name: &str, config: DiskConfig, image: Image) -> Rc<SimDisk> {
        let disk = SimDisk::new(name, config, image, &self.host, &self.trace);
        self.disks.push(disk.clone());
        disk
    }

    /// Its disks, in the order they were added.
    pub fn disks(&self) -> &[Rc<SimDisk>] {
        &self.disks
    }

    /// Adds a journal with content.
    pub fn add_journal(&mut self, journaled: &Journaled) {
        self.journals.push(Rc::new(SimJournal::holding(journaled)));
    }

    /// Its journals, in the order they were added.
    pub fn journals(&self) -> &[Rc<SimJournal>] {
        &self.journals
    }

    /// Adds the loss record of a COW, with its content.
    pub fn add_losses(&mut self, cow: &str, recorded: Option<Loss>) {
        self.losses.push(Rc::new(SimLosses::of(cow, recorded)));
    }

    /// Its records of lost stores, in the order they were added.
    pub fn losses(&self) -> &[Rc<SimLosses>] {
        &self.losses
    }

    /// The loss recorded in each of them.
    pub fn lost(&self) -> Vec<Option<Loss>> {
        self.losses.iter().map(|losses| losses.recorded()).collect()
    }

    /// The content of each of them: it outlives the process but not a loss of power.
    pub fn journals_left(&self, kind: CrashKind) -> Vec<Journaled> {
        let left = |journal: &Rc<SimJournal>| {
            if kind == CrashKind::Process { journal.left() } else { Journaled::default() }
        };
        self.journals.iter().map(left).collect()
    }

    /// Performs one step. With `driver` the driver's own next action is among the choices, and the
    /// driver must perform it.
    pub fn step(&self, driver: bool) -> Step {
        let ready = self.executor.ready();
        let open: Vec<_> = self
            .disks
            .iter()
            .flat_map(|disk| disk.completable().into_iter().map(move |id| (disk, id)))
            .collect();
        let choices = ready + open.len() + usize::from(driver);
        if choices == 0 {
            return if self.host.advance_to_timer() { Step::Time } else { Step::Nothing };
        }
        let choice = match self.schedule {
            Schedule::InOrder => 0,
            Schedule::Uniform => self.rng.borrow_mut().below(choices),
            Schedule::TasksFirst if ready > 0 => self.rng.borrow_mut().below(ready),
            Schedule::Priorities if ready > 0 => self.rng.borrow_mut().below(ready),
            Schedule::TasksFirst => self.rng.borrow_mut().below(choices),
            Schedule::Priorities if driver && self.rng.borrow_mut().one_in(open.len() + 1) => {
                choices - 1
            }
            Schedule::Priorities => self.highest(&open),
        };
        if choice < ready {
            self.executor.run_one(choice);
            Step::Task
        } else if let Some((disk, id)) = open.get(choice - ready) {
            disk.complete(*id);
            Step::Completion
        } else {
            Step::Driver
        }
    }

    fn highest(&self, open: &[(&Rc<SimDisk>, OpId)]) -> usize {
        let priority = |(disk, id): &(&Rc<SimDisk>, OpId)| {
            let disk = self.disks.iter().position(|other| Rc::ptr_eq(other, disk)).unwrap_or(0);
            super::mix(self.seed ^ (disk as u64) << 32 ^ u64::from(id.0))
        };
        open.iter().enumerate().max_by_key(|(_, op)| priority(op)).map_or(0, |(at, _)| at)
    }

    /// Steps until nothing can happen any more, at most `limit` times; returns whether the world
    /// came to rest.
    pub fn run(&self, limit: usize) -> bool {
        (0..limit).any(|_| self.step(false) == Step::Nothing)
    }

    /// Changes whenever what may survive a crash changes.
    pub fn changes(&self) -> u64 {
        let disks: u64 = self.disks.iter().map(|disk| disk.changes()).sum();
        let losses: u64 = self.losses.iter().map(|losses| losses.changes()).sum();
        disks + losses + self.journals.iter().map(|journal| journal.changes()).sum::<u64>()
    }

    /// What each disk may hold after a crash now.
    pub fn crash_spaces(&self, kind: CrashKind) -> Vec<CrashSpace> {
        self.disks.iter().map(|disk| disk.crash_space(kind)).collect()
    }

    /// Images of all disks after a crash now: all of them, or `cap` drawn from the seed.
    pub fn crash(&self, kind: CrashKind, cap: usize) -> Vec<Vec<Image>> {
        crash::survivors(&self.crash_spaces(kind), cap, &mut self.rng.borrow_mut())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{Buffer, Disk, DiskError, Errno, Host};
    use crate::sim::disk::{Class, Fault, Matcher};
    use crate::units::{Sector, Sectors};
    use std::cell::Cell;

    fn world(schedule: Schedule, seed: u64) -> (World, Disk) {
        let mut world = World::new(seed, schedule, Trace::recording());
        let disk = world.add_disk("d0", DiskConfig::default(), Image::zeroes(Sectors(8))).disk();
        (world, disk)
    }

    fn buffer(world: &World, fill: u8) -> Buffer {
        let host: Rc<dyn Host> = world.host.clone();
        let buffer = Buffer::acquire(&host, 512).unwrap();
        buffer.write(0, &[fill; 512]);
        buffer
    }

    /// Two overlapping writes in flight together; returns what a later read sees, and the trace.
    fn race(schedule: Schedule, seed: u64) -> (u8, Vec<String>) {
        let (world, disk) = world(schedule, seed);
        let (one, two) = (buffer(&world, 1), buffer(&world, 2));
        let seen = Rc::new(Cell::new(0));
        let result = seen.clone();
        world.executor.spawn(async move {
            let first = disk.write(Sector(3), Sectors(1), one.at(0), false);
            let second = disk.write(Sector(3), Sectors(1), two.at(0), false);
            first.await.unwrap();
            second.await.unwrap();
            disk.read(Sector(3), Sectors(1), one.at(0)).await.unwrap();
            let mut byte = [0];
            one.read(0, &mut byte);
            result.set(byte[0]);
        });
        assert!(world.run(100));
        assert_eq!((world.executor.live(), world.host.lent()), (0, 0));
        (seen.get(), world.trace.lines())
    }

    #[test]
    fn a_seed_decides_everything_and_seeds_differ() {
        assert_eq!(race(Schedule::InOrder, 0).0, 2);
        for schedule in Schedule::RANDOM {
            let seen: Vec<u8> = (0..32).map(|seed| race(schedule, seed).0).collect();
            assert!(seen.contains(&1) && seen.contains(&2), "{schedule:?} leaves out an order");
            assert_eq!(race(schedule, 7), race(schedule, 7));
        }
    }

    #[test]
    fn faults_hit_the_operation_they_name_and_holds_delay() {
        let (world, disk) = world(Schedule::InOrder, 0);
        let matcher = Matcher { class: Class::Write, first: 2, end: 3 };
        world.disks()[0].inject(Fault { matcher, skip: 1, times: 1, errno: Errno(28) });
        world.disks()[0].hold(Matcher { class: Class::Write, first: 5, end: 6 });
        let memory = buffer(&world, 9);
        let results: Rc<RefCell<Vec<Result<(), DiskError>>>> = Rc::default();
        for sector in [2, 1, 2, 2, 5] {
            let (results, disk, memory) = (results.clone(), disk.clone(), memory.clone());
            world.executor.spawn(async move {
                let result = disk.write(Sector(sector), Sectors(1), memory.at(0), false).await;
                results.borrow_mut().push(result);
            });
        }
        assert!(world.run(100));
        let errors: Vec<_> = results
            .borrow()
            .iter()
            .map(|result| result.as_ref().err().map(|e| e.errno.0))
            .collect();
        assert_eq!(errors, [None, None, Some(28), None], "the held write has not completed");
        world.disks()[0].release();
        assert!(world.run(100));
        assert_eq!(results.borrow().len(), 5);
    }

    #[test]
    #[should_panic(expected = "changed in flight")]
    fn memory_of_a_write_must_not_change() {
        let (world, disk) = world(Schedule::InOrder, 0);
        let memory = buffer(&world, 1);
        let io = disk.write(Sector(0), Sectors(1), memory.at(0), false);
        memory.write(0, &[2]);
        world.run(10);
        drop(io);
    }

    #[test]
    #[should_panic(expected = "outlived request")]
    fn a_payload_must_outlive_its_operations() {
        let (world, disk) = world(Schedule::InOrder, 0);
        let id = world.host.add_payload(vec![0; 512]);
        drop(disk.read(
            Sector(0),
            Sectors(1),
            crate::disk::Memory::Payload { id, offset_bytes: 0 },
        ));
        world.host.take_payload(id);
        world.run(10);
    }
}
