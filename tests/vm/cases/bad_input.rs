//! The results of bad input: exit code 1 or 2, one line on stderr, nothing on stdout; no device, no
//! process, no file; origin and COW byte for byte unchanged.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;

use crate::Case;
use crate::disk::{self, Buf, Disk, MIB, is_free, node, slice};
use crate::load::Rng;
use crate::runner::scratch;
use crate::sh::{Out, sh, ublk_dm, ublk_dm_as_nobody};
use crate::{server, store};

pub fn cases() -> Vec<Case> {
    vec![
        Case { name: "bad-arguments", bound_s: 120, disks: &["n0", "n1"], run: |_| arguments() },
        Case { name: "bad-devices", bound_s: 120, disks: &["n0", "n1", "n2"], run: |_| devices() },
        Case {
            name: "bad-chunk-size",
            bound_s: 90,
            disks: &["n0", "n1", "k0", "k1"],
            run: |_| chunk_sizes(),
        },
        Case { name: "bad-foreign-cow", bound_s: 120, disks: &["n0", "n1", "n2"], run: foreign },
        Case { name: "bad-store", bound_s: 180, disks: &["n0", "n1"], run: |_| stores() },
        Case { name: "bad-in-use", bound_s: 120, disks: &["n0", "n1", "n2"], run: |_| in_use() },
        Case { name: "bad-machine", bound_s: 90, disks: &["n0", "n1"], run: |_| machine() },
    ]
}

const SIZE: u64 = 8 * MIB;

/// Runs an `ublk-dm` line that must be refused and leave no trace, on the disks either.
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
    let (o, c) = (slice("org", "n0", 0, SIZE), slice("cow", "n1", 0, SIZE));
    let lines = [
        "add".to_string(),
        "add nonsense".to_string(),
        "nonsense".to_string(),
        format!("add snapshot --origin {o}"),
        format!("add snapshot --cow {c}"),
        format!("add snapshot --origin {o} --cow {c} --nonsense"),
        format!("add snapshot --origin {o} --cow {c} --store nonsense"),
        format!("add snapshot --origin {o} --cow {c} --on-full nonsense"),
        format!("add snapshot --origin {o} --cow {c} --queues 0"),
        format!("add snapshot --origin {o} --cow {c} --depth 0"),
        format!("add snapshot --origin {o} --cow {c} --name a/b"),
        format!("add snapshot --origin {o} --cow {c} --discard-passdown-origin"),
        format!("add snapshot --origin {o} --cow {c} extra"),
        format!("add origin --origin {o} --cow {c}"),
        "add origin".to_string(),
        "del".to_string(),
        "del nonsense".to_string(),
        "del /dev/ublkb77".to_string(),
        "status nonsense".to_string(),
        "table nonsense".to_string(),
    ];
    for line in &lines {
        let out = refuse(line, &[&o, &c]);
        // Wrong usage is distinguished from a failure.
        let usage = !line.contains("nonsense")
            || line.contains("--")
            || line.starts_with("nonsense")
            || line.starts_with("add ");
        let nameless =
            line.starts_with("del ") || line.starts_with("status ") || line.starts_with("table ");
        let code = if nameless { 1 } else { 2 };
        assert!(
            out.code == code || !usage,
            "`{}` should exit with {code}, did with {}",
            out.what,
            out.code
        );
    }
    // A name can be used once.
    server::add(&format!("snapshot --origin {o} --cow {c} --name once"));
    let (o2, c2) = (slice("org2", "n0", 64 * MIB, SIZE), slice("cow2", "n1", 64 * MIB, SIZE));
    let before = (disk::digest_ends(&o2), disk::digest_ends(&c2));
    ublk_dm(&format!("add snapshot --origin {o2} --cow {c2} --name once")).refused();
    let id = server::number("once", "/id");
    ublk_dm(&format!("add snapshot --origin {o2} --cow {c2} --name twice --id {id}")).refused();
    assert!(
        before == (disk::digest_ends(&o2), disk::digest_ends(&c2)),
        "a refused name or id wrote to the disks"
    );
    assert!(server::list().len() == 1, "one device expected: {:?}", server::list());
    server::del("once");
    server::assert_nothing_left("del");
}

