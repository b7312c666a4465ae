//! The table of an origin's device, or of a snapshot, is replaced by one of another kind: what that
//! leaves behind must not be taken for what it was.

use dm_targets::request::RequestKind;
use dm_targets::table::{Table, TargetParams};

use super::model;
use super::process::Process;
use super::town::{Town, What};
use crate::protocol::{Command, DeviceSpec, DeviceState, Reply};

pub(super) const SNAP: What = What::Snap(0);
pub(super) const O: What = What::Origin;
pub(super) const ERROR: &str = "0 8 error";
pub(super) const OWN: &str = "0 8 snapshot /o /c0 P 2";

fn load(town: &mut Town, what: What, lines: &str) -> Result<(), String> {
    let spec = DeviceSpec { table: Table::parse_table(lines).unwrap(), ..Town::spec(what) };
    let device = town.devices[&what].device();
    town.ask(what.key(), Command::Load { device, spec }).map(drop)
}

pub(super) fn exchange(town: &mut Town, what: What, lines: &str) -> Result<(), String> {
    load(town, what, lines)?;
    town.resume(what)
}

pub(super) fn town() -> Town {
    let mut town = Town::new(1, true);
    town.add(O).unwrap();
    town.add(SNAP).unwrap();
    town.write(SNAP, 1);
    town.write(O, 2);
    town
}

pub(super) fn again(town: &mut Town) -> Result<(), String> {
    town.kill("o");
    town.recover()
}

/// An origin's device gets a table that writes past its snapshots, or would.
fn an_origin_with_snapshots_keeps_its_table() {
    let mut town = town();
    let why = load(&mut town, O, "0 8 linear /o 0").unwrap_err();
    assert!(why.contains("is a snapshot of it") && why.contains("delete that one first"), "{why}");
    // One that has been added since the table was loaded.
    town.del(SNAP, false).unwrap();
    load(&mut town, O, "0 8 linear /o 0").unwrap();
    town.add(SNAP).unwrap();
    let why = town.resume(O).unwrap_err();
    assert!(why.contains("is a snapshot of it"), "{why}");
    town.judge(O).unwrap();
    town.judge(SNAP).unwrap();
    // Nothing is written through this one.
    exchange(&mut town, O, ERROR).unwrap();
    assert!(matches!(town.read(O), Some(Err(_))));
    town.judge(SNAP).unwrap();
    exchange(&mut town, O, "0 8 snapshot-origin /o").unwrap();
    town.write(O, 3);
    town.judge(O).unwrap();
    town.judge(SNAP).unwrap();
}

#[test]
fn an_origins_table_is_replaced_when_it_has_no_snapshots() {
    an_origin_with_snapshots_keeps_its_table();
}

/// Something that a user does.
type Step<'a> = &'a dyn Fn(&mut Town) -> Result<(), String>;

pub(super) fn has_own(town: &Town) -> Result<bool, String> {
    let is_snapshot =
        |one: &DeviceState| matches!(one.spec.table.params, TargetParams::Snapshot(_));
    Ok(town.state("o")?.iter().any(is_snapshot))
}

/// What the snapshot's device shows is the snapshot, or an error, if it has its own table.
fn judge(town: &mut Town) -> Result<(), String> {
    let has_own = has_own(town)?;
    match town.read(SNAP) {
        Some(Ok(seen)) if has_own => {
            let shown = town.snaps[0].as_mut().map(|snap| snap.content.judge(&seen));
            shown.unwrap_or(Ok(())).map_err(|why| format!("the snapshot is wrong: {why}"))
        }
        _ => Ok(()),
    }
}

/// A snapshot gets another table and then its own again; `written`: its origin changes in between.
/// The server ends at a change, if any. Returns how many changes there were.
fn there_and_back(written: bool, crash: Option<u64>, lines: &str) -> Result<u64, String> {
    let mut town = town();
    let changes = |town: &Town| town.site.shared.lock().unwrap().changes;
    let first = changes(&town);
    town.site.shared.lock().unwrap().crash_at = crash.map(|at| first + at);
    let steps: [Step<'_>; 5] = [
        &|town| exchange(town, SNAP, lines),
        &again,
        &|town| {
            if written {
                town.write(O, 4);
            }
            Ok(())
        },
        &|town| exchange(town, SNAP, OWN),
        &|town| {
            town.write(O, 6);
            Ok(())
        },
    ];
    let mut told = Vec::new();
    for step in steps {
        told.push(step(&mut town));
        if town.site.is_dead() {
            town.crash(false);
            town.recover()?;
        }
        judge(&mut town)?;
    }
    town.judge(O)?;
    let shows = has_own(&town)? && matches!(town.read(SNAP), Some(Ok(_)));
    if crash.is_none() && shows == written {
        return Err(format!("after a change of its origin ({written}): {told:?}"));
    }
    Ok(changes(&town) - first)
}

