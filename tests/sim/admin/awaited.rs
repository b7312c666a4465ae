//! A disk of a device that a living server has left out is not given to another device of the same
//! server: the left-out one waits for it.

use dm_targets::table::Table;

use super::process::Process;
use super::town::{Town, What};
use crate::protocol::{Command, DeviceRef, DeviceSpec, Reply};

const KEY: &str = "lines";
/// The place of the disk that hangs.
const B: usize = 4;

fn spec(table: &str, force: bool) -> DeviceSpec {
    DeviceSpec { table: Table::parse_table(table).unwrap(), force, ..Town::spec(What::Lines) }
}

fn add(town: &mut Town, name: &str, spec: DeviceSpec) -> Result<DeviceRef, String> {
    match town.ask(KEY, Command::Add { name: Some(name.to_owned()), id: None, spec })? {
        Reply::Added { device, .. } => Ok(device),
        _ => Err("an unexpected reply".to_owned()),
    }
}

fn start(town: &mut Town) {
    let process = Process::start(&town.site, KEY).unwrap();
    town.processes.insert(KEY, process);
}

/// A server that serves one of its two devices: a disk of the other one hung when it was taken
/// over, and answers again.
fn town() -> (Town, DeviceRef) {
    let mut town = Town::new(1, true);
    start(&mut town);
    let waits = add(&mut town, "waits", spec("0 4 linear /a 0\n4 4 linear /b 4", false)).unwrap();
    add(&mut town, "served", spec("0 8 linear /c 0", false)).unwrap();
    town.kill(KEY);
    town.site.disks[B].hangs.set(true);
    start(&mut town);
    let devices = town.state(KEY).unwrap();
    let Ok(Reply::Recovered { problems, .. }) = town.ask(KEY, Command::Recover(devices)) else {
        panic!("{:?}", town.log);
    };
    let why = problems.iter().map(|problem| problem.why.to_string()).collect::<Vec<_>>();
    assert!(matches!(&why[..], [why] if why.contains("/b has not answered")), "{why:?}");
    town.site.disks[B].hangs.set(false);
    (town, waits)
}

#[test]
fn a_disk_of_a_left_out_device_is_not_anothers() {
    let (mut town, waits) = town();
    for table in ["0 8 linear /a 0", "0 2 zero\n2 6 linear /b 0"] {
        let why = add(&mut town, "other", spec(table, false)).expect_err("two devices have it");
        assert!(why.contains("waits (/dev/ublkb"), "{table}: {why}");
    }
    // Its user shares a disk as one that is in use.
    let shared = add(&mut town, "other", spec("0 8 linear /a 0", true)).unwrap();
    town.ask(KEY, Command::Del { devices: vec![shared], force: false }).unwrap();
    let recover = Command::RecoverLeftOut { devices: vec![waits] };
    let Ok(Reply::Recovered { problems, .. }) = town.ask(KEY, recover) else {
        panic!("{:?}", town.log);
    };
    assert!(problems.is_empty(), "{:?}", town.log);
}

#[test]
#[cfg(feature = "mutants")]
fn a_disk_that_is_taken_from_a_left_out_device_is_noticed() {
    use crate::server::admin::mutant::{self, Mutant};
    mutant::set(Some(Mutant::WaitingDisksFree));
    let lived = std::panic::catch_unwind(a_disk_of_a_left_out_device_is_not_anothers);
    mutant::set(None);
    assert!(lived.is_err());
}
