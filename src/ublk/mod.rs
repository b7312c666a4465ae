//! The kernel's ublk driver as a control plane: commands, parameters, features, and a device's life
//! cycle.
//!
//! Nothing here knows the server or its targets.

mod announce;
pub mod apart;
mod control;
pub mod device;
mod error;
mod features;
mod info;
pub mod kernels;
mod params;
#[allow(unsafe_code)]
mod ring;
mod wire;

pub use announce::announce;
pub use control::Control;
pub use error::ControlError;
pub use features::{FEATURES, feature_names, unknown_features};
pub use info::{AddDevice, DeviceInfo, DeviceState};
pub use params::{Discard, Params, attrs};
