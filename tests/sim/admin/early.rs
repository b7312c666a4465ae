//! Requests that the kernel sends to the next server of a device before that has started it.
//!
//! Rules held here: none is carried out before the device is started, when all that it needs is
//! there: the snapshots of an origin (I5), and what is known of those that have left (I9). One of a
//! suspended device waits on.

use std::rc::Rc;

use dm_targets::disk::Memory;
use dm_targets::request::{Request, RequestKind};
use dm_targets::units::{Sector, Sectors};

use super::carried_refused::stack;
use super::carried_stack::{Do, LOWER, Lower, Stack, Upper};
use super::kernel::Pending;
use super::model;
#[cfg(feature = "mutants")]
use crate::server::admin::mutant::{self, Mutant};

/// A write of a user to the device, which nobody has yet.
pub(super) fn write(stack: &mut Stack, sector: usize, value: u32) -> Pending {
    let site = stack.town.site.clone();
    let payload = site.payload(model::sector(value));
    let (kind, memory) = (RequestKind::Write { fua: false }, Memory::payload(payload));
    let request = Request { kind, sector: Sector(sector as u64), count: Sectors(1), memory };
    let pending = Pending { request, payload, result: Rc::default() };
    stack.disk.begin(sector, value);
    pending
}

/// A user writes to the device while it has no server.
fn early(stack: &mut Stack, sector: usize, value: u32) -> Pending {
    let (site, id) = (stack.town.site.clone(), stack.device(Lower).unwrap().id);
    let pending = write(stack, sector, value);
    site.kernel.borrow_mut().devices.get_mut(&id).unwrap().early.push(pending.clone());
    pending
}

fn has_ended(stack: &mut Stack, pending: &Pending) -> bool {
    stack.judge(Lower).ok();
    matches!(*pending.result.borrow(), Some(Ok(())))
}

/// A device is written before its snapshot has joined.
fn beside_a_snapshot(line: &'static str) -> Result<(), String> {
    let (mut stack, ..) = stack(line);
    stack.act(Do::Kill)?;
    let written = early(&mut stack, 3, 77);
    stack.act(Do::Recover)?;
    if !has_ended(&mut stack, &written) {
        return Err("it has not ended".to_owned());
    }
    stack.disk.acknowledge(3, 77);
    for part in [Lower, Upper] {
        stack.judge(part)?;
    }
    stack.end()
}

/// A device is written before it carries the origin that its snapshot has left.
fn after_a_departure(line: &'static str) -> Result<(), String> {
    let (mut stack, ..) = stack(line);
    stack.act(Do::Del(Upper, false))?;
    stack.act(Do::Kill)?;
    let written = early(&mut stack, 3, 77);
    stack.act(Do::Recover)?;
    if !has_ended(&mut stack, &written) {
        return Err("it has not ended".to_owned());
    }
    match stack.add(Upper) {
        Err(why) if why.contains("is lost") => Ok(()),
        other => Err(format!("{other:?}")),
    }
}

/// A device was suspended.
fn to_a_suspended_one(line: &'static str) -> Result<(), String> {
    let (mut stack, ..) = stack(line);
    stack.act(Do::Suspend(Lower))?;
    stack.act(Do::Kill)?;
    let written = early(&mut stack, 3, 77);
    stack.act(Do::Recover)?;
    if has_ended(&mut stack, &written) {
        return Err("a suspended device answers".to_owned());
    }
    stack.act(Do::Resume(Lower))?;
    if !has_ended(&mut stack, &written) {
        return Err("it has not ended".to_owned());
    }
    stack.disk.acknowledge(3, 77);
    for part in [Lower, Upper] {
        stack.judge(part)?;
    }
    stack.end()
}

#[test]
fn no_request_is_carried_out_before_its_device_is_started() {
    for line in LOWER {
        beside_a_snapshot(line).unwrap();
        after_a_departure(line).unwrap();
        to_a_suspended_one(line).unwrap();
    }
}

#[cfg(feature = "mutants")]
#[test]
fn a_request_before_the_start_is_noticed() {
    mutant::set(Some(Mutant::UsersBeforeStart));
    let found: Vec<_> = [beside_a_snapshot, after_a_departure].map(|check| check(LOWER[1])).into();
    mutant::set(None);
    assert!(found.iter().all(Result::is_err), "{found:?}");
}
