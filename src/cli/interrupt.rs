//! Ctrl-C in `add` and `up`: nothing is left behind, whenever the signal arrives.
//!
//! The signal does not end the process but its request: the server then cannot answer, and takes
//! the device back. If the answer had already been sent, it is read, and the device is taken back
//! by another command.

use std::io::ErrorKind;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use dm_targets::table::TargetParams;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::failure::{Failure, Reason};
use crate::protocol::{self, Command, DeviceRef, DeviceSpec, Reply};
use crate::rundir::RunDir;
use crate::ublk::device;

#[derive(Default)]
struct State {
    interrupted: bool,
    /// The connections of the commands in progress.
    asked: Vec<Arc<UnixStream>>,
}

/// Counts signals that would end the process as an interruption, from [`Interrupt::catch`] on.
#[derive(Clone)]
pub(super) struct Interrupt(Arc<Mutex<State>>);

impl Interrupt {
    pub(super) fn catch() -> Result<Interrupt, Failure> {
        let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
        let interrupt = Interrupt(Arc::default());
        let theirs = interrupt.clone();
        let wait = move || signals.forever().for_each(|_| theirs.interrupt());
        std::thread::Builder::new().name("signals".into()).spawn(wait)?;
        Ok(interrupt)
    }

    fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn interrupt(&self) {
        self.with(|state| {
            state.interrupted = true;
            for server in &state.asked {
                if let Err(error) = server.shutdown(Shutdown::Both) {
                    log::debug!("control socket: {error}");
                }
            }
        });
    }

    /// Whether the command has been interrupted.
    pub(super) fn is_told(&self) -> bool {
        self.with(|state| state.interrupted)
    }

    /// Asks for a device, and takes the device back if the command is interrupted meanwhile.
    pub(super) fn add(
        &self,
        rundir: &RunDir,
        key: &str,
        server: UnixStream,
        (command, spec): (&Command, &DeviceSpec),
    ) -> Result<Reply, Failure> {
        let disk = spec.table.params.family().disk.unwrap_or("the device");
        let ours = Arc::new(server.try_clone()?);
        if self.with(|state| {
            state.asked.push(Arc::clone(&ours));
            state.interrupted
        }) {
            return Err("interrupted before the server was asked: nothing was added"
                .to_owned()
                .into());
        }
        let reply = protocol::ask(server, command);
        let is_told = self.with(|state| {
            state.asked.retain(|other| !Arc::ptr_eq(other, &ours));
            state.interrupted
        });
        match is_told {
            false => reply.map_err(|error| {
                let is_over =
                    matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset);
                let next = if is_over { HAS_DIED } else { GOES_BACK };
                Failure::from(error).context(disk).ending(format!("; {next}"))
            }),
            true => Err(match reply {
                Ok(Reply::Added { device, .. }) => {
                    format!("interrupted: {}", take_back(rundir, key, device, spec)).into()
                }
                // The server made no device.
                Ok(Reply::Failed(why)) => why.context("interrupted"),
                _ => format!("interrupted: the device is not added; {GOES_BACK}").into(),
            }),
        }
    }
}

/// The hint if the server dies during a command.
const HAS_DIED: &str = "its server has ended; `ublk-dm list` shows the devices that it has left";
/// The hint if the server loses its client during a command.
const GOES_BACK: &str = "its server undoes the add and logs the result";

/// Deletes a device that was just added and whose path was not printed. Returns what became of the
/// device, and of its COW.
pub(super) fn take_back(rundir: &RunDir, key: &str, which: DeviceRef, spec: &DeviceSpec) -> String {
    let path = &format!("{}{}", device::BLOCK_PATH, which.id);
    let server = protocol::connect(&rundir.socket(key));
    let deleted = match server
        .and_then(|server| protocol::ask(server, &Command::TakeBack { device: which }))
    {
        Ok(Reply::TakenBack { note }) => Ok(note),
        Ok(Reply::Deleted) => Ok(None),
        Ok(Reply::DeletedNoted { notes }) => Ok(Some(notes.join("; "))),
        Ok(Reply::Failed(why)) => Err(why),
        Ok(_) => {
            let why = Failure::from("its server sent an unexpected reply");
            Err(why.ending(not_undone(spec)))
        }
        Err(error) => Err(Failure::from(error).ending(not_undone(spec))),
    };
    outcome(path, deleted, Path::new(path).exists())
}

/// What is unknown about the COW if a server did not answer, as the end of a sentence.
fn not_undone(spec: &DeviceSpec) -> String {
    match &spec.table.params {
        TargetParams::Snapshot(snapshot) if !snapshot.store.is_transient() => {
            format!(
                "; if a new store was created on {}, the content that it has overwritten may not \
                 be restored",
                snapshot.cow
            )
        }
        _ => String::new(),
    }
}

/// Describes what is left of a device that was to be deleted again.
fn outcome(path: &str, deleted: Result<Option<String>, Reason>, is_there: bool) -> String {
    match deleted {
        Ok(None) => "the device was deleted again".to_owned(),
        Ok(Some(note)) => format!("the device was deleted again; {note}"),
        Err(why) if is_there => {
            format!(
                "{path} was added and could not be deleted again: {why}; `ublk-dm del --force \
                 {path}` deletes it"
            )
        }
        Err(why) => format!("the device was deleted again, but {why}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(line: &str) -> DeviceSpec {
        DeviceSpec { force: true, ..DeviceSpec::of_line(line) }
    }

    #[test]
    fn what_is_left_is_said() {
        let snapshot = spec("0 64 snapshot /d/o /d/c P 8");
        assert!(
            not_undone(&snapshot).contains("/d/c")
                && not_undone(&snapshot).contains("may not be restored")
        );
        assert_eq!(not_undone(&spec("0 64 snapshot /d/o /d/c N 8")), "");
        let noted = outcome("/dev/ublkb7", Ok(Some("/d/c is as it was".to_owned())), false);
        assert_eq!(noted, "the device was deleted again; /d/c is as it was");
        assert_eq!(outcome("/dev/ublkb7", Ok(None), false), "the device was deleted again");
        let stays = outcome("/dev/ublkb7", Err("busy".into()), true);
        assert!(stays.contains("busy") && stays.contains("del --force /dev/ublkb7"), "{stays}");
        assert!(!stays.contains("was deleted again"), "{stays}");
        let lost = outcome("/dev/ublkb7", Err("its last records are lost".into()), false);
        assert!(lost.contains("deleted again, but its last records"), "{lost}");
    }
}
