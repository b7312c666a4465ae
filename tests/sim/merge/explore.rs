//! A merge with requests, with a crash at every moment; some of the surviving images are used
//! further.

use std::cell::RefCell;
use std::collections::HashSet;
use std::rc::Rc;

use dm_targets::disk::{Memory, PayloadId};
use dm_targets::request::{Request, RequestKind};
use dm_targets::sim::Rng;
use dm_targets::sim::crash::{CrashKind, Fate};
use dm_targets::sim::disk::{Class, Matcher};
use dm_targets::sim::image::{Image, SectorData};
use dm_targets::sim::trace::Trace;
use dm_targets::sim::world::{Step, World};
use dm_targets::snapshot::Event;
use dm_targets::snapshot::exceptions::Health;
use dm_targets::snapshot::merge::Phase;
use dm_targets::units::{Sector, Sectors};

use super::case::{Act, Case};
use super::family::{Family, Slot, spawn_open};
use super::oracle::{closed, ended, joined_device, judge, merge_model};
use crate::explore::Violation;
use crate::model::{Model, Moment, Ticket};
use crate::pattern;
use crate::stack::{self, Left};
use crate::workload::{self, Kind, Op};

/// Steps after which a case that has not ended counts as hanging.
const STEP_LIMIT: usize = 100_000;
/// Times that a merge which has failed is told to go on.
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
    restarts: usize,
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
        restarts: 0,
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
        let opening = spawn_open(&self.world, &self.case.plan);
        let mut family: Option<Rc<Family>> = None;
        let mut released = false;
        for _ in 0..STEP_LIMIT {
            let more = family.as_ref().is_some_and(|family| self.may_act(family));
            match (self.world.step(more), &family) {
                (Step::Driver, Some(family)) => self.act(family),
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
            match opening.borrow_mut().take() {
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
        for (number, snap) in self.model.snaps.iter_mut().enumerate() {
            snap.failed |= failed[0] || failed[number + 2];
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

    fn crash_now(&mut self) -> Result<(), Stop> {
        let now = (self.world.changes(), self.model.now());
        if now == self.judged || !self.opened {
            return Ok(());
        }
        self.judged = now;
        let cap = self.case.cap;
        for (kind, moment, cap) in [
            (CrashKind::Power, Moment::PowerCut, cap),
            (CrashKind::Process, Moment::ProcessDeath, cap.div_ceil(3).max(2)),
        ] {
            for images in self.world.crash(kind, cap) {
                self.look_at(&Left::of(&self.world, images, kind), moment)?;
            }
        }
        Ok(())
    }

    fn look_at(&mut self, left: &Left, moment: Moment) -> Result<(), Stop> {
        let of_model = self.model.now() * 2 + u64::from(moment == Moment::PowerCut);
        let lost = left.lost.iter().map(|lost| u64::from(lost.is_some()));
        let noted = left.notes.iter().map(|noted| noted.records.len() as u64);
        let hash = left.images.iter().map(Image::hash).chain(lost).chain(noted);
        let hash = hash.fold(of_model, |hash, part| {
            (hash.rotate_left(9) ^ part).wrapping_mul(0x9E37_79B9_7F4A_7C15)
        });
        if !self.seen.insert(hash) {
            return Ok(());
        }
        self.states += 1;
        let joined = *self.joined.borrow();
        judge(&self.case.plan, &self.model, joined, left, moment).map_err(here)?;
        let lives_on = self.case.lives_on;
        if lives_on == 0 || self.case.plan.late > 0 || !self.rng.one_in(lives_on) {
            return Ok(());
        }
        self.states += self.second_life(left).map_err(|later| (later.fault, Some(later.trace)))?;
        Ok(())
    }

    /// A surviving state continues its merge, is used and crashed again.
    fn second_life(&mut self, left: &Left) -> Result<u64, Violation> {
        let setup = &self.case.plan.setup;
        let (seed, block) = (self.rng.next_u64(), u64::from(setup.block_bytes) / 512);
        let len = 1 + self.rng.below(2);
        let (devices, sectors) = (setup.snaps.len(), setup.origin_sectors);
        let ops = workload::random_ops(&mut self.rng, len, devices, sectors, block);
        let acts: Vec<Act> = ops.into_iter().map(Act::Op).collect();
        let mut case = Case { left: left.clone(), ..Case::new(&self.case.plan, &[], &acts, seed) };
        (case.cap, case.lives_on) = (3, 0);
        case.plan.setup.notes = setup.notes;
        live(&case, self.write_id + 1000)
    }

    /// No step is left: returns whether the case has ended.
    fn end(&mut self, family: &Rc<Family>) -> Result<bool, String> {
        if let Some(stuck) = self.in_flight.first() {
            return Err(format!("{:?} never ends", stuck.op));
        }
        match family.merge.phase() {
            Phase::Merging if self.case.acts.contains(&Act::Pause) => {
                family.merge.unpause();
                return Ok(false);
            }
            Phase::Failed if self.any_failed() && self.restarts < RESTARTS => {
                if family.merge.status().to_string() != "Merge failed" {
                    return Err(format!("failed, and the status is {}", family.merge.status()));
                }
                self.restarts += 1;
                self.world.trace.note(|| format!("-------- restart {:?}", family.merge.fault()));
                self.world.disks().iter().for_each(|disk| disk.mend());
                family.merge.restart();
                return Ok(false);
            }
            Phase::Done => {}
            phase => return Err(format!("it stays {phase:?}: {:?}", family.merge.fault())),
        }
        ended(&self.case.plan, family)?;
        let merged = family.events.borrow().iter().filter(|e| matches!(e, Event::Merged)).count();
        let failures = family.events.borrow().len() - merged;
        if (merged, failures) != (1, self.restarts) {
            return Err(format!("events: {:?}", family.events.borrow()));
        }
        // Nothing is in flight: the origin shows what the device must show.
        let (shown, started) = (self.world.disks()[0].visible(), self.model.now() + 1);
        self.model.origin.judge(0, &shown.sectors, Moment::Read { started })?;
        for (number, snap) in self.model.snaps.iter().enumerate() {
            let health = family.snap(number + 1).map_or(Health::Valid, |snap| snap.health());
            if !health.is_kept() && !snap.may_be_invalid() {
                return Err(format!("snap{} is {health:?} and nothing has gone wrong", number + 1));
            }
        }
        Ok(true)
    }
}
