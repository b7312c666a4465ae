//! What dmsetup shows: `info`, `status`, `table`, `deps`, `ls`, `targets`.

use std::process::Command;

use super::columns;
use super::complaint::ioctl;
use super::concise;
use super::devices::{All, Line, One, block_name, shown};
use super::grammar::Asked;
use super::select::Selection;
use super::tree;
use crate::cli::terminal::print;
use crate::failure::{Failure, wrong_usage};

/// The targets, with the version of the kernel's target whose lines and messages each has.
pub(super) const TARGETS: [(&str, &str); 7] = [
    ("zero", "1.2.0"),
    ("mirror", "1.15.0"),
    ("snapshot-merge", "1.5.0"),
    ("snapshot-origin", "1.9.0"),
    ("snapshot", "1.16.0"),
    ("linear", "1.5.0"),
    ("error", "1.7.0"),
];

/// `info`, for people or in columns.
pub(super) fn info(all: &All, asked: &Asked) -> Result<(), Failure> {
    if asked.columns {
        return columns::report(all, asked);
    }
    all.each_or_all(asked, None, |one, _| print_info(all, one))
}

/// What `info` says of a device, and other commands with `-v`.
pub(super) fn print_info(all: &All, one: &One) -> Result<(), Failure> {
    let state = if one.is_suspended { "SUSPENDED" } else { "ACTIVE" };
    let read_only = if one.is_read_only { " (READ-ONLY)" } else { "" };
    let tables = match (&one.table, &one.inactive) {
        (Some(_), Some(_)) => "LIVE & INACTIVE",
        (Some(_), None) => "LIVE",
        (None, Some(_)) => "INACTIVE",
        (None, None) => "None",
    };
    let number = |number: Option<u32>| number.map_or_else(|| "-".to_owned(), |n| n.to_string());
    let (major, minor) = (one.number.map(|it| it.0), one.number.map(|it| it.1));
    print(&format!("Name:              {}", one.name))?;
    print(&format!("State:             {state}{read_only}"))?;
    if let Some(sectors) = one.read_ahead() {
        print(&format!("Read Ahead:        {sectors}"))?;
    }
    print(&format!("Tables present:    {tables}"))?;
    print(&format!("Open count:        {}", all.opens(one)))?;
    print(&format!("Event number:      {}", one.events))?;
    print(&format!("Major, minor:      {}, {}", number(major), number(minor)))?;
    print(&format!("Number of targets: {}", one.segments()))?;
    if let Some(uuid) = &one.uuid {
        print(&format!("UUID: {uuid}"))?;
    }
    print("")
}

/// What a line is of.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Lines {
    Status,
    Table,
}

/// `status` and `table`.
pub(super) fn lines(all: &All, asked: &Asked, of: Lines) -> Result<(), Failure> {
    if asked.concise && of == Lines::Table {
        return concise_table(all, asked);
    }
    // As dmsetup: a status is asked for after the device has been looked up.
    let call = (of == Lines::Table).then_some("table");
    all.each_or_all(asked, call, |one, prefix| {
        one.silent.clone().map_or(Ok(()), Err)?;
        let text = match (of, asked.inactive) {
            (Lines::Table, false) => one.table.as_deref(),
            (Lines::Status, false) => one.table.as_deref().map(|_| one.status.as_str()),
            (_, true) => one.inactive.as_deref(),
        };
        let prefix = if prefix { format!("{}: ", one.name) } else { String::new() };
        let Some(text) = text else {
            return if asked.target.is_none() { print(&prefix) } else { Ok(()) };
        };
        let wanted = asked.target.as_deref();
        let lines = one.lines(text).filter(|line| wanted.is_none_or(|it| line.target == it));
        // A table that is not live has no status: its targets are what is known.
        let is_bare = of == Lines::Status && asked.inactive;
        let printed = |line: Line<'_>| if is_bare { line.bare() } else { line.printed() };
        lines.into_iter().try_for_each(|line| print(&format!("{prefix}{}", printed(line))))
    })
}

/// `table --concise`: what `create --concise` makes the same devices of.
fn concise_table(all: &All, asked: &Asked) -> Result<(), Failure> {
    let mut devices = Vec::new();
    let mut ones = 0;
    all.each_or_all(asked, Some("table"), |one, _| {
        one.silent.clone().map_or(Ok(()), Err)?;
        let table = if asked.inactive { &one.inactive } else { &one.table };
        let lines = one.lines(table.as_deref().unwrap_or_default()).map(|line| line.printed());
        devices.push(concise::written(
            (&one.name, one.uuid.as_deref()),
            one.id,
            one.is_read_only,
            lines,
        ));
        ones += 1;
        Ok(())
    })?;
    if ones == 0 { Ok(()) } else { print(&devices.join(";")) }
}

