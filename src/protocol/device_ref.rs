//! How commands and records name a device.

use serde::{Deserialize, Serialize};

use crate::failure::Reason;

/// A device as commands name it. Between a look at the devices and the command, a number can pass
/// to another device; the cookie, which the kernel keeps with the device, cannot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceRef {
    pub id: u32,
    pub cookie: u64,
}

impl DeviceRef {
    /// Why a device with this number but another cookie is left alone.
    pub fn replaced(self) -> Reason {
        format!("/dev/ublkb{} is now another device; see `ublk-dm list`", self.id).into()
    }
}
