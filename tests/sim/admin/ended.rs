//! Mirrors that end while one of their legs is not up to date, and mirrors of these legs
//! afterwards.

use dm_targets::sim::disk::Class;
use dm_targets::table::{Table, TargetParams};
use dm_targets::units::Sector;

use super::Step::{self, Add, Del, Fail, Replace, Write};
use super::What::Mirror;
use super::act;
use super::contents::make_ext4;
use super::process::Process;
use super::records::Files;
use super::town::Town;
use crate::protocol::{Command, DeviceSpec, Reply};

/// A town whose mirror of /a and /b has got /c for /a, and has ended.
fn after_a_change(town: &mut Town) {
    let steps = [Add(Mirror), Replace(0, 5), Write(Mirror, 3), Del(Mirror, false)];
    steps.into_iter().for_each(|step: Step| act(town, step));
    // The user has no use for the former leg.
    town.freed.clear();
}

fn mirror_of(legs: [&str; 2]) -> DeviceSpec {
    let mut spec = Town::spec(Mirror);
    if let TargetParams::Mirror(mirror) = &mut spec.table.params {
        for (leg, path) in mirror.legs.iter_mut().zip(legs) {
            leg.device = path.to_owned();
        }
    }
    spec
}

fn add(town: &mut Town, spec: DeviceSpec) -> Result<Reply, String> {
    let process = Process::start(&town.site, "mirror-a").unwrap();
    town.processes.insert("mirror-a", process);
    town.ask("mirror-a", Command::Add { name: None, id: None, spec })
}

/// The disks may have been used for something else since the mirror ended.
#[test]
fn a_leg_that_was_replaced_is_not_the_source_of_the_old_line_and_no_other_one_is_chosen() {
    let mut town = Town::new(1, true);
    after_a_change(&mut town);
    let refused = add(&mut town, mirror_of(["/a", "/b"])).unwrap_err();
    assert!(refused.starts_with("/a: it is not up to date (up to date: /c, /b); "), "{refused}");
    assert!(refused.contains("--source"), "{refused}");
    add(&mut town, DeviceSpec { source: Some(1), ..mirror_of(["/a", "/b"]) }).unwrap();
}

/// A town whose mirror of /a and /b has got /c and /c0 instead, and has ended. Another mirror of
/// these legs has been made by force, and has ended in sync.
fn after_another(legs: [&str; 2]) -> Town {
    let mut town = Town::new(1, true);
    let steps = [Add(Mirror), Replace(0, 5), Replace(1, 1), Write(Mirror, 3), Del(Mirror, false)];
    steps.into_iter().for_each(|step: Step| act(&mut town, step));
    town.freed.clear();
    let forced = DeviceSpec { source: Some(0), force: true, ..mirror_of(legs) };
    let Ok(Reply::Added { device, .. }) = add(&mut town, forced) else {
        panic!("{:?}", town.log);
    };
    town.ask("mirror-a", Command::Del { devices: vec![device], force: false }).unwrap();
    town
}

#[test]
fn another_mirror_of_a_stale_leg_says_nothing_of_the_other_legs() {
    // It has taken one of the stale legs, and then one as its source.
    for legs in [["/o", "/a"], ["/a", "/o"]] {
        let mut town = after_another(legs);
        let refused = add(&mut town, mirror_of(["/b", "/c"])).unwrap_err();
        let known = "/b: it is not up to date (up to date: /c, /c0); ";
        assert!(refused.starts_with(known), "{legs:?}: {refused}");
        add(&mut town, mirror_of(["/c", "/b"])).unwrap();
    }
}

fn with_log(log: &str, legs: [&str; 2]) -> DeviceSpec {
    let [first, second] = legs;
    let line = format!("0 8 mirror disk 2 {log} 2 2 {first} 0 {second} 0");
    DeviceSpec { table: Table::parse_table(&line).unwrap(), ..Town::spec(Mirror) }
}

/// The life of a mirror of /b and /a with a log, in which /b misses a write, or nothing happens.
fn life(town: &mut Town, log: &str, writes: bool) {
    let Ok(Reply::Added { path, .. }) = add(town, with_log(log, ["/b", "/a"])) else {
        panic!("{:?}", town.log);
    };
    town.added(Mirror, &path).unwrap();
    let process = town.processes.get("mirror-a").unwrap();
    drop(town.site.run(&process.executor, || false));
    if writes {
        act(town, Fail(4, Class::Write, 0));
        act(town, Write(Mirror, 3));
        town.mend();
    }
    act(town, Del(Mirror, false));
}

/// A leg missed a write when the mirror had another log: its first log is still clean.
#[test]
fn the_log_of_an_earlier_mirror_is_not_asked_about_a_later_one() {
    let mut town = Town::new(1, true);
    life(&mut town, "/c0", false);
    life(&mut town, "/c1", true);
    let again = with_log("/c0", ["/b", "/a"]);
    let refused = add(&mut town, again.clone()).unwrap_err();
    let known = "(the record says: /b is stale, /a is up to date; the log says: /b is up to date, \
                 /a is up to date): name the right leg with --source";
    assert!(refused.contains(known), "{refused}");
    add(&mut town, DeviceSpec { source: Some(1), ..again }).unwrap();
    drop(town.site.run(&town.processes["mirror-a"].executor, || false));
    let image = |disk: usize| town.site.disks[disk].disk.borrow().visible();
    assert_eq!(image(4), image(3), "the log has called them equal");
}

