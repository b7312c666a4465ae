//! `message`: words for a device's target. The server has another working directory, so disks among
//! the words become absolute paths here, as for `add`.
//!
//! Rule kept here: exit 0 is a promise. A comparison that finds a difference has found the mirror
//! bad.

use std::path::Path;
use std::process::ExitCode;

use serde_json::{Value, json};

use super::client::{ask, open_rundir};
use super::disk_word::Disks;
use super::json;
use super::results::{self, Named};
use super::stand_in;
use super::terminal::print;
use crate::failure::{FOUND_BAD, Failure};
use crate::protocol::{Command, Reply};

/// Sends the words and prints what the target replies. The exit code of `check` is that of a
/// comparison: each line is a range that differs.
pub(super) fn message(device: &str, words: Vec<String>) -> Result<ExitCode, Failure> {
    let mut disks = Disks::new();
    let words = with_paths(words, &mut disks)?;
    let named = disks.named();
    let is_verb = |known: &str| words.first().is_some_and(|verb| verb == known);
    let (compares, exchanges) = (is_verb("check"), is_verb("replace") || is_verb("remove-leg"));
    let answer = ask(device, |device| Command::Message { device, words, named })?;
    if exchanges {
        stand_in::delete_unused(&open_rundir()?, "message");
    }
    let lines = if let Reply::Lines(lines) = answer.reply { lines } else { Vec::new() };
    let printed = match json::is_on() {
        true => show(&answer.device, &lines),
        false => lines.iter().try_for_each(|line| print(line)),
    };
    printed.map_err(|failure| if compares { failure } else { done(device, failure) })?;
    let differs = compares && !lines.is_empty();
    Ok(if differs { ExitCode::from(FOUND_BAD) } else { ExitCode::SUCCESS })
}

/// Prints what the target replies as one object: a line that is an object stays one.
fn show(device: &Named, lines: &[String]) -> Result<(), Failure> {
    let reply = lines.iter().map(|line| {
        serde_json::from_str::<Value>(line).unwrap_or_else(|_| Value::String(line.clone()))
    });
    results::show(|| json!({ "device": device, "reply": reply.collect::<Vec<_>>() }))
}

/// Says that the message was carried out, although its result cannot be printed.
fn done(device: &str, why: Failure) -> Failure {
    why.but(format!("{device}: the message was carried out"))
}

/// Turns legs and disks into absolute paths; the help of `message` says which words these are. All
/// other words are passed on unchanged.
fn with_paths(mut words: Vec<String>, disks: &mut Disks) -> Result<Vec<String>, Failure> {
    match &mut words[..] {
        [verb, leg, disk] if verb == "replace" => {
            (*leg, *disk) = (known_leg(leg, disks)?, new_leg(disk, disks)?);
        }
        [verb, disk] if verb == "add-leg" => *disk = new_leg(disk, disks)?,
        [verb, leg] if verb == "remove-leg" || verb == "repair" => *leg = known_leg(leg, disks)?,
        _ => {}
    }
    Ok(words)
}

/// An existing leg of the mirror: a number from 0, or a disk.
fn known_leg(word: &str, disks: &mut Disks) -> Result<String, Failure> {
    match word.parse::<usize>() {
        Ok(_) => Ok(word.to_owned()),
        Err(_) => disks.known_path(Path::new(word)),
    }
}

fn new_leg(word: &str, disks: &mut Disks) -> Result<String, Failure> {
    let leg = disks.leg(word)?;
    Ok(match leg.offset.bytes() {
        0 => leg.device,
        bytes => format!("{}:{bytes}", leg.device),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_the_callers() {
        let here = std::env::current_dir().unwrap();
        let here = here.display();
        for (words, expected) in [
            ("replace 1 ./new", format!("replace 1 {here}/new")),
            ("replace ./old ./new:1MiB", format!("replace {here}/old {here}/new:1048576")),
            ("replace old srv:1MiB", format!("replace {here}/old /dev/ublkb3:1048576")),
            ("replace srv srv", "replace /dev/ublkb3 /dev/ublkb3".to_owned()),
            ("replace /dev/a /dev/b:8s", "replace /dev/a /dev/b:4096".to_owned()),
            ("add-leg ./new", format!("add-leg {here}/new")),
            ("add-leg srv", "add-leg /dev/ublkb3".to_owned()),
            ("remove-leg old", format!("remove-leg {here}/old")),
            ("repair 0", "repair 0".to_owned()),
            ("repair old", format!("repair {here}/old")),
            ("repair srv", "repair /dev/ublkb3".to_owned()),
            ("throttle 50", "throttle 50".to_owned()),
            ("check", "check".to_owned()),
        ] {
            let words = words.split(' ').map(str::to_owned).collect();
            assert_eq!(
                with_paths(words, &mut Disks::with(&[("srv", 3)])).ok(),
                Some(expected.split(' ').map(str::to_owned).collect())
            );
        }
    }
}
