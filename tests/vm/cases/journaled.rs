//! Snapshot writes whose records are only journaled when they are acknowledged: they outlive the
//! server (I10), a flush and a write of the origin wait for their records, and a journal that
//! belongs to another store is refused.
//!
//! Removing the journal has the effect of a loss of power.

use std::fs;
use std::path::PathBuf;

use crate::Case;
use crate::disk::{Disk, MIB, digest_ends, is_free, slice};
use crate::model::View;
use crate::sh::{self, ublk_dm};
use crate::{ioctl, kernel, server, store};

pub fn cases() -> Vec<Case> {
    let disks = &["n0", "n1"];
    vec![
        Case {
            name: "journaled-recovered",
            bound_s: 120,
            disks,
            run: |_| outlives(After::Recover),
        },
        Case { name: "journaled-added-again", bound_s: 120, disks, run: |_| outlives(After::Add) },
        Case { name: "journaled-deleted", bound_s: 120, disks, run: |_| outlives(After::Delete) },
        Case { name: "journaled-suspended", bound_s: 60, disks, run: |_| suspended() },
        Case { name: "journaled-flushed", bound_s: 120, disks, run: |_| assert!(!flush_loses()) },
        Case { name: "journaled-origin", bound_s: 120, disks, run: |_| assert!(!origin_shows()) },
        Case { name: "journaled-reused", bound_s: 120, disks, run: |_| reused() },
        Case { name: "journaled-misfit", bound_s: 120, disks, run: |_| misfit() },
        Case {
            name: "journaled-mutant-not-journaled",
            bound_s: 120,
            disks,
            run: |_| not_journaled(),
        },
        Case {
            name: "journaled-mutant-flush",
            bound_s: 120,
            disks,
            run: |_| noticed("FlushLeavesJournal", flush_loses),
        },
        Case {
            name: "journaled-mutant-origin",
            bound_s: 120,
            disks,
            run: |_| noticed("JournaledNotAwaited", origin_shows),
        },
    ]
}

const SIZE: u64 = 4 * MIB;
const CHUNK: u64 = 8;
/// Chunks written before the server is killed: few, so that the kill comes before their records are
/// written.
const WRITES: u64 = 24;
/// Attempts until a kill is in time.
const TRIES: u64 = 8;

/// What happens to the dead server's snapshot.
#[derive(Clone, Copy, PartialEq)]
enum After {
    Recover,
    Add,
    Delete,
}

/// A snapshot of a filled origin, and the required content of both.
pub(super) struct Fixture {
    pub(super) origin: String,
    pub(super) cow: String,
    view: View,
    pub(super) frozen: View,
}

impl Fixture {
    fn new() -> Fixture {
        Fixture::on(slice("cow", "n1", 0, 2 * SIZE))
    }

    /// The same with the COW `cow`.
    pub(super) fn on(cow: String) -> Fixture {
        let origin = slice("org", "n0", 0, SIZE);
        let view = View::new("orig", SIZE);
        view.fill(&Disk::open(&origin));
        Disk::open(&cow).zero(0, CHUNK);
        let frozen = view.snapshot("snap");
        Fixture { origin, cow, view, frozen }
    }

    /// Deletes the devices, for another setup.
    fn end(self) {
        server::forget_departed();
        ["cow", "org"].into_iter().for_each(kernel::remove);
    }

    pub(super) fn add(&self, options: &str) -> Disk {
        let (origin, cow) = (&self.origin, &self.cow);
        Disk::open(&server::add(&format!(
            "snapshot --origin {origin} --cow {cow} --chunk-size 4k --name s {options}"
        )))
    }

    /// Writes to the snapshot and kills its server until some records have not reached the COW;
    /// gives the device's disk.
    pub(super) fn killed(&self, options: &str) -> Disk {
        for round in 0..TRIES {
            let disk = self.add(options);
            let pid = server::number("s", "/server_pid");
            let before = store::records(&Disk::open(&self.cow), CHUNK).len();
            // On a slow machine fewer come in time.
            let writes = (WRITES >> round).max(1);
            for n in 0..writes {
                self.frozen.write(
                    &disk,
                    (round * WRITES + n) * CHUNK * 3 % (SIZE - CHUNK),
                    1 + n % CHUNK,
                );
            }
            kill(self, pid);
            if store::records(&Disk::open(&self.cow), CHUNK).len()
                < before + 1 + (writes / 2) as usize
            {
                assert!(journal().is_some(), "there are records that are nowhere");
                return disk;
            }
            drop(disk);
            ublk_dm("del s --force").ok();
        }
        panic!("in {TRIES} tries no server died with a journal");
    }

