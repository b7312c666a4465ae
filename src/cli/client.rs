//! A command's access to servers: the run directory, commands, and what is known of all devices.

use std::io::ErrorKind;
use std::time::Duration;

use super::results::Named;
use super::unrecorded::{self, Unrecorded};
use super::without_table;
use crate::failure::{Failure, Kind, Reason};
use crate::protocol::{self, Command, DeviceRef, DeviceReport, DeviceState, Reply, RunState};
use crate::rundir::{Reserved, RunDir, Server, State};
use crate::server::orphan;
use crate::tab::LINKS;
use crate::ublk::{self, Control, device};

/// How often a server that leaves without an answer is asked for its devices ...
const REPORT_TRIES: u32 = 40;
/// ... and the pause in between: a process that is killed closes its files one after the other.
const REPORT_PAUSE: Duration = Duration::from_millis(50);

pub(super) fn open_rundir() -> Result<RunDir, Failure> {
    let rundir = RunDir::open()?;
    require_root()?;
    Ok(rundir)
}

pub(super) fn require_root() -> Result<(), Failure> {
    let root = std::fs::metadata("/proc/self")
        .map(|metadata| std::os::unix::fs::MetadataExt::uid(&metadata) == 0);
    match root {
        Ok(false) => {
            let kind = Kind::System { errno: libc::EPERM };
            Err(Failure::new(kind, "must be run as root: it adds and opens block devices"))
        }
        _ => Ok(()),
    }
}

/// The devices of one server, whether it is alive or not.
pub(super) struct Family {
    pub key: String,
    pub devices: Vec<DeviceReport>,
}

/// All known servers and devices.
#[derive(Default)]
pub(super) struct Known {
    pub families: Vec<Family>,
    /// Devices without a table.
    pub reserved: Vec<Reserved>,
    /// Devices of the run directory that the kernel has and no file knows of.
    pub unrecorded: Vec<Unrecorded>,
    /// What could not be found out, and why.
    pub problems: Vec<Reason>,
}

impl Known {
    /// Asks every server, and looks at what dead servers have left. All are asked at once: servers
    /// that do not answer cost one time limit together.
    pub fn of(rundir: &RunDir) -> Result<Known, Failure> {
        let listed = device::numbers()?;
        let keys = rundir.keys()?;
        let ask =
            |key: &String| rundir.server(key).map_or(Ok(None), |server| family_of(rundir, server));
        let answers = std::thread::scope(|scope| {
            let asked: Vec<_> = keys.iter().map(|key| scope.spawn(|| ask(key))).collect();
            let join = |thread: std::thread::ScopedJoinHandle<'_, _>| {
                thread.join().unwrap_or_else(|_| Err("a server could not be queried".into()))
            };
            asked.into_iter().map(join).collect::<Vec<Result<Option<Family>, Reason>>>()
        });
        let mut known = Known::default();
        for reply in answers {
            match reply {
                Ok(family) => known.families.extend(family),
                Err(why) => known.problems.push(why),
            }
        }
        known.find_unrecorded(rundir, &listed);
        match without_table::all(rundir) {
            Ok(reserved) => known.reserved = reserved,
            Err(why) => known.problems.push(why),
        }
        Ok(known)
    }

    /// Looks for devices that no file knows of, unless the devices of a server are not known.
    fn find_unrecorded(&mut self, rundir: &RunDir, listed: &[u32]) {
        if !self.problems.is_empty() {
            return;
        }
        let is_reported = |id| self.devices().iter().any(|device| device.id == id);
        match unrecorded::find(rundir, listed, is_reported) {
            Ok(found) => {
                self.problems = found.iter().map(|device| device.problem(rundir)).collect();
                self.unrecorded = found;
            }
            Err(why) => self.problems.push(why),
        }
    }

    /// All devices, by id.
    pub fn devices(&self) -> Vec<&DeviceReport> {
        let mut devices: Vec<_> = self.families.iter().flat_map(|family| &family.devices).collect();
        devices.sort_by_key(|device| device.id);
        devices
    }

    /// Whether a word names a device without a table.
    pub fn has_no_table(&self, word: &str) -> bool {
        self.reserved.iter().any(|one| one.name == word)
    }

    /// Finds the device that a word names, and its server.
    pub fn find<'a>(&'a self, word: &str) -> Result<(&'a Family, &'a DeviceReport), Reason> {
        let families = self.families.iter();
        let mut found =
            families.flat_map(|family| family.named(word).map(move |device| (family, device)));
        match (found.next(), found.next()) {
            (Some(found), None) => Ok(found),
            (Some((_, one)), Some((_, other))) => Err(format!(
                "{word}: the name of /dev/ublkb{} and of /dev/ublkb{}; use one of these",
                one.id, other.id
            )
            .into()),
            (None, _) if self.has_no_table(word) => Err(without_table::refused(word)),
            (None, _) => match self.problems.first() {
                None => {
                    let why = format!("{word}: no such device; see `ublk-dm list`");
                    Err(Failure::new(Kind::NotFound, why).of_device(word))
                }
                Some(problem) => {
                    let what = format!("{word}: no such device among those that are known");
                    Err(problem.clone().context(what).of_device(word))
                }
            },
        }
    }
}

