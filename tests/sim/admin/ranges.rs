//! Devices on ranges of one disk: they share it if the ranges do not overlap, and it is claimed as
//! long as any of them has it.

use dm_targets::table::Table;

use super::process::Process;
use super::town::{Town, What};
use crate::protocol::{Command, DeviceRef, DeviceSpec, Reply};

const KEY: &str = "lines";
const A: usize = 3;

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
                assert!(
                    matches!(&recovered, Ok(Reply::Recovered { problems }) if problems.is_empty()),
                    "{recovered:?}"
                );
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
    put(&mut town, mirror, false).unwrap();
    for force in [false, true] {
        let why = add(&mut town, "0 4 linear /a 4", force).unwrap_err();
        assert!(why.contains("which is alone in it"), "{why}");
    }
    del(&mut town, first);
    assert!(!is_claimed(&town));
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
