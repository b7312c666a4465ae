//! Mirrors of all sizes and on disks of different kinds: region counts around a word of the log's
//! bits and the largest possible count, blocks of 512 and 4096 bytes in one mirror, legs of which
//! one cannot discard.

use std::fs;

use crate::Case;
use crate::condition::{Fault, Faulty};
use crate::disk::{self, Disk, MIB, slice};
use crate::load::Rng;
use crate::log::{self, Image};
use crate::mirror::{self, Did, Engine, Initial, Mirror, Request, Shape, ours};
use crate::model::{Ticket, View, compare, stamped};
use crate::{kernel, server};

pub fn cases() -> Vec<Case> {
    vec![
        Case {
            name: "mirror-basic-regions",
            bound_s: 120,
            disks: &["n0", "n1", "n2"],
            run: |_| regions(),
        },
        Case { name: "mirror-basic-largest", bound_s: 120, disks: &["big0", "n2"], run: largest },
        Case {
            name: "mirror-basic-most-regions",
            bound_s: 300,
            disks: &["big0"],
            run: most_regions,
        },
        Case {
            name: "mirror-basic-blocks",
            bound_s: 120,
            disks: &["n0", "k0", "k1"],
            run: |_| blocks(),
        },
        Case {
            name: "mirror-basic-discard",
            bound_s: 90,
            disks: &["n0", "n1"],
            run: |_| discards(),
        },
    ]
}

/// From no region in sync to all in sync; then the log's bytes are the kernel's.
fn regions() {
    const REGION: u64 = 16;
    for count in [1u64, 63, 64, 65] {
        // The last region is whole, but for 65.
        let len = count * REGION - if count == 65 { 7 } else { 0 };
        let legs = [slice("leg0", "n0", 0, len), slice("leg1", "n1", 0, len)];
        let dirty = slice("log", "n2", 0, log::sectors(count));
        let shape =
            Shape::new(len, REGION, &[&legs[0], &legs[1]]).log(&dirty).features(&["handle_errors"]);
        let mut judge = None;
        for engine in [Engine::Kernel, ours()] {
            let view = View::new("mirr", len);
            view.fill(&Disk::open(&legs[0]));
            Disk::open(&legs[1]).zero(0, len);
            Image { rest: 0xFF, ..Image::lvm(0) }.put(&Disk::open(&dirty), log::sectors(count));
            Image { nr_regions: 0, rest: 0xFF, ..Image::lvm(0) }
                .put(&Disk::open(&dirty), log::sectors(count));
            let served = Mirror::add(engine, "m", &shape);
            served.wait_in_sync();
            let disk = served.disk();
            // The first and the last sectors, and across the middle.
            for at in [0, len / 2 / REGION * REGION - u64::from(count > 1) * 3, len - 6] {
                view.write(&disk, at, 6);
            }
            view.verify(&disk);
            drop(disk);
            let lines = (served.status_line(), served.table());
            served.close();
            mirror::assert_legs_equal(&shape, &format!("{engine:?}, {count} regions"));
            let seen = (lines, log::canonical(&dirty, count));
            let judge = judge.get_or_insert_with(|| seen.clone());
            assert!(
                *judge == seen,
                "{count} regions: {engine:?} made {seen:02x?}, the kernel {judge:02x?}"
            );
        }
        ["leg0", "leg1", "log"].into_iter().for_each(kernel::remove);
    }
}

