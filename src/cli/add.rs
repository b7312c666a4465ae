//! `add` and `create`: find or start the server of the family, and ask it for the device.

use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;

use dm_targets::mirror::table::{InitialSync, MirrorLog};
use dm_targets::table::TargetParams;

use super::args::{self as cli, Add};
use super::client::{open_rundir, other_answer};
use super::disk_word::Disks;
use super::family::{self, Locked, Wanted};
use super::gone::{self, exists};
use super::interrupt::{Interrupt, take_back};
use super::json;
use super::keep::{self, AtEnd, Signals, Watch};
use super::results::{self, Named};
use super::table;
use super::takeover;
use super::terminal::print;
use super::udev;
use super::uuid;
use crate::failure::{Failure, Kind};
use crate::protocol::{Command, DeviceRef, DeviceSpec, DeviceState, Reply, refuse_odd_name};
use crate::rundir::{FamilyLock, RunDir, Server, State};
use crate::server::process;
use crate::storage::{DiskId, ublk_number};
use crate::ublk::{device, kernels};

pub(super) fn add_device(add: Add) -> Result<ExitCode, Failure> {
    let spec = table::of_flags(&add)?;
    add_target(spec, add.common(), How::default())
}

/// Adds a device as device-mapper table lines describe it.
pub(super) fn create(
    name: String,
    table: &[String],
    file: Option<&Path>,
    created: &cli::Created,
) -> Result<ExitCode, Failure> {
    let text = table::text_of(&name, table, file)?;
    let cli::Created { uuid, id, read_only, no_recovery, on_server_death, loaded, .. } = created;
    let (id, read_only, no_recovery) = (*id, *read_only, *no_recovery);
    let options = cli::Common {
        uuid: uuid.clone(),
        id,
        read_only,
        no_recovery,
        on_server_death: *on_server_death,
        force: loaded.force,
        shared: loaded.shared,
        beside: created.beside.clone(),
        ..cli::Common::named(name)
    };
    let spec = table::of_lines(&text, &options, loaded.source.as_deref(), Disks::new());
    let word = options.name.as_deref().unwrap_or_default();
    add_target(spec.map_err(|why| table::named(word, "create", why))?, &options, How::default())
}

/// Makes a device of one without a table, which has taken the name.
pub(super) fn add_reserved(
    spec: DeviceSpec,
    options: &cli::Common,
    prints: bool,
) -> Result<ExitCode, Failure> {
    add_target(spec, options, How { reserved: true, silent: !prints, ..How::default() })
}

/// Adds a device without printing its path.
pub(super) fn add_silently(spec: DeviceSpec, options: &cli::Common) -> Result<ExitCode, Failure> {
    add_target(spec, options, How { silent: true, ..How::default() })
}

/// Adds one of several devices: its path is not printed.
pub(super) fn add_one_of_several(
    spec: DeviceSpec,
    options: &cli::Common,
    interrupt: &Interrupt,
) -> Result<(), Failure> {
    add_target(spec, options, How { several: Some(interrupt), ..How::default() }).map(drop)
}

/// What differs between the commands that add a device.
#[derive(Clone, Copy, Default)]
struct How<'a> {
    /// The name has been taken for this device.
    reserved: bool,
    /// No path is printed.
    silent: bool,
    /// The command adds several devices, and prints no path; a signal ends all of it.
    several: Option<&'a Interrupt>,
}

impl How<'_> {
    /// What tells of a signal; `None`: the server in the foreground handles signals itself.
    fn interrupt(self, foreground: bool) -> Result<Option<Interrupt>, Failure> {
        match self.several {
            Some(interrupt) => Ok(Some(interrupt.clone())),
            None => (!foreground).then(Interrupt::catch).transpose(),
        }
    }
}

/// What a server is asked for.
struct Asked<'a> {
    command: &'a Command,
    spec: &'a DeviceSpec,
    /// Whether the path is printed.
    prints: bool,
}