impl Family {
    fn named<'a>(&'a self, word: &str) -> impl Iterator<Item = &'a DeviceReport> {
        self.devices.iter().filter(move |device| names(device, word))
    }
}

/// What a server answers, and the device that was asked about.
pub(super) struct Answer {
    pub device: Named,
    pub reply: Reply,
}

/// Sends a command to the server of a device.
pub(super) fn ask(
    word: &str,
    command: impl FnOnce(DeviceRef) -> Command,
) -> Result<Answer, Failure> {
    let rundir = open_rundir()?;
    let known = Known::of(&rundir)?;
    let (family, device) = known.find(word)?;
    let reply = ask_server(&rundir, &family.key, device, command);
    let reply = reply.map_err(|why| by_name(device, why))?;
    Ok(Answer { device: Named::of(device), reply })
}

/// A failure that names a device by its path alone, or only a disk of it, with its name before
/// that: its user may have typed the name.
pub(super) fn by_name(device: &DeviceReport, why: Failure) -> Failure {
    with_name(&device.name, device.id, why).of_device(&device.name)
}

fn with_name(name: &str, id: u32, why: Failure) -> Failure {
    let line = why.to_string();
    let rest = line.strip_prefix(&format!("/dev/ublkb{id}"));
    match rest.map(|rest| rest.starts_with(|next: char| next.is_ascii_digit())) {
        Some(false) => why.context(name),
        // A disk that it was to have.
        None if line.starts_with("cannot open ") => why.context(name),
        _ => why,
    }
}

fn ask_server(
    rundir: &RunDir,
    key: &str,
    device: &DeviceReport,
    command: impl FnOnce(DeviceRef) -> Command,
) -> Result<Reply, Failure> {
    must_answer(device)?;
    let server = rundir.server(key).and_then(|server| server.connection);
    let path = format!("/dev/ublkb{}", device.id);
    let gone = || {
        let why = format!("{path}: its server has died; run `ublk-dm recover {path}`");
        Failure::new(Kind::NoAnswer, why)
    };
    let reply = protocol::ask(server.ok_or_else(gone)?, &command(device.device()));
    let late = |error| Failure::from(error).context(&path);
    match reply.map_err(late)? {
        Reply::Failed(why) => Err(why),
        reply => Ok(reply),
    }
}

/// A server's devices. A server that leaves without an answer has exited cleanly and left nothing;
/// or is dying, and its socket refuses connections a moment later; or has a successor.
fn family_of(rundir: &RunDir, server: Server) -> Result<Option<Family>, Reason> {
    let key = server.key.clone();
    let mut server = Some(server);
    for _ in 0..REPORT_TRIES {
        let Some(mut asked) = server.take() else { return Ok(None) };
        let Some(connection) = asked.connection.take() else { return from_state(asked) };
        if let Some(why) = &asked.damaged {
            log::warn!("{why}; its server is alive and is queried instead");
        }
        match protocol::ask(connection, &Command::Report) {
            Ok(Reply::Devices(devices)) => return Ok(Some(Family { key, devices })),
            Ok(Reply::Failed(why)) => {
                return Err(why.context(format!("{key}: its server says")));
            }
            Ok(_) => {
                return Err(format!("{key}: its server sent an unexpected reply").into());
            }
            Err(error) if error.kind() == ErrorKind::InvalidData => {
                let what = format!("{key}: its server has another version");
                return Err(Failure::from(error).context(what));
            }
            Err(error) if error.kind() == ErrorKind::TimedOut => {
                log::info!("{key}: {error}");
                return from_state(asked);
            }
            Err(_) => std::thread::sleep(REPORT_PAUSE),
        }
        server = rundir.server(&key);
    }
    let why = format!("{key}: its server accepts commands but does not reply");
    Err(Failure::new(Kind::NoAnswer, why))
}

