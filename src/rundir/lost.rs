//! Lost stores: stores that look valid but must not be used, because the snapshot became wrong and
//! the COW does not show it.
//!
//! One file for each. A store made by this program is identified by its id, and by its disk: a copy
//! of it has the id, too. A store made by the kernel has no id: it is identified by the lasting
//! name of its disk ([`Known`](crate::storage::Known)), or by the disk's path.
//!
//! Rules kept here: I9 (a file is complete and durable before the origin write that makes the store
//! wrong), and a file is removed only when the store is gone from the same disk, or valid there
//! again, never on its own. If it is not known whether a record is of the store that is there, it
//! is assumed to be: so it is that of a copy which is added, unless it is of another origin, or the
//! store has left its origin on its own disk since. But what is recorded of a copy on another disk
//! is never that of a store with a device: that one has not left. The run directory is in memory
//! unless configured otherwise: a server must never wait for a file system that it may serve
//! itself.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use dm_targets::mirror::leg_flags::identity_of;
use dm_targets::snapshot::format::StoreId;
use dm_targets::snapshot::losses::{Loss, LossRecord};
use serde::{Deserialize, Serialize};

use super::boot::boot_id;
use super::directory::{RunDir, at};
use super::durable;
use crate::failure::Failure;
use crate::protocol::{Cow, Which};
use crate::storage::certainly_differ;

/// Prefix of the name of a disk that reports no name: no other disk has the same name before the
/// next boot.
const NUMBER: &str = "disk";

/// Content of a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    /// Lasting names of the COW and its origin.
    cow: String,
    origin: String,
    /// The COW could not be marked; otherwise the origin was changed without the snapshot.
    mark_failed: bool,
    /// The store; `None` if it was not known, as in earlier versions.
    #[serde(default)]
    store: Option<String>,
    /// The disk's number in `boot`.
    #[serde(default)]
    number: u64,
    #[serde(default)]
    boot: String,
    /// All names of the disk; not recorded by earlier versions.
    #[serde(default)]
    names: Vec<String>,
}

impl Entry {
    /// The COW that is lost, as it is known in a boot.
    fn cow(&self, boot: &str) -> Cow {
        let mut names = self.names.clone();
        if !names.contains(&self.cow) {
            names.insert(0, self.cow.clone());
        }
        let number = if self.boot == boot { self.number } else { 0 };
        let store = Which::from(self.store.clone());
        Cow { store, names, former: String::new(), number, origin: self.origin.clone() }
    }
}

/// Whether two COWs are certainly on two disks. Where their names say nothing of each other, their
/// numbers in this boot do.
pub fn is_elsewhere(one: &Cow, other: &Cow) -> bool {
    if one.is_on_disk_of(other) || other.names.contains(&one.former) {
        return false;
    }
    let differ = || match (one.names.first(), other.names.first()) {
        (Some(one), Some(other)) => certainly_differ(one, other),
        _ => false,
    };
    one.number != 0 && other.number != 0 || differ()
}

/// Whether a loss on record of a store with an id is that of the store that is here, by its id.
/// `again`: the store has a device; `has_left`: it is on record that it has left on its own disk.
pub fn is_loss_of(lost: &Cow, here: &Cow, loss: Loss, again: bool, has_left: bool) -> bool {
    if !is_elsewhere(here, lost) {
        return true;
    }
    let others = loss == Loss::OriginChanged && certainly_differ(&lost.origin, &here.origin);
    !again && !others && !has_left
}

/// The record of one COW.
pub struct LostStore {
    directory: PathBuf,
    cow: Cow,
    boot: String,
    /// The names by which the target knows the COW.
    known_by: Vec<String>,
}

impl LostStore {
    /// The record of a COW with that store.
    pub fn of(rundir: &RunDir, mut cow: Cow) -> LostStore {
        // Without the boot's id a number is not an identity: it matches no disk known before.
        let boot = boot_id().unwrap_or_default();
        if let ([path], true) = (cow.names.as_slice(), cow.number != 0 && !boot.is_empty()) {
            if path.starts_with("path ") {
                cow.names.push(format!("{NUMBER} {} in boot {boot}", cow.number));
            }
        }
        let name = cow.names.first().map_or("", String::as_str);
        // An unknown store identifies nothing.
        let store = cow.store.word().map(|word| format!("{word} on {name}"));
        let disk = (store.is_some() && cow.number != 0).then(|| format!("{name}, {}", cow.number));
        let known_by = store.into_iter().chain(disk).collect();
        LostStore { directory: rundir.path.clone(), cow, boot, known_by }
    }

