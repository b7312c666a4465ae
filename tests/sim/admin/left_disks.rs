//! What has left a disk is lost with whatever writes to that disk next, other than its origin: a
//! snapshot that is added again must not show what was written meanwhile.

use dm_targets::request::RequestKind;
use dm_targets::table::Table;

use super::model;
use super::process::Process;
use super::town::{Town, What};
use crate::protocol::{Command, DeviceSpec, Reply};

const SNAP: What = What::Snap(0);
const LINEAR: &str = "0 8 linear /o 0";

fn spec(line: &str, read_only: bool) -> DeviceSpec {
    let mut spec = Town::spec(SNAP);
    spec.table = Table::parse_table(line).unwrap();
    spec.options.read_only = read_only;
    spec.force = true;
    spec
}

/// A machine on which a snapshot of `/o` was deleted.
fn town() -> Town {
    let mut town = Town::new(1, true);
    town.add(SNAP).unwrap();
    town.del(SNAP, false).unwrap();
    town
}

/// Makes a device in a server of its own and deletes it.
fn made(town: &mut Town, spec: DeviceSpec) {
    let process = Process::start(&town.site, "other").unwrap();
    town.processes.insert("other", process);
    match town.ask("other", Command::Add { name: None, id: None, spec }).unwrap() {
        Reply::Added { device, .. } => {
            town.ask("other", Command::Del { devices: vec![device], force: false }).unwrap();
        }
        other => panic!("{other:?}"),
    }
}

fn is_lost(town: &mut Town) -> bool {
    town.add(SNAP).is_err_and(|why| why.contains("lost"))
}

fn lost_with_other_tables() {
    for (line, read_only, lost) in [
        (LINEAR, false, true),
        (LINEAR, true, false),
        // It is recovered, although its users cannot write.
        ("0 8 mirror core 1 2 2 /a 0 /o 0", true, true),
        ("0 8 snapshot /a /o P 2", false, true),
        ("0 8 snapshot-origin /o", false, false),
    ] {
        let mut town = town();
        made(&mut town, spec(line, read_only));
        assert_eq!(is_lost(&mut town), lost, "{line}, {read_only}");
    }
}

#[test]
fn a_deleted_snapshot_is_lost_with_other_tables_on_its_origins_disk() {
    lost_with_other_tables();
}

/// The slots of the origin, and of another name of its bytes.
const ORIGIN: usize = 0;
const OTHER: usize = 5;

/// The origin is a loop device, and the other name that of its file.
pub(super) fn lost_with_another_name() {
    for (line, start_sector, lost) in [
        ("0 4 linear /c 0", 0, true),
        ("0 4 linear /c 4", 4, true),
        ("0 4 linear /c 0", 4, false),
        ("0 4 linear /c 0\n4 4 linear /c 4", 7, true),
        ("0 8 mirror core 1 2 2 /a 0 /c 0", 7, true),
        ("0 8 mirror core 1 2 2 /a 0 /c 0", 8, false),
    ] {
        let mut town = Town::new(1, true);
        town.site.disks[ORIGIN].start.set(start_sector * 512);
        town.add(SNAP).unwrap();
        town.del(SNAP, false).unwrap();
        town.site.disks[OTHER].same_as.set(Some(ORIGIN));
        made(&mut town, spec(line, false));
        town.site.disks[OTHER].same_as.set(None);
        assert_eq!(is_lost(&mut town), lost, "{line}, {start_sector}");
    }
}

/// A device that ends where the origin begins grows over it.
pub(super) fn lost_with_growth() {
    for (line, sectors, lost) in [
        ("0 4 linear /c 0", 4, false),
        ("0 4 linear /c 0", 5, true),
        ("0 4 mirror core 1 2 2 /a 0 /c 0", 8, true),
    ] {
        let mut town = Town::new(1, true);
        town.site.disks[ORIGIN].start.set(4 * 512);
        town.add(SNAP).unwrap();
        town.del(SNAP, false).unwrap();
        town.site.disks[OTHER].same_as.set(Some(ORIGIN));
        let process = Process::start(&town.site, "other").unwrap();
        town.processes.insert("other", process);
        let add = Command::Add { name: None, id: None, spec: spec(line, false) };
        let Reply::Added { device, .. } = town.ask("other", add).unwrap() else { panic!() };
        let bytes = Some(sectors * 512);
        town.ask("other", Command::Resize { device, bytes }).unwrap();
        town.ask("other", Command::Del { devices: vec![device], force: false }).unwrap();
        town.site.disks[OTHER].same_as.set(None);
        assert_eq!(is_lost(&mut town), lost, "{line}, {sectors}");
    }
}

#[test]
fn a_deleted_snapshot_is_lost_when_a_device_grows_over_its_origin() {
    lost_with_growth();
}

/// The origin's own device is made under another name, and written.
pub(super) fn lost_with_an_origin_under_another_name() {
    let mut town = town();
    town.site.disks[OTHER].same_as.set(Some(ORIGIN));
    town.add(What::Lines).unwrap();
    let (device, key) = (town.devices[&What::Lines].device(), What::Lines.key());
    let spec = spec("0 8 snapshot-origin /c", false);
    town.ask(key, Command::Load { device, spec }).unwrap();
    town.ask(key, Command::Resume { device }).unwrap();
    let write = RequestKind::Write { fua: false };
    let written = town.send(What::Lines, write, 0, model::sector(7777)).unwrap();
    assert_eq!(*written.result.borrow(), Some(Ok(())));
    town.strike(&written);
    town.del(What::Lines, false).unwrap();
    town.site.disks[OTHER].same_as.set(None);
    assert!(is_lost(&mut town));
}

#[test]
fn a_deleted_snapshot_is_lost_with_another_name_of_its_origins_bytes() {
    lost_with_another_name();
    lost_with_an_origin_under_another_name();
}

/// A message puts the disk into a mirror that runs.
fn lost_with_messages() {
    for words in [["add-leg", "/o"].as_slice(), &["replace", "1", "/o"]] {
        let mut town = town();
        town.add(What::Mirror).unwrap();
        let device = town.devices[&What::Mirror].device();
        let words = words.iter().map(|word| (*word).to_owned()).collect();
        town.ask("mirror-a", Command::Message { device, words, named: Vec::new() }).unwrap();
        town.del(What::Mirror, false).unwrap();
        assert!(is_lost(&mut town));
    }
}

#[test]
fn a_deleted_snapshot_is_lost_when_its_origins_disk_becomes_a_leg() {
    lost_with_messages();
}

/// The snapshot's own device gets the disk.
fn lost_with_its_own_device() {
    let mut town = Town::new(1, true);
    town.add(SNAP).unwrap();
    let device = town.devices[&SNAP].device();
    let key = SNAP.key();
    town.ask(key, Command::Load { device, spec: spec(LINEAR, false) }).unwrap();
    town.ask(key, Command::Resume { device }).unwrap();
    town.del(SNAP, false).unwrap();
    assert!(is_lost(&mut town));
}

#[test]
fn a_snapshot_is_lost_when_its_device_gets_its_origins_disk() {
    lost_with_its_own_device();
}

#[cfg(feature = "mutants")]
#[test]
fn an_untold_write_is_noticed_on_each_way() {
    use crate::server::admin::mutant::{self, Mutant};
    for test in [lost_with_other_tables, lost_with_messages, lost_with_its_own_device] {
        mutant::set(Some(Mutant::RangesUntold));
        let lived = std::panic::catch_unwind(test);
        mutant::set(None);
        assert!(lived.is_err());
    }
}
