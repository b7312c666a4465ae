//! Families of which one device cannot be taken over: the rest is recovered, and the left-out
//! snapshot is recovered later, unless its origin has changed without it. Then it stays invalid.

use std::fs;

use crate::Case;
use crate::cases::admin::{assert_failed, kill, states};
use crate::disk::{Disk, MIB, slice};
use crate::mirror::{Did, Request};
use crate::model::View;
use crate::runner::scratch;
use crate::server;
use crate::sh::ublk_dm;

pub fn cases() -> Vec<Case> {
    let disks = &["n0", "n1", "n2"];
    vec![
        Case { name: "left-out-comes-back", bound_s: 120, disks, run: |_| comes_back() },
        Case { name: "left-out-lost", bound_s: 120, disks, run: |_| lost() },
        Case { name: "left-out-deleted", bound_s: 120, disks, run: |_| deleted() },
        Case { name: "left-out-no-recovery", bound_s: 120, disks, run: |_| no_recovery() },
    ]
}

const SIZE: u64 = 4 * MIB;
pub const CHUNK: u64 = 8;

/// An origin with an intact snapshot, and one whose COW is a file that can be moved away.
pub struct Stage {
    pub origin: String,
    pub top: String,
    pub sound: String,
    pub bad: String,
    pub cow: String,
    view: View,
    pub frozen: View,
}

impl Stage {
    pub fn new(option: &str) -> Stage {
        let (origin, cow) = (slice("org", "n0", 0, SIZE), slice("cow", "n1", 0, 2 * SIZE));
        let file = format!("{}/bad", scratch("cows"));
        fs::File::create(&file).and_then(|file| file.set_len(16 << 20)).expect("a file");
        let view = View::new("orig", SIZE);
        view.fill(&Disk::open(&origin));
        let frozen = view.snapshot("snap");
        let top = server::add(&format!("origin --origin {origin} --name o"));
        let sound = server::add(&format!(
            "snapshot --origin {origin} --cow {cow} --chunk-size 4k --name sound"
        ));
        let bad = server::add(&format!(
            "snapshot --origin {origin} --cow {file} --chunk-size 4k --name bad {option}"
        ));
        view.write(&Disk::open(&top), 0, CHUNK);
        Stage { origin, top, sound, bad, cow: file, view, frozen }
    }

    pub fn aside(&self) -> String {
        format!("{}.aside", self.cow)
    }

    /// Kills the server and takes the second COW away.
    pub fn break_up(&self) {
        kill("o");
        fs::rename(&self.cow, self.aside()).expect("renamed");
    }

    pub fn put_back(&self) {
        fs::rename(self.aside(), &self.cow).expect("renamed");
    }

    pub fn assert_states(&self, bad: &str) {
        let expected = [("o", "live"), ("sound", "live"), ("bad", bad)];
        let mut expected: Vec<_> =
            expected.iter().map(|(name, state)| (name.to_string(), state.to_string())).collect();
        let mut found = states();
        expected.sort();
        found.sort();
        assert!(found == expected, "states are {found:?}, not {expected:?}");
    }
}

/// Whichever device is named, origin and intact snapshot are recovered, and the other snapshot when
/// its COW is back: its origin has not been written. Reads of it wait until then.
fn comes_back() {
    let stage = Stage::new("");
    for words in ["--all", "o", "sound"] {
        stage.break_up();
        assert_failed(
            &ublk_dm(&format!("recover {words}")),
            &[&["bad: not recovered", &stage.cow]],
        );
        stage.assert_states("quiesced");
        stage.view.verify(&Disk::open(&stage.top));
        stage.frozen.verify(&Disk::open(&stage.sound));
        // A further attempt fails as well, and does not affect the others.
        assert_failed(&ublk_dm("recover --all"), &[&["bad: not recovered", &stage.cow]]);
        assert_failed(&ublk_dm("del bad"), &[&["--force"]]);
        let read = Request::read(&stage.bad, 0, CHUNK);
        assert!(read.did(500) == Did::Held, "a read of what is left out waits");
        stage.put_back();
        ublk_dm("recover bad").ok();
        stage.assert_states("live");
        assert!(read.did(20_000) == Did::Success, "a read that waited goes on");
        stage.frozen.verify(&Disk::open(&stage.bad));
    }
    stage.view.write(&Disk::open(&stage.top), 3 * CHUNK, CHUNK);
    stage.frozen.verify(&Disk::open(&stage.bad));
    server::del("o sound bad");
    server::assert_nothing_left("del");
}