/// The log of the kernel, or of an earlier version, is clean and names no legs: others may be
/// there.
#[test]
fn a_named_source_is_not_copied_over_other_content_for_a_log_without_names() {
    let mut town = Town::new(1, true);
    let mut log = town.site.disks[1].disk.borrow().visible();
    let mut bytes = [0; 3 * 512];
    bytes[..9].copy_from_slice(&[0x72, 0x52, 0x69, 0x4D, 2, 0, 0, 0, 4]);
    bytes[1024] = 0x0F;
    log.write(Sector(0), &bytes);
    town.site.put(1, log);
    make_ext4(&town, 3, 0, 1);
    make_ext4(&town, 4, 0, 2);
    let named = DeviceSpec { source: Some(1), ..with_log("/c0", ["/b", "/a"]) };
    let why = add(&mut town, named).unwrap_err();
    assert!(why.contains("/b: holds ext4"), "{why}");
}

/// After a restart of the machine the log alone knows which leg is up to date.
#[test]
fn a_source_that_the_log_has_as_stale_is_taken_by_force_alone() {
    for first in ["/b", "/o"] {
        let named = |source, force| DeviceSpec {
            source: Some(source),
            force,
            ..with_log("/c0", [first, "/a"])
        };
        let mut town = Town::new(1, true);
        life(&mut town, "/c0", true);
        town.site.files(Files::reboot);
        let refused = add(&mut town, named(0, false)).unwrap_err();
        let known = format!("{first}: the log does not have it as up to date (up to date: /a); ");
        assert!(refused.starts_with(&known) && refused.contains("--force"), "{refused}");
        let Ok(Reply::Added { device, .. }) = add(&mut town, named(1, false)) else {
            panic!("{:?}", town.log);
        };
        town.ask("mirror-a", Command::Del { devices: vec![device], force: false }).unwrap();
        add(&mut town, named(0, true)).unwrap();
    }
}

/// With the record of the ended mirror, another source than the first leg is taken only if the log
/// can confirm it; without, the log's word counts.
#[test]
fn a_word_that_leaves_the_log_out_is_refused_while_the_first_leg_is_on_record_as_stale() {
    for (word, reboots, is_added) in [
        ("", false, true),
        ("sync", false, false),
        ("nosync", false, false),
        ("", true, true),
        ("sync", true, true),
        ("nosync", true, true),
    ] {
        let mut town = Town::new(1, true);
        life(&mut town, "/c0", true);
        if reboots {
            town.site.files(Files::reboot);
        }
        let count = if word.is_empty() { 2 } else { 3 };
        let line = format!("0 8 mirror disk {count} /c0 2 {word} 2 /b 0 /a 0");
        let table = Table::parse_table(&line).unwrap();
        let added = add(&mut town, DeviceSpec { table, ..Town::spec(Mirror) });
        assert_eq!(added.is_ok(), is_added, "{word} {reboots}: {added:?}");
    }
}

/// The log has the first leg as stale: the user is told that the recovery goes the other way.
#[test]
fn a_first_leg_that_the_log_has_as_stale_is_told_of_when_it_is_added() {
    let noted = |spec: DeviceSpec, misses: bool| {
        let mut town = Town::new(1, true);
        life(&mut town, "/c0", misses);
        town.site.files(Files::reboot);
        match add(&mut town, spec) {
            Ok(Reply::Added { note, .. }) => note,
            other => panic!("{other:?}: {:?}", town.log),
        }
    };
    let told = Some("not up to date by the log: /b; recovered from /a".to_owned());
    let stale_first = || with_log("/c0", ["/b", "/a"]);
    assert_eq!(noted(stale_first(), true), told);
    assert_eq!(noted(stale_first(), false), None);
    assert_eq!(noted(with_log("/c0", ["/a", "/b"]), true), None);
    assert_eq!(noted(DeviceSpec { source: Some(1), ..stale_first() }, true), None);
}

#[cfg(feature = "mutants")]
#[test]
fn a_source_that_the_log_is_not_asked_about_is_noticed() {
    use crate::server::admin::mutant::{self, Mutant};
    mutant::set(Some(Mutant::LogUnasked));
    let lived =
        std::panic::catch_unwind(a_source_that_the_log_has_as_stale_is_taken_by_force_alone);
    mutant::set(None);
    assert!(lived.is_err(), "nothing is noticed");
}

