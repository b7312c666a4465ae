//! Commands to a server, and its answers.

use serde::{Deserialize, Serialize};

use super::device::{DeviceRef, DeviceReport, DeviceSpec, DeviceState};
use crate::failure::{Failure, Reason};

/// A command to a server.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Command {
    /// Add a device.
    Add {
        /// Made up from its target and id if not given.
        name: Option<String>,
        /// The wanted N of `/dev/ublkbN`.
        id: Option<u32>,
        spec: DeviceSpec,
    },
    /// Take over the devices of a server that died.
    Recover(Vec<DeviceState>),
    /// Take over devices that were left out when the others of a server that died were taken over.
    RecoverLeftOut { devices: Vec<DeviceRef> },
    /// Delete devices; `force` also those in use.
    Del { devices: Vec<DeviceRef>, force: bool },
    /// Delete a device that was added a moment ago, because nobody will be told of it, and put back
    /// what its new store has overwritten.
    TakeBack { device: DeviceRef },
    /// All about its devices.
    Report,
    /// Whether it lives, and what it is doing.
    Ping,
    /// Hold a device's requests back and wait for those in flight.
    Suspend { device: DeviceRef, noflush: bool },
    /// Let them through again, to the table that was loaded if one was.
    Resume { device: DeviceRef },
    /// Give a device another table, which its next resume puts in place.
    Load { device: DeviceRef, spec: DeviceSpec },
    /// A message to a device's target.
    Message { device: DeviceRef, words: Vec<String> },
    /// Wait until a device has had more events than that.
    Wait { device: DeviceRef, events: Option<u32> },
    /// End, deleting every device.
    Shutdown,
}

/// What a server is doing.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Doing {
    /// The command that is being carried out.
    pub command: Option<String>,
    /// Disks that have been given something to do, and the number of the oldest operation: as long
    /// as that is the same, the disk has not answered.
    pub oldest: Vec<(String, u64)>,
}

/// A server's answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Reply {
    Added {
        /// What its user should know.
        note: Option<String>,
        path: String,
        device: DeviceRef,
    },
    Deleted,
    /// A device has been deleted again.
    TakenBack {
        /// What that has left on its COW.
        note: Option<String>,
    },
    /// Devices have been taken over; what could not be done has a line each.
    Recovered {
        problems: Vec<Failure>,
    },
    Done,
    /// What a message gave, to be printed.
    Lines(Vec<String>),
    Events(u32),
    Devices(Vec<DeviceReport>),
    Doing(Doing),
    Failed(Failure),
}

impl Command {
    /// The devices that it is about and that must be there.
    pub fn devices(&self) -> &[DeviceRef] {
        match self {
            Command::RecoverLeftOut { devices } | Command::Del { devices, .. } => devices,
            Command::TakeBack { device }
            | Command::Suspend { device, .. }
            | Command::Resume { device }
            | Command::Load { device, .. }
            | Command::Message { device, .. }
            | Command::Wait { device, .. } => std::slice::from_ref(device),
            Command::Add { .. }
            | Command::Recover(_)
            | Command::Report
            | Command::Ping
            | Command::Shutdown => &[],
        }
    }

    /// Refuses a command about a device whose number has another one by now. `cookie` is what a
    /// number's device has; one that is not there is nothing to be taken for another.
    pub fn refuse_replaced(&self, cookie: impl Fn(u32) -> Option<u64>) -> Result<(), Reason> {
        let replaced =
            |device: &&DeviceRef| cookie(device.id).is_some_and(|cookie| cookie != device.cookie);
        self.devices().iter().find(replaced).map_or(Ok(()), |device| Err(device.replaced()))
    }

    /// What it asks for, in the word of the verb.
    pub fn verb(&self) -> &'static str {
        match self {
            Command::Add { .. } => "add",
            Command::Recover(_) | Command::RecoverLeftOut { .. } => "recover",
            Command::Del { .. } => "del",
            Command::TakeBack { .. } => "take back",
            Command::Report => "list",
            Command::Ping => "ping",
            Command::Suspend { .. } => "suspend",
            Command::Resume { .. } => "resume",
            Command::Load { .. } => "load",
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
    fn a_question_about_another_devices_number_is_refused() {
        let device = DeviceRef { id: 3, cookie: 77 };
        let here = |cookie| move |id| (id == 3).then_some(cookie);
        for command in [
            Command::Del { devices: vec![DeviceRef { id: 2, cookie: 5 }, device], force: true },
            Command::RecoverLeftOut { devices: vec![device] },
            Command::TakeBack { device },
            Command::Suspend { device, noflush: false },
            Command::Resume { device },
            Command::Message { device, words: Vec::new() },
            Command::Wait { device, events: None },
        ] {
            assert!(command.refuse_replaced(here(77)).is_ok(), "{}", command.verb());
            let why = command.refuse_replaced(here(78)).unwrap_err();
            assert!(why.starts_with("/dev/ublkb3 is another device by now"), "{why}");
            assert!(command.refuse_replaced(|_| None).is_ok(), "one that is gone is no other one");
        }
        assert!(Command::Shutdown.refuse_replaced(here(78)).is_ok());
    }
}
