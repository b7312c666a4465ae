//! The judge: the kernel's own snapshot targets on the same disks.
//!
//! Only combinations that the kernels under test survive are used (no `discard_zeroes_cow`
//! with small chunks, no COW that is its own origin).

use crate::disk::Disk;
use crate::sh::{run_args, sh};

/// Sectors of a device.
fn sectors(path: &str) -> u64 {
    Disk::open_read_only(path).sectors
}

/// Activates `snapshot`; `kind` is `P`, `PO` or `N`. Returns its node.
pub fn snapshot(name: &str, origin: &str, cow: &str, kind: &str, chunk_sectors: u64) -> String {
    let table = format!("0 {} snapshot {origin} {cow} {kind} {chunk_sectors}", sectors(origin));
    run_args("dmsetup", &["create", name, "--table", &table]).ok();
    format!("/dev/mapper/{name}")
}

/// Activates `snapshot-origin`. Its snapshots must exist already.
pub fn origin(name: &str, origin: &str) -> String {
    let table = format!("0 {} snapshot-origin {origin}", sectors(origin));
    run_args("dmsetup", &["create", name, "--table", &table]).ok();
    format!("/dev/mapper/{name}")
}

pub fn status(name: &str) -> String {
    sh(&format!("dmsetup status {name}")).ok().stdout.trim_end().to_string()
}

pub fn table(name: &str) -> String {
    sh(&format!("dmsetup table {name}")).ok().stdout.trim_end().to_string()
}

pub fn remove(name: &str) {
    sh(&format!("dmsetup remove --retry {name}")).ok();
}
