//! What dmsetup changes: each command becomes the calls that the house's own verbs make.
//!
//! Rules kept here: disks are shared, because device-mapper's own devices share theirs, and a part
//! that another device has, a mounted disk and foreign data are refused as for every verb; a device
//! in use is not removed, and `--force` puts an `error` table in its place, as dmsetup does; and
//! the commands end at the first device that fails.

use std::thread::sleep;
use std::time::Duration;

use dm_targets::table::Table;

use super::complaint::{ioctl, say};
use super::concise;
use super::devices::{All, One};
use super::grammar::{Asked, table};
use super::show;
use crate::cli::add;
use crate::cli::args::{self as cli, Common};
use crate::cli::client;
use crate::cli::disk_word::Disks;
use crate::cli::message;
use crate::cli::notable;
use crate::cli::remove;
use crate::cli::swap;
use crate::failure::{Failure, Kind, wrong_usage};
use crate::protocol::{Command, DeviceSpec};

/// How often `remove --retry` tries, and the pause between two tries: dmsetup's.
const TRIES: u32 = 25;
const PAUSE: Duration = Duration::from_millis(200);

/// The lines of `--table`, of a file, or of stdin.
fn lines_of(asked: &Asked, file: Option<&String>) -> Result<Vec<String>, Failure> {
    if let Some(text) = &asked.table {
        return table(text, "");
    }
    let Some(path) = file.filter(|path| *path != "-") else {
        return table(&std::io::read_to_string(std::io::stdin())?, "on stdin");
    };
    let text = std::fs::read_to_string(path);
    let why = |error| Failure::from(error).context(format!("Couldn't open '{path}' for reading"));
    table(&text.map_err(why)?, path)
}

/// A device with these lines, as the words of a dmsetup table mean it: a path in device-mapper's
/// directory at which there is nothing is the device of ublk-dm with that name.
fn spec_of(lines: &[String], common: &Common, all: &All) -> Result<DeviceSpec, Failure> {
    let text = lines.join("\n");
    let parsed = Table::parse_table(&text).map_err(|error| wrong_usage(error.to_string()))?;
    let meant = |word: &str| {
        let is_there = std::path::Path::new(word).symlink_metadata().is_ok();
        let ours = all.named(word).filter(|_| word.contains('/') && !is_there);
        Ok::<_, Failure>(ours.map_or_else(|| word.to_owned(), |one| one.name.clone()))
    };
    let text = parsed.with_devices(meant)?.to_string();
    crate::cli::table::of_lines(&text, common, None, Disks::in_tab())
}

fn common(asked: &Asked, name: &str) -> Common {
    let common = Common::named(name.to_owned());
    Common {
        uuid: asked.uuid.clone(),
        id: asked.minor,
        read_only: asked.readonly,
        force: asked.force,
        shared: true,
        ..common
    }
}

/// `create`.
pub(super) fn create(asked: &Asked) -> Result<(), Failure> {
    if asked.concise {
        return create_concise(asked);
    }
    let name = asked.words.first();
    let name = name.ok_or_else(|| Failure::from("Please provide a name for the new device."))?;
    let lines = match asked.notable {
        true => Vec::new(),
        false => lines_of(asked, asked.words.get(1))?,
    };
    create_one(name, &lines, &common(asked, name))?;
    told(asked, name)
}

fn taken() -> Failure {
    Failure::new(Kind::InUse, "the name is taken by another device")
}

fn create_one(name: &str, lines: &[String], common: &Common) -> Result<(), Failure> {
    let why = |call: &'static str| move |why: Failure| ioctl(call, name, why);
    if name.contains('/') {
        return Err(wrong_usage(format!("Name \"{name}\" invalid. It contains \"/\".")));
    }
    let all = All::read()?;
    if all.ones.iter().any(|one| one.name == name) {
        return Err(ioctl("create", name, taken()));
    }
    if lines.is_empty() {
        let created = cli::Created {
            uuid: common.uuid.clone(),
            ..cli::Created::without_table(common.id, common.read_only)
        };
        return notable::create(name, &created).map(drop).map_err(why("create"));
    }
    let spec = spec_of(lines, common, &all).map_err(why("reload"))?;
    add::add_silently(spec, common).map(drop).map_err(why("reload"))
}

