//! Disks that depend on a device of the server that would use them: refused immediately, through
//! any layer in between, and nothing has been done; the device below continues to work.

use std::fs;

use crate::Case;
use crate::disk::{Buf, Disk, MIB, digest_ends, slice};
use crate::runner::scratch;
use crate::sh::{Out, binary, run_args, sh, ublk_dm};
use crate::{kernel, server};

pub fn cases() -> Vec<Case> {
    let disks = &["n0", "n1"];
    vec![
        Case { name: "stands-on-itself", bound_s: 120, disks, run: |_| cow_on_its_origin() },
        Case { name: "stands-on-origin-disk", bound_s: 60, disks, run: |_| cow_on_the_disk() },
        Case { name: "stands-on-its-mirror", bound_s: 120, disks, run: |_| leg_on_its_mirror() },
    ]
}

const SIZE: u64 = 64 * MIB;
const FILE: u64 = 8 * MIB;

/// A file system on a disk, mounted, with a file in it.
struct Mounted {
    dir: String,
    file: String,
}

impl Mounted {
    fn on(disk: &str) -> Mounted {
        sh(&format!("mkfs.ext4 -q -F {disk}")).ok();
        let dir = scratch("stands");
        sh(&format!("mount {disk} {dir}")).ok();
        let file = format!("{dir}/file");
        // Written, so that nothing is allocated later.
        sh(&format!("dd if=/dev/zero of={file} bs=1M count={} conv=fsync", (FILE * 512) >> 20))
            .ok();
        Mounted { dir, file }
    }

    fn unmount(self) {
        sh(&format!("umount {}", self.dir)).ok();
    }
}

fn refused(out: Out, words: &[&str]) {
    let said = out.refused();
    assert!(
        said.code == 1 && said.stderr.lines().count() == 1,
        "exit {}: {}",
        said.code,
        said.stderr
    );
    assert!(words.iter().all(|word| said.stderr.contains(word)), "no {words:?} in {}", said.stderr);
}

/// A COW file in the file system on its origin's device; a loop device over it, a mapped device
/// over that, a mirror with such a leg.
fn cow_on_its_origin() {
    let (origin, other) = (slice("org", "n0", 0, SIZE), slice("oth", "n1", 0, FILE));
    let device = server::add(&format!("origin --origin {origin} --name o"));
    let mounted = Mounted::on(&device);
    let file = &mounted.file;
    let before = digest_ends(file);
    let add = |cow: &str, more: &str| {
        ublk_dm(&format!("add snapshot --origin {origin} --cow {cow} --name s {more}"))
    };
    for more in ["", "--force", "--store transient"] {
        refused(add(file, more), &[file, &device, "(o)", "depends on"]);
    }
    let table = format!("0 {SIZE} snapshot {origin} {file} P 8");
    refused(run_args(&binary(), &["create", "s", "--table", &table]), &[file, &device]);
    let looped = sh(&format!("losetup --find --show {file}")).ok().line();
    refused(add(&looped, ""), &[&looped, &device]);
    let mapped = kernel::create("over", &format!("0 {FILE} linear {looped} 0"));
    refused(add(&mapped, ""), &[&mapped, &device]);
    kernel::remove("over");
    assert!(digest_ends(file) == before, "the file was changed");
    Disk::open(&other).zero(0, MIB);
    let mirror = server::add(&format!("mirror --leg {other} --leg {looped} --name m"));
    refused(add(&mirror, ""), &[&mirror, &device]);
    server::del("m");
    sh(&format!("losetup -d {looped}")).ok();
    // The origin continues, also with a COW elsewhere.
    Disk::open(&other).zero(0, MIB);
    add(&other, "").ok();
    fs::write(format!("{}/more", mounted.dir), vec![7; 1 << 20]).expect("writable");
    sh(&format!("sync -f {}", mounted.dir)).ok();
    mounted.unmount();
    server::del("s o");
    server::assert_nothing_left("del");
}

/// The same on the origin's own disk, which `--force` accepts although it is mounted.
fn cow_on_the_disk() {
    let origin = slice("org", "n0", 0, SIZE);
    let mounted = Mounted::on(&origin);
    let before = digest_ends(&mounted.file);
    for force in ["", "--force"] {
        let add = format!("add snapshot --origin {origin} --cow {} --name s {force}", mounted.file);
        refused(ublk_dm(&add), &[&mounted.file, &origin, "depends on"]);
    }
    assert!(digest_ends(&mounted.file) == before, "the file was changed");
    mounted.unmount();
    server::assert_nothing_left("a refused add");
    device_of_the_origin(&origin);
}

/// The device of an origin, by its name and by its path, is no origin of a snapshot.
fn device_of_the_origin(origin: &str) {
    let cow = slice("oth", "n1", 0, FILE);
    let node = server::add(&format!("origin --origin {origin} --name o"));
    for word in ["o", &node] {
        let words = [&node, "o is the device of an origin", origin];
        refused(ublk_dm(&format!("add snapshot --origin {word} --cow {cow} --name s")), &words);
        let line = format!("0 2048 snapshot {word} {cow} P 8");
        refused(run_args(&binary(), &["create", "s", "--table", &line]), &words);
    }
    server::del("o");
    server::assert_nothing_left("a refused add");
}

/// A leg or a log in a file system on the mirror itself, by every command that adds one.
fn leg_on_its_mirror() {
    let (one, two) = (slice("one", "n0", 0, SIZE), slice("two", "n1", 0, SIZE));
    let device = server::add(&format!("mirror --leg {one} --leg {two} --nosync --name m"));
    let mounted = Mounted::on(&device);
    let file = &mounted.file;
    let before = digest_ends(file);
    refused(ublk_dm(&format!("message m add-leg {file}")), &[file, &device, "(m)"]);
    refused(ublk_dm(&format!("message m replace 1 {file}")), &[file, &device]);
    let looped = sh(&format!("losetup --find --show {file}")).ok().line();
    refused(ublk_dm(&format!("message m add-leg {looped}")), &[&looped, &device]);
    let load = |table: &str| run_args(&binary(), &["load", "m", "--table", table]);
    refused(load(&format!("0 {FILE} mirror core 1 1024 2 {one} 0 {file} 0")), &[file, &device]);
    refused(
        load(&format!("0 {SIZE} mirror disk 2 {looped} 1024 2 {one} 0 {two} 0")),
        &[&looped, &device],
    );
    sh(&format!("losetup -d {looped}")).ok();
    assert!(digest_ends(file) == before, "the file was changed");
    fs::write(format!("{}/more", mounted.dir), vec![7; 1 << 20]).expect("writable");
    mounted.unmount();
    Disk::open(&device).write(0, &Buf::new(8));
    server::del("m");
    server::assert_nothing_left("del");
}
