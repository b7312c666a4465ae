//! udev: what its rule is told of a device, and the wait for its links.
//!
//! Rules kept here: udev is answered from the state files and the kernel, and no server is asked,
//! because udev waits for the answer; a device that is not ours gets none; and a device that does
//! not answer now is said to be not ready, so that nothing reads it on udev's behalf.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use dm_targets::table::TargetParams;

use super::terminal::print;
use crate::failure::Failure;
use crate::protocol::{DeviceRef, DeviceState};
use crate::rundir::RunDir;
use crate::storage::{DiskId, ublk_number};
use crate::ublk::device;
use crate::ublk::{self, Control, DeviceInfo};

/// Longest wait for the kernel: it answers at once.
const KERNEL_LIMIT: Duration = Duration::from_secs(2);
/// The socket of udev; nothing waits for its links where udev does not run.
const UDEV_CONTROL: &str = "/run/udev/control";
/// What udev knows of block devices, by their numbers.
const UDEV_DATA: &str = "/run/udev/data";
/// Longest wait for udev: its rules read the device.
const UDEV_LIMIT: Duration = Duration::from_secs(5);
/// The pause between two looks at what udev knows.
const PAUSE: Duration = Duration::from_millis(10);
/// Most devices that are followed down: more would be a circle.
const DEEPEST: u32 = 16;
/// The letters that udev has in names of links.
const PLAIN: &str = "#+-.:=@_";

/// Prints the properties of a device as lines `KEY=VALUE`, or nothing if it is not ours.
pub(super) fn properties(kernel: &str) -> Result<(), Failure> {
    let Some(id) = number_in(kernel) else { return Ok(()) };
    let states = RunDir::open()?.states_beside(None)?.into_iter();
    let devices: Vec<DeviceState> = states.flat_map(|state| state.devices).collect();
    let mut wanted = devices.iter().filter(|one| one.id == id).peekable();
    if wanted.peek().is_none() {
        return Ok(());
    }
    let mut control = Control::open()?;
    control.set_time_limit(Some(KERNEL_LIMIT));
    for one in wanted {
        if let Some(info) = device::ours(&mut control, id, one.cookie)? {
            return print(&text(one, &info, &devices));
        }
    }
    Ok(())
}

/// The N of `ublkbN` or of a partition `ublkbNpM`.
fn number_in(kernel: &str) -> Option<u32> {
    let rest = kernel.strip_prefix("ublkb")?;
    rest.split('p').next()?.parse().ok()
}

fn text(device: &DeviceState, info: &DeviceInfo, all: &[DeviceState]) -> String {
    let ready = info.state == ublk::DeviceState::Live && !device.suspended;
    let target = device.spec.table.params.name();
    let priority = Rank::of(device, all, DEEPEST).priority();
    let properties = [
        ("NAME", encoded(&device.name)),
        ("UUID", device.spec.options.uuid.as_deref().map(encoded).unwrap_or_default()),
        ("TARGET", target.to_owned()),
        ("READY", u8::from(ready).to_string()),
        ("LINK_PRIORITY", priority.to_string()),
    ];
    let lines = properties.map(|(key, value)| format!("UBLK_DM_{key}={value}"));
    lines.join("\n")
}

/// Where a device is in a stack: who is named by what is on it, if several devices show it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    /// The snapshots from here down.
    snapshots: i32,
    /// The other devices of ours below it, as far as the next snapshot.
    others: i32,
}

impl Rank {
    fn of(device: &DeviceState, all: &[DeviceState], deepest: u32) -> Rank {
        let below = lower(device, all).filter(|_| deepest > 0);
        let below = below.map(|lower| Rank::of(lower, all, deepest - 1)).max();
        match (&device.spec.table.params, below) {
            (TargetParams::Snapshot(_), below) => {
                Rank { snapshots: below.map_or(0, |rank| rank.snapshots) + 1, others: 0 }
            }
            (_, Some(rank)) => Rank { others: rank.others + 1, ..rank },
            (_, None) => Rank::default(),
        }
    }

    /// udev's priority of its links. A disk has 0 and a path of dm-multipath 50; what shows their
    /// content is named instead of them, and the highest device of a stack instead of the others.
    /// What shows a snapshot's content is named only where nothing else has it.
    fn priority(self) -> i32 {
        let others = self.others.min(3);
        match self.snapshots {
            0 => 60 + others,
            snapshots => -100 * snapshots.min(2) + others,
        }
    }
}

/// The devices of ours whose content a device shows.
fn lower<'a>(
    device: &DeviceState,
    all: &'a [DeviceState],
) -> impl Iterator<Item = &'a DeviceState> {
    let by_ref = |wanted: DeviceRef| all.iter().find(|one| one.device() == wanted);
    let words = shown(&device.spec.table.params).into_iter();
    let found = words.filter_map(|word| {
        let known = device.known.get(&word);
        let own = known.and_then(|known| known.joined.or(known.device));
        own.and_then(by_ref).or_else(|| {
            let id = ublk_number(DiskId::of_path(Path::new(&word)).ok()?)?;
            all.iter().find(|one| one.id == id)
        })
    });
    found.collect::<Vec<_>>().into_iter()
}

