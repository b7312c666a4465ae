//! The boundaries of a store, one by one: its first chunks, the end of an area at the end of the
//! COW, sectors that are no chunk, a COW that grows, bytes after the terminator. The kernel and
//! ublk-dm can open the same stores and report the same.

use crate::Case;
use crate::cases::full::{CHUNK, SIZE, assert_dead, assert_status, setup};
use crate::disk::{self, Disk, MIB, node, slice};
use crate::model::{View, stamped};
use crate::sh::ublk_dm;
use crate::{kernel, server, store};

pub fn cases() -> Vec<Case> {
    let disks = &["n0", "n1"];
    vec![
        Case {
            name: "full-exact-fit-invalidate",
            bound_s: 120,
            disks,
            run: |_| exact_fit_snapshot(),
        },
        Case {
            name: "full-exact-fit-origin-write",
            bound_s: 120,
            disks,
            run: |_| exact_fit_origin(),
        },
        Case { name: "full-one-more-than-exact", bound_s: 120, disks, run: |_| one_more() },
        Case { name: "full-no-successor", bound_s: 60, disks, run: |_| no_successor() },
        Case { name: "full-partial-chunk", bound_s: 60, disks, run: |_| partial_chunk() },
        Case { name: "full-numbers", bound_s: 90, disks, run: |_| numbers() },
        Case { name: "full-grown", bound_s: 90, disks, run: |_| grown() },
        Case { name: "full-stale-tail", bound_s: 60, disks, run: |_| stale_tail() },
    ]
}

/// Exceptions that fit into a COW which ends with the first stride: one less than an area has
/// records.
const ROOM: u64 = 255;

fn take_down() {
    server::del("--all");
    server::assert_nothing_left("del --all");
}

/// With `invalidate` the write that finds no room invalidates the snapshot, and no earlier write
/// does.
fn exact_fit_snapshot() {
    let setup = setup("invalidate", 258);
    let (snap, disk) = (setup.view.snapshot("snap"), setup.add("s"));
    for chunk in 0..ROOM {
        snap.write(&disk, chunk * CHUNK, CHUNK);
    }
    assert_status("s", "2056/2064 16");
    snap.verify(&disk);
    // Existing chunks can still be written.
    snap.write(&disk, 17, 3);
    assert!(
        snap.try_write(&disk, ROOM * CHUNK, 1).is_err(),
        "the record of exception {ROOM} has no place"
    );
    assert_status("s", "Invalid");
    assert_dead(&disk);
    drop(disk);
    take_down();
    store::assert_header(&Disk::open(&setup.cow), CHUNK, false);
    assert!(setup.judged().ends_with(" Invalid"), "the kernel says {:?}", setup.judged());
}

/// The same by writes to the origin, whatever the policy; closed one exception before, the kernel
/// opens it.
fn exact_fit_origin() {
    for policy in ["invalidate", "overflow"] {
        let setup = setup(policy, 258);
        let top = Disk::open(&server::add(&format!("origin --origin {} --name o", setup.origin)));
        let (snap, disk) = (setup.view.snapshot("snap"), setup.add("s"));
        for chunk in 0..ROOM {
            setup.view.write(&top, chunk * 2 * CHUNK + 3, 2);
        }
        assert_status("s", "2056/2064 16");
        snap.verify(&disk);
        drop((top, disk));
        take_down();
        let judge = kernel::snapshot("judge", &setup.origin, &setup.cow, "P", CHUNK);
        snap.verify(&Disk::open(&judge));
        kernel::remove("judge");
        let top = Disk::open(&server::add(&format!("origin --origin {} --name o", setup.origin)));
        let disk = setup.add("s");
        snap.verify(&disk);
        setup.view.write(&top, 1000 * CHUNK, 1);
        assert_status("s", "Invalid");
        assert_dead(&disk);
        setup.view.verify(&top);
        drop((top, disk));
        take_down();
        store::assert_header(&Disk::open(&setup.cow), CHUNK, false);
        ["cow", "org"].into_iter().for_each(kernel::remove);
    }
}

