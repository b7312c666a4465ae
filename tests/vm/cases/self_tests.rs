//! What the kernel's self-tests of its ublk driver check, in our words, where a case of this suite
//! does not check it anyway: the order of requests, a device's limits, partitions, and servers and
//! devices that end while requests are under way or while they are taken over. The list of all
//! self-tests is in `tests/vm/others.md`.

use std::fs;
use std::process::{Command, Stdio};
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::{Duration, Instant};

use super::admin::kill;
use super::reattached::{START, put_partition};
use crate::Case;
use crate::condition::{Fault, Faulty};
use crate::disk::{Buf, Disk, MIB, node, slice};
use crate::load::{self, Plan, Rng, StopOnDrop};
use crate::model::{View, resolve};
use crate::runner::scratch;
use crate::sh::{binary, run_args, sh, ublk_dm};
use crate::tool::{Tool, both};
use crate::trace::Trace;
use crate::{ioctl, kernel, server};

pub fn cases() -> Vec<Case> {
    let case = |name, disks, run| Case { name, bound_s: 150, disks, run };
    let two: &[&str] = &["n0", "n1"];
    vec![
        case("self-order", &["n0", "n1", "n2"], |seed| both(seed, order)),
        case("self-limits", &["n0", "k0", "s0"], |seed| both(seed, limits)),
        case("self-features", &[], |_| features()),
        case("self-killed-in-flight", two, |_| killed_in_flight()),
        case("self-recover-killed", two, recover_killed),
        case("self-partitions", &["n0"], |_| partitions()),
        case("self-scan-killed", &["n0"], |_| scan_killed()),
        case("self-stress-deleted", two, |seed| stress(seed, false)),
        case("self-stress-killed", two, |seed| stress(seed, true)),
    ]
}

const SIZE: u64 = 8 * MIB;
/// The longest that what does not wait may take, on a slow machine.
const SOON: Duration = Duration::from_secs(15);

fn create(name: &str, line: &str, options: &[&str]) -> String {
    run_args(&binary(), &[&["create", name, "--table", line], options].concat()).ok().line()
}

fn linear(disk: &str) -> String {
    format!("0 {SIZE} linear {disk} 0")
}

/// Writes of one place after the other, several of which are under way, reach each disk in that
/// order.
fn order(tool: Tool, _seed: u64) {
    let disks @ [one, two, three] = &["n0", "n1", "n2"].map(node);
    let mirror = format!("0 {SIZE} mirror core 2 1024 nosync 2 {two} 0 {three} 0");
    let paths = [tool.create("self-l", &linear(one)), tool.create("self-m", &mirror)];
    let [range, mirror] = [0, 1].map(|n| format!("--filename={}", paths[n]));
    let what = ["--rw=write", "--bs=4k", "--direct=1", "--size=1m", "--allow_file_create=0"];
    let how = ["--ioengine=libaio", "--iodepth=16", "--iodepth_batch=8"];
    let jobs = ["--name=l", &range, "--name=m", &mirror];
    // Requests in a wrong order that the block layer joins are one request in the right order.
    disks.iter().chain(&paths).for_each(|node| set_joins(node, false));
    let trace = Trace::start();
    run_args("fio", &[&what[..], &how, &jobs].concat()).ok();
    let written = trace.end();
    disks.iter().for_each(|disk| set_joins(disk, true));
    for disk in disks {
        let mut at = 0;
        for (sector, sectors) in written.of(disk) {
            assert!(sector == at, "{tool:?}: {disk}: {sector} is written where {at} is next");
            at = sector + sectors;
        }
        assert!(at == MIB, "{tool:?}: {disk}: {at} sectors were written");
    }
    ["self-l", "self-m"].iter().for_each(|name| tool.remove(name));
}

/// Has the block layer join requests to neighbouring sectors of a disk, or not.
fn set_joins(disk: &str, joins: bool) {
    let path = format!("/sys/class/block/{}/queue/nomerges", disk.trim_start_matches("/dev/"));
    fs::write(&path, if joins { "0" } else { "2" }).unwrap_or_else(|e| panic!("{path}: {e}"));
}

