//! Devices on ranges of one disk: they share it if the ranges do not overlap, and it is claimed as
//! long as any of them has it.

use dm_targets::table::Table;

use super::process::Process;
use super::town::{Town, What};
use crate::protocol::{Command, DeviceRef, DeviceSpec, Reply};

const KEY: &str = "lines";
const A: usize = 3;
const B: usize = 4;
const C: usize = 5;

fn spec(lines: &str, force: bool) -> DeviceSpec {
    let table = Table::parse_table(lines).unwrap();
    DeviceSpec { table, force, ..Town::spec(What::Lines) }
}

fn town() -> Town {
    let mut town = Town::new(1, true);
    start(&mut town);
    town
}

fn start(town: &mut Town) {
    let process = Process::start(&town.site, KEY).unwrap();
    town.processes.insert(KEY, process);
}

fn add(town: &mut Town, lines: &str, force: bool) -> Result<DeviceRef, String> {
    let add = Command::Add { name: None, id: None, spec: spec(lines, force) };
    match town.ask(KEY, add)? {
        Reply::Added { device, .. } => Ok(device),
        other => Err(format!("{other:?}")),
    }
}

fn del(town: &mut Town, device: DeviceRef) {
    town.ask(KEY, Command::Del { devices: vec![device], force: false }).unwrap();
}

fn is_claimed(town: &Town) -> bool {
    town.site.disks[A].claim.get().is_some()
}

#[test]
fn ranges_that_do_not_overlap_share_their_disk() {
    for killed in [false, true] {
        for first_goes in [false, true] {
            let mut town = town();
            let first = add(&mut town, "0 4 linear /a 0", false).unwrap();
            let second = add(&mut town, "0 2 linear /a 6\n2 2 linear /a 4", false).unwrap();
            if killed {
                town.kill(KEY);
                assert!(!is_claimed(&town));
                let state = town.left(KEY).unwrap();
                start(&mut town);
                let recovered = town.ask(KEY, Command::Recover(state));
                let Ok(Reply::Recovered { problems, .. }) = recovered else {
                    panic!("{recovered:?}")
                };
                assert!(problems.is_empty(), "{problems:?}");
            }
            let (gone, stays) = if first_goes { (first, second) } else { (second, first) };
            del(&mut town, gone);
            assert!(is_claimed(&town), "the other device has it");
            // What the other one had is free, and nothing else.
            let ranges = ["0 4 linear /a 0", "0 2 linear /a 5"];
            let of = |at: usize| ranges[at];
            let (free, used) = if first_goes { (of(0), of(1)) } else { (of(1), of(0)) };
            let why = add(&mut town, used, false).unwrap_err();
            assert!(why.contains("/a: in use by /dev/ublkb") && why.contains("--force"), "{why}");
            let third = add(&mut town, free, false).unwrap();
            del(&mut town, stays);
            assert!(is_claimed(&town), "the third device has it");
            del(&mut town, third);
            assert!(!is_claimed(&town), "no device has it");
        }
    }
}

#[test]
fn a_table_is_not_put_over_the_range_of_another_device() {
    let mut town = town();
    let first = add(&mut town, "0 4 linear /a 0", false).unwrap();
    let second = add(&mut town, "0 4 linear /a 4", false).unwrap();
    let put = |town: &mut Town, lines: &str, force: bool| {
        town.ask(KEY, Command::Load { device: first, spec: spec(lines, force) }).unwrap();
        town.ask(KEY, Command::Resume { device: first })
    };
    for lines in ["0 4 linear /a 1", "0 2 linear /b 0\n2 2 linear /a 6"] {
        let why = put(&mut town, lines, false).unwrap_err();
        let stays = "the old table is still in place, and the device continues to run";
        assert!(why.contains("/a: in use by /dev/ublkb1") && why.contains(stays), "{why}");
    }
    put(&mut town, "0 4 linear /b 0", false).unwrap();
    put(&mut town, "0 2 linear /a 2\n2 2 linear /a 0", false).unwrap();
    let mirror = "0 4 mirror core 1 2 2 /a 0 /b 0";
    let why = put(&mut town, mirror, false).unwrap_err();
    assert!(why.contains("a mirror is alone in its server"), "{why}");
    put(&mut town, "0 4 linear /a 1", true).unwrap();
    del(&mut town, second);
    let why = put(&mut town, mirror, false).unwrap_err();
    let parts = ["/a: a part of the device's data", "would overwrite that part", "--force"];
    assert!(parts.iter().all(|part| why.contains(part)), "{why}");
    put(&mut town, mirror, true).unwrap();
    for force in [false, true] {
        let why = add(&mut town, "0 4 linear /a 4", force).unwrap_err();
        assert!(why.contains("which is alone in it"), "{why}");
    }
    del(&mut town, first);
    assert!(!is_claimed(&town));
}

