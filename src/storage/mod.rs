//! Disks before a target uses them: opened, claimed, measured, and searched for signatures.

mod below;
mod beside;
mod busy;
pub mod content;
mod error;
mod id;
mod identity;
mod limits;
mod links;
mod names;
mod open;
mod opening;
mod place;
mod reopen;
pub mod signature;
pub mod silent;
pub mod word;

pub use below::{
    Ground, Standing, Through, circle, number_of_mount, ublk_devices_below, ublk_number,
};
pub use busy::user_of;
pub use error::{OpenError, OpenErrorKind};
pub use id::DiskId;
#[cfg(all(test, feature = "mutants"))]
pub use identity::name_of_leg;
pub use identity::{are_of_one_kind, certainly_differ, lasting_name_of, new_store_id};
pub use limits::Limits;
pub use links::lasting_path;
pub use names::{lasting_name, leg_name, name_at, names_at, names_of, path_of};
pub use open::{Access, Claim, Known, OpenDisk, node, size_now};
pub use opening::opening;
pub use reopen::ends_when_closed;
