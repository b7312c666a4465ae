//! Starting and ending a server process.
//!
//! `add` starts a server in a session of its own and waits until its stdout says that it listens.
//! From then on the server is reached only through its socket, its state file and its log in the
//! run directory. A server in the foreground is the process that was started, and belongs to a
//! service manager. A server that is to take the place of another one ([`Standby`]) starts while
//! that still serves the family, and listens when it is told to.

use std::fs::File;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Take, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdout, Command as Process, ExitCode, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::stdio::dup2_stdout;

use super::signals::{self, Beginning};
use super::upgrade::is_broken;
use super::{Server, environment, logging, manager};
use crate::failure::{Failure, Reason};
use crate::protocol::{self, Command, DeviceRef, Reply};
use crate::rundir::{self, FamilyLock, RunDir};
use crate::storage::silent;
use crate::sys::apart;
use crate::ublk::device;

/// What a started server prints when it listens.
const READY: &str = "ready";
/// The flag of a server that stands by.
const STANDBY: &str = "--standby";
/// Why a server has not started that was asked to end meanwhile.
const INTERRUPTED: &str = "interrupted by a signal";
/// How the first word of a process begins that the last signals of a shutdown spare, because the
/// root file system may stand on its devices. The servers that it starts are spared as well.
const SPARED: &[u8] = b"@";
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
    Started::begin(rundir, key, Process::new(std::env::current_exe()?), Stdio::null(), &[])?
        .connect()
}

/// The same with another program.
pub fn start_program(rundir: &RunDir, key: &str, program: Process) -> Result<UnixStream, Failure> {
    Started::begin(rundir, key, program, Stdio::null(), &[])?.connect()
}

/// A server that has started and neither listens nor touches a device: another one still serves the
/// family. It ends with the process that has started it, unless it is told to listen.
pub struct Standby<'a>(Started<'a>);

impl<'a> Standby<'a> {
    /// Starts a server of this program.
    pub fn start(rundir: &'a RunDir, key: &'a str) -> Result<Standby<'a>, Failure> {
        let program = Process::new(apart::PROGRAM);
        let mut started = Started::begin(rundir, key, program, Stdio::piped(), &[STANDBY])?;
        match started.hear() {
            Ok(()) => Ok(Standby(started)),
            Err(why) => {
                started.kill();
                Err(why)
            }
        }
    }

    /// Has the server listen, and connects to it. The family's socket must be free.
    pub fn listen(&mut self) -> Result<UnixStream, Failure> {
        let told = self.0.child.stdin.take().map_or(Ok(()), |mut stdin| writeln!(stdin));
        told.map_err(|error| Failure::from(error).context("the new server has ended"))?;
        self.0.connect()
    }

    /// The server's process.
    pub fn process(&self) -> u32 {
        self.0.child.id()
    }

    /// Ends the server, whatever it is doing.
    pub fn kill(mut self) {
        self.0.kill();
    }
}

/// A server process that was started.
struct Started<'a> {
    rundir: &'a RunDir,
    key: &'a str,
    child: Child,
    /// What it prints.
    stdout: BufReader<Take<ChildStdout>>,
}

