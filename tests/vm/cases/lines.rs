//! Tables of `linear`, `error` and `zero`, of one line and of several, with the kernel's own
//! targets as the judge; and such tables that replace each other under a mounted file system.

use std::fs::OpenOptions;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::Case;
use crate::cases::linear::killed_twice;
use crate::disk::{self, Buf, Disk, MIB, node, slice};
use crate::load::{Plan, Rng, StopOnDrop};
use crate::model::View;
use crate::runner::scratch;
use crate::sh::{Out, binary, run_args, sh, ublk_dm};
use crate::{ioctl, kernel, server, tree};

pub fn cases() -> Vec<Case> {
    vec![
        Case { name: "lines-empty", bound_s: 120, disks: &["n0"], run: |_| empty() },
        Case { name: "lines-several", bound_s: 180, disks: &["n0", "n1"], run: several },
        Case { name: "lines-live", bound_s: 240, disks: &["n0", "n1"], run: live },
        Case { name: "lines-origin", bound_s: 240, disks: &["n0", "n1"], run: origin },
        Case { name: "lines-bad", bound_s: 120, disks: &["n0", "n1", "k0"], run: |_| bad() },
    ]
}

const LEN: u64 = 8 * MIB;
const EIO: Option<i32> = Some(5);

fn create(name: &str, lines: &[String]) -> Out {
    let mut args = vec!["create", name];
    lines.iter().for_each(|line| args.extend(["--table", line]));
    run_args(&binary(), &args)
}

fn load(name: &str, lines: &[String]) -> Out {
    let mut args = vec!["load", name];
    lines.iter().for_each(|line| args.extend(["--table", line]));
    run_args(&binary(), &args)
}

/// The results of each kind of request on a device, and what a read leaves in memory.
fn results(path: &str) -> (Vec<Option<i32>>, bool) {
    let disk = Disk::open(path);
    let mut buf = Buf::new(16);
    buf.fill(0xEE);
    let read = disk.try_read(8, &mut buf);
    let zeroes = buf.iter().all(|byte| *byte == 0);
    let write = disk.try_write(8, &Buf::new(16));
    let flush = disk.flush();
    let file = OpenOptions::new().write(true).open(path).expect("the device");
    let discard = ioctl::discard(&file, 64 * 512);
    let errno = |result: std::io::Result<()>| result.err().and_then(|why| why.raw_os_error());
    (vec![errno(read), errno(write), errno(flush), errno(discard)], zeroes)
}

/// `error` and `zero`: the results and the lines are the kernel's, before and after the death of
/// the server.
fn empty() {
    for target in ["error", "zero"] {
        let line = format!("0 {LEN} {target}");
        let judge = results(&kernel::create("judge", &line));
        let top = create("e", std::slice::from_ref(&line)).ok().line();
        assert!(Disk::open(&top).sectors == LEN);
        assert!(results(&top) == judge, "{target}: {:?}, not {judge:?}", results(&top));
        assert!(judge.0[0] == if target == "error" { EIO } else { None }, "{judge:?}");
        let lines = (server::status("e"), server::table("e"));
        assert!(lines == (kernel::status("judge"), kernel::table("judge")), "{lines:?}");
        let pid = server::number("e", "/server_pid");
        sh(&format!("kill -9 {pid}")).ok();
        server::wait_gone(pid);
        ublk_dm("recover e").ok();
        assert!(results(&top) == judge, "{target} after recovery: {:?}", results(&top));
        assert!(server::device("e")["target"] == target, "{}", server::device("e"));
        // A device without disks has a server of its own.
        create("f", std::slice::from_ref(&line)).ok();
        assert!(server::number("e", "/server_pid") != server::number("f", "/server_pid"));
        create("e", &[line]).refused();
        server::del("e f");
        kernel::remove("judge");
        server::assert_nothing_left(target);
    }
}

