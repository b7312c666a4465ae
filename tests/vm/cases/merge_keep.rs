//! `merge --keep`: the snapshot's device fails all I/O while it is merged, and is a snapshot of the
//! merged origin afterwards, whichever server comes to the end; the kernel agrees.

use std::time::Duration;

use serde_json::Value;

use super::merge_command::{kill, pair};
use crate::disk::{Disk, MIB, slice};
use crate::model::View;
use crate::sh::ublk_dm;
use crate::{Case, kernel, server};

pub fn cases() -> Vec<Case> {
    vec![Case { name: "merge-keep", bound_s: 240, disks: &["n0", "n1"], run: keep }]
}

const SIZE: u64 = 16 * MIB;

fn path(name: &str) -> String {
    server::device(name)["block_device"].as_str().expect("a path").to_owned()
}

fn target(name: &str) -> Value {
    server::device(name)["target"].clone()
}

fn merge_of(name: &str) -> Value {
    server::device(name)["snapshot"]["merge"].clone()
}

fn keep(seed: u64) {
    let (origin, cow) = (slice("org", "n0", 0, SIZE), slice("cow", "n1", 0, 2 * SIZE));
    let view = pair(&origin, &cow);
    let (snap, top) = (path("s"), path("o"));
    let open = Disk::open_read_only(&snap);
    for words in ["merge s --keep", "merge s --keep --force"] {
        let said = ublk_dm(words).refused().stderr;
        assert!(said.contains("it cannot be kept then"), "{said}");
    }
    drop(open);
    ublk_dm("merge s --keep --rate 256KiB").ok();
    assert_eq!(merge_of("o")["keep"], true);
    let disk = Disk::open(&top);
    for round in 0..3u64 {
        assert_eq!((path("s"), target("s")), (snap.clone(), Value::from("error")));
        let why = Disk::try_open(&snap, false).and_then(|disk| {
            let mut buf = crate::disk::Buf::new(8);
            disk.try_read(0, &mut buf)
        });
        why.expect_err("it shows nothing while it is merged");
        let said = ublk_dm("resume s").refused().stderr;
        assert!(said.contains("is put in place when the merge has ended"), "{said}");
        view.write(&disk, (seed ^ round) % 1000 * 8, 64);
        view.verify(&disk);
        kill();
        ublk_dm("recover o s").ok();
    }
    // The snapshot's name is that of its merge.
    ublk_dm("merge s --pause").ok();
    kill();
    ublk_dm("recover o s").ok();
    assert!(merge_of("o")["keep"] == true && merge_of("o")["paused"] == true);
    ublk_dm("merge s --resume").ok();
    ublk_dm("merge s --rate 0").ok();
    ublk_dm("merge o --wait").ok();
    assert_eq!(
        (path("s"), target("s"), target("o")),
        (snap.clone(), Value::from("snapshot"), Value::from("snapshot-origin"))
    );
    let kept = view.snapshot("kept");
    used(&view, &kept, &disk, &Disk::open(&snap), seed);
    drop(disk);
    server::del("o s");
    server::assert_nothing_left("del");
    view.verify(&Disk::open(&origin));
    // To the kernel it is a snapshot like any other.
    let node = kernel::create("kkept", &format!("0 {SIZE} snapshot {origin} {cow} P 8"));
    kept.verify(&Disk::open(&node));
    kernel::remove("kkept");
}

/// Both are written, also after an end of the server.
fn used(view: &View, kept: &View, top: &Disk, snap: &Disk, seed: u64) {
    for round in 0..3u64 {
        for at in 0..20 {
            view.write(top, (seed.wrapping_add(at * 37 + round) % 1900) * 8, 32);
        }
        kept.write(snap, (seed ^ round) % 500 * 8, 16);
        view.verify(top);
        kept.verify(snap);
        kill();
        ublk_dm("recover o s").ok();
        std::thread::sleep(Duration::from_millis(100));
        view.verify(top);
        kept.verify(snap);
    }
}
