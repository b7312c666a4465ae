//! The disks of devices without a server are reserved for their next server: no other family takes
//! them.

use dm_targets::mirror::table::MirrorLog;
use dm_targets::table::TargetParams;

use super::process::Process;
use super::town::{Town, What};
use crate::protocol::{Command, DeviceSpec};

const EVERYTHING: [What; 3] = [What::Origin, What::Snap(0), What::Mirror];

/// A mirror of these legs.
fn mirror_of(legs: [&str; 2], force: bool) -> DeviceSpec {
    let mut spec = DeviceSpec { force, ..Town::spec(What::Mirror) };
    if let TargetParams::Mirror(mirror) = &mut spec.table.params {
        for (leg, disk) in mirror.legs.iter_mut().zip(legs) {
            leg.device = disk.to_owned();
        }
    }
    spec
}

/// A snapshot with this origin and this COW.
fn snapshot_of(origin: &str, cow: &str, force: bool) -> DeviceSpec {
    let mut spec = DeviceSpec { force, ..Town::spec(What::Snap(0)) };
    if let TargetParams::Snapshot(snapshot) = &mut spec.table.params {
        (snapshot.origin, snapshot.cow) = (origin.to_owned(), cow.to_owned());
    }
    spec
}

/// Adds a device by the new server of a family.
fn add(town: &mut Town, key: &'static str, spec: DeviceSpec) -> Result<(), String> {
    let process = Process::start(&town.site, key).unwrap();
    town.processes.insert(key, process);
    town.ask(key, Command::Add { name: None, id: None, spec }).map(drop)
}

fn dead() -> Town {
    let mut town = Town::new(1, true);
    EVERYTHING.iter().for_each(|what| town.add(*what).unwrap());
    for (what, sector) in [(What::Origin, 1), (What::Snap(0), 3), (What::Mirror, 5)] {
        town.write(what, sector);
        town.flush(what);
    }
    ["o", "mirror-a"].iter().for_each(|key| town.kill(key));
    town
}

fn refused(town: &mut Town, path: &str, added: Result<(), String>) {
    let why = added.unwrap_err();
    let parts = [path, "waits for a server", "ublk-dm recover", "ublk-dm del --force"];
    assert!(parts.iter().all(|part| why.contains(part)), "{path}: {why}");
    town.kill("other");
}

#[test]
fn a_disk_of_a_dead_servers_device_is_no_leg_origin_or_cow_of_another_one() {
    let mut town = dead();
    for (path, spec) in [
        ("/o", mirror_of(["/o", "/c"], false)),
        ("/c0", mirror_of(["/c", "/c0"], false)),
        ("/a", snapshot_of("/a", "/c1", false)),
        ("/b", snapshot_of("/c", "/b", false)),
        // A COW is never shared.
        ("/b", snapshot_of("/c", "/b", true)),
    ] {
        let added = add(&mut town, "other", spec);
        refused(&mut town, path, added);
    }
    assert_eq!(town.recover(), Ok(()));
    for what in EVERYTHING {
        assert_eq!(town.judge(what), Ok(()), "{what:?}");
        assert!(matches!(town.read(what), Some(Ok(_))), "{what:?} does not answer");
    }
    assert_eq!(town.end(), Ok(()));
}

#[test]
fn a_disk_of_a_dead_servers_device_does_not_come_below_a_live_mirror() {
    let mut town = Town::new(1, true);
    EVERYTHING.iter().for_each(|what| town.add(*what).unwrap());
    town.kill("o");
    let device = town.devices[&What::Mirror].device();
    for words in [["replace", "0", "/o"].as_slice(), &["add-leg", "/o"], &["add-leg", "/c0"]] {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        let path = words[words.len() - 1].clone();
        let told =
            town.ask("mirror-a", Command::Message { device, words, named: Vec::new() }).map(drop);
        refused(&mut town, &path, told);
    }
    assert_eq!(town.recover(), Ok(()));
    assert_eq!(town.end(), Ok(()));
}

/// The server that continues with the origin is alive, and has left a snapshot out.
#[test]
fn a_disk_of_a_device_that_was_left_out_is_no_other_familys() {
    let mut town = Town::new(1, true);
    EVERYTHING.iter().for_each(|what| town.add(*what).unwrap());
    town.kill("o");
    town.attach(1, false);
    assert!(town.recover().is_err());
    town.attach(1, true);
    let device = town.devices[&What::Mirror].device();
    let words = ["add-leg", "/c0"].map(str::to_owned).to_vec();
    let told =
        town.ask("mirror-a", Command::Message { device, words, named: Vec::new() }).map(drop);
    refused(&mut town, "/c0", told);
    assert_eq!(town.recover(), Ok(()));
    assert_eq!(town.end(), Ok(()));
}