/// 200 million regions over 6 TiB; the log alone is larger than one request.
fn largest(seed: u64) {
    let big = Disk::open_read_only(&disk::node("big0")).sectors;
    let (region, len) = (64, (big / 5 * 2).min(12 << 30) / 64 * 64 - 3);
    let legs = [slice("leg0", "big0", 0, len), slice("leg1", "big0", big / 2 / 64 * 64, len)];
    let count = len.div_ceil(region);
    let dirty = slice("log", "n2", 0, log::sectors(count));
    let shape = Shape::new(len, region, &[&legs[0], &legs[1]]).log(&dirty).initial(Initial::NoSync);
    let mut rng = Rng::new(seed);
    let mut places: Vec<u64> = vec![0, len - 5, (1 << 32) - 3, len / 2 - 2];
    places.extend((0..12).map(|_| rng.below(len - 8)));
    for (turn, engine) in (1u64..).zip([ours(), Engine::Kernel]) {
        let served = Mirror::add(engine, "m", &shape);
        let disk = served.disk();
        let cell = u64::from(u32::from_be_bytes(*b"mirr")) << 32 | turn;
        for at in &places {
            disk.write(*at, &stamped(Ticket { sector: *at, sectors: 5, cell }));
        }
        drop(disk);
        let status = served.status();
        assert!((status.in_sync, status.total) == (count, count), "{engine:?}: {}", status.short());
        served.close();
        for leg in &legs {
            let disk = Disk::open_read_only(leg);
            for at in &places {
                compare(leg, *at, &[cell; 5], &disk.read(*at, 5))
                    .unwrap_or_else(|why| panic!("{engine:?}, seed {seed}: {why}"));
            }
        }
        let raw = Disk::open_read_only(&dirty);
        let (first, last) = (raw.read(0, 8), raw.read((1024 + count / 8) / 4096 * 8, 8));
        assert!(
            first[8..16] == count.to_le_bytes() && first[1024..].iter().all(|b| *b == 0xFF),
            "{engine:?}: bad log"
        );
        let at = disk::us((1024 + count / 8) % 4096);
        let (full, part) = (count / 8 * 8, count % 8);
        assert!(
            part == 0 || last[at] == (1u8 << part) - 1,
            "{engine:?}: bits of regions {full}+{part}: {:#x}",
            last[at]
        );
    }
}

/// The largest number of regions: a bitset of 512 MiB, in which marks must set the right bits. The
/// kernel is left out, because it crashes with more than half as many (`BUG_ON` in `memweight`).
fn most_regions(seed: u64) {
    if ours() == Engine::Kernel {
        return;
    }
    const COUNT: u64 = u32::MAX as u64;
    const LEN: u64 = COUNT * 2;
    // Sectors of the disk for a leg.
    const PART: u64 = (1 << 33) + MIB;
    let first = slice("leg0", "big0", 0, LEN);
    let second = Faulty::new("leg1", "big0", PART, LEN);
    let dirty = slice("log", "big0", 2 * PART, log::sectors(COUNT));
    let shape = Shape::new(LEN, 2, &[&first, &second.path]).log(&dirty).initial(Initial::NoSync);
    let more = Shape::new(LEN + 1, 2, &[&disk::node("big0"), &second.path]);
    assert!(
        Mirror::try_open(Engine::Ublk, "m", &more).is_err(),
        "one region more should be refused"
    );
    let served = Mirror::open(Engine::Ublk, "m", &shape);
    let words = || [0, (1 << 31) / 64, COUNT / 64].map(|word| log::word(&dirty, word));
    let clean = [u64::MAX, u64::MAX, u64::MAX >> 1];
    assert!(words() == clean, "the log of equal legs says {:x?}", words());
    second.set(Fault::Slow { read_ms: 0, write_ms: 60_000 });
    let cell = u64::from(u32::from_be_bytes(*b"mirr")) << 32 | seed & 0xffff_ffff;
    let tickets = [(1 << 32) + 4, LEN - 2].map(|sector| Ticket { sector, sectors: 2, cell });
    let requests = tickets.map(|ticket| Request::write(&served.path, ticket));
    let marked = [u64::MAX, u64::MAX - 4, u64::MAX >> 2];
    server::wait_for(20, "the marks of both writes", || words() == marked);
    second.heal();
    for request in requests {
        let did = request.did(20_000);
        assert!(did == Did::Success, "seed {seed}: a write to a leg that was slow: {did:?}");
    }
    server::wait_for(20, "clean regions", || words() == clean);
    let status = served.status();
    assert!((status.in_sync, status.total) == (COUNT, COUNT), "status is {}", status.short());
    served.close();
    for ticket in tickets {
        for leg in [&first, &second.path] {
            compare(
                leg,
                ticket.sector,
                &[cell; 2],
                &Disk::open_read_only(leg).read(ticket.sector, 2),
            )
            .unwrap_or_else(|why| panic!("seed {seed}: {why}"));
        }
    }
    server::assert_nothing_left("del");
}

