//! fio's own verification at depth 32 with mixed sizes, on a snapshot and on an origin; and writers
//! whose buffers change meanwhile, on a mirror.

use std::os::unix::fs::FileTypeExt;

use crate::Case;
use crate::disk::{Disk, MIB, slice};
use crate::mirror::{self, Initial, Shape};
use crate::model::View;
use crate::runner::scratch;
use crate::sh::run_args;
use crate::{kernel, server};

pub fn cases() -> Vec<Case> {
    vec![
        Case {
            name: "fio-snapshot",
            bound_s: 150,
            disks: &["n0", "n1"],
            run: |s| snapshot(s, "n0", "n1", (512, 1)),
        },
        Case {
            name: "fio-snapshot-4k",
            bound_s: 150,
            disks: &["k0", "k1"],
            run: |s| snapshot(s, "k0", "k1", (4096, 1)),
        },
        Case {
            name: "fio-two-queues",
            bound_s: 150,
            disks: &["n0", "n1"],
            run: |s| snapshot(s, "n0", "n1", (512, 2)),
        },
        Case { name: "fio-origin", bound_s: 150, disks: &["n0", "n1"], run: origin },
        Case {
            name: "fio-changing-buffers",
            bound_s: 120,
            disks: &["n0", "n1"],
            run: |_| changing_buffers(),
        },
    ]
}

const SIZE: u64 = 16 * MIB;

/// Writes all of the device at random, then reads it back against the checksums; several jobs have
/// a part and a CPU each.
pub fn verify(path: &str, seed: u64, block: u64, jobs: u64) {
    // On a path that is not a device fio would silently make a file.
    let is_device = std::fs::metadata(path).is_ok_and(|m| m.file_type().is_block_device());
    assert!(is_device, "{path} is no block device");
    let sizes = format!("--bssplit={block}/10:4k/25:12k/15:16k/15:64k/20:256k/15");
    let (file, seed) = (format!("--filename={path}"), format!("--randseed={}", seed % (1 << 31)));
    let align = format!("--blockalign={block}");
    let (share, jobs) = (100 / jobs, format!("--numjobs={jobs}"));
    let (part, step) = (format!("--size={share}%"), format!("--offset_increment={share}%"));
    let out = run_args(
        "fio",
        &[
            "--name=v",
            &file,
            &seed,
            &sizes,
            &align,
            "--rw=randwrite",
            "--direct=1",
            "--ioengine=io_uring",
            "--iodepth=32",
            "--verify=crc32c",
            "--do_verify=1",
            "--verify_fatal=1",
            "--verify_backlog=256",
            "--verify_state_save=0",
            "--allow_file_create=0",
            &jobs,
            &part,
            &step,
            "--cpus_allowed=0-1",
            "--cpus_allowed_policy=split",
            "--output-format=terse",
            // As other loads (`load`): commands beside it must not wait for it.
            "--nice=10",
        ],
    )
    .ok();
    assert!(!out.stderr.contains("verify"), "fio on {path}: {}", out.stderr.trim());
}

fn snapshot(seed: u64, origin_disk: &str, cow_disk: &str, (block, queues): (u64, u64)) {
    let (origin, cow) = (slice("org", origin_disk, 0, SIZE), slice("cow", cow_disk, 0, 2 * SIZE));
    let view = View::new("orig", SIZE);
    view.fill(&Disk::open(&origin));
    let dev = server::add(&format!(
        "snapshot --origin {origin} --cow {cow} --chunk-size 16k --name s --queues {queues}"
    ));
    let name = dev.trim_start_matches("/dev/");
    let found = std::fs::read_dir(format!("/sys/block/{name}/mq"))
        .expect("a device has queues")
        .count() as u64;
    assert!(
        (found, server::number("s", "/queues")) == (queues, queues),
        "{found} queues and not {queues}: {}",
        server::device("s")
    );
    verify(&dev, seed, block, queues);
    assert!(
        server::number("s", "/stats/errors") == 0,
        "errors were counted: {}",
        server::device("s")
    );
    let (status, digest) = (server::status("s"), crate::disk::digest(&Disk::open(&dev), 0, SIZE));
    server::del("s");
    server::assert_nothing_left("del");
    view.verify(&Disk::open(&origin));
    let judge = kernel::snapshot("judge", &origin, &cow, "P", 32);
    assert!(
        kernel::status("judge") == status,
        "the kernel says {:?}, ublk-dm said {status:?}",
        kernel::status("judge")
    );
    let judged = crate::disk::digest(&Disk::open(&judge), 0, SIZE);
    assert!(
        judged == digest,
        "the kernel reads other bytes from {cow} than ublk-dm did, seed {seed}"
    );
    kernel::remove("judge");
}

fn origin(seed: u64) {
    let (origin, cow) = (slice("org", "n0", 0, SIZE), slice("cow", "n1", 0, 2 * SIZE));
    let view = View::new("orig", SIZE);
    view.fill(&Disk::open(&origin));
    let top = server::add(&format!("origin --origin {origin} --name o"));
    let dev =
        server::add(&format!("snapshot --origin {origin} --cow {cow} --chunk-size 16k --name s"));
    verify(&top, seed, 512, 1);
    view.verify(&Disk::open(&dev));
    let (copies, exceptions) =
        (server::number("s", "/stats/copies"), server::number("s", "/snapshot/exceptions"));
    assert!(
        copies == exceptions && exceptions == SIZE / 32,
        "{copies} copies for {exceptions} exceptions of {} chunks",
        SIZE / 32
    );
    server::del("s o");
    server::assert_nothing_left("del");
    let judge = kernel::snapshot("judge", &origin, &cow, "P", 32);
    view.verify(&Disk::open(&judge));
    kernel::remove("judge");
}

/// Two writers have one buffer, which each fills anew while the other's write is under way. With
/// `--no-zero-copy` every leg gets the same bytes all the same; where the kernel lends the writers'
/// pages the legs may differ, which is only shown here.
fn changing_buffers() {
    let legs = [slice("leg0", "n0", 0, SIZE), slice("leg1", "n1", 0, SIZE)];
    let shape = Shape::new(SIZE, 128, &[&legs[0], &legs[1]]);
    let buffer = format!("{}/buffer", scratch("fio"));
    std::fs::File::create(&buffer).and_then(|file| file.set_len(1 << 20)).expect("tmpfs");
    let memory = format!("--iomem=mmapshared:{buffer}");
    for option in ["", "--no-zero-copy"] {
        legs.iter().for_each(|leg| Disk::open(leg).zero(0, SIZE));
        let line = shape.clone().initial(Initial::NoSync).flags();
        let dev = server::add(&format!("{line} --name m {option}"));
        let file = format!("--filename={dev}");
        let what = ["--name=w", &file, &memory, "--allow_file_create=0", "--refill_buffers"];
        let how = ["--rw=randwrite", "--bs=64k", "--direct=1", "--ioengine=psync", "--numjobs=2"];
        // Each job has its own half: two writes of one place at the same time have no order, and
        // leave the legs different whatever the buffers do.
        let bounds = ["--size=8m", "--offset_increment=8m"];
        let bounds = [&bounds[..], &["--time_based", "--runtime=8", "--output-format=terse"]];
        run_args("fio", &[&what[..], &how, &bounds.concat()].concat()).ok();
        assert!(server::number("m", "/stats/writes") > 20, "{}", server::device("m"));
        server::del("m");
        server::assert_nothing_left("del");
        println!("  with {option:?}: {} regions differ", mirror::differing(&shape).len());
    }
    mirror::assert_legs_equal(&shape, "writes of changing buffers that were copied once");
}
