//! Tests on a real kernel: `/dev/ublkbN` over NVMe and SATA disks, with the kernel's own
//! device-mapper targets as the judge.
//!
//! ```text
//! vm [NAME...]       all cases, or those whose names contain one of the words
//! vm --list          prints the names
//! vm --queue DIR     cases that several machines share, see queue.rs
//! ```
//!
//! `ci/vm` boots the machine this needs; without it (`UBLK_DM_VM` unset) the suite reports that and
//! skips. Random cases take their seed from `UBLK_DM_SEED` and print it. Each case runs in a
//! process of its own, so that a hanging case is reported and abandoned; between cases everything
//! that they made is removed and their disks are wiped. `UBLK_DM_SLOW=N` gives every case N times
//! its time. `UBLK_DM_BIN` puts another program in the place of the `ublk-dm` just built;
//! `UBLK_DM_JUDGE=1` puts the kernel there in the cases of mirrors that can be played so, which
//! tests the cases themselves.

mod cases;
mod condition;
mod disk;
mod faults;
#[allow(unsafe_code)]
mod ioctl;
#[path = "../json_schema.rs"]
mod json_schema;
mod kernel;
mod load;
mod log;
mod mirror;
mod model;
mod power;
mod queue;
mod remote;
mod runner;
mod server;
mod sh;
mod store;
mod tool;
mod trace;
mod tree;

use std::env;
use std::process::ExitCode;

/// A test.
struct Case {
    /// Selects the case and appears in the report.
    name: &'static str,
    /// How long it may take under software emulation.
    bound_s: u64,
    /// The disks that it writes: they are wiped first.
    disks: &'static [&'static str],
    /// Panics when it fails.
    run: fn(seed: u64),
}

fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    let all = cases::all();
    match args.first().map(String::as_str) {
        Some("--list") => {
            all.iter().for_each(|case| println!("{}", case.name));
            return ExitCode::SUCCESS;
        }
        // The runner starts itself with this, once per case.
        Some("--child") => {
            let case = all.iter().find(|case| Some(case.name) == args.get(1).map(String::as_str));
            return runner::child(case.expect("a case's name follows --child"));
        }
        _ => {}
    }
    if env::var_os("UBLK_DM_VM").is_none() {
        println!("skipped: needs a VM, run ci/check");
        println!("0 passed, 0 failed");
        return ExitCode::SUCCESS;
    }
    let queue = args.first().filter(|word| *word == "--queue").and_then(|_| args.get(1));
    // Arguments that `cargo test` passes to every test target are ignored.
    let words: Vec<&String> = args.iter().filter(|word| !word.starts_with('-')).collect();
    let chosen: Vec<&Case> = all
        .iter()
        .filter(|case| words.is_empty() || words.iter().any(|word| case.name.contains(*word)))
        .collect();
    if chosen.is_empty() && queue.is_none() {
        println!("no case has a name like {words:?}; see --list");
        println!("0 passed, 1 failed");
        return ExitCode::FAILURE;
    }
    match queue {
        Some(dir) => runner::run_queue(&all, &queue::Queue::new(dir)),
        None => runner::run(&chosen),
    }
}
