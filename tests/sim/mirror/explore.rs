//! Runs a workload on a mirror with a crash at every moment, judges the surviving images, and uses
//! some of them further.
//!
//! What is done to the mirror meanwhile is in [`traffic`], and with which legs it may be opened
//! afterwards in [`tables`]. If no step is left and requests have not ended, they are held: the
//! mirror is suspended and resumed, and continues.

mod case;
mod tables;
mod traffic;

use std::collections::HashSet;
use std::rc::Rc;

use dm_targets::copy;
use dm_targets::disk::Host;
use dm_targets::mirror::leg_state::Past;
use dm_targets::mirror::table::InitialSync;
use dm_targets::mirror::target::{Mirror, MirrorConfig};
use dm_targets::sim::Rng;
use dm_targets::sim::crash::CrashKind;
use dm_targets::sim::image::Image;
use dm_targets::sim::trace::Trace;
use dm_targets::sim::world::{Step, World};

pub use case::{Admin, Case, When};

use super::fixture::{Setup, Slot, disks, parts, world};
use super::oracle::{Left, judge, judge_take_over, judge_turned};
use super::record::Record;
use crate::explore::Violation;
use crate::model::{Device, Model, Moment};
use crate::pattern;
use crate::workload;
use traffic::InFlight;

/// One of this many crashes of a mirror with a log on a disk is also judged with its legs in
/// another order: judging each of them takes a third of the simulator's time.
const TURNED: u64 = 8;
/// Steps after which a workload that has not ended counts as hanging.
const STEP_LIMIT: usize = 100_000;

struct Run<'a> {
    case: &'a Case,
    world: World,
    copy: copy::Client,
    record: Rc<Record>,
    mirror: Option<Rc<Mirror>>,
    opening: Slot<Result<Rc<Mirror>, String>>,
    model: Model,
    next_op: usize,
    in_flight: Vec<InFlight>,
    admin: Slot<Result<(), String>>,
    admin_started: bool,
    /// Everything has been in sync since the administrator's last action.
    in_sync_since: bool,
    seen: HashSet<u64>,
    judged: (u64, u64),
    states: u64,
    /// Crashes that could be judged with the legs in another order, from a number that differs from
    /// case to case, so that short cases have their turn, too.
    turnable: u64,
    rng: Rng,
    write_id: u32,
    suspends: u64,
    /// Everything was in sync when the mirror was opened.
    began_in_sync: bool,
}

/// Runs a case; returns the number of different states that it has judged.
pub fn explore(case: &Case) -> Result<u64, Violation> {
    live(case, pattern::FIRST_WRITE)
}

enum Stop {
    Here(String),
    Later(Violation),
}

impl From<String> for Stop {
    fn from(fault: String) -> Stop {
        Stop::Here(fault)
    }
}

