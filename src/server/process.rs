//! Starting and ending a server process.
//!
//! `add` starts a server in a session of its own and waits until it says on its stdout that it listens. From then on the
//! server's only ties are its socket, its state file and its log in the run directory.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::process::{ChildStdout, Command, ExitCode, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::mm::{MlockAllFlags, mlockall};
use rustix::stdio::dup2_stdout;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::Server;
use crate::cli::terminal::print;
use crate::failure::Failure;
use crate::protocol::{self, Answer, Question};
use crate::rundir::{FamilyLock, RunDir};
use crate::sys::file_size;

/// What a started server says when it listens.
const READY: &str = "ready";
/// How long it may take until then: it opens the control device, which may load the driver, and makes its ring.
const START_LIMIT: Duration = Duration::from_secs(60);

/// Starts the server of a family and connects to it.
pub fn start(rundir: &RunDir, key: &str) -> Result<UnixStream, Failure> {
    let log = rundir.log(key)?;
    let program = std::env::current_exe()?;
    let mut child = Command::new(program)
        .args(["serve", key])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        .current_dir("/")
        .process_group(0)
        .spawn()
        .map_err(|error| format!("cannot start the server: {error}"))?;
    let mut line = String::new();
    if let Some(stdout) = child.stdout.take() {
        if !says_something(&stdout)? {
            child.kill()?;
            let seconds = START_LIMIT.as_secs();
            return Err(format!("the server did not start: it has said nothing for {seconds} s").into());
        }
        BufReader::new(stdout.take(4096)).read_line(&mut line)?;
    }
    if line.trim_end() != READY {
        rundir.remove_socket(key);
        let said = line.trim_end();
        let why = if said.is_empty() { "it ended without a word" } else { said };
        return Err(format!("the server did not start: {why}").into());
    }
    protocol::connect(&rundir.socket(key)).map_err(|error| format!("cannot reach the server: {error}").into())
}

/// Waits until a server that is being started has said something, or ended.
fn says_something(stdout: &ChildStdout) -> std::io::Result<bool> {
    let limit = Timespec::try_from(START_LIMIT).map_err(std::io::Error::other)?;
    let mut fds = [PollFd::new(stdout, PollFlags::IN)];
    Ok(rustix::io::retry_on_intr(|| poll(&mut fds, Some(&limit)))? > 0)
}

/// Runs a server in the background; its starter reads stdout.
pub fn serve(key: &str) -> Result<ExitCode, Failure> {
    let started = RunDir::open().map_err(|error| error.to_string()).and_then(|rundir| listen(&rundir, key));
    let (server, listener) = match started {
        Ok(started) => started,
        Err(error) => {
            print(&error);
            return Ok(ExitCode::FAILURE);
        }
    };
    print(READY);
    detach();
    server.run(listener);
    Ok(ExitCode::SUCCESS)
}

/// Adds the first device of a family and serves it in this process.
///
/// `added` takes the server's answer.
pub fn foreground(
    rundir: &RunDir,
    key: &str,
    question: Question,
    lock: FamilyLock,
    added: impl FnOnce(Answer) -> Result<(), Failure>,
) -> Result<ExitCode, Failure> {
    let (mut server, listener) = listen(rundir, key)?;
    let answer = server.carry_out(question);
    let added = answer.map_err(Failure::from).and_then(added);
    if added.is_err() {
        rundir.remove(key);
    }
    added?;
    drop(lock);
    if let Err(error) = sd_notify::notify(false, &[sd_notify::NotifyState::Ready]) {
        log::debug!("service manager: {error}");
    }
    server.run(listener);
    Ok(ExitCode::SUCCESS)
}

fn listen(rundir: &RunDir, key: &str) -> Result<(Server, UnixListener), String> {
    let server = Server::start(key, rundir)?;
    let socket = rundir.socket(key);
    let listener = UnixListener::bind(&socket).map_err(|error| format!("{}: {error}", socket.display()))?;
    end_on_signal(rundir, key)?;
    lock_memory();
    file_size::lift();
    Ok((server, listener))
}

/// Turns SIGTERM and SIGINT into the question that ends the server, so that they are answered in turn.
fn end_on_signal(rundir: &RunDir, key: &str) -> Result<(), String> {
    let mut signals = Signals::new([SIGTERM, SIGINT]).map_err(|error| format!("signals: {error}"))?;
    let socket = rundir.socket(key);
    let wait = move || {
        for signal in signals.forever() {
            log::info!("signal {signal}: ending");
            match protocol::connect(&socket).and_then(|server| protocol::ask(server, &Question::Shutdown)) {
                Ok(_) => {}
                Err(error) => log::warn!("cannot end the server: {error}"),
            }
        }
    };
    std::thread::Builder::new().name("signals".into()).spawn(wait).map_err(|error| format!("signals: {error}"))?;
    Ok(())
}

/// A server must never wait for storage that it serves itself: what it has touched stays in memory.
fn lock_memory() {
    if let Err(error) = mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT) {
        log::warn!("mlockall: {error}");
    }
}

/// Lets go of the starter's pipe.
fn detach() {
    let null = File::options().write(true).open("/dev/null");
    if let Err(error) = null.and_then(|null| Ok(dup2_stdout(null)?)) {
        log::warn!("/dev/null: {error}");
    }
}
