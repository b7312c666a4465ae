//! What a server keeps of the process that has started it, and which signals it heeds: nothing, and
//! only those that end it.

use std::fs;
use std::path::Path;

use crate::Case;
use crate::cases::process::{disks, pid_of};
use crate::disk::{Buf, Disk};
use crate::runner::scratch;
use crate::server;
use crate::sh::{binary, run_args, sh};

pub fn cases() -> Vec<Case> {
    vec![
        Case {
            name: "process-nothing-inherited",
            bound_s: 60,
            disks: &["n0", "n1"],
            run: |_| nothing_inherited(),
        },
        Case { name: "process-signals", bound_s: 60, disks: &["n0", "n1"], run: |_| signals() },
    ]
}

/// Kernel flag of a thread whose allocations never start I/O.
const PF_MEMALLOC_NOIO: u64 = 0x0008_0000;

/// A field of `/proc/PID/stat`, counted as in proc(5).
fn stat(path: &str, field: usize) -> u64 {
    let text = fs::read_to_string(path).expect("a process");
    let (_, rest) = text.rsplit_once(')').expect("a name");
    rest.split_whitespace().nth(field - 3).and_then(|word| word.parse().ok()).expect("a number")
}

fn nothing_inherited() {
    let (o, c) = disks();
    let dir = scratch("inherited");
    fs::create_dir_all(&dir).expect("tmpfs");
    let script = "cd $3; umask 000; ulimit -Sn 48; ulimit -t 60; ulimit -v 8000000; \
                  exec 9>lock; flock 9 && exec nice -n 19 ionice -c 3 taskset -c 0 \
                  chrt -b 0 $0 add snapshot --origin $1 --cow $2 --name s";
    run_args("bash", &["-c", script, &binary(), &o, &c, &dir]).ok();
    sh(&format!("flock -n {dir}/lock true")).ok();
    let pid = pid_of("s");
    let proc = |file: &str| format!("/proc/{pid}/{file}");
    let read = |file: &str| fs::read_to_string(proc(file)).expect("a process");
    assert_eq!(stat(&proc("stat"), 6), pid, "a session of its own");
    assert_eq!(read("oom_score_adj").trim(), "-1000");
    assert_eq!(fs::read_link(proc("cwd")).expect("cwd"), Path::new("/"));
    assert!(read("status").contains("Umask:\t0077"), "{}", read("status"));
    let limits = read("limits");
    let files = limits.lines().find(|line| line.starts_with("Max open files")).expect("a limit");
    let words: Vec<&str> = files.split_whitespace().collect();
    assert_eq!(words[3], words[4], "the soft limit of files is the hard one: {files}");
    for limit in ["Max cpu time", "Max address space", "Max file size", "Max data size"] {
        let line = limits.lines().find(|line| line.starts_with(limit)).expect("a limit");
        assert!(line.contains("unlimited            unlimited"), "{line}");
    }
    let allowed = |who: &str| {
        let status = fs::read_to_string(format!("/proc/{who}/status")).expect("a process");
        let line = status.lines().find(|line| line.starts_with("Cpus_allowed:"));
        line.expect("a line").to_owned()
    };
    assert_eq!(allowed(&pid.to_string()), allowed("1"), "the CPUs that it may run on");
    assert!(sh(&format!("ionice -p {pid}")).ok().stdout.starts_with("none"), "the I/O priority");
    for task in fs::read_dir(proc("task")).expect("threads").flatten() {
        let of_task = task.path().join("stat").display().to_string();
        assert_eq!((stat(&of_task, 19), stat(&of_task, 41)), (0, 0), "nice value and policy");
        let flags = stat(&of_task, 9);
        let name = fs::read_to_string(task.path().join("comm")).unwrap_or_default();
        assert!(flags & PF_MEMALLOC_NOIO != 0, "thread {} is no I/O flusher", name.trim());
    }
    // Every page of the program's text is locked, not only those that ran.
    let smaps = read("smaps");
    let of_text =
        smaps.lines().skip_while(|line| !line.contains(" r-xp ") || !line.contains("ublk-dm"));
    let line = |key: &str| of_text.clone().find(|line| line.starts_with(key)).expect("a line");
    let number =
        |key: &str| line(key).split_whitespace().nth(1).and_then(|word| word.parse::<u64>().ok());
    assert!(line("VmFlags:").split_whitespace().any(|flag| flag == "lo"), "{}", line("VmFlags:"));
    assert!(
        number("Size:").is_some() && number("Rss:") == number("Size:"),
        "text: {} {}",
        line("Size:"),
        line("Rss:")
    );
    server::del("s");
    server::assert_nothing_left("del");
}

fn signals() {
    let (o, c) = disks();
    let dev = server::add(&format!("snapshot --origin {o} --cow {c} --name s"));
    let pid = pid_of("s");
    let terminals = ["HUP", "PIPE", "TSTP", "TTIN", "TTOU"];
    let timers = ["ALRM", "VTALRM", "PROF", "IO", "XCPU", "XFSZ"];
    let others = ["USR1", "USR2", "PWR", "STKFLT", "RTMIN", "RTMIN+5", "64"];
    for signal in terminals.into_iter().chain(timers).chain(others) {
        sh(&format!("kill -{signal} {pid}")).ok();
        Disk::open(&dev).write(0, &Buf::new(8));
        assert_eq!(pid_of("s"), pid, "SIG{signal} ended the server");
        assert_eq!(server::device("s")["state"], "live", "after SIG{signal}");
    }
    // The signal needs none of the server's files.
    sh(&format!("rm -rf {}", server::run_dir())).ok();
    sh(&format!("kill -TERM {pid}")).ok();
    server::wait_gone(pid);
    server::assert_nothing_left("SIGTERM");
}
