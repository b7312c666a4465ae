//! `add` and `create`: what the user wants as a question, and the server that answers it found or started.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use dm_targets::table::{self, Line, MirrorLog, StoreType, Target};

use super::args::{self as cli, Add};
use super::client::{open_rundir, other_answer};
use super::interrupt::{Interrupt, take_back};
use super::keep;
use super::remove::taken_over;
use super::terminal::print;
use crate::failure::{Failure, wrong_usage};
use crate::protocol::{AddMirror, AddOrigin, AddSnapshot, Answer, Common, DeviceState, InitialSync, Leg, Question};
use crate::rundir::{FamilyLock, RunDir, Server, State, family_key};
use crate::server::process;
use crate::storage::DiskId;
use crate::storage::word::{absolute, device_of, leg_of};
use crate::ublk::{Control, device, kernels};

fn common(common: &cli::Common) -> Common {
    Common {
        name: common.name.clone(),
        id: common.id,
        queues: common.queues,
        depth: common.depth,
        read_only: common.read_only,
        zero_copy: !common.no_zero_copy,
        recovery: !common.no_recovery,
        force: common.force,
    }
}

fn snapshot_question(add: &cli::Snapshot) -> Result<Question, Failure> {
    let chunk_sectors = match add.chunk_size {
        None => None,
        Some(bytes) if bytes % 512 != 0 || !(bytes / 512).is_power_of_two() || bytes > 1 << 30 => {
            let hint = "it must be a power of two between 512 bytes and 1 GiB";
            return Err(wrong_usage(format!("chunk size of {bytes} bytes: {hint}")));
        }
        Some(bytes) => Some(bytes / 512),
    };
    Ok(Question::AddSnapshot(AddSnapshot {
        origin: absolute(&add.origin)?,
        cow: absolute(&add.cow)?,
        chunk_sectors,
        persistent: add.store == cli::Store::Persistent,
        overflow: add.on_full == cli::OnFull::Overflow,
        discard_zeroes_cow: add.discard_zeroes_cow,
        discard_passdown_origin: add.discard_passdown_origin,
        len_sectors: None,
        common: common(&add.common),
    }))
}

pub(super) fn add_device(add: Add) -> Result<ExitCode, Failure> {
    match add {
        Add::Snapshot(add) => add_target(snapshot_question(&add)?, &add.origin, &add.common),
        Add::Origin(add) => {
            let question = AddOrigin { origin: absolute(&add.origin)?, common: common(&add.common) };
            add_target(Question::AddOrigin(question), &add.origin, &add.common)
        }
        Add::Mirror(add) => {
            let question = mirror_question(&add)?;
            let first = question.legs[0].path.clone();
            add_target(Question::AddMirror(question), &first, &add.common)
        }
    }
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
    let line = Line::parse_table(&text).map_err(|error| wrong_usage(error.to_string()))?;
    let cli::Created { id, read_only, no_recovery, loaded } = created;
    let (id, read_only, no_recovery, force) = (*id, *read_only, *no_recovery, loaded.force);
    let options = cli::Common { id, read_only, no_recovery, force, ..cli::Common::named(name) };
    let (mut question, disk) = question_of(line, &options)?;
    name_source(&mut question, loaded.source.as_deref())?;
    add_target(question, &disk, &options)
}

/// Puts the leg that `--source` names into a mirror's table.
pub(super) fn name_source(question: &mut Question, source: Option<&Path>) -> Result<(), Failure> {
    match (question, source) {
        (_, None) => {}
        (Question::AddMirror(add), Some(source)) => add.source = Some(place_of(&add.legs, source)?),
        (_, Some(_)) => return Err(wrong_usage("--source names a leg of a mirror, and the table has none".to_owned())),
    }
    Ok(())
}

