//! What `doctor` looks at in the machine: the kernel and its driver, io_uring, limits, udev.
//!
//! Rule kept here: facts are gathered in one place and judged in another, which needs no machine.

use std::fs;
use std::path::Path;
use std::process::Command;

use rustix::process::{Resource, getrlimit};

use super::finding::{Finding, Mend};
use crate::ublk::{Control, device, kernels};

/// The driver's limit on the number of devices.
const UBLKS_MAX: &str = "/sys/module/ublk_drv/parameters/ublks_max";
/// The switch that turns io_uring off.
const IO_URING_DISABLED: &str = "/proc/sys/kernel/io_uring_disabled";
/// Where udev looks for rules.
const UDEV_RULES: [&str; 4] =
    ["/etc/udev/rules.d", "/run/udev/rules.d", "/usr/lib/udev/rules.d", "/lib/udev/rules.d"];
/// The bit of CAP_IPC_LOCK in a set of capabilities.
const IPC_LOCK: u64 = 1 << 14;
/// What a server locks at least: its program, libraries and buffers.
const LEAST_LOCKED: u64 = 64 << 20;
/// The first systemd whose rules probe ublk disks.
const PROBES_UBLK: u32 = 257;

/// What is known of a machine.
#[derive(Clone, Debug, Default)]
struct Facts {
    /// The kernel's release.
    release: String,
    /// Whether the driver is there, and why it cannot be used.
    driver: bool,
    unusable: Option<String>,
    /// What the switch for io_uring says.
    io_uring_disabled: Option<u32>,
    /// The number of devices of all programs, and the limit.
    devices: usize,
    ublks_max: Option<usize>,
    /// What a process may lock, and whether the limit is not for this one.
    memlock: Option<u64>,
    may_lock: bool,
    /// systemd's version; `None`: there is no udev.
    udev: Option<u32>,
    /// Whether this program's rules for udev are installed.
    has_rules: bool,
}

/// Looks at the machine.
pub(super) fn examine() -> Vec<Finding> {
    judge(&gather())
}

fn gather() -> Facts {
    let number = |path: &str| fs::read_to_string(path).ok()?.trim().parse().ok();
    let driver = Path::new("/dev/ublk-control").exists();
    Facts {
        release: kernels::release(),
        driver,
        unusable: Control::open().err().filter(|_| driver).map(|error| error.to_string()),
        io_uring_disabled: number(IO_URING_DISABLED),
        devices: device::numbers().map_or(0, |numbers| numbers.len()),
        ublks_max: number(UBLKS_MAX).and_then(|max| usize::try_from(max).ok()),
        memlock: getrlimit(Resource::Memlock).current,
        may_lock: capabilities().is_none_or(|set| set & IPC_LOCK != 0),
        udev: udev_version(),
        has_rules: has_rules(),
    }
}

/// The capabilities that this process has.
fn capabilities() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