fn live(case: &Case, write_id: u32) -> Result<u64, Violation> {
    let trace = Trace::recording();
    let before = match &case.setup.past {
        Past::TakenOver(record) => {
            let left = Left { record: record.clone(), ..Left::default() };
            judge_take_over(&case.setup, &case.images, &left, None)
        }
        _ => judge(&case.setup, &case.images, None, &case.told, case.lenient()),
    };
    let shown = before.map_err(|fault| Violation {
        fault: format!("before anything: {fault}"),
        trace: Vec::new(),
    })?;
    let world = world(&case.setup, &case.images, case.seed, case.schedule, trace.clone());
    for (disk, fault) in &case.faults {
        world.disks()[*disk].inject(*fault);
    }
    for (disk, matcher) in &case.holds {
        world.disks()[*disk].hold(*matcher);
    }
    let host: Rc<dyn Host> = world.host.clone();
    let copy = copy::Client::new(&world.executor, &host, None).unwrap();
    let mut run = Run {
        case,
        copy,
        record: Record::holding(None, case.record_fault),
        mirror: None,
        opening: Rc::default(),
        model: Model::new(
            Device::new(shown.shown, None),
            Vec::new(),
            case.setup.disk.volatile_cache,
        ),
        next_op: 0,
        in_flight: Vec::new(),
        admin: Rc::default(),
        admin_started: false,
        in_sync_since: false,
        seen: HashSet::new(),
        judged: (u64::MAX, 0),
        states: 0,
        turnable: case.seed,
        rng: Rng::new(case.seed ^ 0xC4A5),
        write_id,
        suspends: 0,
        began_in_sync: false,
        world,
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

impl Case {
    /// A log that fails is ignored without `handle_errors`, so its bits are then meaningless.
    fn lenient(&self) -> bool {
        !self.setup.handle_errors && self.faults.iter().any(|(disk, _)| *disk == self.setup.legs)
    }
}

impl Run<'_> {
    fn go(&mut self) -> Result<(), Stop> {
        self.spawn_open();
        for _ in 0..STEP_LIMIT {
            let more = self.mirror.is_some() && self.next_fits();
            let step = self.world.step(more);
            if step == Step::Driver {
                self.submit();
            } else if step == Step::Nothing && self.at_rest()? {
                return Ok(());
            }
            let opened = self.opening.borrow_mut().take();
            if let Some(opened) = opened {
                let mirror = opened?;
                self.world.trace.note(|| "-------- open".into());
                if self.case.eager {
                    mirror.set_clean_delay_ms(0);
                }
                self.began_in_sync = mirror.status().in_sync_regions == mirror.regions();
                self.mirror = Some(mirror);
            }
            self.start_admin(false);
            self.collect()?;
            self.crash_now()?;
        }
        Err(Stop::Here(format!("no end after {STEP_LIMIT} steps")))
    }

    fn spawn_open(&self) {
        let (executor, host): (_, Rc<dyn Host>) =
            (self.world.executor.clone(), self.world.host.clone());
        let (copy, setup, slot, disks) =
            (self.copy.clone(), self.case.setup.clone(), self.opening.clone(), disks(&self.world));
        let (trace, recorder) = (self.world.trace.clone(), self.record.recorder());
        self.world.executor.spawn(async move {
            let listener = Rc::new(move |event: dm_targets::mirror::Event| {
                trace.note(|| format!("event: {event}"))
            });
            let opened = Mirror::open(MirrorConfig {
                listener,
                recorder,
                ..parts(&setup, &host, &copy, disks)
            })
            .await;
            let mut opened = opened.map_err(|error| error.to_string());
            if let Ok(mirror) = &opened {
                if let Err(error) = mirror.activate(&executor).await {
                    opened = Err(error.to_string());
                }
            }
            *slot.borrow_mut() = Some(opened);
        });
    }

    /// No step is left without an action. Returns whether everything has ended.
    fn at_rest(&mut self) -> Result<bool, String> {
        let mirror = self.mirror.clone().ok_or("opening hangs")?;
        if self.world.disks().iter().any(|disk| disk.in_flight() > 0) {
            self.world.disks().iter().for_each(|disk| disk.release());
            return Ok(false);
        }
        if !self.admin_started {
            self.start_admin(true);
            return Ok(false);
        }
        let waiting = self.in_flight.len() + usize::from(self.next_op < self.case.ops.len());
        let admin_runs = self.admin.borrow().is_none();
        if waiting == 0 && !admin_runs {
            self.end(&mirror)?;
            return Ok(true);
        }
        if mirror.held() == 0 || self.suspends > 8 {
            let stuck = self.in_flight.first().map(|it| it.op);
            return Err(format!(
                "{stuck:?} never ends, {} are held, admin runs: {admin_runs}",
                mirror.held()
            ));
        }
        self.suspends += 1;
        let noflush = self.rng.one_in(2);
        self.world.trace.note(|| format!("-------- suspend, noflush {noflush}, and resume"));
        self.world.executor.spawn(async move {
            mirror.suspend(noflush).await;
            mirror.resume().await;
        });
        Ok(false)
    }

    fn crash_now(&mut self) -> Result<(), Stop> {
        let now = (self.world.changes() + self.record.changes(), self.model.now());
        if now == self.judged {
            return Ok(());
        }
        self.judged = now;
        let cap = self.case.cap;
        for (kind, moment, cap) in [
            (CrashKind::Power, Moment::PowerCut, cap),
            (CrashKind::Process, Moment::ProcessDeath, cap.div_ceil(4)),
        ] {
            for images in self.world.crash(kind, cap) {
                self.look_at(&images, moment)?;
            }
        }
        Ok(())
    }

    fn look_at(&mut self, images: &[Image], moment: Moment) -> Result<(), Stop> {
        let of_model = self.model.now() * 2 + u64::from(moment == Moment::PowerCut);
        let left = self.left(moment);
        let of_model =
            left.as_ref().map_or(of_model, |left| crate::mirror::fingerprint(of_model, left));
        let hash = images.iter().fold(of_model, |hash, image| {
            (hash.rotate_left(9) ^ image.hash()).wrapping_mul(0x9E37_79B9_7F4A_7C15)
        });
        if !self.seen.insert(hash) {
            return Ok(());
        }
        self.states += 1;
        for table in self.tables(images) {
            let (mut setup, images) = table.open(self.case, images);
            let model = Some((&self.model, moment));
            self.judge_grown(&setup, &images, left.as_ref())?;
            if let Some(left) = &left {
                judge_take_over(&setup, &images, left, model).map_err(|fault| {
                    format!("{fault} (opened with disks {:?}, {left:?})", table.legs)
                })?;
                let again = self.case.lives_on > 0 && left.in_flight.is_empty() && !left.may_differ;
                if again && self.rng.one_in(self.case.lives_on) {
                    (setup.past, setup.source) = (Past::TakenOver(left.record.clone()), None);
                    self.states +=
                        self.second_life(&setup, &images, table.told).map_err(Stop::Later)?;
                }
                continue;
            }
            if !setup.log {
                // The user who adds the mirror again knows which leg is up to date.
                setup.source = self.right_leg(&table.legs);
                setup.past = Past::None;
                if setup.source.is_none() {
                    continue;
                }
            }
            judge(&setup, &images, model, &table.told, self.case.lenient())
                .map_err(|fault| format!("{fault} (opened with disks {:?})", table.legs))?;
            let in_order = table.told.iter().copied().eq(0..setup.legs);
            if setup.log && in_order && self.mirror.is_some() && !self.case.lenient() {
                self.turnable = self.turnable.wrapping_add(1);
                if self.turnable % TURNED == 0 {
                    judge_turned(&setup, &images, (&self.model, moment))?;
                }
            }
            if self.case.lives_on == 0
                || self.case.lenient()
                || !self.rng.one_in(self.case.lives_on)
            {
                continue;
            }
            self.states += self.second_life(&setup, &images, table.told).map_err(Stop::Later)?;
        }
        Ok(())
    }

    /// The same disks, opened with the length to which the mirror grows: nothing of its new part
    /// may count as in sync that was never made so. With a log on a disk that holds at any moment:
    /// the user may add the mirror again with what the legs have. With a log in memory the next
    /// server has the new length only once the mirror has grown.
    fn judge_grown(
        &self,
        setup: &Setup,
        images: &[Image],
        left: Option<&Left>,
    ) -> Result<(), String> {
        let Admin::Grow(sectors) = self.case.admin else { return Ok(()) };
        let setup = Setup { sectors, ..setup.clone() };
        let has_grown = matches!(*self.admin.borrow(), Some(Ok(())));
        // As in the kernel, a log does not say that its last region is shorter than the others.
        let is_whole = self.case.setup.sectors % self.case.setup.region == 0;
        let judged = match left {
            Some(left) if has_grown => judge_take_over(&setup, images, left, None),
            None if setup.log && (has_grown || is_whole) => {
                judge(&setup, images, None, &setup.places(), self.case.lenient())
            }
            _ => return Ok(()),
        };
        judged.map(|_| ()).map_err(|fault| format!("at the new length: {fault}"))
    }

    /// What the server leaves if it dies now and its mirror has no log on a disk.
    fn left(&self, moment: Moment) -> Option<Left> {
        let record = self.record.left();
        if self.case.setup.log || moment != Moment::ProcessDeath || record.is_none() {
            return None;
        }
        Some(Left { record, in_flight: self.to_send_again(), may_differ: self.record.failed() > 0 })
    }

    /// A surviving state is opened, used and crashed again.
    fn second_life(
        &mut self,
        setup: &Setup,
        images: &[Image],
        told: Vec<usize>,
    ) -> Result<u64, Violation> {
        // An assumption about unrelated legs is not repeated.
        let initial = if setup.log { setup.initial } else { InitialSync::FromLog };
        let setup = &Setup { initial, ..setup.clone() };
        let (seed, block) = (self.rng.next_u64(), u64::from(setup.disk.logical_block_bytes) / 512);
        let len = 1 + self.rng.below(2);
        let ops = workload::random_ops(&mut self.rng, len, 1, setup.sectors, block);
        let mut case = Case::new(setup, images, &ops, seed);
        (case.cap, case.lives_on, case.told) = (3, 0, told);
        live(&case, self.write_id + 1000)
    }

    /// Everything has ended: closing leaves nothing behind, and the disks' content is as valid as
    /// before.
    fn end(&mut self, mirror: &Rc<Mirror>) -> Result<(), String> {
        let failed = self.world.disks().iter().any(|disk| disk.failed() > 0);
        let status = mirror.status();
        if !failed && status.in_sync_regions != status.regions {
            return Err(format!(
                "recovery has ended at {}/{}",
                status.in_sync_regions, status.regions
            ));
        }
        let (mirror, copy) = (mirror.clone(), self.copy.clone());
        self.mirror = None;
        self.world.executor.spawn(async move {
            mirror.close().await;
            drop(mirror);
            copy.destroy().await;
        });
        self.world.run(STEP_LIMIT);
        if self.world.executor.live() > 0 {
            return Err(format!("after the end {} tasks are left", self.world.executor.live()));
        }
        let images: Vec<Image> = self.world.disks().iter().map(|disk| disk.visible()).collect();
        self.look_at(&images, Moment::ProcessDeath).map_err(|stop| match stop {
            Stop::Here(fault) => fault,
            Stop::Later(violation) => violation.fault,
        })
    }
}
