//! What users are told of a device that is not as it should be: an invalid snapshot when it is
//! created, a full one and a mirror without one of its legs in `list`.

use dm_targets::sim::disk::Class;
use dm_targets::table::TargetParams;
use dm_targets::units::Sectors;

use super::merge_refused::full_cow;
use super::process::Process;
use super::town::{Town, What};
use crate::protocol::{Command, DeviceSpec, Health, Reply};

const S: What = What::Snap(0);
const M: What = What::Mirror;
const LEGS: [usize; 2] = [3, 4];

fn health(town: &Town, what: What) -> Health {
    town.processes[what.key()].report(town.devices[&what].id).object.health
}

/// A device as `create` and `load` take it.
fn of_line(spec: DeviceSpec) -> DeviceSpec {
    DeviceSpec { degraded: true, allow_invalid: true, ..spec }
}

/// The note of an `add`.
fn note(town: &mut Town, spec: DeviceSpec) -> Result<Option<String>, String> {
    match town.ask("o", Command::Add { name: None, id: None, spec })? {
        Reply::Added { note, .. } => Ok(note),
        _ => Err("another reply".to_owned()),
    }
}

/// A COW with an invalid snapshot that has no device.
fn invalid() -> Town {
    let mut town = full_cow(false).unwrap();
    assert_eq!(health(&town, S), Health::Invalid);
    let device = town.devices[&S].device();
    town.ask("o", Command::Del { devices: vec![device], force: false }).unwrap();
    town
}

/// `add` refuses it and names the flag; a table line has no flag, and `create` warns.
#[test]
fn an_invalid_snapshot_is_refused_or_said_to_be_invalid() {
    let mut town = invalid();
    let why = note(&mut town, Town::spec(S)).expect_err("it is accepted");
    assert!(why.contains("/c0: the snapshot on it is invalid"), "{why}");
    assert!(why.contains("--allow-invalid"), "{why}");
    let said = note(&mut town, of_line(Town::spec(S))).unwrap();
    let expected = "/c0: the snapshot on it is invalid: all I/O on its device fails";
    assert_eq!(said.as_deref(), Some(expected));
}

#[test]
fn so_is_a_merge_of_an_invalid_snapshot() {
    let mut town = invalid();
    let origin = town.devices[&What::Origin].device();
    // The server stays for another snapshot.
    town.add(What::Snap(1)).unwrap();
    town.ask("o", Command::Del { devices: vec![origin], force: false }).unwrap();
    let mut spec = Town::spec(S);
    if let TargetParams::Snapshot(table) = spec.table.params.clone() {
        spec.table.params = TargetParams::SnapshotMerge(table);
    }
    let why = note(&mut town, spec.clone()).expect_err("it is accepted");
    assert!(why.contains("/c0: the snapshot on it is invalid"), "{why}");
    let said = note(&mut town, of_line(spec)).unwrap();
    let expected = "/c0: the snapshot on it is invalid: nothing is merged, and its device shows \
                    the origin";
    assert_eq!(said.as_deref(), Some(expected));
}

#[test]
fn a_snapshot_that_has_refused_a_write_is_listed_so() {
    let town = full_cow(true).unwrap();
    assert_eq!(health(&town, S), Health::Overflow);
    let report = town.processes["o"].report(town.devices[&S].id);
    assert!(report.status.ends_with(" Overflow"), "{}", report.status);
    assert_eq!(health(&town, What::Origin), Health::Ok);
}

/// Loads a mirror's table with other regions, and resumes.
fn load(town: &mut Town, degraded: bool) -> Result<Reply, String> {
    let mut spec = DeviceSpec { degraded, ..town.mirror_table(false) };
    if let TargetParams::Mirror(mirror) = &mut spec.table.params {
        mirror.region_size = Sectors(4);
    }
    let device = town.devices[&M].device();
    town.ask(M.key(), Command::Load { device, spec })?;
    town.ask(M.key(), Command::Resume { device })
}

fn region(town: &Town) -> u64 {
    let report = town.processes[M.key()].report(town.devices[&M].id);
    report.object.mirror().unwrap().region_size_bytes
}

/// Every operation that has begun ends: recovery has copied what can be copied.
fn come_to_rest(town: &Town) {
    let executor = town.processes[M.key()].executor.clone();
    drop(town.site.run(&executor, || false));
}

/// A leg that can be opened, and neither read nor written.
#[test]
fn a_loaded_mirror_starts_without_a_dead_leg_and_is_listed_as_degraded() {
    for dead in LEGS {
        let mut town = Town::new(1, true);
        town.add(M).unwrap();
        town.write(M, 2);
        come_to_rest(&town);
        assert_eq!((health(&town, M), region(&town)), (Health::Ok, 1024), "{dead}");
        town.break_down(dead, Class::Any, true);
        town.write(M, 3);
        assert_eq!(health(&town, M), Health::Degraded, "{dead}");
        // As `add` judges it: the old table stays.
        let why = load(&mut town, false).expect_err("it is accepted");
        assert!(why.contains("Input/output error"), "{dead}: {why}");
        assert_eq!(region(&town), 1024, "{dead}: {why}");
        load(&mut town, true).unwrap();
        come_to_rest(&town);
        assert_eq!((health(&town, M), region(&town)), (Health::Degraded, 2048), "{dead}");
        town.write(M, 5);
        assert_eq!(town.judge(M), Ok(()), "{dead}");
        assert!(matches!(town.read(M), Some(Ok(_))), "{dead}");
        assert_eq!(town.end(), Ok(()), "{dead}");
    }
}

/// A number that another device has by now is none of a dead server's devices.
#[test]
fn a_device_in_the_place_of_ours_does_not_wait_for_our_server() {
    for replaced in [false, true] {
        let mut town = Town::new(1, true);
        town.add(What::Origin).unwrap();
        town.add(S).unwrap();
        let ids = [What::Origin, S].map(|what| town.devices[&what].id);
        town.kill("o");
        let state = town.state("o").unwrap();
        if replaced {
            town.steal(What::Origin, true);
        }
        let mut process = Process::start(&town.site, "o").unwrap();
        let expected = process.expected(state);
        assert!(process.admin.keeps_files());
        process.kill();
        assert_eq!(expected, ids[usize::from(replaced)..]);
    }
}

#[cfg(feature = "mutants")]
#[test]
fn an_invalid_snapshot_that_is_not_said_to_be_invalid_is_noticed() {
    use crate::server::admin::mutant::{self, Mutant};
    let tests: [fn(); 2] = [
        an_invalid_snapshot_is_refused_or_said_to_be_invalid,
        so_is_a_merge_of_an_invalid_snapshot,
    ];
    for test in tests {
        mutant::set(Some(Mutant::InvalidNotTold));
        let lived = std::panic::catch_unwind(test);
        mutant::set(None);
        assert!(lived.is_err());
    }
}

#[cfg(feature = "mutants")]
#[test]
fn a_number_that_is_trusted_is_noticed_in_list() {
    use crate::server::admin::mutant::{self, Mutant};
    mutant::set(Some(Mutant::NumberTrusted));
    let lived =
        std::panic::catch_unwind(a_device_in_the_place_of_ours_does_not_wait_for_our_server);
    mutant::set(None);
    assert!(lived.is_err());
}
