//! What a device was made of that has been deleted, after snapshots of it had left: a device that
//! is made of the same is the same origin, and whoever writes to the disks changes it.
//!
//! Rule kept here: two devices are taken for the same only if all that decides what they show is
//! known and equal: the table, and the disks in it by their names and by where their bytes are.

use std::collections::BTreeMap;

use dm_targets::table::{Table, TargetParams};
use dm_targets::units::{Sector, Sectors};
use serde::{Deserialize, Serialize};

use crate::protocol::{DeviceSpec, KnownDisk, KnownDisks, Part};

/// All of a disk.
const WHOLE: Part = (Sector(0), Sectors(1 << 54));

/// What a device was made of, as it was known in that boot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MadeOf {
    /// The table's lines.
    table: String,
    /// The disks by their words, and what the device had of them.
    disks: BTreeMap<String, Below>,
}

/// A disk of the device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Below {
    known: KnownDisk,
    /// What the device has of it: first sectors and lengths.
    parts: Vec<(u64, u64)>,
}

impl MadeOf {
    /// What a device with these disks is made of. None if that does not tell what it shows: it has
    /// a device below it, which may be another one by then, or a disk of which nothing is known.
    pub fn of(spec: &DeviceSpec, known: &KnownDisks) -> Option<MadeOf> {
        use TargetParams::{Linear, Mirror, Segments};
        let shows_disks = matches!(spec.table.params, Mirror(_) | Linear(_) | Segments(_));
        let is_known = |word: &String| {
            known.get(word).is_some_and(|disk| !disk.is_own() && !disk.place.on.is_empty())
        };
        let words = spec.table.params.devices();
        if !shows_disks || !words.iter().all(is_known) {
            return None;
        }
        let disk = |word: String| {
            let (known, parts) = (known.get(&word)?.clone(), parts(spec, &word));
            Some((word, Below { known, parts }))
        };
        let disks = words.into_iter().filter_map(disk).collect();
        Some(MadeOf { table: spec.table.to_string(), disks })
    }

    /// Whether another device is made of the same, by whatever paths the tables name the disks.
    pub fn is(&self, other: &MadeOf) -> bool {
        let (own, its) = (self.named_by_disks(), other.named_by_disks());
        own.is_some() && own == its
    }

    /// The table with what tells its disks from all others in the place of their paths.
    fn named_by_disks(&self) -> Option<String> {
        let table = Table::parse_table(&self.table).ok()?;
        let named = table.with_devices(|word| {
            let Below { known, .. } = self.disks.get(word).ok_or(())?;
            serde_json::to_string(&(&known.name, known.number, &known.place)).map_err(|_| ())
        });
        Some(named.ok()?.to_string())
    }

    /// Whether parts of a disk (all of it if there are none) are bytes of the device.
    pub fn meets(&self, disk: &KnownDisk, parts: &[Part]) -> bool {
        let parts = if parts.is_empty() { &[WHOLE] } else { parts };
        let meets = |below: &Below| {
            let own = below.parts.iter().map(|(start, len)| (Sector(*start), Sectors(*len)));
            let mut pairs = own.flat_map(|own| parts.iter().map(move |its| (own, *its)));
            pairs.any(|(own, its)| below.known.range_meets(own, disk, its))
        };
        !disk.place.on.is_empty() && self.disks.values().any(meets)
    }
}

/// What a device has of a disk, in sectors.
fn parts(spec: &DeviceSpec, word: &str) -> Vec<(u64, u64)> {
    spec.parts_of(word).into_iter().map(|(start, len)| (start.0, len.0)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Place;

    fn disk(on: &str) -> KnownDisk {
        let place = Place { on: on.to_owned(), start: 0, end: u64::MAX };
        KnownDisk { place, number: 3, ..KnownDisk::default() }
    }

    fn made_of(line: &str, disks: &[(&str, KnownDisk)]) -> Option<MadeOf> {
        let known = disks.iter().map(|(word, disk)| ((*word).to_owned(), disk.clone())).collect();
        MadeOf::of(&DeviceSpec::of_line(line), &known)
    }

    const LINE: &str = "0 8 linear /a 16";

    #[test]
    fn a_device_is_the_same_if_its_table_and_its_disks_are() {
        let one = made_of(LINE, &[("/a", disk("block 8:0 5"))]).unwrap();
        assert!(one.is(&one.clone()));
        let other = |line: &str, disk: KnownDisk| one.is(&made_of(line, &[("/a", disk)]).unwrap());
        assert!(!other("0 8 linear /a 24", disk("block 8:0 5")), "another part");
        assert!(!other("0 4 linear /a 16", disk("block 8:0 5")), "another length");
        assert!(!other(LINE, disk("block 8:0 6")), "a disk that was attached again");
        assert!(!other(LINE, KnownDisk { number: 4, ..disk("block 8:0 5") }));
        assert!(!other(LINE, KnownDisk { name: "wwid b".to_owned(), ..disk("block 8:0 5") }));
    }

    #[test]
    fn it_does_not_matter_by_what_path_a_disk_is_named() {
        let (a, b) = (disk("block 8:0 5"), disk("block 8:16 6"));
        let mirror = |one: &str, other: &str, disks: [&KnownDisk; 2]| {
            let line = format!("0 8 mirror core 1 8 2 {one} 0 {other} 0");
            made_of(&line, &[(one, disks[0].clone()), (other, disks[1].clone())]).unwrap()
        };
        let made = mirror("/a", "/b", [&a, &b]);
        assert!(made.is(&mirror("/by-id/a", "/b", [&a, &b])));
        assert!(!made.is(&mirror("/b", "/a", [&b, &a])), "the legs are turned round");
        assert!(!made.is(&mirror("/a", "/b", [&b, &a])), "the paths lead elsewhere now");
    }

    #[test]
    fn what_does_not_tell_what_it_shows_is_nothing() {
        assert_eq!(made_of(LINE, &[]), None, "a disk of an earlier version");
        assert_eq!(made_of(LINE, &[("/a", disk(""))]), None, "of which nothing is known");
        let device = Some(crate::protocol::DeviceRef { id: 0, cookie: 7 });
        let joined = KnownDisk { joined: device, ..disk("block 259:0 5") };
        assert_eq!(made_of(LINE, &[("/a", joined)]), None, "a device of its server");
        let both = [("/a", disk("block 8:0 5")), ("/c", disk("block 8:16 6"))];
        assert_eq!(made_of("0 8 snapshot /a /c P 8", &both), None, "its origin changes without it");
        assert_eq!(made_of("0 8 zero", &[]), None, "no snapshot is taken of it");
    }

    #[test]
    fn it_is_changed_where_it_has_its_bytes() {
        let line = "0 8 mirror core 1 8 2 /a 16 /b 0";
        let one =
            made_of(line, &[("/a", disk("block 8:0 5")), ("/b", disk("block 8:16 6"))]).unwrap();
        let part = |start, len| [(Sector(start), Sectors(len))];
        let meets = |on: &str, parts: &[Part]| one.meets(&disk(on), parts);
        assert!(meets("block 8:0 5", &[]) && meets("block 8:16 6", &[]));
        assert!(!meets("block 8:32 7", &[]), "another disk");
        for (start, len, expected) in [(0, 16, false), (15, 2, true), (23, 1, true), (24, 9, false)]
        {
            assert_eq!(meets("block 8:0 5", &part(start, len)), expected, "{start} {len}");
        }
        assert!(meets("block 8:16 6", &part(7, 1)) && !meets("block 8:16 6", &part(8, 8)));
        assert!(!meets("", &[]), "a disk of which nothing is known");
    }
}