/// A table line as a question, and the disk after which its family is named.
pub(super) fn question_of(line: Line, options: &cli::Common) -> Result<(Question, PathBuf), Failure> {
    let common = common(options);
    match line.target {
        Target::Snapshot(snapshot) => {
            let origin = device_of(&snapshot.origin);
            let (persistent, overflow) = match snapshot.store {
                StoreType::Persistent { overflow } => (true, overflow),
                StoreType::Transient => (false, false),
            };
            let question = AddSnapshot {
                origin: absolute(&origin)?,
                cow: absolute(&device_of(&snapshot.cow))?,
                chunk_sectors: snapshot.chunk_size.map(|size| size.sectors().0),
                persistent,
                overflow,
                discard_zeroes_cow: snapshot.discard_zeroes_cow,
                discard_passdown_origin: snapshot.discard_passdown_origin,
                len_sectors: Some(line.len.0),
                common,
            };
            Ok((Question::AddSnapshot(question), origin))
        }
        Target::SnapshotOrigin { origin } => {
            let origin = device_of(&origin);
            Ok((Question::AddOrigin(AddOrigin { origin: absolute(&origin)?, common }), origin))
        }
        Target::Mirror(mirror) => {
            let leg = |leg: &table::Leg| {
                Ok::<Leg, Failure>(Leg { path: absolute(&device_of(&leg.device))?, offset_sectors: leg.offset.0 })
            };
            let legs = mirror.legs.iter().map(leg).collect::<Result<Vec<_>, _>>()?;
            let first = legs[0].path.clone();
            let question = AddMirror {
                legs,
                log: match &mirror.log {
                    MirrorLog::Core => None,
                    MirrorLog::Disk { device } => Some(absolute(&device_of(device))?),
                },
                region_sectors: Some(mirror.region_size.0),
                initial_sync: match mirror.initial_sync {
                    table::InitialSync::FromLog => InitialSync::FromLog,
                    table::InitialSync::Sync => InitialSync::Sync,
                    table::InitialSync::NoSync => InitialSync::NoSync,
                },
                handle_errors: mirror.handle_errors,
                keep_log: mirror.keep_log,
                source: None,
                len_sectors: Some(line.len.0),
                common,
            };
            Ok((Question::AddMirror(question), first))
        }
        other => Err(format!("target {}: not served by this version", other.name()).into()),
    }
}

/// The place of the leg that `--source` names.
pub(super) fn place_of(legs: &[Leg], source: &Path) -> Result<usize, Failure> {
    let source = absolute(source)?;
    let place = legs.iter().position(|leg| leg.path == source);
    place.ok_or_else(|| wrong_usage(format!("--source {}: not one of the legs", source.display())))
}

fn mirror_question(add: &cli::Mirror) -> Result<AddMirror, Failure> {
    let (min, max) = (table::Mirror::MIN_LEGS, table::Mirror::MAX_LEGS);
    if !(min..=max).contains(&add.legs.len()) {
        let (count, legs) = (add.legs.len(), if add.legs.len() == 1 { "leg" } else { "legs" });
        return Err(wrong_usage(format!("{count} {legs}: a mirror has {min} to {max}; give --leg for each")));
    }
    let legs = add.legs.iter().map(|word| leg_of(word)).collect::<Result<Vec<_>, _>>()?;
    let source = match &add.source {
        None => None,
        Some(source) => Some(place_of(&legs, source)?),
    };
    if let Some(bytes) = add.region_size {
        if bytes % 512 != 0 || !(bytes / 512).is_power_of_two() || bytes / 512 < table::Mirror::MIN_REGION.0 {
            return Err(wrong_usage(format!("region size of {bytes} bytes: it must be a power of two from 1 KiB")));
        }
    }
    let log = if add.log == "core" { None } else { Some(absolute(Path::new(&add.log))?) };
    let initial_sync = match (add.sync, add.nosync) {
        (true, _) => InitialSync::Sync,
        (_, true) => InitialSync::NoSync,
        _ => InitialSync::FromLog,
    };
    Ok(AddMirror {
        legs,
        log,
        region_sectors: add.region_size.map(|bytes| bytes / 512),
        initial_sync,
        handle_errors: add.handle_errors,
        keep_log: add.keep_log,
        source,
        len_sectors: None,
        common: common(&add.common),
    })
}