fn add_target(spec: DeviceSpec, options: &cli::Common, how: How<'_>) -> Result<ExitCode, Failure> {
    let prints = how.several.is_none() && !how.silent;
    let disk = spec.table.params.family().disk.unwrap_or("the device");
    options.name.as_deref().map_or(Ok(()), refuse_odd_name)?;
    let rundir = open_rundir()?;
    if how.several.is_none() {
        warn_of_kernel();
    }
    let command = Command::Add { name: options.name.clone(), id: options.id, spec: spec.clone() };
    let wanted = Wanted {
        table: &spec.table,
        in_part: spec.unclaimed,
        beside: options.beside.as_deref().map(beside).transpose()?,
        name: options.name.as_deref(),
        own_name: options.name.as_deref().filter(|_| options.foreground),
    };
    // Caught before anything exists that could be left behind. In the foreground, the server
    // installs its own signal handlers later.
    let interrupt = how.interrupt(options.foreground)?;
    let Locked { key, mut lock, own } = family::lock(&rundir, &wanted, command.verb())?;
    if own.is_none() {
        takeover::refuse_waiting(&disks_below(&spec), &[])?;
        check_name(&rundir, &mut lock, options.name.as_deref(), how.reserved)?;
        let own = options.name.as_deref().filter(|_| how.reserved);
        uuid::refuse_taken(&rundir, spec.options.uuid.as_deref(), own.unwrap_or_default())?;
    }
    let there = rundir.server(&key);
    if let (Some(own), Some(Server { connection: Some(_), .. })) = (&own, &there) {
        return keep_own(&rundir, &key, there, own, lock);
    }
    let asked = Asked { command: &command, spec: &spec, prints };
    let state = match there {
        Some(Server { connection: Some(server), .. }) => {
            return ask_living(&rundir, &key, server, &asked, interrupt, lock);
        }
        Some(Server { lives: true, .. }) => {
            let why = format!("{disk}: its server does not answer: it is stopped or hangs");
            return Err(Failure::new(Kind::NoAnswer, why));
        }
        // Removing the file would lose track of its devices.
        Some(Server { damaged: Some(why), .. }) => {
            let hint = "remove the file to continue without the devices that it lists";
            return Err(why.context(disk).ending(format!("; {hint}")));
        }
        Some(Server { state: Some(state), .. }) if has_devices(&state)? => {
            let own = own.ok_or_else(|| left_behind(disk, &state))?;
            return take_own_over(&rundir, &key, state, own, lock);
        }
        there => there.and_then(|server| server.state),
    };
    state.map_or(Ok(()), |state| complete_gone(&rundir, &key, &state))?;
    rundir.remove(&key);
    let Some(interrupt) = interrupt else {
        let added = |reply| print_added(reply, &spec, true);
        return process::foreground(&rundir, &key, command.clone(), lock, added);
    };
    let server = process::start(&rundir, &key).inspect_err(|_| rundir.remove(&key))?;
    ask_to_add(&rundir, &key, server, &asked, &interrupt)?;
    Ok(ExitCode::SUCCESS)
}

/// Warns of a kernel that may crash when a device is added.
pub(super) fn warn_of_kernel() {
    if let Some(bug) = kernels::known_crash(&kernels::release()) {
        log::warn!("{bug}");
    }
}

/// The number of the device that `--beside` names.
fn beside(word: &Path) -> Result<u32, Failure> {
    let path = Disks::new().path(word)?;
    let number = ublk_number(DiskId::of_path(Path::new(&path))?);
    let why = || format!("--beside {path}: it is no device of ublk-dm; see `ublk-dm list`");
    number.ok_or_else(|| why().into())
}

/// The error of a command that needs a new server for a disk, where a dead one has left devices.
fn left_behind(disk: &str, state: &State) -> Failure {
    let names: Vec<_> = state.devices.iter().map(|device| &*device.name).collect();
    let names = names.join(" ");
    let hint =
        format!("run `ublk-dm recover {names}`, or delete them with `ublk-dm del --force {names}`");
    format!("{disk}: its server has died and left devices behind; {hint}").into()
}

/// Completes what the devices of a dead server have left, all of which are gone, before a new
/// server starts.
fn complete_gone(rundir: &RunDir, key: &str, state: &State) -> Result<(), Failure> {
    let forgotten = gone::forget(rundir, key, &state.devices, Vec::new());
    if forgotten.keeps_files {
        let why = Failure::all(forgotten.problems);
        return Err(why.unwrap_or_else(|| "the files of its server are kept".into()));
    }
    forgotten.problems.iter().for_each(|why| log::error!("{why}"));
    Ok(())
}

/// The numbers of the disks below a new device. A missing disk is reported when it is opened.
fn disks_below(spec: &DeviceSpec) -> Vec<(u32, u32)> {
    let mut table = spec.table.clone();
    let words = table.params.devices_mut();
    let ids = words.into_iter().filter_map(|word| DiskId::of_path(Path::new(word.as_str())).ok());
    ids.map(|id| id.block_number()).collect()
}

/// Has a living server add one more device.
fn ask_living(
    rundir: &RunDir,
    key: &str,
    server: UnixStream,
    asked: &Asked<'_>,
    interrupt: Option<Interrupt>,
    lock: FamilyLock,
) -> Result<ExitCode, Failure> {
    let Some(interrupt) = interrupt else {
        let (signals, watch) = (Signals::catch()?, Watch::begin(rundir, key)?);
        let device = ask_to_add(rundir, key, server, asked, &Interrupt::catch()?)?;
        return keep::keep(rundir, key, device, (&signals, watch), AtEnd::Deleted, lock);
    };
    ask_to_add(rundir, key, server, asked, &interrupt)?;
    Ok(ExitCode::SUCCESS)
}

/// Keeps the device that an earlier run of this command made and that another process serves, or is
/// to serve from now on.
fn keep_own(
    rundir: &RunDir,
    key: &str,
    there: Option<Server>,
    own: &DeviceState,
    lock: FamilyLock,
) -> Result<ExitCode, Failure> {
    let (signals, watch) = (Signals::catch()?, Watch::begin(rundir, key)?);
    let server = there.and_then(|server| server.connection);
    server.map_or(Ok(()), |server| takeover::by_server(server, own))?;
    let path = format!("{}{}", device::BLOCK_PATH, own.id);
    log::info!("{path} already exists");
    print_path(&path, &Named::of_state(own))?;
    keep::keep(rundir, key, own.device(), (&signals, watch), AtEnd::Deleted, lock)
}

