//! What is judged while a merge runs: what each crash would leave, and the end.

use dm_targets::sim::crash::CrashKind;
use dm_targets::sim::image::Image;
use dm_targets::snapshot::Event;
use dm_targets::snapshot::exceptions::Health;
use dm_targets::snapshot::merge::Phase;

use super::super::case::{Act, Case};
use super::super::family::Family;
use super::super::oracle::{ended, judge};
use super::{RESTARTS, Rc, Run, Stop, here, live};
use crate::explore::Violation;
use crate::left::Left;
use crate::model::Moment;
use crate::workload;

impl Run<'_> {
    pub(super) fn crash_now(&mut self) -> Result<(), Stop> {
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
        let journaled = left.journals.iter().map(|journaled| journaled.records.len() as u64);
        let hash = left.images.iter().map(Image::hash).chain(lost).chain(journaled);
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
        case.plan.setup.journal = setup.journal;
        live(&case, self.write_id + 1000)
    }

    /// No step is left: returns whether the case has ended.
    pub(super) fn end(&mut self, family: &Rc<Family>) -> Result<bool, String> {
        if let Some(stuck) = self.in_flight.first() {
            return Err(format!("{:?} never ends", stuck.op));
        }
        match family.merge.phase() {
            Phase::Merging if self.case.acts.contains(&Act::Pause) => {
                family.merge.unpause();
                return Ok(false);
            }
            Phase::Failed if self.any_failed() && self.last_restarts < RESTARTS => {
                if family.merge.status().to_string() != "Merge failed" {
                    return Err(format!("failed, and the status is {}", family.merge.status()));
                }
                self.restarts += 1;
                self.last_restarts += 1;
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
