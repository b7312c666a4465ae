//! `rename` and `--uuid`: a device in use gets another name, and keeps its uuid, whatever becomes
//! of its server.

use crate::disk::{Buf, Disk, MIB, slice};
use crate::sh::{Out, binary, run_args, sh, ublk_dm};
use crate::{Case, server};

pub fn cases() -> Vec<Case> {
    let disks = &["n0", "n1"];
    vec![
        Case { name: "rename-in-use", bound_s: 60, disks, run: |_| in_use() },
        Case { name: "rename-uuid", bound_s: 60, disks, run: |_| uuids() },
    ]
}

/// Sectors of the disks.
const LEN: u64 = 4 * MIB;

/// The names and uuids that `list` has.
fn listed() -> Vec<String> {
    let listed = ublk_dm("list -o name,uuid --no-headings").ok().stdout;
    let lines = listed.lines();
    lines.map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
}

/// Runs a command whose table is one word, in quotes.
fn quoted(arguments: &str) -> Out {
    let (before, rest) = arguments.split_once('\'').unwrap_or((arguments, ""));
    let (table, after) = rest.split_once('\'').unwrap_or_default();
    let table = Some(table).filter(|table| !table.is_empty());
    let words = before.split_whitespace().chain(table).chain(after.split_whitespace());
    run_args(&binary(), &words.collect::<Vec<_>>())
}

/// Asserts that a command fails and says so.
fn refused(arguments: &str, why: &str) {
    let said = quoted(arguments).refused().stderr;
    assert!(said.contains(why), "{arguments}: {said}");
}

fn in_use() {
    let (origin, cow) = (slice("origin", "n0", 0, LEN), slice("cow", "n1", 0, LEN));
    let path = server::add(&format!("origin --origin {origin} --name o"));
    server::add(&format!("snapshot --origin {origin} --cow {cow} --name s"));
    let disk = Disk::open(&path);
    disk.write(0, &Buf::new(8));
    ublk_dm("rename o srv").ok();
    ublk_dm("rename /dev/ublkb1 old").ok();
    disk.write(64, &Buf::new(8));
    assert_eq!(listed(), ["srv -", "old -"]);
    refused("status o", "no such device");
    refused("rename srv old", "taken by another device");
    refused("rename o new", "no such device");
    ublk_dm("rename srv srv").ok();
    // The next server knows it by the new name, and the old one is free.
    let pid = server::number("srv", "/server_pid");
    sh(&format!("kill -9 {pid}")).ok();
    server::wait_gone(pid);
    refused("rename srv other", "recover");
    ublk_dm("recover srv").ok();
    disk.write(128, &Buf::new(8));
    drop(disk);
    assert_eq!(listed(), ["srv -", "old -"]);
    quoted("create o --table '0 8 zero'").ok();
    ublk_dm("create bare --notable").ok();
    refused("rename srv bare", "a device without a table");
    ublk_dm("rename bare later").ok();
    assert!(listed().contains(&"later -".to_owned()));
    // A merge that keeps its snapshot finds it by the new name.
    ublk_dm("merge old --keep --rate 64KiB").ok();
    ublk_dm("rename old kept").ok();
    ublk_dm("merge srv --wait").ok();
    assert_eq!(server::device("kept")["target"], "snapshot");
    for name in ["later", "o", "srv", "kept"] {
        server::del(name);
    }
    server::assert_nothing_left("del");
}

fn uuids() {
    let disk = slice("disk", "n0", 0, LEN);
    quoted(&format!("create a --uuid LVM-a/b --table '0 8 linear {disk} 0' --shared")).ok();
    assert_eq!(listed(), ["a LVM-a/b"]);
    refused("create b --uuid LVM-a/b --table '0 8 zero'", "the uuid LVM-a/b is taken by a");
    refused("create b --uuid LVM-a/b --notable", "the uuid LVM-a/b is taken by a");
    ublk_dm("create c --uuid C --notable").ok();
    refused("create b --uuid C --table '0 8 zero'", "the uuid C is taken by c");
    quoted("load c --table '0 8 zero'").ok();
    ublk_dm("resume c").ok();
    ublk_dm("rename a z").ok();
    quoted("load z --table '0 8 zero'").ok();
    ublk_dm("resume z").ok();
    let pid = server::number("z", "/server_pid");
    sh(&format!("kill -9 {pid}")).ok();
    server::wait_gone(pid);
    assert_eq!(listed(), ["z LVM-a/b", "c C"]);
    ublk_dm("recover --all").ok();
    assert_eq!(listed(), ["z LVM-a/b", "c C"]);
    let said = ublk_dm("save --stdout z c").ok().stdout;
    assert!(said.contains("uuid=LVM-a/b") && said.contains("uuid=C"), "{said}");
    for name in ["z", "c"] {
        server::del(name);
    }
    server::assert_nothing_left("del");
}
