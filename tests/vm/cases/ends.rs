//! How snapshots end: after their origin, before it, and when their last records or their mark
//! cannot be written. Afterwards a snapshot shows the right content, or is known to be lost.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crate::Case;
use crate::cases::process::Service;
use crate::disk::{Disk, MIB, slice};
use crate::faults::{Fails, Faulty};
use crate::load::{self, Plan, StopOnDrop};
use crate::model::{View, resolve};
use crate::runner::scratch;
use crate::sh::{sh, ublk_dm};
use crate::{server, store};

pub fn cases() -> Vec<Case> {
    let disks = &["n0", "n1"];
    vec![
        Case { name: "ends-origin-first", bound_s: 90, disks, run: origin_first },
        Case { name: "ends-left-behind", bound_s: 90, disks, run: |_| left_behind() },
        Case {
            name: "ends-left-behind-killed",
            bound_s: 120,
            disks,
            run: |_| left_behind_and_killed(),
        },
        Case { name: "ends-mounted", bound_s: 90, disks, run: |_| mounted() },
        Case { name: "ends-last-commit", bound_s: 120, disks, run: |_| last_commit() },
        Case { name: "ends-by-signal", bound_s: 120, disks, run: |_| last_commit_at_a_signal() },
        Case { name: "ends-of-tables", bound_s: 60, disks, run: |_| tables() },
        Case { name: "ends-lost-recovered", bound_s: 90, disks, run: |_| lost_and_recovered() },
    ]
}

const SIZE: u64 = 8 * MIB;
/// Sectors of the snapshots' chunks.
const CHUNK: u64 = 8;

/// The snapshot has the lower number, and its origin is written while all devices are deleted.
fn origin_first(seed: u64) {
    let (origin, cow) = (slice("org", "n0", 0, SIZE), slice("cow", "n1", 0, 2 * SIZE));
    let view = View::new("orig", SIZE);
    view.fill(&Disk::open(&origin));
    let snapshot = format!("snapshot --origin {origin} --cow {cow} --chunk-size 4k --name s");
    server::add(&snapshot);
    let top = Disk::open(&server::add(&format!("origin --origin {origin} --name o")));
    assert!(
        server::number("s", "/id") < server::number("o", "/id"),
        "the snapshot must come first"
    );
    let frozen = view.snapshot("snap");
    let stop = AtomicBool::new(false);
    let plan = Plan { max_sectors: 64, may_break: true, ..Plan::depth_32(1_000_000, 60) };
    thread::scope(|scope| {
        let _stop = StopOnDrop(&stop);
        // The writers close the device in the end: only then does the kernel release it.
        let writer = scope.spawn(|| load::write(&view, &top, seed, plan, &stop).map(|_| ()));
        server::wait_for(20, "writes", || server::number("o", "/stats/writes") > 40);
        ublk_dm("del --all --force").ok();
        stop.store(true, Ordering::Relaxed);
        writer.join().expect("no panic").unwrap_or_else(|why| panic!("seed {seed}: {why}"));
    });
    drop(top);
    server::assert_nothing_left("del --all --force");
    let disk = Disk::open(&origin);
    view.put(resolve(&disk, view.open_window(), &view.take_unacknowledged()));
    view.verify(&disk);
    drop(disk);
    store::assert_header(&Disk::open(&cow), CHUNK, true);
    let again = Disk::open(&server::add(&snapshot));
    frozen.verify(&again);
    drop(again);
    server::del("s");
    server::assert_nothing_left("del");
}

/// A deleted snapshot is valid until its origin is written, and refused from then on, until its COW
/// is wiped.
fn left_behind() {
    let (origin, cow) = (slice("org", "n0", 0, SIZE), slice("cow", "n1", 0, 2 * SIZE));
    let view = View::new("orig", SIZE);
    view.fill(&Disk::open(&origin));
    let top = Disk::open(&server::add(&format!("origin --origin {origin} --name o")));
    let line = format!("snapshot --origin {origin} --cow {cow} --chunk-size 4k --name s");
    server::add(&line);
    let frozen = view.snapshot("snap");
    view.write(&top, 100, 50);
    let said = ublk_dm("del s").ok().stderr;
    assert!(said.contains("its snapshot is lost with the next write to o"), "{said}");
    assert!(server::lost().is_empty(), "nothing is lost before the origin is written");
    let again = Disk::open(&server::add(&line));
    frozen.verify(&again);
    drop(again);
    view.write(&top, 200, 50);
    server::del("s");
    view.write(&top, 300, 50);
    for option in ["", " --force"] {
        let said = ublk_dm(&format!("add {line}{option}")).refused();
        assert!(
            said.code == 1 && said.stderr.contains("is lost: its origin was changed"),
            "{}",
            said.stderr
        );
    }
    assert!(server::lost().len() == 1, "one store is lost: {:?}", server::lost());
    Disk::open(&cow).zero(0, CHUNK);
    let new = Disk::open(&server::add(&line));
    view.snapshot("snap").verify(&new);
    drop((new, top));
    server::del("o s");
    server::assert_nothing_left("del");
}

