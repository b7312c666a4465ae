//! Devices that are refused before anything of theirs is written: a table longer than its disk, and
//! a mirror whose legs cannot be recorded.

use dm_targets::units::Sectors;

use super::process::Process;
use super::town::{SECTORS, Town, What};
use crate::protocol::{Command, DeviceSpec, Reply};

/// The disks of the two legs.
const LEGS: [usize; 2] = [3, 4];

fn add(town: &mut Town, key: &'static str, spec: DeviceSpec) -> Result<Reply, String> {
    town.ask(key, Command::Add { name: None, id: None, spec })
}

/// Writes behind the end of the disk would be acknowledged but not stored.
#[test]
fn an_origin_is_no_longer_than_its_disk() {
    let mut town = Town::new(1, true);
    let process = Process::start(&town.site, "o").unwrap();
    town.processes.insert("o", process);
    let mut spec = Town::spec(What::Origin);
    spec.table.len = Sectors(SECTORS as u64 + 1);
    let why = add(&mut town, "o", spec).expect_err("it is longer than its disk");
    assert!(why.contains(&format!("has {SECTORS} sectors, fewer than the")), "{why}");
    assert!(town.site.kernel.borrow().devices.is_empty());
}

/// The next server would not know which leg is the source.
#[test]
fn a_mirror_whose_legs_cannot_be_recorded_is_not_added() {
    let mut town = Town::new(1, true);
    let other = town.site.disks[5].disk.borrow().visible();
    town.site.put(LEGS[1], other);
    let images = |town: &Town| LEGS.map(|leg| town.site.disks[leg].disk.borrow().visible());
    let before = images(&town);
    let process = Process::start(&town.site, "mirror-a").unwrap();
    let executor = process.executor.clone();
    town.processes.insert("mirror-a", process);
    town.site.shared.lock().unwrap().full = true;
    let spec = || DeviceSpec { source: Some(0), force: true, ..Town::spec(What::Mirror) };
    let why = add(&mut town, "mirror-a", spec()).expect_err("its legs cannot be recorded");
    assert!(why.contains("No space left on device"), "{why}");
    drop(town.site.run(&executor, || false));
    assert!(images(&town) == before, "a leg was written");
    assert!(town.site.kernel.borrow().devices.is_empty());
    // Its legs are free.
    town.site.shared.lock().unwrap().full = false;
    let process = Process::start(&town.site, "mirror-a").unwrap();
    town.processes.insert("mirror-a", process);
    add(&mut town, "mirror-a", spec()).unwrap();
}

#[cfg(feature = "mutants")]
#[test]
fn an_origin_longer_than_its_disk_is_noticed() {
    use crate::server::admin::mutant::{self, Mutant};
    mutant::set(Some(Mutant::OriginBehindDisk));
    let lived = std::panic::catch_unwind(an_origin_is_no_longer_than_its_disk);
    mutant::set(None);
    assert!(lived.is_err());
}
