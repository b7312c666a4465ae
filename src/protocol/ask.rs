//! Sends a command to a server, and limits how long to wait for the reply.
//!
//! Rule kept here: a command never waits without a bound. A server that is stopped or hangs is
//! noticed because its listener, which does nothing else, does not answer either; a disk that does
//! not answer is noticed because its oldest operation stays the same. An intended wait (for an
//! event, for the end of a comparison) may take its time, as long as server and disks answer.

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt::{Timeout, set_socket_timeout, socket_peercred};
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect as connect_to, socket_with,
};
use serde::Serialize;

use super::message::{Command, Doing, Reply};

/// How long a living server may take to answer a command that needs no disk. Its listener answers
/// at once; a machine short of memory or processors is given time.
const ANSWER_LIMIT: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 10 });
/// How often a busy server is asked whether it is still alive, and what it waits for.
const PROBE_PAUSE: Duration = Duration::from_secs(3);
/// How long a disk may take for one operation. The kernel gives up on an NVMe or SCSI command after
/// 30 s and reports it: a disk that is silent for longer hangs.
const DISK_LIMIT: Duration = Duration::from_secs(40);
/// How long a command may take if its server and disks all answer: against kernels that hang.
const COMMAND_LIMIT: Duration = Duration::from_secs(600);

/// How long to wait for a reply.
struct Patience {
    /// The limit of the whole wait, for any reason.
    total: Option<Duration>,
    /// Waits only as long as the server's listener answers.
    probes: bool,
    /// Waits no longer than [`DISK_LIMIT`] for one disk.
    watches_disks: bool,
}

impl Patience {
    fn with(command: &Command) -> Patience {
        match command {
            Command::Report | Command::Ping => {
                Patience { total: Some(ANSWER_LIMIT), probes: false, watches_disks: false }
            }
            // The user wants to wait for the end of these.
            Command::Wait { .. } | Command::Shutdown => {
                Patience { total: None, probes: true, watches_disks: false }
            }
            // A comparison takes as long as its disks.
            Command::Message { .. } => Patience { total: None, probes: true, watches_disks: true },
            _ => Patience { total: Some(COMMAND_LIMIT), probes: true, watches_disks: true },
        }
    }
}

/// Since when each disk has been busy with the same operation.
#[derive(Default)]
pub struct Silence(HashMap<(String, u64), Instant>);

impl Silence {
    /// Takes what the server reports now, and returns a disk that has been silent for too long.
    pub fn longer_than(
        &mut self,
        limit: Duration,
        oldest: &[(String, u64)],
        now: Instant,
    ) -> Option<String> {
        self.0.retain(|operation, _| oldest.contains(operation));
        for operation in oldest {
            self.0.entry(operation.clone()).or_insert(now);
        }
        let silent = self.0.iter().find(|(_, since)| now.duration_since(**since) >= limit);
        silent.map(|((disk, _), _)| disk.clone())
    }
}

/// Connects to a server. Times out if its listener accepts no connection.
pub fn connect(path: &Path) -> io::Result<UnixStream> {
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    set_socket_timeout(&socket, Timeout::Send, Some(ANSWER_LIMIT))?;
    connect_to(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(UnixStream::from(socket))
}

/// Whether a failed connection means that there is no server; a silent server is not absent.
pub fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
}

/// Asks a server and waits for its answer.
///
/// # Errors
/// `TimedOut`, with the server or disk that does not answer; or the error of the socket.
pub fn ask(mut server: UnixStream, command: &Command) -> io::Result<Reply> {
    let patience = Patience::with(command);
    let begun = Instant::now();
    let mut silence = Silence::default();
    server.set_write_timeout(Some(ANSWER_LIMIT))?;
    write_line(&mut server, command)
        .map_err(|error| if is_late(&error) { no_answer(&server) } else { error })?;
    let mut line = Vec::new();
    let mut reader = BufReader::new(&server);
    loop {
        server.set_read_timeout(Some(
            patience.total.map_or(PROBE_PAUSE, |total| total.min(PROBE_PAUSE)),
        ))?;
        match reader.read_until(b'\n', &mut line) {
            // The part that has arrived stays in the line.
            Err(error) if is_late(&error) => {}
            Err(error) => return Err(error),
            Ok(_) if line.is_empty() => return Err(ended()),
            Ok(_) => return Ok(serde_json::from_slice(&line)?),
        }
        let waited = begun.elapsed();
        if patience.total.is_some_and(|total| waited >= total) {
            return Err(if patience.probes {
                gave_up(waited, "the command has not ended")
            } else {
                no_answer(&server)
            });
        }
        let doing = if patience.probes { probe(&server)? } else { None };
        let Some(doing) = doing else { continue };
        let silent = silence.longer_than(DISK_LIMIT, &doing.oldest, Instant::now());
        if let Some(disk) = silent.filter(|_| patience.watches_disks) {
            return Err(gave_up(waited, &waits_for(&disk, &doing)));
        }
    }
}

