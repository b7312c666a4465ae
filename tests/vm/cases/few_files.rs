//! Limits of open files: a server raises its own as far as it may, and where that is not far
//! enough, `add` names the limit and leaves nothing behind.

use std::fs;

use crate::Case;
use crate::disk::{Disk, MIB, is_free, slice};
use crate::model::View;
use crate::server;
use crate::sh::{Out, binary, run_args};

pub fn cases() -> Vec<Case> {
    vec![Case {
        name: "process-few-files",
        bound_s: 300,
        disks: &["n0", "n1"],
        run: |_| {
            enough();
            too_few();
        },
    }]
}

const SIZE: u64 = 2 * MIB;
/// A limit that an origin and its snapshots need more than.
const FEW: u64 = 48;
/// A limit that is high enough for all of them.
const MANY: u64 = 4096;
const SNAPSHOTS: u64 = 20;

/// Runs `ublk-dm add LINE`, and with it perhaps a server, with a soft and a hard limit.
fn add_within(soft: u64, hard: u64, line: &str) -> Out {
    let script = format!("ulimit -Sn {soft} && ulimit -Hn {hard} && exec $0 add {line}");
    run_args("bash", &["-c", &script, &binary()])
}

fn open_files(pid: u64) -> u64 {
    fs::read_dir(format!("/proc/{pid}/fd")).expect("its files").count() as u64
}

/// The files in the run directory.
fn run_files() -> Vec<String> {
    let entries = fs::read_dir(server::run_dir()).expect("the run directory").flatten();
    let mut names: Vec<_> =
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// The parts of the disks that are the origin and the COWs.
fn parts() -> (String, Vec<String>) {
    let cow = |n| slice(&format!("c{n}"), "n1", n * 2 * MIB, MIB);
    (slice("org", "n0", 0, SIZE), (0..SNAPSHOTS).map(cow).collect())
}

fn line(origin: &str, cow: &str, n: usize) -> String {
    format!("snapshot --origin {origin} --cow {cow} --chunk-size 4k --name s{n}")
}

/// The soft limit is one for programs that use `select`: the server raises it.
fn enough() {
    let (origin, cows) = parts();
    let view = View::new("orig", SIZE);
    view.fill(&Disk::open(&origin));
    let add = |line: &str| add_within(FEW, MANY, line).ok().line();
    let top = Disk::open(&add(&format!("origin --origin {origin} --name o")));
    let frozen = view.snapshot("none");
    let added: Vec<String> =
        cows.iter().enumerate().map(|(n, cow)| add(&line(&origin, cow, n))).collect();
    let pid = server::number("o", "/server_pid");
    assert_eq!(server::number("s19", "/server_pid"), pid, "they have one server");
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).expect("its limits");
    let limit = limits.lines().find(|line| line.starts_with("Max open files")).expect("a line");
    let numbers: Vec<&str> =
        limit.split_whitespace().filter(|word| word.parse::<u64>().is_ok()).collect();
    assert_eq!(numbers, ["4096"; 2], "soft and hard limit: {limit}");
    let open = open_files(pid);
    println!("  {open} files are open for an origin and {SNAPSHOTS} snapshots");
    assert!(open > FEW, "{open} files are open: the limit of {FEW} is not tested");
    view.write(&top, 100, 50);
    added.iter().for_each(|path| frozen.verify(&Disk::open(path)));
    drop(top);
    take_down();
}

/// The hard limit is as low: the first snapshot that does not fit is refused, and what fits stays
/// in use.
fn too_few() {
    let (origin, cows) = parts();
    let view = View::new("orig", SIZE);
    view.fill(&Disk::open(&origin));
    cows.iter().for_each(|cow| Disk::open(cow).zero(0, MIB));
    let top = add_within(FEW, FEW, &format!("origin --origin {origin} --name o")).ok().line();
    let (top, frozen) = (Disk::open(&top), view.snapshot("none"));
    let mut added = Vec::new();
    let refused = cows.iter().enumerate().find_map(|(n, cow)| {
        let out = add_within(FEW, FEW, &line(&origin, cow, n));
        if out.code == 0 {
            added.push(out.line());
            return None;
        }
        Some((cow, out))
    });
    let fit = added.len();
    let (cow, out) = refused.unwrap_or_else(|| panic!("{fit} snapshots with {FEW} open files"));
    println!("  {fit} fit: {}", out.stderr.trim());
    let out = out.refused();
    assert!(out.code == 1 && out.stderr.contains("ulimit -Hn"), "{}", out.stderr);
    assert!(out.stderr.contains(&format!("at most {FEW} files")), "{}", out.stderr);
    // Nothing is left of the refused one, and a second attempt finds the same.
    let pid = server::number("o", "/server_pid");
    let before = (open_files(pid), run_files());
    let again = add_within(FEW, FEW, &line(&origin, cow, fit)).refused();
    assert!(again.stderr.contains("ulimit -Hn"), "the second time: {}", again.stderr);
    assert_eq!((open_files(pid), run_files()), before, "files are left open, or behind");
    assert_eq!(server::list().len(), 1 + fit, "{:?}", server::list());
    assert!(is_free(cow), "{cow} is still claimed");
    let start = Disk::open(cow).read(0, MIB);
    assert!(start.iter().all(|byte| *byte == 0), "a store is left on {cow}");
    // The others are served.
    view.write(&top, 100, 50);
    added.iter().for_each(|path| frozen.verify(&Disk::open(path)));
    view.verify(&top);
    drop(top);
    take_down();
}

fn take_down() {
    server::del("--all");
    server::assert_nothing_left("del --all");
    // The next origin on these disks is another one.
    server::forget_departed();
    (0..SNAPSHOTS).for_each(|n| crate::kernel::remove(&format!("c{n}")));
    crate::kernel::remove("org");
}
