//! The actions of users and the administrator while a mirror is explored, and the judgement of
//! their results.
//!
//! Requests that overlap one that is in flight wait for it: where users race their own writes, legs
//! may end up different, as in the kernel.
//!
//! Rules asked of the mirror here: without injected errors nothing fails; a read shows what it may;
//! where the legs compare as in sync they are the same; and with `handle_errors` alone an
//! acknowledged write is on every leg.

use dm_targets::disk::{Memory, PayloadId};
use dm_targets::mirror::target::{LegParts, Mirror};
use dm_targets::request::{Request, RequestKind, TargetError};
use dm_targets::sim::image::SectorData;
use dm_targets::target::Target;
use dm_targets::units::{Sector, Sectors};

use super::super::fixture::{Slot, disks};
use super::super::record::RecordFault;
use super::tables::SPARE_IDENTITY;
use super::{Admin, Run, When};
use crate::model::{Moment, Ticket};
use crate::pattern;
use crate::told::carry_out;
use crate::workload::{Kind, Op};

/// A request that has not ended.
pub(super) struct InFlight {
    pub(super) op: Op,
    /// The write's id, if it is a write.
    id: u32,
    ticket: Ticket,
    payload: PayloadId,
    result: Slot<Result<(), TargetError>>,
}

impl Run<'_> {
    /// Whether the next request may start now.
    pub(super) fn next_fits(&self) -> bool {
        let Some(next) = self.case.ops.get(self.next_op) else { return false };
        let overlaps = |it: &InFlight| {
            let moves = |op: &Op| matches!(op.kind, Kind::Write(_) | Kind::Discard);
            (moves(&it.op) && moves(next))
                && it.op.first < next.first + next.count
                && next.first < it.op.first + it.op.count
        };
        self.in_flight.len() < self.case.depth && !self.in_flight.iter().any(overlaps)
    }

    /// Starts the next request.
    pub(super) fn submit(&mut self) {
        let op = self.case.ops[self.next_op];
        self.next_op += 1;
        let len = usize::try_from(op.count * 512).unwrap();
        let (kind, ticket, bytes) = match op.kind {
            Kind::Read => (RequestKind::Read, self.model.submit(false), vec![0x99; len]),
            Kind::Flush => (RequestKind::Flush, self.model.submit(true), Vec::new()),
            Kind::Discard => {
                let ticket =
                    self.model.submit_write(0, pattern::DISCARD, op.first, op.count, false);
                (RequestKind::Discard, ticket, Vec::new())
            }
            Kind::Leave => unreachable!("a mirror has no snapshots"),
            Kind::Write(fua) => {
                let id = self.write_id;
                self.write_id += 1;
                let ticket = self.model.submit_write(0, id, op.first, op.count, fua);
                (RequestKind::Write { fua }, ticket, pattern::payload(id, op.first, op.count))
            }
        };
        let id = self.write_id - 1;
        self.world.trace.note(|| format!("-------- {op:?} starts (write {id} if it is one)"));
        let payload = self.world.host.add_payload(bytes);
        let request = Request {
            kind,
            sector: Sector(op.first),
            count: Sectors(op.count),
            memory: Memory::payload(payload),
        };
        let (result, mirror) = (Slot::default(), self.mirror.clone().unwrap());
        let slot: Slot<Result<(), TargetError>> = result.clone();
        let host = self.world.host.clone();
        self.world.executor.spawn(async move {
            let outcome = carry_out(&host, &Target::Mirror(mirror), &request).await;
            *slot.borrow_mut() = Some(outcome);
        });
        self.in_flight.push(InFlight { op, id, ticket, payload, result });
    }

    /// Writes and discards that have not ended, for the next server.
    pub(super) fn to_send_again(&self) -> Vec<(RequestKind, u32, u64, u64)> {
        let again = |it: &InFlight| {
            let kind = match it.op.kind {
                Kind::Write(fua) => RequestKind::Write { fua },
                Kind::Discard => RequestKind::Discard,
                Kind::Read | Kind::Flush | Kind::Leave => return None,
            };
            Some((kind, it.id, it.op.first, it.op.count))
        };
        self.in_flight.iter().filter_map(again).collect()
    }

    /// Starts the administrator's action, once there is a mirror and it is time, or `now`.
    pub(super) fn start_admin(&mut self, now: bool) {
        let due = |mirror: &Mirror| match self.case.admin_when {
            When::Requests(count) => self.next_op >= count,
            When::InSync => mirror.status().in_sync_regions == mirror.regions(),
        };
        let due = |mirror: &Mirror| !self.admin_started && (now || due(mirror));
        let Some(mirror) = self.mirror.clone().filter(|mirror| due(mirror)) else { return };
        self.admin_started = true;
        self.world.trace.note(|| format!("-------- {:?} starts", self.case.admin));
        let (admin, slot) = (self.case.admin, self.admin.clone());
        // The last one: the other actions ignore it.
        let disk = disks(&self.world).pop().unwrap();
        let spare = LegParts { disk, offset: Sector(0), identity: SPARE_IDENTITY, number: 0 };
        self.world.executor.spawn(async move {
            let result = match admin {
                Admin::Nothing => Ok(()),
                Admin::Compare => {
                    let mut found = Vec::new();
                    let result = mirror.compare_until(|| false, |range| found.push(range)).await;
                    let wrong =
                        found.iter().find(|range| range.in_sync && !range.differing.is_empty());
                    let result = result.map_err(|error| error.to_string());
                    result.and_then(|()| {
                        wrong.map_or(Ok(()), |range| {
                            Err(format!("in sync and different: {range:?}"))
                        })
                    })
                }
                Admin::Repair(leg) => mirror
                    .repair_until(leg, || false)
                    .await
                    .map(|_| ())
                    .map_err(|error| error.to_string()),
                Admin::Replace(leg) => {
                    mirror.replace_leg(leg, spare).await.map_err(|error| error.to_string())
                }
                Admin::Add => mirror.add_leg(spare).await.map_err(|error| error.to_string()),
                Admin::Remove(leg) => {
                    mirror.remove_leg(leg).await.map_err(|error| error.to_string())
                }
                Admin::Resume => {
                    mirror.resume().await;
                    Ok(())
                }
                Admin::Grow(len) => {
                    mirror.grow(Sectors(len)).await.map_err(|error| error.to_string())
                }
                Admin::Suspend => {
                    mirror.suspend(true).await;
                    mirror.resume().await;
                    Ok(())
                }
            };
            *slot.borrow_mut() = Some(result);
        });
    }

    /// Takes the results of requests that have ended.
    pub(super) fn collect(&mut self) -> Result<(), String> {
        match &*self.admin.borrow() {
            Some(Err(error)) if self.faultless() => {
                return Err(format!("{:?}: {error}", self.case.admin));
            }
            Some(Ok(())) => {
                self.in_sync_since |= self
                    .mirror
                    .as_ref()
                    .is_some_and(|it| it.status().in_sync_regions == it.regions());
            }
            _ => {}
        }
        let mut index = 0;
        while index < self.in_flight.len() {
            let Some(outcome) = self.in_flight[index].result.borrow_mut().take() else {
                index += 1;
                continue;
            };
            let InFlight { op, id, ticket, payload, .. } = self.in_flight.remove(index);
            let bytes = self.world.host.take_payload(payload);
            self.world.trace.note(|| format!("-------- {op:?} ends: {outcome:?}"));
            match outcome {
                Ok(()) => self.model.succeeded(0, ticket),
                Err(_) if !self.faultless() => continue,
                Err(error) => return Err(format!("{op:?} failed: {error}")),
            }
            self.check_hold(op, id)?;
            if let Ticket::Read(started) = ticket {
                let shown: Vec<SectorData> = bytes.chunks(512).map(SectorData::new).collect();
                let judged = self.model.origin.judge(op.first, &shown, Moment::Read { started });
                judged.map_err(|fault| format!("{op:?}: {fault}"))?;
            }
        }
        Ok(())
    }

    /// Nothing may fail.
    fn faultless(&self) -> bool {
        self.case.faults.is_empty() && self.case.record_fault == RecordFault::default()
    }

    /// With `handle_errors` alone, what was acknowledged is on all legs, if all were known to be in
    /// sync at first.
    fn check_hold(&self, op: Op, id: u32) -> Result<(), String> {
        let setup = &self.case.setup;
        let holds = setup.handle_errors
            && !setup.keep_log
            && self.suspends == 0
            && self.case.admin == Admin::Nothing;
        let log_works = self.case.faults.iter().all(|(disk, _)| *disk < setup.legs);
        if !holds || !self.began_in_sync || !log_works || !matches!(op.kind, Kind::Write(_)) {
            return Ok(());
        }
        for leg in 0..setup.legs {
            let image = self.world.disks()[leg].visible();
            for at in op.first..op.first + op.count {
                if image.sectors[usize::try_from(at).unwrap()] != pattern::sector(id, at) {
                    return Err(format!(
                        "{op:?} was acknowledged, but sector {at} of leg {leg} missed it"
                    ));
                }
            }
        }
        Ok(())
    }
}
