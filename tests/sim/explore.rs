//! Runs a workload with a crash at every moment, judges the surviving images, and continues with
//! some of them until the next crash.

mod case;

use std::cell::RefCell;
use std::collections::HashSet;
use std::rc::Rc;

use dm_targets::disk::{Memory, PayloadId};
use dm_targets::request::{Request, RequestKind};
use dm_targets::sim::Rng;
use dm_targets::sim::crash::CrashKind;
use dm_targets::sim::disk::Fault;
use dm_targets::sim::image::{Image, SectorData};
use dm_targets::sim::trace::Trace;
use dm_targets::sim::world::{Step, World};
use dm_targets::snapshot::exceptions::Health;
use dm_targets::units::{Sector, Sectors};

pub use case::Case;

use crate::model::{Model, Moment, Ticket};
use crate::oracle::{Expect, judge, model_of};
use crate::pattern;
use crate::stack::{self, Left, Stack};
use crate::workload::{self, Kind, Op};

/// Steps after which a workload that has not ended counts as hanging.
const STEP_LIMIT: usize = 100_000;

/// A broken promise and what led to it.
#[derive(Debug)]
pub struct Violation {
    /// The violation.
    pub fault: String,
    /// What happened before, in order.
    pub trace: Vec<String>,
}

struct InFlight {
    op: Op,
    ticket: Ticket,
    payload: PayloadId,
    result: Rc<RefCell<Option<Result<(), String>>>>,
}

struct Run<'a> {
    case: &'a Case,
    world: World,
    model: Model,
    next_op: usize,
    in_flight: Vec<InFlight>,
    seen: HashSet<u64>,
    judged: (u64, u64),
    opened: bool,
    states: u64,
    rng: Rng,
    write_id: u32,
    /// The errors at the end of a snapshot.
    faults: Rc<RefCell<Vec<String>>>,
}

/// Runs a case; returns the number of different states that it has judged.
pub fn explore(case: &Case) -> Result<u64, Violation> {
    live(case, pattern::FIRST_WRITE)
}

fn live(case: &Case, write_id: u32) -> Result<u64, Violation> {
    let trace = Trace::recording();
    let model = model_of(&case.setup, &case.left)
        .map_err(|fault| Violation { fault, trace: Vec::new() })?;
    let world =
        stack::world(&case.setup, &case.left, case.seed, case.schedule, false, trace.clone());
    for (disk, fault) in &case.faults {
        world.disks()[*disk].inject(*fault);
    }
    for (disk, matcher) in &case.holds {
        world.disks()[*disk].hold(*matcher);
    }
    let mut run = Run {
        case,
        world,
        model,
        next_op: 0,
        in_flight: Vec::new(),
        seen: HashSet::new(),
        judged: (u64::MAX, 0),
        opened: false,
        states: 0,
        rng: Rng::new(case.seed ^ 0xC4A5),
        write_id,
        faults: Rc::default(),
    };
    match run.go() {
        Ok(()) => Ok(run.states),
        Err(Stop::Here(fault)) => Err(Violation { fault, trace: trace.lines() }),
        Err(Stop::Later(violation)) => {
            let mut lines = trace.lines();
            lines.push("======== crash; what survived lives on".into());
            lines.extend(violation.trace);
            Err(Violation { fault: violation.fault, trace: lines })
        }
    }
}

enum Stop {
    /// The promise was broken in this life.
    Here(String),
    /// It was broken after a crash of this life.
    Later(Violation),
}

impl From<String> for Stop {
    fn from(fault: String) -> Stop {
        Stop::Here(fault)
    }
}

