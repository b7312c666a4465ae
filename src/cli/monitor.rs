//! `monitor`: the events of all devices, as they happen.
//!
//! Rules kept here: no server is asked, and none waits for this command; an event that happens
//! while another one is handled is not missed; and the command ends when its reader has left.

mod tail;

use std::env;
use std::ffi::OsString;
use std::fs;
use std::io::{self, ErrorKind, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::fs::{Access, access};
use rustix::io::Errno;

use self::tail::Tail;
use super::args::Monitor;
use super::client::open_rundir;
use super::json;
use super::terminal::{CANNOT_WRITE, complain};
use crate::failure::{Failure, Kind, one_line};
use crate::protocol::EventLine;
use crate::rundir::RunDir;
use crate::sys::stdout::was_closed;

/// Room for the kernel's notices of one look.
const NOTICES: usize = 4096;

/// Prints events, and runs a program for each, until it is ended or its reader has left.
pub(super) fn monitor(asked: &Monitor) -> Result<(), Failure> {
    refuse_closed()?;
    asked.exec.as_deref().map_or(Ok(()), refuse_no_program)?;
    let rundir = open_rundir()?;
    let mut tail = Tail::default();
    // The directory may be removed and made again: then it is watched anew.
    let mut from_start = asked.past;
    loop {
        let watch = watch(&rundir)?;
        let dir = rundir.log_dir();
        if !from_start {
            tail.skip(&dir).map_err(|error| Failure::at(&dir, error))?;
        }
        from_start = true;
        loop {
            for event in tail.read(&dir).map_err(|error| Failure::at(&dir, error))? {
                if !print(&event)? {
                    return Ok(());
                }
                if let Some(program) = &asked.exec {
                    run(program, &event);
                }
            }
            match wait(&watch)? {
                Woken::Changed => {}
                Woken::Removed => break,
                Woken::Left => return Ok(()),
            }
        }
    }
}

/// Refuses to begin without a place to write to: with `--exec` alone that is `/dev/null`.
fn refuse_closed() -> Result<(), Failure> {
    let cannot = || Failure::from(io::Error::from(Errno::BADF)).context(CANNOT_WRITE);
    if was_closed() { Err(cannot()) } else { Ok(()) }
}

/// Refuses a program that cannot be run: at the first event nobody would be there to see it.
fn refuse_no_program(program: &Path) -> Result<(), Failure> {
    let path = env::var_os("PATH").unwrap_or_default();
    let dirs = if program.components().count() > 1 { OsString::new() } else { path };
    let runs = |dir: PathBuf| {
        let file = dir.join(program);
        file.is_file() && access(&file, Access::EXEC_OK).is_ok()
    };
    if env::split_paths(&dirs).any(runs) {
        return Ok(());
    }
    let what = format!("--exec {}: no such program, or not one that can be run", program.display());
    Err(Failure::new(Kind::NotFound, what))
}

/// Has the kernel report changes in the directory of events, which is made if it is not there.
fn watch(rundir: &RunDir) -> Result<OwnedFd, Failure> {
    let dir = rundir.log_dir();
    let at = |error: io::Error| Failure::at(&dir, error);
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir).map_err(at)?;
    let flags = CreateFlags::CLOEXEC | CreateFlags::NONBLOCK;
    let watch = inotify::init(flags).map_err(|error| at(error.into()))?;
    let wanted = WatchFlags::MODIFY | WatchFlags::CREATE | WatchFlags::MOVED_TO;
    let wanted = wanted | WatchFlags::DELETE_SELF | WatchFlags::MOVE_SELF;
    inotify::add_watch(&watch, &dir, wanted).map_err(|error| at(error.into()))?;
    Ok(watch)
}

/// Why a wait has ended.
enum Woken {
    /// Something in the directory has changed.
    Changed,
    /// The directory is gone.
    Removed,
    /// Nobody reads what is printed any more.
    Left,
}

fn wait(watch: &OwnedFd) -> Result<Woken, Failure> {
    let stdout = io::stdout();
    loop {
        let mut fds = [
            PollFd::new(watch, PollFlags::IN),
            PollFd::from_borrowed_fd(stdout.as_fd(), PollFlags::empty()),
        ];
        match poll(&mut fds, None) {
            Err(Errno::INTR) => continue,
            done => done.map_err(io::Error::from)?,
        };
        if fds[1].revents().intersects(PollFlags::ERR | PollFlags::HUP) {
            return Ok(Woken::Left);
        }
        let mut room = [MaybeUninit::uninit(); NOTICES];
        let mut notices = inotify::Reader::new(watch, &mut room);
        let mut is_gone = false;
        loop {
            match notices.next() {
                Ok(notice) => {
                    let gone = ReadFlags::DELETE_SELF | ReadFlags::MOVE_SELF | ReadFlags::IGNORED;
                    is_gone |= notice.events().intersects(gone);
                }
                Err(Errno::AGAIN) => break,
                Err(error) => return Err(io::Error::from(error).into()),
            }
        }
        return Ok(if is_gone { Woken::Removed } else { Woken::Changed });
    }
}

/// Prints an event. Returns whether there is somebody to read it.
fn print(event: &EventLine) -> Result<bool, Failure> {
    let line = match json::is_on() {
        // It is one already, with its version.
        true => serde_json::to_string(event).map_err(io::Error::from)?,
        false => one_line(&format!(
            "{} {:<7} {:<13} {}: {}",
            event.time, event.priority, event.event, event.device, event.message
        )),
    };
    let mut stdout = io::stdout().lock();
    match writeln!(stdout, "{line}").and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(Failure::from(error).context(CANNOT_WRITE)),
        Ok(()) => Ok(true),
    }
}

/// Runs the program for an event, and waits for it. What becomes of it changes nothing here.
fn run(program: &Path, event: &EventLine) {
    let text = |number: Option<u64>| number.map_or(String::new(), |number| number.to_string());
    let done = Command::new(program)
        .args([&event.event, &event.device])
        .env("UBLK_DM_TIME", &event.time)
        .env("UBLK_DM_EVENT", &event.event)
        .env("UBLK_DM_PRIORITY", &event.priority)
        .env("UBLK_DM_DEVICE", &event.device)
        .env("UBLK_DM_DISK", event.disk.as_deref().unwrap_or_default())
        .env("UBLK_DM_LEG", text(event.leg))
        .env("UBLK_DM_PERCENT", text(event.percent))
        .env("UBLK_DM_MESSAGE", &event.message)
        .status();
    match done {
        Ok(status) if status.success() => {}
        Ok(status) => {
            let what = format!("--exec {}: {}: {status}", program.display(), event.event);
            complain(&Failure::from(what));
        }
        Err(error) => {
            let what = format!("--exec {}: {}", program.display(), event.event);
            complain(&Failure::from(error).context(what));
        }
    }
}
