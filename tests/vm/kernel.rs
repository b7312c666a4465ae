//! The judge: the kernel's own snapshot targets on the same disks.
//!
//! Only combinations that the kernels under test survive are used (no `discard_zeroes_cow`
//! with small chunks, no COW that is its own origin).

use std::fs;

use crate::disk::Disk;
use crate::ioctl::{
    dm_create, dm_line, dm_load, dm_message, dm_remove, dm_resume, dm_suspend, dm_swap,
};

/// Activates a device with a table of one line or more; returns its node.
pub fn create(name: &str, table: &str) -> String {
    dm_create(name, table, false).unwrap_or_else(|e| panic!("the kernel refuses `{table}`: {e}"))
}

/// Activates `snapshot`; `kind` is `P`, `PO` or `N`.
pub fn snapshot(name: &str, origin: &str, cow: &str, kind: &str, chunk_sectors: u64) -> String {
    let sectors = Disk::open_read_only(origin).sectors;
    create(name, &format!("0 {sectors} snapshot {origin} {cow} {kind} {chunk_sectors}"))
}

/// Activates `snapshot-origin`. Its snapshots must exist already.
pub fn origin(name: &str, origin: &str) -> String {
    let sectors = Disk::open_read_only(origin).sectors;
    create(name, &format!("0 {sectors} snapshot-origin {origin}"))
}

pub fn status(name: &str) -> String {
    dm_line(name, false).unwrap_or_else(|e| panic!("status of {name}: {e}"))
}

pub fn table(name: &str) -> String {
    dm_line(name, true).unwrap_or_else(|e| panic!("table of {name}: {e}"))
}

pub fn remove(name: &str) {
    dm_remove(name).unwrap_or_else(|e| panic!("the kernel cannot remove {name}: {e}"));
}

/// Puts another table under a device, even if it is in use.
pub fn swap(name: &str, table: &str) {
    dm_swap(name, table).unwrap_or_else(|e| panic!("the kernel refuses `{table}` for {name}: {e}"));
}

/// Sends a message to a device's first target.
pub fn message(name: &str, text: &str) {
    dm_message(name, text).unwrap_or_else(|e| panic!("message `{text}` to {name}: {e}"));
}

/// An attribute of a device's queue.
pub fn queue(node: &str, attribute: &str) -> String {
    let path = format!("/sys/class/block/{}/queue/{attribute}", node.trim_start_matches("/dev/"));
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}")).trim().to_string()
}

/// The names of all device-mapper devices.
pub fn names() -> Vec<String> {
    let devices = fs::read_dir("/sys/block").expect("/sys/block").flatten();
    devices
        .filter_map(|d| fs::read_to_string(d.path().join("dm/name")).ok())
        .map(|n| n.trim().to_string())
        .collect()
}

/// Suspends a device; with `noflush` requests that its target holds wait for the next table, else
/// they fail.
pub fn suspend(name: &str, noflush: bool) {
    dm_suspend(name, noflush).unwrap_or_else(|e| panic!("the kernel cannot suspend {name}: {e}"));
}

/// Loads a table, for the next `resume`.
pub fn load(name: &str, table: &str) {
    dm_load(name, table).unwrap_or_else(|e| panic!("the kernel refuses `{table}`: {e}"));
}

pub fn resume(name: &str) {
    dm_resume(name).unwrap_or_else(|e| panic!("the kernel cannot resume {name}: {e}"));
}

/// Ends the held requests of a device with errors: the kernel's mirror would hold a write forever,
/// and the waiting process could not even be killed.
pub fn break_off(name: &str) {
    let sectors = dm_line(name, true)
        .ok()
        .and_then(|line| line.split(' ').nth(1)?.parse::<u64>().ok())
        .unwrap_or(8);
    for step in
        [dm_suspend(name, false), dm_load(name, &format!("0 {sectors} error")), dm_resume(name)]
    {
        step.ok(); // half of this may already have been done
    }
}