fn add_target(question: Question, origin: &Path, options: &cli::Common) -> Result<ExitCode, Failure> {
    options.name.as_deref().map_or(Ok(()), refuse_odd_name)?;
    let rundir = open_rundir()?;
    if let Some(bug) = kernels::known_crash(&kernels::release()) {
        log::warn!("{bug}");
    }
    let id = DiskId::of_path(origin).map_err(|error| error.to_string())?;
    let key = match &question {
        Question::AddMirror(_) => format!("mirror-{}", family_key(id)),
        _ => family_key(id),
    };
    let mut lock = rundir.lock_family(&key, question.verb())?;
    let there = rundir.server(&key);
    let own = there.as_ref().and_then(|server| own_device(server, options, &question));
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
            let path = ask_to_add(&rundir, &key, server, &question, origin, &Interrupt::catch()?)?;
            drop(lock);
            if options.foreground { keep::keep(&rundir, &key, &path) } else { Ok(ExitCode::SUCCESS) }
        }
        Some(Server { lives: true, .. }) => {
            Err(format!("{}: its server does not answer: it is stopped, or hangs", origin.display()).into())
        }
        // Its devices would be forgotten with the file.
        Some(Server { damaged: Some(why), .. }) => {
            let hint = "remove it to go on without the devices that it tells of";
            Err(format!("{}: {why}; {hint}", origin.display()).into())
        }
        Some(Server { state: Some(state), .. }) if has_devices(&state)? => {
            let Some(path) = own else {
                let hint = "run `ublk-dm recover`, or delete them with `ublk-dm del --force`";
                let what = "its server has died and left devices behind";
                return Err(format!("{}: {what}; {hint}", origin.display()).into());
            };
            let devices = state.devices.into_iter().filter(|device| exists(device).unwrap_or(true)).collect();
            rundir.remove_socket(&key);
            let done = |answer| taken_over(answer).and_then(|()| print(&path));
            process::foreground(&rundir, &key, Question::Recover(devices), lock, done)
        }
        _ if options.foreground => {
            rundir.remove(&key);
            let asked = question.clone();
            let added = |answer| print_added(answer, &asked);
            process::foreground(&rundir, &key, question, lock, added)
        }
        _ => {
            rundir.remove(&key);
            let interrupt = Interrupt::catch()?;
            let server = process::start(&rundir, &key).inspect_err(|_| rundir.remove(&key))?;
            ask_to_add(&rundir, &key, server, &question, origin, &interrupt)?;
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
    question: &Question,
    origin: &Path,
    interrupt: &Interrupt,
) -> Result<String, Failure> {
    let answer = interrupt.add(rundir, key, server, question, origin)?;
    let path = if let Answer::Added { path } = &answer { path.clone() } else { String::new() };
    match print_added(answer, question) {
        Err(failure) if !path.is_empty() => {
            take_back(rundir, key, &path)?;
            Err(format!("{}; the device was deleted again", failure.message).into())
        }
        printed => printed.map(|()| path),
    }
}

/// The device that a command in the foreground has made in an earlier life, if it is there: the same name over the same
/// disks. (A mirror's legs may have been changed since; its family is that of its first leg.)
fn own_device(server: &Server, options: &cli::Common, question: &Question) -> Option<String> {
    let name = options.name.as_ref().filter(|_| options.foreground)?;
    let same = |added: &Question| match (added, question) {
        (Question::AddSnapshot(old), Question::AddSnapshot(new)) => (&old.origin, &old.cow) == (&new.origin, &new.cow),
        (Question::AddOrigin(_), Question::AddOrigin(_)) | (Question::AddMirror(_), Question::AddMirror(_)) => true,
        _ => false,
    };
    let mut devices = server.state.iter().flat_map(|state| &state.devices);
    let device =
        devices.find(|device| device.name == *name && same(&device.added) && exists(device).unwrap_or(false))?;
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
pub(super) fn print_added(answer: Answer, question: &Question) -> Result<(), Failure> {
    match answer {
        Answer::Added { path } => {
            print(&path)?;
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