/// The origin is written while a snapshot is left out: that is invalid from then on, for this
/// server, for the next one, and for `add`.
fn lost() {
    for killed_again in [false, true] {
        let stage = Stage::new("");
        stage.break_up();
        assert_failed(&ublk_dm("recover --all"), &[&["bad: not recovered"]]);
        stage.view.write(&Disk::open(&stage.top), 5 * CHUNK, CHUNK);
        stage.frozen.verify(&Disk::open(&stage.sound));
        if killed_again {
            // A server that has not seen the write does not take it for valid either.
            kill("o");
            assert_failed(&ublk_dm("recover --all"), &[&["bad: not recovered"]]);
        }
        stage.put_back();
        assert_failed(
            &ublk_dm("recover --all"),
            &[&["bad: ", "is invalid", "its origin was changed"]],
        );
        let json = server::device("bad");
        let shows = Disk::try_open(&stage.bad, false).is_ok_and(|disk| {
            let mut buf = crate::disk::Buf::new(CHUNK);
            json["state"] == "live" && disk.try_read(5 * CHUNK, &mut buf).is_ok()
        });
        assert!(!shows, "a lost snapshot pretends: {json}");
        stage.frozen.verify(&Disk::open(&stage.sound));
        ublk_dm("del --all --force").ok();
        // Nor is it taken for a valid snapshot later.
        let again = ublk_dm(&format!(
            "add snapshot --origin {} --cow {} --name again",
            stage.origin, stage.cow
        ));
        let valid = again.code == 0 && server::device("again")["snapshot"]["valid"] == true;
        assert!(!valid, "a lost store is taken for a good one");
        ublk_dm("del --all --force");
        // Deleted snapshots are on record when their origin, identified by its name, is written
        // again.
        assert!(server::forget_lost() <= 2, "more records than snapshots");
        fs::remove_file(&stage.cow).expect("removable");
        for name in ["org", "cow"] {
            crate::kernel::remove(name);
        }
        crate::disk::wipe("n1");
    }
}

/// A left-out snapshot can be deleted without effect on the others.
fn deleted() {
    let stage = Stage::new("");
    stage.break_up();
    assert_failed(&ublk_dm("recover --all"), &[&["bad: not recovered"]]);
    let read = Request::read(&stage.bad, 0, CHUNK);
    assert!(read.did(500) == Did::Held, "a read of what is left out waits");
    assert_failed(&ublk_dm("del --force bad"), &[&["bad: deleted", "must not be used again"]]);
    assert!(read.did(20_000) == Did::Eio, "a read of a deleted device fails");
    assert!(states().len() == 2, "{:?}", states());
    stage.view.verify(&Disk::open(&stage.top));
    server::del("--all");
    fs::remove_file(stage.aside()).ok();
    remove_records();
    let lost = server::lost();
    assert!(lost.len() == 1, "that the deleted one is lost is on record: {lost:?}");
    server::forget_lost();
    server::assert_nothing_left("del --all");
}

/// A snapshot without recovery does not keep its origin waiting.
fn no_recovery() {
    let stage = Stage::new("--no-recovery");
    kill("o");
    assert_failed(&ublk_dm("recover --all"), &[&["bad: not recovered", "--no-recovery"]]);
    stage.assert_states("dead");
    stage.view.write(&Disk::open(&stage.top), 5 * CHUNK, CHUNK);
    stage.frozen.verify(&Disk::open(&stage.sound));
    ublk_dm("del --force bad").ok();
    server::del("--all");
    // The dead snapshot is no longer a snapshot of the origin, and is reported as such.
    let again = ublk_dm(&format!(
        "add snapshot --origin {} --cow {} --name again",
        stage.origin, stage.cow
    ));
    let valid = again.code == 0 && server::device("again")["snapshot"]["valid"] == true;
    assert!(!valid, "a snapshot that missed changes of its origin is taken for a good one");
    ublk_dm("del --all --force");
    remove_records();
    server::assert_nothing_left("del --all");
}

/// Removes the journal of a COW that was missing when its device was deleted.
pub fn remove_records() {
    let files =
        fs::read_dir(server::run_dir()).into_iter().flatten().flatten().map(|entry| entry.path());
    let records = files.filter(|path| path.extension().is_some_and(|end| end == "records"));
    records.for_each(|path| fs::remove_file(path).expect("removable"));
}
