//! What a service manager is told by a process in the foreground: ready, stopping, still at work.
//!
//! A server in the background was started by another process and has no manager: [`super::process`] takes the manager's
//! variables out of its environment.

use std::path::PathBuf;
use std::time::Duration;

use sd_notify::NotifyState;

use crate::protocol::{self, Answer, Question};

fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(false, states) {
        log::debug!("service manager: {error}");
    }
}

/// The devices answer.
pub fn ready(status: &str) {
    notify(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// The end has begun.
pub fn stopping() {
    notify(&[NotifyState::Stopping]);
}

/// Says that a server is at work, twice in the time that the manager gives it, for as long as it answers at its socket:
/// then the thread that takes questions and the one that has the data go on.
pub fn watch(socket: PathBuf) {
    let mut limit_us = 0;
    if !sd_notify::watchdog_enabled(false, &mut limit_us) {
        return;
    }
    let pause = Duration::from_micros(limit_us / 2);
    let beat = move || loop {
        let answer = protocol::connect(&socket).and_then(|server| protocol::ask(server, &Question::Report));
        if matches!(answer, Ok(Answer::Devices(_))) {
            notify(&[NotifyState::Watchdog]);
        }
        std::thread::sleep(pause);
    };
    if let Err(error) = std::thread::Builder::new().name("watchdog".into()).spawn(beat) {
        log::error!("the watchdog's thread cannot be started: {error}");
    }
}
