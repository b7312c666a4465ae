//! Observing a mirror: its events, the progress and speed of a recovery, the effect of a throttle,
//! and the small cost of the log for concurrent writes.

use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::Case;
use crate::condition::{Fault, Faulty};
use crate::disk::{Disk, completed, slice};
use crate::log::{self, Image};
use crate::mirror::{self, Did, Engine, Mirror, Request, Shape, ours};
use crate::model::View;
use crate::server;
use crate::sh::ublk_dm;

pub fn cases() -> Vec<Case> {
    let disks = &["n0", "n1", "n2"];
    vec![
        Case { name: "mirror-watch-events", bound_s: 60, disks, run: |_| events() },
        Case { name: "mirror-watch-recovery", bound_s: 60, disks, run: |_| recovery() },
        Case { name: "mirror-watch-throttle", bound_s: 60, disks, run: |_| throttle() },
        Case { name: "mirror-watch-shared-marks", bound_s: 60, disks, run: |_| shared_marks() },
    ]
}

/// Half a MiB: the size of one copy of a recovery.
const REGION: u64 = 1024;

/// `wait` ends when a recovery has ended, when a leg fails and when the log fails; until then it
/// waits, and for earlier events it does not wait.
fn events() {
    if ours() == Engine::Kernel {
        return;
    }
    const LEN: u64 = 8 * REGION;
    let first = slice("leg0", "n0", 0, LEN);
    let (second, dirty) =
        (Faulty::new("leg1", "n1", 0, LEN), Faulty::new("log", "n2", 0, log::sectors(8)));
    let shape = Shape::new(LEN, REGION, &[&first, &second.path]).log(&dirty.path);
    let view = View::new("mirr", LEN);
    view.fill(&Disk::open(&first));
    second.set(Fault::Slow { read_ms: 0, write_ms: 20_000 });
    let served = Mirror::open(Engine::Ublk, "m", &shape);
    let disk = served.disk();
    let none = server::number("m", "/events");
    let synced = next_event(none, || second.heal());
    served.wait_in_sync();
    let failed = next_event(synced, || {
        second.set(Fault::Gone);
        view.write(&disk, 8, 8);
    });
    assert!(
        served.status().letters == "AD",
        "status is {} after a leg has failed",
        served.status().short()
    );
    let lost = next_event(failed, || {
        dirty.set(Fault::Gone);
        view.write(&disk, 5 * REGION, 8);
    });
    assert!(
        served.status().short() == "6/8 AD D",
        "status is {} without a log",
        served.status().short()
    );
    for past in [none, synced, failed] {
        let now = ublk_dm(&format!("wait m {past}")).ok().line();
        assert!(now == lost.to_string(), "`wait m {past}` says {now} after {lost} events");
    }
    second.heal();
    dirty.heal();
    drop(disk);
    served.close();
}

/// The event counter that `wait` prints after an event is caused; it must not end before.
fn next_event(seen: u64, cause: impl FnOnce()) -> u64 {
    let pid = server::number("m", "/server_pid");
    thread::scope(|scope| {
        let waiting = scope.spawn(move || ublk_dm(&format!("wait m {seen}")).ok().line());
        server::wait_for(20, "wait to ask", || server::has_waiting_command(pid));
        assert!(!waiting.is_finished(), "wait has ended though nothing has happened");
        cause();
        let count: u64 = waiting.join().expect("no panic").parse().expect("a count");
        assert!(count > seen, "`wait m {seen}` says {count}");
        count
    })
}

/// The recovery of the mirror `m` in `status --json`.
fn progress() -> Value {
    let out = ublk_dm("status m --json").ok().line();
    let json: Value =
        serde_json::from_str(&out).unwrap_or_else(|e| panic!("status --json: {e} in {out:?}"));
    json["mirror"]["recovery"].clone()
}

