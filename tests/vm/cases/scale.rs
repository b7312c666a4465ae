//! Many and large: 64 devices, 100 snapshots of one origin, an origin of 16 TiB.
//! (One million exceptions: `areas`.)

use crate::Case;
use crate::disk::{Disk, MIB, node, slice};
use crate::load::Rng;
use crate::model::{Ticket, View, compare, stamped};
use crate::{kernel, server};

pub fn cases() -> Vec<Case> {
    vec![
        Case { name: "scale-64-devices", bound_s: 600, disks: &["n0", "n1"], run: |_| devices() },
        Case { name: "scale-100-snapshots", bound_s: 600, disks: &["n0", "n1"], run: snapshots },
        Case { name: "scale-16-tib", bound_s: 120, disks: &["big0", "n1"], run: sixteen_tib },
    ]
}

/// 64 families: each an origin, a snapshot and a process of its own.
fn devices() {
    let size = 2 * MIB;
    let mut all = Vec::new();
    for n in 0..64u64 {
        let (origin, cow) = (
            slice(&format!("o{n}"), "n0", n * 4 * MIB, size),
            slice(&format!("c{n}"), "n1", n * 4 * MIB, 4 * MIB),
        );
        let view = View::new("orig", size);
        let raw = Disk::open(&origin);
        view.write(&raw, n, 40);
        let dev = server::add(&format!(
            "snapshot --origin {origin} --cow {cow} --chunk-size 4k --name d{n}"
        ));
        all.push((Disk::open(&dev), view.snapshot("snap")));
    }
    assert!(
        server::list().len() == 64,
        "64 devices expected, list --json has {}",
        server::list().len()
    );
    for (n, (disk, view)) in all.iter().enumerate() {
        view.write(disk, 17 * n as u64, 50);
    }
    for (disk, view) in &all {
        view.verify(disk);
    }
    drop(all);
    server::del("--all");
    server::assert_nothing_left("del --all of 64 devices");
}

/// Taken at a hundred moments, each with one origin write between: each shows its own.
fn snapshots(seed: u64) {
    let size = 2 * MIB;
    let origin = slice("org", "n0", 0, size);
    let view = View::new("orig", size);
    view.fill(&Disk::open(&origin));
    let top = Disk::open(&server::add(&format!("origin --origin {origin} --name org")));
    let mut rng = Rng::new(seed);
    let mut all = Vec::new();
    for n in 0..100u64 {
        let cow = slice(&format!("c{n}"), "n1", n * 4 * MIB, 4 * MIB);
        let dev = server::add(&format!(
            "snapshot --origin {origin} --cow {cow} --chunk-size 4k --name s{n}"
        ));
        all.push((dev, view.snapshot("none"), cow));
        let (at, len) = rng.range(size, 1, 32);
        view.write(&top, at, len);
    }
    for _ in 0..8 {
        let (at, len) = rng.range(size, 1, 64);
        view.write(&top, at, len);
    }
    for (dev, frozen, _) in all.iter().step_by(9).chain([&all[99]]) {
        frozen.verify(&Disk::open(dev));
    }
    view.verify(&top);
    // The first snapshot has seen all writes; the kernel checks it.
    let status = server::status("s0");
    drop(top);
    server::del("--all");
    server::assert_nothing_left("del --all of 100 snapshots");
    let judge = kernel::snapshot("judge", &origin, &all[0].2, "P", 8);
    assert!(
        kernel::status("judge") == status,
        "seed {seed}: the kernel says {:?}, ublk-dm said {status:?}",
        kernel::status("judge")
    );
    all[0].1.verify(&Disk::open(&judge));
    kernel::remove("judge");
}

fn sixteen_tib(seed: u64) {
    let (origin, cow) = (node("big0"), slice("cow", "n1", 0, 64 * MIB));
    let top = Disk::open(&server::add(&format!("origin --origin {origin} --name org")));
    let dev = server::add(&format!("snapshot --origin {origin} --cow {cow} --name s"));
    let (snap, size) = (Disk::open(&dev), top.sectors);
    assert!(snap.sectors == size, "{dev} has {} sectors, its origin {size}", snap.sectors);
    let mut rng = Rng::new(seed);
    let mut places: Vec<u64> = vec![0, (1 << 32) + 64, (1 << 32) - 3, size - 5, size / 2 - 2];
    places.extend((0..30).map(|_| rng.below(size - 8)));
    let put = |disk: &Disk, name: &[u8; 4], at: u64, n: usize| {
        let cell = (u64::from(u32::from_be_bytes(*name)) << 32) | (n as u64 + 1);
        disk.write(at, &stamped(Ticket { sector: at, sectors: 5, cell }));
        cell
    };
    let check = |disk: &Disk, at: u64, cell: u64| {
        compare(&disk.path, at, &[cell; 5], &disk.read(at, 5))
            .unwrap_or_else(|why| panic!("seed {seed}: {why}"));
    };
    let mut cells = Vec::new();
    for (n, at) in places.iter().enumerate() {
        // In turn the snapshot, the origin, or both are written.
        let on_top = if n % 3 != 0 { put(&top, b"orig", *at, n) } else { 0 };
        let on_snap = if n % 3 != 1 { put(&snap, b"snap", *at, n) } else { 0 };
        cells.push((*at, on_top, on_snap));
    }
    for (at, on_top, on_snap) in &cells {
        check(&top, *at, *on_top);
        check(&snap, *at, *on_snap);
    }
    let status = server::status("s");
    drop((top, snap));
    server::del("s org");
    server::assert_nothing_left("del");
    let judge = Disk::open(&kernel::snapshot("judge", &origin, &cow, "P", 32));
    assert!(
        kernel::status("judge") == status,
        "the kernel says {:?}, ublk-dm said {status:?}",
        kernel::status("judge")
    );
    cells.iter().for_each(|(at, _, on_snap)| check(&judge, *at, *on_snap));
    drop(judge);
    kernel::remove("judge");
}
