//! Starting and ending a server process.
//!
//! `add` starts a server in a session of its own and waits until its stdout says that it listens.
//! From then on the server is reached only through its socket, its state file and its log in the
//! run directory. A server in the foreground is the process that was started, and belongs to a
//! service manager.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{ChildStdout, Command as Process, ExitCode, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::stdio::dup2_stdout;

use super::signals::{self, Beginning};
use super::{Server, environment, logging, manager};
use crate::failure::{Failure, Reason};
use crate::protocol::{self, Command, DeviceRef, Reply};
use crate::rundir::{self, FamilyLock, RunDir};
use crate::ublk::device;

/// What a started server prints when it listens.
const READY: &str = "ready";
/// Why a server has not started that was asked to end meanwhile.
const INTERRUPTED: &str = "interrupted by a signal";
/// How long a start may take: the server opens the control device, which may load the driver, and
/// sets up its ring.
const START_LIMIT: Duration = Duration::from_secs(60);
/// How much is read of what a started server prints.
const MESSAGE_BYTES: u64 = 16 << 10;
/// Variables that a service manager sets for the process that it has started, and no other one.
const MANAGERS_VARIABLES: [&str; 7] = [
    "NOTIFY_SOCKET",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
    "LISTEN_FDS",
    "LISTEN_PID",
    "LISTEN_FDNAMES",
    "JOURNAL_STREAM",
];

/// Starts the server of a family and connects to it.
pub fn start(rundir: &RunDir, key: &str) -> Result<UnixStream, Failure> {
    let log = logging::open_file(&rundir.log_path(key))?;
    let program = std::env::current_exe()?;
    let mut command = Process::new(program);
    command.args(["serve", key]).env(rundir::VARIABLE, rundir.path()).current_dir("/");
    for name in MANAGERS_VARIABLES {
        command.env_remove(name);
    }
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .map_err(|error| Failure::from(error).context("cannot start the server"))?;
    let mut line = String::new();
    if let Some(stdout) = child.stdout.take() {
        if !says_something(&stdout)? {
            child.kill()?;
            let seconds = START_LIMIT.as_secs();
            return Err(format!(
                "the server did not start: it has reported nothing for {seconds} s"
            )
            .into());
        }
        BufReader::new(stdout.take(MESSAGE_BYTES)).read_line(&mut line)?;
    }
    if line.trim_end() != READY {
        rundir.remove_socket(key);
        let said = line.trim_end();
        let why = match said.is_empty() {
            true => {
                let log = rundir.log_path(key);
                format!("it ended without a message; see {}", log.display()).into()
            }
            false => Failure::read(said),
        };
        return Err(why.context("the server did not start"));
    }
    protocol::connect(&rundir.socket(key))
        .map_err(|error| Failure::from(error).context("cannot reach the server"))
}

/// Waits until a starting server has printed something, or ended.
fn says_something(stdout: &ChildStdout) -> std::io::Result<bool> {
    let limit = Timespec::try_from(START_LIMIT).map_err(std::io::Error::other)?;
    let mut fds = [PollFd::new(stdout, PollFlags::IN)];
    Ok(rustix::io::retry_on_intr(|| poll(&mut fds, Some(&limit)))? > 0)
}

/// Runs a server in the background; its starter reads stdout.
pub fn serve(key: &str) -> Result<ExitCode, Failure> {
    let failed = environment::prepare(false);
    let rundir = RunDir::open()?;
    let (server, listener, beginning) = match listen(&rundir, key, false, &failed) {
        Ok(started) => started,
        Err(error) => {
            say(&error.written())?;
            return Ok(ExitCode::FAILURE);
        }
    };
    if !beginning.is_over(server.control()) {
        rundir.remove_socket(key);
        say(INTERRUPTED)?;
        return Ok(ExitCode::FAILURE);
    }
    if let Err(error) = say(READY) {
        // The starting process is gone: there will be no first device.
        rundir.remove_socket(key);
        return Err(error.into());
    }
    detach();
    Ok(server.run(listener))
}

/// Prints a line for the starting process.
fn say(line: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{line}")?;
    stdout.flush()
}

