//! The administrator of a family: manages its devices from add to delete. It acts through one trait
//! ([`machine`]), so that a simulated machine can lose power or its process at every step.
//!
//! Rules kept here: what a later server needs is durable in the state file before the command that
//! depends on it ends; a device is touched only after its cookie has been compared; a command that
//! fails reports what it leaves behind.

mod add;
mod apart;
mod carried;
mod deferred;
mod departures;
pub mod devices;
mod ending;
mod foreign_disks;
mod given_back;
mod handover;
pub mod held;
mod held_below;
mod joined;
mod keeping;
mod kernel;
mod left_alone;
mod left_behind;
mod levels;
mod lost;
pub mod machine;
mod made_again;
mod merge;
mod merging;
mod mirrored;
mod missed;
pub mod mutant;
mod new_device;
mod not_started;
mod notes;
mod open_origins;
mod origins;
mod orphans;
mod outcome;
mod passed_on;
mod passing;
mod recorded;
mod recording;
mod records;
mod recover;
mod rename;
mod reopened;
mod replace;
mod resize;
mod resumed;
mod shutdown;
mod silent;
mod spared;
mod state;
mod table;
pub mod targets;
pub mod thread;
mod unconfirmed;
mod undo;
mod unfinished;
mod upgrade;
mod waiting;

use crate::failure::Reason;
use crate::protocol::{Command, DeviceRef, Reply};
pub use left_alone::left_by_dead_server;
use machine::{Machine, Thread};
use mutant::Mutant;
pub use orphans::{Incomplete, complete, complete_gone, record_left_behind};
pub use shutdown::LOOK_AGAIN;
pub use state::{Administrator, Ending};
pub use undo::Undo;
pub use upgrade::stays_with_server;

impl<M: Machine> Administrator<M> {
    /// Carries out a command.
    ///
    /// # Errors
    /// The reason, and what is left of the attempt.
    pub fn carry_out(&mut self, command: Command) -> Result<Reply, Reason> {
        self.finish_late_jobs();
        self.end_merges();
        self.lose_kept();
        command.refuse_replaced(|id| self.cookie_of(id))?;
        if !matches!(command, Command::TakeBack { .. }) {
            self.confirm();
        }
        if !matches!(command, Command::RecoverLeftOut { .. }) {
            self.notice_stolen();
        }
        self.refuse_left_out(&command)?;
        self.refuse_on_carrier(&command)?;
        self.act(command).inspect_err(|_| self.free_unused_origin())
    }

    fn act(&mut self, command: Command) -> Result<Reply, Reason> {
        match command {
            Command::Add { name, id, spec } => self.add(name, id, spec),
            Command::Recover(devices) => self.recover_coming(devices, false),
            Command::TakeOver(devices) => self.recover_coming(devices, true),
            Command::RecoverLeftOut { devices } => self.recover_left_out(&devices),
            Command::Leave => self.leave().map(|devices| Reply::Left { devices }),
            Command::Del { devices, force } => self.del(&ids_of(&devices), force),
            Command::Retire { device } => self.retire(device.id),
            Command::TakeBack { device } => self.take_back_added(device),
            Command::Suspend { device, noflush } => self.suspend(device.id, noflush),
            Command::Resume { device } => {
                self.resume(device.id).inspect(|_| self.machine.announce(device.id))
            }
            Command::Load { device, spec } => self.load(device.id, spec),
            Command::Clear { device } => self.clear(device.id),
            Command::Resize { device, bytes } => self.resize(device.id, bytes),
            Command::Rename { device, name } => self.rename(device.id, name),
            Command::Merge { device, force, defer, keep, bytes_per_second } => {
                let how = (bytes_per_second, keep);
                let deferred = if defer { self.defer_merge(device.id, how)? } else { None };
                deferred.map_or_else(|| self.merge(device.id, force, how), Ok)
            }
            Command::ChangeMerge { device, change } => self.change_merge(device.id, change),
            Command::Message { device, words, named } => self.message(device.id, &words, &named),
            Command::Report | Command::Ping | Command::Wait { .. } => {
                Err("a command for the listener".to_owned().into())
            }
            Command::Shutdown => self.shut_down().map(|()| Reply::Done),
        }
    }

    /// A failed command may have opened an origin that no target needs: its disk is free again, and
    /// the device that was to carry it carries none.
    fn free_unused_origin(&mut self) {
        if !self.unfinished.is_empty() || mutant::is(Mutant::OriginKept) {
            return;
        }
        self.put_down_unused();
        let freed = self.machine.call(|thread| async move {
            thread.group().forget_unused_origins();
        });
        freed.unwrap_or_else(|why| log::error!("{why}"));
    }

    /// The cookie of the device with this number, served or left out.
    fn cookie_of(&self, id: u32) -> Option<u64> {
        let served = self.devices.get(&id).map(|entry| entry.info.target_flags);
        served.or_else(|| Some(self.left_out.get(&id)?.device.cookie))
    }
}

fn ids_of(devices: &[DeviceRef]) -> Vec<u32> {
    devices.iter().map(|device| device.id).collect()
}
