//! The verbs: what each asks of which server, and how the answer is printed.

pub mod add;
mod wait;

use std::io::{ErrorKind, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use dm_targets::table::Line;
use serde_json::{Value, json};

use crate::cli::{self, Verb};
use crate::control::{self, Control};
use crate::daemon;
use crate::device;
use crate::offline;
use crate::proto::{self, AddMirror, AddSnapshot, Answer, DeviceReport, InitialSync, Question};
use crate::rundir::{DeviceState, RunDir, Server};
use crate::server;
use crate::transfer;

/// How often the disks of a server that has just died are asked for ...
const RECORD_TRIES: u32 = 20;
/// ... and the pause between: the kernel closes its files two seconds later at most.
const RECORD_PAUSE: Duration = Duration::from_millis(100);

/// How often a server is asked for its devices that goes without an answer ...
const REPORT_TRIES: u32 = 40;
/// ... and the pause between: a process that is killed closes its files one after the other.
const REPORT_PAUSE: Duration = Duration::from_millis(50);

/// Why a command failed, and its exit code.
pub struct Failure {
    pub message: String,
    pub code: u8,
}

impl From<String> for Failure {
    fn from(message: String) -> Failure {
        Failure { message, code: 1 }
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Failure {
        Failure { message: error.to_string(), code: 1 }
    }
}

fn wrong_usage(message: impl Into<String>) -> Failure {
    Failure { message: message.into(), code: 2 }
}

/// Carries a verb out.
pub fn run(verb: Verb) -> Result<ExitCode, Failure> {
    match verb {
        Verb::Add(add) => return add::add_device(add),
        Verb::Create { name, table, file } => return add::create(name, table, file.as_deref()),
        Verb::Del { devices, all, force } => del(&devices, all, force)?,
        Verb::List { json } => list(json)?,
        Verb::Status { devices, json } => status(&devices, json)?,
        Verb::Table { devices } => lines(&devices, |device| device.table.clone())?,
        Verb::Suspend { device, noflush } => drop(ask(&device, |id| Question::Suspend { id, noflush })?),
        Verb::Resume { device } => drop(ask(&device, |id| Question::Resume { id })?),
        Verb::Load { device, table } => load(&device, &table)?,
        Verb::Message { device, words } => message(&device, words)?,
        Verb::Wait { device, in_sync: true, .. } => wait::in_sync(&device)?,
        Verb::Wait { device, event_nr, .. } => wait::event(&device, event_nr)?,
        Verb::Recover { devices, all } => recover(&devices, all)?,
        Verb::Copy { from, to, throttle, json, force } => return transfer::copy(&from, &to, throttle, json, force),
        Verb::Zero { to, json, force } => return transfer::zero(&to, json, force),
        Verb::Check { path, origin, json } => return offline(offline::check, &path, origin.as_deref(), json),
        Verb::Dump { path, origin, json } => return offline(offline::dump, &path, origin.as_deref(), json),
        Verb::Features { json } => features(json)?,
        Verb::Serve { key } => return daemon::serve(&key),
    }
    Ok(ExitCode::SUCCESS)
}

/// `check` and `dump`: the result goes to stdout as it is found, and the verdict is the exit code.
fn offline(verb: offline::Verb, path: &Path, origin: Option<&Path>, json: bool) -> Result<ExitCode, Failure> {
    let verdict = verb(&offline::Request { path, origin, json }, &mut std::io::stdout().lock());
    Ok(ExitCode::from(verdict.map_err(|error| error.to_string())?.exit_code()))
}

/// A line on stdout. A reader that has gone away is no reason to fail.
pub fn print(line: &str) {
    if let Err(error) = writeln!(std::io::stdout(), "{line}") {
        log::debug!("stdout: {error}");
    }
}

fn open_rundir() -> Result<RunDir, Failure> {
    require_root()?;
    RunDir::open().map_err(|error| format!("cannot open the run directory: {error}").into())
}

fn require_root() -> Result<(), Failure> {
    let root = std::fs::metadata("/proc/self").map(|metadata| std::os::unix::fs::MetadataExt::uid(&metadata) == 0);
    match root {
        Ok(false) => Err("must be run as root: block devices are added and opened".to_owned().into()),
        _ => Ok(()),
    }
}

fn device_exists(id: u32) -> bool {
    Path::new(&format!("/dev/ublkc{id}")).exists()
}

/// Prints what an `add` gave.
pub fn print_added(answer: Answer, question: &Question) -> Result<(), Failure> {
    match answer {
        Answer::Added { path } => {
            print(&path);
            warn_of_forgetting(question);
        }
        Answer::Failed { message } => return Err(message.into()),
        _ => return Err(other_answer()),
    }
    Ok(())
}

/// Says what a mirror without a log on a disk does when it is added again.
fn warn_of_forgetting(question: &Question) {
    let Question::AddMirror(AddMirror { legs, log: None, initial_sync, source, .. }) = question else { return };
    let source = legs[source.unwrap_or(0)].path.display();
    let now = match initial_sync {
        InitialSync::NoSync => "its legs are taken for equal now".to_owned(),
        _ => format!("its other legs are recovered from {source} now (--source names another)"),
    };
    log::warn!("a core log remembers nothing: {now}, and whoever adds the mirror again must know which leg is right");
}

fn other_answer() -> Failure {
    "the server gave an answer to another question".to_owned().into()
}

/// Asks the server of a device.
fn ask(word: &str, question: impl FnOnce(u32) -> Question) -> Result<Answer, Failure> {
    let rundir = open_rundir()?;
    let device = select(&rundir, &[word.to_owned()])?.remove(0);
    let has =
        |server: &Server| server.state.iter().any(|state| state.devices.iter().any(|other| other.id == device.id));
    let server = rundir.servers()?.into_iter().find(has).and_then(|server| server.connection);
    let gone = || format!("/dev/ublkb{}: its server has died; see `ublk-dm recover`", device.id);
    match proto::ask(server.ok_or_else(gone)?, &question(device.id))? {
        Answer::Failed { message } => Err(message.into()),
        answer => Ok(answer),
    }
}

fn load(word: &str, line: &str) -> Result<(), Failure> {
    let line = Line::parse(line).map_err(|error| wrong_usage(error.to_string()))?;
    let table = Box::new(add::question_of(line, &cli::Common::unnamed())?.0);
    ask(word, |id| Question::Load { id, table }).map(drop)
}

fn message(word: &str, words: Vec<String>) -> Result<(), Failure> {
    if let Answer::Lines(lines) = ask(word, |id| Question::Message { id, words })? {
        lines.iter().for_each(|line| print(line));
    }
    Ok(())
}

/// Reports of all devices, those of dead servers included, by id.
fn reports(rundir: &RunDir) -> Result<Vec<DeviceReport>, Failure> {
    let mut reports = Vec::new();
    for server in rundir.servers()? {
        reports.extend(reports_of(rundir, server)?);
    }
    reports.sort_by_key(|device| device.id);
    Ok(reports)
}

/// Reports of a server's devices. One that goes without an answer has ended in good order, and then nothing is left of it;
/// or it is dying, and nobody listens a moment later; or it has a successor.
fn reports_of(rundir: &RunDir, server: Server) -> Result<Vec<DeviceReport>, Failure> {
    let key = server.key.clone();
    let mut server = Some(server);
    for _ in 0..REPORT_TRIES {
        let Some(mut asked) = server.take() else { return Ok(Vec::new()) };
        let Some(connection) = asked.connection.take() else { return Ok(orphans(&asked)) };
        match proto::ask(connection, &Question::Report) {
            Ok(Answer::Devices(devices)) => return Ok(devices),
            Ok(Answer::Failed { message }) => return Err(message.into()),
            Ok(_) => return Err(other_answer()),
            Err(error) if error.kind() == ErrorKind::InvalidData => {
                log::warn!("{key}: its server is of another version: {error}");
                return Ok(Vec::new());
            }
            Err(_) => std::thread::sleep(REPORT_PAUSE),
        }
        server = rundir.server(&key);
    }
    log::warn!("{key}: its server takes questions and gives no answers");
    Ok(Vec::new())
}

/// What is known about the devices of a dead server.
fn orphans(server: &Server) -> Vec<DeviceReport> {
    let Some(state) = &server.state else { return Vec::new() };
    let devices = state.devices.iter().filter(|device| device_exists(device.id));
    let report = |device: &DeviceState| {
        let state = match Control::open().and_then(|mut control| control.info(device.id)).map(|info| info.state) {
            Ok(control::DeviceState::Quiesced | control::DeviceState::FailIo) => "quiesced",
            _ => "dead",
        };
        let target = match device.added {
            Question::AddSnapshot(_) => "snapshot",
            Question::AddMirror(_) => "mirror",
            _ => "snapshot-origin",
        };
        let json = json!({
            "id": device.id, "name": device.name, "target": target, "state": state,
            "block_device": format!("/dev/ublkb{}", device.id), "char_device": format!("/dev/ublkc{}", device.id),
            "server_pid": null,
        });
        let line = format!("0 0 {target} {state}");
        DeviceReport { id: device.id, name: device.name.clone(), json, status: line.clone(), table: line }
    };
    devices.map(report).collect()
}

/// Whether a word names a device: by name, id or path.
fn names(device: &DeviceReport, word: &str) -> bool {
    device.name == word || device.id.to_string() == word || format!("/dev/ublkb{}", device.id) == word
}

fn select(rundir: &RunDir, words: &[String]) -> Result<Vec<DeviceReport>, Failure> {
    let all = reports(rundir)?;
    if words.is_empty() {
        return Ok(all);
    }
    let find = |word: &String| {
        let found = all.iter().find(|device| names(device, word)).cloned();
        found.ok_or_else(|| format!("{word}: no such device; see `ublk-dm list`").into())
    };
    words.iter().map(find).collect()
}

fn del(words: &[String], all: bool, force: bool) -> Result<(), Failure> {
    let rundir = open_rundir()?;
    let lock = rundir.lock()?;
    let chosen = if all { reports(&rundir)? } else { select(&rundir, words)? };
    for server in rundir.servers()? {
        let Some(state) = &server.state else { continue };
        let ids: Vec<u32> = state
            .devices
            .iter()
            .map(|device| device.id)
            .filter(|id| chosen.iter().any(|device| device.id == *id))
            .collect();
        match server.connection {
            _ if ids.is_empty() => {}
            Some(connection) => {
                if let Answer::Failed { message } = proto::ask(connection, &Question::Del { ids, force })? {
                    return Err(message.into());
                }
            }
            None => del_orphans(&rundir, &server, &ids, force)?,
        }
    }
    drop(lock);
    Ok(())
}

/// Deletes devices whose server has died. What waits for them gets errors.
fn del_orphans(rundir: &RunDir, server: &Server, ids: &[u32], force: bool) -> Result<(), Failure> {
    if !force {
        return Err(format!(
            "/dev/ublkb{}: its server has died; --force deletes it, failing all I/O that waits",
            ids[0]
        )
        .into());
    }
    let mut control = Control::open().map_err(|error| error.to_string())?;
    for id in ids {
        device::stop(&mut control, *id)?;
        device::delete(&mut control, *id);
    }
    let devices = || server.state.iter().flat_map(|state| &state.devices);
    let recorded = devices().filter(|device| ids.contains(&device.id)).try_for_each(|device| match &device.added {
        Question::AddSnapshot(add) => record_noted(rundir, &server.key, device, add),
        _ => Ok(()),
    });
    // A deleted device's node may stay for a moment, as long as somebody has it open.
    if !devices().filter(|device| !ids.contains(&device.id)).any(|device| device_exists(device.id)) {
        rundir.remove(&server.key);
    }
    recorded
}

/// Puts what a dead server has noted where it belongs. The process may hold its disks for a moment longer.
fn record_noted(rundir: &RunDir, key: &str, device: &DeviceState, add: &AddSnapshot) -> Result<(), Failure> {
    for left in (0..RECORD_TRIES).rev() {
        match server::Server::record_noted(rundir, key, add.clone()) {
            Err(_) if left > 0 => std::thread::sleep(RECORD_PAUSE),
            Err(error) => {
                let what = "deleted, but writes that it had acknowledged are not on its COW yet";
                return Err(format!("{}: {what}: {error}; add it again", device.name).into());
            }
            Ok(()) => break,
        }
    }
    Ok(())
}

/// Starts a new server for every family of the chosen devices whose own has died.
fn recover(words: &[String], all: bool) -> Result<(), Failure> {
    let rundir = open_rundir()?;
    let lock = rundir.lock()?;
    let chosen = if all { Vec::new() } else { select(&rundir, words)? };
    for server in rundir.servers()? {
        let Some(state) = server.state.filter(|_| server.connection.is_none()) else { continue };
        let devices: Vec<_> = state.devices.into_iter().filter(|device| device_exists(device.id)).collect();
        if !all && !devices.iter().any(|device| chosen.iter().any(|chosen| chosen.id == device.id)) {
            continue;
        }
        if devices.is_empty() {
            rundir.remove(&server.key);
            continue;
        }
        rundir.remove_socket(&server.key);
        let connection = daemon::start(&rundir, &server.key)?;
        if let Answer::Failed { message } = proto::ask(connection, &Question::Recover(devices))? {
            return Err(message.into());
        }
    }
    drop(lock);
    Ok(())
}

fn list(json: bool) -> Result<(), Failure> {
    let reports = reports(&open_rundir()?)?;
    if json {
        let devices: Vec<Value> = reports.into_iter().map(|device| device.json).collect();
        print(&json!({ "version": 1, "devices": devices }).to_string());
        return Ok(());
    }
    for device in reports {
        let text = |key: &str| device.json[key].as_str().unwrap_or("").to_owned();
        let snapshot = &device.json["snapshot"];
        let legs = device.json["mirror"]["legs"].as_array().into_iter().flatten();
        let legs: Vec<&str> = legs.filter_map(|leg| leg["path"].as_str()).collect();
        let over = match (snapshot["origin"].as_str(), snapshot["cow"].as_str()) {
            (Some(origin), Some(cow)) => format!("{origin} cow {cow}"),
            _ if !legs.is_empty() => legs.join(" "),
            _ => device.json["origin"]["path"].as_str().unwrap_or("").to_owned(),
        };
        print(&format!(
            "{:<14} {:<16} {:<16} {:<9} {over}",
            device.name,
            text("block_device"),
            text("target"),
            text("state")
        ));
    }
    Ok(())
}

fn status(words: &[String], json: bool) -> Result<(), Failure> {
    if !json {
        return lines(words, |device| device.status.clone());
    }
    for device in select(&open_rundir()?, words)? {
        let mut object = device.json;
        object["status"] = device.status.into();
        print(&object.to_string());
    }
    Ok(())
}

fn lines(words: &[String], line: impl Fn(&DeviceReport) -> String) -> Result<(), Failure> {
    let devices = select(&open_rundir()?, words)?;
    for device in &devices {
        let prefix = if words.len() == 1 { String::new() } else { format!("{}: ", device.name) };
        print(&format!("{prefix}{}", line(device)));
    }
    Ok(())
}

fn features(json: bool) -> Result<(), Failure> {
    let bits = Control::open().and_then(|mut control| control.features()).map_err(|error| error.to_string())?;
    if json {
        let names = control::feature_names(bits);
        print(
            &json!({ "version": 1, "bits": bits, "features": names, "unknown": control::unknown_features(bits) })
                .to_string(),
        );
        return Ok(());
    }
    for feature in control::FEATURES {
        let has = if bits & feature.flag != 0 { "yes" } else { "no" };
        print(&format!("{:<24} {has:<4} {:<6} {}", feature.name, feature.since, feature.purpose));
    }
    Ok(())
}
