//! What `doctor` looks at in the devices and their servers.

use std::collections::BTreeMap;
use std::fs;

use super::finding::{Finding, Mend};
use super::left::wiped;
use crate::cli::client::Known;
use crate::cli::reap;
use crate::cli::stand_in;
use crate::protocol::{DeviceObject, Health, RunState, TargetObject};
use crate::rundir::RunDir;
use crate::ublk::{Control, DeviceState, device};

/// Looks at all devices, those of other programs included.
pub(super) fn examine(rundir: &RunDir, known: &Known) -> Vec<Finding> {
    let mut found = Vec::new();
    for one in &known.unrecorded {
        let path = format!("{}{}", device::BLOCK_PATH, one.id());
        let finding = Finding::problem("not-on-record", one.problem(rundir).to_string()).of(path);
        found.push(match one.server() {
            Some(process) => finding.by_hand(format!("kill {process}")),
            None if reap::unused(one.id()).is_ok() => finding.mend(Mend::Reap),
            // What uses it has to end first, or loses its I/O.
            None => finding.by_hand(one.forced()),
        });
    }
    if known.unrecorded.is_empty() {
        let unseen = known.problems.iter();
        found.extend(unseen.map(|why| Finding::unseen("server", why)));
    }
    let empty = known.families.iter().filter(|family| family.devices.is_empty());
    for family in empty.filter(|one| rundir.server(&one.key).is_some_and(|it| !it.lives)) {
        let what = "files of a dead server none of whose devices exists any more";
        found.push(Finding::problem("stale-files", what).of(&family.key).mend(Mend::Reap));
    }
    match reap::never_started(rundir) {
        Ok(left) => found.extend(left.iter().map(|one| {
            let what = "was never started, or has no disk any more, and no file knows of it";
            let path = format!("{}{}", device::CHAR_PATH, one.id());
            Finding::problem("never-started", what).of(path).mend(Mend::Reap)
        })),
        Err(why) => found.push(Finding::unseen("never-started", &why)),
    }
    let stand_ins = known.devices().into_iter().filter(|device| stand_in::is_one(device));
    let stand_ins: Vec<&str> = stand_ins.map(|it| it.object.block_device.as_str()).collect();
    let devices = known.devices();
    found.extend(devices.iter().filter_map(|device| of_device(&device.object, &stand_ins)));
    found.extend(servers(known));
    found.extend(foreign(rundir, known));
    found
}

/// What needs attention first about a device. `stand_ins`: the paths of what stands in for legs
/// that were not there.
fn of_device(device: &DeviceObject, stand_ins: &[&str]) -> Option<Finding> {
    let name = &device.name;
    let problem = |check, what: &str| Finding::problem(check, what).of(name);
    Some(match (device.state, device.health) {
        (RunState::Quiesced, Health::Failing) => {
            problem("no-server", "its server has died, and its I/O fails until it has another one")
                .mend(Mend::Recover(name.clone()))
        }
        (RunState::Quiesced, _) => {
            problem("no-server", "its server has died, and its I/O waits for another one")
                .mend(Mend::Recover(name.clone()))
        }
        (RunState::Dead, _) => problem("dead", "its server has died, and it cannot be taken over")
            .by_hand(format!("ublk-dm del --force {name}")),
        _ if !device.answers => {
            let process =
                device.server_pid.map_or(String::new(), |pid| format!(", process {pid},"));
            problem(
                "silent-server",
                &format!("its server{process} does not answer: it is stopped or hangs"),
            )
        }
        (RunState::Suspended, Health::Ok) => {
            let what = "it is suspended: its I/O waits for `resume`";
            Finding::advice("suspended", what).of(name).by_hand(format!("ublk-dm resume {name}"))
        }
        (_, health) => return of_health(name, health, device, stand_ins),
    })
}

/// How an invalid snapshot makes room for another one.
fn invalid_mend(name: &str, device: &DeviceObject) -> String {
    match &device.parts {
        Some(TargetObject::Snapshot(snapshot)) => {
            format!("ublk-dm del {name} && {}", wiped(&snapshot.cow))
        }
        _ => format!("ublk-dm del {name}"),
    }
}

