//! Deletes the device of a dead server, in a process of its own: the kernel waits uninterruptibly
//! for the requests that the server had sent to disks.

use std::time::Duration;

use super::Control;
use super::device::{delete, ours, stop};
use crate::failure::{Failure, Reason};
use crate::sys::apart::{self, Outcome};

/// The hidden verb that deletes a device.
const DELETE_VERB: &str = "delete-device";
/// Longest wait for that process. The kernel fails a disk's command after 30 s.
const DELETE_LIMIT: Duration = Duration::from_secs(40);

/// Stops and deletes a device whose server is dead, if it is still ours.
///
/// # Errors
/// The reason. If the kernel waits for too long, the deletion continues on its own, and ends when
/// it can.
pub fn delete_apart(id: u32, cookie: u64) -> Result<(), Reason> {
    let (number, known_by) = (id.to_string(), cookie.to_string());
    match apart::run(&[DELETE_VERB, &number, &known_by], DELETE_LIMIT) {
        Outcome::Done => Ok(()),
        Outcome::Failed(why) => Err(Failure::read(&why)),
        Outcome::Late(_) => {
            let what = "the kernel waits for requests that its server had sent to a disk";
            let then = "the device is deleted when the disk answers; then `ublk-dm recover --all` \
                        completes the deletion";
            Err(format!(
                "/dev/ublkb{id}: not deleted within {} s: {what}; {then}",
                DELETE_LIMIT.as_secs()
            )
            .into())
        }
    }
}

/// Like [`delete_apart`], in this process, however long it takes.
///
/// # Errors
/// The reason.
pub fn delete_now(id: u32, cookie: u64) -> Result<(), Reason> {
    let mut control = Control::open()?;
    if ours(&mut control, id, cookie)?.is_some() {
        stop(&mut control, id)?;
        delete(&mut control, id)?;
    }
    Ok(())
}
