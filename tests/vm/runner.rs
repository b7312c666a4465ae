//! Runs the cases one after another, each in a child process under its bound, and cleans up.
//!
//! A child writes why it failed to the file named by `UBLK_DM_VM_WHY`; the first panic counts.
//! A case that passes but leaves a mount, a device, a process or a file behind has failed.

use std::env;
use std::fs;
use std::io::Write as _;
use std::panic;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::Case;
use crate::disk;
use crate::ioctl;
use crate::kernel;
use crate::mirror;
use crate::queue::Queue;
use crate::server;
use crate::sh::{binary, dmesg_tail, run_args};

/// All mounts and files of the cases live below this directory.
pub const SCRATCH: &str = "/tmp/ublk-dm-vm";

/// A scratch directory, made on demand.
pub fn scratch(name: &str) -> String {
    let dir = format!("{SCRATCH}/{name}");
    fs::create_dir_all(&dir).unwrap_or_else(|e| panic!("{dir}: {e}"));
    dir
}

/// The body of a child process.
pub fn child(case: &Case) -> ExitCode {
    let default = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        default(info);
        let payload = info.payload();
        let text = payload
            .downcast_ref::<String>()
            .map(String::as_str)
            .or(payload.downcast_ref::<&str>().copied());
        let place =
            info.location().map(|l| format!(" ({}:{})", l.file(), l.line())).unwrap_or_default();
        let why = format!("{}{place}", text.unwrap_or("panic"));
        // Only the first panic tells the cause; later ones are other threads falling over it.
        let path = env::var("UBLK_DM_VM_WHY").unwrap_or_else(|_| "/dev/null".to_string());
        if let Ok(mut file) = fs::OpenOptions::new().write(true).create_new(true).open(path) {
            file.write_all(why.as_bytes()).ok();
        }
    }));
    let seed = env::var("UBLK_DM_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(1);
    match panic::catch_unwind(|| (case.run)(seed)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// The results so far.
#[derive(Default)]
struct Counts {
    passed: u32,
    failed: u32,
}

/// Runs the cases and prints the counts; the exit code says whether all passed.
pub fn run(cases: &[&Case]) -> ExitCode {
    let begun = Instant::now();
    let mut counts = Counts::default();
    clean_up_first();
    for case in cases {
        counts.case(case);
    }
    counts.end(begun)
}

/// Runs cases from a queue until none is left, or until a case leaves the machine in a state in
/// which the next ones would fail: a new machine runs those.
pub fn run_queue(all: &[Case], queue: &Queue) -> ExitCode {
    let begun = Instant::now();
    let mut counts = Counts::default();
    clean_up_first();
    loop {
        let name = match queue.take() {
            Ok(Some(name)) => name,
            Ok(None) => break,
            Err(error) => {
                println!("FAILED queue: {error}");
                counts.failed += 1;
                break;
            }
        };
        let Some(case) = all.iter().find(|case| case.name == name) else {
            println!("FAILED {name}: there is no such case");
            counts.failed += 1;
            continue;
        };
        // A watcher outside detects from this line that the machine itself hangs.
        println!("start {name} (at most {} s)", case.bound_s * slowness());
        if !counts.case(case) {
            println!("what {name} left behind would disturb others: this machine ends");
            break;
        }
    }
    counts.end(begun)
}

fn clean_up_first() {
    if let Err(left) = clean_up() {
        println!("warning: before the first case: {}", left.what);
    }
}

impl Counts {
    /// Runs one case and prints its result. Returns whether the machine is unchanged.
    fn case(&mut self, case: &Case) -> bool {
        let start = Instant::now();
        let seed = seed();
        let result = one(case, seed);
        let cleaned = clean_up();
        let clean = !matches!(result, Err(End::Hangs(_)))
            && !matches!(cleaned, Err(Left { for_good: true, .. }));
        let why = match (result, cleaned) {
            (Ok(()), Ok(())) => None,
            (Ok(()), Err(left)) => Some(left.what),
            (Err(End::Fails(why) | End::Hangs(why)), cleaned) => {
                if let Err(left) = cleaned {
                    println!("  clean-up after {}: {}", case.name, left.what);
                }
                Some(why)
            }
        };
        let took = start.elapsed().as_secs_f64();
        if let Some(why) = why {
            self.failed += 1;
            println!("  seed of {}: UBLK_DM_SEED={seed}, after {took:.1} s", case.name);
            println!("FAILED {}: {}", case.name, why.lines().collect::<Vec<_>>().join(" | "));
        } else {
            self.passed += 1;
            println!("ok {} ({took:.1} s)", case.name);
        }
        clean
    }

    fn end(&self, begun: Instant) -> ExitCode {
        println!("all in {:.0} s", begun.elapsed().as_secs_f64());
        println!("{} passed, {} failed", self.passed, self.failed);
        if self.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

/// How a case failed.
enum End {
    /// It ended with a reason.
    Fails(String),
    /// It is still running.
    Hangs(String),
}

/// Things that a case had left behind.
struct Left {
    what: String,
    /// Whether some of them could not be removed.
    for_good: bool,
}

fn seed() -> u64 {
    let given = env::var("UBLK_DM_SEED").ok().and_then(|s| s.parse().ok());
    let clock =
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |d| u64::from(d.subsec_nanos()));
    given.unwrap_or(clock)
}

/// How many times longer than planned cases may take, on a machine with other work to do.
fn slowness() -> u64 {
    env::var("UBLK_DM_SLOW").ok().and_then(|s| s.parse().ok()).unwrap_or(1)
}

fn one(case: &Case, seed: u64) -> Result<(), End> {
    for disk in case.disks {
        disk::wipe(disk);
    }
    let why_path = PathBuf::from("/tmp/ublk-dm-vm.why");
    fs::remove_file(&why_path).ok();
    let mut child = Command::new(env::current_exe().map_err(|e| End::Fails(e.to_string()))?)
        .args(["--child", case.name])
        .env("UBLK_DM_SEED", seed.to_string())
        .env("UBLK_DM_VM_WHY", &why_path)
        .stdin(Stdio::null())
        .spawn()
        .map_err(|e| End::Fails(format!("cannot start the case: {e}")))?;
    let bound_s = case.bound_s * slowness();
    let end = wait(&mut child, bound_s, &why_path);
    let why = fs::read_to_string(&why_path).unwrap_or_default();
    if end.is_none() {
        dump(child.id());
        child.kill().ok(); // it may be in an uninterruptible sleep: do not wait for it
    }
    match end {
        Some(true) => Ok(()),
        Some(false) if why.is_empty() => Err(End::Fails("ended without a word".to_string())),
        None if why.is_empty() => Err(End::Hangs(format!("takes longer than {bound_s} s"))),
        None => Err(End::Hangs(format!("{why}, and then it did not end"))),
        Some(false) => Err(End::Fails(why)),
    }
}

/// Whether the child ended well; `None` if it is still running after `seconds`, or 20 s after it
/// gave a reason: its other threads may wait for a device that no longer answers.
fn wait(child: &mut Child, seconds: u64, why: &Path) -> Option<bool> {
    let mut until = Instant::now() + Duration::from_secs(seconds);
    let mut failing = false;
    while Instant::now() < until {
        if let Ok(Some(status)) = child.try_wait() {
            return Some(status.success());
        }
        if !failing && why.exists() {
            failing = true;
            until = until.min(Instant::now() + Duration::from_secs(20));
        }
        thread::sleep(Duration::from_millis(10));
    }
    None
}

/// Prints information about a case that hangs: the stacks of the servers' threads and of its own.
fn dump(case: u32) {
    let listed = bounded(10, &format!("{} list --json", binary()));
    println!("  list --json: {listed}");
    for id in server::processes().into_iter().chain([u64::from(case)]) {
        for task in fs::read_dir(format!("/proc/{id}/task")).into_iter().flatten().flatten() {
            let read = |file: &str| fs::read_to_string(task.path().join(file)).unwrap_or_default();
            println!("  {}: {}", task.path().display(), read("comm").trim());
            read("stack").lines().for_each(|line| println!("    {line}"));
        }
    }
    dmesg_tail(25).lines().for_each(|line| println!("  dmesg: {line}"));
}

/// Runs a line for at most `seconds`; returns its output if it failed.
fn bounded(seconds: u64, line: &str) -> String {
    let limit = seconds.to_string();
    let mut args = vec!["-k", "2", &limit];
    args.extend(line.split_whitespace());
    let out = run_args("timeout", &args);
    format!("exit {} {} {}", out.code, out.stdout.trim(), out.stderr.trim())
}

/// Loop devices with a file behind them.
fn bound_loops() -> Vec<PathBuf> {
    let all = fs::read_dir("/sys/block").into_iter().flatten().flatten();
    all.map(|entry| entry.path().join("loop")).filter(|path| path.exists()).collect()
}

/// Removes everything that a case may have made. An error names what the case had left.
fn clean_up() -> Result<(), Left> {
    let mut found = Vec::new();
    let mut for_good = false;
    mirror::break_off_all(); // before anything that could wait for their held requests
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let ours = |line: &&str| line.split(' ').nth(1).is_some_and(|dir| dir.starts_with(SCRATCH));
    let mut dirs: Vec<&str> =
        mounts.lines().filter(ours).filter_map(|l| l.split(' ').nth(1)).collect();
    dirs.reverse();
    for dir in dirs {
        found.push(format!("mount {dir}"));
        bounded(20, &format!("umount {dir}"));
        bounded(5, &format!("umount -l {dir}"));
    }
    // A server that has answered `del` may still be ending.
    server::forget_departed();
    let left = server::left_over();
    if !left.is_empty() {
        found.extend(left);
        bounded(30, &format!("{} del --all --force", binary()));
        for id in server::processes() {
            bounded(2, &format!("kill -9 {id}"));
        }
        bounded(30, &format!("{} del --all --force", binary()));
        let rest = server::leftovers();
        for_good = !rest.is_empty();
        // What this `del` has recorded is about disks that the next case has for something else.
        server::forget_departed();
        found.extend(rest.iter().map(|what| format!("{what} (for good)")));
    }
    // Slices and the oracle's devices are the cases' scaffolding: removing them is not a sign of a
    // fault. A device above another is removed in an earlier round.
    for _ in 0..4 {
        let busy = kernel::names().iter().filter(|name| ioctl::dm_remove(name).is_err()).count();
        if busy == 0 {
            break;
        }
    }
    if !bound_loops().is_empty() {
        bounded(10, "losetup -D");
    }
    fs::remove_dir_all(SCRATCH).ok();
    // No case must find the log of another case, or the record of its legs.
    server::forget_ended_legs();
    fs::remove_dir_all(format!("{}/log", server::run_dir())).ok();
    if found.is_empty() {
        Ok(())
    } else {
        Err(Left { what: format!("left behind: {}", found.join(", ")), for_good })
    }
}
