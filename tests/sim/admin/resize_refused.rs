//! What `resize` refuses because of disks and of other devices, and what is left of an attempt.
//!
//! Rules held here: data of others does not become part of a device; a device that is not resized
//! has nothing behind its end; and an error names the disk that stands in the way.

use dm_targets::disk::Backend;
use dm_targets::units::Sectors;

use super::contents::{make_ext4, make_mbr};
use super::kernel::Control;
use super::resize::{Kind, LONG, judge, long_image, refused, resize, town};
use super::town::{SECTORS, Town, What};
use super::{merge_command, merging};
use crate::protocol::{Command, Reply};

const LINES: Kind = (What::Lines, &[3]);
const MIRROR: Kind = (What::Mirror, &[3, 4]);

/// A device on longer disks with this content.
fn town_with(kind: Kind, make: impl Fn(&Town)) -> Town {
    let mut town = Town::new(1, true);
    for (leg, disk) in (0..).zip(kind.1) {
        town.site.put(*disk, long_image(leg));
    }
    make(&town);
    let (key, spec) = (kind.0.key(), Town::spec(kind.0));
    let process = super::process::Process::start(&town.site, key).unwrap();
    town.processes.insert(key, process);
    let added = town.ask(key, Command::Add { name: None, id: None, spec }).unwrap();
    let Reply::Added { path, .. } = added else { panic!("{added:?}") };
    town.added(kind.0, &path).unwrap();
    town
}

#[test]
fn a_device_does_not_grow_over_content_of_others() {
    for kind in [LINES, MIRROR] {
        for disk in kind.1 {
            let file_system = |town: &Town| make_ext4(town, *disk, SECTORS as u64, 1);
            let mut town = town_with(kind, file_system);
            refused(&mut town, kind.0, Some(LONG), "holds ext4 (at byte 5176)").unwrap();
        }
    }
}

#[test]
fn a_device_does_not_grow_over_a_partition() {
    for kind in [LINES, MIRROR] {
        let table = |start: u8, count: u8| {
            move |town: &Town| kind.1.iter().for_each(|disk| make_mbr(town, *disk, start, count))
        };
        for (start, count) in [(10, 4), (4, 8)] {
            let mut town = town_with(kind, table(start, count));
            let words = "with a partition in that range";
            refused(&mut town, kind.0, Some(LONG), words).unwrap();
        }
        // A table that the device's users have made.
        for (start, count) in [(1, 7), (4, 12)] {
            let mut town = town_with(kind, table(start, count));
            resize(&mut town, kind.0, Some(LONG)).unwrap();
        }
    }
}

/// Neither its status nor its recovery knows of a growth that was in vain.
#[test]
fn a_mirror_that_is_not_resized_has_its_old_regions() {
    let mut town = town(MIRROR);
    let behind =
        |town: &Town| town.site.disks[4].disk.borrow().visible().sectors[SECTORS..].to_vec();
    let rests = |town: &Town| {
        let process = &town.processes["mirror-a"];
        drop(town.site.run(&process.executor, || false));
        process.report(town.devices[&What::Mirror].id).status
    };
    let status = rests(&town);
    assert!(status.contains(" 4/4 "), "{status}");
    for accepted in [0, 1] {
        town.site.kernel.borrow_mut().denied = vec![(Control::Resize, accepted)];
        refused(&mut town, What::Mirror, None, "Resize").unwrap();
        let left = behind(&town);
        assert_eq!(rests(&town), status);
        assert!(behind(&town) == left, "a region that no user sees is recovered");
    }
    town.site.shared.lock().unwrap().full = true;
    refused(&mut town, What::Mirror, None, "cannot be recorded").unwrap();
    town.site.shared.lock().unwrap().full = false;
    assert_eq!(rests(&town), status);
    resize(&mut town, What::Mirror, Some(LONG - 2)).unwrap();
    assert!(rests(&town).contains(" 7/7 "));
    resize(&mut town, What::Mirror, None).unwrap();
    judge(&mut town, What::Mirror).unwrap();
}

#[test]
fn a_snapshot_is_not_resized_while_another_one_is_merged() {
    let mut town = merging::town();
    town.add(What::Snap(1)).unwrap();
    merge_command::paused(&mut town).unwrap();
    town.strike_gone();
    let words = "another snapshot is being merged into its origin";
    refused(&mut town, What::Snap(1), None, words).unwrap();
}

/// The disk that stands in the way, and not the COW or another leg.
#[test]
fn a_refusal_names_the_disk_that_is_too_short() {
    let words = "/o: there is room for 8192 bytes, not for 8704: make /o longer first";
    let mut snapshots = town((What::Snap(0), &[0]));
    refused(&mut snapshots, What::Snap(0), Some(LONG + 1), words).unwrap();
    for (legs, short) in [([0, 2], "/a"), ([2, 0], "/b")] {
        let mut town = town(MIRROR);
        for (disk, more) in MIRROR.1.iter().zip(legs) {
            town.site.disks[*disk].disk.borrow().grow(Sectors(LONG as u64 + more));
        }
        let words = format!("not for 8704: make {short} longer first");
        refused(&mut town, What::Mirror, Some(LONG + 1), &words).unwrap();
        town.site.disks[MIRROR.1[0]].disk.borrow().grow(Sectors(4));
        let words = "/a: there is room for 2048 bytes, and the device has 4096: the disk has";
        refused(&mut town, What::Mirror, None, words).unwrap();
        judge(&mut town, What::Mirror).unwrap();
    }
}

/// The disk has grown since the server opened it, and nothing has asked for its size since.
#[test]
fn a_new_snapshot_can_have_the_size_that_its_origin_has_now() {
    let mut town = town((What::Origin, &[0]));
    let len = Sectors(LONG as u64 + 4);
    town.site.disks[0].disk.borrow().grow(len);
    let mut spec = Town::spec(What::Snap(1));
    spec.table.len = len;
    town.ask("o", Command::Add { name: None, id: None, spec }).unwrap();
    assert_eq!(town.site.disks[0].disk.borrow().size(), len);
}
