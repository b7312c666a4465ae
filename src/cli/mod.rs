//! The verbs: what each asks of which server, and how the reply is printed.

mod add;
pub mod args;
mod client;
mod copy;
mod disk_word;
pub mod dmsetup;
mod doctor;
mod down;
mod ending;
mod family;
mod generator;
mod gone;
mod health;
mod internal;
mod interrupt;
pub mod journal;
pub mod json;
mod keep;
mod list;
mod merge;
mod message;
mod metrics;
mod monitor;
mod notable;
mod order;
mod pages;
mod reap;
mod recover;
mod remove;
mod rename;
mod results;
mod running;
mod save;
mod service;
mod show;
mod side_by_side;
mod stand_in;
mod swap;
mod table;
mod takeover;
pub mod terminal;
mod udev;
mod unnamed;
mod unrecorded;
mod up;
mod upgrade;
mod uuid;
mod verdict;
mod wait;
mod without_table;

use std::path::Path;
use std::process::ExitCode;

use clap::CommandFactory;

use crate::failure::{Failure, wrong_usage};
use crate::offline;
use crate::protocol::Command;
use args::{self as cli, Cli, OnDisks, Rename, Verb};
use client::ask;
use terminal::stdout;

/// Runs a verb; `objects`: it prints objects.
pub fn run(verb: Verb, objects: bool) -> Result<ExitCode, Failure> {
    match verb.prints_text().filter(|_| objects) {
        Some(name) => Err(wrong_usage(format!("{name} prints no objects: it has no --json"))),
        None => carry_out(verb),
    }
}

fn carry_out(verb: Verb) -> Result<ExitCode, Failure> {
    match verb {
        Verb::Add(add) => return add::add_device(add),
        Verb::Create { name, options, .. } if options.notable => {
            return notable::create(&name, &options);
        }
        Verb::Create { name, table, file, options } => {
            return add::create(name, &table, file.as_deref(), &options);
        }
        Verb::Del { devices, all, force } => del(&devices, all, force)?,
        Verb::List(flags) => list::list(&flags)?,
        Verb::Metrics(flags) => metrics::metrics(&flags)?,
        Verb::Monitor(asked) => monitor::monitor(&asked)?,
        Verb::Tab(verb) => return of_tab(&verb),
        Verb::Status { devices } => show::status(&devices)?,
        Verb::Table { devices, inactive: false } => show::table(&devices)?,
        Verb::Table { devices, inactive: true } => show::inactive(&devices)?,
        Verb::Suspend { device, noflush } => {
            results::done(&ask(&device, |device| Command::Suspend { device, noflush })?.device)?
        }
        Verb::Resume { device } => return swap::resume(&device, true),
        Verb::Clear { device } => swap::clear(&device)?,
        Verb::Load { device, table, options } => swap::load(&device, &table, &options)?,
        Verb::Resize { device, size } => {
            results::done(&ask(&device, |device| Command::Resize { device, bytes: size })?.device)?
        }
        Verb::Rename(Rename::Rename { device, name }) => rename::rename(&device, &name)?,
        Verb::Merge(asked) => merge::merge(&asked)?,
        Verb::Message { device, words } => return message::message(&device, words),
        Verb::Wait { device, in_sync: true, .. } => wait::in_sync(&device)?,
        Verb::Wait { device, event_nr, .. } => wait::event(&device, event_nr)?,
        Verb::Recover { devices, foreground: true, source, .. } => {
            unnamed::refuse_recover(&devices, false)?;
            return recover::in_foreground(&devices, source.as_deref());
        }
        Verb::Recover { devices, all, source, .. } => {
            unnamed::refuse_recover(&devices, all)?;
            recover::recover(&devices, all, source.as_deref())?
        }
        Verb::Upgrade { devices, all } => upgrade::run(&devices, all)?,
        Verb::OnDisks(what) => return on_disks(what),
        Verb::Dmsetup(asked) => return dmsetup::verb(&asked.words),
        Verb::Journal(what) => journal::run(&what)?,
        Verb::Features => show::features()?,
        Verb::Machine(cli::Machine::Doctor(asked)) => return doctor::doctor(&asked),
        Verb::Machine(cli::Machine::Reap) => reap::reap()?,
        Verb::Pages(what) => pages::run(&what, Cli::command())?,
        Verb::Internal(what) => return internal::run(what),
    }
    Ok(ExitCode::SUCCESS)
}

/// The verbs that work on disks and images themselves.
fn on_disks(what: OnDisks) -> Result<ExitCode, Failure> {
    match what {
        OnDisks::Copy { from, to, throttle, force } => copy::copy(&from, &to, throttle, force),
        OnDisks::Zero { to, force } => copy::zero(&to, force),
        OnDisks::Check { path, origin } => offline(offline::check, &path, origin.as_deref()),
        OnDisks::Dump { path, origin } => offline(offline::dump, &path, origin.as_deref()),
    }
}

/// The verbs of the tab file.
fn of_tab(verb: &cli::Tab) -> Result<ExitCode, Failure> {
    match verb {
        cli::Tab::Up(asked) if asked.foreground => return service::in_foreground(asked),
        cli::Tab::Up(asked) => up::up(asked)?,
        cli::Tab::Down(asked) => down::down(&asked.names, asked.all)?,
        cli::Tab::Save(asked) => save::save(&asked.names, asked.stdout)?,
        cli::Tab::SystemdGenerator(asked) => generator::generate(&asked.normal)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn del(words: &[String], all: bool, force: bool) -> Result<(), Failure> {
    unnamed::refuse_del(words, all)?;
    remove::del(words, all, force)
}

/// `check` and `dump`: the result goes to stdout as it is found, and the verdict is the exit code.
fn offline(verb: offline::Verb, path: &Path, origin: Option<&Path>) -> Result<ExitCode, Failure> {
    let request = offline::Request { path, origin, json: json::is_on() };
    let verdict = verb(&request, &mut stdout());
    Ok(ExitCode::from(verdict?.exit_code()))
}
