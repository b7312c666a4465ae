//! Replies to clients.
//!
//! Rule kept here: a client that reads slowly, or not at all, delays no other client.

use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use super::place::Place;
use crate::protocol::{self, Reply};

/// How long a client may take to read its reply: `ublk-dm` reads it immediately.
const READ_LIMIT: Duration = Duration::from_secs(10);

/// Sends a reply. If it does not fit into the socket at once, the client reads slowly or not at
/// all: a thread of its own sends the rest, within a limit.
pub(super) fn reply(mut connection: UnixStream, reply: &Reply) -> io::Result<()> {
    let mut line = serde_json::to_vec(reply)?;
    line.push(b'\n');
    connection.set_nonblocking(true)?;
    let sent = match connection.write(&line) {
        Ok(sent) if sent == line.len() => return Ok(()),
        Ok(sent) => sent,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
        Err(error) => return Err(error),
    };
    let Some(place) = Place::take() else { return Err(io::ErrorKind::WouldBlock.into()) };
    connection.set_nonblocking(false)?;
    connection.set_write_timeout(Some(READ_LIMIT))?;
    let rest = move || {
        if let Err(error) = connection.write_all(&line[sent..]) {
            log::debug!("control socket: {error}");
        }
        drop(place);
    };
    std::thread::Builder::new().name("reply".into()).spawn(rest).map(drop)
}

/// Sends the reply to a command that was answered by a thread of its own.
pub(super) fn reply_late(mut connection: UnixStream, reply: &Reply) {
    let sent = connection.set_write_timeout(Some(READ_LIMIT));
    if let Err(error) = sent.and_then(|()| protocol::write_line(&mut connection, reply)) {
        log::debug!("control socket: {error}");
    }
}
