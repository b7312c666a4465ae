//! The rest of the error matrix: errors that the user gets (of data that was copied before, of
//! flushes, of the origin), errors under a write to the snapshot, and errors while a store is
//! opened or made.

use std::io;

use crate::Case;
use crate::cases::errors::{CHUNK, COW, FLUSHES, Scene, UNREADABLE, assert_logged};
use crate::disk::{Disk, MIB};
use crate::faults::{Fails, Fault};
use crate::sh::ublk_dm;
use crate::{server, store};

pub fn cases() -> Vec<Case> {
    let disks = &["n0", "n1", "n2"];
    vec![
        Case { name: "error-redirected", bound_s: 90, disks, run: |_| redirected() },
        Case { name: "error-of-the-origin", bound_s: 90, disks, run: |_| of_the_origin() },
        Case { name: "error-snapshot-write", bound_s: 150, disks, run: |_| snapshot_writes() },
        Case { name: "error-open", bound_s: 120, disks, run: |_| opening() },
        Case { name: "error-create", bound_s: 120, disks, run: |_| creating() },
    ]
}

/// Everything behind header and first area.
const DATA: Fault = (Fails::All, 2 * CHUNK, 12 * MIB - 2 * CHUNK);

fn assert_eio<T>(what: &str, result: io::Result<T>) {
    match result {
        Err(e) if e.raw_os_error() == Some(libc::EIO) => {}
        Err(e) => panic!("{what} should fail with EIO, failed with {e}"),
        Ok(_) => panic!("{what} should fail with EIO"),
    }
}

fn assert_valid(name: &str) {
    let status = server::status(name);
    assert!(status.contains('/'), "{name} should still be valid, is {status:?}");
}

/// Chunks that have been copied: reads and writes of them get the COW's error, and nothing else
/// happens.
fn redirected() {
    let scene = Scene::new();
    let (snap, disk) = scene.add("persistent");
    for chunk in 0..20 {
        snap.write(&disk, chunk * CHUNK, CHUNK);
        scene.view.write(&scene.top, (100 + chunk) * CHUNK + 1, 3);
    }
    scene.cow.set(&[DATA]);
    for sector in [3 * CHUNK, 100 * CHUNK] {
        assert_eio(
            "a read of a copied chunk",
            disk.try_read(sector, &mut crate::disk::Buf::new(2)),
        );
        assert_eio("a write to a copied chunk", snap.try_write(&disk, sector, 2));
    }
    // Chunks on the origin can still be read, and copied chunks of the origin can be written.
    snap.verify_range(&disk, 1000 * CHUNK, 50);
    scene.view.write(&scene.top, 100 * CHUNK, CHUNK);
    assert_valid("v");
    scene.cow.set(&[FLUSHES]);
    assert_eio("a flush of the snapshot", disk.flush());
    assert_valid("v");
    scene.cow.set(&[]);
    snap.verify(&disk);
    snap.write(&disk, 3 * CHUNK + 1, 2);
    disk.flush().expect("a mended COW takes a flush");
    snap.verify(&disk);
    assert_logged(&["v:", "read at sector 24", "Input/output error"]);
    drop(disk);
    server::del("v");
    scene.finish();
}

/// The origin's own errors reach its users, and cost no snapshot anything.
fn of_the_origin() {
    let scene = Scene::new();
    let (snap, disk) = scene.add("persistent");
    let (start, len) = UNREADABLE;
    scene.origin.set(&[(Fails::Reads, start, len)]);
    assert_eio("a read of the origin", scene.top.try_read(start, &mut crate::disk::Buf::new(8)));
    assert_eio("a read through to the origin", disk.try_read(start, &mut crate::disk::Buf::new(8)));
    assert_valid("v");
    scene.origin.set(&[]);
    scene.view.write(&scene.top, start, CHUNK);
    scene.origin.set(&[(Fails::WritesAndFlushes, start, len)]);
    // Not copied yet: the copy succeeds, the write does not. Copied already: only the write.
    assert_eio("a write to the origin", scene.view.try_write(&scene.top, start + 10 * CHUNK, 3));
    assert_eio("a write to the origin", scene.view.try_write(&scene.top, start, 3));
    assert_eio("a flush of the origin", scene.top.flush());
    assert_valid("v");
    scene.origin.set(&[]);
    snap.verify(&disk);
    // A disk that failed a write may hold either content; here the fault let no write through.
    scene.view.verify(&scene.top);
    assert!(
        server::number("o", "/stats/errors") == 4,
        "the origin should count four errors: {}",
        server::device("o")
    );
    drop(disk);
    server::del("v");
    scene.finish();
}

/// A write to the snapshot under a fault.
struct Write {
    what: &'static str,
    cow: &'static [Fault],
    origin: &'static [Fault],
    sectors: u64,
    /// Largest number of such writes until it fails.
    count: u64,
    /// The record cannot be written: the writer gets the error immediately with FUA, otherwise at
    /// the next flush.
    record: bool,
}

const WHOLE: Write =
    Write { what: "", cow: &[], origin: &[], sectors: CHUNK, count: 1, record: false };
const RECORD: Write = Write { record: true, ..WHOLE };
const UNREADABLE_REST: Write =
    Write { origin: &[(Fails::Reads, UNREADABLE.0, UNREADABLE.1)], sectors: 3, ..WHOLE };