#[test]
fn a_device_does_not_grow_over_its_neighbour() {
    for force in [false, true] {
        let mut town = town();
        let first = add(&mut town, "0 2 linear /a 0", false).unwrap();
        add(&mut town, "0 4 linear /a 4", false).unwrap();
        let mut resize = |device, sectors: u64| {
            let bytes = Some(sectors * 512);
            town.ask(KEY, Command::Resize { device, bytes }).map(drop)
        };
        resize(first, 4).unwrap();
        let why = resize(first, 5).unwrap_err();
        assert!(why.contains("/a: the part behind its end is in use by /dev/ublkb1"), "{why}");
        // What two devices share by force they may share further.
        let third = force.then(|| add(&mut town, "0 2 linear /a 3", true).unwrap());
        if let Some(device) = third {
            let bytes = Some(3 * 512);
            town.ask(KEY, Command::Resize { device, bytes }).unwrap();
        }
    }
}

/// Recovers the devices of a killed server, with `/b` missing or not; returns the problems.
fn recover(town: &mut Town, missing: bool) -> usize {
    town.kill(KEY);
    let state = town.left(KEY).unwrap();
    start(town);
    town.site.disks[B].there.set(!missing);
    match town.ask(KEY, Command::Recover(state)) {
        Ok(Reply::Recovered { problems, .. }) => problems.len(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_range_of_a_device_that_waits_is_not_given_to_another_one() {
    for force in [false, true] {
        let mut town = town();
        let first = add(&mut town, "0 2 linear /a 0", false).unwrap();
        let second = add(&mut town, "0 2 linear /a 4\n2 2 linear /b 0", false).unwrap();
        assert_eq!(recover(&mut town, true), 1);
        let why = add(&mut town, "0 2 linear /a 5", false).unwrap_err();
        assert!(why.contains("/a") && why.contains("waits for a server"), "{why}");
        let bytes = Some(5 * 512);
        let why = town.ask(KEY, Command::Resize { device: first, bytes }).unwrap_err();
        assert!(why.contains("is in use by /dev/ublkb1"), "{why}");
        add(&mut town, "0 2 linear /a 2", false).unwrap();
        if force {
            add(&mut town, "0 2 linear /a 5", true).unwrap();
        }
        town.site.disks[B].there.set(true);
        let back = town.ask(KEY, Command::RecoverLeftOut { devices: vec![second] });
        assert!(
            matches!(&back, Ok(Reply::Recovered { problems, .. }) if problems.is_empty()),
            "{back:?}"
        );
        assert_eq!(recover(&mut town, false), 0);
    }
}

#[test]
fn a_disk_that_another_family_has_is_not_taken_beside_a_device() {
    let mut town = town();
    add(&mut town, "0 2 linear /a 0", false).unwrap();
    let process = Process::start(&town.site, "mirror-a").unwrap();
    town.processes.insert("mirror-a", process);
    let mirror = spec("0 2 mirror core 1 2 2 /a 4 /b 4", true);
    town.ask("mirror-a", Command::Add { name: None, id: None, spec: mirror }).unwrap();
    let why = add(&mut town, "0 1 linear /a 4", false).unwrap_err();
    assert!(why.contains("/a: it is a disk of mirror1"), "{why}");
    add(&mut town, "0 1 linear /a 4", true).unwrap();
}

/// A file and a loop device on it are one disk.
#[test]
fn a_disk_is_not_taken_under_a_second_name() {
    let mut town = town();
    let first = add(&mut town, "0 4 linear /a 0", false).unwrap();
    town.site.disks[C].same_as.set(Some(A));
    town.site.disks[C].number.set(town.site.disks[A].number.get());
    let what = "/c: it is /a under another name";
    let why = add(&mut town, "0 4 linear /c 0", false).unwrap_err();
    assert!(why.contains(what), "{why}");
    for table in ["0 4 linear /c 2", "0 4 mirror core 1 2 2 /c 0 /b 0"] {
        let load = Command::Load { device: first, spec: spec(table, false) };
        town.ask(KEY, load).unwrap();
        let why = town.ask(KEY, Command::Resume { device: first }).unwrap_err();
        assert!(why.contains(what) && why.contains("continues to run"), "{why}");
    }
}

#[cfg(feature = "mutants")]
#[test]
fn every_mutant_of_shared_disks_is_killed() {
    use crate::server::admin::mutant::{self, Mutant};
    for mutant in [Mutant::OverlapUnseen, Mutant::BesideUnclaimed] {
        mutant::set(Some(mutant));
        let lived = std::panic::catch_unwind(ranges_that_do_not_overlap_share_their_disk);
        mutant::set(None);
        assert!(lived.is_err(), "not noticed: {mutant:?}");
    }
}
