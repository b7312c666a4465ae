//! The devices made of a disk, according to the state files of all servers, dead or alive.
//!
//! Rule kept here: a disk that the next server of a device needs must not be used for anything
//! else. A live server claims its disks; for a dead server, and for a device that a server has left
//! out, only the state file records them. The same holds for a disk that is used without a claim,
//! and that others may use where their parts do not overlap: such a disk is refused while a state
//! file cannot be read, since nothing else tells of its other users. A file and a loop device on it
//! have separate claims; here they are one disk.

use crate::failure::Reason;
use crate::protocol::{DeviceState, KnownDisk, Part};
use crate::storage::DiskId;

use super::directory::{RunDir, family_key};

/// What the state files tell of a disk.
#[derive(Default)]
pub struct Found {
    /// The devices that need it.
    pub devices: Vec<DeviceState>,
    /// Why there may be more of them, and what to do.
    pub unread: Option<Reason>,
}

impl RunDir {
    /// The devices of all families but `own` that are made of the disk or a part of it, whether or
    /// not they still exist in the kernel; `parts`: what of it is wanted without a claim.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn devices_on(
        &self,
        own: Option<&str>,
        id: DiskId,
        disk: &KnownDisk,
        parts: Option<&[Part]>,
    ) -> Result<Found, Reason> {
        Ok(devices_among(self.devices_by_family(own)?, id, disk, parts))
    }

    /// The devices on record of each family but `own`, with its name.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn devices_by_family(
        &self,
        own: Option<&str>,
    ) -> Result<impl Iterator<Item = (String, Result<Vec<DeviceState>, Reason>)>, Reason> {
        let keys = self.keys()?;
        let others = keys.into_iter().filter(move |key| Some(key.as_str()) != own);
        Ok(others.map(|key| {
            let devices =
                self.state(&key).map(|state| state.map_or_else(Vec::new, |it| it.devices));
            (key, devices)
        }))
    }
}

/// The devices of other families that need a disk, from their state files. A file that cannot be
/// read may tell of a device on the disk if its server is named after the disk, or if the disk is
/// wanted without a claim; other such files are skipped.
pub fn devices_among(
    files: impl Iterator<Item = (String, Result<Vec<DeviceState>, Reason>)>,
    id: DiskId,
    disk: &KnownDisk,
    parts: Option<&[Part]>,
) -> Found {
    let mut found = Found::default();
    for (key, devices) in files {
        match devices {
            Ok(devices) => {
                let devices = devices.into_iter().filter(|device| needs(device, id, disk, parts));
                found.devices.extend(devices);
            }
            Err(why) if parts.is_some() || is_named_after(&key, id) => {
                let hint = "remove the file to continue without the devices that it lists";
                let force = if parts.is_some() { ", or use --force" } else { "" };
                found.unread.get_or_insert(why.ending(format!("; {hint}{force}")));
            }
            Err(why) => log::debug!("{why}"),
        }
    }
    found
}

/// The devices of other families, from their state files. A file that cannot be read may tell of a
/// device with the disk `named` as its origin if its server is named after it; others are skipped.
///
/// # Errors
/// Such a file cannot be read.
pub fn all_among(
    files: impl Iterator<Item = (String, Result<Vec<DeviceState>, Reason>)>,
    named: Option<DiskId>,
) -> Result<Vec<DeviceState>, Reason> {
    let mut all = Vec::new();
    for (key, devices) in files {
        match devices {
            Ok(devices) => all.extend(devices),
            Err(why) if named.is_some_and(|id| is_named_after(&key, id)) => {
                let hint = "; remove the file to continue without the devices that it lists";
                return Err(why.ending(hint));
            }
            Err(why) => log::debug!("{why}"),
        }
    }
    Ok(all)
}

/// Whether a server is named after a disk: its origin or its first leg. A mirror's key may end in a
/// number.
fn is_named_after(key: &str, id: DiskId) -> bool {
    let name = family_key(id);
    let at = key.find(&name).filter(|at| *at == 0 || key[..*at].ends_with('-'));
    at.is_some_and(|at| {
        let rest = &key[at + name.len()..];
        rest.is_empty() || rest.starts_with('-')
    })
}

