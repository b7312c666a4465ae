//! The results of bad input for a mirror: exit code 1 or 2, one line on stderr, nothing on stdout;
//! no device, no process, no file; legs and log byte for byte unchanged.

use crate::Case;
use crate::disk::{self, Disk, MIB, node, slice};
use crate::log::Image;
use crate::mirror::{Engine, ours};
use crate::runner::scratch;
use crate::server;
use crate::sh::{Out, binary, run_args, sh, ublk_dm};

pub fn cases() -> Vec<Case> {
    vec![
        Case {
            name: "mirror-bad-arguments",
            bound_s: 120,
            disks: &["n0", "n1", "n2"],
            run: |_| arguments(),
        },
        Case {
            name: "mirror-bad-tables",
            bound_s: 120,
            disks: &["n0", "n1", "n2"],
            run: |_| tables(),
        },
        Case {
            name: "mirror-bad-disks",
            bound_s: 120,
            disks: &["n0", "n1", "n2", "k0"],
            run: |_| disks(),
        },
    ]
}

const SIZE: u64 = 8 * MIB;

/// Runs a line that must be refused and leave no trace, on the disks either.
fn refuse(line: &str, disks: &[&str]) -> Out {
    refuse_by(disks, || ublk_dm(line))
}

fn refuse_by(disks: &[&str], run: impl FnOnce() -> Out) -> Out {
    let before: Vec<_> = disks.iter().map(|d| disk::digest_ends(d)).collect();
    let out = run().refused();
    server::assert_nothing_left(&out.what);
    for (disk, before) in disks.iter().zip(before) {
        assert!(
            before == disk::digest_ends(disk),
            "`{}` was refused but wrote to {disk}",
            out.what
        );
    }
    out
}

fn arguments() {
    if ours() == Engine::Kernel {
        return;
    }
    let (a, b, log) =
        (slice("leg0", "n0", 0, SIZE), slice("leg1", "n1", 0, SIZE), slice("log", "n2", 0, 64));
    let ten: String = (0..10).map(|n| format!(" --leg {a}:{}s", n * 64)).collect();
    let two = format!("add mirror --leg {a} --leg {b}");
    let usage = [
        "add mirror".to_string(),
        format!("add mirror --leg {a}"),
        format!("add mirror{ten}"),
        format!("{two} --region-size nonsense"),
        format!("{two} --sync --nosync"),
        format!("{two} --nonsense"),
        format!("{two} extra"),
        format!("{two} --keep-log"),
        format!("add mirror --leg {a}:nonsense --leg {b}"),
    ];
    for line in &usage {
        let out = refuse(line, &[&a, &b]);
        assert!(out.code == 2, "`{}` is wrong usage but exits with {}", out.what, out.code);
    }
    for line in [
        format!("add mirror --leg {a} --leg {a}"),
        format!("add mirror --leg {a} --leg {b} --leg {a}"),
        format!("add mirror --leg {a}:0s --leg {a}:16s"), // overlapping
        format!("{two} --log {a}"),
        format!("{two} --log {b}"),
        format!("{two} --log /dev/nonsense"),
        format!("add mirror --leg {a} --leg /dev/nonsense"),
        format!("add mirror --leg {a} --leg /dev/null"),
        format!("add mirror --leg {a}:{SIZE}s --leg {b}"),
        format!("add mirror --leg {a}:1 --leg {b}"), // no whole sector
        format!("{two} --source {log}"),
        format!("{two} --source 7"),
        format!("{two} --log {log} --name a/b"),
    ] {
        refuse(&line, &[&a, &b, &log]);
    }
    for bad in [
        "0",
        "1",
        "1s",
        "1000s",
        "511",
        "3s",
        "1000",
        "16MiB",
        "1TiB",
        "99999999999999999999",
        "-1",
    ] {
        refuse(&format!("{two} --region-size={bad}"), &[&a, &b]);
    }
    for bad in ["message nobody check", "suspend nobody", "load nobody --table x", "wait nobody"] {
        refuse(bad, &[]);
    }
}

