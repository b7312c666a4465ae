//! Families whose disks hang, beside others: a command on all of them has the sound ones done at
//! once, and takes no longer than for one that hangs. And disks that stop answering while their
//! device is taken over.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use crate::Case;
use crate::cases::admin::{assert_failed, kill_after};
use crate::condition::{Fault, Faulty};
use crate::disk::{Buf, Disk, MIB, slice};
use crate::sh::ublk_dm;
use crate::{kernel, server};

pub fn cases() -> Vec<Case> {
    let disks = &["n0", "n1"];
    vec![
        Case { name: "hang-two-families", bound_s: 500, disks, run: |_| two_families() },
        Case { name: "hang-taken-over", bound_s: 600, disks, run: |_| taken_over_cow() },
        Case { name: "hang-taken-over-leg", bound_s: 600, disks, run: |_| taken_over_leg() },
    ]
}

/// Longest time until a family is done that does not hang, on a slow machine: far less than the
/// limit for a disk that does not answer.
const SOUND_LIMIT: Duration = Duration::from_secs(20);
/// Longest time of a command on disks that do not answer: less than twice the limit for one.
const HUNG_LIMIT: Duration = Duration::from_secs(60);

/// The snapshots, each of a family of its own, in the order of their families' names; the disks of
/// the first two COWs hang.
const NAMES: [&str; 3] = ["h1", "h2", "sound"];
const COWS: [&str; 3] = ["cow1", "cow2", "cow3"];

fn read(path: &str, sector: u64) -> Vec<u8> {
    Disk::open_read_only(path).read(sector, 8).to_vec()
}

fn write(path: &str, sector: u64, value: u8) -> Vec<u8> {
    let mut data = Buf::new(8);
    data.fill(value);
    Disk::open(path).write(sector, &data);
    data.to_vec()
}

/// The names of the devices in the state files, in the order of the families' names.
fn in_order() -> Vec<String> {
    let files = fs::read_dir(server::run_dir()).expect("readable").flatten();
    let files = files.map(|file| file.path());
    let mut states: Vec<_> =
        files.filter(|path| path.extension().is_some_and(|end| end == "json")).collect();
    states.sort();
    let name = |path: &std::path::PathBuf| {
        let state = fs::read(path).expect("readable");
        let state: serde_json::Value = serde_json::from_slice(&state).expect("a state");
        state["devices"][0]["name"].as_str().expect("a name").to_owned()
    };
    states.iter().map(name).collect()
}

/// Runs a command while the first two COWs hang. The third family is done soon, when the others
/// are still waited for; the whole takes as long as one of them.
fn beside(line: &str, is_done: impl Fn() -> bool, told: &[&[&str]]) {
    COWS[..2].iter().for_each(|cow| kernel::suspend(cow, true));
    thread::scope(|scope| {
        let begun = Instant::now();
        let all = scope.spawn(|| ublk_dm(line));
        while !is_done() {
            assert!(begun.elapsed() < SOUND_LIMIT, "`{line}`: the sound family waits");
            thread::sleep(Duration::from_millis(200));
        }
        println!("`{line}`: the sound family after {:?}", begun.elapsed());
        assert!(!all.is_finished(), "`{line}` has not waited");
        assert_failed(&all.join().expect("no panic"), told);
        println!("`{line}`: all after {:?}", begun.elapsed());
        assert!(begun.elapsed() < HUNG_LIMIT, "`{line}` took {:?}", begun.elapsed());
    });
    COWS[..2].iter().for_each(|cow| kernel::resume(cow));
}

fn two_families() {
    let places = [0, 8 * MIB, 16 * MIB];
    let origins = [("org1", 0), ("org2", 1), ("org3", 2)]
        .map(|(name, at)| slice(name, "n0", places[at], 8 * MIB));
    let cows = [0, 1, 2].map(|at| slice(COWS[at], "n1", places[at], 8 * MIB));
    let add = |at: usize| {
        let (origin, cow, name) = (&origins[at], &cows[at], NAMES[at]);
        let flags = format!("--origin {origin} --cow {cow} --chunk-size 4k --name {name}");
        server::add(&format!("snapshot {flags}"))
    };
    let devices = [0, 1, 2].map(add);
    assert_eq!(in_order(), NAMES, "the sound family is the last");
    // The write is to a new chunk, and the last of its server: its record is only in the journal.
    let write_and_kill = |devices: &[String; 3], sector: u64, value: u8| {
        let mut written = [const { Vec::new() }; 3];
        for ((at, written), value) in written.iter_mut().enumerate().zip(value..) {
            kill_after(NAMES[at], || *written = write(&devices[at], sector, value));
        }
        written
    };
    let written = write_and_kill(&devices, 128, 1);
    // A server that has just been started lists no device yet.
    let is_live = |name: &str| {
        let listed = server::list();
        listed.iter().any(|device| device["name"] == name && device["state"] == "live")
    };
    let not = |name: &str| format!("{name}: not recovered");
    beside(
        "recover --all",
        || is_live("sound"),
        &[
            &[not("h1").as_str(), &cows[0], "has not answered"],
            &[not("h2").as_str(), &cows[1], "has not answered"],
        ],
    );
    assert!(NAMES[..2].iter().all(|name| server::device(name)["state"] == "quiesced"));
    ublk_dm("recover --all").ok();
    assert_eq!([0, 1, 2].map(|at| read(&devices[at], 128)), written);

    let written = write_and_kill(&devices, 256, 4);
    let is_there = |name: &str| server::list().iter().any(|device| device["name"] == name);
    beside(
        "del --all --force",
        || !is_there("sound"),
        &[
            &["h1: deleted, but", &cows[0], "has not answered"],
            &["h2: deleted, but", &cows[1], "has not answered"],
        ],
    );
    assert!(server::list().is_empty());
    // The journals of those two may stay, unless their records had come to the COWs before the
    // kill, and no other: the next `add` puts them on the COWs.
    let files = fs::read_dir(server::run_dir()).expect("readable").flatten();
    let is_journal = |path: &std::path::Path| path.extension().is_some_and(|end| end == "records");
    assert!(files.filter(|file| is_journal(&file.path())).count() <= 2);
    let devices = [0, 1, 2].map(add);
    assert_eq!([0, 1, 2].map(|at| read(&devices[at], 256)), written, "what was journaled is lost");
    server::del("h1 h2 sound");
    server::assert_nothing_left("del");
}

