//! Devices of a dead server that another program has deleted, and disks that wait for a server
//! themselves.

use crate::Case;
use crate::cases::admin::{assert_failed, kill, states};
use crate::disk::{Disk, MIB, slice};
use crate::sh::ublk_dm;
use crate::{ioctl, server};

pub fn cases() -> Vec<Case> {
    let disks = &["n0", "n1", "n2"];
    vec![
        Case { name: "admin-gone", bound_s: 120, disks, run: |_| gone() },
        Case { name: "admin-gone-snapshot", bound_s: 120, disks, run: |_| gone_snapshot() },
        Case { name: "admin-waits-below", bound_s: 90, disks, run: |_| waits_below() },
    ]
}

const SIZE: u64 = 4 * MIB;

fn delete(name: &str) {
    let id = u32::try_from(server::number(name, "/id")).expect("an id");
    ioctl::ublk_stop(id).expect("stopped");
    ioctl::ublk_delete(id).expect("deleted");
    let gone = || server::list().iter().all(|device| device["name"] != name);
    server::wait_for(20, &format!("{name} to be gone"), gone);
}

/// Only the files of a family are left: they are removed, and the log says that there is nothing to
/// recover.
fn gone() {
    let (origin, cow) = (slice("org", "n0", 0, SIZE), slice("cow", "n1", 0, SIZE));
    for line in ["recover --all", "del --all", "add"] {
        server::add(&format!("origin --origin {origin} --name o"));
        server::add(&format!("snapshot --origin {origin} --cow {cow} --name s"));
        kill("o");
        delete("s");
        delete("o");
        for verb in ["recover", "del --force", "status", "recover --foreground"] {
            assert_failed(&ublk_dm(&format!("{verb} s")), &[&["s: no such device"]]);
        }
        if line == "add" {
            ublk_dm(&format!("add origin --origin {origin} --name again")).ok();
            assert!(states() == [("again".to_string(), "live".to_string())], "{:?}", states());
            server::del("again");
        } else {
            let out = ublk_dm(&format!("-v {line}")).ok();
            assert!(out.stdout.is_empty(), "{:?}", out.stdout);
            let has = |words: &str| out.stderr.lines().any(|said| said.contains(words));
            assert!(
                has("s: /dev/ublkb") && has("there is nothing to recover"),
                "`{line}` said {:?}",
                out.stderr
            );
        }
        server::assert_nothing_left(line);
    }
}

/// A snapshot is gone and its origin is recovered: the store on the COW is no longer valid, as
/// after `del`.
fn gone_snapshot() {
    let (origin, cow) = (slice("org", "n0", 0, SIZE), slice("cow", "n1", 0, SIZE));
    let add = format!("snapshot --origin {origin} --cow {cow} --name s");
    for line in ["recover o", "recover --foreground o"] {
        let top = server::add(&format!("origin --origin {origin} --name o"));
        server::add(&add);
        kill("o");
        delete("s");
        let mut service = None;
        if line == "recover o" {
            assert_failed(&ublk_dm(line), &[&["s: gone", "must not be used again"]]);
        } else {
            let started = crate::cases::process::Service::start("o", line);
            started.hears("READY=1");
            service = Some(started);
        }
        Disk::open(&top).zero(0, 64);
        assert_failed(
            &ublk_dm(&format!("add {add}")),
            &[&[&cow, "is lost", "zero its start with `ublk-dm zero --to"]],
        );
        server::del("o");
        if let Some(mut service) = service {
            service.ends();
        }
        Disk::open(&cow).zero(0, 8);
        ublk_dm(&format!("add {add}")).ok();
        server::del("s");
        server::assert_nothing_left("del");
    }
}

/// No device is added on top of a device that waits for a server: the new device would wait as
/// well.
fn waits_below() {
    let (origin, cow, leg) =
        (slice("org", "n0", 0, SIZE), slice("cow", "n1", 0, SIZE), slice("leg", "n2", 0, SIZE));
    let line = format!("0 {SIZE} linear {origin} 0");
    let words = ["create", "o", "--table", &line];
    let top = crate::sh::run_args(&crate::sh::binary(), &words).ok().line();
    kill("o");
    for line in [
        format!("add mirror --leg {leg} --leg {top} --name m"),
        format!("add snapshot --origin {top} --cow {cow} --name s"),
        format!("add snapshot --origin {leg} --cow {top} --name s --foreground"),
        format!("create c --table 0_8_snapshot-origin_{top}"),
    ] {
        let words: Vec<String> = line.split(' ').map(|word| word.replace('_', " ")).collect();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let out = crate::sh::run_args(&crate::sh::binary(), &words).refused();
        assert!(out.stderr.contains("waits for a server itself"), "`{line}` said {:?}", out.stderr);
    }
    ublk_dm("recover --all").ok();
    server::del("o");
    server::assert_nothing_left("del");
}