fn tables() {
    if ours() == Engine::Kernel {
        return;
    }
    let (a, b, log) =
        (slice("leg0", "n0", 0, SIZE), slice("leg1", "n1", 0, SIZE), slice("log", "n2", 0, 64));
    let legs = format!("2 {a} 0 {b} 0");
    for args in [
        "".to_string(),
        "core".to_string(),
        format!("core 0 {legs}"),
        format!("core 1 1 {legs}"),
        format!("core 1 1000 {legs}"),
        format!("core 1 {} {legs}", SIZE * 2),
        format!("core 1 0 {legs}"),
        format!("core 2 1024 maybe {legs}"),
        format!("core 3 1024 sync nosync {legs}"),
        format!("core 2 1024 block_on_error {legs}"),
        format!("Core 1 1024 {legs}"),
        format!("clustered-disk 2 {log} 1024 {legs}"),
        format!("userspace 2 x 1024 {legs}"),
        format!("disk 1 1024 {legs}"),
        format!("disk 2 /dev/nonsense 1024 {legs}"),
        format!("core 1 1024 1 {a} 0"),
        format!("core 1 1024 3 {a} 0 {b} 0"),
        format!("core 1 1024 10 {a} 0 {b} 0"),
        format!("core 1 1024 2 {a} 0 {b} 1"), // ends behind the leg's end
        format!("core 1 1024 2 {a} x {b} 0"),
        format!("core 1 1024 {legs} 1 keep_log"),
        format!("core 1 1024 {legs} 1 Handle_errors"),
        format!("core 1 1024 {legs} 2 handle_errors"),
        format!("core 1 1024 {legs} 1 handle_errors keep_log"),
        format!("core 1 1024 {legs} 1 block_on_error"),
        format!("core 1 1024 {legs} 0 more"),
    ] {
        let line = format!("0 {SIZE} mirror {args}");
        let what = ["create", "m", "--table", &line];
        refuse_by(&[&a, &b, &log], || run_args(&binary(), &what));
        // The kernel refuses it as well.
        let judged = crate::ioctl::dm_create("judge", line.trim_end(), false);
        assert!(judged.is_err(), "the kernel takes `{line}`");
    }
}

/// Disks that are too small, in use, or hold other data.
fn disks() {
    if ours() == Engine::Kernel {
        return;
    }
    let (a, b, other, dir) = (
        slice("leg0", "n0", 0, SIZE),
        slice("leg1", "n1", 0, SIZE),
        node("n2"),
        scratch("mounted"),
    );
    let two = format!("add mirror --leg {a} --leg {b}");
    // A log that has no room for its bits, and one whose blocks are larger than itself.
    let tiny = slice("tiny", "n2", 0, 2);
    refuse(&format!("{two} --log {tiny}"), &[&a, &b, &tiny]);
    crate::kernel::remove("tiny");
    // A disk with other data is not overwritten as a leg, and is refused as a log.
    for make in ["mkfs.ext4 -q -F", "mkswap -q"] {
        sh(&format!("{make} {b}")).ok();
        refuse(&two, &[&a, &b]);
        refuse(&format!("add mirror --leg {a} --leg {} --log {b}", node("k0")), &[&a, &b]);
        disk::wipe("n1");
    }
    // The first leg is the source: it may hold any data; and --force overrides.
    sh(&format!("mkfs.ext4 -q -F {a}")).ok();
    sh(&format!("mkfs.ext4 -q -F {b}")).ok();
    server::add(&format!("mirror --leg {a} --leg {b} --force --name m"));
    server::wait_for(30, "the recovery", || crate::server::status("m").contains("16/16"));
    server::del("m");
    sh(&format!("e2fsck -fn {b}")).ok();
    disk::wipe("n0");
    disk::wipe("n1");
    used_disks(&a, &b, &other, &dir);
    taken_disks(&a, &b, &other);
}

/// Mounted, held, below another device.
fn used_disks(a: &str, b: &str, other: &str, dir: &str) {
    let two = format!("add mirror --leg {a} --leg {b}");
    sh(&format!("mkfs.ext4 -q -F {other}")).ok();
    sh(&format!("mount {other} {dir}")).ok();
    refuse(&format!("add mirror --leg {a} --leg {other}"), &[a]);
    refuse(&format!("add mirror --leg {other} --leg {a}"), &[a]);
    refuse(&format!("{two} --log {other}"), &[a, b]);
    sh(&format!("umount {dir}")).ok();
    disk::wipe("n2");
    crate::kernel::create("above", &format!("0 {SIZE} linear {b} 0"));
    refuse(&two, &[a, b]);
    crate::kernel::remove("above");
}

/// A mirror's legs and log are refused to other devices.
fn taken_disks(a: &str, b: &str, other: &str) {
    let two = format!("add mirror --leg {a} --leg {b}");
    let log = slice("log", "n2", 0, 64);
    Image::new(16, true).put(&Disk::open(&log), 8);
    server::add(&format!("{} --log {log} --name m", two.trim_start_matches("add ")));
    let before = [a, b, &log].map(disk::digest_ends);
    for line in [
        format!("add mirror --leg {a} --leg {other} --name n"),
        format!("add mirror --leg {other} --leg {} --log {log} --name n", node("k0")),
        format!("add snapshot --origin {} --cow {b} --name n", node("k0")),
        format!("add origin --origin {a} --name n"),
        format!("{two} --name m"),
    ] {
        ublk_dm(&line).refused();
        assert!(server::list().len() == 1, "`ublk-dm {line}` was refused but left a device");
    }
    for words in [
        "nonsense",
        "repair",
        "repair 7",
        "replace",
        "remove-leg 9",
        "throttle",
        "throttle 101",
        "replace 1 /dev/nonsense",
        "check now",
    ] {
        ublk_dm(&format!("message m {words}")).refused();
    }
    ublk_dm(&format!("message m add-leg {a}")).refused();
    ublk_dm(&format!("message m replace 1 {log}")).refused();
    assert!(before == [a, b, &log].map(disk::digest_ends), "refused lines wrote to the disks");
    server::del("m");
    server::assert_nothing_left("del");
}
