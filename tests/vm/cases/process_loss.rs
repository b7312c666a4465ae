//! A COW that looks valid and is not: the machine's log says so, with the priority of an error.

use std::fs;
use std::os::unix::net::UnixDatagram;

use crate::Case;
use crate::cases::process::heard;
use crate::disk::{Disk, MIB, slice};
use crate::faults::{Fails, Faulty};
use crate::model::View;
use crate::server;

pub fn cases() -> Vec<Case> {
    let disks = &["n0", "n1"];
    vec![Case { name: "process-log-loss", bound_s: 180, disks, run: |_| loss() }]
}

const SIZE: u64 = 8 * MIB;
/// What such a line contains.
const NOT_AGAIN: &str = "must not be used again";

/// A socket of the machine's log.
fn listen(path: &str) -> UnixDatagram {
    let dir = path.rsplit_once('/').expect("an absolute path").0;
    fs::create_dir_all(dir).expect("tmpfs");
    fs::remove_file(path).ok();
    UnixDatagram::bind(path).expect("no other daemon")
}

/// The COW's disk fails, then a chunk must be copied: the snapshot is invalid, and its COW cannot
/// be marked.
fn loss() {
    let (origin, cow) = (slice("org", "n0", 0, SIZE), Faulty::new("bad", "n1", 0, SIZE));
    let line = format!("snapshot --origin {origin} --cow {} --chunk-size 4k --name s", cow.node);
    let view = View::new("orig", SIZE);
    view.fill(&Disk::open(&origin));
    // The journal is preferred to syslog.
    for path in ["/dev/log", "/run/systemd/journal/socket"] {
        let log = listen(path);
        server::add(&line);
        let top = Disk::open(&server::add(&format!("origin --origin {origin} --name o")));
        cow.set(&[(Fails::All, 0, SIZE)]);
        view.write(&top, 0, 8);
        assert!(server::status("s").ends_with(" Invalid"), "{}", server::status("s"));
        let lines = heard(&log, "word of the COW", |line| line.contains(NOT_AGAIN));
        let last = lines.last().expect("a line");
        println!("  {}", last.replace('\n', " | "));
        let is_error = match path {
            "/dev/log" => last.starts_with("<27>ublk-dm["),
            _ => last.lines().any(|field| field == "PRIORITY=3"),
        };
        assert!(is_error, "not with the priority of an error: {last:?}");
        assert!(last.contains("s: could not mark the COW invalid"), "whose COW? {last:?}");
        assert!(last.contains(&cow.node), "which disk? {last:?}");
        view.verify(&top);
        drop(top);
        cow.set(&[]);
        server::del("--all");
        // The log that is kept says it, too.
        let kept = server::log();
        let says = |line: &str| line.contains("ERROR s: ") && line.contains(NOT_AGAIN);
        assert!(kept.lines().any(says), "{kept}");
        // A new store takes the place of the lost one: nothing remains to be warned of.
        Disk::open(&cow.node).zero(0, 8);
        server::add(&line);
        server::del("s");
        Disk::open(&cow.node).zero(0, 8);
        drop(log);
        fs::remove_file(path).ok();
    }
    server::assert_nothing_left("del");
}
