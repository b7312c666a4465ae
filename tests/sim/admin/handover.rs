//! A snapshot's table in the place of the same one, or of one that differs in what a full COW does:
//! the live store is handed over, whatever ends in the middle.

use dm_targets::table::TargetParams;

use super::town::{Town, What};
use crate::protocol::{Command, DeviceSpec};

const SNAP: What = What::Snap(0);
const O: What = What::Origin;

/// The snapshot's table with this type, on this COW.
fn spec(kind: &str, cow: &str) -> DeviceSpec {
    let line = format!("0 8 snapshot /o {cow} {kind} 2");
    DeviceSpec { table: dm_targets::table::Table::parse(&line).unwrap(), ..Town::spec(SNAP) }
}

fn town() -> Town {
    let mut town = Town::new(1, true);
    town.add(O).unwrap();
    town.add(SNAP).unwrap();
    town.write(SNAP, 1);
    town.write(O, 2);
    town
}

fn load(town: &mut Town, spec: DeviceSpec) -> Result<(), String> {
    let device = town.devices[&SNAP].device();
    town.ask("o", Command::Load { device, spec }).map(drop)
}

/// The type of the store on record.
fn kind(town: &Town) -> String {
    let state = town.state("o").unwrap();
    let mut snapshots = state.iter().filter_map(|one| match &one.spec.table.params {
        TargetParams::Snapshot(table) => Some(table.store.to_string()),
        _ => None,
    });
    snapshots.next().unwrap()
}

fn judge(town: &mut Town) {
    for what in [O, SNAP] {
        town.judge(what).unwrap();
        assert!(matches!(town.read(what), Some(Ok(_))), "{what:?} does not answer");
    }
}

#[test]
fn a_live_store_is_handed_over_with_writes_before_between_and_after() {
    for (wanted, suspended) in [("P", true), ("PO", true), ("P", false), ("PO", false)] {
        let mut town = town();
        load(&mut town, spec(wanted, "/c0")).unwrap();
        town.write(O, 3);
        if suspended {
            town.suspend(SNAP).unwrap();
            town.write(SNAP, 4);
            town.write(O, 5);
        }
        town.resume(SNAP).unwrap();
        judge(&mut town);
        town.write(O, 6);
        town.write(SNAP, 0);
        judge(&mut town);
        assert_eq!(kind(&town), wanted);
        town.kill("o");
        town.recover().unwrap();
        judge(&mut town);
        assert_eq!(kind(&town), wanted);
        town.del(SNAP, false).unwrap();
        town.add(SNAP).unwrap();
        judge(&mut town);
    }
}

#[test]
fn every_end_of_a_handover_leaves_the_snapshot() {
    for crash in 1.. {
        let mut town = town();
        let first = town.site.shared.lock().unwrap().changes;
        town.site.shared.lock().unwrap().crash_at = Some(first + crash);
        let loaded = load(&mut town, spec("PO", "/c0"));
        let resumed = loaded.and_then(|()| town.resume(SNAP));
        let ended = town.site.is_dead();
        if ended {
            town.crash(false);
        }
        town.site.shared.lock().unwrap().crash_at = None;
        if ended {
            town.recover().unwrap();
            town.resume(SNAP).unwrap();
        } else {
            resumed.unwrap();
        }
        judge(&mut town);
        town.write(O, 7);
        judge(&mut town);
        if !ended {
            return assert!(crash > 2, "nothing was recorded");
        }
    }
}

#[test]
fn a_store_is_handed_over_to_its_own_disks_only() {
    let mut town = town();
    for (wanted, why) in [
        (spec("P", "/c1"), "/c1: it is not /c0, a disk of the snapshot"),
        (spec("P", "/absent"), "/absent"),
    ] {
        load(&mut town, wanted).unwrap();
        let told = town.resume(SNAP).unwrap_err();
        let stays = "the old table is still in place, and the device continues to run";
        assert!(told.contains(why) && told.contains(stays), "{told}");
        judge(&mut town);
    }
    for (wanted, why) in [
        (spec("N", "/c0"), "cannot become persistent or transient"),
        (
            DeviceSpec { table: Town::spec(What::Mirror).table, ..spec("P", "/c0") },
            "a mirror and a snapshot do not replace each other: load `error` first",
        ),
    ] {
        let told = load(&mut town, wanted).unwrap_err();
        assert!(told.contains(why), "{told}");
    }
    town.resume(SNAP).unwrap();
    judge(&mut town);
}

#[test]
fn a_handover_that_cannot_be_recorded_changes_nothing() {
    let mut town = town();
    load(&mut town, spec("PO", "/c0")).unwrap();
    town.fill(true);
    let why = town.resume(SNAP).unwrap_err();
    assert!(why.contains("No space left") && why.contains("continues to run"), "{why}");
    town.fill(false);
    judge(&mut town);
    assert_eq!(kind(&town), "P");
}

#[cfg(feature = "mutants")]
#[test]
fn every_mutant_of_handovers_is_killed() {
    use crate::server::admin::mutant::{self, Mutant};
    for mutant in [Mutant::HandedOverUnrecorded, Mutant::HandedOverAnywhere] {
        mutant::set(Some(mutant));
        let lived = std::panic::catch_unwind(|| {
            a_live_store_is_handed_over_with_writes_before_between_and_after();
            a_store_is_handed_over_to_its_own_disks_only();
        });
        mutant::set(None);
        assert!(lived.is_err(), "not noticed: {mutant:?}");
    }
}
