//! `del` of a snapshot alone, while its origin's device stays: its user is told that the moment it
//! keeps is lost, or is going to be, and how to keep it; nothing is said where nothing is lost.

use dm_targets::sim::disk::Class;

use super::Step::{self, Add, Fail, Kill, Recover, Use, Write};
use super::What::{Origin, Snap};
use super::act;
use super::town::Town;
use crate::protocol::{Command, Reply};

/// The notes of a `del` of the first snapshot after these steps.
fn notes_after(steps: &[Step]) -> (Town, Vec<String>) {
    let mut town = Town::new(1, true);
    steps.iter().for_each(|step| act(&mut town, *step));
    let devices = vec![town.devices[&Snap(0)].device()];
    let force = !town.processes.contains_key("o");
    let notes = match town.ask("o", Command::Del { devices, force }) {
        Ok(Reply::Deleted) => Vec::new(),
        Ok(Reply::DeletedNoted { notes }) => notes,
        other => panic!("{other:?}"),
    };
    town.strike_gone();
    (town, notes)
}

const BOTH: [Step; 3] = [Add(Origin), Add(Snap(0)), Write(Origin, 3)];

#[test]
fn a_snapshot_whose_origin_is_in_use_is_lost() {
    let (_, notes) = notes_after(&[&BOTH[..], &[Use(Origin, true)]].concat());
    let [note] = &notes[..] else { panic!("{notes:?}") };
    for words in ["its snapshot is lost, because origin0 stays", "`ublk-dm zero --to /c0:0+4096`"] {
        assert!(note.contains(words), "{note}");
    }
}

#[test]
fn a_snapshot_whose_origin_is_unused_can_be_added_until_the_next_write() {
    for written in [false, true] {
        let (mut town, notes) = notes_after(&BOTH);
        let [note] = &notes[..] else { panic!("{notes:?}") };
        for words in [
            "its snapshot is lost with the next write to origin0",
            "`ublk-dm create ",
            " --table \"0 8 snapshot /o /c0 P",
        ] {
            assert!(note.contains(words), "{note}");
        }
        // What it says is true.
        if written {
            act(&mut town, Write(Origin, 5));
        }
        assert_eq!(town.add(Snap(0)).is_ok(), !written);
    }
}

#[test]
fn the_server_that_took_both_over_says_so_too() {
    let (_, notes) = notes_after(&[&BOTH[..], &[Kill("o"), Recover]].concat());
    assert_eq!(notes.len(), 1, "{notes:?}");
}

#[test]
fn nothing_is_said_where_nothing_is_lost() {
    let invalid = [&BOTH[..], &[Fail(1, Class::Write, 0), Write(Origin, 5)]].concat();
    for steps in [&[Add(Snap(0))][..], &invalid] {
        let (_, notes) = notes_after(steps);
        assert!(notes.is_empty(), "{notes:?}");
    }
    // The origin's device ends with it, and before it.
    let mut town = Town::new(1, true);
    BOTH.iter().for_each(|step| act(&mut town, *step));
    let devices = [Snap(0), Origin].map(|what| town.devices[&what].device()).to_vec();
    let reply = town.ask("o", Command::Del { devices, force: false });
    assert!(matches!(reply, Ok(Reply::Deleted)), "{reply:?}");
}

/// Without a server, it is the command that says so.
#[test]
fn a_dead_servers_snapshot_is_lost_when_its_origin_stays() {
    use crate::server::admin::left_by_dead_server;
    let mut town = Town::new(1, true);
    BOTH.iter().for_each(|step| act(&mut town, *step));
    town.kill("o");
    let devices = town.state("o").unwrap();
    let is_snapshot = |line: &str| line.contains(" snapshot ");
    let (deleted, staying): (Vec<_>, Vec<_>) =
        devices.into_iter().partition(|device| is_snapshot(&device.spec.table.to_string()));
    for (block, range) in [(0, "/c0:0+4096`"), (16384, "/c0:0+16384`")] {
        let note = left_by_dead_server(&deleted[0], &staying, block).unwrap();
        for words in ["its snapshot is lost, because origin0 stays", range] {
            assert!(note.contains(words), "{note}");
        }
    }
    assert_eq!(left_by_dead_server(&deleted[0], &[], 0), None);
    assert_eq!(left_by_dead_server(&staying[0], &deleted, 0), None);
}
