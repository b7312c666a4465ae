//! A merge with requests, with a crash at every moment; some of the surviving images are used
//! further.

use std::cell::RefCell;
use std::collections::HashSet;
use std::rc::Rc;

use dm_targets::disk::{Memory, PayloadId};
use dm_targets::request::{Request, RequestKind};
use dm_targets::sim::Rng;
use dm_targets::sim::crash::{CrashKind, Fate};
use dm_targets::sim::disk::{Class, Fault, Matcher};
use dm_targets::sim::image::{Image, SectorData};
use dm_targets::sim::trace::Trace;
use dm_targets::sim::world::{Step, World};
use dm_targets::snapshot::exceptions::Health;
use dm_targets::snapshot::merge::Phase;
use dm_targets::units::{Sector, Sectors};

use super::case::{Act, Case};
use super::family::{Family, Slot, spawn_open};
use super::oracle::{closed, joined_device, merge_model};
use crate::explore::Violation;
use crate::model::{Model, Moment, Ticket};
use crate::pattern;
use crate::stack;
use crate::workload::{Kind, Op};

mod judging;

/// Steps after which a case that has not ended counts as hanging.
const STEP_LIMIT: usize = 100_000;
/// Times that a merge which has failed at the end of a case is told to go on.
const RESTARTS: usize = 3;

struct InFlight {
    op: Op,
    ticket: Ticket,
    payload: PayloadId,
    result: Slot<Result<(), String>>,
}

struct Run<'a> {
    case: &'a Case,
    world: World,
    model: Model,
    next: usize,
    in_flight: Vec<InFlight>,
    /// The other snapshots that have joined.
    joined: Rc<RefCell<usize>>,
    /// The origin's content when a snapshot joins.
    found: Rc<RefCell<Vec<(usize, Image, Image)>>>,
    faults: Rc<RefCell<Vec<String>>>,
    seen: HashSet<u64>,
    judged: (u64, u64),
    opened: bool,
    /// The family ends, and is opened again on the same disks, whose caches are as they were.
    reopening: Option<Slot<Result<(), String>>>,
    /// Times that the merge of this family was told to go on, and how often at the end of a case.
    restarts: usize,
    last_restarts: usize,
    states: u64,
    rng: Rng,
    write_id: u32,
}

/// Runs a case; returns the number of different states that were judged.
pub fn explore(case: &Case) -> Result<u64, Violation> {
    live(case, pattern::FIRST_WRITE)
}

fn live(case: &Case, write_id: u32) -> Result<u64, Violation> {
    let trace = Trace::recording();
    let model = merge_model(&case.plan, &case.left)
        .map_err(|fault| Violation { fault, trace: Vec::new() })?;
    let setup = &case.plan.setup;
    let world = stack::world(setup, &case.left, case.seed, case.schedule, false, trace.clone());
    case.faults.iter().for_each(|(disk, fault)| world.disks()[*disk].inject(*fault));
    case.holds.iter().for_each(|(disk, matcher)| world.disks()[*disk].hold(*matcher));
    let joined = setup.snaps.len() - 1 - case.plan.late;
    let mut run = Run {
        case,
        world,
        model,
        next: 0,
        in_flight: Vec::new(),
        joined: Rc::new(RefCell::new(joined)),
        found: Rc::default(),
        faults: Rc::default(),
        seen: HashSet::new(),
        judged: (u64::MAX, 0),
        opened: false,
        reopening: None,
        restarts: 0,
        last_restarts: 0,
        states: 0,
        rng: Rng::new(case.seed ^ 0xC4A5),
        write_id,
    };
    match run.go() {
        Ok(()) => Ok(run.states),
        Err((fault, later)) => {
            let mut lines = trace.lines();
            if let Some(later) = later {
                lines.push("======== crash; what survived lives on".into());
                lines.extend(later);
            }
            Err(Violation { fault, trace: lines })
        }
    }
}

/// The violation, and the events of the later life in which it occurred, if any.
type Stop = (String, Option<Vec<String>>);

fn here(fault: String) -> Stop {
    (fault, None)
}

