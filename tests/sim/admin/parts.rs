//! Disks that devices use in part and without a claim (`--shared`), beside device-mapper and beside
//! the devices of other families: by whom a part is taken, and how the next server finds it.

use dm_targets::table::Table;

use super::process::Process;
use super::site::Other;
use super::town::{Town, What};
use crate::protocol::{Command, DeviceRef, DeviceSpec, DeviceState, Reply};

mod kept;

const LINES: &str = "lines";
const MIRROR: &str = "mirror-a";
const THIRD: &str = "third";
const A: usize = 3;
const LOG: usize = 5;

/// What a command says beside its table.
#[derive(Clone, Copy)]
enum Flags {
    None,
    Shared,
    Force,
    Both,
}
use Flags::{Both, Force, Shared};

fn spec(lines: &str, flags: Flags) -> DeviceSpec {
    let table = Table::parse_table(lines).unwrap();
    let (force, unclaimed) = (matches!(flags, Force | Both), matches!(flags, Shared | Both));
    DeviceSpec { table, force, unclaimed, ..Town::spec(What::Lines) }
}

fn town() -> Town {
    Town::new(1, true)
}

fn add(town: &mut Town, key: &'static str, lines: &str, flags: Flags) -> Result<DeviceRef, String> {
    if !town.processes.contains_key(key) {
        let process = Process::start(&town.site, key).unwrap();
        town.processes.insert(key, process);
    }
    let added = town.ask(key, Command::Add { name: None, id: None, spec: spec(lines, flags) })?;
    match added {
        Reply::Added { device, .. } => Ok(device),
        other => Err(format!("{other:?}")),
    }
}

fn del(town: &mut Town, key: &'static str, device: DeviceRef) {
    town.ask(key, Command::Del { devices: vec![device], force: false }).unwrap();
}

/// The server is killed, and the next one takes its devices over.
fn recover(town: &mut Town, key: &'static str) -> Vec<String> {
    town.kill(key);
    let left = town.left(key).unwrap();
    let process = Process::start(&town.site, key).unwrap();
    town.processes.insert(key, process);
    match town.ask(key, Command::Recover(left)) {
        Ok(Reply::Recovered { problems, .. }) => {
            problems.into_iter().map(|problem| problem.why.to_string()).collect()
        }
        other => vec![format!("{other:?}")],
    }
}

fn is_claimed(town: &Town) -> bool {
    town.site.disks[A].claim.get().is_some()
}

fn mapped(town: &Town, other: Option<Other>) {
    town.site.disks[A].other.set(other);
}

fn first(town: &Town, key: &str) -> DeviceState {
    town.state(key).unwrap().remove(0)
}

const LOW: &str = "0 4 linear /a 0";
const HIGH: &str = "0 4 mirror core 1 2 2 /a 4 /b 4";

/// Two families on the two halves of `/a`.
fn two_families() -> (Town, DeviceRef, DeviceRef) {
    let mut town = town();
    let low = add(&mut town, LINES, LOW, Shared).unwrap();
    let high = add(&mut town, MIRROR, HIGH, Shared).unwrap();
    (town, low, high)
}

#[test]
fn two_families_have_parts_of_a_disk() {
    for killed in [false, true] {
        let (mut town, low, high) = two_families();
        if killed {
            for key in [LINES, MIRROR] {
                assert_eq!(recover(&mut town, key), [""; 0]);
            }
        }
        assert!(!is_claimed(&town));
        let refused = |town: &mut Town, key, lines: &str, flags| {
            let why = add(town, key, lines, flags).unwrap_err();
            assert!(why.contains("/a: it is a disk of"), "{lines}: {why}");
        };
        // By a third family, by one of the two, and as a whole.
        refused(&mut town, THIRD, "0 2 linear /a 3", Shared);
        refused(&mut town, THIRD, "0 2 mirror core 1 2 2 /b 0 /a 2", Shared);
        refused(&mut town, LINES, "0 2 linear /a 4", Shared);
        refused(&mut town, THIRD, "0 1 linear /a 0", Flags::None);
        refused(&mut town, THIRD, "0 4 snapshot-origin /a", Flags::None);
        let forced = add(&mut town, THIRD, "0 2 linear /a 3", Both).unwrap();
        del(&mut town, THIRD, forced);
        // What one has had is free for others, and nothing else.
        del(&mut town, LINES, low);
        refused(&mut town, THIRD, "0 2 linear /a 3", Shared);
        add(&mut town, THIRD, "0 2 linear /a 2", Shared).unwrap();
        del(&mut town, MIRROR, high);
        add(&mut town, THIRD, "0 4 linear /a 4", Shared).unwrap();
    }
}