#[test]
fn force_shares_what_it_shares_of_a_live_device() {
    let mut town = dead();
    add(&mut town, "other", mirror_of(["/o", "/c"], true)).unwrap();
    let state = town.state("other").unwrap();
    assert!(state[0].spec.force, "the next server shares it, too");
}

/// The next server shares only the disk that had another user.
#[test]
fn a_disk_that_is_not_shared_is_claimed_again() {
    const SHARED: usize = 0;
    const OWN: usize = 5;
    let mut town = Town::new(1, true);
    // Another program has it.
    town.site.disks[SHARED].claim.set(Some(u32::MAX));
    let process = Process::start(&town.site, "mirror-a").unwrap();
    town.processes.insert("mirror-a", process);
    let spec = mirror_of(["/o", "/c"], true);
    let command = Command::Add { name: Some("m".to_owned()), id: None, spec };
    town.ask("mirror-a", command).unwrap();
    let is_claimed = |town: &Town| {
        let own = town.site.disks[OWN].claim.get();
        own.is_some_and(|own| own != u32::MAX)
            && town.site.disks[SHARED].claim.get() == Some(u32::MAX)
    };
    assert!(is_claimed(&town));
    // Whether its user has it at that moment or not.
    for held in [true, false] {
        town.kill("mirror-a");
        assert_eq!(town.site.disks[OWN].claim.get(), None);
        town.site.disks[SHARED].claim.set(held.then_some(u32::MAX));
        let process = Process::start(&town.site, "mirror-a").unwrap();
        town.processes.insert("mirror-a", process);
        let devices = town.state("mirror-a").unwrap();
        town.ask("mirror-a", Command::Recover(devices)).unwrap();
        assert!(town.site.disks[OWN].claim.get().is_some(), "its own disk is free for others");
        assert_eq!(town.site.disks[SHARED].claim.get(), held.then_some(u32::MAX));
    }
    // A message takes the shared disk's place.
    let device = town.state("mirror-a").unwrap().remove(0).device();
    let words = ["replace", "0", "/b"].map(str::to_owned).to_vec();
    town.ask("mirror-a", Command::Message { device, words, named: Vec::new() }).unwrap();
    let state = town.state("mirror-a").unwrap().remove(0);
    assert!(!state.spec.force, "no other user is left");
}

#[cfg(feature = "mutants")]
#[test]
fn the_mutant_that_claims_no_own_disk_is_killed() {
    use crate::server::admin::mutant::{self, Mutant};
    mutant::set(Some(Mutant::OwnDiskUnclaimed));
    let lived = std::panic::catch_unwind(a_disk_that_is_not_shared_is_claimed_again);
    mutant::set(None);
    assert!(lived.is_err());
}

/// The disks of a device are free when the device is deleted, and a leg when it is replaced.
#[test]
fn a_disk_that_is_given_up_is_free() {
    let mut town = Town::new(1, true);
    town.add(What::Origin).unwrap();
    town.add(What::Mirror).unwrap();
    let device = town.devices[&What::Mirror].device();
    let words = ["replace", "1", "/c"].map(str::to_owned).to_vec();
    town.ask("mirror-a", Command::Message { device, words, named: Vec::new() }).unwrap();
    town.kill("o");
    town.kill("mirror-a");
    add(&mut town, "other", snapshot_of("/b", "/c1", false)).unwrap();
    town.del(What::Origin, true).unwrap();
    let process = town.processes.remove("other").unwrap();
    process.kill();
    add(&mut town, "third", mirror_of(["/o", "/c0"], true)).unwrap();
    assert!(!town.state("third").unwrap()[0].spec.force, "it had no other user");
}

