//! `list` for people: the columns and the health of devices in every state.

use crate::condition::{Fault, Faulty};
use crate::disk::{Buf, Disk, MIB, slice};
use crate::sh::{sh, ublk_dm};
use crate::{Case, server};

pub fn cases() -> Vec<Case> {
    let disks = &["n0", "n1"];
    vec![Case { name: "list-health", bound_s: 90, disks, run: |_| health() }]
}

/// Sectors of the disks.
const LEN: u64 = 4 * MIB;

/// The words of a device's line.
fn words(name: &str) -> Vec<String> {
    let listed = ublk_dm("list -o name,size,target,used,health --no-headings").ok().stdout;
    let lines = listed.lines().map(|line| line.split_whitespace().map(str::to_owned));
    let mut lines = lines.map(Iterator::collect::<Vec<_>>);
    let line = lines.find(|words| words[0] == name).unwrap_or_else(|| panic!("{name}: {listed}"));
    assert_eq!(line.len(), 5, "{listed}");
    line
}

fn assert_is(name: &str, size: &str, target: &str, used: &str, health: &str) {
    assert_eq!(words(name), [name, size, target, used, health]);
}

fn health() {
    let (origin, cow) = (slice("origin", "n0", 0, LEN), slice("cow", "n1", 0, MIB));
    let legs = [Faulty::new("leg0", "n0", LEN, LEN), Faulty::new("leg1", "n1", LEN, LEN)];
    let size = format!("{}M", LEN / MIB / 2 * (MIB / 1024));
    let path = server::add(&format!("origin --origin {origin} --name o"));
    let options = "--chunk-size 16384 --on-full invalidate --name s";
    server::add(&format!("snapshot --origin {origin} --cow {cow} {options}"));
    let (one, two) = (&legs[0].path, &legs[1].path);
    let mirror = format!("mirror --leg {one} --leg {two} --nosync --name m");
    let mirrored = server::add(&mirror);
    assert_is("o", &size, "snapshot-origin", "-", "ok");
    assert_is("s", &size, "snapshot", "4", "ok");
    assert_is("m", &size, "mirror", "-", "ok");
    let head = ublk_dm("list").ok().stdout;
    let head = head.lines().next().unwrap_or_default().to_owned();
    let columns: Vec<&str> = head.split_whitespace().collect();
    assert_eq!(columns, ["NAME", "DEVICE", "SIZE", "TARGET", "USED%", "HEALTH", "DISKS"]);
    // A COW that is too small, a leg that fails, a server that dies.
    let disk = Disk::open(&path);
    (0..LEN / 64).for_each(|at| disk.write(at * 64, &Buf::new(8)));
    drop(disk);
    assert_eq!(words("s")[4], "invalid");
    ublk_dm("suspend o").ok();
    assert_is("o", &size, "snapshot-origin", "-", "suspended");
    ublk_dm("resume o").ok();
    legs[1].set(Fault::Gone);
    Disk::open(&mirrored).write(0, &Buf::new(8));
    assert_is("m", &size, "mirror", "-", "degraded");
    let pid = server::number("m", "/server_pid");
    sh(&format!("kill -9 {pid}")).ok();
    server::wait_gone(pid);
    server::wait_for(20, "the state quiesced", || words("m")[4] == "quiesced");
    legs[1].heal();
    ublk_dm("recover m").ok();
    for name in ["s", "o", "m"] {
        server::del(name);
    }
    assert_eq!(ublk_dm("list").ok().stdout, "");
    server::forget_ended_legs();
    server::assert_nothing_left("del");
}