/// With one more chunk there is room for the next area and nothing else: the first area may be
/// filled.
fn one_more() {
    let setup = setup("overflow", 259);
    let (snap, disk) = (setup.view.snapshot("snap"), setup.add("s"));
    for chunk in 0..=ROOM {
        snap.write(&disk, chunk * CHUNK, CHUNK);
    }
    assert_status("s", "2072/2072 24");
    assert!(snap.try_write(&disk, 1000 * CHUNK, CHUNK).is_err(), "there is no chunk left");
    assert_status("s", "Overflow");
    snap.verify(&disk);
    drop(disk);
    take_down();
    let judge = kernel::snapshot("judge", &setup.origin, &setup.cow, "PO", CHUNK);
    assert!(
        kernel::status("judge").ends_with(" 2072/2072 24"),
        "the kernel says {:?}",
        kernel::status("judge")
    );
    snap.verify(&Disk::open(&judge));
    kernel::remove("judge");
    let disk = setup.add("s");
    snap.verify(&disk);
    assert_status("s", "2072/2072 24");
    drop(disk);
    take_down();
}

/// A full last area without a successor: neither side can open it; ublk-dm reports that, and writes
/// nothing.
fn no_successor() {
    let setup = setup("overflow", 258);
    let cow = Disk::open(&setup.cow);
    let records: Vec<_> = (0..=ROOM).map(|n| (n, 2 + n)).collect();
    store::write_area(&cow, CHUNK, 0, &records);
    cow.write_bytes(0, &store::header(store::MAGIC, 1, 1, 8));
    let before = disk::digest(&cow, 0, cow.sectors);
    let line = format!("snapshot --origin {} --cow {} --name s", setup.origin, setup.cow);
    ublk_dm(&format!("add {line}")).refused();
    server::assert_nothing_left("a refused add");
    let checked = ublk_dm(&format!("check {}", setup.cow));
    assert!(checked.code == 3, "`{}` gave {}: {}", checked.what, checked.code, checked.stdout);
    let table = format!("0 {SIZE} snapshot {} {} P {CHUNK}", setup.origin, setup.cow);
    assert!(
        crate::ioctl::dm_create("judge", &table, false).is_err(),
        "the kernel opens what ublk-dm refuses"
    );
    assert!(before == disk::digest(&cow, 0, cow.sectors), "{} was refused and written", setup.cow);
}

/// Sectors at the end that are no chunk are never used.
fn partial_chunk() {
    let view = View::new("orig", SIZE);
    let (origin, cow) = (slice("org", "n0", 0, SIZE), slice("cow", "n1", 0, 20 * CHUNK + 7));
    view.fill(&Disk::open(&origin));
    let raw = Disk::open(&cow);
    raw.write(20 * CHUNK, &Disk::open(&origin).read(0, 7));
    let before = disk::digest(&raw, 20 * CHUNK, 7);
    let path =
        server::add(&format!("snapshot --origin {origin} --cow {cow} --chunk-size 4k --name s"));
    let (snap, disk) = (view.snapshot("snap"), Disk::open(&path));
    for chunk in 0..18 {
        snap.write(&disk, chunk * CHUNK, CHUNK);
    }
    assert!(snap.try_write(&disk, 100 * CHUNK, 1).is_err(), "7 sectors are no chunk");
    snap.verify(&disk);
    drop(disk);
    server::del("s");
    server::assert_nothing_left("del");
    assert!(before == disk::digest(&raw, 20 * CHUNK, 7), "the last sectors of {cow} were written");
    let judge = kernel::snapshot("judge", &origin, &cow, "PO", CHUNK);
    snap.verify(&Disk::open(&judge));
    kernel::remove("judge");
}