#[cfg(feature = "mutants")]
#[test]
fn every_mutant_of_ended_mirrors_is_killed() {
    use dm_targets::mutant::{self, Mutant};
    for mutant in [Mutant::EndedLegsErased, Mutant::EndedLegsTakenOver, Mutant::EndedLegsTrusted] {
        mutant::set(Some(mutant));
        let lived = std::panic::catch_unwind(|| {
            a_leg_that_was_replaced_is_not_the_source_of_the_old_line_and_no_other_one_is_chosen();
            another_mirror_of_a_stale_leg_says_nothing_of_the_other_legs();
        });
        mutant::set(None);
        assert!(lived.is_err(), "not noticed: {mutant:?}");
    }
}

#[test]
fn stale_legs_alone_are_refused_and_the_user_may_insist() {
    let mut town = Town::new(1, true);
    after_a_change(&mut town);
    let refused = add(&mut town, mirror_of(["/a", "/o"])).unwrap_err();
    assert!(refused.contains("--source") && refused.contains("/b"), "{refused}");
    let named = |force| DeviceSpec { source: Some(0), force, ..mirror_of(["/a", "/o"]) };
    let refused = add(&mut town, named(false)).unwrap_err();
    assert!(refused.starts_with("/a: it is not up to date"), "{refused}");
    add(&mut town, named(true)).unwrap();
}

/// A mirror of /o and /c0 that runs. One of /a and /b has ended before, in which /a missed writes.
fn beside_an_ended_one() -> Town {
    let mut town = Town::new(1, true);
    let steps = [Add(Mirror), Fail(3, Class::Write, 0), Write(Mirror, 3), Del(Mirror, false)];
    steps.into_iter().for_each(|step: Step| act(&mut town, step));
    town.mend();
    add(&mut town, mirror_of(["/o", "/c0"])).unwrap();
    town
}

fn message(town: &mut Town, words: &[&str]) -> Result<Reply, String> {
    let device = town.state("mirror-a").unwrap().remove(0).device();
    let words = words.iter().map(|word| (*word).to_owned()).collect();
    town.ask("mirror-a", Command::Message { device, words, named: Vec::new() })
}

#[test]
fn the_right_leg_of_an_ended_mirror_is_not_overwritten_by_a_message() {
    let mut town = beside_an_ended_one();
    for words in [["add-leg", "/b"].as_slice(), &["replace", "1", "/b"]] {
        let why = message(&mut town, words).expect_err("it is overwritten");
        let parts = ["/b: it is up to date in a mirror that has ended", "/a", "--source"];
        assert!(parts.iter().all(|part| why.contains(part)), "{words:?}: {why}");
        assert_eq!(legs(&town), ["/o", "/c0"]);
    }
    // One that has missed writes may be, and comes back as what this mirror knows.
    message(&mut town, &["add-leg", "/a"]).unwrap();
    message(&mut town, &["remove-leg", "/a"]).unwrap();
    message(&mut town, &["add-leg", "/a"]).unwrap();
    assert_eq!(legs(&town), ["/o", "/c0", "/a"]);
}

fn legs(town: &Town) -> Vec<String> {
    town.state("mirror-a").unwrap().remove(0).spec.table.params.devices()
}

#[test]
fn nor_by_another_table() {
    let mut town = beside_an_ended_one();
    let load = |town: &mut Town, spec: DeviceSpec| {
        let device = town.state("mirror-a").unwrap().remove(0).device();
        town.ask("mirror-a", Command::Load { device, spec }).unwrap();
        town.ask("mirror-a", Command::Resume { device })
    };
    let why = load(&mut town, mirror_of(["/o", "/b"])).expect_err("it is overwritten");
    assert!(why.contains("/b: it is up to date in a mirror that has ended"), "{why}");
    assert_eq!(legs(&town), ["/o", "/c0"]);
    load(&mut town, DeviceSpec { source: Some(0), ..mirror_of(["/o", "/b"]) }).unwrap();
    assert_eq!(legs(&town), ["/o", "/b"], "its user insists");
}

/// A mirror of the right leg takes the stale one back. One of the stale leg, which its user has
/// named as the source, does not take the other: that one has writes that no other disk has.
#[test]
fn the_right_leg_of_an_ended_mirror_takes_the_stale_one_back() {
    for (legs, other, source) in [(["/b", "/c0"], "/a", None), (["/a", "/c0"], "/b", Some(0))] {
        let mut town = beside_an_ended_one();
        let device = town.state("mirror-a").unwrap().remove(0).device();
        town.ask("mirror-a", Command::Del { devices: vec![device], force: false }).unwrap();
        let spec = DeviceSpec { source, force: true, ..mirror_of(legs) };
        add(&mut town, spec).unwrap();
        let taken = message(&mut town, &["add-leg", other]);
        match other {
            "/a" => drop(taken.unwrap()),
            _ => assert!(taken.unwrap_err().contains("would be overwritten")),
        }
    }
}

#[cfg(feature = "mutants")]
#[test]
fn the_mutant_of_ended_legs_in_messages_is_killed() {
    use crate::server::admin::mutant::{self, Mutant};
    mutant::set(Some(Mutant::EndedLegTaken));
    let lived =
        std::panic::catch_unwind(the_right_leg_of_an_ended_mirror_is_not_overwritten_by_a_message);
    mutant::set(None);
    assert!(lived.is_err());
}
