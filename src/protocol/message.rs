//! Commands to a server, and its replies.

use std::num::NonZeroU64;

use serde::{Deserialize, Serialize};

use super::device::{DeviceSpec, DeviceState};
use super::device_ref::DeviceRef;
use super::problem::Problem;
use super::report::DeviceReport;
use crate::failure::{Failure, Reason};

/// A command to a server.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Command {
    /// Add a device.
    Add {
        /// Derived from the target and the id if not given.
        name: Option<String>,
        /// The requested N of `/dev/ublkbN`.
        id: Option<u32>,
        spec: DeviceSpec,
    },
    /// Take over the devices of a server that died.
    Recover(Vec<DeviceState>),
    /// Take over devices that were left out when the others of a dead server were taken over.
    RecoverLeftOut { devices: Vec<DeviceRef> },
    /// Leave all devices, in use or not, to the next server, and end. All of them or none.
    Leave,
    /// Take over the devices of a server that has left them. All of them or none.
    TakeOver(Vec<DeviceState>),
    /// Delete devices; with `force`, also those in use.
    Del { devices: Vec<DeviceRef>, force: bool },
    /// Delete a device at the end of its service, unless it is in use or a snapshot would be lost
    /// that may go on with the next start. (Not a word of `Del`: a server of an earlier version
    /// refuses what it does not know.)
    Retire { device: DeviceRef },
    /// Delete a device that was just added, because the user will not be notified of it, and put
    /// back what its new store has overwritten.
    TakeBack { device: DeviceRef },
    /// Report all devices of the server.
    Report,
    /// Report what the server is doing, which shows that it is alive.
    Ping,
    /// Suspend a device: hold its requests back and wait for those in flight.
    Suspend { device: DeviceRef, noflush: bool },
    /// Resume a device, with the loaded table if there is one.
    Resume { device: DeviceRef },
    /// Give a device another table, which its next resume puts in place.
    Load { device: DeviceRef, spec: DeviceSpec },
    /// Drop the table that a device's next resume would put in place.
    Clear { device: DeviceRef },
    /// Make a device longer, up to `bytes`; `None`: up to the end of its disks.
    Resize { device: DeviceRef, bytes: Option<u64> },
    /// Give a device another name.
    Rename { device: DeviceRef, name: String },
    /// Merge a snapshot into its origin, under the origin's device; `force`: also while that device
    /// is mounted, or the snapshot's is open; `defer`: if they are in use, when the origin is next
    /// activated; `keep`: at the end the snapshot's device is one of the merged origin.
    Merge {
        device: DeviceRef,
        force: bool,
        #[serde(default)]
        defer: bool,
        #[serde(default)]
        keep: bool,
        bytes_per_second: Option<NonZeroU64>,
    },
    /// Change how the merge of an origin's device runs.
    ChangeMerge { device: DeviceRef, change: MergeChange },
    /// Send a message to a device's target; `named`: the devices among its disks that were named.
    Message {
        device: DeviceRef,
        words: Vec<String>,
        #[serde(default)]
        named: Vec<DeviceRef>,
    },
    /// Wait until a device's event counter differs from `events`.
    Wait { device: DeviceRef, events: Option<u32> },
    /// End, deleting every device.
    Shutdown,
}

/// What is to change in how a merge runs.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub enum MergeChange {
    /// It rests until it is continued. One that is left to the next activation is taken back.
    Pause,
    /// It continues, also after an error.
    Resume,
    /// It copies no faster than this; `None`: as fast as the disks.
    Rate(Option<NonZeroU64>),
}

/// What a server is doing.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Doing {
    /// The command in progress.
    pub command: Option<String>,
    /// Disks with an operation in flight, and the number of the oldest one: as long as that number
    /// stays the same, the disk has not answered.
    pub oldest: Vec<(String, u64)>,
    /// The server knows the command to leave its devices; those of 0.2.0 and earlier do not.
    #[serde(default)]
    pub can_leave: bool,
}

