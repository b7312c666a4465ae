//! Deleted snapshots whose origin may stay in use: each is valid until the origin's next change,
//! and wrong afterwards.
//!
//! One file for each, next to the records of lost stores ([`super::lost`]). The file outlives the
//! family, because another server may serve the origin before it is changed; that server takes the
//! file over when it opens the origin.
//!
//! Rules kept here: I9 (the file is durable before the command that deletes the snapshot ends), and
//! a file is removed only when its store has been recorded as lost or a snapshot is served from its
//! COW again. A disk matches a file only if it is known to be the origin or to have bytes of it,
//! whatever its path: writes to another disk would lose a valid snapshot. A device that is deleted
//! leaves what it was made of in the files of its snapshots.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::PathBuf;

use dm_targets::mirror::leg_flags::identity_of;
use dm_targets::snapshot::losses::Loss;
use serde::{Deserialize, Serialize};

use super::boot::boot_id;
use super::directory::{RunDir, at};
use super::durable;
use super::made_of::MadeOf;
use crate::protocol::{Cow, KnownDisk, Part, Place};
use crate::storage::certainly_differ;

/// Extension of the files.
const ENDING: &str = "departed";

/// A snapshot that has left its origin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Departure {
    /// Identifies the COW; includes the lasting name of its origin.
    pub cow: Cow,
    /// The COW could not be marked when the snapshot became invalid; otherwise the store is valid
    /// until the origin changes.
    pub mark_failed: bool,
    /// The origin's number in that boot; zero if it has none.
    pub origin_number: u64,
    /// Where the origin's bytes are in that boot; not recorded by earlier versions.
    #[serde(default)]
    pub place: Place,
    /// The merge that has not ended, if it was one that left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unmerged: Option<Unmerged>,
    /// The origin was a device, which has been deleted, too: it was made of this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub made_of: Option<MadeOf>,
}

/// A merge without a device: a part of the snapshot is on its COW only, so the origin's disk alone
/// is a mixture.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unmerged {
    /// The name that its device had.
    pub name: String,
    /// Its table line.
    pub line: String,
    /// Its server had died, or could not open it: the merge may have ended.
    #[serde(default)]
    pub may_have_ended: bool,
}

/// Content of a file.
#[derive(Serialize, Deserialize)]
struct Content {
    /// The origin's family, and the boot in which the family's key and all numbers are valid.
    key: String,
    boot: String,
    departure: Departure,
}

impl Departure {
    /// The departure of the snapshot on a COW from this origin.
    pub fn of(
        cow: Cow,
        mark_failed: bool,
        origin: &KnownDisk,
        unmerged: Option<Unmerged>,
    ) -> Departure {
        let (origin_number, place) = (origin.number, origin.place.clone());
        Departure { cow, mark_failed, origin_number, place, unmerged, made_of: None }
    }

    /// Whether parts of another disk (all of it if there are none) are bytes of the origin: it is a
    /// loop device on the origin, or its file, or a partition of it, or has it as a partition.
    /// `now`: the places can be compared, because this is the boot of the departure.
    pub fn is_below(&self, disk: &KnownDisk, parts: &[Part], now: bool) -> bool {
        let is_compared = now && !self.place.on.is_empty() && self.place.on == disk.place.on;
        if is_compared {
            let part = |(start, len): &Part| disk.place.part(start.bytes(), len.bytes());
            let meets = |one: &Part| self.place.overlaps(&part(one));
            return self.place.overlaps(&disk.place)
                && (parts.is_empty() || parts.iter().any(meets));
        }
        // A disk that was attached again: where a partition is on it is not compared.
        let origin = KnownDisk { name: self.cow.origin.clone(), ..KnownDisk::default() };
        origin.is_partition_of(disk) || disk.is_partition_of(&origin)
    }

