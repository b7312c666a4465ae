//! Devices that are refused before anything of theirs is written: a table longer than its disk, and
//! a mirror whose legs cannot be recorded. And what a failed command leaves open: nothing.

use dm_targets::table::Table;
use dm_targets::units::{Sector, Sectors};

use super::process::Process;
use super::town::{SECTORS, Town, What};
use crate::protocol::{Command, DeviceSpec, Reply};
use crate::server::admin::machine::Records;

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

/// Puts a snapshot in the place of a table, with a COW that is in use or with little room in the
/// run directory. Returns why that failed, if it did.
fn replace_in_vain(line: &str, room: Option<u64>) -> Option<String> {
    const KEY: &str = "lines";
    const ORIGIN: usize = 0;
    const COW: usize = 1;
    let spec = |line: &str| DeviceSpec {
        table: Table::parse_table(line).unwrap(),
        ..Town::spec(What::Lines)
    };
    let mut town = Town::new(1, true);
    let process = Process::start(&town.site, KEY).unwrap();
    town.processes.insert(KEY, process);
    let Ok(Reply::Added { device, .. }) = add(&mut town, KEY, spec(line)) else { panic!("{line}") };
    let command = Command::Load { device, spec: spec("0 8 snapshot /o /c0 P 2") };
    town.ask(KEY, command).unwrap();
    match room {
        None => town.site.disks[COW].claim.set(Some(u32::MAX)),
        Some(0) => town.fill(true),
        Some(changes) => town.fill_later(changes),
    }
    let why = town.ask(KEY, Command::Resume { device }).err()?;
    if why.contains("it runs, but") {
        return Some(why);
    }
    let claim = |disk: usize| town.site.disks[disk].claim.get();
    assert_eq!(claim(ORIGIN), None, "{line}, room for {room:?}: its origin is held: {why}");
    assert_eq!(claim(COW).is_some(), room.is_none(), "{line}, room for {room:?}: {why}");
    Some(why)
}

/// Who has failed frees what he held: another command may want the origin.
fn a_table_that_is_not_put_in_place_leaves_no_origin_open() {
    for line in ["0 8 error", "0 8 linear /a 0"] {
        let why = replace_in_vain(line, None).expect("its COW is in use");
        assert!(why.contains("/c0"), "{why}");
        let refused = (0..).take_while(|room| replace_in_vain(line, Some(*room)).is_some());
        assert!(refused.count() > 1, "{line}: it needs no room");
    }
}

#[test]
fn a_failed_command_leaves_no_origin_open() {
    a_table_that_is_not_put_in_place_leaves_no_origin_open();
}

#[cfg(feature = "mutants")]
#[test]
fn an_origin_that_is_left_open_is_noticed() {
    use crate::server::admin::mutant::{self, Mutant};
    mutant::set(Some(Mutant::OriginKept));
    let lived = std::panic::catch_unwind(a_table_that_is_not_put_in_place_leaves_no_origin_open);
    mutant::set(None);
    assert!(lived.is_err());
}

/// The next server would not know which leg is the source. The run directory becomes full at each
/// change that the `add` makes: it fails and nothing of it is left, or the legs are on record.
#[test]
fn a_mirror_whose_legs_cannot_be_recorded_is_not_added() {
    let mut refused = Vec::new();
    let added_with = (0..).find(|changes| match add_with_room(*changes) {
        Err(why) => {
            refused.push(why);
            false
        }
        Ok(is_full) => !is_full,
    });
    assert!(added_with > Some(0) && refused.len() > 1, "{refused:?}");
    let words = "the state of the legs cannot be recorded: No space left on device";
    assert!(refused.iter().any(|why| why.contains(words)), "{refused:?}");
    assert!(refused.iter().all(|why| why.contains("No space left on device")), "{refused:?}");
}

/// Adds a mirror whose second leg is blank while so many changes can still be made. Returns whether
/// the run directory has become full.
fn add_with_room(changes: u64) -> Result<bool, String> {
    const KEY: &str = "mirror-a";
    let mut town = Town::new(1, true);
    let other = town.site.disks[5].disk.borrow().visible();
    town.site.put(LEGS[1], other);
    let bytes = |town: &Town, leg: usize| {
        let image = town.site.disks[leg].disk.borrow().visible();
        image.read(Sector(0), image.size())
    };
    let images = |town: &Town| LEGS.map(|leg| bytes(town, leg));
    let before = images(&town);
    let start = |town: &mut Town| {
        let process = Process::start(&town.site, KEY).unwrap();
        let executor = process.executor.clone();
        town.processes.insert(KEY, process);
        executor
    };
    let executor = start(&mut town);
    if changes == 0 {
        town.fill(true)
    } else {
        town.fill_later(changes)
    }
    let spec = || DeviceSpec { source: Some(0), force: true, ..Town::spec(What::Mirror) };
    let added = add(&mut town, KEY, spec());
    let is_full = town.site.shared.lock().unwrap().full;
    let record = town.site.directory(KEY).legs();
    drop(town.site.run(&executor, || false));
    let why = match added {
        Ok(_) => {
            let record = record.expect("it is added, and its legs are not on record");
            let sources: Vec<bool> = record.legs.iter().map(|leg| leg.source).collect();
            assert_eq!(sources, [true, false], "room for {changes}: the source is not on record");
            return Ok(is_full);
        }
        Err(why) => why,
    };
    assert!(images(&town) == before, "room for {changes}: a leg was written: {why}");
    assert!(town.site.kernel.borrow().devices.is_empty(), "room for {changes}: {why}");
    assert!(!town.processes.contains_key(KEY), "room for {changes}: its server stays: {why}");
    assert_eq!(town.state(KEY).map(|devices| devices.len()), Ok(0), "room for {changes}: {why}");
    assert!(town.site.directory(KEY).legs().is_err(), "room for {changes}: {why}");
    // Its legs are free.
    town.mend();
    start(&mut town);
    add(&mut town, KEY, spec()).unwrap();
    Err(why)
}

#[cfg(feature = "mutants")]
#[test]
fn a_record_of_the_legs_that_was_not_written_is_noticed() {
    use crate::server::admin::mutant::{self, Mutant};
    mutant::set(Some(Mutant::LegRecordIgnored));
    let lived = std::panic::catch_unwind(a_mirror_whose_legs_cannot_be_recorded_is_not_added);
    mutant::set(None);
    assert!(lived.is_err());
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
