//! Snapshots whose store was on the COW already: the user is told that they are no new ones.

use dm_targets::table::TargetParams;
use dm_targets::units::ChunkSize;

use super::act;
use super::process::Process;
use super::town::{CHUNK, Town, What};
use super::{Step, What::Snap};
use crate::protocol::{Command, DeviceSpec, Reply};

/// The note of an `add` of the town's first snapshot with another chunk size.
fn added(town: &mut Town, chunk: u64) -> Option<String> {
    let mut spec: DeviceSpec = Town::spec(Snap(0));
    if let TargetParams::Snapshot(snapshot) = &mut spec.table.params {
        snapshot.chunk_size = ChunkSize::from_sectors(chunk);
    }
    if !town.processes.contains_key("o") {
        let process = Process::start(&town.site, "o").unwrap();
        town.processes.insert("o", process);
    }
    match town.ask("o", Command::Add { name: None, id: None, spec }) {
        Ok(Reply::Added { note, .. }) => note,
        other => panic!("{other:?}: {:?}", town.log),
    }
}

#[test]
fn a_snapshot_that_is_continued_is_not_taken_for_a_new_one() {
    for (chunk, unused) in [(CHUNK, false), (CHUNK * 2, true)] {
        let mut town = Town::new(1, false);
        assert_eq!(added(&mut Town::new(1, false), CHUNK), None, "a new one");
        town.add(What::Snap(0)).unwrap();
        act(&mut town, Step::Write(What::Snap(0), 1));
        act(&mut town, Step::Del(What::Snap(0), false));
        let note = added(&mut town, chunk).expect("a note");
        assert!(note.contains("continues") && note.contains("zero --to"), "{note}");
        assert_eq!(note.contains("not with 2 KiB"), unused, "{note}");
    }
}

/// As after a merge: nothing of an earlier moment is on it.
#[test]
fn a_snapshot_on_an_empty_store_is_a_new_one() {
    for (chunk, unused) in [(CHUNK, false), (CHUNK * 2, true)] {
        let mut town = Town::new(1, false);
        town.add(What::Snap(0)).unwrap();
        act(&mut town, Step::Del(What::Snap(0), false));
        let note = added(&mut town, chunk).expect("a note");
        assert!(note.contains("it is empty") && !note.contains("continues"), "{note}");
        assert_eq!(note.contains("not with 2 KiB"), unused, "{note}");
    }
}