/// One leg and then the log with blocks of 4096 bytes: the mirror takes the largest blocks of its
/// legs.
fn blocks() {
    let len = 4 * MIB;
    let (small, large, other) = (
        slice("leg0", "n0", 0, len),
        slice("leg1", "k0", 0, len),
        slice("leg2", "n0", 64 * MIB, len),
    );
    let dirty = slice("log", "k1", 0, 64);
    for (shape, block) in [
        (Shape::new(len, 512, &[&small, &large]).log(&dirty), 8),
        (Shape::new(len, 512, &[&small, &other]).log(&dirty), 1),
        (Shape::new(len, 8, &[&small, &large, &other]), 8),
    ] {
        for engine in [Engine::Kernel, ours()] {
            let view = View::new("mirr", len);
            view.fill(&Disk::open(&small));
            Disk::open(&dirty).zero(0, 64);
            let served = Mirror::add(engine, "m", &shape);
            let disk = served.disk();
            assert!(
                disk.block == block,
                "{engine:?}: blocks of {} sectors over {:?}, not {block}",
                disk.block,
                shape.legs
            );
            served.wait_in_sync();
            for at in (0..len - 64).step_by(1024 * 3) {
                view.write(&disk, at / block * block, 3 * block);
            }
            view.verify(&disk);
            drop(disk);
            served.close();
            mirror::assert_legs_equal(&shape, &format!("{engine:?}, blocks of {block} sectors"));
            assert!(
                shape.log.is_none() || log::dirty(&dirty, shape.regions()).is_empty(),
                "{engine:?}: a dirty log"
            );
        }
    }
}

/// Discards go to all legs if all support them; a leg that does not makes the mirror refuse
/// discards, without a health letter.
fn discards() {
    let len = 8 * MIB;
    let (first, second) = (slice("leg0", "n0", 0, len), slice("leg1", "n1", 0, len));
    let null = NullDisk::new(len);
    let dumb = null.path.as_str();
    for (legs, able) in [([&*first, &*second], true), ([&*first, dumb], false)] {
        let shape = Shape::new(len, 1024, &legs);
        let served = Mirror::add(ours(), "m", &shape);
        let node = served.path.trim_start_matches("/dev/");
        let offered =
            fs::read_to_string(format!("/sys/class/block/{node}/queue/discard_max_bytes"))
                .expect("sysfs");
        assert!(
            (offered.trim() != "0") == able,
            "over {legs:?} discards of {} bytes are offered",
            offered.trim()
        );
        let view = View::new("mirr", len);
        let disk = served.disk();
        view.fill(&disk);
        served.wait_in_sync();
        let out = crate::sh::sh(&format!(
            "blkdiscard --offset {} --length {} {}",
            3 * MIB * 512,
            2 * MIB * 512,
            served.path
        ));
        assert!((out.code == 0) == able, "`{}` gave exit code {}", out.what, out.code);
        let status = served.status().short();
        assert!(
            status == "8/8 AA c" || status == "16/16 AA c",
            "status is {status} after a discard"
        );
        view.verify_range(&disk, 0, 3 * MIB);
        view.verify_range(&disk, 5 * MIB, 3 * MIB);
        view.write(&disk, 3 * MIB, 2 * MIB);
        view.verify(&disk);
        drop(disk);
        served.close();
        mirror::assert_legs_equal(&shape, "after a discard");
        if ours() == Engine::Ublk {
            server::assert_nothing_left("del");
        }
    }
}

/// A disk in memory that cannot discard.
struct NullDisk {
    dir: String,
    path: String,
}

impl NullDisk {
    fn new(sectors: u64) -> NullDisk {
        let dir = "/sys/kernel/config/nullb/plain".to_string();
        if !fs::exists("/sys/kernel/config/nullb").unwrap_or(false) {
            crate::sh::sh("mount -t configfs none /sys/kernel/config").ok();
        }
        fs::create_dir(&dir).unwrap_or_else(|e| panic!("{dir}: {e}"));
        let set = |key: &str, value: &str| {
            fs::write(format!("{dir}/{key}"), value).unwrap_or_else(|e| panic!("{dir}/{key}: {e}"));
        };
        set("size", &(sectors / MIB).to_string());
        set("memory_backed", "1");
        set("discard", "0");
        set("power", "1");
        let index = fs::read_to_string(format!("{dir}/index")).expect("an index");
        let path = format!("/dev/nullb{}", index.trim());
        let path = if fs::exists(&path).unwrap_or(false) { path } else { "/dev/plain".to_string() };
        NullDisk { dir, path }
    }
}

impl Drop for NullDisk {
    fn drop(&mut self) {
        if fs::write(format!("{}/power", self.dir), "0").is_ok() {
            fs::remove_dir(&self.dir).ok();
        }
    }
}