    /// The departure as it is recorded when these parts of a disk (all of it if there are none) are
    /// about to be written, if the deleted device that was its origin was made of them: the next
    /// device on them is another origin.
    #[must_use]
    pub fn parted_from(&self, disk: &KnownDisk, parts: &[Part]) -> Option<Departure> {
        let is_changed = self.made_of.as_ref()?.meets(disk, parts);
        is_changed.then(|| Departure { made_of: None, ..self.clone() })
    }

    /// Why the store must not be used after the origin has changed.
    pub fn loss(&self) -> Loss {
        if self.mark_failed { Loss::MarkFailed } else { Loss::OriginChanged }
    }
}

impl Content {
    /// Whether the snapshot has left this disk, or one that has bytes of these parts of it. A
    /// lasting name decides; without one, the number does; a disk under another name is compared by
    /// where its bytes are.
    fn is_of(&self, key: &str, boot: &str, disk: &KnownDisk, parts: &[Part]) -> bool {
        self.is_the_same(key, boot, &disk.name, disk.number)
            || self.departure.is_below(disk, parts, self.boot == boot)
    }

    fn is_the_same(&self, key: &str, boot: &str, origin: &str, number: u64) -> bool {
        let known = &self.departure.cow.origin;
        // A disk has its number in whichever family; one without a number has its family's name.
        let here = self.boot == boot
            && self.departure.origin_number == number
            && (number != 0 || self.key == key);
        if !known.is_empty() && !origin.is_empty() {
            return known == origin || here && !certainly_differ(known, origin);
        }
        here
    }
}

impl RunDir {
    /// Durably records that a snapshot has left the origin of a family.
    ///
    /// # Errors
    /// The reason, with the file's path.
    pub fn write_departure(&self, key: &str, departure: &Departure) -> io::Result<()> {
        let path = self.departed_file(&departure.cow);
        let write = || {
            let content =
                Content { key: key.to_owned(), boot: boot_id()?, departure: departure.clone() };
            // The directory may have been removed: the record is for a later server.
            self.make()?;
            let bytes = serde_json::to_vec_pretty(&content)?;
            match path.exists() {
                // If this fails, what was on record still is.
                true => durable::replace(&path, &bytes),
                // If this fails, the snapshot is not deleted, and no file may be left.
                false => durable::create(&path, &bytes),
            }
        };
        write().map_err(|error| at(&path, error))
    }

    /// The snapshots that have left a disk of this family, or another disk that has bytes of it.
    /// `parts`: what of the disk is written; all of it if there are none.
    ///
    /// # Errors
    /// A file cannot be read, so its origin is not known.
    pub fn departures(
        &self,
        key: &str,
        disk: &KnownDisk,
        parts: &[Part],
    ) -> io::Result<Vec<Departure>> {
        let boot = boot_id()?;
        let mut found = Vec::new();
        for (_, mut content) in self.departed_files()? {
            if !content.is_of(key, &boot, disk, parts) {
                continue;
            }
            if content.boot != boot {
                // In this boot another disk may have the same number.
                content.departure.cow.number = 0;
            }
            found.push(content.departure);
        }
        Ok(found)
    }

