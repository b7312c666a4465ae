//! A device of one server as the origin of a snapshot of another one: its users' writes would pass
//! by that snapshot once the device has a mirror's or a linear table. So they are in one server, or
//! one of the two is refused, also if both come at the same moment.

use dm_targets::table::Table;

use super::process::Process;
use super::records::StateFile::{Damaged, Whole};
use super::town::{Town, What};
use crate::protocol::{Command, DeviceRef, DeviceSpec, DeviceState, Reply};

const LINES: &str = "lines";
const SNAPS: &str = "snaps";
const ERROR: &str = "0 8 error";
const LINEAR: &str = "0 8 linear /a 0";
const O: usize = 0;

fn spec(line: &str) -> DeviceSpec {
    DeviceSpec { table: Table::parse_table(line).unwrap(), ..Town::spec(What::Lines) }
}

fn snapshot_of(device: DeviceRef) -> String {
    format!("0 8 snapshot /dev/ublkb{} /c0 P 2", device.id)
}

fn add(town: &mut Town, key: &'static str, line: &str) -> Result<DeviceRef, String> {
    if !town.processes.contains_key(key) {
        let process = Process::start(&town.site, key).unwrap();
        town.processes.insert(key, process);
    }
    match town.ask(key, Command::Add { name: None, id: None, spec: spec(line) })? {
        Reply::Added { device, .. } => Ok(device),
        other => Err(format!("{other:?}")),
    }
}

fn load(
    town: &mut Town,
    key: &'static str,
    device: DeviceRef,
    line: &str,
) -> Result<Reply, String> {
    town.ask(key, Command::Load { device, spec: spec(line) })
}

/// The disk of the device, as another server opens it.
fn has_disk(town: &Town, device: DeviceRef) {
    town.site.ublk.set(Some((O, device.id)));
}

/// What a server has on record is there from the moment in which another one takes the lock.
fn comes_meanwhile(town: &Town, key: &str) {
    let registered = town.state(key).unwrap();
    town.site.files(|files| files.states.remove(key));
    town.site.shared.lock().unwrap().before_lock = Some((key.to_owned(), registered));
}

fn only(town: &Town, key: &str) -> DeviceState {
    let [device] = &town.state(key).unwrap()[..] else { panic!("one device of {key}") };
    device.clone()
}

fn is(device: &DeviceState, line: &str) -> bool {
    device.spec.table == Table::parse_table(line).unwrap()
}

/// The snapshot is there first.
fn a_device_with_a_snapshot_elsewhere_does_not_begin_to_carry_it() {
    let mut town = Town::new(1, true);
    let lower = add(&mut town, LINES, ERROR).unwrap();
    has_disk(&town, lower);
    add(&mut town, SNAPS, &snapshot_of(lower)).unwrap();
    let parts = ["of another server", "delete that first"];
    let refused = |told: Result<Reply, String>| {
        let why = told.expect_err("it carries an origin that another server has");
        assert!(parts.iter().all(|part| why.contains(part)), "{why}");
    };
    refused(load(&mut town, LINES, lower, LINEAR));
    assert!(only(&town, LINES).loaded.is_none());
    let of_snapshot = town.site.files(|files| files.states.remove(SNAPS)).unwrap();
    load(&mut town, LINES, lower, LINEAR).unwrap();
    town.site.files(|files| files.states.insert(SNAPS.to_owned(), of_snapshot));
    // The resume finds it before it does anything, or when it records the table.
    refused(town.ask(LINES, Command::Resume { device: lower }));
    assert!(only(&town, LINES).loaded.is_some() && is(&only(&town, LINES), ERROR));
    comes_meanwhile(&town, SNAPS);
    refused(town.ask(LINES, Command::Resume { device: lower }));
    assert!(is(&only(&town, LINES), ERROR), "{:?}", only(&town, LINES));
}