/// What is known of the devices of a server that has died or does not answer.
fn from_state(server: Server) -> Result<Option<Family>, Reason> {
    let Server { key, state, damaged, lives, .. } = server;
    if let Some(why) = damaged {
        let server = if lives { "does not answer" } else { "has died" };
        let hint = "so its devices are not known; remove the file to continue without them";
        return Err(why.ending(format!("; its server {server}, {hint}")));
    }
    let Some(state) = state else { return Ok(None) };
    let devices = reports_of(&state, lives)
        .map_err(|why| why.after(format!("{key}: its server does not answer, and ")))?;
    Ok(Some(Family { key, devices }))
}

/// The devices of a state file that still exist.
fn reports_of(state: &State, lives: bool) -> Result<Vec<DeviceReport>, Reason> {
    if state.devices.is_empty() {
        return Ok(Vec::new());
    }
    let mut control = Control::open()?;
    let mut reports = Vec::new();
    for device in &state.devices {
        if let Some(info) = device::ours(&mut control, device.id, device.cookie)? {
            reports.push(unanswered(device, info.state, lives.then_some(state.pid)));
        }
    }
    Ok(reports)
}

/// What is known of a device whose server is dead or does not answer.
fn unanswered(device: &DeviceState, state: ublk::DeviceState, server: Option<u32>) -> DeviceReport {
    let state = match state {
        ublk::DeviceState::Quiesced | ublk::DeviceState::FailIo => RunState::Quiesced,
        ublk::DeviceState::Live if server.is_some() => RunState::Live,
        _ => RunState::Dead,
    };
    orphan::report(device, state, server)
}

/// Whether a word names a device: by name, id or path, or by the link that udev would make.
fn names(device: &DeviceReport, word: &str) -> bool {
    device.name == word
        || word.strip_prefix(LINKS) == Some(&device.name)
        || device.id.to_string() == word
        || format!("/dev/ublkb{}", device.id) == word
}

/// The devices that words name, or all if there are no words; and the problems: words that name no
/// device, and what could not be found out. Devices without a table have nothing to be shown.
pub(super) fn chosen(
    rundir: &RunDir,
    words: &[String],
) -> Result<(Vec<DeviceReport>, Vec<Reason>), Failure> {
    let known = Known::of(rundir)?;
    if words.is_empty() {
        return Ok((known.devices().into_iter().cloned().collect(), known.problems));
    }
    let (mut devices, mut problems) = (Vec::new(), Vec::new());
    for word in words.iter().filter(|word| !known.has_no_table(word)) {
        match known.find(word) {
            Ok((_, device)) => devices.push(device.clone()),
            Err(why) => problems.push(why),
        }
    }
    Ok((devices, problems))
}

/// The devices that words name.
pub(super) fn select(rundir: &RunDir, words: &[String]) -> Result<Vec<DeviceReport>, Failure> {
    let known = Known::of(rundir)?;
    words.iter().map(|word| Ok(known.find(word)?.1.clone())).collect()
}

/// Refuses a device whose server is alive but does not answer.
pub(super) fn must_answer(device: &DeviceReport) -> Result<(), Reason> {
    match device.object.server_pid.filter(|_| !device.object.answers) {
        Some(process) => Err(Failure::new(
            Kind::NoAnswer,
            format!(
                "/dev/ublkb{}: its server (process {process}) does not answer: it is stopped or \
                 hangs",
                device.id
            ),
        )
        .of_device(&device.name)),
        None => Ok(()),
    }
}

/// Whether a device is deleted by force only: it waits for a server, or its server does not answer.
pub(super) fn is_kept_without_force(device: &DeviceReport) -> bool {
    let DeviceReport { object, .. } = device;
    let has_ended = matches!(object.state, RunState::Quiesced | RunState::Dead);
    has_ended || object.server_pid.is_none() || must_answer(device).is_err()
}

pub(super) fn other_answer() -> Failure {
    "the server sent an unexpected reply".to_owned().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_of_a_device_has_the_name_that_its_user_knows() {
        let named = |line: &str| with_name("m", 1, Failure::new(Kind::InUse, line));
        assert_eq!(named("/dev/ublkb1: busy").to_string(), "m: /dev/ublkb1: busy");
        assert_eq!(named("/dev/ublkb1: busy").kind, Kind::InUse);
        for other in ["/dev/ublkb12: busy", "/dev/c0: in use", "m: /dev/ublkb1: busy"] {
            assert_eq!(named(other).to_string(), other);
        }
    }
}
