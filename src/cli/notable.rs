//! Devices without a table (`create --notable`): a name is taken, `load` gives it a table, and
//! `resume` makes it a device. ublk has no device without a size, so there is none before that.
//!
//! Rules kept here: commands about such names exclude each other; a name that is a device's is no
//! such name, so a `resume` that was killed after its device was there leaves nothing to be done;
//! and as in device-mapper, a `resume` that fails keeps no table.

use std::process::ExitCode;

use super::add;
use super::args::{self as cli, Common};
use super::client::open_rundir;
use super::results::{self, Named};
use super::table::on_server_death;
use super::uuid;
use super::without_table::{self, is_device};
use crate::failure::Failure;
use crate::protocol::{DeviceOptions, DeviceSpec, refuse_odd_name};
use crate::rundir::{FamilyLock, Reserved, RunDir};

/// Takes a name for a device that gets its table later.
pub(super) fn create(name: &str, created: &cli::Created) -> Result<ExitCode, Failure> {
    refuse_odd_name(name)?;
    let rundir = open_rundir()?;
    let mut lock = rundir.lock_reserved("create")?;
    add::check_name(&rundir, &mut lock, Some(name), false)?;
    refuse_taken_id(&rundir, created.id)?;
    uuid::refuse_taken(&rundir, created.uuid.as_deref(), "")?;
    let Common { queues, depth, .. } = Common::unnamed();
    let options = DeviceOptions {
        queues,
        depth,
        read_only: created.read_only,
        zero_copy: true,
        recovery: !created.no_recovery,
        on_server_death: on_server_death(created.on_server_death),
        uuid: created.uuid.clone(),
    };
    rundir.reserve(&Reserved::new(name, created.id, options)?)?;
    results::done(&Named::without_table(name))?;
    Ok(ExitCode::SUCCESS)
}

/// Refuses a number that another device without a table is to have.
fn refuse_taken_id(rundir: &RunDir, id: Option<u32>) -> Result<(), Failure> {
    let all = if id.is_some() { without_table::all(rundir)? } else { Vec::new() };
    all.iter().find(|one| one.id == id).map_or(Ok(()), |one| {
        let (name, id) = (&one.name, id.unwrap_or_default());
        let hint = format!("`ublk-dm del {name}` frees it");
        Err(format!("the id {id} is taken by {name}, a device without a table: {hint}").into())
    })
}

/// The device without a table that a word names, locked.
fn find(
    rundir: &RunDir,
    word: &str,
    verb: &str,
) -> Result<Option<(FamilyLock, Reserved)>, Failure> {
    if rundir.reserved_as(word)?.is_none() {
        return Ok(None);
    }
    let lock = rundir.lock_reserved(verb)?;
    let found = rundir.reserved_as(word)?.filter(|_| !is_device(rundir, word));
    Ok(found.map(|found| (lock, found)))
}

/// Loads a table for a device without one. Returns whether the word names such a device.
pub(super) fn load(word: &str, spec: &DeviceSpec) -> Result<bool, Failure> {
    let rundir = open_rundir()?;
    let Some((_lock, mut found)) = find(&rundir, word, "load")? else { return Ok(false) };
    found.loaded = Some(DeviceSpec { options: found.options.clone(), ..spec.clone() });
    rundir.reserve(&found)?;
    Ok(true)
}

/// Drops the table that is loaded for a device without one. Returns whether the word names such a
/// device.
pub(super) fn clear(word: &str) -> Result<bool, Failure> {
    let rundir = open_rundir()?;
    let Some((_lock, mut found)) = find(&rundir, word, "clear")? else { return Ok(false) };
    found.loaded = None;
    rundir.reserve(&found)?;
    Ok(true)
}

/// Makes a device of one without a table; `prints`: and prints its path. `None`: the word names
/// none.
pub(super) fn resume(word: &str, prints: bool) -> Result<Option<ExitCode>, Failure> {
    let rundir = open_rundir()?;
    let Some((_lock, mut found)) = find(&rundir, word, "resume")? else { return Ok(None) };
    let Some(spec) = found.loaded.take() else {
        return Err(without_table::refused(word));
    };
    let common = Common { id: found.id, ..Common::named(found.name.clone()) };
    match add::add_reserved(spec, &common, prints) {
        Ok(done) => {
            rundir.unreserve(word)?;
            Ok(Some(done))
        }
        Err(why) if is_device(&rundir, word) => Err(why),
        Err(why) => {
            rundir.reserve(&found)?;
            Err(why.context(word).ending("; the table is no longer loaded"))
        }
    }
}

/// Renames a device without a table. Returns whether the word names such a device.
pub(super) fn rename(word: &str, name: &str) -> Result<bool, Failure> {
    let rundir = open_rundir()?;
    let Some((mut lock, mut found)) = find(&rundir, word, "rename")? else { return Ok(false) };
    if word != name {
        add::check_name(&rundir, &mut lock, Some(name), false)?;
        name.clone_into(&mut found.name);
        rundir.reserve(&found)?;
        rundir.unreserve(word)?;
    }
    Ok(true)
}

/// Forgets the devices without a table among these words, or all. Returns their names, and the
/// other words.
pub(super) fn del(
    rundir: &RunDir,
    words: &[String],
    all: bool,
) -> Result<(Vec<String>, Vec<String>), Failure> {
    let everything = if all { without_table::all(rundir)? } else { Vec::new() };
    let names = everything.into_iter().map(|one| one.name);
    let (mut forgotten, mut others) = (Vec::new(), Vec::new());
    for word in names.chain(words.iter().cloned()) {
        match find(rundir, &word, "del")? {
            Some(_) => {
                rundir.unreserve(&word)?;
                forgotten.push(word);
            }
            None => others.push(word),
        }
    }
    Ok((forgotten, others))
}