/// The status line of an empty store, of one exception, and across the first area, for several
/// chunk sizes; ours and the kernel's.
fn numbers() {
    for (n, chunk) in [1, 8, 16, 32].into_iter().enumerate() {
        let (origin, cow) =
            (slice("org", "n0", 0, SIZE), slice("cow", "n1", n as u64 * 8 * MIB, 4 * MIB));
        let line =
            format!("snapshot --origin {origin} --cow {cow} --chunk-size {} --name s", chunk * 512);
        let path = server::add(&line);
        assert_status("s", &format!("{}/{} {}", 2 * chunk, 4 * MIB, 2 * chunk));
        let (view, disk) = (View::new("snap", SIZE), Disk::open(&path));
        view.write(&disk, 5 * chunk, chunk);
        assert_status("s", &format!("{}/{} {}", 3 * chunk, 4 * MIB, 2 * chunk));
        if chunk == 1 {
            // 32 records an area: two full ones, and the third begun.
            (0..70).for_each(|n| view.write(&disk, 100 + n * 3, 1));
            assert_status("s", &format!("{}/{} {}", 2 + 71 + 2, 4 * MIB, 4));
        }
        drop(disk);
        let status = server::status("s");
        server::del("s");
        let judge = kernel::snapshot("judge", &origin, &cow, "P", chunk);
        assert!(
            kernel::status("judge") == status,
            "the kernel says {:?}, not {status:?}",
            kernel::status("judge")
        );
        view.verify(&Disk::open(&judge));
        ["judge", "cow", "org"].into_iter().for_each(kernel::remove);
    }
    server::assert_nothing_left("del");
}

/// A COW that grows is used at once; one that has overflowed stays so until it is opened again.
fn grown() {
    let setup = setup("overflow", 20);
    let grow =
        |chunks: u64| kernel::swap("cow", &format!("0 {} linear {} 0", chunks * CHUNK, node("n1")));
    let (snap, disk) = (setup.view.snapshot("snap"), setup.add("s"));
    (0..18).for_each(|chunk| snap.write(&disk, chunk * CHUNK, CHUNK));
    assert_status("s", "160/160 16");
    grow(40);
    (18..38).for_each(|chunk| snap.write(&disk, chunk * CHUNK, CHUNK));
    assert_status("s", "320/320 16");
    assert!(snap.try_write(&disk, 38 * CHUNK, CHUNK).is_err(), "a write to a full COW succeeded");
    grow(60);
    assert!(
        snap.try_write(&disk, 38 * CHUNK, CHUNK).is_err(),
        "an overflowed snapshot took a write"
    );
    assert_status("s", "Overflow");
    snap.verify(&disk);
    drop(disk);
    server::del("s");
    let disk = setup.add("s");
    snap.verify(&disk);
    snap.write(&disk, 38 * CHUNK, CHUNK);
    assert_status("s", "328/480 16");
    snap.verify(&disk);
    drop(disk);
    take_down();
    let judge = kernel::snapshot("judge", &setup.origin, &setup.cow, "PO", CHUNK);
    snap.verify(&Disk::open(&judge));
    kernel::remove("judge");
}

/// A record after the terminator, as a torn write of another kernel leaves it, is removed when
/// ublk-dm opens the store: the kernel's own next record would revive it.
fn stale_tail() {
    let setup = setup("overflow", 200);
    let cow = Disk::open(&setup.cow);
    store::write_area(&cow, CHUNK, 0, &[(10, 2), (0, 0), (12, 4)]);
    cow.write_bytes(0, &store::header(store::MAGIC, 1, 1, 8));
    let snap = setup.view.snapshot("snap");
    // The content of chunk 10 is in COW chunk 2; chunk 12 must never show COW chunk 4, which is
    // empty.
    let ticket = snap.begin(10 * CHUNK, CHUNK).expect("no other writer");
    cow.write(2 * CHUNK, &stamped(ticket));
    snap.end(ticket);
    let disk = setup.add("s");
    snap.verify(&disk);
    drop(disk);
    server::del("s");
    let judge = Disk::open(&kernel::snapshot("judge", &setup.origin, &setup.cow, "P", CHUNK));
    assert!(
        kernel::status("judge").ends_with("24/1600 16"),
        "the kernel says {:?}",
        kernel::status("judge")
    );
    snap.write(&judge, 20 * CHUNK, CHUNK);
    drop(judge);
    kernel::remove("judge");
    let judge = Disk::open(&kernel::snapshot("judge", &setup.origin, &setup.cow, "P", CHUNK));
    assert!(
        kernel::status("judge").ends_with("32/1600 16"),
        "the kernel says {:?}",
        kernel::status("judge")
    );
    snap.verify(&judge);
    drop(judge);
    kernel::remove("judge");
}