impl Run<'_> {
    fn go(&mut self) -> Result<(), Stop> {
        let mut opening = spawn_open(&self.world, &self.case.plan);
        let mut family: Option<Rc<Family>> = None;
        let mut released = false;
        for _ in 0..STEP_LIMIT {
            let more = family.as_ref().is_some_and(|family| self.may_act(family));
            match (self.world.step(more), &family) {
                (Step::Driver, Some(running)) => {
                    self.act(running);
                    if self.reopening.is_some() {
                        family = None;
                    }
                }
                (Step::Nothing, _) if !released && !self.case.holds.is_empty() => {
                    released = true;
                    self.world.disks().iter().for_each(|disk| disk.release());
                }
                (Step::Nothing, None) => return Err(here("opening hangs".into())),
                (Step::Nothing, Some(running)) if self.end(running).map_err(here)? => {
                    let family = family.take().ok_or_else(|| here("opening hangs".into()))?;
                    return closed(&self.world, family).map_err(here);
                }
                _ => {}
            }
            let ended = self.reopening.as_ref().and_then(|slot| slot.borrow_mut().take());
            if let Some(ended) = ended {
                ended.map_err(here)?;
                (self.reopening, self.restarts) = (None, 0);
                opening = spawn_open(&self.world, &self.case.plan);
            }
            let opened = opening.borrow_mut().take();
            match opened {
                None => {}
                Some(Ok(opened)) => {
                    self.world.trace.note(|| "-------- open".into());
                    self.opened = true;
                    self.model.opened();
                    if self.case.plan.setup.scarce {
                        self.world.host.set_limit(self.world.host.lent());
                    }
                    family = Some(opened);
                }
                Some(Err(_)) if self.any_failed() => return Ok(()),
                Some(Err(error)) => return Err(here(error)),
            }
            self.collect(family.as_ref()).map_err(here)?;
            self.crash_now()?;
        }
        Err(here(format!("no end after {STEP_LIMIT} steps")))
    }

    fn any_failed(&self) -> bool {
        self.world.disks().iter().any(|disk| disk.failed() > 0)
    }

    fn may_act(&self, family: &Family) -> bool {
        match self.case.acts.get(self.next) {
            None => false,
            Some(Act::Op(op)) if op.device > *self.joined.borrow() => !family.is_joining(),
            Some(Act::Op(_)) => self.in_flight.len() < self.case.depth,
            Some(Act::Leave(device)) => {
                !self.in_flight.iter().any(|flight| flight.op.device == *device)
            }
            // Data that is written twice and not flushed may be restored in more than two ways:
            // such writes end first, unless they are on the COW.
            Some(Act::Join(_)) => {
                let quiet = self.in_flight.is_empty() || !self.case.holds.is_empty();
                quiet && !family.is_joining()
            }
            Some(Act::Reopen) => self.in_flight.is_empty() && !family.is_joining(),
            Some(Act::Restart) => family.merge.phase() == Phase::Failed,
            Some(Act::Pause | Act::Unpause) => true,
        }
    }

    fn act(&mut self, family: &Rc<Family>) {
        let act = self.case.acts[self.next];
        self.next += 1;
        self.world
            .trace
            .note(|| format!("-------- {act:?} (write {} if it is one)", self.write_id));
        match act {
            Act::Op(op) if op.device <= *self.joined.borrow() => self.submit(family, op),
            // It could not join.
            Act::Op(_) => {}
            Act::Join(device) => self.join(family, device),
            Act::Leave(device) => {
                let snap = &mut self.model.snaps[device - 1];
                // Both its departure and the origin's change are certain.
                (snap.left, snap.outlived) = (true, true);
                self.world.executor.spawn(family.clone().leave(device));
            }
            Act::Pause => family.merge.pause(),
            Act::Unpause => family.merge.unpause(),
            Act::Restart => {
                self.restarts += 1;
                family.merge.restart();
            }
            Act::Reopen => {
                let slot: Slot<Result<(), String>> = Rc::default();
                self.reopening = Some(slot.clone());
                let close = family.clone().close();
                self.world.executor.spawn(async move { *slot.borrow_mut() = Some(close.await) });
            }
        }
    }

    fn join(&mut self, family: &Rc<Family>, device: usize) {
        let (disk, joined) = (self.world.disks()[0].clone(), self.joined.clone());
        let (family, faults, found) = (family.clone(), self.faults.clone(), self.found.clone());
        let may_fail = !self.case.faults.is_empty();
        let join = family.join(device, move || {
            let space = disk.crash_space(CrashKind::Power);
            let durable = space.image(&vec![Fate::Lost; space.writes()]);
            found.borrow_mut().push((device, disk.visible(), durable));
            *joined.borrow_mut() = device;
        });
        self.world.executor.spawn(async move {
            let result = join.await;
            faults.borrow_mut().extend(result.err().filter(|_| !may_fail));
        });
    }

    fn submit(&mut self, family: &Rc<Family>, op: Op) {
        let (id, len) = (self.write_id, usize::try_from(op.count * 512).unwrap());
        let (kind, ticket, bytes) = match op.kind {
            Kind::Read => (RequestKind::Read, self.model.submit(false), vec![0x99; len]),
            Kind::Write(fua) => {
                self.write_id += 1;
                let ticket = self.model.submit_write(op.device, id, op.first, op.count, fua);
                (RequestKind::Write { fua }, ticket, pattern::payload(id, op.first, op.count))
            }
            _ => (RequestKind::Flush, self.model.submit(true), Vec::new()),
        };
        let payload = self.world.host.add_payload(bytes);
        let request = Request {
            kind,
            sector: Sector(op.first),
            count: Sectors(op.count),
            memory: Memory::payload(payload),
        };
        let result: Slot<Result<(), String>> = Rc::default();
        let (slot, family) = (result.clone(), family.clone());
        self.world.executor.spawn(async move {
            let outcome = family.handle(op.device, request).await;
            *slot.borrow_mut() = Some(outcome);
        });
        self.in_flight.push(InFlight { op, ticket, payload, result });
    }

    fn collect(&mut self, family: Option<&Rc<Family>>) -> Result<(), String> {
        self.note_failures(family);
        if let Some(fault) = self.faults.borrow_mut().pop() {
            return Err(fault);
        }
        for (device, visible, durable) in self.found.borrow_mut().drain(..) {
            self.world.trace.note(|| format!("-------- snap{device} has joined"));
            self.model.snaps[device - 1].device = joined_device(&visible, &durable);
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
                Ok(()) => self.model.succeeded(op.device, ticket),
                Err(_) if self.may_fail(op) => continue,
                Err(error) => return Err(format!("{op:?} failed: {error}")),
            }
            if let Ticket::Read(started) = ticket {
                let shown: Vec<SectorData> = bytes.chunks(512).map(SectorData::new).collect();
                let device = self.model.device(op.device);
                device
                    .judge(op.first, &shown, Moment::Read { started })
                    .map_err(|fault| format!("{op:?}: {fault}"))?;
            }
        }
        Ok(())
    }

    fn note_failures(&mut self, family: Option<&Rc<Family>>) {
        let failed: Vec<bool> = self.world.disks().iter().map(|disk| disk.failed() > 0).collect();
        // An origin that cannot be written fails no snapshot: only reads of it copy chunks.
        let of_reads = |(disk, fault): &(usize, Fault)| {
            *disk == 0 && matches!(fault.matcher.class, Class::Read | Class::Any)
        };
        let unread = failed[0] && self.case.faults.iter().any(of_reads);
        for (number, snap) in self.model.snaps.iter_mut().enumerate() {
            snap.failed |= unread || failed[number + 2];
            let health = family.and_then(|family| Some(family.snap(number + 1)?.health()));
            snap.dead |= health == Some(Health::Invalid);
        }
    }

    /// A request fails only for an error of its own kind, not for one in the COW's metadata: the
    /// failure of a merge does not affect users' requests.
    fn may_fail(&self, op: Op) -> bool {
        if op.device > 0 {
            return self.model.snaps[op.device - 1].may_fail();
        }
        let data = 2 * self.case.plan.setup.snaps[0].chunk;
        self.case.faults.iter().any(|(disk, fault)| {
            let Matcher { class, end, .. } = fault.matcher;
            let concerns = match op.kind {
                Kind::Read => class == Class::Read,
                Kind::Write(_) => matches!(class, Class::Write | Class::WriteFua),
                _ => class == Class::Flush,
            };
            concerns && (*disk == 0 || *disk == 1 && end > data)
        })
    }
}
