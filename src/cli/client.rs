//! A command's way to the servers: the run directory, questions, and what is known of all devices.

use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

use serde_json::json;

use crate::failure::Failure;
use crate::protocol::{self, Answer, DeviceReport, DeviceState, Question};
use crate::rundir::{RunDir, Server};
use crate::ublk::{self, Control};

/// How often a server is asked for its devices that goes without an answer ...
const REPORT_TRIES: u32 = 40;
/// ... and the pause between: a process that is killed closes its files one after the other.
const REPORT_PAUSE: Duration = Duration::from_millis(50);

pub(super) fn open_rundir() -> Result<RunDir, Failure> {
    require_root()?;
    RunDir::open().map_err(|error| format!("cannot open the run directory: {error}").into())
}

pub(super) fn require_root() -> Result<(), Failure> {
    let root = std::fs::metadata("/proc/self").map(|metadata| std::os::unix::fs::MetadataExt::uid(&metadata) == 0);
    match root {
        Ok(false) => Err("must be run as root: block devices are added and opened".to_owned().into()),
        _ => Ok(()),
    }
}

pub(super) fn device_exists(id: u32) -> bool {
    Path::new(&format!("/dev/ublkc{id}")).exists()
}

/// Asks the server of a device.
pub(super) fn ask(word: &str, question: impl FnOnce(u32) -> Question) -> Result<Answer, Failure> {
    let rundir = open_rundir()?;
    let device = select(&rundir, &[word.to_owned()])?.remove(0);
    must_answer(&device)?;
    let has =
        |server: &Server| server.state.iter().any(|state| state.devices.iter().any(|other| other.id == device.id));
    let server = rundir.servers()?.into_iter().find(has).and_then(|server| server.connection);
    let gone = || format!("/dev/ublkb{}: its server has died; see `ublk-dm recover`", device.id);
    let answer = protocol::ask(server.ok_or_else(gone)?, &question(device.id));
    match answer.map_err(|error| format!("/dev/ublkb{}: {error}", device.id))? {
        Answer::Failed { message } => Err(message.into()),
        answer => Ok(answer),
    }
}

/// Reports of all devices, those of dead servers included, by id. All servers are asked at once: one that does not answer
/// costs its limit only once, however many there are.
pub(super) fn reports(rundir: &RunDir) -> Result<Vec<DeviceReport>, Failure> {
    let keys = rundir.keys()?;
    let ask = |key: &String| rundir.server(key).map_or(Ok(Vec::new()), |server| reports_of(rundir, server));
    let answers = std::thread::scope(|scope| {
        let asked: Vec<_> = keys.iter().map(|key| scope.spawn(|| ask(key))).collect();
        let join = |thread: std::thread::ScopedJoinHandle<'_, _>| {
            thread.join().unwrap_or_else(|_| Err("a server could not be asked".to_owned().into()))
        };
        asked.into_iter().map(join).collect::<Vec<Result<Vec<DeviceReport>, Failure>>>()
    });
    let mut reports = Vec::new();
    for answer in answers {
        reports.extend(answer?);
    }
    reports.sort_by_key(|device| device.id);
    Ok(reports)
}

/// Reports of a server's devices. One that goes without an answer has ended in good order, and then nothing is left of it;
/// or it is dying, and nobody listens a moment later; or it has a successor.
pub(super) fn reports_of(rundir: &RunDir, server: Server) -> Result<Vec<DeviceReport>, Failure> {
    let key = server.key.clone();
    let mut server = Some(server);
    for _ in 0..REPORT_TRIES {
        let Some(mut asked) = server.take() else { return Ok(Vec::new()) };
        let Some(connection) = asked.connection.take() else { return Ok(orphans(&asked)) };
        match protocol::ask(connection, &Question::Report) {
            Ok(Answer::Devices(devices)) => return Ok(devices),
            Ok(Answer::Failed { message }) => return Err(message.into()),
            Ok(_) => return Err(other_answer()),
            Err(error) if error.kind() == ErrorKind::InvalidData => {
                log::warn!("{key}: its server is of another version: {error}");
                return Ok(Vec::new());
            }
            Err(error) if error.kind() == ErrorKind::TimedOut => {
                log::info!("{key}: {error}");
                return Ok(orphans(&asked));
            }
            Err(_) => std::thread::sleep(REPORT_PAUSE),
        }
        server = rundir.server(&key);
    }
    log::warn!("{key}: its server takes questions and gives no answers");
    Ok(Vec::new())
}

/// What is known about the devices of a server that is dead, or does not answer.
pub(super) fn orphans(server: &Server) -> Vec<DeviceReport> {
    let Some(state) = &server.state else { return Vec::new() };
    let pid = state.pid;
    let devices = state.devices.iter().filter(|device| device_exists(device.id));
    let report = |device: &DeviceState| {
        let state = match Control::open().and_then(|mut control| control.info(device.id)).map(|info| info.state) {
            Ok(ublk::DeviceState::Quiesced | ublk::DeviceState::FailIo) => "quiesced",
            Ok(ublk::DeviceState::Live) if server.lives => "live",
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
            "server_pid": if server.lives { json!(pid) } else { json!(null) }, "answers": false,
        });
        let line = format!("0 0 {target} {state}");
        DeviceReport { id: device.id, name: device.name.clone(), json, status: line.clone(), table: line }
    };
    devices.map(report).collect()
}

/// Whether a word names a device: by name, id or path.
pub(super) fn names(device: &DeviceReport, word: &str) -> bool {
    device.name == word || device.id.to_string() == word || format!("/dev/ublkb{}", device.id) == word
}

pub(super) fn select(rundir: &RunDir, words: &[String]) -> Result<Vec<DeviceReport>, Failure> {
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

/// Whether a device's server has said what is reported of it.
pub(super) fn answers(device: &DeviceReport) -> bool {
    device.json["answers"] != false
}

/// Refuses a device whose server lives and does not answer.
pub(super) fn must_answer(device: &DeviceReport) -> Result<(), Failure> {
    match device.json["server_pid"].as_u64().filter(|_| !answers(device)) {
        Some(process) => Err(format!(
            "/dev/ublkb{}: its server (process {process}) does not answer: it is stopped, or hangs",
            device.id
        )
        .into()),
        None => Ok(()),
    }
}

pub(super) fn other_answer() -> Failure {
    "the server gave an answer to another question".to_owned().into()
}