    fn judge(&self) {
        let judge = kernel::snapshot("judge", &self.origin, &self.cow, "P", CHUNK);
        self.frozen.verify(&Disk::open(&judge));
        kernel::remove("judge");
    }
}

fn kill(fixture: &Fixture, pid: u64) {
    ioctl::kill(pid);
    server::wait_gone(pid);
    // It lets go of its disks a little later.
    for path in [&fixture.origin, &fixture.cow] {
        server::wait_for(20, &format!("{path} to be released"), || is_free(path));
    }
}

/// The journal file, if there is one.
pub(super) fn journal() -> Option<PathBuf> {
    let files = fs::read_dir(server::run_dir())
        .expect("a run directory")
        .flatten()
        .map(|entry| entry.path());
    files.into_iter().find(|path| path.extension().is_some_and(|end| end == "records"))
}

fn outlives(after: After) {
    let fixture = Fixture::new();
    let disk = fixture.killed("");
    let disk = match after {
        After::Recover => {
            server::wait_for(20, "state quiesced", || server::device("s")["state"] == "quiesced");
            ublk_dm("recover s").ok();
            disk
        }
        After::Add => {
            drop(disk);
            // The COW is in use, so deleting the device cannot write the records to it.
            kernel::create("hold", &format!("0 {} linear {} 0", 2 * SIZE, fixture.cow));
            let said = ublk_dm("del s --force").refused().stderr;
            assert!(said.contains("not on its COW yet"), "said {said:?}");
            kernel::remove("hold");
            assert!(journal().is_some(), "the journal is kept");
            fixture.add("")
        }
        After::Delete => {
            drop(disk);
            ublk_dm("del s --force").ok();
            server::assert_nothing_left("del --force");
            return fixture.judge();
        }
    };
    fixture.frozen.verify(&disk);
    drop(disk);
    server::del("s");
    server::assert_nothing_left("del");
    fixture.judge();
}

/// A suspended snapshot is complete on its COW.
fn suspended() {
    let fixture = Fixture::new();
    let disk = fixture.add("");
    for n in 0..WRITES {
        fixture.frozen.write(&disk, n * CHUNK * 5, 3);
    }
    ublk_dm("suspend s").ok();
    let records = store::records(&Disk::open_read_only(&fixture.cow), CHUNK);
    assert!(records.len() as u64 == WRITES, "{} records of {WRITES}", records.len());
    ublk_dm("resume s").ok();
    fixture.frozen.verify(&disk);
    drop(disk);
    server::del("s");
}

/// Whether a flushed write is lost with the journal.
fn flush_loses() -> bool {
    let fixture = Fixture::new();
    let disk = fixture.add("--no-recovery");
    let pid = server::number("s", "/server_pid");
    for n in 0..WRITES {
        fixture.frozen.write(&disk, n * CHUNK * 2 + n % 3, 2);
    }
    disk.flush().expect("a flush");
    kill(&fixture, pid);
    drop(disk);
    lose_power();
    let judge = kernel::snapshot("judge", &fixture.origin, &fixture.cow, "P", CHUNK);
    let lost = fixture.frozen.differs(&Disk::open(&judge));
    kernel::remove("judge");
    fixture.end();
    lost
}

/// Whether a snapshot shows data that was written to the origin, in a chunk of its own that was
/// only journaled.
fn origin_shows() -> bool {
    let fixture = Fixture::new();
    let disk = fixture.add("--no-recovery");
    let top = Disk::open(&server::add(&format!(
        "origin --origin {} --name o --no-recovery",
        fixture.origin
    )));
    let pid = server::number("s", "/server_pid");
    for n in 0..WRITES {
        fixture.frozen.write(&disk, n * CHUNK * 2, CHUNK);
        fixture.view.write(&top, n * CHUNK * 2, CHUNK);
    }
    kill(&fixture, pid);
    drop((disk, top));
    lose_power();
    let judge = kernel::snapshot("judge", &fixture.origin, &fixture.cow, "P", CHUNK);
    // Every record had to be there before the origin was written.
    let shows = fixture.frozen.differs(&Disk::open(&judge));
    kernel::remove("judge");
    fixture.end();
    shows
}

