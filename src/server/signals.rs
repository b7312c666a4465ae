//! Signals to a server: terminating signals become a command, so that they are handled in turn;
//! SIGHUP has the logs opened again; all others are ignored.

use std::io::{BufRead, BufReader};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, PoisonError};

use signal_hook::consts::{
    SIGALRM, SIGHUP, SIGIO, SIGPROF, SIGTSTP, SIGTTIN, SIGTTOU, SIGUSR1, SIGUSR2, SIGVTALRM,
    SIGXCPU, TERM_SIGNALS,
};
use signal_hook::iterator::Signals;

use super::listener::Pending;
use super::logging;
use crate::failure::{Failure, Reason};
use crate::protocol::{Command, Reply};

/// Signals that end or stop a process by default: users of its devices must not block because a
/// script took the server's number for another process's. (SIGPIPE and SIGXFSZ are ignored from the
/// start.)
const IGNORED: [i32; 12] = [
    SIGUSR1,
    SIGUSR2,
    SIGALRM,
    SIGVTALRM,
    SIGPROF,
    SIGIO,
    SIGXCPU,
    SIGTSTP,
    SIGTTIN,
    SIGTTOU,
    libc::SIGPWR,
    libc::SIGSTKFLT,
];

/// The stage of a server, for the signal thread.
#[derive(Clone, Default)]
enum Stage {
    /// It adds or takes over its first devices, and does not answer commands yet.
    #[default]
    Begins,
    /// A signal asked it to end before it answered commands.
    Told,
    /// Its control thread takes commands here.
    Answers(Sender<Pending>),
}

/// The start of a server: a signal that arrives before it answers commands is remembered.
#[derive(Clone, Default)]
pub(super) struct Beginning(Arc<Mutex<Stage>>);

impl Beginning {
    /// The server takes commands from now on. `false`: a signal has asked it to end, and it must
    /// not start.
    pub(super) fn is_over(&self, control: Sender<Pending>) -> bool {
        let stage = &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(stage, Stage::Begins) {
            *stage = Stage::Answers(control);
        }
        matches!(stage, Stage::Answers(_))
    }

    /// Remembers a signal if the server takes no commands yet; otherwise returns where it does.
    fn tell(&self) -> Option<Sender<Pending>> {
        let stage = &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match stage {
            Stage::Answers(control) => Some(control.clone()),
            Stage::Begins | Stage::Told => {
                *stage = Stage::Told;
                None
            }
        }
    }
}

/// Handles signals from now on.
pub(super) fn handle() -> Result<Beginning, Reason> {
    let real_time = libc::SIGRTMIN()..=libc::SIGRTMAX();
    let all = TERM_SIGNALS.iter().chain(&IGNORED).chain([&SIGHUP]).copied().chain(real_time);
    let mut signals = Signals::new(all).map_err(|error| Failure::from(error).context("signals"))?;
    let beginning = Beginning::default();
    let told = beginning.clone();
    let wait = move || {
        for signal in signals.forever() {
            let known = signal_hook::low_level::signal_name(signal).map(str::to_owned);
            let name = known.unwrap_or_else(|| format!("signal {signal}"));
            // A server has nothing else to read again: commands change its devices.
            if signal == SIGHUP {
                logging::reopen();
                log::info!("{name}: the logs were opened again");
                continue;
            }
            if !TERM_SIGNALS.contains(&signal) {
                log::info!("{name}: ignored");
                continue;
            }
            log::info!("{name}: ending");
            let Some(control) = told.tell() else { continue };
            if let Err(why) = end(&control) {
                log::error!("{name}: {why}");
            }
        }
    };
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(wait)
        .map_err(|error| Failure::from(error).context("signals"))?;
    Ok(beginning)
}

/// Asks the server to end, as a client does, but within the process: its socket may have been
/// removed. The server may refuse, and then continues with all its devices; the next signal asks
/// again.
///
/// The service manager is not notified that the end has begun: devices may keep the server running,
/// and a manager that waits for an end kills a server that does not end.
fn end(control: &Sender<Pending>) -> Result<(), Reason> {
    let hint = "the server continues to serve its devices; correct the cause and send the signal \
                again, or delete the devices (`ublk-dm del`)";
    let refused = |why: Failure| why.context("the server cannot end").ending(format!("; {hint}"));
    let (ours, its) = UnixStream::pair().map_err(|error| refused(error.into()))?;
    if control.send(Pending::Command(Box::new(Command::Shutdown), its)).is_err() {
        // The control thread has ended, and the process is about to.
        return Ok(());
    }
    let mut line = String::new();
    BufReader::new(&ours).read_line(&mut line).map_err(|error| refused(error.into()))?;
    match serde_json::from_str(&line) {
        Ok(Reply::Failed(why)) => Err(refused(why)),
        // Without a reply the server has ended before it could be written.
        Ok(_) | Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;
    use crate::protocol;

    #[test]
    fn a_signal_that_comes_before_the_server_answers_is_not_lost() {
        let (control, _commands) = channel();
        let beginning = Beginning::default();
        assert!(beginning.clone().tell().is_none() && beginning.tell().is_none());
        let is_over = |beginning: &Beginning| beginning.is_over(control.clone());
        assert!(!is_over(&beginning) && !is_over(&beginning), "it begins though told to end");
        let beginning = Beginning::default();
        assert!(is_over(&beginning));
        assert!(beginning.tell().is_some(), "it answers, and is not asked");
        assert!(is_over(&beginning));
    }

    #[test]
    fn a_refusal_is_said_and_the_next_signal_asks_again() {
        let (control, commands) = channel();
        let answers = [Reply::Failed("the state file: No space left".into()), Reply::Done];
        let server = std::thread::spawn(move || {
            for reply in answers {
                let Ok(Pending::Command(command, mut connection)) = commands.recv() else {
                    panic!("no command")
                };
                assert!(matches!(*command, Command::Shutdown));
                assert!(!protocol::has_left(&connection), "such a command is not begun");
                protocol::write_line(&mut connection, &reply).unwrap();
            }
        });
        let why = end(&control).unwrap_err();
        assert!(why.contains("No space left") && why.contains("send the signal again"), "{why}");
        end(&control).unwrap();
        server.join().unwrap();
        // A server that has ended has done what the signal wants.
        end(&control).unwrap();
    }
}