fn udev_version() -> Option<u32> {
    let said = Command::new("udevadm").arg("--version").output().ok()?;
    let text = String::from_utf8_lossy(&said.stdout);
    text.trim().split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

fn has_rules() -> bool {
    let files = UDEV_RULES.iter().filter_map(|dir| fs::read_dir(dir).ok()).flatten().flatten();
    files.map(|file| file.file_name()).any(|name| name.to_string_lossy().contains("ublk-dm"))
}

/// What is wrong with such a machine.
fn judge(facts: &Facts) -> Vec<Finding> {
    let mut found = Vec::new();
    match kernels::known_bug(&facts.release) {
        Some(bug) if kernels::known_crash(&facts.release).is_some() => {
            found.push(Finding::problem("kernel", bug).of(&facts.release));
        }
        Some(bug) => found.push(Finding::advice("kernel", bug).of(&facts.release)),
        None => {}
    }
    let uring_is_off = facts.io_uring_disabled.is_some_and(|value| value >= 2);
    if uring_is_off {
        let what = "io_uring is switched off on this machine, and ublk needs it";
        found.push(Finding::problem("io-uring", what).by_hand("sysctl kernel.io_uring_disabled=0"));
    }
    if !facts.driver {
        let what = "the driver ublk_drv is not loaded (Linux 6.4 or later has it)";
        found.push(Finding::problem("driver", what).mend(Mend::LoadDriver));
    } else if let Some(why) = facts.unusable.as_ref().filter(|_| !uring_is_off) {
        found.push(Finding::problem("driver", format!("the driver cannot be used: {why}")));
    }
    found.extend(limits(facts));
    found.extend(udev(facts));
    found
}

fn limits(facts: &Facts) -> Vec<Finding> {
    let mut found = Vec::new();
    // Since 6.15 the limit is for the devices of other users alone.
    let counts_all = kernels::is_before(&facts.release, (6, 15));
    if let Some(max) = facts.ublks_max.filter(|max| counts_all && facts.devices >= *max) {
        let what = format!("no further device can be added: there are {} of {max}", facts.devices);
        let more = format!("echo {} > {UBLKS_MAX}", max.saturating_mul(4));
        found.push(Finding::problem("ublks-max", what).by_hand(more));
    }
    if let Some(most) = facts.memlock.filter(|most| !facts.may_lock && *most < LEAST_LOCKED) {
        let what = format!(
            "a server that is started here cannot lock its memory ({most} bytes at most), and may \
             wait for a disk that it serves"
        );
        found.push(Finding::problem("memlock", what).by_hand("ulimit -l unlimited"));
    }
    found
}

fn udev(facts: &Facts) -> Vec<Finding> {
    match facts.udev {
        None => vec![Finding::advice(
            "udev",
            "there is no udev: devices have no links in /dev/ublk-dm and /dev/disk",
        )],
        Some(_) if facts.has_rules => Vec::new(),
        Some(version) => {
            let danger = if version >= PROBES_UBLK {
                ", and a snapshot may take its origin's place in /dev/disk/by-uuid"
            } else {
                ""
            };
            let what = format!(
                "the rules of ublk-dm for udev are not installed: devices have no links in \
                 /dev/ublk-dm{danger}"
            );
            let mend = "ci/install (in the source), or install the package";
            vec![Finding::advice("udev", what).by_hand(mend)]
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::finding::Weight;

    fn sound() -> Facts {
        Facts {
            release: "7.2.1".to_owned(),
            driver: true,
            io_uring_disabled: Some(0),
            ublks_max: Some(64),
            memlock: Some(1 << 16),
            may_lock: true,
            udev: Some(257),
            has_rules: true,
            ..Facts::default()
        }
    }

    #[track_caller]
    fn found(facts: &Facts) -> (&'static str, Weight, Option<String>) {
        let [one] = <[Finding; 1]>::try_from(judge(facts)).expect("one finding");
        (one.check, one.weight, one.mend.map(|mend| mend.command()))
    }

    #[test]
    fn nothing_is_wrong_with_a_sound_machine() {
        assert_eq!(judge(&sound()), []);
        // Since 6.15 the limit is not for root's devices.
        assert_eq!(judge(&Facts { devices: 64, ..sound() }), []);
        // One that only unprivileged users may not use.
        assert_eq!(judge(&Facts { io_uring_disabled: Some(1), ..sound() }), []);
    }

    #[test]
    fn each_fault_of_a_machine_is_found() {
        let mend = |command: &str| Some(command.to_owned());
        let driver = Facts { driver: false, ..sound() };
        assert_eq!(found(&driver), ("driver", Weight::Problem, mend("modprobe ublk_drv")));
        let uring =
            Facts { io_uring_disabled: Some(2), unusable: Some("EPERM".to_owned()), ..sound() };
        let on = "sysctl kernel.io_uring_disabled=0";
        assert_eq!(found(&uring), ("io-uring", Weight::Problem, mend(on)));
        let unusable = Facts { unusable: Some("EACCES".to_owned()), ..sound() };
        assert_eq!(found(&unusable), ("driver", Weight::Problem, None));
        let crash = Facts { release: "6.18.4".to_owned(), ..sound() };
        assert_eq!(found(&crash), ("kernel", Weight::Problem, None));
        let old = Facts { release: "6.12.9".to_owned(), ..sound() };
        assert_eq!(found(&old), ("kernel", Weight::Advice, None));
        let full = judge(&Facts { devices: 64, ..old });
        let more = "echo 256 > /sys/module/ublk_drv/parameters/ublks_max";
        assert_eq!(full[1].mend.as_ref().map(Mend::command), mend(more));
        let unlocked = Facts { may_lock: false, ..sound() };
        assert_eq!(found(&unlocked), ("memlock", Weight::Problem, mend("ulimit -l unlimited")));
        let rules = |udev| Facts { has_rules: false, udev, ..sound() };
        for udev in [None, Some(252), Some(257)] {
            assert_eq!(found(&rules(udev)).1, Weight::Advice);
        }
        assert!(judge(&rules(Some(257)))[0].what.contains("by-uuid"));
        assert!(!judge(&rules(Some(252)))[0].what.contains("by-uuid"));
    }
}