impl Run<'_> {
    fn go(&mut self) -> Result<(), Stop> {
        let opening = stack::spawn_open(&self.world, &self.case.setup);
        let mut stack: Option<Rc<Stack>> = None;
        let mut released = false;
        for _ in 0..STEP_LIMIT {
            let more = stack.is_some() && self.may_submit();
            match (self.world.step(more), &stack) {
                (Step::Driver, Some(stack)) => self.submit(stack),
                (Step::Nothing, _) if !released && !self.case.holds.is_empty() => {
                    released = true;
                    self.world.disks().iter().for_each(|disk| disk.release());
                }
                (Step::Nothing, _) => return Ok(self.end(stack.take())?),
                _ => {}
            }
            match opening.borrow_mut().take() {
                None => {}
                Some(Ok(opened)) => {
                    self.world.trace.note(|| "-------- open".into());
                    self.opened = true;
                    self.model.opened();
                    if self.case.setup.scarce {
                        self.world.host.set_limit(self.world.host.lent());
                    }
                    stack = Some(opened);
                }
                Some(Err(_)) if self.world.disks().iter().any(|disk| disk.failed() > 0) => {
                    return self.refused();
                }
                Some(Err(error)) => return Err(Stop::Here(error)),
            }
            self.collect(stack.as_ref())?;
            self.crash_now(stack.as_ref())?;
        }
        Err(Stop::Here(format!("no end after {STEP_LIMIT} steps")))
    }

    /// Whether the next request may start. A snapshot leaves when none of its own requests is in
    /// flight.
    fn may_submit(&self) -> bool {
        let Some(op) = self.case.ops.get(self.next_op) else { return false };
        let hinders =
            |flight: &InFlight| flight.op.device == op.device || flight.op.kind == Kind::Discard;
        let busy = op.kind == Kind::Leave && self.in_flight.iter().any(hinders);
        self.in_flight.len() < self.case.depth && !busy
    }

    fn submit(&mut self, stack: &Rc<Stack>) {
        let op = self.case.ops[self.next_op];
        self.next_op += 1;
        let (id, len) = (self.write_id, usize::try_from(op.count * 512).unwrap());
        let (kind, ticket, bytes) = match op.kind {
            Kind::Read => (RequestKind::Read, self.model.submit(false), vec![0x99; len]),
            Kind::Flush => (RequestKind::Flush, self.model.submit(true), Vec::new()),
            Kind::Leave => return self.leave(stack, op.device - 1),
            Kind::Discard => {
                let ticket =
                    self.model.submit_write(op.device, pattern::DISCARD, op.first, op.count, false);
                self.model.may_be_discarded_below(op.first, op.count);
                (RequestKind::Discard, ticket, Vec::new())
            }
            Kind::Write(fua) => {
                self.write_id += 1;
                let ticket = self.model.submit_write(op.device, id, op.first, op.count, fua);
                (RequestKind::Write { fua }, ticket, pattern::payload(id, op.first, op.count))
            }
        };
        self.world.trace.note(|| format!("-------- {op:?} starts (write {id} if it is one)"));
        let payload = self.world.host.add_payload(bytes);
        let request = Request {
            kind,
            sector: Sector(op.first),
            count: Sectors(op.count),
            memory: Memory::payload(payload),
        };
        let result: Rc<RefCell<Option<Result<(), String>>>> = Rc::default();
        let (slot, stack) = (result.clone(), stack.clone());
        self.world.executor.spawn(async move {
            let outcome = stack.handle(op.device, request).await;
            *slot.borrow_mut() = Some(outcome);
        });
        self.in_flight.push(InFlight { op, ticket, payload, result });
    }

    /// A snapshot is deleted while its origin continues.
    fn leave(&mut self, stack: &Rc<Stack>, number: usize) {
        self.world.trace.note(|| format!("-------- snap{} leaves", number + 1));
        let snap = &mut self.model.snaps[number];
        snap.left = true;
        snap.outlived |= self.in_flight.iter().any(|flight| flight.op.device == 0);
        let (leaving, faults) = (stack.clone(), self.faults.clone());
        self.world.executor.spawn(async move {
            let result = leaving.leave(number).await;
            faults.borrow_mut().extend(result.err());
        });
    }

    /// Takes the results of requests that have ended.
    fn collect(&mut self, stack: Option<&Rc<Stack>>) -> Result<(), String> {
        self.note_failures(stack);
        if let Some(fault) = self.faults.borrow_mut().pop() {
            return Err(fault);
        }
        let mut index = 0;
        while index < self.in_flight.len() {
            let Some(outcome) = self.in_flight[index].result.borrow_mut().take() else {
                index += 1;
                continue;
            };
            let InFlight { op, ticket, payload, .. } = self.in_flight.remove(index);
            let bytes = self.world.host.take_payload(payload);
            self.world.trace.note(|| format!("-------- {op:?} ends: {outcome:?}"));
            match outcome {
                // Discarded data may be gone now or later.
                Ok(()) if op.kind == Kind::Discard => continue,
                Ok(()) if self.lost(op, stack) => {
                    return Err(format!("{op:?} succeeded on a snapshot that is lost"));
                }
                Ok(()) => self.model.succeeded(op.device, ticket),
                Err(_) if self.may_fail(op) => continue,
                Err(error) => return Err(format!("{op:?} failed: {error}")),
            }
            if let Ticket::Read(started) = ticket {
                let shown: Vec<SectorData> = bytes.chunks(512).map(SectorData::new).collect();
                let device = self.model.device(op.device);
                let dead = device.base.is_empty();
                if dead {
                    return Err(format!("{op:?} of an invalid snapshot succeeded"));
                }
                device
                    .judge(op.first, &shown, Moment::Read { started })
                    .map_err(|fault| format!("{op:?}: {fault}"))?;
            }
        }
        Ok(())
    }

    /// Errors that have happened on disks, and marks that have been made durable.
    fn note_failures(&mut self, stack: Option<&Rc<Stack>>) {
        let failed: Vec<bool> = self.world.disks().iter().map(|disk| disk.failed() > 0).collect();
        for (number, snap) in self.model.snaps.iter_mut().enumerate() {
            snap.failed |= failed[0] || failed[number + 1];
            let health = stack.map(|stack| stack.snaps[number].health());
            // A mark that the disk refused is recorded in the run directory.
            snap.dead |= health == Some(Health::Invalid);
        }
    }

    /// Whether a request asked for durability from a snapshot that is no longer valid.
    fn lost(&self, op: Op, stack: Option<&Rc<Stack>>) -> bool {
        let durable = matches!(op.kind, Kind::Flush | Kind::Write(true));
        let snap = op.device.checked_sub(1).filter(|_| durable);
        snap.zip(stack).is_some_and(|(snap, stack)| !stack.snaps[snap].health().is_kept())
    }

    fn may_fail(&self, op: Op) -> bool {
        match op.device.checked_sub(1) {
            // The origin's writer must see only errors of the origin's disk.
            None if self
                .case
                .faults
                .iter()
                .any(|(disk, fault)| *disk == 0 && covers(fault, op)) =>
            {
                true
            }
            // Unless a snapshot would become wrong without a trace.
            None => {
                self.case.setup.unrecordable
                    && self.model.snaps.iter().any(|snap| snap.failed || snap.left)
            }
            Some(snap) => self.model.snaps[snap].may_fail(),
        }
    }

    fn crash_now(&mut self, stack: Option<&Rc<Stack>>) -> Result<(), Stop> {
        let now = (self.world.changes(), self.model.now());
        if now == self.judged || (stack.is_none() && !self.case.crash_open) {
            return Ok(());
        }
        self.judged = now;
        let cap = self.case.cap;
        for (kind, moment, cap) in [
            (CrashKind::Power, Moment::PowerCut, cap),
            (CrashKind::Process, Moment::ProcessDeath, cap.div_ceil(6).max(2)),
        ] {
            for images in self.world.crash(kind, cap) {
                self.look_at(&Left::of(&self.world, images, kind), moment)?;
            }
        }
        Ok(())
    }

    fn look_at(&mut self, left: &Left, moment: Moment) -> Result<(), Stop> {
        let of_model = self.model.now() * 2 + u64::from(moment == Moment::PowerCut);
        let journaled = left
            .journals
            .iter()
            .flat_map(|journaled| &journaled.records)
            .map(|record| record.old.0 << 32 ^ record.new.0);
        let lost = left.lost.iter().map(|lost| u64::from(lost.is_some()));
        let hash = left.images.iter().map(Image::hash).chain(journaled).chain(lost);
        let hash = hash.fold(of_model, |hash, part| {
            (hash.rotate_left(9) ^ part).wrapping_mul(0x9E37_79B9_7F4A_7C15)
        });
        if !self.seen.insert(hash) {
            return Ok(());
        }
        self.states += 1;
        let expect = Expect { dense: self.case.dense, open: self.opened };
        judge(&self.case.setup, &self.model, left, moment, expect)?;
        if self.case.lives_on == 0 || !self.rng.one_in(self.case.lives_on) {
            return Ok(());
        }
        self.states += self.second_life(left).map_err(Stop::Later)?;
        Ok(())
    }

    /// A surviving state is opened, used and crashed again.
    fn second_life(&mut self, left: &Left) -> Result<u64, Violation> {
        let setup = &self.case.setup;
        let (seed, block) = (self.rng.next_u64(), u64::from(setup.block_bytes) / 512);
        let len = 1 + self.rng.below(2);
        let ops = workload::random_ops(
            &mut self.rng,
            len,
            setup.snaps.len() + 1,
            setup.origin_sectors,
            block,
        );
        let mut case = Case { left: left.clone(), ..Case::new(setup, &[], &ops, seed) };
        // A chunk that was allocated and not journaled leaves a hole before later ones.
        let dense = self.case.dense && !left.is_journaled();
        (case.cap, case.lives_on, case.crash_open, case.dense) = (4, 0, true, dense);
        case.setup.journal = setup.journal;
        live(&case, self.write_id + 1000)
    }

    /// Opening failed because a disk failed: nothing is left behind, and the disks' content is as
    /// valid as before.
    fn refused(&mut self) -> Result<(), Stop> {
        self.world.run(STEP_LIMIT);
        if self.world.executor.live() > 0 || self.world.host.lent() > 0 {
            return Err(Stop::Here("a refused family stays in memory".into()));
        }
        let images: Vec<Image> = self.world.disks().iter().map(|disk| disk.visible()).collect();
        self.look_at(&Left::of(&self.world, images, CrashKind::Process), Moment::ProcessDeath)
    }

    /// No step is left: everything must have ended well.
    fn end(&mut self, stack: Option<Rc<Stack>>) -> Result<(), String> {
        let stack = stack.ok_or("opening hangs")?;
        if let Some(stuck) = self.in_flight.first() {
            return Err(format!("{:?} never ends", stuck.op));
        }
        for (number, snap) in self.model.snaps.iter().enumerate() {
            let health = stack.snaps[number].health();
            if !health.is_kept() && !snap.may_be_invalid() {
                return Err(format!("snap{} is {health:?} and nothing has gone wrong", number + 1));
            }
        }
        stack::close(&self.world, stack)
    }
}

/// Whether a fault on the origin can be a request's own.
fn covers(fault: &Fault, op: Op) -> bool {
    use dm_targets::sim::disk::Class;
    match op.kind {
        Kind::Read => matches!(fault.matcher.class, Class::Read | Class::Any),
        Kind::Write(_) => {
            matches!(fault.matcher.class, Class::Write | Class::WriteFua | Class::Any)
        }
        Kind::Flush => matches!(fault.matcher.class, Class::Flush | Class::Any),
        Kind::Discard => matches!(fault.matcher.class, Class::Discard | Class::Any),
        Kind::Leave => false,
    }
}