/// What needs attention about what a device holds.
fn of_health(
    name: &str,
    health: Health,
    device: &DeviceObject,
    stand_ins: &[&str],
) -> Option<Finding> {
    let problem = |check, what: &str| Finding::problem(check, what).of(name);
    let cow = match &device.parts {
        Some(TargetObject::Snapshot(snapshot)) => snapshot.cow.as_str(),
        _ => "the COW",
    };
    Some(match health {
        Health::Invalid => {
            problem("invalid", "the snapshot is invalid: its content is lost (the origin is not)")
                .by_hand(invalid_mend(name, device))
        }
        Health::Overflow => {
            let what = format!("{cow} is full, and a write to the snapshot has failed");
            let mend =
                format!("grow {cow}, delete {name} with its origin's device, add both again");
            problem("overflow", &what).by_hand(mend)
        }
        Health::Full => {
            let what = format!("{cow} is full: the next chunk that the origin overwrites ends it");
            problem("full", &what).by_hand(format!("grow {cow}, or ublk-dm merge {name}"))
        }
        Health::Stalled => problem("merge-stopped", "its merge has stopped: a disk has failed")
            .by_hand(format!("ublk-dm merge {name} --resume")),
        Health::Degraded => return Some(degraded(name, device, stand_ins)),
        _ => return None,
    })
}

/// What a mirror lacks: a leg, its log, or copies that nothing makes.
fn degraded(name: &str, device: &DeviceObject, stand_ins: &[&str]) -> Finding {
    let problem = |what: &str| Finding::problem("degraded", what).of(name);
    let Some(mirror) = device.mirror() else { return problem("the mirror is degraded") };
    let is_lost = |path: &str| stand_ins.contains(&path);
    if let Some(leg) = mirror.legs.iter().position(|leg| is_lost(&leg.path)) {
        let what = format!("the mirror was brought up without leg {leg}, which was not there");
        return problem(&what).by_hand(format!("ublk-dm message {name} replace {leg} DEV"));
    }
    let failed = mirror.legs.iter().filter(|leg| leg.health != Some('A'));
    let failed: Vec<&str> = failed.map(|leg| leg.path.as_str()).collect();
    if let [leg, ..] = failed.as_slice() {
        let what = format!("the mirror has lost {}", failed.join(", "));
        return problem(&what).by_hand(format!("ublk-dm message {name} replace {leg} DEV"));
    }
    if mirror.log_health.is_some_and(|letter| letter != 'A') {
        let what =
            format!("its log has failed ({}): add the mirror again with another", mirror.log);
        return problem(&what);
    }
    problem("regions of the mirror could not be copied")
        .by_hand(format!("ublk-dm message {name} recover"))
}

/// The servers that do not run as they should, each with one of its devices.
fn servers(known: &Known) -> Vec<Finding> {
    let mut servers: BTreeMap<u32, &str> = BTreeMap::new();
    for device in known.devices() {
        if let Some(process) = device.object.server_pid.filter(|_| device.object.answers) {
            servers.entry(process).or_insert(&device.name);
        }
    }
    let mut found = Vec::new();
    for (process, name) in servers {
        let program = fs::read_link(format!("/proc/{process}/exe")).unwrap_or_default();
        let upgrade = format!("ublk-dm upgrade {name}");
        if program.to_string_lossy().ends_with(" (deleted)") {
            let what = format!("its server, process {process}, runs a program that was replaced");
            found.push(Finding::advice("old-program", what).of(name).by_hand(&upgrade));
        }
        let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
        if is_unlocked(&status) {
            let what = format!(
                "the memory of its server, process {process}, is not locked: the server may wait \
                 for a disk that it serves; let it lock memory (ulimit -l) and replace it"
            );
            found.push(Finding::problem("not-locked", what).of(name).by_hand(upgrade));
        }
    }
    found
}