/// Keeps a device that `up` has brought up, or found.
pub(super) fn keep_brought_up(
    rundir: &RunDir,
    key: &str,
    server: UnixStream,
    device: &DeviceState,
    signals: &Signals,
    lock: FamilyLock,
) -> Result<ExitCode, Failure> {
    let watch = Watch::begin(rundir, key)?;
    takeover::by_server(server, device)?;
    keep::keep(rundir, key, device.device(), (signals, watch), AtEnd::DeletedInPeace, lock)
}

/// Takes over the family of a device that an earlier run of this command made, and serves it in
/// this process.
fn take_own_over(
    rundir: &RunDir,
    key: &str,
    state: State,
    own: DeviceState,
    lock: FamilyLock,
) -> Result<ExitCode, Failure> {
    let lower = takeover::lower_of(&state.devices);
    takeover::refuse_waiting(&takeover::disks_of(&state.devices), &lower)?;
    takeover::check(rundir, &own)?;
    rundir.remove_socket(key);
    let path = format!("{}{}", device::BLOCK_PATH, own.id);
    let named = Named::of_state(&own);
    let wanted = [own];
    let done =
        |reply| takeover::taken_over(reply, &wanted).and_then(|()| print_path(&path, &named));
    process::foreground(rundir, key, Command::Recover(state.devices), lock, done)
}

/// Whether a server that died has left devices behind.
fn has_devices(state: &State) -> Result<bool, Failure> {
    for device in &state.devices {
        if exists(device)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Asks a server for a device and prints its path. If the command is interrupted or its result
/// cannot be printed, the device is taken back, and the command says what is left.
fn ask_to_add(
    rundir: &RunDir,
    key: &str,
    server: UnixStream,
    &Asked { command, spec, prints }: &Asked<'_>,
    interrupt: &Interrupt,
) -> Result<DeviceRef, Failure> {
    let reply = interrupt.add(rundir, key, server, (command, spec))?;
    let added = if let Reply::Added { device, .. } = &reply { Some(*device) } else { None };
    match (print_added(reply, spec, prints), added) {
        (Err(failure), Some(device)) => {
            let taken_back = take_back(rundir, key, device, spec);
            Err(failure.ending(format!("; {taken_back}")))
        }
        (printed, added) => printed.and_then(|()| added.ok_or_else(other_answer)),
    }
}

/// Takes a name, unless another device has it, or one without a table; `reserved`: it is the
/// latter's.
pub(super) fn check_name(
    rundir: &RunDir,
    lock: &mut FamilyLock,
    name: Option<&str>,
    reserved: bool,
) -> Result<(), Failure> {
    let Some(name) = name else { return Ok(()) };
    if !reserved && rundir.reserved_as(name)?.is_some() {
        return Err(format!(
            "the name {name} is taken by a device without a table: `ublk-dm del {name}` frees it"
        )
        .into());
    }
    // Reads the state files instead of asking the servers: a server that hangs must not keep other
    // commands from adding devices.
    let is_taken = |device: DeviceState| device.name == name && exists(&device).unwrap_or(true);
    let taken = || {
        Ok(rundir.states_beside(None)?.into_iter().flat_map(|state| state.devices).any(is_taken))
    };
    if !lock.take_name(rundir, name, taken)? {
        return Err(format!("the name {name} is taken by another device").into());
    }
    Ok(())
}

/// Prints the result of an `add`; the path only if it is wanted.
fn print_added(reply: Reply, spec: &DeviceSpec, prints: bool) -> Result<(), Failure> {
    match reply {
        Reply::Added { path, note, device, name } => {
            udev::settle(&path);
            if prints {
                print_path(&path, &Named::new(device.id, name))?;
            }
            match note {
                Some(note) => log::warn!("{note}"),
                None => warn_of_forgetting(spec),
            }
        }
        Reply::Failed(why) => return Err(why),
        _ => return Err(other_answer()),
    }
    Ok(())
}

/// Prints the path of a device, or its object.
fn print_path(path: &str, device: &Named) -> Result<(), Failure> {
    if json::is_on() { results::done(device) } else { print(path) }
}

/// Warns that a mirror with a core log remembers nothing when it is added again.
fn warn_of_forgetting(spec: &DeviceSpec) {
    let TargetParams::Mirror(mirror) = &spec.table.params else { return };
    if mirror.log != MirrorLog::Core {
        return;
    }
    let source = &mirror.legs[spec.source.unwrap_or(0)].device;
    let now = match mirror.initial_sync {
        InitialSync::NoSync => "its legs are now assumed to be equal".to_owned(),
        _ => format!("its other legs are now recovered from {source} (--source names another)"),
    };
    log::warn!(
        "a core log is not kept when the mirror ends: {now}; to add the mirror again, you must \
         know which leg is up to date"
    );
}
