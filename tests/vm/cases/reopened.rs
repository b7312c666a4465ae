//! Disks that are closed and opened again, for a merge, for another mirror, or by the next server:
//! what could not be opened again is not closed, and everybody goes on.

use std::fs;
use std::os::unix::fs::symlink;

use super::admin::assert_failed;
use crate::Case;
use crate::disk::{Disk, MIB, slice};
use crate::model::View;
use crate::runner::scratch;
use crate::server;
use crate::sh::{Out, binary, run_args, sh, ublk_dm};

pub fn cases() -> Vec<Case> {
    let case = |name, run| Case { name, bound_s: 90, disks: &["n0", "n1"], run };
    vec![
        case("reopened-turned", |_| turned()),
        case("reopened-detached", |_| detached_cow()),
        case("reopened-detached-leg", |_| detached_leg()),
    ]
}

const SIZE: u64 = 4 * MIB;
const COW: u64 = 2 * MIB;

/// An origin and its snapshot, both written since.
struct Pair {
    origin: String,
    top: String,
    snap: String,
    of_top: View,
    of_snap: View,
}

impl Pair {
    fn with_cow(cow: &str) -> Pair {
        let origin = slice("orig", "n0", 0, SIZE);
        let of_snap = View::new("orig", SIZE);
        of_snap.fill(&Disk::open(&origin));
        let top = server::add(&format!("origin --origin {origin} --name o"));
        let add = format!("snapshot --origin {origin} --cow {cow} --chunk-size 4KiB --name s");
        let snap = server::add(&add);
        let of_top = View::new("orig", SIZE);
        of_top.put(of_snap.cells(0, SIZE));
        of_top.write(&Disk::open(&top), 8, 16);
        Pair { origin, top, snap, of_top, of_snap }
    }

    /// Both answer, and show what they did.
    fn goes_on(&self) {
        self.of_snap.verify(&Disk::open(&self.snap));
        self.of_top.verify(&Disk::open(&self.top));
        assert!(server::list().iter().all(|device| device["state"] == "live"));
    }

    /// The table of a merge from this COW.
    fn merge(&self, cow: &str) -> Out {
        let line = format!("0 {SIZE} snapshot-merge {} {cow} P 8", self.origin);
        run_args(&binary(), &["load", "o", "--table", &line]).ok();
        ublk_dm("resume o")
    }
}

/// The COW's path leads to an older copy of it by now.
fn turned() {
    let [cow, copy] = [("cow", 0), ("copy", COW)].map(|(tag, at)| slice(tag, "n1", at, COW));
    let link = format!("{}/cow", scratch("links"));
    symlink(&cow, &link).expect("a link");
    let pair = Pair::with_cow(&link);
    sh(&format!("dd if={cow} of={copy} bs=1M oflag=direct status=none")).ok();
    pair.of_snap.write(&Disk::open(&pair.snap), 64, 16);
    let turn = |to: &str| {
        fs::remove_file(&link).expect("the link");
        symlink(to, &link).expect("a link");
    };
    turn(&copy);
    let words = [link.as_str(), "another disk is at this path"];
    assert_failed(&ublk_dm("merge s --wait"), &[&words]);
    pair.goes_on();
    assert_failed(&pair.merge(&link), &[&words]);
    pair.goes_on();
    turn(&cow);
    ublk_dm("merge s --wait").ok();
    pair.of_snap.verify(&Disk::open(&pair.top));
    server::del("o");
    server::assert_nothing_left("del");
}

/// A loop device over a new file, which is detached when it is closed.
fn looped(bytes: u64) -> String {
    let file = format!("{}/file", scratch("file"));
    fs::File::create(&file).and_then(|file| file.set_len(bytes)).expect("a file");
    sh(&format!("losetup --find --show {file}")).ok().line()
}

fn detach(node: &str) {
    sh(&format!("losetup -d {node}")).ok();
}

fn detached_cow() {
    let cow = looped(COW << 9);
    let pair = Pair::with_cow(&cow);
    pair.of_snap.write(&Disk::open(&pair.snap), 64, 16);
    detach(&cow);
    let words = [cow.as_str(), "it is detached as soon as it is closed"];
    assert_failed(&ublk_dm("merge s --wait"), &[&words]);
    pair.goes_on();
    assert_failed(&pair.merge(&cow), &[&words]);
    pair.goes_on();
    assert_failed(&ublk_dm("upgrade s"), &[&words]);
    pair.goes_on();
    ublk_dm("del s o").ok();
    server::forget_lost();
    server::assert_nothing_left("del");
    assert!(sh("losetup --all").ok().stdout.is_empty(), "the loop device is still there");
}

fn detached_leg() {
    let (leg, disk) = (looped(SIZE << 9), slice("leg", "n0", 0, SIZE));
    let path = server::add(&format!("mirror --leg {disk} --leg {leg} --force --name m"));
    ublk_dm("wait m --in-sync").ok();
    let view = View::new("orig", SIZE);
    view.fill(&Disk::open(&path));
    detach(&leg);
    let words = [leg.as_str(), "it is detached as soon as it is closed"];
    let other = format!("0 {SIZE} mirror core 1 64 2 {disk} 0 {leg} 0");
    run_args(&binary(), &["load", "m", "--table", &other]).ok();
    assert_failed(&ublk_dm("resume m"), &[&words]);
    assert_failed(&ublk_dm("upgrade m"), &[&words]);
    view.write(&Disk::open(&path), 8, 16);
    view.verify(&Disk::open(&path));
    server::del("m");
    server::assert_nothing_left("del");
}
