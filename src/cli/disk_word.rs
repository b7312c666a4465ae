//! Disks as words of the command line: paths, and names of devices of ublk-dm.
//!
//! Rules kept here: a word with a slash is a path; a word that is both the name of a device and
//! that of a file is refused, so no disk is used that was not meant; and a name becomes the path of
//! its device before a table has it. The device's cookie goes with the table: the server refuses
//! the path if its number is another device's by then.

use std::path::Path;

use dm_targets::mirror::table::Leg;

use super::client::open_rundir;
use super::gone::exists;
use crate::failure::{Failure, Kind, Reason};
use crate::protocol::{DeviceRef, DeviceState};
use crate::rundir::RunDir;
use crate::storage::word::{absolute, device_of, split_leg};
use crate::ublk::device::BLOCK_PATH;

/// The names of devices.
trait Names {
    /// The devices with a name, and why more of them may have it.
    fn named(&self, name: &str) -> Result<(Vec<DeviceRef>, Option<Reason>), Failure>;
    /// Whether a device without a table has a name.
    fn has_no_table(&self, name: &str) -> Result<bool, Failure>;
}

/// Those of the run directory. The state files are read instead of asking the servers: one that
/// hangs must not keep other commands from adding devices.
struct Recorded;

impl Names for Recorded {
    fn named(&self, name: &str) -> Result<(Vec<DeviceRef>, Option<Reason>), Failure> {
        let rundir = open_rundir()?;
        let (mut found, mut problem) = (Vec::new(), None);
        let is_it = |device: &DeviceState| device.name == name && exists(device).unwrap_or(true);
        for key in rundir.keys()? {
            match rundir.state(&key) {
                Ok(state) => {
                    let devices = state.map_or_else(Vec::new, |state| state.devices);
                    found.extend(devices.iter().filter(|one| is_it(one)).map(DeviceState::device));
                }
                Err(why) => problem = Some(why),
            }
        }
        Ok((found, problem))
    }

    fn has_no_table(&self, name: &str) -> Result<bool, Failure> {
        Ok(RunDir::open()?.reserved_as(name)?.is_some())
    }
}

/// Turns words into paths, and collects the devices that were named.
pub(super) struct Disks {
    names: Box<dyn Names>,
    named: Vec<DeviceRef>,
    /// A word without a slash is a name, whatever files there are.
    in_tab: bool,
}

impl Disks {
    /// With the names of the run directory, which is read when a word may be a name.
    pub fn new() -> Disks {
        Disks { names: Box::new(Recorded), named: Vec::new(), in_tab: false }
    }

    /// The same for words of the tab file, where paths are absolute.
    pub fn in_tab() -> Disks {
        Disks { in_tab: true, ..Disks::new() }
    }

    /// The devices that words have named so far.
    pub fn named(self) -> Vec<DeviceRef> {
        self.named
    }

    /// The path of a disk.
    pub fn path(&mut self, word: &Path) -> Result<String, Failure> {
        let Some(name) = as_name(word) else { return absolute(word) };
        match self.device(name)? {
            Some(path) => Ok(path),
            None if !self.in_tab && is_there(word) => absolute(word),
            None => Err(self.not_found(name)?),
        }
    }

    /// The path of a disk that a device has or has had: there may be nothing at it any more.
    pub fn known_path(&mut self, word: &Path) -> Result<String, Failure> {
        let device = as_name(word).map_or(Ok(None), |name| self.device(name))?;
        device.map_or_else(|| absolute(word), Ok)
    }

    /// A leg: `DEV` or `DEV:OFFSET`. A path or a name may itself contain colons.
    pub fn leg(&mut self, word: &str) -> Result<Leg, Failure> {
        let is_whole = is_there(Path::new(word))
            || as_name(Path::new(word)).map_or(Ok(false), |name| self.is_device(name))?;
        let (device, offset) = split_leg(word, is_whole)?;
        Ok(Leg { device: self.path(Path::new(device))?, offset })
    }

    /// A device word of a table line: a path, a name, or `MAJ:MIN`.
    pub fn of_table(&mut self, word: &str) -> Result<String, Failure> {
        match device_of(word) {
            path if path == Path::new(word) => self.path(&path),
            node => absolute(&node),
        }
    }

    fn is_device(&self, name: &str) -> Result<bool, Failure> {
        Ok(!self.names.named(name)?.0.is_empty())
    }

    /// The path of the device with a name, if there is one.
    fn device(&mut self, name: &str) -> Result<Option<String>, Failure> {
        let found = self.names.named(name)?.0;
        let [device] = found[..] else {
            let paths: Vec<_> = found.iter().map(|one| format!("{BLOCK_PATH}{}", one.id)).collect();
            return match &paths[..] {
                [] => Ok(None),
                _ => {
                    Err(format!("{name}: the name of {}; use one of these", paths.join(" and of "))
                        .into())
                }
            };
        };
        let path = format!("{BLOCK_PATH}{}", device.id);
        if !self.in_tab && is_there(Path::new(name)) {
            let what = "there is a device and a file with this name";
            return Err(format!("{name}: {what}: ./{name} is the file, {path} the device").into());
        }
        self.named.push(device);
        Ok(Some(path))
    }