fn a_snapshot_that_was_replaced_has_left_its_origin() {
    for lines in [ERROR, "0 8 zero", "0 8 linear /a 0"] {
        for written in [false, true] {
            let changes = there_and_back(written, None, lines).unwrap();
            for at in 1..=changes {
                let judged = there_and_back(written, Some(at), lines);
                judged.unwrap_or_else(|why| panic!("{lines}, {written}, change {at}: {why}"));
            }
        }
    }
}

#[test]
fn a_snapshots_table_is_replaced_and_comes_back_unless_its_origin_has_changed() {
    a_snapshot_that_was_replaced_has_left_its_origin();
}

pub(super) fn set_use(town: &Town, in_use: bool) {
    let mut kernel = town.site.kernel.borrow_mut();
    kernel.devices.get_mut(&town.devices[&O].id).unwrap().in_use = in_use;
}

/// While its origin is in use the snapshot is lost at once, as by `del`.
#[test]
fn a_snapshot_whose_origin_is_in_use_is_marked() {
    let mut town = town();
    set_use(&town, true);
    exchange(&mut town, SNAP, ERROR).unwrap();
    again(&mut town).unwrap();
    set_use(&town, false);
    let back = exchange(&mut town, SNAP, OWN);
    assert!(back.is_err_and(|why| why.contains("invalid")));
    assert!(!matches!(town.read(SNAP), Some(Ok(_))));
    assert!(town.site.files(|files| files.tells_of_no_cow()), "the COW says it");
}

/// Two devices have parts of a disk: the origin of all of it would change the other one's.
fn an_origin_is_not_put_over_anothers_range() {
    let mut town = Town::new(1, true);
    town.add(What::Lines).unwrap();
    exchange(&mut town, What::Lines, "0 4 linear /a 0\n4 4 linear /b 0").unwrap();
    let spec = DeviceSpec {
        table: Table::parse_table("0 4 linear /a 4").unwrap(),
        ..Town::spec(What::Lines)
    };
    town.ask("lines", Command::Add { name: None, id: None, spec }).unwrap();
    let why = exchange(&mut town, What::Lines, "0 8 snapshot-origin /a").unwrap_err();
    assert!(why.contains("/a: in use by /dev/ublkb"), "{why}");
    assert!(matches!(town.read(What::Lines), Some(Ok(_))));
}

#[test]
fn an_origin_takes_the_place_of_a_range_if_no_other_device_has_its_disk() {
    an_origin_is_not_put_over_anothers_range();
}

/// A snapshot that was left out is lost when the device beside it becomes its origin's and is
/// written.
fn a_left_out_snapshot_is_lost_with_its_origins_change() {
    const OTHER: What = What::Snap(1);
    let mut town = Town::new(1, true);
    town.add(SNAP).unwrap();
    town.add(OTHER).unwrap();
    town.kill("o");
    town.attach(2, false);
    drop(town.recover());
    exchange(&mut town, SNAP, "0 8 snapshot-origin /o").unwrap();
    write_past(&mut town, SNAP);
    town.attach(2, true);
    drop(town.recover());
    let seen = town.read(OTHER);
    assert!(!shows_changes(&seen), "{seen:?}");
}

#[test]
fn a_snapshot_that_waits_is_lost_when_another_device_becomes_its_origins() {
    a_left_out_snapshot_is_lost_with_its_origins_change();
}

fn start(town: &mut Town, key: &'static str) {
    let process = Process::start(&town.site, key).unwrap();
    town.processes.insert(key, process);
}

/// Writes sector 0 of a device, which is not a snapshot now.
fn write_past(town: &mut Town, what: What) {
    let write = RequestKind::Write { fua: false };
    let pending = town.send(what, write, 0, model::sector(7777)).unwrap();
    assert_eq!(*pending.result.borrow(), Some(Ok(())));
    town.strike(&pending);
}

fn shows_changes(seen: &Option<Result<Vec<u32>, String>>) -> bool {
    matches!(seen, Some(Ok(values)) if values[0] == 7777)
}