/// What a server is doing; `None` if it has another version's protocol, or is about to end.
fn probe(server: &UnixStream) -> io::Result<Option<Doing>> {
    let Some(path) = server.peer_addr()?.as_pathname().map(PathBuf::from) else { return Ok(None) };
    match connect(&path).and_then(|probe| ask(probe, &Command::Ping)) {
        Ok(Reply::Doing(doing)) => Ok(Some(doing)),
        Err(error) if is_late(&error) => Err(no_answer(server)),
        // The end of the waiting connection says more.
        Ok(_) | Err(_) => Ok(None),
    }
}

/// Whether a server has not answered in time.
pub fn is_late(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

fn no_answer(server: &UnixStream) -> io::Error {
    let process =
        socket_peercred(server).map(|peer| format!(" (process {})", peer.pid.as_raw_nonzero()));
    let (process, seconds) = (process.unwrap_or_default(), ANSWER_LIMIT.as_secs());
    let message =
        format!("its server{process} has not answered for {seconds} s: it is stopped or hangs");
    io::Error::new(io::ErrorKind::TimedOut, message)
}

fn gave_up(waited: Duration, why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, format!("gave up after {} s: {why}", waited.as_secs()))
}

fn waits_for(disk: &str, doing: &Doing) -> String {
    match &doing.command {
        Some(command) => format!("{disk} does not answer (the server is busy with `{command}`)"),
        None => format!("{disk} does not answer"),
    }
}

fn ended() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the connection was closed without a reply")
}

/// Whether the peer of a connection has left.
pub fn has_left(connection: &UnixStream) -> bool {
    let gone = PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR;
    let mut fds = [PollFd::new(connection, PollFlags::RDHUP)];
    poll(&mut fds, Some(&Timespec::default())).is_ok() && fds[0].revents().intersects(gone)
}

/// Waits until `done` is readable (false), or the peer of the connection has left (true).
pub fn until_left_or(connection: &UnixStream, done: impl AsFd) -> io::Result<bool> {
    let gone = PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR;
    loop {
        let mut fds =
            [PollFd::new(connection, PollFlags::RDHUP), PollFd::new(&done, PollFlags::IN)];
        match poll(&mut fds, None) {
            Err(error) if error == rustix::io::Errno::INTR => continue,
            Err(error) => return Err(error.into()),
            Ok(_) => {}
        }
        if !fds[1].revents().is_empty() {
            return Ok(false);
        }
        if fds[0].revents().intersects(gone) {
            return Ok(true);
        }
    }
}

/// Writes one message as a line.
pub fn write_line(to: &mut UnixStream, message: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_string(message)?;
    line.push('\n');
    to.write_all(line.as_bytes())
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;
    use crate::protocol::DeviceRef;

    #[test]
    fn a_disk_is_silent_only_while_its_oldest_operation_stays_the_same() {
        let (limit, start) = (Duration::from_secs(40), Instant::now());
        let later = |seconds| start + Duration::from_secs(seconds);
        let busy = |operation| vec![("/dev/sda".to_owned(), operation)];
        let mut silence = Silence::default();
        assert_eq!(silence.longer_than(limit, &busy(1), start), None);
        assert_eq!(
            silence.longer_than(limit, &busy(2), later(39)),
            None,
            "the first one has ended"
        );
        assert_eq!(silence.longer_than(limit, &busy(2), later(60)), None);
        assert_eq!(silence.longer_than(limit, &[], later(70)), None);
        assert_eq!(
            silence.longer_than(limit, &busy(2), later(80)),
            None,
            "it is another time of the same number"
        );
        assert_eq!(silence.longer_than(limit, &busy(2), later(120)), Some("/dev/sda".to_owned()));
    }

    #[test]
    fn a_server_that_takes_commands_and_does_not_answer_is_given_up() {
        let path = std::env::temp_dir().join(format!("ublk-dm-ask-{}.sock", std::process::id()));
        let listener = UnixListener::bind(&path).unwrap();
        let begun = Instant::now();
        let error = connect(&path).and_then(|server| ask(server, &Command::Report)).unwrap_err();
        assert!(
            error.to_string().contains(&format!("(process {})", std::process::id())),
            "{error}"
        );
        assert!(begun.elapsed() >= ANSWER_LIMIT && begun.elapsed() < 3 * ANSWER_LIMIT);
        // A command notices this as soon as it probes the server.
        let resume = Command::Resume { device: DeviceRef { id: 0, cookie: 1 } };
        let error = connect(&path).and_then(|server| ask(server, &resume)).unwrap_err();
        assert!(error.to_string().contains("has not answered"), "{error}");
        drop(listener);
        std::fs::remove_file(&path).unwrap();
        assert!(is_absent(&connect(&path).unwrap_err()));
    }

    #[test]
    fn a_client_that_leaves_is_noticed() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        assert!(!has_left(&ours));
        drop(theirs);
        assert!(has_left(&ours));
    }
}