    /// The snapshots that have left a device which was deleted in this boot, and of which it is
    /// known what it was made of.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn departures_of_gone(&self) -> io::Result<Vec<Departure>> {
        let boot = boot_id()?;
        let files = self.departed_files()?.into_iter().map(|(_, content)| content);
        let of_gone = files.filter(|it| it.boot == boot && it.departure.made_of.is_some());
        Ok(of_gone.map(|content| content.departure).collect())
    }

    /// No device that was deleted in this boot, and was made of these parts of a disk (of any, if
    /// there are none), is made again as the same one: they are about to be written.
    ///
    /// # Errors
    /// A file cannot be read or written: the disk must not be written.
    pub fn part_from_gone(&self, disk: &KnownDisk, parts: &[Part]) -> io::Result<()> {
        let boot = boot_id()?;
        for (_, Content { key, boot: then, departure }) in self.departed_files()? {
            if let Some(parted) = departure.parted_from(disk, parts).filter(|_| then == boot) {
                self.write_departure(&key, &parted)?;
            }
        }
        Ok(())
    }

    /// All merges that have no device and may not have ended.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn unmerged(&self) -> io::Result<Vec<Unmerged>> {
        let files = self.departed_files()?.into_iter();
        Ok(files.filter_map(|(_, content)| content.departure.unmerged).collect())
    }

    /// Whether the store on a COW has left an origin that has another number, in this boot.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn left_another(&self, cow: &Cow, number: u64) -> io::Result<bool> {
        let boot = boot_id()?;
        let another = |content: &Content| {
            let Content { departure, boot: then, .. } = content;
            *then == boot && departure.origin_number != number && is_same(&departure.cow, cow)
        };
        Ok(self.departed_files()?.iter().any(|(_, content)| another(content)))
    }

    /// Whether it is on record that the store on a COW has left its origin with that disk.
    ///
    /// # Errors
    /// A file cannot be read.
    pub(super) fn has_left(&self, cow: &Cow) -> io::Result<bool> {
        Ok(self.departed_files()?.iter().any(|(_, content)| is_same(&content.departure.cow, cow)))
    }

    /// Removes the departures of a COW that has a snapshot again or is recorded as lost.
    ///
    /// # Errors
    /// A file cannot be read or removed.
    pub fn forget_departure(&self, cow: &Cow) -> io::Result<()> {
        for (path, content) in self.departed_files()? {
            if is_same(&content.departure.cow, cow) {
                fs::remove_file(&path).map_err(|error| at(&path, error))?;
            }
        }
        Ok(())
    }

    /// Removes the departures of stores that were on the COW's disk, in this boot and attachment,
    /// and are gone. `here`: the COW's store is on the disk, and has replaced them; otherwise no
    /// store is.
    ///
    /// # Errors
    /// A file cannot be read or removed.
    pub(super) fn tidy_departures(&self, cow: &Cow, here: bool) -> io::Result<()> {
        let boot = boot_id()?;
        let is_gone = |content: &Content| {
            let other = &content.departure.cow;
            let same_number = cow.number != 0 && other.number == cow.number;
            let same_disk = other.names.iter().any(|name| cow.names.contains(name));
            content.boot == boot && same_number && same_disk && !(here && other.store == cow.store)
        };
        for (path, _) in self.departed_files()?.iter().filter(|(_, content)| is_gone(content)) {
            fs::remove_file(path).map_err(|error| at(path, error))?;
        }
        Ok(())
    }

    fn departed_file(&self, cow: &Cow) -> PathBuf {
        let name = cow.names.first().map_or("", String::as_str);
        let known = format!("{} on {name}", cow.store.word().unwrap_or_default());
        self.path.join(format!("cow-{:016x}.{ENDING}", identity_of(&known)))
    }

    fn departed_files(&self) -> io::Result<Vec<(PathBuf, Content)>> {
        let entries = match fs::read_dir(&self.path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(|error| at(&self.path, error))?,
        };
        let mut files = Vec::new();
        for entry in entries {
            let path = entry?.path();
            if path.extension().is_none_or(|end| end != ENDING) {
                continue;
            }
            let bytes = match fs::read(&path) {
                // Another family has removed its file.
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                bytes => bytes.map_err(|error| at(&path, error))?,
            };
            let damaged = |error| {
                io::Error::new(
                    ErrorKind::InvalidData,
                    format!("{}: damaged: {error}", path.display()),
                )
            };
            let content = serde_json::from_slice(&bytes).map_err(damaged)?;
            files.push((path, content));
        }
        Ok(files)
    }
}

/// Whether two are the same store on the same disk.
fn is_same(one: &Cow, other: &Cow) -> bool {
    let same_disk = one.names.iter().any(|name| other.names.contains(name));
    one.store == other.store && same_disk
}

#[cfg(test)]
mod tests;