/// When a disk stops answering.
struct Falls {
    /// How long a read of it takes until then: the steps of a takeover are seconds apart.
    slow_ms: u64,
    /// The moments after the command's start, in seconds.
    moments: [u64; 4],
    /// How many of them are within the takeover, at least.
    within: usize,
}

/// A device is taken over while a disk of it stops answering, at several moments: the command ends
/// and names the disk, the device waits; when the disk answers, it is taken over and has its data.
fn taken_over((name, device): (&str, &str), (disk, dm_name): (&Faulty, &str), falls: &Falls) {
    let mut failed = 0;
    for (value, moment) in (1..).zip(falls.moments) {
        let written = write(device, 128, value);
        kill_after(name, || {});
        disk.set(Fault::Slow { read_ms: falls.slow_ms, write_ms: falls.slow_ms });
        let begun = Instant::now();
        let out = thread::scope(|scope| {
            // The first moment is certain: it is not a race with the command's first question.
            if moment == 0 {
                kernel::suspend(dm_name, true);
            }
            let taken = scope.spawn(|| ublk_dm(&format!("recover {name}")));
            thread::sleep(Duration::from_secs(moment));
            let is_early = !taken.is_finished();
            if moment > 0 {
                kernel::suspend(dm_name, true);
            }
            (taken.join().expect("no panic"), is_early)
        });
        println!("after {moment} s: {} {:?} in {:?}", out.0.code, out.0.stderr, begun.elapsed());
        assert!(begun.elapsed() < HUNG_LIMIT * 2, "it took {:?}", begun.elapsed());
        if out.0.code != 0 {
            assert!(out.1, "it failed before the disk stopped: {}", out.0.stderr);
            assert_failed(&out.0, &[&[name, &disk.path, "has not answered"]]);
            assert!(server::device(name)["state"] == "quiesced", "{:?}", server::device(name));
            failed += 1;
        }
        kernel::resume(dm_name);
        disk.heal();
        server::wait_for(60, "the device to be taken over", || {
            let taken = ublk_dm(&format!("recover {name}"));
            taken.code == 0 && server::device(name)["state"] == "live"
        });
        assert_eq!(read(device, 128), written, "after {moment} s");
    }
    println!("{failed} of {} commands have failed", falls.moments.len());
    assert!(failed >= falls.within, "{failed} takeovers were met");
    server::del(name);
    server::assert_nothing_left("del of what was taken over");
}

fn taken_over_cow() {
    let (origin, cow) = (slice("org", "n0", 0, 8 * MIB), Faulty::new("cow", "n1", 0, 8 * MIB));
    let flags = format!("--origin {origin} --cow {} --chunk-size 4k --name s", cow.path);
    let device = server::add(&format!("snapshot {flags}"));
    let falls = Falls { slow_ms: 1_500, moments: [3, 5, 8, 12], within: 2 };
    taken_over(("s", &device), (&cow, "cow"), &falls);
}

fn taken_over_leg() {
    let (one, two) = (slice("one", "n0", 0, 8 * MIB), Faulty::new("two", "n1", 0, 8 * MIB));
    let flags = format!("--leg {one} --leg {} --nosync --region-size 64k --name m", two.path);
    let device = server::add(&format!("mirror {flags}"));
    // Of a leg that is taken over hardly anything is read, and a delayed read ends when the disk is
    // suspended: a later moment than the first is met by chance.
    let falls = Falls { slow_ms: 5_000, moments: [0, 1, 3, 5], within: 1 };
    taken_over(("m", &device), (&two, "two"), &falls);
}
