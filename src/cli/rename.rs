//! `rename`: a device gets another name, whoever uses it.
//!
//! Rules kept here: the new name is reserved under the lock of the device's family, as that of a
//! device that is added, so no other command takes it; and what names the device by its number or
//! its cookie, as disks of other devices, journals and watching commands do, goes on.

use super::add::check_name;
use super::client::{Known, by_name, must_answer, open_rundir, other_answer};
use super::notable;
use super::results::{self, Named};
use super::udev;
use crate::failure::Failure;
use crate::protocol::{self, Command, Reply, refuse_odd_name};

/// Renames a device.
pub(super) fn rename(word: &str, name: &str) -> Result<(), Failure> {
    refuse_odd_name(name)?;
    if notable::rename(word, name)? {
        return results::done(&Named::without_table(name));
    }
    let rundir = open_rundir()?;
    let (key, device) = {
        let known = Known::of(&rundir)?;
        let (family, device) = known.find(word)?;
        (family.key.clone(), device.clone())
    };
    must_answer(&device).map_err(|why| by_name(&device, why))?;
    let named = Named::new(device.id, Some(name.to_owned()));
    if device.name == name {
        return results::done(&named);
    }
    let path = &device.object.block_device;
    let mut lock = rundir.lock_family(&key, "rename")?;
    check_name(&rundir, &mut lock, Some(name), false)?;
    let server = rundir.server(&key).and_then(|server| server.connection);
    let gone = || format!("{word}: its server has died; run `ublk-dm recover {word}` first");
    let command = Command::Rename { device: device.device(), name: name.to_owned() };
    let reply = protocol::ask(server.ok_or_else(gone)?, &command);
    match reply.map_err(|error| Failure::from(error).context(path))? {
        Reply::Done => udev::follow(path, name),
        Reply::Failed(why) => return Err(by_name(&device, why)),
        _ => return Err(other_answer()),
    }
    results::done(&named)
}