/// Whether a process has no memory locked, by its `status`.
fn is_unlocked(status: &str) -> bool {
    let line = status.lines().find_map(|line| line.strip_prefix("VmLck:"));
    line.is_some_and(|line| line.split_whitespace().next() == Some("0"))
}

/// The devices of other programs and run directories whose server has died.
fn foreign(rundir: &RunDir, known: &Known) -> Vec<Finding> {
    let (Ok(numbers), Ok(mut control)) = (device::numbers(), Control::open()) else {
        return Vec::new();
    };
    let ours = |id: &u32| known.devices().iter().any(|device| device.id == *id);
    let mut found = Vec::new();
    for id in numbers.into_iter().filter(|id| !ours(id)) {
        let Ok(Some(info)) = device::info(&mut control, id) else { continue };
        let waits = matches!(info.state, DeviceState::Quiesced | DeviceState::FailIo);
        if waits && !device::has_mark(&info, rundir.mark()) {
            let what = "the server of this device, which is of another program or run directory, \
                        has died";
            let path = format!("{}{id}", device::BLOCK_PATH);
            found.push(Finding::advice("foreign", what).of(path));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::cli::doctor::finding::Weight;

    fn object(state: &str, health: &str, answers: bool) -> DeviceObject {
        let leg =
            |path: &str, health: &str| json!({ "path": path, "offset_bytes": 0, "health": health });
        let object = json!({
            "id": 3, "name": "m", "target": "mirror", "state": state, "health": health,
            "block_device": "/dev/ublkb3", "char_device": "/dev/ublkc3", "major": null,
            "minor": null, "size_bytes": 512, "server_pid": 7, "answers": answers, "stats": null,
            "read_only": false, "queues": 1, "queue_depth": 64, "recovery": true,
            "mirror": { "legs": [leg("/dev/a", "A"), leg("/dev/b", "D")], "log": "core",
                "region_size_bytes": 512, "regions": 1, "in_sync_regions": 1, "dirty_regions": 0,
                "recovery": null },
        });
        serde_json::from_value(object).unwrap()
    }

    #[test]
    fn each_state_that_needs_attention_is_found() {
        let check = |state: &str, health: &str, answers| {
            of_device(&object(state, health, answers), &[]).map(|it| (it.check, it.weight))
        };
        use Weight::{Advice, Problem};
        assert_eq!(check("live", "ok", true), None);
        assert_eq!(check("live", "recovering", true), None);
        assert_eq!(check("live", "merging", true), None);
        assert_eq!(check("suspended", "ok", true), Some(("suspended", Advice)));
        assert_eq!(check("live", "ok", false), Some(("silent-server", Problem)));
        for (state, health, word) in [
            ("quiesced", "unknown", "no-server"),
            ("quiesced", "failing", "no-server"),
            ("dead", "unknown", "dead"),
        ] {
            assert_eq!(check(state, health, false), Some((word, Problem)));
        }
        for (health, word) in [
            ("invalid", "invalid"),
            ("overflow", "overflow"),
            ("full", "full"),
            ("stalled", "merge-stopped"),
            ("degraded", "degraded"),
        ] {
            assert_eq!(check("live", health, true), Some((word, Problem)));
        }
        let degraded =
            |stand_ins: &[&str]| of_device(&object("live", "degraded", true), stand_ins).unwrap();
        assert_eq!(degraded(&[]).line(), "m: the mirror has lost /dev/b");
        let lost = degraded(&["/dev/b"]);
        assert!(lost.line().starts_with("m: the mirror was brought up without leg 1"));
        assert_eq!(lost.mend.unwrap().command(), "ublk-dm message m replace 1 DEV");
    }

    #[test]
    fn a_process_without_locked_memory_is_seen() {
        assert!(is_unlocked("Name:\tublk-dm\nVmLck:\t       0 kB\n"));
        assert!(!is_unlocked("VmLck:\t    8120 kB\n"));
        assert!(!is_unlocked(""), "it has just ended");
    }
}
