//! Clients that have connected but not sent their command yet.
//!
//! All of them are waited for at once, so that a silent client delays no other client. Their number
//! is limited; at the limit, the client that has waited longest is disconnected.

use std::io::{self, Read};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::failure::Failure;
use crate::protocol::{Command, Reply, write_line};

/// How long a client may take to send its command: `ublk-dm` sends it immediately.
const COMMAND_LIMIT: Duration = Duration::from_secs(10);
/// Most clients that have connected and not sent a command yet.
const MAX_ARRIVALS: usize = 64;
/// Longest command: one that recovers some ten thousand devices.
const MAX_COMMAND_BYTES: usize = 16 << 20;
/// Size of one read.
const PIECE_BYTES: usize = 16 << 10;

/// A client, and what it has sent so far.
struct Arrival {
    connection: UnixStream,
    said: Vec<u8>,
    until: Instant,
}

/// The progress of a client.
enum Progress {
    /// Its command is incomplete.
    Waits,
    Asks(Box<Command>),
    /// It has disconnected, or sent something that is no command.
    Left,
}

/// A socket, and the clients that have connected to it.
pub(super) struct Arrivals {
    listener: UnixListener,
    arrivals: Vec<Arrival>,
}

impl Arrivals {
    pub(super) fn at(listener: UnixListener) -> io::Result<Arrivals> {
        listener.set_nonblocking(true)?;
        Ok(Arrivals { listener, arrivals: Vec::new() })
    }

    /// Waits for the next command; `None` when a client has disconnected without one.
    ///
    /// # Errors
    /// The socket is no longer usable.
    pub(super) fn next(&mut self) -> io::Result<Option<(Command, UnixStream)>> {
        loop {
            let at = match self.wait()? {
                Some(at) => at,
                None => continue,
            };
            let arrival = &mut self.arrivals[at];
            let progress =
                if arrival.until <= Instant::now() { Progress::Left } else { arrival.listen() };
            match progress {
                Progress::Waits => {}
                Progress::Left => {
                    self.arrivals.remove(at);
                    return Ok(None);
                }
                Progress::Asks(command) => {
                    let Arrival { connection, .. } = self.arrivals.remove(at);
                    connection.set_nonblocking(false)?;
                    return Ok(Some((*command, connection)));
                }
            }
        }
    }

    /// Accepts new clients, and waits until a client sends something, or has been silent for too
    /// long.
    fn wait(&mut self) -> io::Result<Option<usize>> {
        let now = Instant::now();
        let left =
            self.arrivals.iter().map(|arrival| arrival.until.saturating_duration_since(now)).min();
        let limit = left.and_then(|left| Timespec::try_from(left).ok());
        let mut fds = vec![PollFd::new(&self.listener, PollFlags::IN)];
        fds.extend(
            self.arrivals.iter().map(|arrival| PollFd::new(&arrival.connection, PollFlags::IN)),
        );
        match poll(&mut fds, limit.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let has_come = !fds[0].revents().is_empty();
        let speaks = fds[1..].iter().position(|fd| !fd.revents().is_empty());
        drop(fds);
        let now = Instant::now();
        let is_late = |arrival: &Arrival| arrival.until <= now;
        let next = speaks.or_else(|| self.arrivals.iter().position(is_late));
        if next.is_none() && has_come {
            self.take_in()?;
        }
        Ok(next)
    }

    fn take_in(&mut self) -> io::Result<()> {
        let connection = match self.listener.accept() {
            Ok((connection, _)) => connection,
            // The client has disconnected already, or there is no descriptor for it: it will
            // notice.
            Err(error) => {
                if error.kind() != io::ErrorKind::WouldBlock {
                    log::warn!("control socket: {error}");
                    std::thread::sleep(Duration::from_millis(100));
                }
                return Ok(());
            }
        };
        connection.set_nonblocking(true)?;
        if self.arrivals.len() == MAX_ARRIVALS {
            self.arrivals.remove(0);
        }
        self.arrivals.push(Arrival {
            connection,
            said: Vec::new(),
            until: Instant::now() + COMMAND_LIMIT,
        });
        Ok(())
    }
}

impl Arrival {
    /// Reads what the client has sent.
    fn listen(&mut self) -> Progress {
        let mut piece = [0; PIECE_BYTES];
        match self.connection.read(&mut piece) {
            Ok(0) => return Progress::Left,
            Ok(count) => self.said.extend_from_slice(&piece[..count]),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                ) => {}
            Err(_) => return Progress::Left,
        }
        if self.said.last() != Some(&b'\n') {
            return if self.said.len() > MAX_COMMAND_BYTES {
                Progress::Left
            } else {
                Progress::Waits
            };
        }
        match serde_json::from_slice(&self.said) {
            Ok(command) => Progress::Asks(Box::new(command)),
            Err(error) => {
                self.refuse(&error);
                Progress::Left
            }
        }
    }

    /// Tells the client that its command has not been understood: without a reply it would take the
    /// server for dead.
    fn refuse(&mut self, error: &serde_json::Error) {
        log::warn!("control socket: {error}");
        let why = Failure::from(format!("the server does not understand the command: {error}"));
        let told = self
            .connection
            .set_nonblocking(false)
            .and_then(|()| write_line(&mut self.connection, &Reply::Failed(why)));
        if let Err(error) = told {
            log::warn!("control socket: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{DeviceRef, has_left};

    #[test]
    fn a_client_that_says_nothing_keeps_no_other_waiting() {
        let path =
            std::env::temp_dir().join(format!("ublk-dm-listener-{}.sock", std::process::id()));
        let mut arrivals = Arrivals::at(UnixListener::bind(&path).unwrap()).unwrap();
        let mute: Vec<_> =
            (0..MAX_ARRIVALS + 1).map(|_| UnixStream::connect(&path).unwrap()).collect();
        let mut client = UnixStream::connect(&path).unwrap();
        let begun = Instant::now();
        let device = DeviceRef { id: 7, cookie: u64::MAX };
        write_line(&mut client, &Command::Resume { device }).unwrap();
        let (command, connection) = arrivals.next().unwrap().unwrap();
        assert!(
            matches!(command, Command::Resume { device: asked } if asked == device)
                && !has_left(&connection)
        );
        assert!(begun.elapsed() < COMMAND_LIMIT / 2);
        assert!(
            has_left(&mute[0]) && has_left(&mute[1]) && !has_left(&mute[2]),
            "there is room for so many"
        );
        // A client that sends byte by byte is understood, and one that disconnects is noticed.
        drop(mute);
        let mut left = 0;
        let mut slow = UnixStream::connect(&path).unwrap();
        let line = serde_json::to_vec(&Command::Ping).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for byte in line.iter().chain(b"\n") {
                    io::Write::write_all(&mut slow, &[*byte]).unwrap();
                }
            });
            while arrivals.next().unwrap().is_none() {
                left += 1;
            }
        });
        assert_eq!(left, MAX_ARRIVALS - 1);
        // What is no command is answered: the server lives.
        let mut odd = UnixStream::connect(&path).unwrap();
        io::Write::write_all(&mut odd, b"{\"Odd\":1}\n").unwrap();
        assert!(arrivals.next().unwrap().is_none());
        let mut reply = String::new();
        odd.read_to_string(&mut reply).unwrap();
        assert!(reply.contains("does not understand the command"), "{reply}");
        std::fs::remove_file(&path).unwrap();
    }
}