/// `create --concise`: devices of an argument, or of stdin.
fn create_concise(asked: &Asked) -> Result<(), Failure> {
    let text = match asked.words.first() {
        Some(text) => text.clone(),
        None => std::io::read_to_string(std::io::stdin())?,
    };
    for one in concise::parse(&text)? {
        let lines = table(&one.lines.join("\n"), "")?;
        let read_only = asked.readonly || one.is_read_only;
        let uuid = one.uuid.clone();
        let common = Common { uuid, id: one.minor, read_only, ..common(asked, &one.name) };
        create_one(&one.name, &lines, &common)?;
        told(asked, &one.name)?;
    }
    Ok(())
}

/// With `-v`, dmsetup shows the device that it has changed.
fn told(asked: &Asked, name: &str) -> Result<(), Failure> {
    if asked.verbose == 0 {
        return Ok(());
    }
    let all = All::read()?;
    all.named(name).map_or(Ok(()), |one| show::print_info(&all, one))
}

/// `load`.
pub(super) fn load(asked: &Asked) -> Result<(), Failure> {
    if asked.words.is_empty() && !asked.names_one() {
        return Err("Please specify device.".into());
    }
    let at = usize::from(!asked.names_one());
    let lines = lines_of(asked, asked.words.get(at))?;
    let all = All::read()?;
    all.each(&asked.about(&asked.words[..at]), Some("reload"), |one, _| {
        let spec = || {
            if asked.readonly && !one.is_read_only {
                let why = "a device of ublk-dm is read-only from its creation on: `create -r`";
                return Err(Failure::new(Kind::Unsupported, why));
            }
            spec_of(&lines, &common(asked, &one.name), &all)
        };
        spec()
            .and_then(|spec| swap::load_spec(&one.word(), spec))
            .map_err(|why| ioctl("reload", &one.name, why))?;
        told(asked, &one.name)
    })
}

/// `suspend`, `resume` and `clear`, of one device or several.
#[derive(Clone, Copy)]
pub(super) enum Simple {
    Suspend,
    Resume,
    Clear,
}

/// Carries one out.
pub(super) fn simple(asked: &Asked, what: Simple) -> Result<(), Failure> {
    let all = All::read()?;
    refuse_none(asked)?;
    let call = match what {
        Simple::Suspend => "suspend",
        Simple::Resume => "resume",
        Simple::Clear => "clear",
    };
    all.each(asked, Some(call), |one, _| {
        let word = one.word();
        let done = match what {
            // There is nothing that could be in flight.
            Simple::Suspend if one.table.is_none() => Ok(()),
            Simple::Suspend => suspend(&word, asked.noflush),
            Simple::Resume if one.table.is_none() && one.inactive.is_none() => {
                Err(wrong_usage("it has no table"))
            }
            Simple::Resume => swap::resume(&word, false).map(drop),
            Simple::Clear => swap::clear(&word),
        };
        done.map_err(|why| ioctl(call, &one.name, why))?;
        told(asked, &one.name)
    })
}

fn suspend(word: &str, noflush: bool) -> Result<(), Failure> {
    client::ask(word, |device| Command::Suspend { device, noflush }).map(drop)
}

fn refuse_none(asked: &Asked) -> Result<(), Failure> {
    match asked.words.is_empty() && !asked.names_one() {
        true => Err("No device specified.".into()),
        false => Ok(()),
    }
}

/// `remove`.
pub(super) fn remove(asked: &Asked) -> Result<(), Failure> {
    refuse_none(asked)?;
    let all = All::read()?;
    all.each(asked, Some("remove"), |one, _| remove_one(one, asked))
}

fn remove_one(one: &One, asked: &Asked) -> Result<(), Failure> {
    let tries = if asked.retry { TRIES } else { 1 };
    let failed = |why| ioctl("remove", &one.name, why);
    let words = [one.word()];
    let mut is_failing = false;
    for left in (0..tries).rev() {
        // A server that is gone leaves nothing that could be replaced.
        let Err(why) = remove::del(&words, false, asked.force && one.is_orphan) else {
            return Ok(());
        };
        if asked.force && !is_failing {
            fail_all(one).map_err(failed)?;
            is_failing = true;
            if remove::del(&words, false, false).is_ok() {
                return Ok(());
            }
        }
        if left == 0 {
            let deferred = "; --deferred: not supported: a device stays until it is removed";
            return Err(failed(if asked.deferred { why.ending(deferred) } else { why }));
        }
        sleep(PAUSE);
    }
    Ok(())
}