/// Whether a device is made of the disk or a part of it.
pub fn is_made_of(device: &DeviceState, id: DiskId, disk: &KnownDisk) -> bool {
    if device.known.is_empty() {
        // Earlier versions recorded only the numbers of block devices.
        let is_block = matches!(id, DiskId::Block { .. });
        return is_block && device.disks.contains(&id.block_number());
    }
    // Only the disks of the current table count: `known` may also list former legs of a mirror.
    let words = device.spec.table.params.devices();
    let known = words.iter().filter_map(|word| device.known.get(word));
    known.chain(&device.coming).any(|known| {
        // A server of an earlier version has written down no place, but numbers.
        let by_number = known.place.on.is_empty()
            && (device.disks.contains(&id.block_number())
                || known.number != 0 && known.number == disk.number);
        known.shares_with(disk) || by_number
    })
}

/// Whether a device needs the disk, or what is wanted of it. A device that has claimed the disk, or
/// would, needs all of it.
pub fn needs(device: &DeviceState, id: DiskId, disk: &KnownDisk, parts: Option<&[Part]>) -> bool {
    let Some(parts) = parts.filter(|_| is_made_of(device, id, disk)) else {
        return is_made_of(device, id, disk);
    };
    let words = device.spec.table.params.devices();
    let its = |word: &String| Some((word.clone(), device.known.get(word)?));
    let mut its =
        words.iter().filter_map(its).filter(|(_, known)| known.shares_with(disk)).peekable();
    let is_coming = device.coming.iter().any(|known| known.shares_with(disk));
    // What is known by its number alone has no place that could be compared.
    is_coming
        || its.peek().is_none()
        || its.any(|(word, known)| {
            let own = device.spec.parts_of(&word);
            let meets = |part: &Part| own.iter().any(|own| known.range_meets(*own, disk, *part));
            !known.unclaimed || own.is_empty() || parts.iter().any(meets)
        })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::protocol::Place;

    const ID: DiskId = DiskId::Block { major: 8, minor: 0 };

    fn known(on: &str) -> KnownDisk {
        let place = Place { on: on.to_owned(), start: 0, end: u64::MAX };
        KnownDisk { place, ..KnownDisk::default() }
    }

    fn device(line: &str, disks: &[(&str, &str)]) -> DeviceState {
        let known = disks.iter().map(|(word, on)| ((*word).to_owned(), known(on))).collect();
        DeviceState { disks: vec![(8, 0)], known, ..DeviceState::of_line(3, "s", line) }
    }

    #[test]
    fn a_state_file_without_places_tells_of_numbers() {
        let mut device = device("0 8 linear a 0", &[("a", "")]);
        let other = DiskId::Block { major: 8, minor: 16 };
        assert!(is_made_of(&device, ID, &KnownDisk::default()));
        assert!(!is_made_of(&device, other, &KnownDisk::default()));
        let numbered = KnownDisk { number: 5, ..KnownDisk::default() };
        device.known.values_mut().for_each(|known| known.number = 5);
        assert!(is_made_of(&device, other, &numbered), "the disk has another number to the kernel");
    }

    fn rundir(devices: Vec<DeviceState>) -> (tempfile::TempDir, RunDir) {
        let dir = tempfile::tempdir().unwrap();
        let rundir = RunDir::trusted(dir.path().to_owned());
        rundir.write_state("block-7-1", devices).unwrap();
        (dir, rundir)
    }

    #[test]
    fn a_disk_of_another_familys_device_is_found() {
        let line = "0 8 snapshot /o /c P 8";
        let (_dir, rundir) = rundir(vec![device(line, &[("/o", "o"), ("/c", "c"), ("/x", "x")])]);
        let names = |own, on| {
            let found = rundir.devices_on(own, ID, &known(on), None).unwrap();
            found.devices.into_iter().map(|device| device.name).collect::<Vec<_>>()
        };
        for on in ["o", "c"] {
            assert_eq!(names(None, on), ["s"], "{on}");
            assert_eq!(names(Some("block-7-2"), on), ["s"], "{on}: for another family");
            assert!(names(Some("block-7-1"), on).is_empty(), "{on}: its own family");
        }
        assert!(names(None, "y").is_empty());
        assert!(names(None, "x").is_empty(), "what its table does not name any more");
    }

    #[test]
    fn a_disk_that_a_message_is_putting_into_a_mirror_is_a_disk_of_it() {
        let mut device = device("0 8 mirror core 1 8 2 /a 0 /b 0", &[("/a", "a"), ("/b", "b")]);
        assert!(!is_made_of(&device, ID, &known("c")));
        device.coming.push(known("c"));
        assert!(is_made_of(&device, ID, &known("c")));
        let (_dir, rundir) = rundir(vec![device.clone()]);
        assert_eq!(rundir.state("block-7-1").unwrap().unwrap().devices, [device]);
    }

    #[test]
    fn a_disk_without_a_claim_is_needed_in_part() {
        use dm_targets::units::{Sector, Sectors};
        let lines = "0 8 linear /a 16\n8 8 linear /a 64";
        let mut device = device(lines, &[("/a", "a")]);
        let whole = known("a");
        let wants = |device: &DeviceState, disk: &KnownDisk, start, len| {
            needs(device, ID, disk, Some(&[(Sector(start), Sectors(len))]))
        };
        assert!(wants(&device, &whole, 100, 8), "it has claimed the disk");
        device.known.values_mut().for_each(|known| known.unclaimed = true);
        assert!(needs(&device, ID, &whole, None), "all of the disk is wanted");
        for (start, len, meets) in
            [(0, 16, false), (15, 2, true), (24, 40, false), (24, 41, true), (72, 1 << 54, false)]
        {
            assert_eq!(wants(&device, &whole, start, len), meets, "{len} sectors from {start}");
        }
        // A partition or a loop device begins elsewhere on the same disk.
        let place = Place { on: "a".to_owned(), start: 16 * 512, end: u64::MAX };
        let part = KnownDisk { place, ..KnownDisk::default() };
        assert!(wants(&device, &part, 0, 1) && !wants(&device, &part, 8, 8));
        assert!(wants(&device, &part, 40, 10) && !wants(&device, &part, 56, 10));
        // The same name alone is enough; where a partition begins is not known then.
        let named = |name: &str| KnownDisk { name: name.to_owned(), ..known("b") };
        device.known.values_mut().for_each(|known| known.name = "serial A".to_owned());
        assert!(wants(&device, &named("serial A"), 16, 1));
        assert!(!wants(&device, &named("serial A"), 0, 1));
        assert!(wants(&device, &named("serial A start 2048"), 0, 1));
        assert!(!wants(&device, &named("serial B"), 16, 1));
        device.coming.push(known("a"));
        assert!(wants(&device, &whole, 0, 1), "it has not left it");
    }

    #[test]
    fn a_device_of_an_earlier_version_is_found_by_numbers() {
        let (_dir, rundir) = rundir(vec![device("0 8 linear /o 0", &[])]);
        assert_eq!(rundir.devices_on(None, ID, &known("o"), None).unwrap().devices.len(), 1);
        let file = DiskId::File { dev: libc::makedev(8, 0), ino: 3 };
        assert!(rundir.devices_on(None, file, &known("o"), None).unwrap().devices.is_empty());
    }

    #[test]
    fn a_damaged_state_file_speaks_for_the_disk_that_it_is_named_after() {
        for (key, blocks) in [
            ("block-8-0", true),
            ("mirror-block-8-0", true),
            ("mirror-block-8-0-2", true),
            ("block-8-01", false),
            ("block-18-0", false),
            ("block-8-16", false),
        ] {
            let (dir, rundir) = rundir(Vec::new());
            fs::write(dir.path().join(format!("{key}.json")), "{").unwrap();
            let unread = rundir.devices_on(None, ID, &known("o"), None).unwrap().unread;
            assert_eq!(unread.is_some(), blocks, "{key}");
            assert!(unread.is_none_or(|why| why.contains("damaged") && why.contains(key)));
        }
    }

    #[test]
    fn a_damaged_state_file_speaks_for_every_disk_that_is_wanted_without_a_claim() {
        use dm_targets::units::{Sector, Sectors};
        let line = "0 8 linear /a 0";
        for (own, blocks) in [(None, true), (Some("block-9-9"), false)] {
            let (dir, rundir) = rundir(vec![device(line, &[("/a", "a")])]);
            fs::write(dir.path().join("block-9-9.json"), "{").unwrap();
            let parts = [(Sector(64), Sectors(8))];
            for parts in [Some(parts.as_slice()), None] {
                let found = rundir.devices_on(own, ID, &known("b"), parts).unwrap();
                assert!(found.devices.is_empty());
                assert_eq!(found.unread.is_some(), blocks && parts.is_some(), "{own:?}");
                let said = |why: &Reason| {
                    let parts = ["block-9-9.json", "damaged", "remove the file", "--force"];
                    parts.iter().all(|part| why.contains(part))
                };
                assert!(found.unread.is_none_or(|why| said(&why)));
                // The files that can be read tell of their devices nevertheless.
                let found = rundir.devices_on(own, ID, &known("a"), parts).unwrap();
                assert_eq!(found.devices.len(), 1, "{own:?}");
            }
        }
    }
}