/// The table is there first.
fn a_snapshot_of_a_device_that_carries_it_is_not_served_elsewhere() {
    let mut town = Town::new(1, true);
    let lower = add(&mut town, LINES, LINEAR).unwrap();
    has_disk(&town, lower);
    let refused = |why: String| {
        let parts = ["of another server", "`ublk-dm add snapshot`"];
        assert!(parts.iter().all(|part| why.contains(part)), "{why}");
    };
    refused(add(&mut town, SNAPS, &snapshot_of(lower)).expect_err("it is served elsewhere"));
    comes_meanwhile(&town, LINES);
    refused(add(&mut town, SNAPS, &snapshot_of(lower)).expect_err("it is served elsewhere"));
    assert_eq!(town.site.kernel.borrow().devices.len(), 1, "the refused device is left");
    assert!(town.state(SNAPS).unwrap().is_empty());
    let upper = add(&mut town, SNAPS, ERROR).unwrap();
    let told = load(&mut town, SNAPS, upper, &snapshot_of(lower));
    refused(told.expect_err("it is loaded elsewhere"));
    // Loaded before the device below had its table.
    let of_lower = town.site.files(|files| files.states.remove(LINES)).unwrap();
    load(&mut town, SNAPS, upper, &snapshot_of(lower)).unwrap();
    town.site.files(|files| files.states.insert(LINES.to_owned(), of_lower));
    let told = town.ask(SNAPS, Command::Resume { device: upper });
    refused(told.expect_err("it is served elsewhere"));
    assert!(is(&only(&town, SNAPS), ERROR) && only(&town, SNAPS).loaded.is_some());
}

/// A server that has begun with the device as its origin keeps it: nothing is gained by refusing
/// its tables. A device that nobody can write to carries nothing.
#[test]
fn what_is_harmless_is_not_refused() {
    let mut town = Town::new(1, true);
    let lower = add(&mut town, LINES, ERROR).unwrap();
    has_disk(&town, lower);
    let upper = add(&mut town, SNAPS, &snapshot_of(lower)).unwrap();
    let mut table = only(&town, LINES);
    table.spec.table = Table::parse_table(LINEAR).unwrap();
    town.site.files(|files| files.states.insert(LINES.to_owned(), Whole(vec![table.clone()])));
    load(&mut town, SNAPS, upper, &snapshot_of(lower)).unwrap();
    town.ask(SNAPS, Command::Del { devices: vec![upper], force: false }).unwrap();
    let refused = add(&mut town, SNAPS, &snapshot_of(lower));
    assert!(refused.is_err(), "no device of the server is left");
    table.spec.options.read_only = true;
    town.site.files(|files| files.states.insert(LINES.to_owned(), Whole(vec![table])));
    add(&mut town, SNAPS, &snapshot_of(lower)).unwrap();
}

/// A state file that may tell of such a snapshot cannot be read.
#[test]
fn what_cannot_be_read_may_be_a_snapshot_elsewhere() {
    let mut town = Town::new(1, true);
    let lower = add(&mut town, LINES, ERROR).unwrap();
    town.site.files(|files| files.states.insert("block-8-9".to_owned(), Damaged));
    load(&mut town, LINES, lower, LINEAR).unwrap();
    let named = format!("block-259-{}", lower.id);
    town.site.files(|files| files.states.insert(named.clone(), Damaged));
    let why = town.ask(LINES, Command::Resume { device: lower }).unwrap_err();
    let parts = [named.as_str(), "damaged", "remove the file"];
    assert!(parts.iter().all(|part| why.contains(part)), "{why}");
    town.site.files(|files| files.states.remove(&named));
    // Force takes a disk whose other users are not known, and it is no device.
    town.site.files(|files| files.states.insert("mirror-block-8-0".to_owned(), Damaged));
    let process = Process::start(&town.site, SNAPS).unwrap();
    town.processes.insert(SNAPS, process);
    let forced = DeviceSpec { force: true, ..spec("0 8 snapshot /o /c0 P 2") };
    town.ask(SNAPS, Command::Add { name: None, id: None, spec: forced }).unwrap();
    town.ask(LINES, Command::Resume { device: lower }).unwrap();
}

const ALL: [fn(); 2] = [
    a_device_with_a_snapshot_elsewhere_does_not_begin_to_carry_it,
    a_snapshot_of_a_device_that_carries_it_is_not_served_elsewhere,
];

#[test]
fn a_device_and_its_snapshots_are_in_one_server() {
    ALL.iter().for_each(|check| check());
}

#[test]
#[cfg(feature = "mutants")]
fn a_mutant_of_two_servers_is_noticed() {
    use crate::server::admin::mutant::{self, Mutant};
    for check in ALL {
        mutant::set(Some(Mutant::ServedApart));
        let noticed = std::panic::catch_unwind(check).is_err();
        mutant::set(None);
        assert!(noticed, "ServedApart is not noticed");
    }
}
