//! Lost stores: those that look valid and must not be used, because their snapshot became wrong and
//! the COW could not say so.
//!
//! A file for each. A store of this program's is known by its id, on whatever disk, at whatever
//! path, and as a copy. One of the kernel's has none: it is known by what its disk is called for
//! good ([`disk_name`](crate::storage::disk_name)), or by the disk's path.
//!
//! Rules kept here: I9 (a file is whole and durable before the change of the origin that it speaks
//! of), and a file goes only when the store is gone from the very disk that it was on, never by
//! itself. Where it cannot be known whether a record is of the store that is there, it is. The run
//! directory is in memory unless it is put elsewhere: a server must never wait for a file system
//! that it may serve itself.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use dm_targets::mirror::format::identity_of;
use dm_targets::snapshot::format::StoreId;
use dm_targets::snapshot::losses::{Loss, LossRecord};
use serde::{Deserialize, Serialize};

use super::boot::boot_id;
use super::directory::RunDir;
use super::durable;
use crate::protocol::{Cow, Which};
use crate::storage::certainly_differ;

/// How the name of a disk begins that says nothing of itself: what no other disk is called before
/// the next boot.
const NUMBER: &str = "disk";

/// What stands in a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    /// What the COW and its origin are called for good.
    cow: String,
    origin: String,
    /// The mark failed; else the origin was changed without the snapshot.
    mark_failed: bool,
    /// Which store it is; nothing if that could not be known, as by earlier versions.
    #[serde(default)]
    store: Option<String>,
    /// The disk's number, in that boot.
    #[serde(default)]
    number: u64,
    #[serde(default)]
    boot: String,
}

/// The record of one COW.
pub struct LostStore {
    directory: PathBuf,
    cow: Cow,
    boot: String,
    /// As the target knows the COW.
    known_by: Vec<String>,
}

impl LostStore {
    /// The record of a COW with that store.
    pub fn of(rundir: &RunDir, mut cow: Cow) -> LostStore {
        // A disk that cannot be told from one of another boot is taken for none that was known
        // before.
        let boot = boot_id().unwrap_or_default();
        if let ([path], true) = (cow.names.as_slice(), cow.number != 0 && !boot.is_empty()) {
            if path.starts_with("path ") {
                cow.names.push(format!("{NUMBER} {} in boot {boot}", cow.number));
            }
        }
        let name = cow.names.first().map_or("", String::as_str);
        // By what is not known nothing is known again.
        let store = cow.store.word().map(|word| format!("{word} on {name}"));
        let disk = (store.is_some() && cow.number != 0).then(|| format!("{name}, {}", cow.number));
        let known_by = store.into_iter().chain(disk).collect();
        LostStore { directory: rundir.path.clone(), cow, boot, known_by }
    }

    /// Why the store on the COW is lost, if it is; with the file that says so.
    ///
    /// # Errors
    /// A file cannot be read. What it says cannot be known then, and the COW must not be used.
    pub fn found(&self) -> io::Result<Option<String>> {
        if let Which::Id(id) = self.cow.store {
            let path = self.of_store(id);
            // Its name says enough, whatever has become of its content.
            let entry = read(&path).or_else(|error| match error.kind() {
                ErrorKind::InvalidData => {
                    Ok(Some(Entry { mark_failed: false, ..self.entry("", false) }))
                }
                _ => Err(error),
            })?;
            if let Some(entry) = entry {
                return Ok(Some(why(&path, entry.mark_failed)));
            }
        }
        for name in self.cow.names.iter().chain([&self.cow.former]) {
            let path = self.of_disk(name);
            // Of another disk, whose name has the same number, it may be.
            let Some(entry) = read(&path)?.filter(|entry| entry.cow == *name) else { continue };
            let gone = entry.store.is_some()
                && self.cow.store != Which::Unknown
                && entry.store != self.cow.store.word();
            // The store may be another origin's by now.
            let others = !entry.mark_failed && certainly_differ(&entry.origin, &self.cow.origin);
            if !gone && !others {
                return Ok(Some(why(&path, entry.mark_failed)));
            }
        }
        Ok(None)
    }

    /// Forgets what was lost on the COW's disk and has gone from it. `here`: the store is there
    /// already.
    pub fn tidy(&self, here: bool) {
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

    /// Forgets that this store is lost: it says so itself from now on.
    pub fn forget(&self) {
        let files: Vec<PathBuf> = match self.cow.store {
            Which::Id(id) => vec![self.of_store(id)],
            _ => self.cow.names.iter().map(|name| self.of_disk(name)).collect(),
        };
        for path in files {
            let own = read(&path)
                .ok()
                .flatten()
                .is_some_and(|entry| entry.store == self.cow.store.word());
            if let Some(Err(error)) = own.then(|| fs::remove_file(&path)) {
                log::warn!("{}: {error}", path.display());
            }
        }
    }

    /// Whether what an entry speaks of was on this very disk and is not any more.
    fn is_gone(&self, entry: &Entry, here: bool) -> bool {
        let same_name = self.cow.names.contains(&entry.cow) || self.cow.former == entry.cow;
        let number = self.cow.number;
        let same_disk =
            same_name && number != 0 && entry.number == number && entry.boot == self.boot;
        if entry.cow.starts_with(NUMBER) && entry.boot != self.boot && !self.boot.is_empty() {
            // By that name no disk is called any more.
            return true;
        }
        match &entry.store {
            // Whatever it was: it would be taken for the next one, too.
            None => same_name && !here,
            Some(store) => same_disk && !(here && Some(store) == self.cow.store.word().as_ref()),
        }
    }

    fn of_store(&self, id: StoreId) -> PathBuf {
        self.directory.join(format!("cow-store-{id}.lost"))
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
        }
    }

    fn write(&self, path: &Path, name: &str, loss: Loss) -> io::Result<()> {
        let mut entry = self.entry(name, loss == Loss::MarkFailed);
        // One that is wrong for any origin does not become less so.
        let before = read(path)
            .ok()
            .flatten()
            .filter(|before| before.cow == entry.cow && before.store == entry.store);
        entry.mark_failed |= before.is_some_and(|before| before.mark_failed);
        let bytes = serde_json::to_vec(&entry)?;
        // The write that waits for it fails if this does, and then the store is right.
        let written = if path.exists() {
            durable::replace(path, &bytes)
        } else {
            durable::create(path, &bytes)
        };
        written.map_err(|error| at(path, &error))
    }
}

/// What stands in a file, if there is one. The error names it.
fn read(path: &Path) -> io::Result<Option<Entry>> {
    let text = match fs::read(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        text => text.map_err(|error| at(path, &error))?,
    };
    let damaged = |error| {
        io::Error::new(ErrorKind::InvalidData, format!("{}: damaged: {error}", path.display()))
    };
    serde_json::from_slice(&text).map(Some).map_err(damaged)
}

fn at(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

fn why(path: &Path, mark_failed: bool) -> String {
    let file = path.display();
    match mark_failed {
        true => format!("it became invalid and its COW could not be marked ({file})"),
        false => format!(
            "its origin was changed, or could be, after the snapshot had been deleted ({file})"
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
                vec![(self.of_store(id), self.cow.names.first().map_or("", String::as_str))]
            }
            _ => self.cow.names.iter().map(|name| (self.of_disk(name), name.as_str())).collect(),
        };
        let written = files.iter().try_for_each(|(path, name)| self.write(path, name, loss));
        written.map_err(|error| error.to_string())?;
        // That it has left says less, and would be recorded once more by the next server.
        if let Err(error) = (RunDir { path: self.directory.clone() }).forget_departure(&self.cow) {
            log::warn!("{error}");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
