//! Dirty logs on disk that an earlier version has written: it named legs in files by their paths.

use dm_targets::mirror::format::HEADER_BYTES;
use dm_targets::mirror::leg_flags::{LegFlags, identity_of};
use dm_targets::mirror::table::MirrorLog;
use dm_targets::sim::image::Image;
use dm_targets::table::TargetParams;
use dm_targets::units::{Sector, Sectors};

use super::process::Process;
use super::town::{SECTORS, Town, What};
use crate::protocol::Command;

/// A log of that version whose bits are all set, and whose record has the second of these legs as
/// stale.
fn log(legs: [&str; 2]) -> Image {
    let regions = SECTORS as u64 / 2;
    let mut header = [0; HEADER_BYTES];
    header[..8].copy_from_slice(&[0x72, 0x52, 0x69, 0x4d, 2, 0, 0, 0]);
    header[8..16].copy_from_slice(&regions.to_le_bytes());
    LegFlags::encode(&mut header, &legs.map(|leg| identity_of(&format!("{leg} 0"))), 0b10);
    let mut image = Image::zeroes(Sectors(SECTORS as u64));
    image.write(Sector(0), &header);
    // The first region is out of sync, as one that a leg has missed.
    image.write(Sector(2), &[&[0b1110], &[0; 511][..]].concat());
    image
}

#[test]
fn a_leg_in_a_file_is_no_source_that_had_failed_under_an_earlier_version() {
    // The leg that is stale is named last, then first.
    for turned in [false, true] {
        let mut town = Town::new(1, true);
        for (disk, name) in [(3, "file 1-3 /a"), (4, "file 1-4 /b")] {
            *town.site.disks[disk].name.borrow_mut() = name.to_owned();
        }
        let mut missed = town.site.disks[4].disk.borrow().visible();
        missed.write(Sector(0), &[0xEE; 512]);
        town.site.put(4, missed);
        // In the simulation the former name of a disk is its lasting one.
        town.site.put(5, log(["file 1-3 /a", "file 1-4 /b"]));
        let mut spec = Town::spec(What::Mirror);
        if let TargetParams::Mirror(mirror) = &mut spec.table.params {
            mirror.log = MirrorLog::Disk { device: "/c".to_owned() };
            if turned {
                mirror.legs.reverse();
            }
        }
        let process = Process::start(&town.site, "mirror-a").unwrap();
        town.processes.insert("mirror-a", process);
        town.ask("mirror-a", Command::Add { name: None, id: None, spec }).unwrap();
        let executor = town.processes["mirror-a"].executor.clone();
        drop(town.site.run(&executor, || false));
        let [a, b] = [3, 4].map(|disk| town.site.disks[disk].disk.borrow().visible());
        assert!(a == b && a.read(Sector(0), Sectors(1)) != [0xEE; 512], "turned {turned}");
    }
}
