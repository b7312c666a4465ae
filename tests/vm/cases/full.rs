//! A COW that is full: both policies, filled by snapshot writes and by origin writes, and
//! stores that end exactly where an area would have to follow.

use crate::Case;
use crate::disk::{Buf, Disk, MIB, slice};
use crate::model::View;
use crate::sh::ublk_dm;
use crate::{kernel, server, store};

pub fn cases() -> Vec<Case> {
    vec![
        Case {
            name: "full-snapshot-write-invalidate",
            bound_s: 60,
            disks: &["n0", "n1"],
            run: |_| snapshot_write("invalidate"),
        },
        Case {
            name: "full-snapshot-write-overflow",
            bound_s: 60,
            disks: &["n0", "n1"],
            run: |_| snapshot_write("overflow"),
        },
        Case {
            name: "full-origin-write-invalidate",
            bound_s: 60,
            disks: &["n0", "n1"],
            run: |_| origin_write("invalidate"),
        },
        Case {
            name: "full-origin-write-overflow",
            bound_s: 60,
            disks: &["n0", "n1"],
            run: |_| origin_write("overflow"),
        },
        Case { name: "full-transient", bound_s: 60, disks: &["n0", "n1"], run: |_| transient() },
        Case { name: "full-exact-fit", bound_s: 120, disks: &["n0", "n1"], run: |_| exact_fit() },
        Case { name: "full-under-load", bound_s: 90, disks: &["n0", "n1", "n2"], run: under_load },
    ]
}

pub const SIZE: u64 = 8 * MIB;
pub const CHUNK: u64 = 8;

/// An origin and a COW with remains of an older store.
pub struct Setup {
    pub origin: String,
    pub cow: String,
    pub view: View,
    /// As the kernel names the policy.
    kind: &'static str,
    pub policy: &'static str,
}

/// A COW of so many chunks.
pub fn setup(policy: &'static str, cow_chunks: u64) -> Setup {
    let origin = slice("org", "n0", 0, SIZE);
    let cow = slice("cow", "n1", 0, cow_chunks * CHUNK);
    let view = View::new("orig", SIZE);
    view.fill(&Disk::open(&origin));
    store::poison(&Disk::open(&cow), CHUNK, 4);
    Setup { origin, cow, view, kind: if policy == "overflow" { "PO" } else { "P" }, policy }
}

impl Setup {
    pub fn add(&self, name: &str) -> Disk {
        let line = "snapshot --chunk-size 4k --origin";
        let path = server::add(&format!(
            "{line} {} --cow {} --on-full {} --name {name}",
            self.origin, self.cow, self.policy
        ));
        Disk::open(&path)
    }

    /// The kernel's status of the store.
    pub fn judged(&self) -> String {
        kernel::snapshot("judge", &self.origin, &self.cow, self.kind, CHUNK);
        let status = kernel::status("judge");
        kernel::remove("judge");
        status
    }

    fn total(&self) -> u64 {
        Disk::open(&self.cow).sectors
    }
}

pub fn assert_status(name: &str, args: &str) {
    let status = server::status(name);
    assert!(
        status == format!("0 {SIZE} snapshot {args}"),
        "status of {name} is {status:?}, should be {args:?}"
    );
}

/// The kernel's own snapshot must refuse all I/O.
pub fn assert_dead(disk: &Disk) {
    assert!(disk.try_read(0, &mut Buf::new(8)).is_err(), "{} is invalid but reads", disk.path);
    assert!(disk.try_write(0, &Buf::new(8)).is_err(), "{} is invalid but takes writes", disk.path);
}

