//! `--foreground` for a device that another process serves: the command stays for as long as the device does, so that a
//! service manager can own it. A family has one server, which is the process that came first.

use std::path::Path;
use std::process::ExitCode;

use signal_hook::consts::{SIGHUP, TERM_SIGNALS};
use signal_hook::iterator::Signals;

use crate::failure::Failure;
use crate::protocol::{self, Answer, Question};
use crate::rundir::RunDir;
use crate::server::manager;

/// Watches over a device until it is deleted. Signals that end a process delete it; the death of its server is a failure,
/// so that a service manager starts the command again, which takes the device over.
pub(super) fn keep(rundir: &RunDir, key: &str, path: &str) -> Result<ExitCode, Failure> {
    let id = path.strip_prefix("/dev/ublkb").and_then(|id| id.parse().ok());
    let id: u32 = id.ok_or_else(|| format!("{path}: not a device of ublk"))?;
    delete_on_signal(rundir, key, id)?;
    manager::ready("the device answers; another process serves it");
    let died = || Failure::from(format!("{path}: its server has died; see `ublk-dm recover`"));
    let mut events = None;
    loop {
        let server = protocol::connect(&rundir.socket(key));
        match server.and_then(|server| protocol::ask(server, &Question::Wait { id, events })) {
            Ok(Answer::Events(count)) => events = Some(count),
            Ok(_) => break,
            // The server of a device that is deleted may have ended with it.
            Err(_) if !Path::new(&format!("/dev/ublkc{id}")).exists() => break,
            Err(_) => return Err(died()),
        }
    }
    manager::stopping();
    Ok(ExitCode::SUCCESS)
}

fn delete_on_signal(rundir: &RunDir, key: &str, id: u32) -> Result<(), Failure> {
    let mut signals = Signals::new(TERM_SIGNALS.iter().chain(&[SIGHUP]))?;
    let socket = rundir.socket(key);
    let wait = move || {
        for _ in signals.forever().filter(|signal| *signal != SIGHUP) {
            manager::stopping();
            let server = protocol::connect(&socket);
            match server.and_then(|server| protocol::ask(server, &Question::Del { ids: vec![id], force: false })) {
                Ok(Answer::Failed { message }) => log::error!("{message}"),
                Ok(_) => {}
                Err(error) => log::error!("/dev/ublkb{id}: cannot be deleted: {error}"),
            }
        }
    };
    std::thread::Builder::new().name("signals".into()).spawn(wait)?;
    Ok(())
}
