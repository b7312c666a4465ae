//! Notifications to a service manager by a process in the foreground: ready, stopping, still alive.
//!
//! A server in the background has no manager: [`super::process`] removes the manager's variables
//! from its environment.

use std::path::PathBuf;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use sd_notify::NotifyState;

use crate::protocol::{self, Command, Reply};

/// How long a notification may take. A manager that does not read delays no device's end.
const NOTIFY_LIMIT: Duration = Duration::from_secs(2);

fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(false, states) {
        log::debug!("service manager: {error}");
    }
}

/// Sends a notification, for [`NOTIFY_LIMIT`] at most: the manager's socket is full while the
/// manager does not read.
fn notify_within_limit(tell: impl FnOnce() + Send + 'static) {
    let (told, heard) = channel::<()>();
    let tell = move || {
        tell();
        drop(told);
    };
    match std::thread::Builder::new().name("manager".into()).spawn(tell) {
        Ok(_) if heard.recv_timeout(NOTIFY_LIMIT) != Err(RecvTimeoutError::Timeout) => {}
        Ok(_) => log::warn!("the service manager does not read its notifications"),
        Err(error) => log::error!("the service manager cannot be notified: {error}"),
    }
}

/// Notifies the manager that the devices are live.
pub fn ready(status: &'static str) {
    notify_within_limit(move || notify(&[NotifyState::Ready, NotifyState::Status(status)]));
}

/// Notifies the manager that the server is shutting down.
pub fn stopping() {
    notify_within_limit(|| notify(&[NotifyState::Stopping]));
}

/// Sends watchdog notifications, two per watchdog interval, while the server answers at its socket:
/// then both the listener thread and the data thread are running.
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
        log::error!("the watchdog thread cannot be started: {error}");
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