#[test]
fn a_disk_that_is_claimed_is_no_others_in_part() {
    let mut town = town();
    add(&mut town, LINES, LOW, Flags::None).unwrap();
    let why = add(&mut town, MIRROR, HIGH, Shared).unwrap_err();
    assert!(why.contains("cannot open /a"), "{why}");
    // In the same family the claim is for both.
    add(&mut town, LINES, "0 2 linear /a 6", Shared).unwrap();
    assert!(is_claimed(&town));
    assert_eq!(recover(&mut town, LINES), [""; 0]);
    assert!(is_claimed(&town));
}

#[test]
fn device_mapper_has_another_part_and_a_file_system_has_all() {
    let tables = [LOW, HIGH, "0 4 snapshot-origin /a", "0 4 snapshot /a /c0 P 2"];
    for lines in tables {
        let mut town = town();
        mapped(&town, Some(Other::Mapped));
        let why = add(&mut town, THIRD, lines, Flags::None).unwrap_err();
        assert!(why.contains("/a"), "{lines}: {why}");
        add(&mut town, THIRD, lines, Shared).unwrap();
        assert!(first(&town, THIRD).known["/a"].unclaimed, "{lines}");
        assert_eq!(recover(&mut town, THIRD), [""; 0], "{lines}");
        // Whoever mounts the disk has not been stopped by a claim; the next server says so.
        mapped(&town, Some(Other::Mounted));
        let problems = recover(&mut town, THIRD);
        assert!(problems.len() == 1 && problems[0].contains("/a"), "{lines}: {problems:?}");
        let mut town = self::town();
        mapped(&town, Some(Other::Mounted));
        let why = add(&mut town, THIRD, lines, Shared).unwrap_err();
        assert!(why.contains("cannot open /a"), "{lines}: {why}");
        add(&mut town, THIRD, lines, Both).unwrap();
        assert_eq!(recover(&mut town, THIRD), [""; 0], "{lines}: by force again");
    }
}

#[test]
fn a_cow_and_a_log_are_claimed_nevertheless() {
    for (path, lines) in
        [("/c0", "0 4 snapshot /a /c0 P 2"), ("/c", "0 4 mirror disk 2 /c 2 2 /a 0 /b 0")]
    {
        let mut town = town();
        let disk = town.site.slot(path).unwrap();
        town.site.disks[disk].other.set(Some(Other::Mapped));
        let why = add(&mut town, THIRD, lines, Shared).unwrap_err();
        assert!(why.contains(&format!("cannot open {path}")), "{why}");
        town.site.disks[disk].other.set(None);
        add(&mut town, THIRD, lines, Shared).unwrap();
        for _ in 0..2 {
            assert!(town.site.disks[disk].claim.get().is_some() && !is_claimed(&town), "{lines}");
            assert_eq!(recover(&mut town, THIRD), [""; 0], "{lines}");
        }
    }
}

/// A snapshot uses its origin up to its own end, with the chunk there.
#[test]
fn an_origin_is_shared_behind_its_end() {
    let mut town = town();
    add(&mut town, "o", "0 3 snapshot-origin /a", Shared).unwrap();
    add(&mut town, LINES, "0 4 linear /a 4", Shared).unwrap();
    let snapshot = "0 3 snapshot /a /c0 P 2";
    let free = add(&mut town, THIRD, "0 1 linear /a 3", Shared).unwrap();
    let why = add(&mut town, "o", snapshot, Shared).unwrap_err();
    assert!(why.contains("/a: it is a disk of"), "{why}");
    del(&mut town, THIRD, free);
    add(&mut town, "o", snapshot, Shared).unwrap();
    let why = add(&mut town, THIRD, "0 1 linear /a 3", Shared).unwrap_err();
    assert!(why.contains("/a: it is a disk of"), "{why}");
    assert_eq!(recover(&mut town, "o"), [""; 0]);
}

#[test]
fn a_device_does_not_grow_over_the_part_of_another_family() {
    let mut town = town();
    let low = add(&mut town, LINES, "0 2 linear /a 0", Shared).unwrap();
    add(&mut town, MIRROR, HIGH, Shared).unwrap();
    let mut resize = |sectors: Option<u64>| {
        let bytes = sectors.map(|sectors| sectors * 512);
        town.ask(LINES, Command::Resize { device: low, bytes }).map(drop)
    };
    let why = resize(None).unwrap_err();
    assert!(why.contains("the new size must be given"), "{why}");
    let why = resize(Some(5)).unwrap_err();
    assert!(why.contains("/a: it is a disk of"), "{why}");
    resize(Some(4)).unwrap();
    assert_eq!(first(&town, LINES).spec.table.len.0, 4);
    // Neither does an origin.
    let origin = add(&mut town, "o", "0 2 snapshot-origin /b", Shared).unwrap();
    let mut resize = |sectors: Option<u64>| {
        let bytes = sectors.map(|sectors| sectors * 512);
        town.ask("o", Command::Resize { device: origin, bytes }).map(drop)
    };
    assert!(resize(None).unwrap_err().contains("the new size must be given"));
    assert!(resize(Some(6)).unwrap_err().contains("/b: it is a disk of"));
    resize(Some(4)).unwrap();
}

