//! SIGTERM to a server while its origin is written: the snapshot, whose number is lower, has missed
//! no write.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use crate::Case;
use crate::disk::{Disk, MIB, slice};
use crate::load::{Rng, StopOnDrop};
use crate::model::{View, resolve, stamped};
use crate::sh::{sh, ublk_dm};
use crate::{server, store};

pub fn cases() -> Vec<Case> {
    vec![Case { name: "ends-sigterm-lower-id", bound_s: 240, disks: &["n0", "n1"], run: lower_id }]
}

const SIZE: u64 = 8 * MIB;
/// Sectors of the snapshot's chunks.
const CHUNK: u64 = 8;
const WRITERS: u64 = 4;
/// The origin's device.
const TOP: &str = "/dev/ublkb1";

/// Opens the origin's device, writes a little and closes it, again and again: at the signal the
/// origin is in use in some rounds and not in others, or opened in between. Ends at `stop`, or with
/// the device.
fn write(view: &View, seed: u64, stop: &AtomicBool, done: &AtomicU64) {
    let mut rng = Rng::new(seed);
    while !stop.load(Ordering::Relaxed) {
        let Ok(disk) = Disk::try_open(TOP, true) else { return };
        for _ in 0..1 + rng.below(3) {
            let (sector, sectors) = rng.range(SIZE, 1, 64);
            let Some(ticket) = view.begin(sector, sectors) else { continue };
            // A write that fails is one that the model takes for possible.
            if disk.try_write(sector, &stamped(ticket)).is_err() {
                return;
            }
            view.end(ticket);
            done.fetch_add(1, Ordering::Relaxed);
        }
        drop(disk);
        thread::sleep(Duration::from_millis(rng.below(40)));
    }
}

/// One round with new devices; returns whether the server left them waiting.
fn round(view: &View, frozen: &View, seed: u64, add: &impl Fn()) -> bool {
    add();
    let pid = server::number("o", "/server_pid");
    let (stop, done) = (AtomicBool::new(false), AtomicU64::new(0));
    let waits = thread::scope(|scope| {
        let _stop = StopOnDrop(&stop);
        let (stop, done) = (&stop, &done);
        for n in 0..WRITERS {
            scope.spawn(move || write(view, seed ^ (n << 48), stop, done));
        }
        server::wait_for(30, "writes", || done.load(Ordering::Relaxed) > 20);
        thread::sleep(Duration::from_millis(Rng::new(seed).below(100)));
        sh(&format!("kill -TERM {pid}")).ok();
        server::wait_gone(pid);
        let waits = !server::list().is_empty();
        if waits {
            server::wait_for(20, "state quiesced", || {
                server::list().iter().all(|device| device["state"] == "quiesced")
            });
            // Its users notice a delay, and write on.
            ublk_dm("recover --all").ok();
            let before = done.load(Ordering::Relaxed);
            server::wait_for(30, "further writes", || done.load(Ordering::Relaxed) > before + 20);
            frozen.verify(&Disk::open("/dev/ublkb0"));
        }
        stop.store(true, Ordering::Relaxed);
        waits
    });
    if waits {
        server::del("--all");
    }
    server::assert_nothing_left("SIGTERM");
    waits
}

fn lower_id(seed: u64) {
    let (origin, cow) = (slice("org", "n0", 0, SIZE), slice("cow", "n1", 0, 2 * SIZE));
    let view = View::new("orig", SIZE);
    view.fill(&Disk::open(&origin));
    let frozen = view.snapshot("none");
    let snapshot =
        format!("snapshot --id 0 --origin {origin} --cow {cow} --chunk-size 4k --name s");
    let add = || {
        assert_eq!(server::add(&snapshot), "/dev/ublkb0");
        assert_eq!(server::add(&format!("origin --id 1 --origin {origin} --name o")), TOP);
    };
    let mut waited = 0;
    for n in 0..6 {
        waited += u64::from(round(&view, &frozen, seed ^ (n << 32), &add));
        let disk = Disk::open(&origin);
        view.put(resolve(&disk, view.open_window(), &view.take_unacknowledged()));
        view.close_window();
        view.verify(&disk);
        drop(disk);
        // All that was overwritten is in the snapshot, whichever of the two has ended first.
        store::assert_header(&Disk::open(&cow), CHUNK, true);
        let again = Disk::open(&server::add(&snapshot));
        frozen.verify(&again);
        drop(again);
        server::del("s");
    }
    println!("  the devices waited for another server after {waited} of 6 signals");
    server::assert_nothing_left("del");
}