    /// Why the store on the COW is lost, if it is, with the file that records it. `again`: the
    /// store has a device, whose server has ended.
    ///
    /// # Errors
    /// A file cannot be read. Its content is then unknown, and the COW must not be used.
    pub fn found(&self, again: bool) -> io::Result<Option<String>> {
        if let Which::Id(id) = self.cow.store {
            for path in self.files_of(id)? {
                // The file's name is enough, even if its content is damaged.
                let entry = read(&path).or_else(|error| match error.kind() {
                    ErrorKind::InvalidData => Ok(Some(self.entry("", false))),
                    _ => Err(error),
                })?;
                if let Some(entry) = entry.filter(|entry| self.is_of(entry, again)) {
                    return Ok(Some(why(&path, entry.mark_failed)));
                }
            }
        }
        for name in self.cow.names.iter().chain([&self.cow.former]) {
            let path = self.of_disk(name);
            // The file may belong to another disk whose name has the same hash.
            let Some(entry) = read(&path)?.filter(|entry| entry.cow == *name) else { continue };
            let gone = entry.store.is_some()
                && self.cow.store != Which::Unknown
                && entry.store != self.cow.store.word();
            // The store may belong to another origin by now.
            let others = !entry.mark_failed && certainly_differ(&entry.origin, &self.cow.origin);
            if !gone && !others {
                return Ok(Some(why(&path, entry.mark_failed)));
            }
        }
        Ok(None)
    }

    /// Removes the records of lost and departed stores that are gone from the COW's disk. `here`:
    /// the store is on the disk already.
    pub fn tidy(&self, here: bool) {
        let rundir = RunDir::trusted(self.directory.clone());
        if let Err(error) = rundir.tidy_departures(&self.cow, here) {
            log::warn!("{error}");
        }
        for file in fs::read_dir(&self.directory).into_iter().flatten().flatten() {
            let path = file.path();
            let is_record = path.extension().is_some_and(|end| end == "lost");
            let Some(entry) = is_record.then(|| read(&path).ok().flatten()).flatten() else {
                continue;
            };
            if self.is_gone(&entry, here) {
                if let Err(error) = fs::remove_file(&path) {
                    log::warn!("{}: {error}", path.display());
                }
            }
        }
    }

    /// Whether an entry of this store's id is that of the store here.
    fn is_of(&self, entry: &Entry, again: bool) -> bool {
        let loss = if entry.mark_failed { Loss::MarkFailed } else { Loss::OriginChanged };
        let rundir = RunDir::trusted(self.directory.clone());
        // If that cannot be read, it is not known to have left.
        let has_left = rundir.has_left(&self.cow).unwrap_or(false);
        is_loss_of(&entry.cow(&self.boot), &self.cow, loss, again, has_left)
    }

    /// Removes the record of this lost store: from now on the store itself is marked.
    pub fn forget(&self) {
        self.remove(|_| true);
    }

    /// Removes the records of this store on this disk that are chosen.
    fn remove(&self, chosen: impl Fn(&Entry) -> bool) {
        let files = match self.cow.store {
            Which::Id(id) => self.files_of(id).unwrap_or_default(),
            _ => self.cow.names.iter().map(|name| self.of_disk(name)).collect(),
        };
        let is_own = |entry: &Entry| {
            entry.store == self.cow.store.word() && !is_elsewhere(&self.cow, &entry.cow(&self.boot))
        };
        for path in files {
            let own = read(&path).ok().flatten().is_some_and(|it| is_own(&it) && chosen(&it));
            if let Some(Err(error)) = own.then(|| fs::remove_file(&path)) {
                log::warn!("{}: {error}", path.display());
            }
        }
    }

    /// Whether the store of an entry was on this same disk and is no longer there.
    fn is_gone(&self, entry: &Entry, here: bool) -> bool {
        let same_name = self.cow.names.contains(&entry.cow) || self.cow.former == entry.cow;
        let number = self.cow.number;
        let same_disk =
            same_name && number != 0 && entry.number == number && entry.boot == self.boot;
        if entry.cow.starts_with(NUMBER) && entry.boot != self.boot && !self.boot.is_empty() {
            // No disk has this name in the current boot.
            return true;
        }
        match &entry.store {
            // An unknown store: the entry would also match the next store on the disk.
            None => same_name && !here,
            Some(store) => same_disk && !(here && Some(store) == self.cow.store.word().as_ref()),
        }
    }

    fn of_store(&self, id: StoreId) -> PathBuf {
        self.directory.join(format!("cow-store-{id}.lost"))
    }