/// A mirror copies to its new regions before it has its new length: not over another family's.
#[test]
fn a_mirror_copies_nothing_over_the_part_of_another_family() {
    let mut town = town();
    let legs = "0 2 mirror core 1 2 2 /a 0 /b 0";
    let mirror = add(&mut town, MIRROR, legs, Shared).unwrap();
    add(&mut town, LINES, "0 2 linear /b 2", Shared).unwrap();
    let image = |town: &Town| town.site.disks[4].disk.borrow().visible();
    let before = image(&town);
    let bytes = Some(4 * 512);
    let why = town.ask(MIRROR, Command::Resize { device: mirror, bytes }).unwrap_err();
    assert!(why.contains("/b: it is a disk of"), "{why}");
    assert!(image(&town) == before, "the other family's part is overwritten");
    let recorded = first(&town, MIRROR);
    assert!(recorded.coming.is_empty() && recorded.spec.table.len.0 == 2);
}

/// What is forced for one disk is not for the others.
#[test]
fn a_disk_that_is_shared_by_force_leaves_the_others_compared() {
    let mut town = town();
    add(&mut town, LINES, "0 2 linear /b 2", Shared).unwrap();
    add(&mut town, THIRD, "0 2 linear /a 0", Shared).unwrap();
    let legs = "0 2 mirror core 1 2 2 /a 0 /b 4";
    let mirror = add(&mut town, MIRROR, legs, Both).unwrap();
    let load = Command::Load { device: mirror, spec: spec("0 2 linear /b 2", Shared) };
    town.ask(MIRROR, load).unwrap();
    let lines = town.ask(MIRROR, Command::Resume { device: mirror }).unwrap_err();
    assert!(lines.contains("/b: it is a disk of"), "{lines}");
    let both = "0 1 linear /a 0\n1 1 linear /b 2";
    let load = Command::Load { device: mirror, spec: spec(both, Shared) };
    town.ask(MIRROR, load).unwrap();
    let both = town.ask(MIRROR, Command::Resume { device: mirror }).unwrap_err();
    assert!(both.contains("/b: it is a disk of"), "{both}");
}

/// One leg of a mirror becomes a range, and what the other leg had is another device's from then
/// on. The flag need not be repeated.
#[test]
fn a_mirror_is_left_for_a_part_of_a_disk() {
    for killed in [false, true] {
        let (mut town, _, high) = two_families();
        let why = add(&mut town, THIRD, "0 2 linear /b 4", Shared).unwrap_err();
        assert!(why.contains("/b: it is a disk of"), "{why}");
        let put = |town: &mut Town, lines: &str, flags| {
            town.ask(MIRROR, Command::Load { device: high, spec: spec(lines, flags) }).unwrap();
            town.ask(MIRROR, Command::Resume { device: high }).map(drop)
        };
        // Not onto the other family's part, and the old table stays.
        let why = put(&mut town, "0 4 linear /a 3", Force).unwrap_err();
        assert!(why.contains("continues to run"), "{why}");
        put(&mut town, "0 4 linear /a 4", Flags::None).unwrap();
        assert!(first(&town, MIRROR).coming.is_empty());
        if killed {
            mapped(&town, Some(Other::Mapped));
            assert_eq!(recover(&mut town, MIRROR), [""; 0]);
        }
        add(&mut town, THIRD, "0 2 linear /b 4", Shared).unwrap();
        assert!(first(&town, MIRROR).known["/a"].unclaimed && !is_claimed(&town));
        let why = put(&mut town, "0 4 linear /a 2", Flags::None).unwrap_err();
        assert!(why.contains("/a: it is a disk of") && why.contains("continues to run"), "{why}");
    }
}

#[test]
fn without_the_flag_no_device_joins_one_that_shares() {
    let mut town = town();
    add(&mut town, LINES, LOW, Shared).unwrap();
    let why = add(&mut town, LINES, "0 2 linear /a 4", Flags::None).unwrap_err();
    let parts = ["/a: in use by /dev/ublkb0", "which shares it: use --shared as well"];
    assert!(parts.iter().all(|part| why.contains(part)), "{why}");
    add(&mut town, LINES, "0 2 linear /a 4", Shared).unwrap();
    add(&mut town, LINES, "0 2 linear /a 5", Force).unwrap();
    mapped(&town, Some(Other::Mapped));
    assert_eq!(recover(&mut town, LINES), [""; 0]);
}

