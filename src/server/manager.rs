//! What a service manager is told by a process in the foreground: ready, stopping, still at work.
//!
//! A server in the background was started by another process and has no manager: [`super::process`]
//! takes the manager's variables out of its environment.

use std::path::PathBuf;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use sd_notify::NotifyState;

use crate::protocol::{self, Command, Reply};

/// How long a manager may take to hear something. One that does not read keeps no device from its
/// end.
const NOTIFY_LIMIT: Duration = Duration::from_secs(2);

fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(false, states) {
        log::debug!("service manager: {error}");
    }
}

/// Tells the manager something for as long as [`NOTIFY_LIMIT`]: its socket is full while it does
/// not read.
fn notify_within_limit(tell: impl FnOnce() + Send + 'static) {
    let (told, heard) = channel::<()>();
    let tell = move || {
        tell();
        drop(told);
    };
    match std::thread::Builder::new().name("manager".into()).spawn(tell) {
        Ok(_) if heard.recv_timeout(NOTIFY_LIMIT) != Err(RecvTimeoutError::Timeout) => {}
        Ok(_) => log::warn!("the service manager does not read what it is told"),
        Err(error) => log::error!("the service manager cannot be told anything: {error}"),
    }
}

/// The devices answer.
pub fn ready(status: &'static str) {
    notify_within_limit(move || notify(&[NotifyState::Ready, NotifyState::Status(status)]));
}

/// The end has begun.
pub fn stopping() {
    notify_within_limit(|| notify(&[NotifyState::Stopping]));
}

/// Says that a server is at work, twice in the time that the manager gives it, for as long as it
/// answers at its socket: then the thread that takes commands and the one that has the data go on.
pub fn watch(socket: PathBuf) {
    let mut limit_us = 0;
    if !sd_notify::watchdog_enabled(false, &mut limit_us) {
        return;
    }
    let pause = Duration::from_micros(limit_us / 2);
    let beat = move || loop {
        let reply =
            protocol::connect(&socket).and_then(|server| protocol::ask(server, &Command::Report));
        if matches!(reply, Ok(Reply::Devices(_))) {
            notify(&[NotifyState::Watchdog]);
        }
        std::thread::sleep(pause);
    };
    if let Err(error) = std::thread::Builder::new().name("watchdog".into()).spawn(beat) {
        log::error!("the watchdog's thread cannot be started: {error}");
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn a_manager_that_does_not_read_is_not_waited_for() {
        let begun = Instant::now();
        notify_within_limit(|| std::thread::sleep(30 * NOTIFY_LIMIT));
        assert!(begun.elapsed() >= NOTIFY_LIMIT && begun.elapsed() < 10 * NOTIFY_LIMIT);
        notify_within_limit(|| {});
    }
}