fn lose_power() {
    if let Some(path) = journal() {
        fs::remove_file(path).expect("removable");
    }
    ublk_dm("del --all --force").ok();
    server::assert_nothing_left("del --force");
}

/// Another program has continued with the COW: no part of the journal is used, and the COW is not
/// changed.
fn misfit() {
    let fixture = Fixture::new();
    drop(fixture.killed("--no-recovery"));
    let judge = kernel::snapshot("judge", &fixture.origin, &fixture.cow, "P", CHUNK);
    ublk_dm("del s --force").refused();
    let other = Disk::open(&judge);
    for n in 0..4 * WRITES {
        fixture.view.snapshot("kern").write(&other, SIZE - (n + 1) * CHUNK, CHUNK);
    }
    drop(other);
    kernel::remove("judge");
    let before = digest_ends(&fixture.cow);
    let add = format!(
        "add snapshot --origin {} --cow {} --chunk-size 4k --name s",
        fixture.origin, fixture.cow
    );
    let refused = ublk_dm(&add).refused();
    let path = journal().expect("the journal is kept");
    let said = refused.stderr.trim();
    assert!(
        said.contains("not recorded") && said.contains(path.to_str().expect("ASCII")),
        "said {said:?}"
    );
    assert!(digest_ends(&fixture.cow) == before, "the COW was changed");
    fs::remove_file(path).expect("removable");
    server::assert_nothing_left("a refused add");
    ublk_dm(&add).ok();
    server::del("s");
}

/// The COW now holds other data, which begins with zeroes as most data does: it is not changed, nor
/// is a store with fewer records than the journal counts.
fn reused() {
    let fixture = Fixture::new();
    let older = Disk::open(&fixture.cow).read(0, 64);
    let disk = fixture.add("");
    fixture.frozen.write(&disk, SIZE - CHUNK, CHUNK);
    drop(disk);
    server::del("s");
    drop(fixture.killed(""));
    server::wait_for(20, "state quiesced", || server::device("s")["state"] == "quiesced");
    let mut other = crate::disk::Buf::new(64);
    other[1024..3000].fill(0x5a);
    let cow = Disk::open(&fixture.cow);
    cow.zero(0, 64);
    store::forge(&cow, CHUNK, 0, |at| at);
    let forged = cow.read(0, 64);
    for content in [&other, &older, &forged] {
        cow.write(0, content);
        let before = digest_ends(&fixture.cow);
        ublk_dm("recover s").refused();
        assert!(digest_ends(&fixture.cow) == before, "recover wrote to a COW that is none");
    }
    cow.write(0, &other);
    drop(cow);
    let before = digest_ends(&fixture.cow);
    ublk_dm("del s --force").refused();
    assert!(digest_ends(&fixture.cow) == before, "del --force wrote to a disk that is no COW");
    fs::remove_file(journal().expect("the journal is kept")).expect("removable");
    server::assert_nothing_left("del --force");
}

/// Without a journal an acknowledged write is lost with its server.
fn not_journaled() {
    sh::use_mutant("NotJournaled");
    let fixture = Fixture::new();
    for round in 0..TRIES {
        let disk = fixture.add("--no-recovery");
        let pid = server::number("s", "/server_pid");
        (0..WRITES).for_each(|n| fixture.frozen.write(&disk, (round * WRITES + n) * CHUNK, CHUNK));
        kill(&fixture, pid);
        drop(disk);
        ublk_dm("del s --force").ok();
        let disk = fixture.add("--no-recovery");
        let lost = fixture.frozen.differs(&disk);
        drop(disk);
        server::del("s");
        if lost {
            return;
        }
    }
    panic!("the missing journal is not noticed");
}

fn noticed(mutant: &'static str, broken: fn() -> bool) {
    sh::use_mutant(mutant);
    // Its records may have been written before the kill.
    assert!((0..TRIES).any(|_| broken()), "{mutant} is not noticed");
}