fn devices() {
    let (o, c) = (node("n0"), node("n1"));
    let dir = scratch("mounted");
    let odd = format!("{dir}.odd");
    // Not even one sector.
    std::fs::write(&odd, vec![0; 100]).expect("tmpfs");
    for bad in ["/dev/nonsense", "/dev/null", "/tmp", "/proc/version", &odd, "", "/dev/ublkb9"] {
        let bad = if bad.is_empty() { "''" } else { bad };
        refuse(&format!("add snapshot --origin {bad} --cow {c}"), &[&c]);
        refuse(&format!("add snapshot --origin {o} --cow {bad}"), &[&o]);
        refuse(&format!("add origin --origin {bad}"), &[]);
    }
    refuse(&format!("add snapshot --origin {o} --cow {o}"), &[&o]);
    // The same disk by another name.
    refuse(&format!("add snapshot --origin {o} --cow /run/disks/n0"), &[&o]);
    // Too small for header and area.
    let tiny = slice("tiny", "n1", 0, 32);
    refuse(&format!("add snapshot --origin {o} --cow {tiny} --chunk-size 16k"), &[&o, &tiny]);
    refuse(&format!("add snapshot --origin {o} --cow {tiny} --chunk-size 32k"), &[&o, &tiny]);
    // Read-only COW.
    let locked = slice("locked", "n2", 0, SIZE);
    sh(&format!("blockdev --setro {locked}")).ok();
    refuse(&format!("add snapshot --origin {o} --cow {locked}"), &[&o, &locked]);
    // A file where the new device's node belongs: its users would write to that file.
    let at = "/dev/ublkb77";
    std::fs::write(at, "a file").expect("devtmpfs");
    let out = ublk_dm(&format!("add origin --origin {o} --id 77")).refused();
    assert!(out.stderr.contains(at) && out.stderr.contains("no block device"), "{}", out.stderr);
    assert!(std::fs::read(at).is_ok_and(|text| text == b"a file"), "the file was changed");
    std::fs::remove_file(at).expect("the file");
    server::assert_nothing_left("a refused add");
}

fn chunk_sizes() {
    let (o, c) = (slice("org", "n0", 0, SIZE), slice("cow", "n1", 0, SIZE));
    for bad in [
        "0",
        "1",
        "511",
        "3000",
        "12k",
        "-4096",
        "4kk",
        "2GiB",
        "1TiB",
        "99999999999999999999",
        "1.5k",
        "nonsense",
        "3s",
        "0s",
    ] {
        refuse(&format!("add snapshot --origin {o} --cow {c} --chunk-size={bad}"), &[&o, &c]);
    }
    // Below the block size of one disk, then of the other.
    let (ko, kc) = (slice("korg", "k0", 0, SIZE), slice("kcow", "k1", 0, SIZE));
    refuse(&format!("add snapshot --origin {o} --cow {kc} --chunk-size 2048"), &[&o, &kc]);
    refuse(&format!("add snapshot --origin {ko} --cow {c} --chunk-size 512"), &[&ko, &c]);
    refuse(
        &format!(
            "add snapshot --origin {o} --cow {c} --chunk-size 4k --store transient --chunk-size=0"
        ),
        &[&o, &c],
    );
}

/// A COW with other content.
fn foreign(seed: u64) {
    let (o, c) = (node("n0"), node("n1"));
    let add = format!("add snapshot --origin {o} --cow {c}");
    let put = |sector: u64, bytes: &[u8]| Disk::open(&c).write_bytes(sector, bytes);
    let refuse_with = |what: &str, make: &dyn Fn()| {
        disk::wipe("n1");
        make();
        println!("  a COW that holds {what}");
        refuse(&add, &[&o, &c]);
    };
    for make in ["mkfs.ext4 -q -F", "mkfs.xfs -q -f", "mkfs.btrfs -q -f", "mkswap -q"] {
        refuse_with(make, &|| drop(sh(&format!("{make} {c}")).ok()));
    }
    // An empty partition table: zeroes but for the signature at the end of the first sector.
    let mut sector = [0; 512];
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    refuse_with("a partition table", &|| put(0, &sector));
    let label = b"LABELONE\x01\0\0\0\0\0\0\0\0\0\0\0\x20\0\0\0LVM2 001";
    refuse_with("a physical volume of LVM", &|| put(1, label));
    let mut rng = Rng::new(seed);
    let noise: Vec<u8> = (0..512).flat_map(|_| rng.next().to_le_bytes()).collect();
    refuse_with("bytes of nobody", &|| put(0, &noise));
    // A transient store is a store, too.
    refuse(&format!("{add} --store transient --chunk-size 4k"), &[&o, &c]);
}