/// Adds the first device of a family, or takes over the devices of a dead server, and serves them
/// in this process.
///
/// `done` handles the server's reply. If that fails, or a signal asks the process to end before the
/// devices have been added or taken over, an added device is deleted again; devices that were taken
/// over stay for the next server.
pub fn foreground(
    rundir: &RunDir,
    key: &str,
    command: Command,
    lock: FamilyLock,
    done: impl FnOnce(Reply) -> Result<(), Failure>,
) -> Result<ExitCode, Failure> {
    let takes_over = matches!(command, Command::Recover(_));
    let (mut server, listener, beginning) = listen(rundir, key, true, &environment::prepare(true))?;
    let reply = server.carry_out(command);
    let added = if let Ok(Reply::Added { device, .. }) = &reply { Some(*device) } else { None };
    let control = server.control();
    let unless_told =
        |reply| if beginning.is_over(control) { done(reply) } else { Err(INTERRUPTED.into()) };
    if let Err(why) = reply.and_then(unless_told) {
        let why = match added {
            _ if takes_over => {
                rundir.remove_socket(key);
                why
            }
            Some(device) => {
                why.ending(format!("; {}", take_back(rundir, key, &mut server, device)))
            }
            None => {
                let stays = !server.is_idle();
                rundir.remove_ended(key, stays);
                // A disk does not answer, and the unfinished job ends with this process.
                let left = if stays { "; see `ublk-dm list` for what is left" } else { "" };
                why.ending(left)
            }
        };
        return Err(why);
    }
    drop(lock);
    manager::ready("the devices answer");
    manager::watch(rundir.socket(key));
    let ended = server.run(listener);
    manager::stopping();
    Ok(ended)
}

/// Deletes a device that was added but not reported to the user, with the server's files. Returns
/// what is left.
fn take_back(rundir: &RunDir, key: &str, server: &mut Server, added: DeviceRef) -> String {
    let path = format!("{}{}", device::BLOCK_PATH, added.id);
    let deleted = server.carry_out(Command::TakeBack { device: added });
    // What a disk that hangs keeps of it is left, and has no disk any more.
    let stays = deleted.is_err() && (!server.is_idle() || Path::new(&path).exists());
    rundir.remove_ended(key, stays);
    left_of(&path, deleted, stays)
}

/// Describes what is left of a device that was to be deleted again.
fn left_of(path: &str, deleted: Result<Reply, Reason>, stays: bool) -> String {
    match deleted {
        Ok(Reply::TakenBack { note: Some(note) }) => {
            format!("the device was deleted again; {note}")
        }
        Ok(_) => "the device was deleted again".to_owned(),
        Err(why) if stays => format!(
            "{path} could not be deleted again and has no server now: {why}; `ublk-dm list` shows \
             what is left of it, and `ublk-dm del --force {path}` deletes that"
        ),
        Err(why) => format!("the device was deleted again, but {why}"),
    }
}

fn listen(
    rundir: &RunDir,
    key: &str,
    foreground: bool,
    failed: &[String],
) -> Result<(Server, UnixListener, Beginning), Failure> {
    let destination =
        logging::Destination { file: rundir.log_path(key), key: key.to_owned(), foreground };
    logging::start(destination).map_err(|error| Failure::from(error).context("the log"))?;
    failed.iter().for_each(|what| log::warn!("{what}"));
    let beginning = signals::handle()?;
    let server = Server::start(key, rundir)?;
    let socket = rundir.socket(key);
    let listener = UnixListener::bind(&socket).map_err(|error| Failure::at(&socket, error))?;
    Ok((server, listener, beginning))
}

/// Closes the starting process's pipe.
fn detach() {
    let null = File::options().write(true).open("/dev/null");
    if let Err(error) = null.and_then(|null| Ok(dup2_stdout(null)?)) {
        log::warn!("/dev/null: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_hanging_disk_keeps_is_said() {
        let hangs = || Err("not deleted yet: /d/c has not answered".into());
        let left = left_of("/dev/ublkb7", hangs(), true);
        assert!(left.contains("not deleted yet") && left.contains("del --force /dev/ublkb7"));
        assert!(!left.contains("was deleted again"), "{left}");
        let note = Reply::TakenBack { note: Some("/d/c is as it was".to_owned()) };
        let left = left_of("/dev/ublkb7", Ok(note), false);
        assert_eq!(left, "the device was deleted again; /d/c is as it was");
    }
}