/// A device's users are told what its disk needs, and what they are told is enough: memory that
/// begins anywhere, and the largest request in one piece.
fn limits(tool: Tool, _seed: u64) {
    for disk in ["n0", "k0", "s0"].map(node) {
        let path = tool.create("self-limits", &linear(&disk));
        let [of_disk, told] = [&disk, &path].map(|node| move |what| kernel::queue(node, what));
        for what in ["logical_block_size", "physical_block_size", "write_cache", "rotational"] {
            assert!(told(what) == of_disk(what), "{tool:?}: {disk}: {what} is {}", told(what));
        }
        let number = |text: String| text.parse::<u64>().expect("a number");
        let [needed, given] = [&of_disk, &told].map(|queue| number(queue("dma_alignment")));
        assert!(given >= needed, "{tool:?}: {disk}: memory aligned to {given} + 1");
        assert!(number(told("max_segments")) > 0 && number(told("max_segment_size")) >= 4096);
        let open = Disk::open(&path);
        let view = View::new("lims", SIZE);
        view.fill(&open);
        let largest = number(told("max_sectors_kb")) * 2;
        let offset = usize::try_from(given + 1).expect("small");
        for (at, sectors) in [(0, open.block), (open.block, largest), (SIZE - largest, largest)] {
            let mut buf = Buf::in_page(sectors, offset % 4096);
            open.try_read(at, &mut buf).unwrap_or_else(|e| panic!("{disk}: at {offset}: {e}"));
            open.write(at, &buf);
        }
        view.verify(&open);
        drop(open);
        tool.remove("self-limits");
        view.verify_range(&Disk::open(&disk), 0, SIZE);
    }
}

/// This program has a name for everything that the driver can do.
fn features() {
    let said = ublk_dm("features --json").ok().stdout;
    let object: serde_json::Value = serde_json::from_str(&said).expect("JSON");
    assert!(object["unknown"] == 0 && object["bits"].as_u64() > Some(0), "{said}");
}

/// A server dies whose disk is slow: the users of its devices, which wait for no other server, see
/// an error as soon as the disk has answered, and not when the kernel's time limits are over.
fn killed_in_flight() {
    let slow = Faulty::new("slow", "n0", 0, SIZE);
    let other = slice("other", "n1", 0, SIZE);
    let mirror = format!("0 {SIZE} mirror core 2 1024 nosync 2 {} 0 {other} 0", slow.path);
    for line in [linear(&slow.path), mirror] {
        let path = create("l", &line, &["--no-recovery"]);
        let disk = Disk::open(&path);
        slow.set(Fault::Slow { read_ms: 2000, write_ms: 2000 });
        thread::scope(|scope| {
            let writes = scope.spawn(|| disk.try_write(0, &Buf::new(8)));
            thread::sleep(Duration::from_millis(500));
            assert!(!writes.is_finished(), "the disk is not slow");
            let begun = Instant::now();
            kill("l");
            assert!(writes.join().expect("no panic").is_err(), "a write without a server");
            assert!(begun.elapsed() < SOON, "{line}: an error after {:?}", begun.elapsed());
        });
        assert!(server::device("l")["state"] == "dead", "{}", server::device("l"));
        drop(disk);
        slow.heal();
        soon("del l --force");
        server::assert_nothing_left("del --force");
        server::forget_ended_legs();
    }
    drop(slow);
}

/// A command that succeeds and does not take long.
fn soon(line: &str) {
    let begun = Instant::now();
    ublk_dm(line).ok();
    assert!(begun.elapsed() < SOON, "`{line}` took {:?}", begun.elapsed());
}

/// The next server dies as well while it takes the devices over, again and again; another one takes
/// them over all the same, and no write fails. In the end they can be deleted in that state.
fn recover_killed(seed: u64) {
    let (origin, cow) = (slice("org", "n0", 0, SIZE), slice("cow", "n1", 0, 2 * SIZE));
    let view = View::new("orig", SIZE);
    view.fill(&Disk::open(&origin));
    let frozen = view.snapshot("snap");
    let top = server::add(&format!("origin --origin {origin} --name o"));
    let snap = server::add(&format!("snapshot --origin {origin} --cow {cow} --name s"));
    let (disk, stop) = (Disk::open(&top), AtomicBool::new(false));
    let plan = Plan { writers: 4, max_sectors: 64, writes: 200, seconds: 100, may_break: false };
    let mut rng = Rng::new(seed);
    thread::scope(|scope| {
        let _stop = StopOnDrop(&stop);
        let writes = scope.spawn(|| load::write(&view, &disk, seed, plan, &stop));
        let mut halves = 0;
        kill("o");
        for _ in 0..4 {
            halves += u64::from(!recovered_and_killed(rng.below(500)));
        }
        println!("  {halves} of 4 servers died while they took over");
        assert!(halves > 0, "seed {seed}: every server had taken the devices over");
        ublk_dm("recover --all").ok();
        writes.join().expect("no panic").unwrap_or_else(|why| panic!("seed {seed}: {why}"));
    });
    view.verify(&disk);
    frozen.verify(&Disk::open_read_only(&snap));
    drop(disk);
    kill("o");
    recovered_and_killed(150);
    soon("del --all --force");
    server::assert_nothing_left("del --force in the middle of a take-over");
    view.verify(&Disk::open(&origin));
    let judge = kernel::snapshot("judge", &origin, &cow, "P", 32);
    frozen.verify(&Disk::open_read_only(&judge));
    kernel::remove("judge");
}