/// Several lines over two disks: written under load with two kills, and read by the kernel; then
/// the other way round, with lines that have no disk.
fn several(seed: u64) {
    let (one, two) = (node("n0"), node("n1"));
    let (third, rest) = (3 * MIB + 8, LEN - 3 * MIB - 16);
    let lines = [
        format!("0 {third} linear {one} 4096"),
        format!("{third} 8 linear {two} 64"),
        format!("{} {rest} linear {one} {}", third + 8, 6 * MIB),
    ];
    let view = View::new("line", LEN);
    let top = create("l", &lines).ok().line();
    let disk = Disk::open(&top);
    view.fill(&disk);
    killed_twice((&view, &disk), Plan::depth_32(60_000, 60), seed, |dead| {
        assert!(dead["segments"][1]["offset_bytes"] == 64 * 512, "{dead}");
    });
    // A write over both borders, and suspend and resume.
    ublk_dm("suspend l").ok();
    ublk_dm("resume l").ok();
    view.write(&disk, third - 100, 400);
    view.verify(&disk);
    assert!(!disk::is_free(&one) && !disk::is_free(&two), "a disk is not claimed");
    drop(disk);
    let printed = (server::status("l"), server::table("l"));
    server::del("l");
    server::assert_nothing_left("del");
    let judge = Disk::open(&kernel::create("judge", &lines.join("\n")));
    assert!(printed == (kernel::status("judge"), kernel::table("judge")), "{printed:?}");
    view.verify(&judge);
    view.write(&judge, third - 5, 30);
    drop(judge);
    kernel::remove("judge");
    with_more_lines(&lines, &view);
}

/// The same lines from a file, with what is on no disk behind them.
fn with_more_lines(lines: &[String], view: &View) {
    let file = format!("{}/table", scratch("lines"));
    let more = format!("{}\n# nothing\n\n{LEN} 64 zero\n{} 8 error\n", lines.join("\n"), LEN + 64);
    std::fs::write(&file, more).expect("a file");
    let top = ublk_dm(&format!("create l {file}")).ok().line();
    let disk = Disk::open(&top);
    assert!(disk.read(LEN, 64).iter().all(|byte| *byte == 0), "zero");
    let over = disk.try_read(LEN + 60, &mut Buf::new(12)).err().and_then(|why| why.raw_os_error());
    assert!(over == EIO, "{over:?}");
    let over = Disk::open_read_only(&top).read(LEN - 8, 16);
    assert!(over[8 * 512..].iter().all(|byte| *byte == 0), "the piece beyond the border");
    assert!(server::status("l").lines().count() == 5, "{}", server::status("l"));
    drop(disk);
    server::del("l");
    let judge = Disk::open(&kernel::create("judge", &lines.join("\n")));
    view.verify(&judge);
    drop(judge);
    kernel::remove("judge");
}

/// A mounted ext4 moves from one disk to another and back, in one line and in several, while files
/// are written and the server is killed.
fn live(seed: u64) {
    const SIZE: u64 = 128 * MIB;
    let (one, two) = (node("n0"), node("n1"));
    let dir = scratch("lines-live");
    let whole = |disk: &str| vec![format!("0 {SIZE} linear {disk} 0")];
    let split = |disk: &str| {
        vec![
            format!("0 4096 linear {disk} 0"),
            format!("4096 8 linear {disk} 4096"),
            format!("4104 {} linear {disk} 4104", SIZE - 4104),
        ]
    };
    let top = create("l", &whole(&one)).ok().line();
    sh(&format!("mkfs.ext4 -q -F {top}")).ok();
    sh(&format!("mount {top} {dir}")).ok();
    tree::grow(&dir, &mut Rng::new(seed), 40, 200 << 10);
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let _stop = StopOnDrop(&stop);
        let churn = scope.spawn(|| tree::churn(&dir, seed, &stop));
        for (from, to, lines) in [
            (&one, &one, split(&one)),
            (&one, &two, split(&two)),
            (&two, &two, whole(&two)),
            (&two, &one, whole(&one)),
        ] {
            thread::sleep(Duration::from_millis(300));
            load("l", &lines).ok();
            if from != to {
                ublk_dm("suspend l").ok();
                sh(&format!("{} copy --from {from}:0s+{SIZE}s --to {to}:0s --force", binary()))
                    .ok();
            }
            let pid = server::number("l", "/server_pid");
            sh(&format!("kill -9 {pid}")).ok();
            server::wait_gone(pid);
            ublk_dm("recover l").ok();
            ublk_dm("resume l").ok();
            assert!(server::table("l").lines().count() == lines.len(), "{}", server::table("l"));
            assert!(disk::is_free(from) == (from != to), "{from}: its claim");
            assert!(!disk::is_free(to), "{to} is not claimed");
        }
        // A table that fails everything, while nothing is written; and one that does not fit.
        stop.store(true, Ordering::Relaxed);
        churn.join().expect("no panic").unwrap_or_else(|why| panic!("seed {seed}: {why}"));
    });
    sh(&format!("umount {dir}")).ok();
    sh(&format!("e2fsck -fn {top}")).ok();
    load("l", &[format!("0 {SIZE} error")]).ok();
    ublk_dm("resume l").ok();
    assert!(disk::is_free(&one), "the disk is still claimed");
    let failed = Disk::open(&top).try_read(0, &mut Buf::new(8)).err();
    assert!(failed.is_some_and(|why| why.raw_os_error() == EIO), "an error table reads");
    load("l", &whole(&one)).ok();
    ublk_dm("resume l").ok();
    sh(&format!("e2fsck -fn {top}")).ok();
    server::del("l");
    server::assert_nothing_left("lines-live");
}

