//! Devices that grow while they are used: under a mounted file system with a snapshot, and with
//! servers that are killed meanwhile. What is refused leaves everything as it was, and a kernel
//! without the command refuses all of it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::Case;
use crate::disk::{self, Disk, MIB, node, slice};
use crate::load::{self, Plan, Rng, StopOnDrop};
use crate::model::View;
use crate::runner::scratch;
use crate::sh::{Out, binary, run_args, sh, ublk_dm};
use crate::{kernel, server, tree};

pub fn cases() -> Vec<Case> {
    vec![
        Case { name: "resize-ext4", bound_s: 240, disks: &["n0", "n1"], run: ext4 },
        Case { name: "resize-killed", bound_s: 180, disks: &["n0"], run: killed },
        Case { name: "resize-mirror", bound_s: 240, disks: &["n0", "n1", "n2"], run: mirror },
        Case { name: "resize-snapshot", bound_s: 180, disks: &["n0", "n1"], run: |_| snapshot() },
        Case { name: "resize-refused", bound_s: 120, disks: &["n0", "n1"], run: |_| refused() },
    ]
}

/// Sectors of a disk before and after it has grown.
const SHORT: u64 = 64 * MIB;
const LONG: u64 = 96 * MIB;

/// Whether the running kernel can resize a device.
pub fn kernel_resizes() -> bool {
    std::env::var("UBLK_DM_KERNEL").is_ok_and(|kernel| kernel == "new")
}

/// Makes a disk of the kernel's longer, under its users.
pub fn grow_disk(name: &str, disk: &str, sectors: u64) {
    kernel::swap(name, &format!("0 {sectors} linear {} 0", node(disk)));
}

/// The sectors of a device, as its users, `list` and `table` have it.
pub fn sectors(name: &str) -> u64 {
    let device = server::device(name);
    let listed = device["size_bytes"].as_u64().expect("a size") / 512;
    let node = device["block_device"].as_str().expect("a node").to_owned();
    let shown = Disk::open_read_only(&node).sectors;
    let table = server::table(name);
    let in_table = table.split(' ').nth(1).and_then(|word| word.parse().ok());
    assert!(shown == listed && in_table == Some(listed), "{shown} sectors, {table}, {device}");
    listed
}

/// A `resize` that must be refused for this reason, and must change nothing.
pub fn refuse(args: &str, words: &str) -> Out {
    refuse_with(1, args, words)
}

/// The same with an exit code.
fn refuse_with(code: i32, args: &str, words: &str) -> Out {
    let before = (ublk_dm("table").ok().stdout, ublk_dm("status").ok().stdout);
    let sizes = || server::list().iter().map(|one| one["size_bytes"].clone()).collect::<Vec<_>>();
    let all = sizes();
    let said = ublk_dm(&format!("resize {args}")).refused();
    assert!(said.code == code && said.stderr.contains(words), "resize {args}: {}", said.stderr);
    assert!(before == (ublk_dm("table").ok().stdout, ublk_dm("status").ok().stdout));
    assert!(all == sizes(), "resize {args}: {:?}", server::list());
    said
}

/// `resize`; it prints nothing.
pub fn resize(args: &str) {
    let out = ublk_dm(&format!("resize {args}")).ok();
    assert!(out.stdout.is_empty() && out.stderr.is_empty(), "{}{}", out.stdout, out.stderr);
}

fn kill_and_recover(name: &str) {
    let pid = server::number(name, "/server_pid");
    sh(&format!("kill -9 {pid}")).ok();
    server::wait_gone(pid);
    ublk_dm("recover --all").ok();
}

/// The origin of a snapshot grows under a mounted ext4, which grows after it and uses its new part.
/// The snapshot stays as it was, also under the next server.
fn ext4(seed: u64) {
    if !kernel_resizes() {
        return;
    }
    let (base, cow) = (slice("base", "n0", 0, SHORT), node("n1"));
    let dir = scratch("origin");
    let top = server::add(&format!("origin --origin {base} --name o"));
    sh(&format!("mkfs.ext4 -q -F {top}")).ok();
    sh(&format!("mount {top} {dir}")).ok();
    let mut rng = Rng::new(seed);
    tree::grow(&dir, &mut rng, 40, 100 << 10);
    sh("sync").ok();
    let snap = server::add(&format!("snapshot --origin {base} --cow {cow} --name s"));
    let shows = || disk::digest(&Disk::open_read_only(&snap), 0, SHORT);
    let then = shows();
    tree::change(&dir, &mut rng, 40, 100 << 10);
    grow_disk("base", "n0", LONG);
    assert!(sectors("o") == SHORT, "a device grows by itself");
    resize("o");
    assert!(sectors("o") == LONG && sectors("s") == SHORT, "{:?}", server::list());
    sh(&format!("resize2fs {top}")).ok();
    // More than the old disk had.
    sh(&format!("dd if=/dev/urandom of={dir}/large bs=1M count=60 status=none")).ok();
    sh("sync").ok();
    let files = tree::take(&dir);
    assert!(shows() == then, "the snapshot has changed");
    kill_and_recover("o");
    assert!(sectors("o") == LONG && sectors("s") == SHORT, "{:?}", server::list());
    assert!(shows() == then, "the snapshot has changed with its server");
    std::fs::write("/proc/sys/vm/drop_caches", "3").expect("caches");
    tree::assert_same(&format!("{top}, seed {seed}"), &files, &tree::take(&dir));
    assert!(server::status("s").contains('/'), "{}", server::status("s"));
    sh(&format!("umount {dir}")).ok();
    sh(&format!("e2fsck -fn {top}")).ok();
    server::del("--all");
    server::assert_nothing_left("resize-ext4");
    // The kernel shows the same snapshot, which is shorter than its origin.
    let judge = kernel::create("judge", &format!("0 {SHORT} snapshot {base} {cow} P 32"));
    assert!(disk::digest(&Disk::open_read_only(&judge), 0, SHORT) == then, "the kernel's snapshot");
    kernel::remove("judge");
    kernel::remove("base");
}