/// Two commands of two families at the same moment: one of them sees the other.
#[test]
fn a_part_is_taken_once_at_a_time() {
    for (lines, free) in [("0 2 linear /a 3", false), ("0 2 linear /a 2", true)] {
        let mut town = town();
        add(&mut town, MIRROR, HIGH, Shared).unwrap();
        let registered = town.state(MIRROR).unwrap();
        town.site.files(|files| files.states.remove(MIRROR));
        let other = Some((MIRROR.to_owned(), registered));
        town.site.shared.lock().unwrap().before_lock = other;
        let added = add(&mut town, LINES, lines, Shared);
        assert_eq!(added.is_ok(), free, "{lines}: {added:?}");
        assert_eq!(town.site.kernel.borrow().devices.len(), if free { 2 } else { 1 });
    }
}

/// The same for a message, whose leg is on a disk that the mirror has already.
#[test]
fn a_leg_takes_no_part_of_another_family() {
    for words in [["add-leg", "/b:2048"].as_slice(), &["replace", "0", "/b:2048"]] {
        for free in [false, true] {
            let mut town = town();
            let legs = "0 2 mirror core 1 2 2 /a 0 /b 0";
            let device = add(&mut town, MIRROR, legs, Shared).unwrap();
            let part = if free { "0 2 linear /b 6" } else { "0 2 linear /b 5" };
            add(&mut town, LINES, part, Shared).unwrap();
            let registered = town.state(LINES).unwrap();
            town.site.files(|files| files.states.remove(LINES));
            let other = Some((LINES.to_owned(), registered));
            town.site.shared.lock().unwrap().before_lock = other;
            let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
            let told = town.ask(MIRROR, Command::Message { device, words, named: Vec::new() });
            assert_eq!(told.is_ok(), free, "{part}: {told:?}");
            assert!(free || told.unwrap_err().contains("/b: it is a disk of"));
            assert!(first(&town, MIRROR).coming.is_empty());
        }
    }
}

/// Until the new table is in place the old one may have to be put back: what it has stays its own.
#[test]
fn a_part_is_not_free_before_it_has_been_left() {
    let (mut between, mut said) = (0, Vec::new());
    for operations in 0..8 {
        let mut town = town();
        town.site.gives_up.set(true);
        let low = "0 2 mirror core 1 2 2 /a 0 /b 0";
        let device = add(&mut town, MIRROR, low, Shared).unwrap();
        // None of its legs is one of the old mirror's.
        let spec = spec("0 2 mirror disk 2 /c 2 2 /a 4 /b 4", Both);
        let spec = DeviceSpec { source: Some(0), ..spec };
        town.ask(MIRROR, Command::Load { device, spec }).unwrap();
        town.site.disks[LOG].hangs_after.set(Some(operations));
        let resumed = town.ask(MIRROR, Command::Resume { device }).map(drop);
        let take = |town: &mut Town| add(town, THIRD, "0 2 linear /a 0", Shared);
        let taken = take(&mut town);
        said.push(format!("{resumed:?}"));
        match resumed {
            Err(why) if why.contains("between two tables") => {
                between += 1;
                assert!(taken.is_err(), "{operations}: {taken:?} although {why}");
            }
            Ok(()) => assert!(taken.is_ok(), "{operations}: {taken:?}"),
            Err(why) => assert!(taken.is_err(), "{operations}: {taken:?} although {why}"),
        }
    }
    assert!(between > 0, "{said:#?}");
}

#[cfg(feature = "mutants")]
#[test]
fn every_mutant_of_parts_is_killed() {
    use crate::server::admin::mutant::{self, Mutant};
    let tests: [fn(); 11] = [
        two_families_have_parts_of_a_disk,
        a_disk_that_is_shared_by_force_leaves_the_others_compared,
        a_device_does_not_grow_over_the_part_of_another_family,
        a_part_is_not_free_before_it_has_been_left,
        a_leg_takes_no_part_of_another_family,
        a_mirror_is_left_for_a_part_of_a_disk,
        device_mapper_has_another_part_and_a_file_system_has_all,
        without_the_flag_no_device_joins_one_that_shares,
        kept::no_part_is_taken_while_a_state_file_cannot_be_read,
        kept::a_mirror_shares_the_disks_that_the_former_one_shares,
        kept::a_disk_is_not_free_before_its_mirror_has_been_left,
    ];
    for (mutant, test) in Mutant::OF_PARTS.into_iter().zip(tests) {
        mutant::set(Some(mutant));
        let lived = std::panic::catch_unwind(test);
        mutant::set(None);
        assert!(lived.is_err(), "not noticed: {mutant:?}");
    }
}