/// A server's reply.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Reply {
    Added {
        /// What the user should know.
        note: Option<String>,
        path: String,
        device: DeviceRef,
        /// The device's name; a server of an earlier version does not send it.
        #[serde(default)]
        name: Option<String>,
    },
    Deleted,
    /// The same, and what the user should know.
    DeletedNoted {
        notes: Vec<String>,
    },
    /// The device has been deleted again.
    TakenBack {
        /// What the device has left on its COW.
        note: Option<String>,
    },
    /// Devices have been taken over; each problem has a line.
    Recovered {
        problems: Vec<Problem>,
        /// What the user should know of what is no problem.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        notes: Vec<String>,
    },
    Done,
    /// The devices wait for the next server, which is to make them so.
    Left {
        devices: Vec<DeviceState>,
    },
    /// A merge is left to the next activation of its origin; what its user should know.
    Deferred {
        note: String,
    },
    /// Done; what the user should know of it.
    Noted {
        note: String,
    },
    /// The result of a message, to be printed.
    Lines(Vec<String>),
    Events(u32),
    Devices(Vec<DeviceReport>),
    Doing(Doing),
    Failed(Failure),
}

impl Command {
    /// The devices that the command is about and that must exist.
    pub fn devices(&self) -> &[DeviceRef] {
        match self {
            Command::RecoverLeftOut { devices } | Command::Del { devices, .. } => devices,
            Command::TakeBack { device }
            | Command::Retire { device }
            | Command::Suspend { device, .. }
            | Command::Resume { device }
            | Command::Load { device, .. }
            | Command::Clear { device }
            | Command::Resize { device, .. }
            | Command::Rename { device, .. }
            | Command::Merge { device, .. }
            | Command::ChangeMerge { device, .. }
            | Command::Message { device, .. }
            | Command::Wait { device, .. } => std::slice::from_ref(device),
            Command::Add { .. }
            | Command::Recover(_)
            | Command::Leave
            | Command::TakeOver(_)
            | Command::Report
            | Command::Ping
            | Command::Shutdown => &[],
        }
    }

    /// Refuses a command about a device whose number is another device's by now. `cookie` returns
    /// the cookie of a number's device; a device that does not exist is not mistaken for another.
    pub fn refuse_replaced(&self, cookie: impl Fn(u32) -> Option<u64>) -> Result<(), Reason> {
        let replaced =
            |device: &&DeviceRef| cookie(device.id).is_some_and(|cookie| cookie != device.cookie);
        self.devices().iter().find(replaced).map_or(Ok(()), |device| Err(device.replaced()))
    }

    /// What the command asks for, in the word of the verb.
    pub fn verb(&self) -> &'static str {
        match self {
            Command::Add { .. } => "add",
            Command::Recover(_) | Command::RecoverLeftOut { .. } => "recover",
            Command::Leave | Command::TakeOver(_) => "upgrade",
            Command::Del { .. } | Command::Retire { .. } => "del",
            Command::TakeBack { .. } => "take back",
            Command::Report => "list",
            Command::Ping => "ping",
            Command::Suspend { .. } => "suspend",
            Command::Resume { .. } => "resume",
            Command::Load { .. } => "load",
            Command::Clear { .. } => "clear",
            Command::Resize { .. } => "resize",
            Command::Rename { .. } => "rename",
            Command::Merge { .. } | Command::ChangeMerge { .. } => "merge",
            Command::Message { .. } => "message",
            Command::Wait { .. } => "wait",
            Command::Shutdown => "end",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_on_another_devices_number_is_refused() {
        let device = DeviceRef { id: 3, cookie: 77 };
        let here = |cookie| move |id| (id == 3).then_some(cookie);
        for command in [
            Command::Del { devices: vec![DeviceRef { id: 2, cookie: 5 }, device], force: true },
            Command::RecoverLeftOut { devices: vec![device] },
            Command::TakeBack { device },
            Command::Suspend { device, noflush: false },
            Command::Resume { device },
            Command::Clear { device },
            Command::Resize { device, bytes: None },
            Command::Rename { device, name: String::new() },
            Command::Merge {
                device,
                force: true,
                defer: false,
                keep: false,
                bytes_per_second: None,
            },
            Command::ChangeMerge { device, change: MergeChange::Pause },
            Command::Message { device, words: Vec::new(), named: Vec::new() },
            Command::Wait { device, events: None },
        ] {
            assert!(command.refuse_replaced(here(77)).is_ok(), "{}", command.verb());
            let why = command.refuse_replaced(here(78)).unwrap_err();
            assert!(why.starts_with("/dev/ublkb3 is now another device"), "{why}");
            assert!(command.refuse_replaced(|_| None).is_ok(), "one that is gone is no other one");
        }
        assert!(Command::Shutdown.refuse_replaced(here(78)).is_ok());
    }
}