/// How the number of a device is shown.
#[derive(Clone, Copy)]
enum Naming {
    Number,
    BlockName,
    DeviceName,
}

impl Naming {
    fn of(options: Option<&str>) -> Result<Naming, Failure> {
        let mut naming = Naming::Number;
        for word in options.unwrap_or_default().split(',').filter(|word| !word.is_empty()) {
            naming = match word {
                "devno" => Naming::Number,
                "blkdevname" => Naming::BlockName,
                "devname" => Naming::DeviceName,
                _ => return Err(wrong_usage(format!("Option not recognised: {word}."))),
            };
        }
        Ok(naming)
    }
}

/// `deps`.
pub(super) fn deps(all: &All, asked: &Asked) -> Result<(), Failure> {
    let naming = Naming::of(asked.options.as_deref())?;
    all.each_or_all(asked, Some("deps"), |one, prefix| {
        let disks = one.disks(asked.inactive);
        let prefix = if prefix { format!("{}: ", one.name) } else { String::new() };
        let words: String = disks
            .iter()
            .map(|number| match naming {
                Naming::Number => format!(" ({}, {})", number.0, number.1),
                Naming::BlockName => format!(" ({})", block_name(*number)),
                Naming::DeviceName => format!(" ({})", all.device_name(*number)),
            })
            .collect();
        print(&format!("{prefix}{} dependencies\t:{words}", disks.len()))
    })
}

/// `ls`: names, a tree, or a command for each.
pub(super) fn ls(all: &All, asked: &Asked) -> Result<(), Failure> {
    if asked.tree {
        let options = tree::Options::of(asked.options.as_deref(), is_utf())?;
        let selection = Selection::of(asked.select.as_deref())?;
        if all.ones.is_empty() && all.problems.is_empty() {
            return print("No devices found");
        }
        let lines = tree::tree(all, &options, &selection)?;
        lines.iter().try_for_each(|line| print(line))?;
        return crate::cli::verdict::verdict(all.problems.clone());
    }
    let naming = Naming::of(asked.options.as_deref())?;
    all.each_or_all(asked, None, |one, _| {
        let has_target = |wanted: &str| {
            let table = one.table.as_deref().unwrap_or_default();
            one.lines(table).any(|line| line.target == wanted)
        };
        if !asked.target.as_deref().is_none_or(has_target) {
            return Ok(());
        }
        match asked.exec.as_deref() {
            Some(command) => execute(command, one),
            None => print(&format!("{}\t({})", one.name, number_in(one, naming, asked))),
        }
    })
}

/// What `ls` has in brackets.
fn number_in(one: &One, naming: Naming, asked: &Asked) -> String {
    match (naming, one.number) {
        (Naming::BlockName, Some(number)) => block_name(number),
        (Naming::DeviceName, Some(_)) => one.name.clone(),
        (Naming::Number, Some((major, minor))) if asked.target.is_some() => {
            format!("{major}, {minor}")
        }
        (_, Some(number)) => shown(number),
        (_, None) => one.devno(),
    }
}

/// Runs a command with the path of a device as its last argument.
fn execute(command: &str, one: &One) -> Result<(), Failure> {
    let mut words = command.split_whitespace();
    let Some(program) = words.next() else { return Ok(()) };
    let ended = Command::new(program).args(words).arg(one.path()).status();
    ended.map_err(|error| ioctl("list", &one.name, Failure::from(error).context(program)))?;
    Ok(())
}

/// Whether the locale has the letters of a tree.
fn is_utf() -> bool {
    let value = |name: &&str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let locale = ["LC_ALL", "LC_CTYPE", "LANG"].iter().find_map(value).unwrap_or_default();
    let locale = locale.to_uppercase();
    locale.contains("UTF-8") || locale.contains("UTF8")
}

/// `targets`, and `target-version` of those that are named.
pub(super) fn targets(wanted: &[String]) -> Result<(), Failure> {
    let line = |(name, version): &(&str, &str)| print(&format!("{name:<16} v{version}"));
    if wanted.is_empty() {
        return TARGETS.iter().try_for_each(line);
    }
    for word in wanted {
        let found = TARGETS.iter().find(|(name, _)| name == word);
        let none = || ioctl("target-version", word, wrong_usage("no target of ublk-dm"));
        line(found.ok_or_else(none)?)?;
    }
    Ok(())
}