    /// The files of all stores with an id.
    fn files_of(&self, id: StoreId) -> io::Result<Vec<PathBuf>> {
        let files = match fs::read_dir(&self.directory) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            files => files.map_err(|error| at(&self.directory, error))?,
        };
        let begin = format!("cow-store-{id}");
        let mut found = Vec::new();
        for file in files {
            let path = file.map_err(|error| at(&self.directory, error))?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if name.starts_with(&begin) && name.ends_with(".lost") {
                found.push(path);
            }
        }
        found.sort();
        Ok(found)
    }

    /// The file of the store with an id on this disk: that of another disk stays.
    fn own_file(&self, id: StoreId) -> PathBuf {
        let of_store = self.of_store(id);
        let lost = read(&of_store).ok().flatten();
        if lost.is_none_or(|lost| !is_elsewhere(&self.cow, &lost.cow(&self.boot))) {
            return of_store;
        }
        let name = self.cow.names.first().map_or("", String::as_str);
        self.directory.join(format!("cow-store-{id}-{:016x}.lost", identity_of(name)))
    }

    fn of_disk(&self, name: &str) -> PathBuf {
        self.directory.join(format!("cow-{:016x}.lost", identity_of(name)))
    }

    fn entry(&self, name: &str, mark_failed: bool) -> Entry {
        Entry {
            cow: name.to_owned(),
            origin: self.cow.origin.clone(),
            mark_failed,
            store: self.cow.store.word(),
            number: self.cow.number,
            boot: self.boot.clone(),
            names: self.cow.names.clone(),
        }
    }

    fn write(&self, path: &Path, name: &str, loss: Loss) -> io::Result<()> {
        let mut entry = self.entry(name, loss == Loss::MarkFailed);
        // A store that is wrong for any origin stays wrong.
        let before = read(path)
            .ok()
            .flatten()
            .filter(|before| before.cow == entry.cow && before.store == entry.store);
        entry.mark_failed |= before.is_some_and(|before| before.mark_failed);
        let bytes = serde_json::to_vec(&entry)?;
        // The directory may have been removed: the record is for a later server.
        RunDir::trusted(self.directory.clone()).make()?;
        // If this fails, the write that waits for it fails, and the store is still valid.
        let written = if path.exists() {
            durable::replace(path, &bytes)
        } else {
            durable::create(path, &bytes)
        };
        written.map_err(|error| at(path, error))
    }
}

/// All lost stores: the lasting name of the COW, and why its store must not be used.
///
/// # Errors
/// The directory or a file cannot be read.
pub fn all(rundir: &RunDir) -> io::Result<Vec<(String, String)>> {
    let files = match fs::read_dir(&rundir.path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        files => files.map_err(|error| at(&rundir.path, error))?,
    };
    let mut found = Vec::new();
    for file in files {
        let path = file?.path();
        if path.extension().is_some_and(|end| end == "lost") {
            found.extend(read(&path)?.map(|entry| (entry.cow, why(&path, entry.mark_failed))));
        }
    }
    found.sort();
    Ok(found)
}

/// The content of a file, if it exists. The error names the file.
fn read(path: &Path) -> io::Result<Option<Entry>> {
    let text = match fs::read(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        text => text.map_err(|error| at(path, error))?,
    };
    let damaged = |error| {
        io::Error::new(ErrorKind::InvalidData, format!("{}: damaged: {error}", path.display()))
    };
    serde_json::from_slice(&text).map(Some).map_err(damaged)
}

fn why(path: &Path, mark_failed: bool) -> String {
    let file = path.display();
    match mark_failed {
        true => format!("it became invalid and its COW could not be marked ({file})"),
        false => format!(
            "its origin was changed, or may have been, after the snapshot was deleted ({file})"
        ),
    }
}

impl LossRecord for LostStore {
    fn cow(&self) -> &[String] {
        &self.known_by
    }

    fn record(&self, loss: Loss) -> Result<(), String> {
        let files: Vec<(PathBuf, &str)> = match self.cow.store {
            Which::Id(id) => {
                vec![(self.own_file(id), self.cow.names.first().map_or("", String::as_str))]
            }
            _ => self.cow.names.iter().map(|name| (self.of_disk(name), name.as_str())).collect(),
        };
        let written = files.iter().try_for_each(|(path, name)| self.write(path, name, loss));
        written.map_err(|error| Failure::from(error).to_string())?;
        // A departure says less, and the next server would record it as a loss once more.
        if let Err(error) = RunDir::trusted(self.directory.clone()).forget_departure(&self.cow) {
            log::warn!("{error}");
        }
        Ok(())
    }

    fn joins(&self) {
        self.remove(|entry| !entry.mark_failed);
    }
}

#[cfg(test)]
mod tests;