/// The server of a device dies, and the next one takes over.
fn again(name: &str) {
    let pid = server::number(name, "/server_pid");
    sh(&format!("kill -9 {pid}")).ok();
    server::wait_gone(pid);
    ublk_dm("recover --all").ok();
}

/// The table of the snapshot `s` is replaced by one that fails everything. Returns what `resume`
/// says.
fn fails(snap: &str) -> String {
    load("s", &[format!("0 {} error", Disk::open(snap).sectors)]).ok();
    let said = ublk_dm("resume s").ok().stderr;
    let failed = Disk::open(snap).try_read(0, &mut Buf::new(8)).err();
    assert!(failed.is_some_and(|why| why.raw_os_error() == EIO), "an error table reads");
    said
}

/// `resume` has said that the snapshot is lost.
fn assert_lost(said: &str) {
    assert!(said.starts_with("ublk-dm: warning: /dev/ublkb"), "{said}");
    assert!(said.contains("the snapshot that it had is lost, and its COW is marked"), "{said}");
}

/// A mounted ext4 on a linear device becomes an origin, gets a snapshot in the same server, and is
/// a linear device again; the snapshot's table is replaced, too. The server is killed in between.
fn origin(seed: u64) {
    const SIZE: u64 = 64 * MIB;
    let (one, two) = (slice("org", "n0", 0, SIZE), slice("cow", "n1", 0, SIZE));
    let (dir, beside) = (scratch("lines-origin"), scratch("lines-snapshot"));
    let linear = [format!("0 {SIZE} linear {one} 0")];
    let plain = [format!("0 {SIZE} snapshot-origin {one}")];
    let top = create("l", &linear).ok().line();
    sh(&format!("mkfs.ext4 -q -F {top}")).ok();
    sh(&format!("mount {top} {dir}")).ok();
    let mut rng = Rng::new(seed);
    tree::grow(&dir, &mut rng, 40, 200 << 10);
    let put = |lines: &[String]| {
        load("l", lines).ok();
        ublk_dm("resume l").ok();
        assert!(!disk::is_free(&one), "{one} is not claimed");
    };
    put(&plain);
    assert_eq!(server::status("l"), format!("0 {SIZE} snapshot-origin"));
    sh("sync").ok();
    let then = tree::take(&dir);
    let snap = server::add(&format!("snapshot --origin {one} --cow {two} --name s"));
    assert_eq!(server::number("s", "/server_pid"), server::number("l", "/server_pid"));
    tree::change(&dir, &mut rng, 40, 200 << 10);
    sh("sync").ok();
    let changed = tree::take(&dir);
    again("l");
    let shown = || {
        sh(&format!("mount -o ro,noload {snap} {beside}")).ok();
        tree::assert_same("the snapshot", &then, &tree::take(&beside));
        sh(&format!("umount {beside}")).ok();
    };
    shown();
    assert!(load("l", &linear).refused().stderr.contains("s is a snapshot of it"));
    // Without a change of its origin, which rests, the snapshot's own table comes back.
    sh(&format!("umount {dir}")).ok();
    let own = format!("0 {SIZE} snapshot {one} {two} P 32");
    assert_eq!(fails(&snap), "", "nothing is lost");
    again("l");
    load("s", std::slice::from_ref(&own)).ok();
    ublk_dm("resume s").ok();
    shown();
    // With one it is lost.
    sh(&format!("mount {top} {dir}")).ok();
    assert_lost(&fails(&snap));
    std::fs::write(format!("{dir}/later"), "later").expect("it is written");
    sh("sync").ok();
    load("s", &[own]).ok();
    // As in the kernel, a table line takes an invalid store, which fails all I/O.
    ublk_dm("resume s").ok();
    assert_eq!(server::status("s"), format!("0 {SIZE} snapshot Invalid"));
    server::del("s");
    std::fs::remove_file(format!("{dir}/later")).expect("it is removed");
    put(&linear);
    again("l");
    tree::assert_same("at the end", &changed, &tree::take(&dir));
    sh(&format!("umount {dir}")).ok();
    sh(&format!("e2fsck -fn {top}")).ok();
    server::del("l");
    server::assert_nothing_left("lines-origin");
}

