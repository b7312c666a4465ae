//! Commands that wait for something without changing anything, each answered by a thread of its
//! own.
//!
//! Rule kept here: a place is returned when its command has ended, and the command ends when its
//! client disconnects.

use std::io;
use std::os::unix::net::UnixStream;

use super::place::Place;
use super::reply::reply_late;
use crate::data::Handle;
use crate::failure::Reason;
use crate::protocol::{Command, Reply};
use crate::server::admin::devices::LegRef;
use crate::server::compare::compare_or_repair;

/// Answers a command in a thread of its own.
pub(super) fn aside(
    place: Place,
    family: &Handle,
    command: Command,
    legs: Vec<LegRef>,
    connection: UnixStream,
) -> io::Result<()> {
    let family = family.clone();
    let thread = move || {
        let reply = match &command {
            Command::Message { device, words, .. } => {
                compare_or_repair(&family, &connection, device.id, words, &legs)
            }
            command => wait(&family, &connection, command),
        };
        drop(place);
        reply_late(connection, &reply.unwrap_or_else(Reply::Failed));
    };
    std::thread::Builder::new().name("aside".into()).spawn(thread).map(drop)
}

/// Waits for a device's next event.
fn wait(family: &Handle, client: &UnixStream, command: &Command) -> Result<Reply, Reason> {
    let Command::Wait { device, events } = *command else {
        return Err("not a command that is answered aside".to_owned().into());
    };
    let id = device.id;
    let events = family.call_for(client, move |thread, left| async move {
        let device = thread.group.device(id)?;
        let seen = events.unwrap_or_else(|| device.events().count());
        drop(thread);
        device.events().after_or(seen, || left.is_set()).await
    });
    events?.map(Reply::Events).ok_or_else(|| format!("/dev/ublkb{id}: the device is gone").into())
}
