//! `ublk-dm copy` and `ublk-dm zero`: the copy engine as commands.

use serde_json::Value;

use crate::Case;
use crate::disk::{self, Disk, MIB, node};
use crate::model::View;
use crate::sh::{Out, ublk_dm};

pub fn cases() -> Vec<Case> {
    vec![
        Case {
            name: "copy-two-destinations",
            bound_s: 90,
            disks: &["n0", "n1", "n2"],
            run: |_| two_destinations(),
        },
        Case {
            name: "copy-eight-destinations",
            bound_s: 90,
            disks: &["n0", "n1"],
            run: |_| eight_destinations(),
        },
        Case {
            name: "copy-between-block-sizes",
            bound_s: 60,
            disks: &["n0", "k0"],
            run: |_| block_sizes(),
        },
        Case { name: "copy-zero", bound_s: 60, disks: &["n0", "n1"], run: |_| zero() },
        Case { name: "copy-refused", bound_s: 60, disks: &["n0", "n1", "k0"], run: |_| refused() },
    ]
}

/// stdout is one JSON object per line, at least one.
fn assert_json(out: &Out) {
    assert!(!out.stdout.trim().is_empty(), "`{}` printed no JSON", out.what);
    for line in out.stdout.lines() {
        let object = serde_json::from_str::<Value>(line).ok().filter(Value::is_object);
        assert!(object.is_some(), "`{}`: this line is no JSON object: {line:?}", out.what);
    }
}

fn two_destinations() {
    let (from, to, other) = (node("n0"), node("n1"), node("n2"));
    let source = View::new("from", 48 * MIB);
    source.write(&Disk::open(&from), 0, 16 * MIB);
    let source_disk = Disk::open(&from);
    // 16 MiB less a few sectors, from an unaligned place to unaligned places.
    let (start, len) = (777, 16 * MIB - 1000);
    let line = format!("copy --from {from}:{start}s+{len}s --to {to}:33s --to {other}:1MiB --json");
    let out = ublk_dm(&line).ok();
    assert_json(&out);
    for (path, at) in [(&to, 33), (&other, MIB)] {
        let disk = Disk::open(path);
        let same = disk::digest(&disk, at, len) == disk::digest(&source_disk, start, len);
        assert!(same, "{path} does not hold the copy at sector {at}");
        let around = [disk.read(at - 1, 1), disk.read(at + len, 1)];
        assert!(
            around.iter().all(|b| b.iter().all(|x| *x == 0)),
            "{path}: the copy wrote beside its range"
        );
    }
    source.verify_range(&source_disk, 0, 16 * MIB);
    let quiet = ublk_dm(&format!("copy --from {from}:0+1MiB --to {to}:64MiB")).ok();
    assert!(
        quiet.stderr.is_empty(),
        "`{}` in a pipe should be silent, said {:?}",
        quiet.what,
        quiet.stderr
    );
}

fn eight_destinations() {
    let (from, to) = (node("n0"), node("n1"));
    let source = View::new("from", MIB * 512);
    source.write(&Disk::open(&from), 0, 3 * MIB + 7);
    let digest = disk::digest(&Disk::open(&from), 0, 3 * MIB + 7);
    let line: String = (0..8).map(|n| format!(" --to {to}:{}MiB", n * 8)).collect();
    assert_json(&ublk_dm(&format!("copy --from {from}:0+{}s{line} --json", 3 * MIB + 7)).ok());
    for n in 0..8 {
        let got = disk::digest(&Disk::open(&to), n * 8 * MIB, 3 * MIB + 7);
        assert!(got == digest, "destination {n} of 8 at {} MiB of {to} differs", n * 8);
    }
    ublk_dm(&format!("copy --from {from}:0+1MiB{line} --to {to}:100MiB")).refused();
}

fn block_sizes() {
    let (small, large) = (node("n0"), node("k0"));
    let view = View::new("from", 4 * MIB);
    view.write(&Disk::open(&small), 0, 4 * MIB);
    ublk_dm(&format!("copy --from {small}:0+2MiB --to {large}:8KiB")).ok();
    let back = Disk::open(&large);
    assert!(
        disk::digest(&back, 16, 2 * MIB) == disk::digest(&Disk::open(&small), 0, 2 * MIB),
        "{large} differs"
    );
}

fn zero() {
    for disk_name in ["n0", "n1"] {
        let path = node(disk_name);
        let disk = Disk::open(&path);
        let view = View::new("full", 8 * MIB);
        view.write(&disk, 0, 8 * MIB);
        let out = ublk_dm(&format!("zero --to {path}:1000s+5000s --to {path}:3MiB+1s --json")).ok();
        assert_json(&out);
        for (at, len) in [(1000, 5000), (3 * MIB, 1)] {
            assert!(
                disk.read(at, len).iter().all(|b| *b == 0),
                "{path}: sectors {at}+{len} are not zero"
            );
        }
        for (at, len) in [(0, 1000), (6000, 3 * MIB - 6000), (3 * MIB + 1, 5 * MIB - 1)] {
            view.verify_range(&disk, at, len);
        }
    }
}

fn refused() {
    let (from, to, large) = (node("n0"), node("n1"), node("k0"));
    let size = Disk::open(&from).sectors * 512;
    let before: Vec<_> = [&from, &to, &large].iter().map(|d| disk::digest_ends(d)).collect();
    for line in [
        "copy".to_string(),
        format!("copy --from {from}"),
        format!("copy --to {to}"),
        format!("copy --from {from}:0+100 --to {to}"), // no whole sector
        format!("copy --from {from}:{size}+1MiB --to {to}"),
        format!("copy --from {from}:0+1MiB --to {to}:{size}"),
        format!("copy --from {from}:0+512 --to {large}"), // less than a block there
        format!("copy --from {from}:0+1MiB --to {from}:512KiB"), // onto itself
        format!("copy --from {from}:0+1MiB --to {to} --throttle 0"),
        format!("copy --from {from}:0+1MiB --to {to} --throttle 101"),
        format!("copy --from {from}:0+1MiB --to /dev/nonsense"),
        "zero".to_string(),
        format!("zero --to {to}:{size}+1MiB"),
        "zero --to /dev/null".to_string(),
    ] {
        let out = ublk_dm(&line).refused();
        let after: Vec<_> = [&from, &to, &large].iter().map(|d| disk::digest_ends(d)).collect();
        assert!(before == after, "`{}` was refused but wrote", out.what);
    }
}