const WRITES: [Write; 8] = [
    Write { what: "of a whole chunk", cow: &[DATA], ..WHOLE },
    Write { what: "of part of a chunk", cow: &[DATA], sectors: 3, ..WHOLE },
    Write { what: "whose rest cannot be read", ..UNREADABLE_REST },
    Write { what: "whose record cannot be written", cow: &[(Fails::All, CHUNK, CHUNK)], ..RECORD },
    Write { what: "whose flush fails", cow: &[FLUSHES], ..RECORD },
    // With chunks of 8 sectors an area has 256 records, and the next one is chunk 258.
    Write {
        what: "that fills an area",
        cow: &[(Fails::All, 258 * CHUNK, CHUNK)],
        count: 256,
        ..RECORD
    },
    Write { what: "to a transient store", cow: &[(Fails::All, 0, COW)], ..WHOLE },
    Write { what: "to a transient store, whose rest cannot be read", ..UNREADABLE_REST },
];

/// A write to the snapshot that cannot be stored: the writer gets an error, the snapshot is
/// invalid, the origin is unaffected.
fn snapshot_writes() {
    let scene = Scene::new();
    let variants = |write: &Write| if write.record { vec![true, false] } else { vec![false] };
    for (write, fua) in
        WRITES.iter().flat_map(|write| variants(write).into_iter().map(move |fua| (write, fua)))
    {
        let Write { what, cow, origin, sectors, count, .. } = *write;
        let kind = if what.contains("transient") { "transient" } else { "persistent" };
        Disk::open(&scene.cow.node).zero(0, 2 * CHUNK);
        let (snap, disk) = scene.add(kind);
        scene.cow.set(cow);
        scene.origin.set(origin);
        let writer = if fua { Disk::open_durable(&disk.path) } else { Disk::open(&disk.path) };
        let failed = (0..count)
            .find_map(|n| snap.try_write(&writer, UNREADABLE.0 + n * CHUNK, sectors).err());
        let last =
            if write.record && !fua { failed.or_else(|| disk.flush().err()) } else { failed };
        drop(writer);
        assert_eio(&format!("a write {what}"), last.map_or(Ok(()), Err));
        let status = server::status("v");
        assert!(status.ends_with(" Invalid"), "after a write {what} the snapshot is {status:?}");
        assert_logged(&["v:", "invalidated", "at sector"]);
        assert_eio(
            "a read of an invalid snapshot",
            disk.try_read(0, &mut crate::disk::Buf::new(8)),
        );
        scene.view.write(&scene.top, UNREADABLE.0 + 2, 20);
        drop(disk);
        server::del("v");
        scene.cow.set(&[]);
        scene.origin.set(&[]);
        if kind == "persistent" {
            store::assert_header(&Disk::open(&scene.cow.node), CHUNK, false);
        }
    }
    scene.finish();
}

/// `add` of a store that cannot be read names the unreadable place and leaves everything unchanged.
fn opening() {
    let scene = Scene::new();
    let (snap, disk) = scene.add("persistent");
    for chunk in 0..300 {
        snap.write(&disk, chunk * CHUNK, CHUNK);
    }
    drop(disk);
    server::del("v");
    for (what, at) in [("header", 0), ("area 0", 1), ("area 1", store::area_chunk(CHUNK, 1))] {
        let before = crate::disk::digest(&Disk::open(&scene.cow.node), 0, 1024 * CHUNK);
        scene.cow.set(&[(Fails::Reads, at * CHUNK, CHUNK)]);
        let out = ublk_dm(&format!("add {}", scene.line("persistent"))).refused();
        let said = out.stderr;
        let sector = format!("at sector {}", at * CHUNK);
        // The start of the disk is examined first, and read as a whole.
        let told = said.contains(&scene.cow.node) && (at <= 1 || said.contains(&sector));
        assert!(told, "{what} is unreadable: {said:?}");
        assert!(server::list().len() == 2, "a refused add left something: {:?}", server::list());
        scene.cow.set(&[]);
        let after = crate::disk::digest(&Disk::open(&scene.cow.node), 0, 1024 * CHUNK);
        assert!(before == after, "{what} is unreadable, and add wrote to the COW");
    }
    let again = Disk::open(&server::add(&scene.line("persistent")));
    snap.verify(&again);
    drop(again);
    server::del("v");
    scene.finish();
}

/// `add` that cannot make a store fails, and leaves no store.
fn creating() {
    let scene = Scene::new();
    let rows: [(&str, &[Fault]); 4] = [
        ("header", &[(Fails::WritesAndFlushes, 0, CHUNK)]),
        ("area 0", &[(Fails::WritesAndFlushes, CHUNK, CHUNK)]),
        ("flush", &[FLUSHES]),
        ("everything", &[(Fails::WritesAndFlushes, 0, COW)]),
    ];
    for (what, faults) in rows {
        scene.cow.set(faults);
        let out = ublk_dm(&format!("add {}", scene.line("persistent"))).refused();
        assert!(
            out.stderr.contains(&scene.cow.node),
            "{what} cannot be written, the message is {:?}",
            out.stderr
        );
        assert!(server::list().len() == 2, "a failed add left something: {:?}", server::list());
        scene.view.write(&scene.top, 77, 100);
        scene.cow.set(&[]);
        let header = Disk::open(&scene.cow.node).read(0, 1);
        assert!(
            header.iter().all(|byte| *byte == 0),
            "{what} cannot be written, but there is a header"
        );
    }
    let (snap, disk) = scene.add("persistent");
    scene.view.write(&scene.top, 70, 100);
    snap.verify(&disk);
    drop(disk);
    server::del("v");
    scene.finish();
}
