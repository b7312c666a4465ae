//! States after a power cut, really opened: `ublk-dm check`, the kernel's snapshot and ublk-dm
//! itself must all show the content that the bytes encode, and ublk-dm must be able to continue.

use crate::cases::powercut::Sample;
use crate::disk::{Buf, Disk, MIB, SECTOR, node, us};
use crate::load::Rng;
use crate::model::{Cell, View};
use crate::power::oracle::{Header, Layout, header, view};
use crate::power::replay::Record;
use crate::sh::ublk_dm;
use crate::{kernel, server};

/// Requests to each device after it was opened again.
const REQUESTS: u64 = 12;

/// The content of a state, device by device.
pub struct Reopened {
    pub origin: Vec<Cell>,
    /// `None` for no store or an invalid store.
    pub cells: Vec<Option<Vec<Cell>>>,
}

impl Reopened {
    pub fn of(record: &Record, layout: &Layout, sample: &Sample) -> Reopened {
        let sectors = layout.origin_sectors();
        let origin = sample.image[..us(sectors)]
            .iter()
            .map(|atom| record.contents.seen(*atom).cell)
            .collect();
        let of = |snapshot| match header(&record.contents, &sample.image, snapshot) {
            Ok(Header::Valid) => {
                let view = view(&record.contents, &sample.image, snapshot, sectors)
                    .expect("judged before");
                Some(view.iter().map(|seen| seen.cell).collect())
            }
            _ => None,
        };
        Reopened { origin, cells: layout.snapshots.iter().map(of).collect() }
    }
}

/// Writes a state to a disk.
pub fn put(record: &Record, sample: &Sample, disk: &str) {
    let disk = Disk::open(&node(disk));
    for (start, atoms) in (0..).step_by(us(MIB)).zip(sample.image.chunks(us(MIB))) {
        let mut buf = Buf::new(atoms.len() as u64);
        for (atom, bytes) in atoms.iter().zip(buf.chunks_exact_mut(us(SECTOR))) {
            bytes.copy_from_slice(record.contents.bytes(*atom));
        }
        disk.write(start, &buf);
    }
}

/// Opens a state with each program, and continues to use it.
pub fn reopen(seed: u64, record: &Record, layout: &Layout, sample: &Sample) {
    put(record, sample, "n2");
    let disk = node("n2");
    let state = Reopened::of(record, layout, sample);
    let position = sample.position;
    let origin = kernel::create("r_org", &format!("0 {} linear {disk} 0", layout.origin_sectors()));
    let top_view = View::with_cells("top9", state.origin);
    let mut views = Vec::new();
    for (n, (snapshot, cells)) in layout.snapshots.iter().zip(state.cells).enumerate() {
        let table = format!("0 {} linear {disk} {}", snapshot.sectors, snapshot.start);
        let (cow, chunk) = (kernel::create(&format!("r_cow{n}"), &table), snapshot.chunk);
        let found = header(&record.contents, &sample.image, snapshot).expect("judged before");
        if found == Header::Absent {
            continue;
        }
        let checked = ublk_dm(&format!("check {cow}"));
        // A store that is marked invalid is found bad, and for no other reason.
        let expected = if cells.is_some() { 0 } else { 3 };
        assert!(
            checked.code == expected,
            "seed {seed}: cut {position}: {}: {}{}",
            checked.what,
            checked.stdout,
            checked.stderr
        );
        let judge = kernel::snapshot("judge", &origin, &cow, "P", chunk);
        let view = cells.map(|cells| View::with_cells(["sna9", "snb9"][n], cells));
        match &view {
            Some(view) => view.verify(&Disk::open(&judge)),
            None => {
                assert!(
                    kernel::status("judge").ends_with(" Invalid"),
                    "the kernel says {:?}",
                    kernel::status("judge")
                )
            }
        }
        kernel::remove("judge");
        views.push((n, cow, chunk, view));
    }
    // A COW with hardly any room would only run full.
    let requests =
        if layout.snapshots.iter().any(|snapshot| snapshot.may_end) { 0 } else { REQUESTS };
    go_on(seed, requests, &origin, &top_view, &views);
    for (_, cow, chunk, view) in &views {
        let judge = kernel::snapshot("judge", &origin, cow, "P", *chunk);
        if let Some(view) = view {
            view.verify(&Disk::open(&judge));
        }
        kernel::remove("judge");
    }
    kernel::remove("r_org");
    (0..layout.snapshots.len()).for_each(|n| kernel::remove(&format!("r_cow{n}")));
}

/// ublk-dm opens the stores, shows the same content, and accepts writes to every device.
fn go_on(
    seed: u64,
    requests: u64,
    origin: &str,
    top_view: &View,
    views: &[(usize, String, u64, Option<View>)],
) {
    let top = Disk::open(&server::add(&format!("origin --origin {origin} --name ro")));
    top_view.verify(&top);
    let mut rng = Rng::new(seed);
    let mut open = Vec::new();
    for (n, cow, _, view) in views {
        // The recorded stores are now on other disks than they were made for.
        let flags = "--allow-invalid --other-origin";
        let disk = Disk::open(&server::add(&format!(
            "snapshot --origin {origin} --cow {cow} {flags} --name rs{n}"
        )));
        match view {
            Some(view) => open.push((view, disk)),
            None => {
                assert!(server::status(&format!("rs{n}")).ends_with(" Invalid"), "{cow} is invalid")
            }
        }
    }
    for _ in 0..requests {
        for (view, disk) in open.iter().map(|(view, disk)| (*view, disk)).chain([(top_view, &top)])
        {
            let (sector, sectors) = rng.range(disk.sectors, 1, 64);
            view.write(disk, sector, sectors);
        }
    }
    open.iter().for_each(|(view, disk)| view.verify(disk));
    top_view.verify(&top);
    drop((open, top));
    server::del("--all");
    server::assert_nothing_left("del --all");
}