/// Puts a table in place with which all I/O fails, without waiting for what cannot end.
fn fail_all(one: &One) -> Result<(), Failure> {
    let Some(table) = &one.table else { return Ok(()) };
    let parsed = Table::parse_table(table).map_err(|error| wrong_usage(error.to_string()))?;
    let line = format!("0 {} error", parsed.len.0);
    let spec = crate::cli::table::of_lines(&line, &Common::unnamed(), None, Disks::in_tab())?;
    let word = one.word();
    swap::load_spec(&word, spec)?;
    suspend(&word, true)?;
    swap::resume(&word, false).map(drop)
}

/// `rename`.
pub(super) fn rename(asked: &Asked) -> Result<(), Failure> {
    if asked.uuid.is_some() {
        // As the kernel: this is asked by name.
        let why = Failure::new(Kind::NotFound, "a device is renamed by its name, not by its uuid");
        return Err(ioctl("rename", "", why));
    }
    let at = usize::from(!asked.names_one());
    let (device, rest) = asked.words.split_at(at);
    let [name] = rest else { return Err(wrong_usage("Incorrect number of arguments.")) };
    if name.contains('/') {
        return Err(wrong_usage(format!("Name \"{name}\" invalid. It contains \"/\".")));
    }
    let all = All::read()?;
    all.each(&asked.about(device), Some("rename"), |one, _| {
        let done = match all.ones.iter().any(|other| other.name == *name) {
            true => Err(taken()),
            false => crate::cli::rename::rename(&one.word(), name),
        };
        done.map_err(|why| ioctl("rename", &one.name, why))?;
        told(asked, name)
    })
}

/// `wipe_table`.
pub(super) fn wipe_table(asked: &Asked) -> Result<(), Failure> {
    refuse_none(asked)?;
    let all = All::read()?;
    all.each(asked, Some("table"), |one, _| {
        fail_all(one).map_err(|why| ioctl("reload", &one.name, why))
    })
}

/// `remove_all`: what is in use stays, and is counted if `--force` was to remove it.
pub(super) fn remove_all(asked: &Asked) -> Result<(), Failure> {
    if let Err(why) = remove::del(&[], true, false) {
        log::info!("{why}");
    }
    if asked.force {
        // From the top of each stack down.
        let mut left = All::read()?.ones;
        left.sort_by_key(|one| std::cmp::Reverse(one.id));
        for one in &left {
            if let Err(why) = remove_one(one, asked) {
                log::warn!("{why}");
            }
        }
        let left = All::read()?.ones.len();
        if left > 0 {
            say(&format!("Unable to remove {left} device(s)."));
        }
    }
    Ok(())
}

/// `message`.
pub(super) fn send(asked: &Asked) -> Result<(), Failure> {
    let all = All::read()?;
    // A device that an option names is not among the words.
    let at = usize::from(!asked.names_one());
    let (device, rest) = asked.words.split_at(at);
    let [sector, words @ ..] = rest else { return Err("Incorrect number of arguments.".into()) };
    let sector: u64 = sector.parse().map_err(|_| Failure::from("Invalid sector."))?;
    let device = asked.about(device);
    all.each(&device, Some("message"), |one, _| {
        let failed = |why| ioctl("message", &one.name, why);
        let table = one.table.as_deref().unwrap_or_default();
        let len = Table::parse_table(table).map_or(0, |table| table.len.0);
        if sector >= len {
            return Err(failed(wrong_usage(format!("sector {sector} is not in its table"))));
        }
        let words = words.iter().flat_map(|word| word.split_whitespace()).map(str::to_owned);
        let code = message::message(&one.word(), words.collect()).map_err(failed)?;
        match code == std::process::ExitCode::SUCCESS {
            true => Ok(()),
            false => Err(failed(Failure::from("it was compared and found bad"))),
        }
    })
}

/// `wait`.
pub(super) fn wait(asked: &Asked) -> Result<(), Failure> {
    refuse_none(asked)?;
    let all = All::read()?;
    let at = usize::from(!asked.names_one());
    let (device, rest) = asked.words.split_at(at.min(asked.words.len()));
    let events = match rest.first() {
        None => 0,
        Some(word) => crate::cli::wait::event_number(word).map_err(wrong_usage)?,
    };
    let device = asked.about(device);
    all.each(&device, Some("waitevent"), |one, _| {
        let wait = |device| Command::Wait { device, events: Some(events) };
        let done = client::ask(&one.word(), wait).map(drop);
        done.map_err(|why| ioctl("waitevent", &one.name, why))?;
        told(asked, &one.name)
    })
}