/// Bad tables: one line of text, nothing left, and a device that runs on with its old table.
fn bad() {
    let (one, two, large) = (node("n0"), node("n1"), node("k0"));
    let refuse = |code: i32, lines: &[String], why: &str| {
        let out = create("l", lines).refused();
        assert!(out.code == code && out.stderr.contains(why), "{lines:?}: {}", out.stderr);
        server::assert_nothing_left(&out.what);
    };
    let linear = |start: u64, len: u64, disk: &str| format!("{start} {len} linear {disk} 0");
    refuse(2, &[linear(0, 8, &one), linear(9, 8, &two)], "line 2: start 9: leaves a gap");
    refuse(2, &[linear(0, 8, &one), linear(7, 8, &two)], "line 2: start 7: overlaps");
    refuse(2, &[linear(0, 8, &one), format!("8 8 snapshot-origin {two}")], "the only line");
    refuse(2, &["0 8 error 1".to_owned()], "one argument too many");
    refuse(1, &[linear(0, 8, &one), linear(8, 8, "/dev/nonsense")], "/dev/nonsense");
    refuse(1, &[linear(0, 8, &one), linear(8, 1 << 40, &two)], "do not fit");
    // The blocks of the third disk have 4096 bytes.
    refuse(1, &[linear(0, 4, &one), linear(4, 8, &large)], "block size of 4096");
    let top = create("l", &[linear(0, 64, &one)]).ok().line();
    let (view, disk) = (View::new("line", 64), Disk::open(&top));
    view.fill(&disk);
    load("l", &[linear(0, 72, &two)]).refused();
    let merge = load("l", &[format!("0 64 snapshot-merge {two} {one} P 8")]).refused();
    assert!(merge.stderr.contains("its origin's device only"), "{}", merge.stderr);
    for (lines, why) in [
        (vec![linear(0, 64, &large)], "blocks of 4096 bytes"),
        (vec![linear(0, 8, &one), linear(8, 56, "/dev/nonsense")], "/dev/nonsense"),
        (vec![linear(0, 8, &one), format!("8 56 linear {two} {}", 1_u64 << 40)], "do not fit"),
    ] {
        load("l", &lines).ok();
        let out = ublk_dm("resume l").refused();
        let stays = "the old table is still in place, and the device continues to run";
        assert!(out.stderr.contains(why) && out.stderr.contains(stays), "{}", out.stderr);
        view.write(&disk, 3, 7);
        assert!(server::table("l").lines().count() == 1, "{}", server::table("l"));
    }
    // In use by another device of ours.
    create("m", &[linear(0, 8, &two)]).ok();
    load("l", &[linear(0, 64, &two)]).ok();
    ublk_dm("resume l").refused();
    view.verify(&disk);
    drop(disk);
    server::del("l m");
    server::assert_nothing_left("lines-bad");
}
