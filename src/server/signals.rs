//! Signals to a server: those that end it become a question, so that they are answered in turn; no other one may.

use signal_hook::consts::{
    SIGALRM, SIGHUP, SIGIO, SIGPROF, SIGTSTP, SIGUSR1, SIGUSR2, SIGVTALRM, SIGXCPU, TERM_SIGNALS,
};
use signal_hook::iterator::Signals;

use super::manager;
use crate::protocol::{self, Question};
use crate::rundir::RunDir;

/// Signals that would end or stop a process that does not expect them. A server has nothing to read anew, and what uses its
/// devices must not wait because a terminal was closed. (SIGPIPE and SIGXFSZ are ignored from the start.)
const IGNORED: [i32; 9] = [SIGHUP, SIGUSR1, SIGUSR2, SIGALRM, SIGVTALRM, SIGPROF, SIGIO, SIGXCPU, SIGTSTP];

/// Answers signals from now on.
pub(super) fn answer(rundir: &RunDir, key: &str) -> Result<(), String> {
    let all = TERM_SIGNALS.iter().chain(&IGNORED);
    let mut signals = Signals::new(all).map_err(|error| format!("signals: {error}"))?;
    let socket = rundir.socket(key);
    let wait = move || {
        for signal in signals.forever() {
            let name = signal_hook::low_level::signal_name(signal).unwrap_or("a signal");
            if !TERM_SIGNALS.contains(&signal) {
                log::info!("{name}: ignored");
                continue;
            }
            log::info!("{name}: ending");
            manager::stopping();
            match protocol::connect(&socket).and_then(|server| protocol::ask(server, &Question::Shutdown)) {
                Ok(_) => {}
                Err(error) => log::warn!("cannot end the server: {error}"),
            }
        }
    };
    std::thread::Builder::new().name("signals".into()).spawn(wait).map_err(|error| format!("signals: {error}"))?;
    Ok(())
}