/// Begins to take devices over, and kills the new server a moment later. Returns whether the
/// command had succeeded.
fn recovered_and_killed(after_ms: u64) -> bool {
    let mut command = Command::new(binary());
    let command = command.args(["recover", "--all"]).stdout(Stdio::null()).stderr(Stdio::null());
    let mut command = command.spawn().expect("it runs");
    thread::sleep(Duration::from_millis(after_ms));
    let done = command.try_wait().expect("a child").is_some();
    // The command may be about to start it.
    server::wait_for(30, "the end of the servers", || {
        let servers = server::processes();
        let servers = servers.into_iter().filter(|pid| *pid != u64::from(command.id()));
        let left = servers.filter(|pid| sh(&format!("kill -9 {pid}")).code == 0).count();
        left == 0 && command.try_wait().expect("a child").is_some()
    });
    done && command.wait().expect("a child").success()
}

/// Whether this kernel can leave the partitions of a device alone.
fn leaves_partitions() -> bool {
    ublk_dm("features --json").ok().stdout.contains("NO_AUTO_PART_SCAN")
}

/// The partitions of a device are its users' business: they appear when somebody asks for them, are
/// in use like the device, and are there under the next server.
fn partitions() {
    let disk = slice("whole", "n0", 0, SIZE);
    put_partition(&disk);
    let path = create("l", &linear(&disk), &[]);
    let first = format!("{path}p1");
    let is_there = || fs::exists(&first).expect("readable");
    assert!(!leaves_partitions() || !is_there(), "{first} is there unasked");
    sh(&format!("blockdev --rereadpt {path}")).ok();
    server::wait_for(10, "the partition", is_there);
    let dir = scratch("partition");
    sh(&format!("mkfs.ext4 -q -F {first}")).ok();
    sh(&format!("mount {first} {dir}")).ok();
    fs::write(format!("{dir}/before"), vec![1; 1 << 20]).expect("written");
    sh("sync").ok();
    let said = ublk_dm("del l").refused();
    assert!(said.stderr.contains("mounted") || said.stderr.contains("in use"), "{}", said.stderr);
    kill("l");
    ublk_dm("recover l").ok();
    assert!(is_there(), "{first} is gone with its server");
    fs::write(format!("{dir}/after"), vec![2; 1 << 20]).expect("written");
    sh(&format!("umount {dir}")).ok();
    server::del("l");
    server::assert_nothing_left("del");
    let sectors = SIZE - u64::from(START);
    let judge = kernel::create("judge", &format!("0 {sectors} linear {disk} {START}"));
    sh(&format!("mount -o ro {judge} {dir}")).ok();
    for (name, byte) in [("before", 1), ("after", 2)] {
        assert!(fs::read(format!("{dir}/{name}")).expect("there") == vec![byte; 1 << 20], "{name}");
    }
    sh(&format!("umount {dir}")).ok();
    kernel::remove("judge");
}

/// A server dies while the kernel reads a device's partition table: who waits for that goes on.
fn scan_killed() {
    let slow = Faulty::new("slow", "n0", 0, SIZE);
    put_partition(&slow.path);
    for (options, state) in [(&["--no-recovery"][..], "dead"), (&[], "quiesced")] {
        let path = create("l", &linear(&slow.path), options);
        slow.set(Fault::Slow { read_ms: 2000, write_ms: 0 });
        fs::write("/proc/sys/vm/drop_caches", "3").expect("caches");
        thread::scope(|scope| {
            let line = format!("blockdev --rereadpt {path}");
            let scan = scope.spawn(move || sh(&line));
            thread::sleep(Duration::from_millis(700));
            assert!(!scan.is_finished(), "the table was not read: {}", scan.join().is_ok());
            let begun = Instant::now();
            kill("l");
            server::wait_for(20, state, || server::device("l")["state"] == state);
            slow.heal();
            if state == "quiesced" {
                assert!(!scan.is_finished(), "a read without a server");
                ublk_dm("recover l").ok();
                scan.join().expect("no panic").ok();
                assert!(fs::exists(format!("{path}p1")).expect("readable"), "its partition");
            } else {
                scan.join().expect("no panic");
            }
            assert!(begun.elapsed() < SOON, "{state}: {:?}", begun.elapsed());
        });
        soon("del l --force");
        server::assert_nothing_left("a scan without a server");
    }
}

