//! Which line of the tab file is that of a device that runs, whatever name it has there: `rename`
//! leaves the line with the former one.
//!
//! Rules kept here: a line that another running device is certainly made of is not taken from it,
//! and of several lines that may be a device's none is taken.

use std::collections::BTreeMap;

use crate::tab::Entry;

/// A device that runs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Device<'a> {
    pub name: &'a str,
    pub id: u32,
    pub uuid: Option<&'a str>,
}

/// The new names of devices, by those that their lines have.
pub(super) type Names = BTreeMap<String, String>;

/// What is known of the tables of devices and lines; with the names as far as they are known, for
/// lines that name other devices.
pub(super) trait Tables {
    /// Whether a device has the table of a line.
    fn are_same(&self, device: &Device<'_>, entry: &Entry, names: &Names) -> bool;
    /// Whether both are of one kind and begin at the same place of a disk.
    fn begin_alike(&self, device: &Device<'_>, entry: &Entry, names: &Names) -> bool;
}

/// The devices that have a line with another name.
pub(super) fn find(entries: &[Entry], devices: &[Device<'_>], tables: &impl Tables) -> Names {
    let mut names = Names::new();
    // A device that stands on renamed ones is known by their new names.
    for _ in 0..=devices.len() {
        let pass = Pass { entries, devices, tables, names: &names };
        let found: Names = devices.iter().filter_map(|device| pass.other_line(device)).collect();
        if found == names {
            break;
        }
        names = found;
    }
    names
}

struct Pass<'a, T> {
    entries: &'a [Entry],
    devices: &'a [Device<'a>],
    tables: &'a T,
    names: &'a Names,
}

impl<T: Tables> Pass<'_, T> {
    /// The former name of a device, and its name.
    fn other_line(&self, device: &Device<'_>) -> Option<(String, String)> {
        let is_its = |entry: &&Entry| self.is_of(entry, device);
        let by_name = self.entries.iter().find(|entry| entry.name == device.name);
        if by_name.is_some_and(|entry| is_its(&entry) || !self.is_of_another(entry)) {
            return None;
        }
        let is_free = |entry: &&Entry| !self.is_held_by_name(entry);
        let found: Vec<&Entry> = self.entries.iter().filter(is_its).filter(is_free).collect();
        let has_its_id = |entry: &&&Entry| entry.options.id == Some(device.id);
        let one = match found[..] {
            [] => only(self.entries.iter().filter(|entry| self.may_be_of(entry, device))),
            [one] => Some(one),
            _ => only(found.iter().filter(has_its_id).copied()),
        };
        one.map(|entry| (entry.name.clone(), device.name.to_owned()))
    }

    /// Whether a line is that of a device, whatever its name.
    fn is_of(&self, entry: &Entry, device: &Device<'_>) -> bool {
        let is_its_id = entry.options.id.map(|id| id == device.id);
        match entry.options.uuid.as_deref() {
            Some(uuid) => device.uuid == Some(uuid),
            None if is_its_id == Some(false) => false,
            None => {
                // A table without disks may be that of many.
                let is_telling = is_its_id.is_some() || !entry.table.params.devices().is_empty();
                is_telling && self.tables.are_same(device, entry, self.names)
            }
        }
    }

    /// Whether it is that of a device whose table has been changed as well.
    fn may_be_of(&self, entry: &Entry, device: &Device<'_>) -> bool {
        entry.options.id == Some(device.id)
            && entry.options.uuid.is_none()
            && !self.devices.iter().any(|other| other.name == entry.name)
            && self.tables.begin_alike(device, entry, self.names)
    }

    fn is_of_another(&self, entry: &Entry) -> bool {
        self.devices.iter().any(|other| other.name != entry.name && self.is_of(entry, other))
    }

    fn is_held_by_name(&self, entry: &Entry) -> bool {
        self.devices.iter().any(|other| other.name == entry.name && self.is_of(entry, other))
    }
}

fn only<'a>(mut entries: impl Iterator<Item = &'a Entry>) -> Option<&'a Entry> {
    entries.next().filter(|_| entries.next().is_none())
}

#[cfg(test)]
mod tests {
    use dm_targets::table::Table;

    use super::*;
    use crate::tab::Disk;

    /// Devices as lines, the uuid of which is that of the device.
    struct Run(Vec<Entry>);