fn snapshot_write(policy: &'static str) {
    let setup = setup(policy, 20); // header, area, 18 chunks of data
    let (snap, disk) = (setup.view.snapshot("snap"), setup.add("s"));
    for chunk in 0..18 {
        // Alternately whole chunks and parts, which need a copy.
        snap.write(&disk, chunk * 3 * CHUNK, if chunk % 2 == 0 { CHUNK } else { 1 });
    }
    assert_status("s", "160/160 16");
    snap.verify(&disk);
    let full = snap.try_write(&disk, 1000 * CHUNK, 2);
    assert!(full.is_err(), "a write to a full COW succeeded");
    if policy == "overflow" {
        assert_status("s", "Overflow");
        assert!(
            server::device("s")["snapshot"]["overflow"] == true,
            "list --json should say overflow"
        );
        snap.verify(&disk);
        // Overflow ends writes altogether, those to copied chunks included.
        assert!(snap.try_write(&disk, 0, 8).is_err(), "an overflowed snapshot took a write");
    } else {
        assert_status("s", "Invalid");
        assert!(
            server::device("s")["snapshot"]["valid"] == false,
            "list --json should say not valid"
        );
        assert_dead(&disk);
    }
    let status = server::status("s");
    drop(disk);
    server::del("s");
    server::assert_nothing_left("del");
    setup.view.verify(&Disk::open(&setup.origin));
    store::assert_header(&Disk::open(&setup.cow), CHUNK, policy == "overflow");
    let judged = setup.judged();
    if policy == "overflow" {
        // Overflow lives in memory only; the store is full and whole.
        assert!(judged.ends_with(" 160/160 16"), "the kernel says {judged:?}");
        let judge = kernel::snapshot("judge", &setup.origin, &setup.cow, "PO", CHUNK);
        snap.verify(&Disk::open(&judge));
        kernel::remove("judge");
    } else {
        assert!(judged == status, "the kernel says {judged:?}, ublk-dm said {status:?}");
        // It stays invalid for every later `add`, which must ask for that.
        let (origin, cow) = (&setup.origin, &setup.cow);
        let line = format!("snapshot --origin {origin} --cow {cow} --name s");
        let said = ublk_dm(&format!("add {line}")).refused();
        assert!(said.code == 1 && said.stderr.contains("is invalid"), "add says {:?}", said.stderr);
        let again = Disk::open(&server::add(&format!("{line} --allow-invalid")));
        assert_status("s", "Invalid");
        assert_dead(&again);
        drop(again);
        server::del("s");
    }
}

fn origin_write(policy: &'static str) {
    let setup = setup(policy, 20);
    let top = Disk::open(&server::add(&format!("origin --origin {} --name o", setup.origin)));
    let (snap, disk) = (setup.view.snapshot("snap"), setup.add("s"));
    for chunk in 0..18 {
        setup.view.write(&top, chunk * 5 * CHUNK + 2, 3);
    }
    assert_status("s", "160/160 16");
    snap.verify(&disk);
    // The origin continues; the snapshot becomes invalid, whatever the policy.
    setup.view.write(&top, 1000 * CHUNK, 17);
    assert_status("s", "Invalid");
    assert_dead(&disk);
    setup.view.write(&top, 1500 * CHUNK, 100);
    setup.view.verify(&top);
    store::assert_header(&Disk::open(&setup.cow), CHUNK, false);
    drop((top, disk));
    let status = server::status("s");
    server::del("s o");
    server::assert_nothing_left("del");
    let judged = setup.judged();
    assert!(judged == status, "the kernel says {judged:?}, ublk-dm said {status:?}");
}

/// A store without metadata: every chunk is data, and when no chunk is left the snapshot becomes
/// invalid, whichever write needed it.
fn transient() {
    for by_origin in [false, true] {
        let setup = setup("invalidate", 20);
        let top = Disk::open(&server::add(&format!("origin --origin {} --name o", setup.origin)));
        let line = format!(
            "snapshot --origin {} --cow {} --chunk-size 4k --store transient --on-full invalidate \
             --name s",
            setup.origin, setup.cow
        );
        let (snap, disk) = (setup.view.snapshot("snap"), Disk::open(&server::add(&line)));
        for chunk in 0..20 {
            match by_origin {
                true => setup.view.write(&top, chunk * 5 * CHUNK + 2, 3),
                false => snap.write(&disk, chunk * 5 * CHUNK + 2, 3),
            }
        }
        assert_status("s", "160/160 0");
        snap.verify(&disk);
        match by_origin {
            true => setup.view.write(&top, 1000 * CHUNK, 9),
            false => assert!(
                snap.try_write(&disk, 1000 * CHUNK, 9).is_err(),
                "a write to a full COW succeeded"
            ),
        }
        assert_status("s", "Invalid");
        assert_dead(&disk);
        setup.view.write(&top, 1500 * CHUNK, 100);
        setup.view.verify(&top);
        drop((top, disk));
        server::del("s o");
        server::assert_nothing_left("del");
        ["cow", "org"].into_iter().for_each(kernel::remove);
    }
}

