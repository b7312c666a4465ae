//! `load`, `clear` and `resume`: another table for a device, whether it has one already or not.

use std::process::ExitCode;

use super::args::{Common, Loaded};
use super::client::{Answer, ask};
use super::disk_word::Disks;
use super::notable;
use super::results::{self, Named};
use super::table;
use crate::failure::Failure;
use crate::protocol::{Command, DeviceSpec, Reply};

/// Loads the table of a command line.
pub(super) fn load(word: &str, lines: &[String], options: &Loaded) -> Result<(), Failure> {
    let (force, shared) = (options.force, options.shared);
    let common = Common { force, shared, ..Common::unnamed() };
    let source = options.source.as_deref();
    let spec = table::of_lines(&lines.join("\n"), &common, source, Disks::new());
    load_spec(word, spec.map_err(|why| table::named(word, "load", why))?)
}

/// Loads a table.
pub(super) fn load_spec(word: &str, spec: DeviceSpec) -> Result<(), Failure> {
    if notable::load(word, &spec)? {
        return results::done(&Named::without_table(word));
    }
    results::done(&ask(word, |device| Command::Load { device, spec })?.device)
}

/// Drops a table that is loaded.
pub(super) fn clear(word: &str) -> Result<(), Failure> {
    if notable::clear(word)? {
        return results::done(&Named::without_table(word));
    }
    results::done(&ask(word, |device| Command::Clear { device })?.device)
}

/// Puts a table that is loaded in place; `prints`: the path of a device that is made thereby.
pub(super) fn resume(word: &str, prints: bool) -> Result<ExitCode, Failure> {
    if let Some(made) = notable::resume(word, prints)? {
        return Ok(made);
    }
    let Answer { device, reply } = ask(word, |device| Command::Resume { device })?;
    if let Reply::Noted { note } = reply {
        log::warn!("{note}");
    }
    results::done(&device)?;
    Ok(ExitCode::SUCCESS)
}
