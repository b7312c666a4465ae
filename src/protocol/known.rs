//! What identifies the disks of a device when its next server opens the disks' paths.

use std::collections::BTreeMap;

use dm_targets::units::{Sector, Sectors, overlap};
use serde::{Deserialize, Serialize};

use super::cow::Which;
use super::device_ref::DeviceRef;

/// Where the bytes of a disk finally lie, below loop devices and partitions, in this boot.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The disk or file that has the bytes; empty if unknown.
    pub on: String,
    /// Where the bytes begin there.
    pub start: u64,
    /// Where the bytes end there; the largest number if with the disk.
    pub end: u64,
}

impl Place {
    /// Whether the two places share a byte.
    pub fn overlaps(&self, other: &Place) -> bool {
        !self.on.is_empty()
            && self.on == other.on
            && self.start < other.end
            && other.start < self.end
    }

    /// A part of this place.
    pub fn part(&self, start: u64, len: u64) -> Place {
        let from = self.start.saturating_add(start);
        Place { on: self.on.clone(), start: from, end: self.end.min(from.saturating_add(len)) }
    }
}

/// A range of a disk: its first sector, and its length.
pub type Part = (Sector, Sectors);

/// A store that is about to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unmade {
    /// The user has it overwrite what is on the disk (`--force`).
    pub overwrites: bool,
}

/// A disk that a device is made of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownDisk {
    /// The disk's lasting name; empty if it has none.
    pub name: String,
    /// The disk's number in this boot; zero if it has none.
    pub number: u64,
    /// The store on it, if it is a COW.
    #[serde(default)]
    pub store: Which,
    /// Where the disk's bytes are; not recorded by earlier versions.
    #[serde(default)]
    pub place: Place,
    /// It had other users when it was opened with force; not recorded by earlier versions.
    #[serde(default)]
    pub shared: bool,
    /// It was opened without a claim (`--shared`), and is again by the next server: it may have
    /// other users where their parts of it do not overlap. Not recorded by earlier versions.
    #[serde(default, skip_serializing_if = "is_false")]
    pub unclaimed: bool,
    /// The store on it is on record, for a table that replaces another one, and may not be made
    /// yet: the next server makes it then. Not recorded by earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unmade: Option<Unmade>,
    /// It is a device of the same server, which carries the origin that this disk is: it is not
    /// opened. A server that does not know this would wait for itself ([`State`]).
    ///
    /// [`State`]: crate::rundir::State
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<DeviceRef>,
    /// It is a device of the same server, to which the requests go: it is not opened either.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub joined: Option<DeviceRef>,
}

impl KnownDisk {
    /// Whether it is a device of the same server.
    pub fn is_own(&self) -> bool {
        self.device.is_some() || self.joined.is_some()
    }
}

impl KnownDisk {
    /// Whether the two disks may share a byte: they overlap in one place, whatever the paths are,
    /// or have one name (a disk that was attached again, or that has two paths), or one has the
    /// name of a partition of the other.
    pub fn shares_with(&self, other: &KnownDisk) -> bool {
        let (one, two) = (self.name.trim_end(), other.name.trim_end());
        self.place.overlaps(&other.place)
            || !one.is_empty() && one == two
            || self.is_partition_of(other)
            || other.is_partition_of(self)
    }

    /// Whether a range of this disk and a range of another one share a byte, both in sectors. Where
    /// a partition is on its disk is not compared.
    pub fn range_meets(&self, own: Part, other: &KnownDisk, its: Part) -> bool {
        let place =
            |disk: &KnownDisk, (start, len): Part| disk.place.part(start.bytes(), len.bytes());
        if self.place.overlaps(&other.place) {
            return place(self, own).overlaps(&place(other, its));
        }
        let is_part = self.is_partition_of(other) || other.is_partition_of(self);
        is_part || (self.shares_with(other) || self.place.on.is_empty()) && overlap(own, its)
    }

    /// Whether this is a partition of the other disk by its name, which is that of its disk with
    /// the partition's start. The places of a disk that was attached again do not tell that.
    pub fn is_partition_of(&self, other: &KnownDisk) -> bool {
        let (part, disk) = (self.name.trim_end(), other.name.trim_end());
        let rest = part.strip_prefix(disk).filter(|_| !disk.is_empty());
        rest.is_some_and(|rest| rest.starts_with(" start "))
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
pub(super) const fn is_false(value: &bool) -> bool {
    !*value
}

/// The disks of a device, by their words in its table. A disk that a server of an earlier version
/// opened is missing.
pub type KnownDisks = BTreeMap<String, KnownDisk>;

#[cfg(test)]
mod tests {
    use super::*;

    fn at(on: &str, start: u64, end: u64) -> Place {
        Place { on: on.to_owned(), start, end }
    }

    fn disk(name: &str, place: Place) -> KnownDisk {
        KnownDisk { name: name.to_owned(), place, ..KnownDisk::default() }
    }

    #[test]
    fn disks_share_bytes_by_their_places_or_by_one_name() {
        let whole = || at("block 8:0 7", 0, u64::MAX);
        let (first, second) = (at("block 8:0 7", 512, 1024), at("block 8:0 7", 1024, 2048));
        assert!(first.overlaps(&whole()) && whole().overlaps(&second));
        assert!(!first.overlaps(&second), "two partitions of a disk");
        assert!(!whole().overlaps(&at("block 8:0 8", 0, u64::MAX)), "another disk of that number");
        assert!(!Place::default().overlaps(&Place::default()), "of which nothing is known");
        assert_eq!(whole().part(512, 512), first);
        assert_eq!(first.part(256, 4096), at("block 8:0 7", 768, 1024));
        let shares = |one: KnownDisk, two: KnownDisk| one.shares_with(&two);
        assert!(shares(disk("", whole()), disk("serial A", whole())));
        assert!(shares(disk("serial A", whole()), disk("serial A", at("block 8:16 9", 0, 9))));
        assert!(!shares(disk("", whole()), disk("", at("block 8:16 9", 0, 9))));
        // The disk of a partition was attached again under another number.
        let (part, again) = (disk("serial A start 2048", first), at("block 8:16 9", 0, 9));
        for (name, expected) in
            [("serial A", true), ("serial A start 4096", false), ("serial", false), ("", false)]
        {
            let other = disk(name, again.clone());
            assert_eq!(part.shares_with(&other), expected, "{name}");
            assert_eq!(other.shares_with(&part), expected, "{name}");
        }
    }
}
