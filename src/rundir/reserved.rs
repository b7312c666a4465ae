//! Devices without a table: a name that is taken, how the device is to be served that gets it, and
//! the table that makes it a device. There is no server for them, and nothing in the kernel.
//!
//! Rules kept here: a file is replaced durably, so that what a command has reserved or loaded is
//! there for the next one; one of another boot is of no device; and a file that cannot be read is
//! an error, because the names that it takes are not known.

use std::fs;
use std::io;
use std::io::ErrorKind;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::boot::boot_id;
use super::directory::RunDir;
use super::durable;
use super::lock::FamilyLock;
use crate::failure::{Failure, Reason};
use crate::protocol::{DeviceOptions, DeviceSpec};

/// Extension of the files.
const ENDING: &str = "notable";

/// A device without a table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reserved {
    boot_id: String,
    /// Its name.
    pub name: String,
    /// The number that it is to have.
    pub id: Option<u32>,
    /// How it is to be served.
    pub options: DeviceOptions,
    /// The table that makes it a device.
    pub loaded: Option<DeviceSpec>,
}

impl Reserved {
    /// A device of this boot, without a loaded table.
    ///
    /// # Errors
    /// The boot is not known.
    pub fn new(name: &str, id: Option<u32>, options: DeviceOptions) -> Result<Reserved, Reason> {
        Ok(Reserved { boot_id: boot_id()?, name: name.to_owned(), id, options, loaded: None })
    }
}

impl RunDir {
    /// Excludes other commands that change devices without a table.
    ///
    /// # Errors
    /// Another command has held the lock for longer than it may.
    pub fn lock_reserved(&self, doing: &str) -> Result<FamilyLock, Reason> {
        self.lock_family(ENDING, doing)
    }

    fn reserved_file(&self, name: &str) -> PathBuf {
        self.path.join(format!("{name}.{ENDING}"))
    }

    /// All devices without a table, by name.
    ///
    /// # Errors
    /// The directory or a file cannot be read.
    pub fn reserved(&self) -> Result<Vec<Reserved>, Reason> {
        let entries = match fs::read_dir(&self.path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(|error| Failure::at(&self.path, error))?,
        };
        let mut all = Vec::new();
        for entry in entries {
            let path = entry.map_err(|error| Failure::at(&self.path, error))?.path();
            if path.extension().is_some_and(|ending| ending == ENDING) {
                let name = path.file_stem().map(|name| name.to_string_lossy().into_owned());
                all.extend(self.reserved_as(&name.unwrap_or_default())?);
            }
        }
        all.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(all)
    }

    /// The device without a table that has a name.
    ///
    /// # Errors
    /// Its file cannot be read.
    pub fn reserved_as(&self, name: &str) -> Result<Option<Reserved>, Reason> {
        if name.contains('/') {
            return Ok(None);
        }
        let path = self.reserved_file(name);
        let why = |why: Failure| Failure::at(&path, why);
        let bytes = match fs::read(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            bytes => bytes.map_err(|error| why(error.into()))?,
        };
        let boot = boot_id().map_err(|error| why(error.into()))?;
        let found: Reserved = serde_json::from_slice(&bytes)
            .map_err(|error| why(Failure::from(io::Error::from(error)).context("damaged")))?;
        Ok(Some(found).filter(|found| found.boot_id == boot && found.name == name))
    }

    /// Durably records a device without a table.
    ///
    /// # Errors
    /// The reason, with the file's path; nothing has changed.
    pub fn reserve(&self, reserved: &Reserved) -> Result<(), Reason> {
        let path = self.reserved_file(&reserved.name);
        let write = || durable::replace(&path, &serde_json::to_vec_pretty(reserved)?);
        write().map_err(|error: io::Error| Failure::at(&path, error))
    }

    /// Forgets a device without a table: it is a device now, or is deleted.
    ///
    /// # Errors
    /// The file stays.
    pub fn unreserve(&self, name: &str) -> Result<(), Reason> {
        let path = self.reserved_file(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(Failure::at(&path, error)),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> DeviceOptions {
        DeviceSpec::of_line("0 8 error").options
    }

    #[test]
    fn a_reserved_name_reads_back_in_its_boot() {
        let dir = tempfile::tempdir().unwrap();
        let rundir = RunDir::trusted(dir.path().to_owned());
        assert_eq!(rundir.reserved().unwrap(), []);
        let mut one = Reserved::new("v", Some(3), options()).unwrap();
        rundir.reserve(&one).unwrap();
        one.loaded = Some(DeviceSpec::of_line("0 8 error"));
        rundir.reserve(&one).unwrap();
        assert_eq!(rundir.reserved().unwrap(), [one.clone()]);
        assert_eq!(rundir.reserved_as("v").unwrap(), Some(one.clone()));
        assert_eq!(rundir.reserved_as("/dev/ublkb0").unwrap(), None);
        rundir.reserve(&Reserved { boot_id: "b".to_owned(), ..one }).unwrap();
        assert_eq!(rundir.reserved().unwrap(), [], "it is of another boot");
        for _ in 0..2 {
            rundir.unreserve("v").unwrap();
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_damaged_file_is_an_error_that_names_it() {
        let dir = tempfile::tempdir().unwrap();
        let rundir = RunDir::trusted(dir.path().to_owned());
        fs::write(rundir.reserved_file("v"), "{").unwrap();
        let why = rundir.reserved().unwrap_err().to_string();
        assert!(why.contains("v.notable: damaged"), "{why}");
    }
}
