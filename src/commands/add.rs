//! `add` and `create`: what the user wants as a question, and the server that answers it found or started.

use std::path::Path;
use std::process::ExitCode;

use dm_targets::table::{Line, StoreType, Target};

use super::{Failure, device_exists, open_rundir, print_added, reports, wrong_usage};
use crate::cli::{self, Add};
use crate::daemon;
use crate::open::DiskId;
use crate::proto::{self, AddOrigin, AddSnapshot, Common, Question};
use crate::rundir::{RunDir, Server, family_key};

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

/// The server has another working directory.
fn absolute(path: &Path) -> Result<std::path::PathBuf, Failure> {
    std::path::absolute(path).map_err(|error| format!("{}: {error}", path.display()).into())
}

pub(super) fn add_device(add: Add) -> Result<ExitCode, Failure> {
    match add {
        Add::Snapshot(add) => add_target(snapshot_question(&add)?, &add.origin, &add.common),
        Add::Origin(add) => {
            let question = AddOrigin { origin: absolute(&add.origin)?, common: common(&add.common) };
            add_target(Question::AddOrigin(question), &add.origin, &add.common)
        }
    }
}

/// Adds a device as a device-mapper table line describes it.
pub(super) fn create(name: String, table: Option<String>, file: Option<&Path>) -> Result<ExitCode, Failure> {
    let text = match (table, file) {
        (Some(line), _) => line,
        (None, Some(path)) if path != Path::new("-") => {
            std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?
        }
        (None, _) => std::io::read_to_string(std::io::stdin())?,
    };
    let line = Line::parse_table(&text).map_err(|error| wrong_usage(error.to_string()))?;
    let options = cli::Common::named(name);
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
                common: common(&options),
            };
            add_target(Question::AddSnapshot(question), &origin, &options)
        }
        Target::SnapshotOrigin { origin } => {
            let origin = device_of(&origin);
            let question = AddOrigin { origin: absolute(&origin)?, common: common(&options) };
            add_target(Question::AddOrigin(question), &origin, &options)
        }
        other => Err(format!("target {}: not served by this version", other.name()).into()),
    }
}

/// A device word of a table line: a path, or `MAJ:MIN`.
fn device_of(word: &str) -> std::path::PathBuf {
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match word.split_once(':') {
        Some((major, minor)) if is_number(major) && is_number(minor) => Path::new("/dev/block").join(word),
        _ => word.into(),
    }
}

fn add_target(question: Question, origin: &Path, options: &cli::Common) -> Result<ExitCode, Failure> {
    let rundir = open_rundir()?;
    let metadata = std::fs::metadata(origin).map_err(|error| format!("{}: {error}", origin.display()))?;
    let id = DiskId::of(&metadata)
        .ok_or_else(|| format!("{}: neither a block device nor a regular file", origin.display()))?;
    let key = family_key(id);
    let lock = rundir.lock()?;
    check_name(&rundir, options)?;
    match rundir.server(&key) {
        Some(Server { connection: Some(server), .. }) => {
            if options.foreground {
                let hint = "only the first device of an origin can be added in the foreground";
                return Err(wrong_usage(format!("{}: its server is already running; {hint}", origin.display())));
            }
            print_added(proto::ask(server, &question)?)?;
        }
        Some(Server { state: Some(state), .. }) if state.devices.iter().any(|device| device_exists(device.id)) => {
            let hint = "delete them run `ublk-dm recover`, or delete them with `ublk-dm del --force`";
            return Err(format!("{}: its server has died and left devices behind; {hint}", origin.display()).into());
        }
        _ if options.foreground => {
            rundir.remove(&key);
            return daemon::foreground(&rundir, &key, question, lock);
        }
        _ => {
            rundir.remove(&key);
            let server = daemon::start(&rundir, &key).inspect_err(|_| rundir.remove(&key))?;
            print_added(proto::ask(server, &question)?)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn check_name(rundir: &RunDir, options: &cli::Common) -> Result<(), Failure> {
    let Some(name) = &options.name else { return Ok(()) };
    if name.is_empty()
        || name.contains(|letter: char| letter.is_whitespace() || letter == '/')
        || name.parse::<u32>().is_ok()
    {
        return Err(wrong_usage(format!("name {name:?}: it must have no space or slash and not be a number")));
    }
    if reports(rundir)?.iter().any(|device| device.name == *name) {
        return Err(format!("the name {name} is taken by another device").into());
    }
    Ok(())
}