/// The server is killed somewhere in `resize`, again and again: the device has the old or the new
/// size, which is the recorded one, and what was written is there.
fn killed(seed: u64) {
    if !kernel_resizes() {
        return;
    }
    let base = slice("base", "n0", 0, LONG);
    let start = 16 * MIB;
    let line = format!("0 {start} linear {base} 0");
    let top = run_args(&binary(), &["create", "l", "--table", &line]).ok().line();
    let view = View::new("line", LONG);
    let write = |first: u64, end: u64| {
        let disk = Disk::open(&top);
        (first / MIB..end / MIB).for_each(|at| view.write(&disk, at * MIB, MIB));
    };
    let (mut rng, mut grown, mut len) = (Rng::new(seed), 0, start);
    write(0, start);
    for _ in 0..16 {
        let pid = server::number("l", "/server_pid");
        let wanted = len + 2 * MIB;
        let line = format!("resize l {wanted}s");
        let pause = Duration::from_micros(rng.below(1_500_000));
        let done = thread::scope(|scope| {
            let resized = scope.spawn(|| ublk_dm(&line).code == 0);
            thread::sleep(pause);
            sh(&format!("kill -9 {pid}")).ok();
            resized.join().expect("no panic")
        });
        server::wait_gone(pid);
        ublk_dm("recover --all").ok();
        let now = sectors("l");
        assert!(now == wanted || now == len && !done, "seed {seed}: {len}, {wanted}, {now}");
        grown += u64::from(now == wanted);
        len = now;
        // Its last sectors can be used.
        write(len - 2 * MIB, len);
    }
    println!("it has grown in {grown} of 16 attempts");
    resize("l");
    assert!(sectors("l") == LONG);
    let disk = Disk::open(&top);
    view.verify(&disk);
    drop(disk);
    server::del("l");
    server::assert_nothing_left("resize-killed");
    view.verify(&Disk::open(&base));
    kernel::remove("base");
}

/// A mirror with its log on a disk grows while it is written, and is taken over: it is
/// in sync at the end, with equal legs. It does not grow while its log or a leg has no room.
fn mirror(seed: u64) {
    if !kernel_resizes() {
        return;
    }
    let legs = [slice("a", "n0", 0, SHORT), slice("b", "n1", 0, SHORT)];
    // Bits for 20,480 regions of 8 sectors: enough for SHORT, and too few for LONG.
    let log = slice("log", "n2", 0, 7);
    for (tag, disk) in [("aaaa", "n0"), ("bbbb", "n1")] {
        // What the disks have behind the legs differs.
        let (view, at) = (View::new(tag, LONG), SHORT);
        (0..(LONG - SHORT) / MIB)
            .for_each(|n| view.write(&Disk::open(&node(disk)), at + n * MIB, MIB));
    }
    let line = format!("mirror --leg {} --leg {} --log {log}", legs[0], legs[1]);
    let top = server::add(&format!("{line} --region-size 4k --name m"));
    ublk_dm("wait m --in-sync").ok();
    let view = View::new("mirr", LONG);
    let stop = AtomicBool::new(false);
    let plan = Plan::depth_32(100_000, 60);
    thread::scope(|scope| {
        let (stop, view, disk) = (&stop, &view, Disk::open(&top));
        let _stop = StopOnDrop(stop);
        let writes = scope.spawn(move || load::write(view, &disk, seed, plan, stop));
        server::wait_for(30, "writes", || server::number("m", "/stats/writes") > 100);
        grow_disk("a", "n0", LONG);
        refuse_busy(&format!("m {LONG}s"), &format!("room for {} bytes", SHORT * 512));
        grow_disk("b", "n1", LONG);
        refuse_busy("m", "too small for the dirty log");
        resize(&format!("m {}s", SHORT + 8 * MIB));
        assert!(sectors("m") == SHORT + 8 * MIB);
        grow_disk("log", "n2", 64);
        resize("m");
        stop.store(true, Ordering::Relaxed);
        writes.join().expect("no panic").unwrap_or_else(|why| panic!("seed {seed}: {why}"));
    });
    assert!(sectors("m") == LONG);
    view.write(&Disk::open(&top), LONG - MIB, MIB);
    kill_and_recover("m");
    assert!(sectors("m") == LONG);
    view.write(&Disk::open(&top), SHORT, MIB);
    ublk_dm("wait m --in-sync").ok();
    let status = server::status("m");
    assert!(status.contains("24576/24576") && status.contains("AA"), "{status}");
    let disk = Disk::open(&top);
    view.verify_range(&disk, 0, SHORT + MIB);
    view.verify_range(&disk, LONG - MIB, MIB);
    drop(disk);
    server::del("m");
    server::assert_nothing_left("resize-mirror");
    let digest = |leg: &String| disk::digest(&Disk::open_read_only(leg), 0, LONG);
    assert!(digest(&legs[0]) == digest(&legs[1]), "the legs differ");
    ["a", "b", "log"].into_iter().for_each(kernel::remove);
}