/// Damaged headers and records.
fn stores() {
    let (o, c) = (slice("org", "n0", 0, SIZE), slice("cow", "n1", 0, 4096 + 8));
    let cow = Disk::open(&c);
    let add = format!("add snapshot --origin {o} --cow {c}");
    let headers = [
        (store::MAGIC ^ 1, 1, 1, 8), // magic
        (store::MAGIC, 1, 0, 8),     // versions
        (store::MAGIC, 1, 2, 8),
        (store::MAGIC, 0, 7, 8), // a foreign version that says invalid
        (store::MAGIC, 1, 1, 0), // chunk sizes
        (store::MAGIC, 1, 1, 7),
        (store::MAGIC, 1, 1, 0x40_0000),
        (store::MAGIC, 1, 1, 0x8000_0000),
        (store::MAGIC, 1, 1, 4096), // no room for an area
    ];
    for (magic, valid, version, chunk) in headers {
        cow.zero(0, 16);
        cow.write_bytes(0, &store::header(magic, valid, version, chunk));
        refuse(&add, &[&o, &c]);
        refuse(&format!("{add} --chunk-size 4k"), &[&o, &c]);
    }
    let huge = 1u64 << 56;
    let records: [&[(u64, u64)]; 9] = [
        &[(0, 513)],         // one chunk beyond the COW's end
        &[(0, 1)],           // the first area
        &[(0, 2), (1, 258)], // the second area
        &[(5, 2), (5, 3)],   // an origin chunk twice
        &[(5, 2), (6, 2)],   // a COW chunk twice
        &[(2048, 2)],        // beyond the origin
        &[(u64::MAX, 2)],
        &[(0, huge | 2)], // the byte that the kernel takes for a run length
        &[(0, u64::MAX)],
    ];
    for bad in records {
        store::write_area(&cow, 8, 0, bad);
        store::write_area(&cow, 8, 1, &[]);
        cow.write_bytes(0, &store::header(store::MAGIC, 1, 1, 8));
        refuse(&add, &[&o, &c]);
    }
    // After a refusal the disks can be opened immediately, also those that were still being read.
    ublk_dm(&add).refused();
    assert!(is_free(&o) && is_free(&c), "add was refused while the server had its disks");
    // A full first area and no room for the second: the device was cut short.
    let cut = slice("cut", "n1", 0, 258 * 8);
    let full: Vec<_> = (0..256).map(|i| (i, 2 + i)).collect();
    store::write_area(&cow, 8, 0, &full);
    refuse(&format!("add snapshot --origin {o} --cow {cut}"), &[&o, &cut]);
    // Nothing but a header's first bytes.
    let file = format!("{}/cow", scratch("short"));
    std::fs::write(&file, store::header(store::MAGIC, 1, 1, 8)).expect("tmpfs");
    refuse(&format!("add snapshot --origin {o} --cow {file}"), &[&o]);
}

/// Devices that have another user.
fn in_use() {
    let (o, c, other, dir) = (node("n0"), node("n1"), node("n2"), scratch("mounted"));
    sh(&format!("mkfs.ext4 -q -F {other}")).ok();
    sh(&format!("mount {other} {dir}")).ok();
    // A mounted file system may write at any moment, so these compare no bytes of it.
    refuse(&format!("add snapshot --origin {o} --cow {other}"), &[&o]);
    refuse(&format!("add origin --origin {other}"), &[]);
    sh(&format!("umount {dir}")).ok();
    let held = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_EXCL)
        .open(&c)
        .expect("free");
    refuse(&format!("add snapshot --origin {o} --cow {c}"), &[&o]);
    drop(held);
    // Below a device-mapper device.
    let size = Disk::open(&c).sectors;
    crate::kernel::create("above", &format!("0 {size} linear {c} 0"));
    refuse(&format!("add snapshot --origin {o} --cow {c}"), &[&o]);
    crate::kernel::remove("above");
    // The COW of another snapshot; the origin as a COW; a COW as an origin.
    let dev = server::add(&format!("snapshot --origin {o} --cow {c} --name first"));
    let before = disk::digest_ends(&c);
    for line in [
        format!("add snapshot --origin {o} --cow {c} --name second"),
        format!("add snapshot --origin {other} --cow {c} --name second"),
        format!("add snapshot --origin {other} --cow {o} --name second"),
        format!("add origin --origin {c} --name second"),
    ] {
        ublk_dm(&line).refused();
        assert!(server::list().len() == 1, "`ublk-dm {line}` was refused but left a device");
    }
    assert!(before == disk::digest_ends(&c), "refused adds wrote to {c}");
    let open = Disk::open(&dev);
    open.write(0, &Buf::new(8));
    drop(open);
    server::del("first");
    server::assert_nothing_left("del");
}

/// Not root; no ublk_drv.
fn machine() {
    let (o, c) = (slice("org", "n0", 0, SIZE), slice("cow", "n1", 0, SIZE));
    let line = format!("add snapshot --origin {o} --cow {c}");
    refuse_by(&[&o, &c], || ublk_dm_as_nobody(&line));
    sh("modprobe -r ublk_drv").ok();
    let out = ublk_dm(&line);
    sh("modprobe ublk_drv").ok();
    // `add` may load the module itself if modprobe can: then there is a device.
    if out.code == 0 {
        let name = server::list()[0]["name"].as_str().expect("a name").to_string();
        server::del(&name);
    } else {
        out.refused();
    }
    server::assert_nothing_left("add without ublk_drv");
}