    fn entries(text: &str) -> Vec<Entry> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tab");
        std::fs::write(&path, text).unwrap();
        let tab = crate::tab::files::read_at(path);
        assert!(tab.wrong.is_empty(), "{:?}", tab.wrong);
        tab.entries
    }

    impl Run {
        fn table(&self, device: &Device<'_>) -> &Table {
            &self.0.iter().find(|entry| entry.name == device.name).unwrap().table
        }
    }

    impl Tables for Run {
        fn are_same(&self, device: &Device<'_>, entry: &Entry, names: &Names) -> bool {
            let new = |word: &str| match Disk::of(word) {
                Disk::Named(name) => names.get(name).map_or(name, String::as_str).to_owned(),
                Disk::Path(path) => path.to_owned(),
            };
            let table = entry.table.with_devices(|word| Ok::<_, ()>(new(word))).unwrap();
            *self.table(device) == table
        }

        fn begin_alike(&self, device: &Device<'_>, entry: &Entry, _: &Names) -> bool {
            let first = |table: &Table| table.params.devices().first().cloned();
            first(self.table(device)) == first(&entry.table)
        }
    }

    /// The changed names, as `OLD>NEW`.
    fn found(tab: &str, runs: &str) -> Vec<String> {
        let run = Run(entries(runs));
        let mut devices = Vec::new();
        for Entry { name, options, .. } in &run.0 {
            devices.push(Device { name, id: options.id.unwrap(), uuid: options.uuid.as_deref() });
        }
        let names = find(&entries(tab), &devices, &run);
        names.into_iter().map(|(old, new)| format!("{old}>{new}")).collect()
    }

    #[test]
    fn a_renamed_device_is_known_by_its_uuid_or_by_its_table() {
        let none: &[&str] = &[];
        for (tab, runs, expected) in [
            ("a \"0 8 linear /a 0\"\n", "a \"0 8 linear /a 0\" id=0\n", none),
            ("a \"0 8 linear /a 0\"\n", "b \"0 8 linear /a 0\" id=0\n", &["a>b"]),
            ("a \"0 8 linear /a 0\" id=0\n", "b \"0 8 linear /a 0\" id=0\n", &["a>b"]),
            ("a \"0 8 linear /a 0\" id=1\n", "b \"0 8 linear /a 0\" id=0\n", none),
            ("a \"0 8 linear /a 0\" id=1,uuid=U\n", "b \"0 8 zero\" id=0,uuid=U\n", &["a>b"]),
            ("a \"0 8 linear /a 0\" uuid=U\n", "b \"0 8 linear /a 0\" id=0\n", none),
            // Its table was changed as well.
            ("a \"0 8 linear /a 0\" id=0\n", "b \"0 16 linear /a 0\" id=0\n", &["a>b"]),
            ("a \"0 8 linear /a 0\"\n", "b \"0 16 linear /a 0\" id=0\n", none),
            ("a \"0 8 linear /a 0\" id=0\n", "b \"0 8 linear /b 0\" id=0\n", none),
            // A table without disks is that of many.
            ("a \"0 8 zero\"\n", "b \"0 8 zero\" id=0\n", none),
            ("a \"0 8 zero\" id=0\n", "b \"0 8 zero\" id=0\n", &["a>b"]),
            // Another line with the same table, as a person may have it.
            (
                "a \"0 8 linear /a 0\"\nr \"0 8 linear /a 0\" noauto,read-only\n",
                "a \"0 8 linear /a 0\" id=0\n",
                none,
            ),
            (
                "a \"0 8 linear /a 0\"\nr \"0 8 linear /a 0\"\n",
                "b \"0 8 linear /a 0\" id=0\n",
                none,
            ),
            (
                "a \"0 8 linear /a 0\" id=0\nr \"0 8 linear /a 0\"\n",
                "b \"0 8 linear /a 0\" id=0\n",
                &["a>b"],
            ),
            ("a \"0 8 zero\"\nr \"0 8 linear /a 0\"\n", "a \"0 8 linear /a 0\" id=0\n", none),
        ] {
            assert_eq!(found(tab, runs), expected, "{tab}{runs}");
        }
    }

    #[test]
    fn names_that_were_exchanged_and_names_of_lower_devices_are_followed() {
        let tab = "a \"0 8 linear /a 0\"\nb \"0 8 linear /b 0\"\n";
        let runs = "a \"0 8 linear /b 0\" id=0\nb \"0 8 linear /a 0\" id=1\n";
        assert_eq!(found(tab, runs), ["a>b", "b>a"]);
        let tab = "l \"0 8 linear /a 0\"\ns \"0 8 snapshot l /c P 8\"\nt \"0 8 linear s 0\"\n";
        let runs = "x \"0 8 linear /a 0\" id=0\ny \"0 8 snapshot x /c P 8\" id=1\n\
                    z \"0 8 linear y 0\" id=2\n";
        assert_eq!(found(tab, runs), ["l>x", "s>y", "t>z"]);
    }
}