    fn not_found(&self, name: &str) -> Result<Failure, Failure> {
        let why = match self.names.named(name)?.1 {
            _ if self.names.has_no_table(name)? => {
                let hint = format!(
                    "`ublk-dm load {name} --table LINE` and `ublk-dm resume {name}` make it one"
                );
                return Ok(format!("{name}: it has no table and is not a disk yet: {hint}").into());
            }
            Some(problem) => {
                let what = "no such file here, and no device among those that are known";
                return Ok(problem.context(format!("{name}: {what}")));
            }
            None if self.in_tab => "no device has this name; see `ublk-dm list`".to_owned(),
            None if name.bytes().all(|byte| byte.is_ascii_digit()) => {
                format!("no such file here; a number names no disk: {BLOCK_PATH}{name} does")
            }
            None => "no such file here, and no device has this name; see `ublk-dm list`".to_owned(),
        };
        Ok(Failure::new(Kind::NotFound, format!("{name}: {why}")))
    }
}

/// The word, if it can be a name.
fn as_name(word: &Path) -> Option<&str> {
    word.to_str().filter(|word| !word.is_empty() && !word.contains('/'))
}

/// Whether there is anything at a path, even a link to nothing.
fn is_there(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}

#[cfg(test)]
impl Disks {
    /// With these devices, and one without a table that is called `bare`.
    pub fn with(devices: &[(&'static str, u32)]) -> Disks {
        struct Fixed(Vec<(&'static str, u32)>);
        impl Names for Fixed {
            fn named(&self, name: &str) -> Result<(Vec<DeviceRef>, Option<Reason>), Failure> {
                let found = self.0.iter().filter(|(known, _)| *known == name);
                let found = found.map(|(_, id)| DeviceRef { id: *id, cookie: u64::from(*id) + 70 });
                Ok((found.collect(), None))
            }

            fn has_no_table(&self, name: &str) -> Result<bool, Failure> {
                Ok(name == "bare")
            }
        }
        Disks { names: Box::new(Fixed(devices.to_vec())), named: Vec::new(), in_tab: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn here() -> String {
        std::env::current_dir().unwrap().display().to_string()
    }

    #[test]
    fn a_word_without_a_slash_is_a_name_or_a_file() {
        let mut disks = Disks::with(&[("srv", 3), ("a:8s", 4), ("7:1", 5)]);
        let mut path = |word: &str| disks.path(Path::new(word)).unwrap();
        assert_eq!(path("srv"), "/dev/ublkb3");
        assert_eq!(path("./srv"), format!("{}/srv", here()), "a slash makes it a path");
        assert_eq!(path("Cargo.toml"), format!("{}/Cargo.toml", here()));
        assert_eq!(path("/dev/x"), "/dev/x");
        assert_eq!(disks.of_table("srv").unwrap(), "/dev/ublkb3");
        assert_eq!(disks.of_table("4095:1").unwrap(), "/dev/block/4095:1");
        assert_eq!(disks.of_table("7:1").unwrap(), disks.of_table("7:1").unwrap());
        assert!(!disks.of_table("7:1").unwrap().starts_with(BLOCK_PATH), "a number comes first");
        let cookies: Vec<_> = disks.named().iter().map(|device| device.cookie).collect();
        assert_eq!(cookies, [73, 73]);
    }

    #[test]
    fn a_leg_is_a_name_with_an_offset() {
        let mut disks = Disks::with(&[("srv", 3), ("a:8s", 4)]);
        let mut leg = |word: &str| {
            let leg = disks.leg(word).unwrap();
            (leg.device, leg.offset.0)
        };
        assert_eq!(leg("srv"), ("/dev/ublkb3".to_owned(), 0));
        assert_eq!(leg("srv:1MiB"), ("/dev/ublkb3".to_owned(), 2048));
        assert_eq!(leg("a:8s"), ("/dev/ublkb4".to_owned(), 0), "a name may have a colon");
        assert_eq!(leg("a:8s:8s"), ("/dev/ublkb4".to_owned(), 8));
        assert_eq!(leg("/d/x:8s"), ("/d/x".to_owned(), 8));
        assert_eq!(leg("Cargo.toml:512"), (format!("{}/Cargo.toml", here()), 1));
    }

    #[test]
    fn what_is_not_clear_is_refused_and_says_why() {
        let devices = [("Cargo.toml", 1), ("two", 2), ("two", 3)];
        let why = |word: &str| Disks::with(&devices).path(Path::new(word)).unwrap_err();
        let both = why("Cargo.toml").to_string();
        assert!(both.contains("./Cargo.toml is the file, /dev/ublkb1 the device"), "{both}");
        let two = why("two").to_string();
        assert!(two.contains("the name of /dev/ublkb2 and of /dev/ublkb3"), "{two}");
        assert!(why("bare").contains("it has no table and is not a disk yet"));
        assert!(why("17").contains("a number names no disk: /dev/ublkb17 does"));
        let none = why("none");
        assert!(none.contains("no such file here, and no device has this name"), "{none}");
        assert_eq!(none.kind, Kind::NotFound);
        // A leg may be gone.
        let known = Disks::with(&devices).known_path(Path::new("none")).unwrap();
        assert_eq!(known, format!("{}/none", here()));
        assert!(Disks::with(&devices).known_path(Path::new("Cargo.toml")).is_err());
    }
}
