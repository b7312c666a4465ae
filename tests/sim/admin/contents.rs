//! What another disk holds is not overwritten when that disk becomes a leg: content of one kind is
//! not the same content, and an offset hides nothing.

use dm_targets::units::Sector;

use super::claims::tell;
use super::foreign_disks::add_as;
use super::town::{Town, What};

/// The disks of the legs, a third one of their size, and a larger one.
const LEGS: [usize; 2] = [3, 4];
const THIRD: usize = 5;
const LARGE: usize = 1;

/// Writes to a disk.
fn put(town: &Town, disk: usize, sector: u64, bytes: &[u8]) {
    let mut image = town.site.disks[disk].disk.borrow().visible();
    image.write(Sector(sector), bytes);
    town.site.put(disk, image);
}

/// Puts an ext4 with a UUID where a disk, or a range of it, begins.
pub(super) fn make_ext4(town: &Town, disk: usize, sector: u64, uuid: u8) {
    let mut superblock = [0; 1024];
    superblock[0] = 64;
    superblock[0x38..0x3A].copy_from_slice(&[0x53, 0xEF]);
    superblock[0x4C] = 1;
    superblock[0x60..0x62].copy_from_slice(&0x2C2_u16.to_le_bytes());
    superblock[0x68..0x78].fill(uuid);
    put(town, disk, sector + 2, &superblock);
}

/// Puts an MBR with one partition on a disk.
pub(super) fn make_mbr(town: &Town, disk: usize, start: u8, sectors: u8) {
    let mut boot = [0; 512];
    boot[446..462].copy_from_slice(&[0, 0, 0, 0, 0x83, 0, 0, 0, start, 0, 0, 0, sectors, 0, 0, 0]);
    boot[510..].copy_from_slice(&[0x55, 0xAA]);
    put(town, disk, 0, &boot);
}

/// A mirror whose legs hold one ext4.
fn town() -> Town {
    let mut town = Town::new(1, true);
    LEGS.iter().for_each(|leg| make_ext4(&town, *leg, 0, 1));
    add_as(&mut town, What::Mirror, false, false).unwrap();
    town
}

fn assert_refused(why: &str, words: &[&str]) {
    assert!(words.iter().all(|word| why.contains(word)), "no {words:?} in {why}");
}

#[test]
fn add_refuses_another_file_system_of_the_same_kind() {
    let mut town = Town::new(1, true);
    make_ext4(&town, LEGS[0], 0, 1);
    make_ext4(&town, LEGS[1], 0, 2);
    let why = add_as(&mut town, What::Mirror, false, false).unwrap_err();
    assert_refused(
        &why,
        &["/b: holds ext4 (at byte 1080)", "ublk-dm zero --to /b:0+4096", "--force"],
    );
    add_as(&mut town, What::Mirror, true, false).unwrap();
}

#[test]
fn a_message_refuses_another_file_system_of_the_same_kind() {
    for message in ["add-leg /c", "replace 1 /c"] {
        let mut town = town();
        make_ext4(&town, THIRD, 0, 2);
        let why = tell(&mut town, message).unwrap_err();
        assert_refused(&why, &["/c: holds ext4", "ublk-dm zero --to /c:0+4096` first"]);
        assert!(!why.contains("--force"), "there is no such flag here: {why}");
        // A copy of the mirror's content.
        make_ext4(&town, THIRD, 0, 1);
        tell(&mut town, message).unwrap();
    }
}

/// Its content is of an earlier moment, or of no moment of the mirror: it has failed since.
#[test]
fn a_leg_that_returns_to_its_place_is_not_judged() {
    let mut town = town();
    // The recovery ends first.
    town.site.run(&town.processes["mirror-a"].executor, || false).unwrap_err();
    make_ext4(&town, LEGS[1], 0, 2);
    tell(&mut town, "replace 1 /b").unwrap();
}

#[test]
fn an_offset_hides_nothing() {
    let refused = |make: &dyn Fn(&Town), words: &[&str]| {
        let mut town = town();
        make(&town);
        assert_refused(&tell(&mut town, "add-leg /c0:4096").unwrap_err(), words);
    };
    // Be it a copy of the mirror's own: it is not where the leg begins.
    refused(&|town| make_ext4(town, LARGE, 0, 1), &["/c0: holds ext4 (at byte 1080)"]);
    refused(&|town| make_ext4(town, LARGE, 8, 2), &["/c0: holds ext4 (at byte 5176)"]);
    refused(&|town| make_mbr(town, LARGE, 12, 8), &["MBR", "with a partition in that range"]);
    let accepted = |make: &dyn Fn(&Town)| {
        let mut town = town();
        make(&town);
        tell(&mut town, "add-leg /c0:4096").unwrap();
    };
    accepted(&|_| ());
    accepted(&|town| make_ext4(town, LARGE, 8, 1));
    accepted(&|town| make_mbr(town, LARGE, 16, 8));
    accepted(&|town| make_mbr(town, LARGE, 1, 7));
}

#[test]
#[cfg(feature = "mutants")]
fn content_that_is_not_compared_is_noticed() {
    use crate::server::admin::mutant::{self, Mutant};
    let accepted = |mutant, sector, message| {
        let mut town = town();
        make_ext4(&town, THIRD, 0, 2);
        make_ext4(&town, LARGE, sector, 2);
        mutant::set(Some(mutant));
        let told = tell(&mut town, message);
        mutant::set(None);
        told.unwrap();
    };
    accepted(Mutant::ContentByKind, 0, "add-leg /c");
    accepted(Mutant::OffsetUnjudged, 0, "add-leg /c0:4096");
}