/// 1 + n * 257 chunks: the last data chunk exists but filling its record's area would need a
/// successor beyond the device. The kernel loses the snapshot here; ublk-dm must not lose it.
fn exact_fit() {
    for stride in [1, 2] {
        let setup = setup("overflow", 1 + stride * 257);
        let (snap, disk) = (setup.view.snapshot("snap"), setup.add("s"));
        let room = stride * 256 - 1;
        for chunk in 0..room {
            snap.write(&disk, chunk * CHUNK, CHUNK);
        }
        assert!(
            snap.try_write(&disk, room * CHUNK, CHUNK).is_err(),
            "the record of exception {room} has no place"
        );
        assert_status("s", "Overflow");
        assert!(
            server::device("s")["snapshot"]["valid"] == true,
            "the snapshot should still be valid"
        );
        snap.verify(&disk);
        drop(disk);
        server::del("s");
        store::assert_header(&Disk::open(&setup.cow), CHUNK, true);
        let judge = kernel::snapshot("judge", &setup.origin, &setup.cow, "PO", CHUNK);
        let (status, total) = (kernel::status("judge"), setup.total());
        let used = (1 + stride + room) * CHUNK; // header, areas, data
        let expected = format!("0 {SIZE} snapshot {used}/{total} {}", (1 + stride) * CHUNK);
        assert!(
            status == expected,
            "{stride} strides: the kernel says {status:?}, should say {expected:?}"
        );
        snap.verify(&Disk::open(&judge));
        kernel::remove("judge");
        // And ublk-dm opens it again, as full as before.
        let disk = setup.add("s");
        snap.verify(&disk);
        assert!(
            snap.try_write(&disk, room * CHUNK, CHUNK).is_err(),
            "a full store took a chunk after re-opening"
        );
        drop(disk);
        server::del("s");
        server::assert_nothing_left("del");
        ["cow", "org"].into_iter().for_each(kernel::remove);
    }
}

/// One of two snapshots runs full under 32 origin writes at once: the other stays exact, the
/// origin sees no error, the header says invalid.
fn under_load(seed: u64) {
    let setup = setup("invalidate", 200);
    let roomy = slice("roomy", "n2", 0, 32 * MIB);
    let top = Disk::open(&server::add(&format!("origin --origin {} --name o", setup.origin)));
    let small = setup.add("s");
    let line =
        format!("snapshot --origin {} --cow {roomy} --chunk-size 16k --name big", setup.origin);
    let (big, frozen) = (Disk::open(&server::add(&line)), setup.view.snapshot("none"));
    let stop = std::sync::atomic::AtomicBool::new(false);
    let plan = crate::load::Plan::depth_32(400, 30);
    crate::load::write(&setup.view, &top, seed, plan, &stop)
        .unwrap_or_else(|why| panic!("seed {seed}: {why}"));
    assert_status("s", "Invalid");
    assert_dead(&small);
    frozen.verify(&big);
    setup.view.verify(&top);
    store::assert_header(&Disk::open(&setup.cow), CHUNK, false);
    drop((top, small, big));
    server::del("s big o");
    server::assert_nothing_left("del");
    let judged = setup.judged();
    assert!(judged.ends_with(" Invalid"), "the kernel says {judged:?}");
}
