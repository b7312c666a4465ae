//! The lines that a command logs, on stderr: for people, for those who look for a cause, and for
//! programs.

use std::io::Write;

use env_logger::Logger;
use log::{Level, LevelFilter, Record};

use crate::failure::one_line;

/// What the lines of a command look like on stderr.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// As its errors do: for people, who have asked for a result.
    Plain,
    /// With the time and the file that logs: for people who look for the cause of something.
    Full,
    /// Each is a JSON object.
    Objects,
}

impl Look {
    /// The look of a command's lines unless they are objects; `verbose`: more lines than usual are
    /// asked for, by a flag.
    pub fn of_text(verbose: bool) -> Look {
        let is_asked = verbose || std::env::var_os(env_logger::DEFAULT_FILTER_ENV).is_some();
        if is_asked { Look::Full } else { Look::Plain }
    }
}

/// The logger of a command.
pub(super) fn logger(level: LevelFilter, look: Look) -> Logger {
    let mut builder = env_logger::Builder::new();
    builder.filter_level(level).parse_default_env();
    match look {
        Look::Plain => {
            builder.format(|out, record| {
                writeln!(out, "{}", plain(record.level(), &record.args().to_string()))
            });
        }
        Look::Full => {}
        Look::Objects => {
            builder.format(|out, record| writeln!(out, "{}", object_of(record)));
        }
    }
    builder.build()
}

/// A line as an object, as `docs/json.md` has it.
fn object_of(record: &Record<'_>) -> serde_json::Value {
    let level = record.level().as_str().to_ascii_lowercase();
    serde_json::json!({ "version": 1, "log": {
        "level": level, "message": record.args().to_string(),
    } })
}

/// A line as that of an error, with its level in front.
fn plain(level: Level, message: &str) -> String {
    let word = match level {
        Level::Error => "error",
        Level::Warn => "warning",
        Level::Info => "info",
        Level::Debug => "debug",
        Level::Trace => "trace",
    };
    // It may contain what a user has written, as an error may.
    format!("ublk-dm: {word}: {}", one_line(message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_a_command_looks_like_an_error() {
        let line = plain(Level::Warn, "s: its COW\nis lost");
        assert_eq!(line, "ublk-dm: warning: s: its COW is lost");
        assert_eq!(plain(Level::Error, "m: \u{1b}[1m"), "ublk-dm: error: m: \\u{1b}[1m");
        assert_eq!(Look::of_text(true), Look::Full);
    }
}
