//! Servers that are ending (SIGTERM): their devices are served for the moment, and wait, or are
//! gone, right after it.
//!
//! Rule kept here: `recover` does not take such a device for a served one: it waits for the end,
//! and takes over what is left then.

use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::failure::{Failure, Kind, Reason};
use crate::protocol::{self, Command, DeviceReport, Reply};
use crate::rundir::RunDir;

/// How often such a server is looked at: its end wakes nobody.
const LOOK: Duration = Duration::from_millis(50);

/// Whether a server that was alive has ended: at once if it was not asked to end.
///
/// # Errors
/// It was, and has not ended within the limit.
pub(super) fn has_ended(rundir: &RunDir, key: &str, limit: Duration) -> Result<bool, Reason> {
    let end = Instant::now() + limit;
    loop {
        let Some(server) = rundir.server(key).filter(|server| server.lives) else {
            return Ok(true);
        };
        let Some(connection) = server.connection else { return Ok(false) };
        match protocol::ask(connection, &Command::Ping) {
            Ok(Reply::Doing(doing))
                if doing.command.as_deref() == Some(Command::Shutdown.verb()) => {}
            // It leaves without an answer.
            Err(error) if !protocol::is_late(&error) => {}
            _ => return Ok(false),
        }
        if Instant::now() >= end {
            let seconds = limit.as_secs();
            let why = format!(
                "{key}: not recovered: its server was asked to end and has not ended for {seconds} \
                 s; recover its devices when it has"
            );
            return Err(Failure::new(Kind::NoAnswer, why));
        }
        sleep(LOOK);
    }
}

/// Why devices are not recovered whose server has ended and left nothing.
pub(super) fn gone(named: &[&DeviceReport]) -> Reason {
    let names: Vec<_> = named.iter().map(|device| device.name.as_str()).collect();
    let what = "not recovered: its server has ended, and deleted it";
    Failure::new(Kind::NotFound, format!("{}: {what}", names.join(", ")))
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Write};
    use std::os::unix::net::UnixListener;

    use super::*;

    /// A server that is doing something for as many questions as this, and ends then.
    fn server(command: Option<&str>, answers: usize) -> (tempfile::TempDir, RunDir) {
        let dir = tempfile::tempdir().unwrap();
        let rundir = RunDir::trusted(dir.path().to_owned());
        let socket = UnixListener::bind(rundir.socket("k")).unwrap();
        let doing = serde_json::json!({ "Doing": { "command": command, "oldest": [] } });
        std::thread::spawn(move || {
            let mut left = answers;
            for mut client in socket.incoming().flatten() {
                let mut line = String::new();
                // Whether it lives is asked with a connection without a command.
                if BufReader::new(&client).read_line(&mut line).unwrap_or(0) == 0 {
                    continue;
                }
                writeln!(client, "{doing}").unwrap();
                left -= 1;
                if left == 0 {
                    return;
                }
            }
        });
        (dir, rundir)
    }

    #[test]
    fn a_server_that_was_asked_to_end_is_waited_for() {
        let limit = Duration::from_secs(20);
        let (_dir, rundir) = server(Some("end"), 3);
        assert!(has_ended(&rundir, "k", limit).unwrap());
        for command in [None, Some("add")] {
            let (_dir, rundir) = server(command, 1);
            assert!(!has_ended(&rundir, "k", limit).unwrap(), "{command:?}");
        }
        let (_dir, rundir) = server(Some("end"), usize::MAX);
        let why = has_ended(&rundir, "k", Duration::from_millis(120)).unwrap_err();
        assert!(why.code() == 1 && why.contains("was asked to end"), "{why}");
    }
}
