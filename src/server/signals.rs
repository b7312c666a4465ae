//! Signals to a server: terminating signals become a command, so that they are handled in turn; all
//! others are ignored.

use std::io::ErrorKind;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use signal_hook::consts::{
    SIGALRM, SIGHUP, SIGIO, SIGPROF, SIGTSTP, SIGUSR1, SIGUSR2, SIGVTALRM, SIGXCPU, TERM_SIGNALS,
};
use signal_hook::iterator::Signals;

use crate::failure::{Failure, Reason};
use crate::protocol::{self, Command, Reply};
use crate::rundir::RunDir;

/// Signals that end or stop a process by default. A server has no configuration to reload, and
/// users of its devices must not block because a terminal was closed. (SIGPIPE and SIGXFSZ are
/// ignored from the start.)
const IGNORED: [i32; 9] =
    [SIGHUP, SIGUSR1, SIGUSR2, SIGALRM, SIGVTALRM, SIGPROF, SIGIO, SIGXCPU, SIGTSTP];

/// The stage of a server, for the signal thread.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Stage {
    /// It adds or takes over its first devices, and does not answer commands yet.
    #[default]
    Begins,
    /// A signal asked it to end before it answered commands.
    Told,
    /// It answers at its socket.
    Answers,
}

/// The start of a server: a signal that arrives before it answers commands is remembered.
#[derive(Clone, Default)]
pub(super) struct Beginning(Arc<Mutex<Stage>>);

impl Beginning {
    /// The server answers at its socket from now on. `false`: a signal has asked it to end, and it
    /// must not start.
    pub(super) fn is_over(&self) -> bool {
        let stage = &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if *stage == Stage::Begins {
            *stage = Stage::Answers;
        }
        *stage == Stage::Answers
    }

    /// Remembers a signal if the server does not answer yet. `false`: the server has to be asked.
    fn tell(&self) -> bool {
        let stage = &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if *stage == Stage::Begins {
            *stage = Stage::Told;
        }
        *stage == Stage::Told
    }
}

/// Handles signals from now on.
pub(super) fn reply(rundir: &RunDir, key: &str) -> Result<Beginning, String> {
    let all = TERM_SIGNALS.iter().chain(&IGNORED);
    let mut signals = Signals::new(all).map_err(|error| format!("signals: {error}"))?;
    let socket = rundir.socket(key);
    let beginning = Beginning::default();
    let told = beginning.clone();
    let wait = move || {
        for signal in signals.forever() {
            let name = signal_hook::low_level::signal_name(signal).unwrap_or("a signal");
            if !TERM_SIGNALS.contains(&signal) {
                log::info!("{name}: ignored");
                continue;
            }
            log::info!("{name}: ending");
            if told.tell() {
                continue;
            }
            if let Err(why) = end(&socket) {
                log::error!("{name}: {why}");
            }
        }
    };
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(wait)
        .map_err(|error| format!("signals: {error}"))?;
    Ok(beginning)
}

/// Asks the server to end. The server may refuse, and then continues with all its devices; the next
/// signal asks again.
///
/// The service manager is not notified that the end has begun: devices may keep the server running,
/// and a manager that waits for an end kills a server that does not end.
fn end(socket: &Path) -> Result<(), Reason> {
    let hint = "the devices are served on; mend that and send the signal again, or delete them \
                (`ublk-dm del`)";
    let refused = |why: Failure| why.context("the server cannot end").ending(format!("; {hint}"));
    match protocol::connect(socket).and_then(|server| protocol::ask(server, &Command::Shutdown)) {
        Ok(Reply::Failed(why)) => Err(refused(why)),
        Ok(_) => Ok(()),
        // The server has ended before its reply was read.
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(()),
        Err(error) => Err(refused(Failure::from(error).context(socket.display()))),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn a_signal_that_comes_before_the_server_answers_is_not_lost() {
        let beginning = Beginning::default();
        assert!(beginning.clone().tell() && beginning.tell(), "it could not be asked");
        assert!(!beginning.is_over() && !beginning.is_over(), "it begins though told to end");
        let beginning = Beginning::default();
        assert!(beginning.is_over());
        assert!(!beginning.tell(), "it answers, and is not asked");
        assert!(beginning.is_over());
    }

    #[test]
    fn a_refusal_is_said_and_the_next_signal_asks_again() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("family.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let answers = [Reply::Failed("the state file: No space left".into()), Reply::Done];
        let server = std::thread::spawn(move || {
            for reply in answers {
                let (mut connection, _) = listener.accept().unwrap();
                let mut line = String::new();
                BufReader::new(&connection).read_line(&mut line).unwrap();
                assert!(matches!(serde_json::from_str(&line).unwrap(), Command::Shutdown));
                protocol::write_line(&mut connection, &reply).unwrap();
            }
        });
        let why = end(&socket).unwrap_err();
        assert!(why.contains("No space left") && why.contains("send the signal again"), "{why}");
        end(&socket).unwrap();
        server.join().unwrap();
        // A server that cannot be reached is reported as well.
        std::fs::remove_file(&socket).unwrap();
        assert!(end(&socket).unwrap_err().contains("family.sock"));
    }
}
