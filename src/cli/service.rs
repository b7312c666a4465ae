//! `up --foreground`: a device of the tab file as a service.
//!
//! The device is brought up, or recovered, as without the flag, by a server in the background; then
//! this command watches it. The server is not this process, because a family has one server and
//! each of its devices a service of its own: the end of one service must not end the devices of the
//! others.

use std::process::ExitCode;

use super::add;
use super::args;
use super::client::{Known, must_answer, open_rundir};
use super::keep::Signals;
use super::terminal::complain;
use super::up::{Asked, brought_up};
use super::verdict::verdict;
use crate::failure::{Failure, wrong_usage};
use crate::protocol::RunState;
use crate::rundir::{RunDir, Server};

/// `up --foreground`.
pub(super) fn in_foreground(asked: &args::Up) -> Result<ExitCode, Failure> {
    let [name] = &asked.names[..] else {
        return Err(wrong_usage("up --foreground: name one device of the tab file".to_owned()));
    };
    let rundir = open_rundir()?;
    // From now on no signal that ends the service is lost.
    let signals = Signals::catch()?;
    let problems = brought_up(&rundir, &Asked::of(asked))?;
    if !is_up(&rundir, name)? {
        verdict(problems)?;
        return Err(format!("{name}: it is not up").into());
    }
    // They concern other devices, or one that is up with another table.
    problems.iter().for_each(complain);
    keep(&rundir, name, &signals)
}

/// Whether a device has a server that answers.
fn is_up(rundir: &RunDir, name: &str) -> Result<bool, Failure> {
    let known = Known::of(rundir)?;
    let Ok((_, device)) = known.find(name) else { return Ok(false) };
    let object = &device.object;
    let is_served = object.server_pid.is_some() && object.state != RunState::Quiesced;
    Ok(is_served && must_answer(device).is_ok())
}

/// Watches a device until it is deleted.
fn keep(rundir: &RunDir, name: &str, signals: &Signals) -> Result<ExitCode, Failure> {
    let known = Known::of(rundir)?;
    let (family, device) = known.find(name)?;
    let lock = rundir.lock_family(&family.key, "up")?;
    let has_changed = || format!("{name}: its server has just ended");
    let Some(Server { connection: Some(server), state: Some(state), .. }) =
        rundir.server(&family.key)
    else {
        return Err(has_changed().into());
    };
    let own = state.devices.iter().find(|it| it.device() == device.device());
    add::keep_brought_up(rundir, &family.key, server, own.ok_or_else(has_changed)?, signals, lock)
}