impl<'a> Started<'a> {
    fn begin(
        rundir: &'a RunDir,
        key: &'a str,
        mut command: Process,
        stdin: Stdio,
        more: &[&str],
    ) -> Result<Started<'a>, Failure> {
        let log = logging::open_file(&rundir.log_path(key))?;
        command.args(["serve", key]).args(more);
        if std::env::args_os().next().is_some_and(|first| first.as_bytes().starts_with(SPARED)) {
            command.arg0("@ublk-dm");
        }
        command.env(rundir::VARIABLE, rundir.path()).current_dir("/");
        for name in MANAGERS_VARIABLES {
            command.env_remove(name);
        }
        let unstarted = |error: io::Error| Failure::from(error).context("cannot start the server");
        let mut child =
            command.stdin(stdin).stdout(Stdio::piped()).stderr(log).spawn().map_err(unstarted)?;
        let stdout = child.stdout.take().ok_or_else(|| unstarted(ErrorKind::BrokenPipe.into()))?;
        let stdout = BufReader::new(stdout.take(MESSAGE_BYTES));
        Ok(Started { rundir, key, child, stdout })
    }

    /// Waits until the server listens, and connects to it.
    fn connect(&mut self) -> Result<UnixStream, Failure> {
        self.hear().inspect_err(|_| self.rundir.remove_socket(self.key))?;
        protocol::connect(&self.rundir.socket(self.key))
            .map_err(|error| Failure::from(error).context("cannot reach the server"))
    }

    /// Waits until the server says that it is ready.
    ///
    /// # Errors
    /// Why it has not started.
    fn hear(&mut self) -> Result<(), Failure> {
        if !says_something(self.stdout.get_ref().get_ref())? {
            self.child.kill()?;
            let seconds = START_LIMIT.as_secs();
            return Err(format!(
                "the server did not start: it has reported nothing for {seconds} s"
            )
            .into());
        }
        let mut line = String::new();
        self.stdout.read_line(&mut line)?;
        let said = line.trim_end();
        let why: Failure = match said {
            READY => return Ok(()),
            "" => {
                let log = self.rundir.log_path(self.key);
                format!("it ended without a message; see {}", log.display()).into()
            }
            said => Failure::read(said),
        };
        Err(why.context("the server did not start"))
    }

    /// Ends the process at once.
    fn kill(&mut self) {
        let ended = self.child.kill().and_then(|()| self.child.wait());
        if let Err(error) = ended {
            log::warn!("process {}: {error}", self.child.id());
        }
    }
}

/// Waits until a starting server has printed something, or ended.
fn says_something(stdout: &ChildStdout) -> std::io::Result<bool> {
    let limit = Timespec::try_from(START_LIMIT).map_err(std::io::Error::other)?;
    let mut fds = [PollFd::new(stdout, PollFlags::IN)];
    Ok(rustix::io::retry_on_intr(|| poll(&mut fds, Some(&limit)))? > 0)
}

/// Runs a server in the background; its starter reads stdout. With `standby` it listens only when
/// its starter says so.
pub fn serve(key: &str, standby: bool) -> Result<ExitCode, Failure> {
    silent::get_ready();
    let failed = environment::prepare(false);
    let rundir = RunDir::open()?;
    let listening = begin(&rundir, key, false, &failed).and_then(|(server, beginning)| {
        if standby && !stand_by(&rundir, key)? {
            return Ok(None);
        }
        Ok(Some((server, bind(&rundir, key)?, beginning)))
    });
    let (server, listener, beginning) = match listening {
        Ok(Some(started)) => started,
        // Another server goes on.
        Ok(None) => return Ok(ExitCode::SUCCESS),
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

/// Says that this server could take over, and waits for its starter to say that it is to listen.
/// `false`: the starter has ended without a word.
///
/// # Errors
/// The state of the devices cannot be read.
fn stand_by(rundir: &RunDir, key: &str) -> Result<bool, Failure> {
    rundir.state(key)?.ok_or("there is no state file of these devices")?;
    if is_broken("start") {
        std::process::abort();
    }
    say(READY)?;
    let told = io::stdin().lock().read_line(&mut String::new())? > 0;
    if is_broken("start-late") {
        std::process::abort();
    }
    Ok(told)
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
    let (mut server, beginning) = begin(rundir, key, true, &environment::prepare(true))?;
    let listener = bind(rundir, key)?;
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

/// Makes this process a server that does not listen yet.
fn begin(
    rundir: &RunDir,
    key: &str,
    foreground: bool,
    failed: &[String],
) -> Result<(Server, Beginning), Failure> {
    let destination =
        logging::Destination { file: rundir.log_path(key), key: key.to_owned(), foreground };
    logging::start(destination).map_err(|error| Failure::from(error).context("the log"))?;
    failed.iter().for_each(|what| log::warn!("{what}"));
    let beginning = signals::handle()?;
    Ok((Server::start(key, rundir)?, beginning))
}

/// Listens at the socket of a family.
fn bind(rundir: &RunDir, key: &str) -> Result<UnixListener, Failure> {
    let socket = rundir.socket(key);
    UnixListener::bind(&socket).map_err(|error| Failure::at(&socket, error))
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
