//! How the kernel schedules this process: what a server in the background must not inherit.
//!
//! A server that was started by a command under `nice`, `ionice`, `chrt` or `taskset` would serve
//! its disks for everybody as slowly as that command was meant to run.

use std::io;

use rustix::process::setpriority_process;
use rustix::thread::{CpuSet, sched_setaffinity};

/// `IOPRIO_WHO_PROCESS`, ioprio_set(2).
const IOPRIO_WHO_PROCESS: libc::c_int = 1;
/// The class "none": the I/O priority follows the nice value.
const IOPRIO_NONE: libc::c_int = 0;

/// Gives this thread, the only one of its process, the schedule that a process has by default.
/// Returns each step with its result; the steps do not depend on each other.
pub fn reset() -> [(&'static str, io::Result<()>); 4] {
    [
        ("sched_setscheduler", reset_policy()),
        ("setpriority", setpriority_process(None, 0).map_err(Into::into)),
        ("ioprio_set", reset_io_priority()),
        ("sched_setaffinity", sched_setaffinity(None, &all_cpus()).map_err(Into::into)),
    ]
}

/// Every CPU that a set can name: the kernel takes those that this machine, and the cpuset of the
/// process, have.
fn all_cpus() -> CpuSet {
    let mut all = CpuSet::new();
    (0..CpuSet::MAX_CPU).for_each(|cpu| all.set(cpu));
    all
}

fn reset_policy() -> io::Result<()> {
    let param = libc::sched_param { sched_priority: 0 };
    // SAFETY: the parameter is read during the call, and 0 names the calling thread.
    let done = unsafe { libc::sched_setscheduler(0, libc::SCHED_OTHER, &raw const param) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn reset_io_priority() -> io::Result<()> {
    // SAFETY: the call takes three integers and touches no memory of this process.
    let done = unsafe { libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, IOPRIO_NONE) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