/// As [`left_behind`], but the server that knew of the departure is killed, or ends, before the
/// origin is written: the next server knows of it as well.
fn left_behind_and_killed() {
    let (origin, cow) = (slice("org", "n0", 0, SIZE), slice("cow", "n1", 0, 2 * SIZE));
    let view = View::new("orig", SIZE);
    view.fill(&Disk::open(&origin));
    let add_origin = format!("origin --origin {origin} --name o");
    let line = format!("snapshot --origin {origin} --cow {cow} --chunk-size 4k --name s");
    for killed in [true, false] {
        server::add(&add_origin);
        server::add(&line);
        let frozen = view.snapshot("snap");
        server::del("s");
        let pid = server::number("o", "/server_pid");
        if killed {
            sh(&format!("kill -9 {pid}")).ok();
            server::wait_gone(pid);
            server::wait_for(20, "state quiesced", || server::device("o")["state"] == "quiesced");
            ublk_dm("recover o").ok();
        } else {
            server::del("o");
            server::add(&add_origin);
        }
        // Nothing has changed yet.
        let again = Disk::open(&server::add(&line));
        frozen.verify(&again);
        drop(again);
        server::del("s");
        let pid = server::number("o", "/server_pid");
        sh(&format!("kill -9 {pid}")).ok();
        server::wait_gone(pid);
        server::wait_for(20, "state quiesced", || server::device("o")["state"] == "quiesced");
        ublk_dm("recover o").ok();
        let id = server::number("o", "/id");
        let top = Disk::open(&format!("/dev/ublkb{id}"));
        view.write(&top, 300, 50);
        drop(top);
        let said = ublk_dm(&format!("add {line}")).refused();
        assert!(
            said.code == 1 && said.stderr.contains("is lost: its origin was changed"),
            "{}",
            said.stderr
        );
        Disk::open(&cow).zero(0, CHUNK);
        let new = Disk::open(&server::add(&line));
        view.snapshot("snap").verify(&new);
        drop(new);
        server::del("o s");
        Disk::open(&cow).zero(0, CHUNK);
    }
    server::assert_nothing_left("del");
}

/// A snapshot that is deleted while its origin is mounted is marked on its COW.
fn mounted() {
    let (origin, cow) = (slice("org", "n0", 0, 16 * MIB), slice("cow", "n1", 0, 16 * MIB));
    let top = server::add(&format!("origin --origin {origin} --name o"));
    sh(&format!("mkfs.ext4 -q -F {top}")).ok();
    let dir = scratch("ends");
    sh(&format!("mount {top} {dir}")).ok();
    server::add(&format!("snapshot --origin {origin} --cow {cow} --chunk-size 4k --name s"));
    server::del("s");
    store::assert_header(&Disk::open(&cow), CHUNK, false);
    sh(&format!("umount {dir}")).ok();
    server::del("o");
    server::assert_nothing_left("del");
}

/// A write that is acknowledged and not flushed, and whose record cannot be written: `del` and
/// `suspend` report it.
fn last_commit() {
    let (origin, cow) = (slice("org", "n0", 0, SIZE), Faulty::new("bad", "n1", 0, SIZE));
    let line = format!("snapshot --origin {origin} --cow {} --chunk-size 4k --name s", cow.node);
    for verb in ["suspend s", "del s"] {
        // A record stays in the journal for half a second: on a slow machine that can be over
        // before the command.
        let told = (0..8).any(|_| {
            cow.set(&[]);
            Disk::open(&cow.node).zero(0, CHUNK);
            let view = View::new("snap", SIZE);
            let snap = Disk::open(&server::add(&line));
            cow.set(&[(Fails::All, CHUNK, CHUNK)]);
            view.write(&snap, 8, 8);
            drop(snap);
            let out = ublk_dm(verb);
            if verb.starts_with("suspend") {
                ublk_dm("resume s").ok();
                server::del("s");
            }
            let told =
                out.code == 1 && out.stderr.contains(&cow.node) && out.stderr.contains("are lost");
            assert!(told || out.code == 0, "{verb}: exit {} and {:?}", out.code, out.stderr);
            told
        });
        assert!(told, "{verb} said nothing of writes that are lost");
    }
    // Also if no server is left.
    assert!(server::log().contains("are lost"), "the log that is kept says: {}", server::log());
    server::assert_nothing_left("del");
}

