//! Snapshots of a snapshot: one process and one hop for a disk, its snapshots, and theirs.

use super::fio::verify;
use super::stacks::{SIZE, assert_one_server, killed_while_written};
use crate::Case;
use crate::disk::{Disk, digest, slice};
use crate::model::View;
use crate::sh::ublk_dm;
use crate::{kernel, server};

pub fn cases() -> Vec<Case> {
    vec![Case { name: "stack-twice", bound_s: 150, disks: &["n0", "n1", "n2"], run: twice }]
}

/// A disk `m` and a snapshot `s` of it are written, and their server is killed meanwhile; `t` and
/// `u`, snapshots of that snapshot and of `t`, show what there was. The kernel reads the same from
/// the COWs.
fn twice(seed: u64) {
    let disk = slice("disk", "n0", 0, SIZE);
    let cows = [0, 1, 2].map(|at| slice(&format!("cow{at}"), "n1", 2 * SIZE * at, 2 * SIZE));
    let [first, second, third] = &cows;
    let add = |origin: &str, cow: &str, chunk: &str, name: &str| {
        let sizes = format!("--chunk-size {chunk} --name {name}");
        server::add(&format!("snapshot --origin {origin} --cow {cow} {sizes}"))
    };
    let origin = server::add(&format!("origin --origin {disk} --name m"));
    let (old, middle) = (View::new("orig", SIZE), View::new("midd", SIZE));
    old.fill(&Disk::open(&origin));
    let snap = add(&disk, first, "16k", "s");
    middle.fill(&Disk::open(&snap));
    let of_snap = add(&snap, second, "4k", "t");
    let of_that = add("t", third, "64k", "u");
    assert_one_server(&["m", "s", "t", "u"]);
    old.verify(&Disk::open(&origin));
    // The disk: nothing of it is in the snapshots.
    verify(&origin, seed, 512, 1);
    middle.verify(&Disk::open(&of_snap));
    let frozen = View::new("midd", SIZE);
    frozen.put(middle.cells(0, SIZE));
    killed_while_written((&snap, &middle), (&of_snap, &frozen), seed, &["m", "s", "t", "u"]);
    verify(&of_snap, seed, 512, 1);
    frozen.verify(&Disk::open(&of_that));
    let why = ublk_dm("del --force s").refused();
    assert!(why.stderr.contains("t is a snapshot of it"), "{}", why.stderr);
    ublk_dm("merge s").refused();
    let shown = digest(&Disk::open_read_only(&of_snap), 0, SIZE);
    ublk_dm("del --all").ok();
    server::assert_nothing_left("del --all");
    let below = kernel::snapshot("below", &disk, first, "P", 32);
    middle.verify(&Disk::open(&below));
    let judge = kernel::snapshot("judge", &below, second, "P", 8);
    assert!(digest(&Disk::open_read_only(&judge), 0, SIZE) == shown, "another content");
    let upper = kernel::snapshot("upper", &judge, third, "P", 128);
    frozen.verify(&Disk::open(&upper));
    let names = ["upper", "judge", "below", "disk", "cow0", "cow1", "cow2"];
    names.iter().for_each(|name| kernel::remove(name));
}