/// What has left a disk is lost when ranges write to it, whatever tables were in between.
fn what_has_left_a_disk_is_lost_with_ranges_of_it() {
    let linear = "0 8 linear /o 0";
    for lines in [&[ERROR, linear][..], &[ERROR, linear, "0 8 snapshot-origin /o"]] {
        let mut town = Town::new(1, true);
        town.add(SNAP).unwrap();
        lines.iter().for_each(|lines| exchange(&mut town, SNAP, lines).unwrap());
        write_past(&mut town, SNAP);
        again(&mut town).unwrap();
        let back = exchange(&mut town, SNAP, OWN);
        let seen = town.read(SNAP);
        assert!(back.is_err(), "it is valid again: {seen:?}");
    }
}

#[test]
fn ranges_of_a_disk_lose_its_deleted_snapshots() {
    what_has_left_a_disk_is_lost_with_ranges_of_it();
}

/// A device that was an origin without a claim has a range of the disk: no snapshot is taken past
/// it.
fn no_snapshot_is_taken_beside_a_range_without_a_claim() {
    let mut town = Town::new(1, true);
    start(&mut town, "o");
    let add = |town: &mut Town, line: &str| {
        let table = Table::parse(line).unwrap();
        let spec = DeviceSpec { table, unclaimed: true, ..Town::spec(O) };
        town.ask("o", Command::Add { name: None, id: None, spec })
    };
    let Reply::Added { device, .. } = add(&mut town, "0 8 snapshot-origin /o").unwrap() else {
        panic!("not added")
    };
    let table = Table::parse("0 8 linear /o 0").unwrap();
    let spec = DeviceSpec { table, ..Town::spec(O) };
    town.ask("o", Command::Load { device, spec }).unwrap();
    town.ask("o", Command::Resume { device }).unwrap();
    let why = add(&mut town, OWN).unwrap_err();
    assert!(why.contains("/o: in use by /dev/ublkb"), "{why}");
}

#[test]
fn a_range_without_a_claim_is_seen_by_snapshots() {
    no_snapshot_is_taken_beside_a_range_without_a_claim();
}

/// Nor does an origin take the place of a range of a device that waits for its server.
#[test]
fn an_origin_is_not_put_over_the_range_of_a_device_that_waits() {
    let mut town = Town::new(1, true);
    town.add(What::Lines).unwrap();
    exchange(&mut town, What::Lines, "0 2 linear /a 4\n2 6 zero").unwrap();
    let table = Table::parse_table("0 2 linear /a 0\n2 2 linear /b 0").unwrap();
    let spec = DeviceSpec { table, ..Town::spec(What::Lines) };
    town.ask("lines", Command::Add { name: None, id: None, spec }).unwrap();
    town.kill("lines");
    town.attach(4, false);
    let state = town.left("lines").unwrap();
    start(&mut town, "lines");
    let recovered = town.ask("lines", Command::Recover(state)).unwrap();
    assert!(matches!(recovered, Reply::Recovered { problems, .. } if problems.len() == 1));
    let why = exchange(&mut town, What::Lines, "0 8 snapshot-origin /a").unwrap_err();
    assert!(why.contains("/a:") && why.contains("recover"), "{why}");
}

#[cfg(feature = "mutants")]
#[test]
fn broken_rules_of_exchanges_are_noticed() {
    use crate::server::admin::mutant::{self, Mutant};

    let test = |mutant| match mutant {
        Mutant::LateNotPutBack => super::between::a_store_that_fails_late_leaves_the_old_table(),
        Mutant::LateStillLeft => super::between::a_store_that_is_marked_late_has_not_left(),
        Mutant::LeftOutBesideExchange => a_left_out_snapshot_is_lost_with_its_origins_change(),
        Mutant::RangesUntold => what_has_left_a_disk_is_lost_with_ranges_of_it(),
        Mutant::GrowthUntold => super::left_disks::lost_with_growth(),
        Mutant::DepartedByName => super::left_disks::lost_with_another_name(),
        Mutant::UnmadeForgotten => super::unmade::is_made_by_the_next_server(),
        Mutant::RangesUnseen => no_snapshot_is_taken_beside_a_range_without_a_claim(),
        Mutant::SnapshotsLeft => an_origin_with_snapshots_keeps_its_table(),
        Mutant::ReplacedNotRecorded => a_snapshot_that_was_replaced_has_left_its_origin(),
        Mutant::OriginOverRanges => an_origin_is_not_put_over_anothers_range(),
        _ => super::carried_tables::the_record_of_a_live_mirror_stays(),
    };
    for mutant in Mutant::OF_EXCHANGES {
        mutant::set(Some(mutant));
        let lived = std::panic::catch_unwind(|| test(mutant));
        mutant::set(None);
        assert!(lived.is_err(), "{mutant:?} is not noticed");
    }
}
