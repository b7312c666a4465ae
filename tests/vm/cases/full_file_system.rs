//! A COW that is a sparse file in a file system that fills up: it is full before its end, and that
//! is as with any full COW.

use std::fs;

use crate::Case;
use crate::cases::full::{CHUNK, SIZE, assert_dead, assert_status};
use crate::disk::{Disk, MIB, SECTOR, slice};
use crate::model::View;
use crate::runner::scratch;
use crate::sh::{sh, ublk_dm};
use crate::{kernel, server, store};

pub fn cases() -> Vec<Case> {
    vec![Case {
        name: "full-file-system",
        bound_s: 240,
        disks: &["n0", "n1"],
        run: |_| file_system(),
    }]
}

/// What a ballast leaves of the file system, in bytes: more than one area has records.
const LEFT: u64 = 1536 << 10;

/// A file system with a sparse COW, and the devices.
struct Stage {
    dir: String,
    origin: String,
    cow: String,
}

impl Stage {
    fn new() -> Stage {
        let disk = slice("fs", "n1", 0, 32 * MIB);
        sh(&format!("mkfs.ext4 -q -F -b 4096 -m 0 {disk}")).ok();
        let dir = scratch("full");
        sh(&format!("mount {disk} {dir}")).ok();
        let cow = format!("{dir}/cow");
        // Longer than all of the file system.
        sh(&format!("truncate -s 64M {cow}")).ok();
        Stage { dir, origin: slice("org", "n0", 0, SIZE), cow }
    }

    fn line(&self) -> String {
        format!("snapshot --origin {} --cow {} --chunk-size 4k --name s", self.origin, self.cow)
    }

    /// The snapshot's device and its origin's, in this order: no write is missing from the
    /// snapshot.
    fn add(&self) -> (Disk, Disk) {
        let snapshot = Disk::open(&server::add(&self.line()));
        let top = server::add(&format!("origin --origin {} --name o", self.origin));
        (snapshot, Disk::open(&top))
    }

    /// Another file takes the space of the file system but for [`LEFT`].
    fn fill_up(&self) {
        sh("sync").ok();
        let free = sh(&format!("stat -f -c %a {}", self.dir)).ok().line();
        let bytes = free.parse::<u64>().expect("a number") * 4096 - LEFT;
        sh(&format!("fallocate -l {bytes} {}/ballast", self.dir)).ok();
    }

    fn make_room(&self) {
        fs::remove_file(format!("{}/ballast", self.dir)).expect("removable");
        sh("sync").ok();
    }
}

/// Writes through the snapshot, from chunk `first` on, until one fails: whole chunks, and parts,
/// which need a copy. Returns the chunk whose write failed.
fn write_until_full(snap: &View, disk: &Disk, first: u64) -> u64 {
    for chunk in first..SIZE / CHUNK {
        let (at, sectors) = if chunk % 2 == 0 { (0, CHUNK) } else { (3, 2) };
        if let Err(error) = snap.try_write(disk, chunk * CHUNK + at, sectors) {
            println!("  after {} chunks: {error}", chunk - first);
            let errno = error.raw_os_error();
            assert!(matches!(errno, Some(libc::ENOSPC | libc::EIO)), "an unusual error: {error}");
            return chunk;
        }
    }
    panic!("the file system does not fill up");
}

fn assert_overflow(snap: &View, disk: &Disk) {
    assert_status("s", "Overflow");
    let said = server::device("s");
    assert!(
        said["snapshot"]["overflow"] == true && said["snapshot"]["valid"] == true,
        "an overflow loses nothing: {said}"
    );
    assert_eq!(said["health"], "overflow");
    snap.verify(disk);
}

fn file_system() {
    let stage = Stage::new();
    let view = View::new("orig", SIZE);
    view.fill(&Disk::open(&stage.origin));
    let (disk, top) = stage.add();
    let snap = view.snapshot("snap");
    stage.fill_up();
    // What is copied for the origin takes space as well.
    (0..100).for_each(|chunk| view.write(&top, chunk * CHUNK + 1, 3));
    let full = write_until_full(&snap, &disk, 100);
    assert_overflow(&snap, &disk);
    // Chunks that have been copied are not copied again: the origin's writes lose nothing.
    (0..100).for_each(|chunk| view.write(&top, chunk * CHUNK, CHUNK));
    assert!(snap.try_write(&disk, 0, CHUNK).is_err(), "an overflowed snapshot took a write");
    assert_overflow(&snap, &disk);
    // With room, and opened again, it takes writes.
    drop((disk, top));
    server::del("o s");
    server::assert_nothing_left("del");
    stage.make_room();
    let (disk, top) = stage.add();
    snap.verify(&disk);
    assert!(server::device("s")["snapshot"]["overflow"] == false, "it was opened again");
    snap.write(&disk, full * CHUNK, CHUNK);
    stage.fill_up();
    let full = write_until_full(&snap, &disk, full + 1);
    assert_overflow(&snap, &disk);
    lost(&stage, &view, (disk, top), full);
}

/// A write of the origin that must be copied first finds no space: it succeeds, and the snapshot
/// is invalid.
fn lost(stage: &Stage, view: &View, (disk, top): (Disk, Disk), full: u64) {
    // The last chunk that was given up, or one for a record, may still be free.
    let copied = (0..8).find(|n| {
        view.write(&top, (full + n) * CHUNK + 2, 4);
        server::status("s").ends_with(" Invalid")
    });
    assert!(copied.is_some(), "status of s: {}", server::status("s"));
    println!("  invalid after {} writes of the origin", copied.map_or(0, |n| n + 1));
    assert_dead(&disk);
    let log = server::log();
    assert!(log.contains("ERROR s: snapshot invalidated: its COW is full"), "{log}");
    view.write(&top, (full + 100) * CHUNK, 20 * CHUNK);
    view.verify(&top);
    drop((disk, top));
    server::del("o s");
    server::assert_nothing_left("del");
    view.verify(&Disk::open(&stage.origin));
    // The mark needs no space.
    store::assert_header(&Disk::open(&stage.cow), CHUNK, false);
    let said = ublk_dm(&format!("add {}", stage.line())).refused();
    assert!(said.code == 1 && said.stderr.contains("is invalid"), "{}", said.stderr);
    let taken = sh(&format!("stat -c %b {}", stage.cow)).ok().line();
    println!("  the COW takes {} KiB", taken.parse::<u64>().expect("a number") * SECTOR / 1024);
    sh(&format!("umount {}", stage.dir)).ok();
    ["fs", "org"].into_iter().for_each(kernel::remove);
}