/// The progress, speed and remaining time of a recovery: numbers that agree with each other and the
/// clock.
fn recovery() {
    if ours() == Engine::Kernel {
        return;
    }
    const REGIONS: u64 = 96;
    const COPY_MS: u64 = 1000;
    let first = slice("leg0", "n0", 0, REGIONS * REGION);
    let second = Faulty::new("leg1", "n1", 0, REGIONS * REGION);
    let shape = Shape::new(REGIONS * REGION, REGION, &[&first, &second.path]);
    second.set(Fault::Slow { read_ms: 0, write_ms: COPY_MS });
    let begun = Instant::now();
    let served = Mirror::open(Engine::Ublk, "m", &shape);
    let (mut done, mut seen) = (0, 0);
    server::wait_for(40, "three looks at a recovery under way", || {
        let json = progress();
        if json.is_null() && seen == 0 {
            return false; // it has not begun
        }
        let number = |key: &str| json[key].as_u64();
        let (Some(now), Some(bytes), Some(rate)) =
            (number("done_regions"), number("bytes"), number("bytes_per_second"))
        else {
            panic!("a recovery of {REGIONS} regions says {json}");
        };
        assert!(
            number("total_regions") == Some(REGIONS) && (done..REGIONS).contains(&now),
            "{json} after {done} done"
        );
        if now == done {
            return false;
        }
        (done, seen) = (now, seen + 1);
        let elapsed_ms = u64::try_from(begun.elapsed().as_millis()).expect("not so long");
        assert!(
            (now * REGION * 512..=REGIONS * REGION * 512).contains(&bytes),
            "too few or too many bytes: {json}"
        );
        // The server counts the time since it began, which was after `begun`; no copy takes less
        // than COPY_MS, but for a tick.
        let possible = bytes * 1000 / elapsed_ms..=bytes * 1000 / (COPY_MS - 10);
        assert!(possible.contains(&rate), "the rate should be in {possible:?}: {json}");
        let left = (REGIONS - now) * REGION * 512;
        assert!(number("seconds_left") == Some(left / rate), "{left} bytes are left: {json}");
        seen == 3
    });
    second.heal();
    served.wait_in_sync();
    assert!(progress().is_null(), "after the recovery: {}", progress());
    served.close();
    mirror::assert_legs_equal(&shape, "after a recovery that was looked at");
}

/// With a throttle of one percent copies that take a while each wait for a second first, so that on
/// any machine no more are done in a given time than the throttle allows; without the throttle they
/// would all be done by then.
fn throttle() {
    if ours() == Engine::Kernel {
        return;
    }
    const REGIONS: u64 = 160;
    /// Copies at the same time.
    const LANES: u64 = 8;
    let first = slice("leg0", "n0", 0, REGIONS * REGION);
    let second = Faulty::new("leg1", "n1", 0, REGIONS * REGION);
    let shape = Shape::new(REGIONS * REGION, REGION, &[&first, &second.path]);
    // No copy is made before the throttle is set.
    second.set(Fault::Slow { read_ms: 0, write_ms: 3000 });
    let served = Mirror::open(Engine::Ublk, "m", &shape);
    ublk_dm("message m throttle 1").ok();
    second.set(Fault::Slow { read_ms: 0, write_ms: 100 });
    let (begun, before) = (Instant::now(), served.status().in_sync);
    thread::sleep(Duration::from_secs(3));
    let after = served.status().in_sync;
    let (limited, most) = (after - before, LANES * (begun.elapsed().as_secs() + 2));
    assert!(
        limited <= most && after < REGIONS,
        "{limited} regions, not at most {most}, with a throttle of 1 %"
    );
    ublk_dm("message m throttle 100").ok();
    let begun = Instant::now();
    served.wait_in_sync();
    let ms = begun.elapsed().as_millis();
    println!("  {limited} regions in 3 s at 1 %, then {} in {ms} ms at 100 %", REGIONS - after);
    served.close();
    mirror::assert_legs_equal(&shape, "after a throttled recovery");
}

/// Writes to clean regions that arrive while the log is being written share the next write of the
/// log: two or three writes of the log for all of them, and some for regions that are cleared
/// meanwhile, however slow the machine is.
fn shared_marks() {
    const REGIONS: u64 = 128;
    const WRITES: u64 = 32;
    const LEN: u64 = 64 * REGIONS;
    let legs = [slice("leg0", "n0", 0, LEN), slice("leg1", "n1", 0, LEN)];
    let dirty = Faulty::new("log", "n2", 0, log::sectors(REGIONS));
    let shape = Shape::new(LEN, 64, &[&legs[0], &legs[1]]).log(&dirty.path);
    let view = View::new("mirr", LEN);
    mirror::fill(&view, &shape);
    Image::new(REGIONS, true).put(&Disk::open(&dirty.path), log::sectors(REGIONS));
    for engine in [Engine::Kernel, ours()] {
        let served = Mirror::open(engine, "m", &shape);
        dirty.set(Fault::Slow { read_ms: 0, write_ms: 1000 });
        let before = completed(&dirty.path, 4);
        let requests: Vec<_> = (0..WRITES)
            .map(|n| {
                let ticket = view.begin(n * 4 * 64 + 8, 8).expect("no other writer");
                (Request::write(&served.path, ticket), ticket)
            })
            .collect();
        for (request, ticket) in requests {
            let did = request.did(30_000);
            assert!(did == Did::Success, "{engine:?}: a write while the log is slow: {did:?}");
            view.end(ticket);
        }
        let writes = completed(&dirty.path, 4) - before;
        println!("  {engine:?}: {writes} writes of the log for {WRITES} writes");
        assert!(
            (1..=WRITES / 4).contains(&writes),
            "{engine:?}: {writes} writes of the log for {WRITES} writes"
        );
        dirty.heal();
        view.verify(&served.disk());
        served.close();
        mirror::assert_legs_equal(&shape, &format!("{engine:?} with a slow log"));
    }
}
