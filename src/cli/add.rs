//! `add` and `create`: the server of a device found or started, and asked for it.

use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;

use dm_targets::table::{InitialSync, MirrorLog, Table, TargetParams};

use super::args::{self as cli, Add};
use super::client::{open_rundir, other_answer};
use super::interrupt::{Interrupt, take_back};
use super::keep;
use super::remove::taken_over;
use super::table;
use super::terminal::print;
use crate::failure::{Failure, wrong_usage};
use crate::protocol::{Answer, DeviceSpec, DeviceState, Question};
use crate::rundir::{FamilyLock, RunDir, Server, State, family_key};
use crate::server::process;
use crate::storage::DiskId;
use crate::ublk::{Control, device, kernels};

pub(super) fn add_device(add: Add) -> Result<ExitCode, Failure> {
    let spec = table::of_flags(&add)?;
    add_target(spec, add.common())
}

/// Adds a device as a device-mapper table line describes it.
pub(super) fn create(
    name: String,
    table: Option<String>,
    file: Option<&Path>,
    created: &cli::Created,
) -> Result<ExitCode, Failure> {
    let text = match (table, file) {
        (Some(line), _) => line,
        (None, Some(path)) if path != Path::new("-") => {
            std::fs::read_to_string(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?
        }
        (None, _) => std::io::read_to_string(std::io::stdin())?,
    };
    let cli::Created { id, read_only, no_recovery, loaded } = created;
    let (id, read_only, no_recovery, force) = (*id, *read_only, *no_recovery, loaded.force);
    let options = cli::Common { id, read_only, no_recovery, force, ..cli::Common::named(name) };
    add_target(table::of_line(&text, &options, loaded.source.as_deref())?, &options)
}

/// The disk after which a device's family is named, and the name's beginning.
fn family_of(table: &Table) -> Result<(&str, &'static str), Failure> {
    match &table.params {
        TargetParams::Snapshot(snapshot) => Ok((&snapshot.origin, "")),
        TargetParams::SnapshotOrigin { origin } => Ok((origin, "")),
        TargetParams::Mirror(mirror) => Ok((&mirror.legs[0].device, "mirror-")),
        other @ TargetParams::SnapshotMerge(_) => {
            Err(format!("target {}: not served by this version", other.name()).into())
        }
    }
}

fn add_target(spec: DeviceSpec, options: &cli::Common) -> Result<ExitCode, Failure> {
    let (disk, prefix) = family_of(&spec.table)?;
    options.name.as_deref().map_or(Ok(()), refuse_odd_name)?;
    let rundir = open_rundir()?;
    if let Some(bug) = kernels::known_crash(&kernels::release()) {
        log::warn!("{bug}");
    }
    let id = DiskId::of_path(Path::new(disk)).map_err(|error| error.to_string())?;
    let key = format!("{prefix}{}", family_key(id));
    let question = Question::Add { name: options.name.clone(), id: options.id, spec: spec.clone() };
    let mut lock = rundir.lock_family(&key, question.verb())?;
    let there = rundir.server(&key);
    let own = there.as_ref().and_then(|server| own_device(server, options, &spec.table));
    if own.is_none() {
        check_name(&rundir, &mut lock, options)?;
    }
    match there {
        Some(Server { connection: Some(_), .. }) if own.is_some() => {
            let path = own.unwrap_or_default();
            log::info!("{path} is there already");
            print(&path)?;
            drop(lock);
            keep::keep(&rundir, &key, &path)
        }
        Some(Server { connection: Some(server), .. }) => {
            let path = ask_to_add(&rundir, &key, server, (&question, &spec), disk, &Interrupt::catch()?)?;
            drop(lock);
            if options.foreground { keep::keep(&rundir, &key, &path) } else { Ok(ExitCode::SUCCESS) }
        }
        Some(Server { lives: true, .. }) => {
            Err(format!("{disk}: its server does not answer: it is stopped, or hangs").into())
        }
        // Its devices would be forgotten with the file.
        Some(Server { damaged: Some(why), .. }) => {
            let hint = "remove it to go on without the devices that it tells of";
            Err(format!("{disk}: {why}; {hint}").into())
        }
        Some(Server { state: Some(state), .. }) if has_devices(&state)? => {
            let Some(path) = own else {
                let hint = "run `ublk-dm recover`, or delete them with `ublk-dm del --force`";
                let what = "its server has died and left devices behind";
                return Err(format!("{disk}: {what}; {hint}").into());
            };
            rundir.remove_socket(&key);
            let done = |answer| taken_over(answer).and_then(|()| print(&path));
            process::foreground(&rundir, &key, Question::Recover(state.devices), lock, done)
        }
        _ if options.foreground => {
            rundir.remove(&key);
            let added = |answer| print_added(answer, &spec);
            process::foreground(&rundir, &key, question, lock, added)
        }
        _ => {
            rundir.remove(&key);
            let interrupt = Interrupt::catch()?;
            let server = process::start(&rundir, &key).inspect_err(|_| rundir.remove(&key))?;
            ask_to_add(&rundir, &key, server, (&question, &spec), disk, &interrupt)?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Whether a device is still there, and not another one under its number.
fn exists(device: &DeviceState) -> Result<bool, Failure> {
    let mut control = Control::open().map_err(|error| error.to_string())?;
    Ok(device::ours(&mut control, device.id, device.cookie)?.is_some())
}

/// Whether a server that died has left something.
fn has_devices(state: &State) -> Result<bool, Failure> {
    for device in &state.devices {
        if exists(device)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Asks a server for a device and prints its path. Nothing is left of it if the command is interrupted or its result
/// cannot be printed.
fn ask_to_add(
    rundir: &RunDir,
    key: &str,
    server: UnixStream,
    (question, spec): (&Question, &DeviceSpec),
    disk: &str,
    interrupt: &Interrupt,
) -> Result<String, Failure> {
    let answer = interrupt.add(rundir, key, server, question, Path::new(disk))?;
    let path = if let Answer::Added { path, .. } = &answer { path.clone() } else { String::new() };
    match print_added(answer, spec) {
        Err(failure) if !path.is_empty() => {
            take_back(rundir, key, &path)?;
            Err(format!("{}; the device was deleted again", failure.message).into())
        }
        printed => printed.map(|()| path),
    }
}

/// The device that a command in the foreground has made in an earlier life, if it is there: the same name over the same
/// disks. (A mirror's legs may have been changed since; its family is that of its first leg.)
fn own_device(server: &Server, options: &cli::Common, table: &Table) -> Option<String> {
    let name = options.name.as_ref().filter(|_| options.foreground)?;
    let same = |old: &Table| match (&old.params, &table.params) {
        (TargetParams::Snapshot(old), TargetParams::Snapshot(new)) => {
            (&old.origin, &old.cow) == (&new.origin, &new.cow)
        }
        (old, new) => std::mem::discriminant(old) == std::mem::discriminant(new),
    };
    let mut devices = server.state.iter().flat_map(|state| &state.devices);
    let device =
        devices.find(|device| device.name == *name && same(&device.spec.table) && exists(device).unwrap_or(false))?;
    Some(format!("/dev/ublkb{}", device.id))
}

/// The longest name of a device, in bytes: device-mapper's limit, so that a name can be used there as well.
const MAX_NAME_BYTES: usize = 127;

/// Refuses names that could be taken for something else, or do something to the terminal that shows them.
fn refuse_odd_name(name: &str) -> Result<(), Failure> {
    if name.len() > MAX_NAME_BYTES {
        let (start, len) = (name.chars().take(16).collect::<String>(), name.len());
        return Err(wrong_usage(format!("name {start}...: it has {len} bytes, more than {MAX_NAME_BYTES}")));
    }
    let why = match name {
        "" => "it is empty",
        _ if name.contains(char::is_control) => "it has a control character",
        _ if name.contains(|letter: char| letter.is_whitespace() || letter == '/') => "it has a space or a slash",
        _ if name.bytes().all(|byte| byte.is_ascii_digit()) => "it is a number, and would be taken for an id",
        _ => return Ok(()),
    };
    Err(wrong_usage(format!("name '{name}': {why}; choose another one")))
}

fn check_name(rundir: &RunDir, lock: &mut FamilyLock, options: &cli::Common) -> Result<(), Failure> {
    let Some(name) = &options.name else { return Ok(()) };
    // What servers have written down is asked, and not they: one that hangs must not keep others from adding devices.
    let is_taken = |device: DeviceState| device.name == *name && exists(&device).unwrap_or(true);
    let taken = || Ok(rundir.states()?.into_iter().flat_map(|state| state.devices).any(is_taken));
    if !lock.take_name(rundir, name, taken)? {
        return Err(format!("the name {name} is taken by another device").into());
    }
    Ok(())
}

/// Prints what an `add` gave.
pub(super) fn print_added(answer: Answer, spec: &DeviceSpec) -> Result<(), Failure> {
    match answer {
        Answer::Added { path, note } => {
            print(&path)?;
            warn_of_forgetting(spec);
            if let Some(note) = note {
                log::warn!("{note}");
            }
        }
        Answer::Failed { message } => return Err(message.into()),
        _ => return Err(other_answer()),
    }
    Ok(())
}

/// Says what a mirror without a log on a disk does when it is added again.
fn warn_of_forgetting(spec: &DeviceSpec) {
    let TargetParams::Mirror(mirror) = &spec.table.params else { return };
    if mirror.log != MirrorLog::Core {
        return;
    }
    let source = &mirror.legs[spec.source.unwrap_or(0)].device;
    let now = match mirror.initial_sync {
        InitialSync::NoSync => "its legs are taken for equal now".to_owned(),
        _ => format!("its other legs are recovered from {source} now (--source names another)"),
    };
    log::warn!("a core log remembers nothing: {now}, and whoever adds the mirror again must know which leg is right");
}