/// The same at SIGTERM: no command waits for an answer, so the exit code says it, and the log that
/// is kept.
fn last_commit_at_a_signal() {
    let (origin, cow) = (slice("org", "n0", 0, SIZE), Faulty::new("bad", "n1", 0, SIZE));
    let line = format!(
        "add snapshot --origin {origin} --cow {} --chunk-size 4k --name s --foreground",
        cow.node
    );
    // A record lingers for half a second, as above.
    let told = (0..8).any(|_| {
        cow.set(&[]);
        Disk::open(&cow.node).zero(0, CHUNK);
        let mut service = Service::start("s", &line);
        service.hears("READY=1");
        let snap = Disk::open(&format!("/dev/ublkb{}", server::number("s", "/id")));
        cow.set(&[(Fails::All, CHUNK, CHUNK)]);
        View::new("snap", SIZE).write(&snap, 8, 8);
        drop(snap);
        service.signal("TERM");
        let code = service.ends();
        assert!(code == 0 || code == 1, "exit {code}");
        code == 1
    });
    assert!(told, "the exit code says nothing of writes that are lost");
    let log = server::log();
    assert!(log.lines().any(|line| line.contains("are lost") && line.contains(&cow.node)), "{log}");
    server::assert_nothing_left("SIGTERM");
}

/// A device has the length of its table, and no table is longer than its disk.
fn tables() {
    let (origin, cow) = (slice("org", "n0", 0, SIZE), slice("cow", "n1", 0, SIZE));
    let create = |name: &str, len: u64, target: &str| {
        let line = format!("0 {len} {target}");
        crate::sh::run_args(&crate::sh::binary(), &["create", name, "--table", &line])
    };
    for (target, name) in [
        (format!("snapshot-origin {origin}"), "o"),
        (format!("snapshot {origin} {cow} P 8"), "s"),
        (format!("mirror core 2 1024 nosync 2 {origin} 0 {cow} 0"), "m"),
    ] {
        let disk = Disk::open(&create(name, SIZE / 2, &target).ok().line());
        assert!(disk.sectors == SIZE / 2, "{target} has {} sectors", disk.sectors);
        drop(disk);
        let table = server::table(name);
        assert!(table.starts_with(&format!("0 {} ", SIZE / 2)), "{target}: the table is {table}");
        server::del(name);
        Disk::open(&cow).zero(0, CHUNK);
        let refused = create(name, SIZE + 8, &target).refused();
        assert!(
            refused.code == 1 && refused.stderr.contains(&origin),
            "{target}: {:?}",
            refused.stderr
        );
        assert!(
            Disk::open(&cow).read(0, 64).iter().all(|byte| *byte == 0),
            "{target}: the COW was written"
        );
        // The mirror has written to the origin of the snapshot that was deleted before.
        assert!(server::forget_lost() == usize::from(name == "m"), "{target}: is `s` lost?");
        server::assert_nothing_left("a refused create");
    }
}

/// The mark cannot be written, the server dies, and the next server knows of the loss.
fn lost_and_recovered() {
    let (origin, cow) = (slice("org", "n0", 0, SIZE), Faulty::new("bad", "n1", 0, SIZE));
    let line = format!("snapshot --origin {origin} --cow {} --chunk-size 4k --name s", cow.node);
    let view = View::new("orig", SIZE);
    view.fill(&Disk::open(&origin));
    let top = Disk::open(&server::add(&format!("origin --origin {origin} --name o")));
    let pid = {
        server::add(&line);
        server::number("s", "/server_pid")
    };
    cow.set(&[(Fails::All, 0, SIZE)]);
    view.write(&top, 0, 8);
    assert!(server::status("s").ends_with(" Invalid"), "{}", server::status("s"));
    assert!(server::lost().len() == 1, "one store is lost: {:?}", server::lost());
    sh(&format!("kill -9 {pid}")).ok();
    server::wait_gone(pid);
    server::wait_for(20, "state quiesced", || server::device("s")["state"] == "quiesced");
    cow.set(&[]);
    store::assert_header(&Disk::open(&cow.node), CHUNK, true);
    ublk_dm("recover --all").ok();
    assert!(server::status("s").ends_with(" Invalid"), "{}", server::status("s"));
    view.verify(&top);
    drop(top);
    server::del("o s");
    // The mark can be written now.
    store::assert_header(&Disk::open(&cow.node), CHUNK, false);
    let said = ublk_dm(&format!("add {line}")).refused();
    assert!(said.code == 1 && said.stderr.contains("could not be marked"), "{}", said.stderr);
    Disk::open(&cow.node).zero(0, CHUNK);
    server::add(&line);
    server::del("s");
    server::assert_nothing_left("del");
}
