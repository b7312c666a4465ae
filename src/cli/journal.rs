//! `journal`: acknowledged writes that dead servers could no longer put on a COW, where only a
//! person can tell whose they are. Asks no server: a journal that a server holds is neither shown
//! nor changed.

use std::path::{Path, PathBuf};

use clap::Subcommand;
use serde_json::json;

use super::client::open_rundir;
use super::json;
use super::results;
use super::terminal::print;
use super::verdict::verdict;
use crate::failure::{Failure, Reason};
use crate::rundir::RunDir;
use crate::rundir::journal::owner::{self, Owner};
use crate::rundir::journal::{self, Left};
use crate::storage::{Access, Claim, OpenDisk, content};

/// The verbs for journals.
#[derive(Subcommand)]
pub enum Journal {
    /// List the journals that are not empty: path and number of writes
    List,
    /// Assign a journal to a COW, whose next server records the writes if they fit. Correct only if
    /// the COW has lost no write: after a clean restart, or when it was reattached
    Use {
        /// The journal, as `list` and refused commands show it
        file: std::path::PathBuf,
        /// The COW
        #[arg(long, value_name = "DEV")]
        cow: std::path::PathBuf,
    },
    /// Remove a journal: the writes in it are lost
    Discard {
        /// The journal, as `list` and refused commands show it
        file: std::path::PathBuf,
    },
}

/// Runs a `journal` command.
pub(super) fn run(what: &Journal) -> Result<(), Failure> {
    let rundir = open_rundir()?;
    match what {
        Journal::List => list(&rundir)?,
        Journal::Use { file, cow } => give(&rundir, file, cow)?,
        Journal::Discard { file } => {
            let left = left(&rundir, file)?;
            journal::discard(&left.path).map_err(|error| Failure::at(&left.path, error))?;
            results::show(|| json!({ "journal": left.path.display().to_string() }))?;
        }
    }
    Ok(())
}

/// Lists the journals. One that cannot be read does not keep the others from being shown, but the
/// command fails.
fn list(rundir: &RunDir) -> Result<(), Failure> {
    let directory = rundir.path();
    let paths = journal::paths_in(directory).map_err(|error| Failure::at(directory, error))?;
    let (mut problems, mut found) = (Vec::new(), Vec::new());
    for path in paths {
        match journal::left_at(&path) {
            Ok(None) => {}
            Ok(Some(Left { owner, records, .. })) if json::is_on() => found.push(json!({
                "path": path.display().to_string(),
                "damaged": owner.is_none(),
                "writes": owner.is_some().then_some(records),
            })),
            Ok(Some(Left { owner, records, .. })) => {
                let what = if owner.is_none() {
                    "damaged".to_owned()
                } else {
                    format!("{records} writes")
                };
                print(&format!("{}: {what}", path.display()))?;
            }
            Err(error) => problems.push(Failure::at(&path, error)),
        }
    }
    results::show(|| json!({ "journals": found }))?;
    verdict(problems)
}

/// A journal that no server holds. Only files in the run directory count: a file of such a name
/// elsewhere is not mistaken for the one there.
fn left(rundir: &RunDir, file: &Path) -> Result<Left, Failure> {
    let path = in_rundir(rundir.path(), file)?;
    let found = journal::left_at(&path).map_err(|error| Failure::at(&path, error))?;
    let none = || {
        format!(
            "{}: missing, empty or in use by a server; see `ublk-dm journal list`",
            file.display()
        )
    };
    Ok(found.ok_or_else(none)?)
}

/// The path of a journal in the run directory, however the user has written the directory.
fn in_rundir(rundir: &Path, file: &Path) -> Result<PathBuf, Reason> {
    let elsewhere = || {
        let (file, rundir) = (file.display(), rundir.display());
        format!(
            "{file}: not a journal in the run directory {rundir}; see `ublk-dm journal list` for \
             the paths"
        )
    };
    let name =
        file.file_name().filter(|_| file.extension().is_some_and(|end| end == journal::EXTENSION));
    let name = name.ok_or_else(elsewhere)?;
    let absolute = std::path::absolute(file).map_err(|error| Failure::at(file, error))?;
    let directory = absolute.parent().and_then(|directory| directory.canonicalize().ok());
    let same = directory.is_some() && directory == rundir.canonicalize().ok();
    if same { Ok(rundir.join(name)) } else { Err(elsewhere().into()) }
}

fn give(rundir: &RunDir, file: &Path, cow: &Path) -> Result<(), Failure> {
    let left = left(rundir, file)?;
    let Some(found) = left.owner else {
        return Err(format!("{}: damaged, it cannot be read", file.display()).into());
    };
    let disk = OpenDisk::open_unless_in_use(cow, Access::ReadWrite, Claim::Exclusive)?;
    let store = content::store_on(&disk)?;
    let store = store.ok_or_else(|| format!("{}: it holds no snapshot store", cow.display()))?;
    let owner = Owner::of(&disk, store.identity.map(|identity| identity.store))
        .map_err(|error| Failure::at(cow, error))?;
    if found.is_other_store(&owner) {
        let hint = "the journal belongs to another store";
        return Err(format!(
            "{}: not the store that {} is about: {hint}",
            cow.display(),
            file.display()
        )
        .into());
    }
    let to = rundir.path().join(owner::file_name(&disk));
    let there = journal::left_at(&to).map_err(|error| Failure::at(&to, error))?;
    if to != left.path && there.is_some() {
        let hint = "discard one of them";
        return Err(format!(
            "{}: already has a journal in {}: {hint}",
            cow.display(),
            to.display()
        )
        .into());
    }
    journal::give(&left.path, &to, &owner).map_err(|error| Failure::at(&to, error))?;
    results::show(|| json!({ "journal": to.display().to_string() }))
}
