//! What the end of a service deletes.
//!
//! Rules held here: a snapshot stays while its origin may be written without it: by a device that
//! is made of the origin, or by the users of the device that is the origin, served or waiting.
//! Without them it is deleted, and continues when it is added again.

use super::carried_refused::{add, stack};
use super::carried_stack::{Do, Ground, LOWER, Lower, Stack, Upper};
use crate::protocol::{Command, DeviceRef, Reply};
#[cfg(feature = "mutants")]
use crate::server::admin::mutant::{self, Mutant};
use crate::ublk::device::BLOCK_PATH;

fn retire(stack: &mut Stack, device: DeviceRef) -> Result<(), String> {
    stack.ask(Command::Retire { device }).map(drop)
}

fn stays(stack: &mut Stack, device: DeviceRef, why: &str) -> Result<(), String> {
    match retire(stack, device) {
        Err(found) if found.contains("would be lost") && found.contains(why) => Ok(()),
        other => Err(format!("{other:?}, and not {why}")),
    }
}

/// The origin is a device of the server that has users, or gets an origin's device of its own.
fn beside_a_device(line: &'static str) -> Result<(), String> {
    let (mut stack, lower, upper) = stack(line);
    let site = stack.town.site.clone();
    let open = |is_open: bool| {
        site.kernel.borrow_mut().devices.get_mut(&lower.id).unwrap().open = is_open;
    };
    open(true);
    stays(&mut stack, upper, "it is open")?;
    open(false);
    let Reply::Added { device: top, .. } =
        add(&mut stack, &format!("0 8 snapshot-origin {BLOCK_PATH}{}", lower.id))?
    else {
        return Err("not added".to_owned());
    };
    stays(&mut stack, upper, "it is up")?;
    retire(&mut stack, top)?;
    for part in [Lower, Upper] {
        stack.judge(part)?;
    }
    retire(&mut stack, upper)?;
    stack.strike_gone();
    for step in [Do::Add(Upper), Do::Write(Lower, 4)] {
        stack.act(step)?;
    }
    stack.judge(Upper)?;
    stack.end()
}

/// The origin is a disk that another device of the server is made of.
fn beside_an_origin() -> Result<(), String> {
    let mut stack = Stack::new(LOWER[5], true);
    for step in [Do::Add(Lower), Do::Add(Ground), Do::Write(Ground, 1)] {
        stack.act(step)?;
    }
    let (snapshot, origin) = (stack.device(Lower).unwrap(), stack.device(Ground).unwrap());
    stays(&mut stack, snapshot, "it is up")?;
    stack.judge(Lower)?;
    retire(&mut stack, origin)?;
    retire(&mut stack, snapshot)
}

#[test]
fn a_snapshot_stays_while_its_origin_may_be_written() {
    LOWER.into_iter().for_each(|line| beside_a_device(line).unwrap());
    beside_an_origin().unwrap();
}

#[test]
#[cfg(feature = "mutants")]
fn a_snapshot_that_is_retired_anyway_is_noticed() {
    mutant::set(Some(Mutant::RetiredAnyway));
    let found = beside_a_device(LOWER[0]).and(beside_an_origin());
    mutant::set(None);
    assert!(found.is_err());
}
