//! The order of an upgrade: a server of another program takes the place of a family's server.
//!
//! Rules kept here: the old server leaves its devices only when its successor has started and has
//! read what it is to take over; and a successor that does not take over all of them is ended, and
//! the old program takes them again. So there is one moment at which a device has no server, and
//! two programs that can end it.

use super::admin::mutant::{self, Mutant};
use crate::failure::Reason;

/// The two servers of an upgrade.
pub trait Servers {
    /// Starts the new server, which touches no device until it is asked to take over.
    ///
    /// # Errors
    /// It does not start, or cannot read the state of the devices.
    fn stand_by(&mut self) -> Result<(), Reason>;
    /// Has the old server leave its devices, and waits for its end.
    ///
    /// # Errors
    /// It has not left them.
    fn leave(&mut self) -> Result<(), Reason>;
    /// Has the new server take the devices over.
    ///
    /// # Errors
    /// Not all of them are live.
    fn take_over(&mut self) -> Result<(), Reason>;
    /// Ends the new server, whatever it is doing.
    fn end_new(&mut self);
    /// Starts the old program again, and has it take the devices over.
    ///
    /// # Errors
    /// Not all of them are live.
    fn roll_back(&mut self) -> Result<(), Reason>;
}

/// What has become of a family.
#[derive(Debug)]
pub enum Outcome {
    /// The new server serves it.
    Upgraded,
    /// The old server goes on: it has not been touched.
    Unchanged(Reason),
    /// The old program serves it again.
    RolledBack(Reason),
    /// Devices wait for a server: why the new one does not serve them, nor the old program.
    Waits(Reason, Reason),
}

/// What a test breaks in a new server, from the first moment on.
#[cfg(feature = "mutants")]
pub fn is_broken(what: &str) -> bool {
    std::env::var("UBLK_DM_BROKEN").is_ok_and(|broken| broken == what)
}

/// Whether a test has broken something: never without the feature `mutants`.
#[cfg(not(feature = "mutants"))]
pub const fn is_broken(_: &str) -> bool {
    false
}

/// Upgrades one family.
pub fn upgrade(servers: &mut impl Servers) -> Outcome {
    let first = if mutant::is(Mutant::LeavesFirst) { servers.leave() } else { Ok(()) };
    let left = first
        .and_then(|()| servers.stand_by())
        .and_then(|()| if mutant::is(Mutant::LeavesFirst) { Ok(()) } else { servers.leave() });
    if let Err(why) = left {
        servers.end_new();
        return Outcome::Unchanged(why);
    }
    let Err(why) = servers.take_over() else { return Outcome::Upgraded };
    servers.end_new();
    if mutant::is(Mutant::RollBackForgotten) {
        return Outcome::RolledBack(why);
    }
    match servers.roll_back() {
        Ok(()) => Outcome::RolledBack(why),
        Err(back) => Outcome::Waits(why, back),
    }
}
