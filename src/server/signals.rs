//! Signals to a server: those that end it become a command, so that they are answered in turn; no
//! other one may.

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

/// Signals that would end or stop a process that does not expect them. A server has nothing to read
/// anew, and what uses its devices must not wait because a terminal was closed. (SIGPIPE and
/// SIGXFSZ are ignored from the start.)
const IGNORED: [i32; 9] =
    [SIGHUP, SIGUSR1, SIGUSR2, SIGALRM, SIGVTALRM, SIGPROF, SIGIO, SIGXCPU, SIGTSTP];

/// How far a server has come, for those who tell it to end.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Stage {
    /// It adds or takes over its first devices, and nothing can be asked of it.
    #[default]
    Begins,
    /// It has been told to end before it could be asked.
    Told,
    /// It answers at its socket.
    Answers,
}

/// The beginning of a server: a signal that comes before it answers is kept for it.
#[derive(Clone, Default)]
pub(super) struct Beginning(Arc<Mutex<Stage>>);

impl Beginning {
    /// The server answers at its socket from now on. `false`: it has been told to end, and must not
    /// begin.
    pub(super) fn is_over(&self) -> bool {
        let stage = &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if *stage == Stage::Begins {
            *stage = Stage::Answers;
        }
        *stage == Stage::Answers
    }

    /// Tells a server to end that does not answer yet. `false`: it has to be asked.
    fn tell(&self) -> bool {
        let stage = &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if *stage == Stage::Begins {
            *stage = Stage::Told;
        }
        *stage == Stage::Told
    }
}

/// Answers signals from now on.
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

/// Asks the server to end. It may refuse, and goes on with all that it has then; the next signal
/// asks again.
///
/// The service manager is not told that the end has begun: a server that has been asked may have
/// devices that keep it, and a manager that waits for an end kills what does not come to it.
fn end(socket: &Path) -> Result<(), Reason> {
    let hint = "the devices are served on; mend that and send the signal again, or delete them \
                (`ublk-dm del`)";
    let refused = |why: Failure| why.context("the server cannot end").ending(format!("; {hint}"));
    match protocol::connect(socket).and_then(|server| protocol::ask(server, &Command::Shutdown)) {
        Ok(Reply::Failed(why)) => Err(refused(why)),
        Ok(_) => Ok(()),
        // It has ended before its answer was read.
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
        // Where nothing can be asked, it is said as well.
        std::fs::remove_file(&socket).unwrap();
        assert!(end(&socket).unwrap_err().contains("family.sock"));
    }
}