/// Like a file and a loop device on it.
#[test]
fn a_file_by_two_names_is_one_disk() {
    let with_name = |path: usize, other: usize| {
        let town = Town::new(1, true);
        town.site.disks[path].same_as.set(Some(other));
        town
    };
    // In two living families.
    let mut town = with_name(5, 0);
    town.add(What::Origin).unwrap();
    let added = add(&mut town, "other", mirror_of(["/c", "/b"], false));
    assert!(added.unwrap_err().contains("/c: it is a disk of "));
    // In one family: a COW that is its origin, or another COW.
    let mut town = with_name(1, 0);
    let why = add(&mut town, "o", snapshot_of("/o", "/c0", false)).unwrap_err();
    assert!(why.contains("/c0: it is /o under another name"), "{why}");
    let mut town = with_name(2, 1);
    town.add(What::Snap(0)).unwrap();
    let why = town.add(What::Snap(1)).unwrap_err();
    assert!(why.contains("/c1: it is /c0 under another name"), "{why}");
    // In one mirror.
    let mut town = with_name(4, 3);
    let why = town.add(What::Mirror).unwrap_err();
    assert!(why.contains("/b: given for two legs that overlap"), "{why}");
}

/// A mirror whose first leg is in use, with another leg and with its log on a disk.
fn logged(leg: &str, log: &str) -> DeviceSpec {
    let mut spec = mirror_of(["/o", leg], true);
    if let TargetParams::Mirror(mirror) = &mut spec.table.params {
        mirror.log = MirrorLog::Disk { device: log.to_owned() };
    }
    spec
}

/// Two commands with --force, because their first disks are in use, come at the same moment. Each
/// of them takes the same bytes by another name.
#[test]
fn two_commands_at_the_same_moment_take_no_disk_under_two_names() {
    let cow = |path| snapshot_of("/o", path, true);
    let first = [cow("/c1"), logged("/b", "/c1"), snapshot_of("/c1", "/b", true)];
    for (at, other) in first.into_iter().enumerate() {
        for (key, mine) in [("o", cow("/c0")), ("mirror-o", logged("/c", "/c0"))] {
            let mut town = Town::new(1, true);
            town.site.disks[2].same_as.set(Some(1));
            // Another program has it.
            town.site.disks[0].claim.set(Some(u32::MAX));
            add(&mut town, "other", other.clone()).unwrap();
            let registered = town.state("other").unwrap();
            // What the first has taken by its own name does not matter.
            town.site.disks.iter().skip(2).for_each(|disk| disk.claim.set(None));
            town.site.files(|files| files.states.remove("other"));
            town.site.shared.lock().unwrap().before_lock = Some(("other".to_owned(), registered));
            let why = add(&mut town, key, mine).expect_err("it is taken under two names");
            assert!(why.contains("/c0: it is a disk of "), "{at} {key}: {why}");
            let devices = town.site.kernel.borrow().devices.len();
            assert_eq!(devices, 1, "{at} {key}: the device is left");
        }
    }
}

/// A message to a mirror, and a command of another family that takes the same bytes by another name
/// at the same moment.
#[test]
fn a_message_at_the_same_moment_takes_no_disk_under_two_names() {
    for words in [["add-leg", "/c0"].as_slice(), &["replace", "1", "/c0"]] {
        let mut town = Town::new(1, true);
        town.site.disks[2].same_as.set(Some(1));
        town.add(What::Mirror).unwrap();
        add(&mut town, "other", snapshot_of("/o", "/c1", false)).unwrap();
        let registered = town.state("other").unwrap();
        town.site.files(|files| files.states.remove("other"));
        town.site.shared.lock().unwrap().before_lock = Some(("other".to_owned(), registered));
        let device = town.devices[&What::Mirror].device();
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        let message = Command::Message { device, words: words.clone(), named: Vec::new() };
        let told = town.ask("mirror-a", message);
        let why = told.expect_err("it is taken under two names");
        assert!(why.contains("/c0: it is a disk of "), "{words:?}: {why}");
        let state = town.state("mirror-a").unwrap().remove(0);
        assert_eq!(state.spec.table.params.devices(), ["/a", "/b"], "{words:?}");
        assert!(state.coming.is_empty(), "{words:?}");
    }
}

#[cfg(feature = "mutants")]
#[test]
fn the_mutants_of_haste_are_killed() {
    use crate::server::admin::mutant::{self, Mutant};
    let tests = [
        two_commands_at_the_same_moment_take_no_disk_under_two_names,
        a_message_at_the_same_moment_takes_no_disk_under_two_names,
    ];
    for (mutant, test) in Mutant::OF_HASTE.into_iter().zip(tests) {
        mutant::set(Some(mutant));
        let lived = std::panic::catch_unwind(test);
        mutant::set(None);
        assert!(lived.is_err(), "{mutant:?}");
    }
}