/// Sectors of each of many devices.
const PART: u64 = 2 * MIB;

/// Devices of all kinds are made, written and deleted by force, at the same time and twice; or
/// their servers are killed first. Every acknowledged write is on the disks, and nothing is left.
fn stress(seed: u64, killed: bool) {
    for round in 0..2 {
        thread::scope(|scope| {
            for kind in 0..4 {
                scope.spawn(move || written_and_ended(seed, kind, round, killed));
            }
        });
        server::assert_nothing_left("del --force");
        server::forget_ended_legs();
    }
}

/// A device, its disks, and what is deleted with it.
struct Stressed {
    path: String,
    disks: Vec<String>,
    names: String,
}

fn stressed(kind: u64, round: u64) -> Stressed {
    let at = (kind * 2 + round) * 4 * PART;
    let disk = |disk, len| slice(&format!("{disk}-{kind}-{round}"), disk, at, len);
    let (one, name) = (disk("n0", PART), format!("d{kind}"));
    let two = disk("n1", if kind == 2 { 2 * PART } else { PART });
    let (path, disks) = match kind {
        0 => (create(&name, &format!("0 {PART} linear {one} 0"), &[]), vec![one]),
        1 => {
            let line = format!("0 {PART} mirror core 2 1024 nosync 2 {one} 0 {two} 0");
            (create(&name, &line, &[]), vec![one, two])
        }
        2 => {
            let line = format!("0 {PART} snapshot-origin {one}");
            let path = create(&name, &line, &[]);
            create("d2-snap", &format!("0 {PART} snapshot {one} {two} P 8"), &[]);
            (path, vec![one, two])
        }
        _ => {
            let half = PART / 2;
            let line = format!("0 {half} linear {one} 0\n{half} {half} linear {one} {half}");
            (create(&name, &line, &[]), vec![one])
        }
    };
    let names = if kind == 2 { format!("{name} d2-snap") } else { name };
    Stressed { path, disks, names }
}

fn written_and_ended(seed: u64, kind: u64, round: u64, killed: bool) {
    let Stressed { path, disks, names } = stressed(kind, round);
    let name = format!("d{kind}");
    let (view, stop) = (View::new("strs", PART), AtomicBool::new(false));
    let plan =
        Plan { writers: 2, max_sectors: 256, may_break: true, ..Plan::depth_32(1 << 20, 60) };
    thread::scope(|scope| {
        let _stop = StopOnDrop(&stop);
        let (view, stop) = (&view, &stop);
        // It closes the device in the end: only then does the kernel release it.
        let writes = scope
            .spawn(move || load::write(view, &Disk::open(&path), seed ^ kind << 32, plan, stop));
        let device = server::device(&name);
        assert!(device["id"].as_u64() < Some(5), "numbers are used again: {device}");
        thread::sleep(Duration::from_millis(400));
        if killed {
            let pid = device["server_pid"].as_u64().expect("a server");
            ioctl::kill(pid);
            server::wait_gone(pid);
        }
        ublk_dm(&format!("del {names} --force")).ok();
        let done = writes.join().expect("no panic");
        assert!(done.unwrap_or_else(|why| panic!("seed {seed}: {why}")) > 0, "no writes");
    });
    let (acknowledged, maybe) = (view.open_window(), view.take_unacknowledged());
    disks.iter().take(if kind == 2 { 1 } else { 2 }).for_each(|disk| {
        resolve(&Disk::open(disk), acknowledged.clone(), &maybe);
    });
    if kind == 2 {
        let judge = kernel::snapshot("judge", &disks[0], &disks[1], "P", 8);
        View::new("zero", PART).verify(&Disk::open_read_only(&judge));
        kernel::remove("judge");
    }
}
