//! Ctrl-C in `add`: nothing is left, whenever it comes.
//!
//! The signal does not end the command but its question: the server cannot answer then, and takes the device back. An
//! answer that had been sent before is read, and the device deleted by another question.

use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::failure::Failure;
use crate::protocol::{self, Answer, Question};
use crate::rundir::RunDir;

#[derive(Default)]
struct State {
    interrupted: bool,
    /// The question that is being answered.
    asked: Option<UnixStream>,
}

/// Signals that would end the command are taken as an interruption from now on.
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
            if let Some(Err(error)) = state.asked.as_ref().map(|server| server.shutdown(Shutdown::Both)) {
                log::debug!("control socket: {error}");
            }
        });
    }

    /// Asks for a device, and takes it back if the command is interrupted meanwhile.
    pub(super) fn add(
        &self,
        rundir: &RunDir,
        key: &str,
        server: UnixStream,
        question: &Question,
        origin: &Path,
    ) -> Result<Answer, Failure> {
        let ours = server.try_clone()?;
        if self.with(|state| {
            state.asked = Some(ours);
            state.interrupted
        }) {
            return Err(interrupted());
        }
        let answer = protocol::ask(server, question);
        match self.with(|state| (state.asked.take(), state.interrupted).1) {
            false => answer.map_err(|error| format!("{}: {error}", origin.display()).into()),
            true => {
                if let Ok(Answer::Added { path, .. }) = answer {
                    take_back(rundir, key, &path)?;
                }
                Err(interrupted())
            }
        }
    }
}

fn interrupted() -> Failure {
    "interrupted: the device is not added".to_owned().into()
}

/// Deletes a device that was added a moment ago and that no one was told of.
pub(super) fn take_back(rundir: &RunDir, key: &str, path: &str) -> Result<(), Failure> {
    let failed = |why: String| Failure::from(format!("{path} was added and cannot be deleted again: {why}"));
    let id = path.strip_prefix("/dev/ublkb").and_then(|id| id.parse().ok());
    let ids = vec![id.ok_or_else(|| failed("it has no id".to_owned()))?];
    let server = protocol::connect(&rundir.socket(key)).map_err(|error| failed(error.to_string()))?;
    match protocol::ask(server, &Question::Del { ids, force: true }) {
        Ok(Answer::Failed { message }) => Err(failed(message)),
        Ok(_) => Ok(()),
        Err(error) => Err(failed(error.to_string())),
    }
}