/// A `resize` of a device in use that must be refused for this reason.
fn refuse_busy(args: &str, words: &str) {
    let before = sectors("m");
    let said = ublk_dm(&format!("resize {args}")).refused();
    assert!(said.stderr.contains(words) && sectors("m") == before, "{}", said.stderr);
}

/// A snapshot's device grows after its origin: the new part shows what the origin has then, under
/// the next server and in the kernel's eyes as well.
fn snapshot() {
    if !kernel_resizes() {
        return;
    }
    let (base, cow) = (slice("base", "n0", 0, SHORT), node("n1"));
    let top = server::add(&format!("origin --origin {base} --name o"));
    let origin = View::new("orig", LONG);
    let write = |first: u64, end: u64| {
        let disk = Disk::open(&top);
        (first / MIB..end / MIB).for_each(|at| origin.write(&disk, at * MIB, MIB));
    };
    write(0, SHORT);
    let snap = server::add(&format!("snapshot --origin {base} --cow {cow} --name s"));
    refuse(&format!("s {}s", SHORT + 8), "there is room for");
    grow_disk("base", "n0", LONG);
    resize("o");
    write(SHORT, LONG);
    let then = origin.snapshot("snap");
    write(5 * MIB, 8 * MIB);
    resize("s");
    assert!(sectors("s") == LONG && sectors("o") == LONG);
    for at in [2 * MIB, SHORT - MIB, SHORT + MIB, LONG - MIB] {
        write(at, at + MIB);
    }
    then.verify(&Disk::open_read_only(&snap));
    kill_and_recover("s");
    assert!(sectors("s") == LONG);
    write(SHORT, SHORT + MIB);
    then.verify(&Disk::open_read_only(&snap));
    origin.verify(&Disk::open_read_only(&top));
    server::del("--all");
    server::assert_nothing_left("resize-snapshot");
    let judge = kernel::create("judge", &format!("0 {LONG} snapshot {base} {cow} P 32"));
    then.verify(&Disk::open_read_only(&judge));
    kernel::remove("judge");
    kernel::remove("base");
}

/// What is refused has changed nothing; and the old kernel refuses every `resize`.
fn refused() {
    let base = slice("base", "n0", 0, SHORT);
    let small = 32 * MIB;
    let line = format!("0 {small} linear {base} 0");
    run_args(&binary(), &["create", "l", "--table", &line]).ok();
    if !kernel_resizes() {
        let said = refuse("l", "Linux 6.16");
        assert!(said.stderr.contains("l: not resized"), "{}", said.stderr);
        refuse(&format!("l {small}s"), "Linux 6.16");
        server::del("l");
        server::assert_nothing_left("resize on an old kernel");
        kernel::remove("base");
        return;
    }
    refuse(&format!("l {}s", small - 8), "cannot shrink");
    refuse(&format!("l {}s", SHORT + 8), &format!("room for {} bytes", SHORT * 512));
    refuse_with(2, "l 40000001", "not a multiple of its block size");
    let out = ublk_dm("resize l 12parsecs").refused();
    assert!(out.code == 2, "{}", out.stderr);
    ublk_dm("resize nonsense").refused();
    ublk_dm("suspend l").ok();
    refuse("l", "it is suspended");
    ublk_dm("resume l").ok();
    run_args(&binary(), &["load", "l", "--table", &line]).ok();
    refuse("l", "a table is loaded");
    ublk_dm("resume l").ok();
    run_args(&binary(), &["load", "l", "--table", &format!("0 {small} zero")]).ok();
    ublk_dm("resume l").ok();
    refuse("l", "it has no disk");
    run_args(&binary(), &["load", "l", "--table", &line]).ok();
    ublk_dm("resume l").ok();
    let pid = server::number("l", "/server_pid");
    sh(&format!("kill -9 {pid}")).ok();
    server::wait_gone(pid);
    server::wait_for(20, "state quiesced", || server::device("l")["state"] == "quiesced");
    refuse("l", "recover");
    ublk_dm("recover l").ok();
    resize(&format!("l {small}s"));
    resize("l");
    assert!(sectors("l") == SHORT);
    resize("l");
    server::del("l");
    server::assert_nothing_left("resize-refused");
    kernel::remove("base");
}