/// The disks of a table whose content its device shows: not a COW, nor a log.
fn shown(params: &TargetParams) -> Vec<String> {
    match params {
        TargetParams::Snapshot(snapshot) | TargetParams::SnapshotMerge(snapshot) => {
            vec![snapshot.origin.clone()]
        }
        TargetParams::Mirror(mirror) => mirror.legs.iter().map(|leg| leg.device.clone()).collect(),
        _ => params.devices(),
    }
}

/// A name as udev writes it in links: other letters as `\xNN`.
fn encoded(name: &str) -> String {
    let is_plain = |letter: char| {
        !letter.is_ascii() || letter.is_ascii_alphanumeric() || PLAIN.contains(letter)
    };
    // These two are directories. (Earlier versions took them for names.)
    let is_directory = [".", ".."].contains(&name);
    let in_link = |letter: char| match letter {
        letter if is_plain(letter) && !is_directory => letter.to_string(),
        letter => format!("\\x{:02x}", u32::from(letter)),
    };
    name.chars().map(in_link).collect()
}

/// Waits until udev has made the links of a new device, so that its user finds them. Whatever udev
/// does, the device is there, so a wait that is too long is no failure.
pub(super) fn settle(path: &str) {
    let is_there = || Path::new(UDEV_CONTROL).exists();
    let end = Instant::now() + UDEV_LIMIT;
    while is_there() && !is_known(path) {
        if Instant::now() > end {
            log::warn!("{path}: udev has not made its links in {} s", UDEV_LIMIT.as_secs());
            return;
        }
        std::thread::sleep(PAUSE);
    }
}

/// Waits until the links of a device have its new name.
pub(super) fn follow(path: &str, name: &str) {
    let link = Path::new("/dev/ublk-dm").join(encoded(name));
    // Without the rule there is none of any name.
    let is_done = || fs::canonicalize(&link).is_ok_and(|node| node == Path::new(path));
    let end = Instant::now() + UDEV_LIMIT;
    while Path::new(UDEV_CONTROL).exists() && has_link(path) && !is_done() {
        if Instant::now() > end {
            log::warn!("{path}: udev has not renamed its links in {} s", UDEV_LIMIT.as_secs());
            return;
        }
        std::thread::sleep(PAUSE);
    }
}

/// Whether a device has a link of ours.
fn has_link(path: &str) -> bool {
    let links = fs::read_dir("/dev/ublk-dm").into_iter().flatten().flatten();
    links.filter_map(|link| fs::canonicalize(link.path()).ok()).any(|node| node == Path::new(path))
}

/// Whether udev knows a device, or there is nothing to know of it any more.
fn is_known(path: &str) -> bool {
    let name = path.trim_start_matches("/dev/");
    let number = fs::read_to_string(format!("/sys/class/block/{name}/dev"));
    number.map_or(true, |number| Path::new(UDEV_DATA).join(format!("b{}", number.trim())).exists())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::KnownDisk;

    #[test]
    fn a_partition_belongs_to_its_device() {
        assert_eq!(number_in("ublkb12"), Some(12));
        assert_eq!(number_in("ublkb12p3"), Some(12));
        for other in ["ublkc1", "ublkb", "ublkbx", "sda", "nvme0n1p1"] {
            assert_eq!(number_in(other), None, "{other}");
        }
    }

    #[test]
    fn a_name_is_no_path_and_no_second_property() {
        for (name, link) in [
            ("data", "data"),
            ("a.b-c_d:e@1+2=3#4", "a.b-c_d:e@1+2=3#4"),
            ("größe", "größe"),
            ("\"x\"", "\\x22x\\x22"),
            ("a\\x22$b%k", "a\\x5cx22\\x24b\\x25k"),
            (".", "\\x2e"),
            ("..", "\\x2e\\x2e"),
            ("...", "..."),
        ] {
            assert_eq!(encoded(name), link, "{name}");
        }
    }

    #[test]
    fn the_highest_device_that_is_no_snapshot_is_named() {
        let of = |id, line: &str| DeviceState::of_line(id, &format!("d{id}"), line);
        let all = [
            of(0, "0 64 mirror core 1 8 2 /a 0 /b 0"),
            of(1, "0 64 snapshot-origin /dev/ublkb0"),
            of(2, "0 64 snapshot /dev/ublkb0 /dev/ublkb1 P 8"),
            of(3, "0 64 linear /dev/ublkb2 0"),
            of(4, "0 64 snapshot /dev/ublkb2 /c P 8"),
            of(5, "0 64 linear /dev/ublkb5 0"),
            of(6, "0 64 snapshot-merge /x /dev/ublkb2 P 8"),
        ];
        // There are no such nodes: all are known by their numbers.
        let all = all.map(|mut device| {
            for word in device.spec.table.params.devices() {
                let Some(id) = word.strip_prefix("/dev/ublkb") else { continue };
                let joined = Some(DeviceRef { id: id.parse().unwrap(), cookie: 7 });
                device.known.insert(word, KnownDisk { joined, ..KnownDisk::default() });
            }
            device
        });
        let priority = |at: usize| Rank::of(&all[at], &all, DEEPEST).priority();
        assert_eq!([0, 1, 2, 3, 4].map(priority), [60, 61, -100, -99, -200]);
        assert_eq!(priority(5), 63, "a circle ends");
        assert_eq!(priority(6), 60, "a COW is not shown");
    }
}
