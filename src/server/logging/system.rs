//! The machine's log: the journal, or syslog if there is no journal.

use std::os::unix::net::UnixDatagram;
use std::time::SystemTime;

use log::{Level, Record};
use systemd_journal_logger::JournalLog;

/// The identifier of lines in the machine's log.
const IDENTIFIER: &str = "ublk-dm";
/// The socket of syslog daemons.
const DEV_LOG: &str = "/dev/log";
/// The syslog facility "daemon".
const FACILITY: u8 = 3;

/// The fields of a line, by their names.
pub(super) type Fields = Vec<(String, String)>;

/// A connection to the machine's log.
pub(super) enum SystemLog {
    /// The journal's own protocol.
    Journal { journal: JournalLog, key: String },
    /// A datagram for each line. It is addressed each time, so that a restarted daemon gets it.
    Syslog { socket: UnixDatagram, key: String },
}

impl SystemLog {
    /// Opens the machine's log, if there is one.
    pub(super) fn open(key: &str) -> Option<SystemLog> {
        let key = key.to_owned();
        if let Ok(journal) = JournalLog::empty() {
            let journal = journal.with_syslog_identifier(IDENTIFIER.to_owned());
            return Some(SystemLog::Journal {
                journal: journal.add_extra_field("UBLK_DM_SERVER", &key),
                key,
            });
        }
        UnixDatagram::unbound().ok().map(|socket| SystemLog::Syslog { socket, key })
    }

    /// Writes a line. Errors are ignored: the log file has the line.
    pub(super) fn write(&self, level: Level, target: &str, message: &str, fields: &Fields) {
        match self {
            SystemLog::Journal { journal, key } => {
                let prefixed = format!("{key}: {message}");
                let fields: Vec<(String, &str)> = fields
                    .iter()
                    .map(|(name, value)| (format!("UBLK_DM_{name}"), value.as_str()))
                    .collect();
                let sent = journal.journal_send(
                    &Record::builder()
                        .level(level)
                        .target(target)
                        .key_values(&fields)
                        .args(format_args!("{prefixed}"))
                        .build(),
                );
                drop(sent);
            }
            SystemLog::Syslog { socket, key } => {
                let line = syslog_line(level, std::process::id(), key, message);
                drop(socket.send_to(line.as_bytes(), DEV_LOG));
            }
        }
    }
}

/// A line in syslog's format (RFC 3164); the daemon adds the time.
fn syslog_line(level: Level, pid: u32, key: &str, message: &str) -> String {
    let priority = FACILITY * 8 + priority(level);
    format!("<{priority}>{IDENTIFIER}[{pid}]: {key}: {}", message.replace('\n', " "))
}

/// Priorities of syslog and the journal, as the journal's crate maps them: a server's info level is
/// a notice.
pub(super) fn priority(level: Level) -> u8 {
    match level {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 5,
        Level::Debug => 6,
        Level::Trace => 7,
    }
}

/// A time in RFC 3339 format, in whole seconds.
pub(super) fn utc(at: SystemTime) -> String {
    match jiff::Timestamp::try_from(at) {
        Ok(at) => at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        // A clock that is thousands of years wrong.
        Err(_) => "-".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_syslog_line_has_its_priority() {
        let line = syslog_line(Level::Error, 7, "block-8-0", "snap0: gone\nbad");
        assert_eq!(line, "<27>ublk-dm[7]: block-8-0: snap0: gone bad");
    }
}
