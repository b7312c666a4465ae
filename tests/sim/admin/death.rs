//! Devices whose requests fail while there is no server (`--on-server-death fail`): nothing that
//! was acknowledged is lost, the next server serves them, and no request fails in an upgrade.

use super::carried_lives::{live_with, stories};
use super::carried_stack::{COW, Do, KEY, LOWER, Lower, Part, Stack, Upper};
use super::carried_upgrade::{self, pending};
use super::hold_and_are_noticed;
use super::kernel::Pending;
use super::process::Process;
use crate::protocol::OnServerDeath;
use crate::server::admin::mutant::Mutant;
use crate::ublk::DeviceState as DiskState;
use crate::ublk::device::on_server_death;

/// Which of a device and its snapshot fail their requests.
const FAILS: [&[Part]; 3] = [&[Lower], &[Upper], &[Lower, Upper]];

fn stack(line: &'static str, fails: &'static [Part]) -> Stack {
    let mut stack = Stack::new(line, true);
    stack.fails = fails;
    stack
}

/// A device and its snapshot, with a write of each.
fn written(line: &'static str, fails: &'static [Part]) -> Stack {
    let mut stack = stack(line, fails);
    for step in [Do::Add(Lower), Do::Write(Lower, 0), Do::Add(Upper), Do::Write(Upper, 1)] {
        stack.act(step).unwrap();
    }
    stack
}

/// Requests fail at once, or wait, as each device was added; the next server serves both, and has
/// what was acknowledged.
fn death(line: &'static str, fails: &'static [Part]) {
    let mut stack = written(line, fails);
    stack.act(Do::Kill).unwrap();
    for part in [Lower, Upper] {
        let (read, at_once) = (stack.read(part), fails.contains(&part));
        assert_eq!(matches!(read, Some(Err(_))), at_once, "{line}, {fails:?}, {part:?}: {read:?}");
        assert_eq!(read.is_none(), !at_once, "{line}, {fails:?}, {part:?}: {read:?}");
        // Not acknowledged: what the device shows there is as before.
        stack.write(part, 5);
        let state = {
            let (kernel, id) = (stack.town.site.kernel.borrow(), stack.device(part).unwrap().id);
            kernel.devices[&id].info.state
        };
        assert_eq!(state, if at_once { DiskState::FailIo } else { DiskState::Quiesced });
    }
    stack.act(Do::Recover).unwrap();
    for part in [Lower, Upper] {
        stack.judge(part).unwrap();
        let (kernel, id) = (stack.town.site.kernel.borrow(), stack.device(part).unwrap().id);
        let policy = on_server_death(&kernel.devices[&id].info);
        assert_eq!(policy == Some(OnServerDeath::Fail), fails.contains(&part));
    }
    for step in [Do::Write(Lower, 6), Do::Write(Upper, 7), Do::Kill, Do::Recover] {
        stack.act(step).unwrap();
    }
    stack.end().unwrap();
}

#[test]
fn requests_fail_while_there_is_no_server() {
    for (line, fails) in LOWER.iter().flat_map(|line| FAILS.map(|fails| (*line, fails))) {
        death(line, fails);
    }
}

/// A request that a server had when it died fails, and is not sent to the next one.
#[test]
fn requests_of_a_dead_server_fail() {
    for line in LOWER {
        let mut stack = written(line, &[Lower]);
        let (id, site) = (stack.device(Lower).unwrap().id, stack.town.site.clone());
        let read = pending(&site, 3);
        site.kernel.borrow_mut().devices.get_mut(&id).unwrap().pending.push(read.clone());
        stack.act(Do::Kill).unwrap();
        assert!(matches!(*read.result.borrow(), Some(Err(_))), "it waits");
        stack.act(Do::Recover).unwrap();
        assert!(matches!(*read.result.borrow(), Some(Err(_))), "it has ended");
        stack.end().unwrap();
    }
}

/// The devices of a dead server can be deleted; one that is in use outlives SIGTERM.
#[test]
fn such_devices_end_as_others_do() {
    for line in LOWER {
        let mut stack = written(line, &[Lower, Upper]);
        stack.act(Do::Use(Lower, true)).unwrap();
        stack.act(Do::Terminate).unwrap();
        assert!(matches!(stack.read(Lower), Some(Err(_))), "there is no server");
        stack.act(Do::Recover).unwrap();
        stack.judge(Lower).unwrap();
        stack.act(Do::Kill).unwrap();
        let devices = stack.left();
        assert_eq!(devices.len(), 2 + stack.under.len());
        for device in devices.iter().rev() {
            let (id, cookie) = (device.id, device.cookie);
            stack.town.del_orphan(KEY, id, cookie, true).unwrap();
        }
        assert!(stack.town.site.kernel.borrow().devices.is_empty());
    }
}

/// The lives of devices and snapshots, with an end of the server or of the power at every step.
#[test]
fn such_devices_live_on_after_every_end() {
    let (mut states, mut broken) = (0, Vec::new());
    let stories = || stories().into_iter().chain(carried_upgrade::stories()).enumerate();
    for (line, fails) in LOWER.iter().flat_map(|line| FAILS.map(|fails| (*line, fails))) {
        for (number, story) in stories() {
            let (changes, judged, _) = live_with(stack(line, fails), &story, None);
            let ends = (1..=changes).flat_map(|at| [(at, false), (at, true)]);
            let judge = |end| Some((Some(end), live_with(stack(line, fails), &story, Some(end)).1));
            for (end, judged) in std::iter::once((None, judged)).chain(ends.filter_map(judge)) {
                states += 1;
                if let Err(why) = judged {
                    let (.., log) = live_with(stack(line, fails), &story, end);
                    let what = format!("{line}, {fails:?}, story {number}, end {end:?}: {why}");
                    broken.push(format!("{what}\n{}", log.join("\n")));
                }
            }
        }
    }
    println!("failing: states={states}");
    broken.truncate(3);
    assert!(broken.is_empty(), "{}", broken.join("\n\n"));
}

/// An upgrade is refused, whichever of the two it would fail requests of, and the old server goes
/// on: no request fails.
fn upgrade() -> Result<(), String> {
    for (line, fails) in LOWER.iter().flat_map(|line| FAILS.map(|fails| (*line, fails))) {
        let mut stack = written(line, fails);
        let site = stack.town.site.clone();
        let reads: Vec<(u32, Pending)> = [Lower, Upper]
            .into_iter()
            .flat_map(|part| (0..4).map(move |at| (part, at)))
            .map(|(part, at)| (stack.device(part).unwrap().id, pending(&site, at)))
            .collect();
        for (id, read) in &reads {
            site.kernel.borrow_mut().devices.get_mut(id).unwrap().pending.push(read.clone());
        }
        let upgraded = stack.act(Do::Upgrade(None));
        let failed = |read: &Pending| matches!(*read.result.borrow(), Some(Err(_)));
        if reads.iter().any(|(_, read)| failed(read)) {
            return Err(format!("{line}, {fails:?}: a request fails"));
        }
        match upgraded {
            Err(why) if why.contains("(--on-server-death fail)") => {}
            other => return Err(format!("{line}, {fails:?}: {other:?}")),
        }
        let pass = |process: &Process, (id, read): &(u32, Pending)| process.pass(*id, read);
        reads.iter().for_each(|read| pass(&stack.town.processes[KEY], read));
        for part in [Lower, Upper] {
            stack.judge(part)?;
        }
        if !reads.iter().all(|(_, read)| matches!(*read.result.borrow(), Some(Ok(())))) {
            return Err(format!("{line}, {fails:?}: a request has not ended"));
        }
        stack.end()?;
    }
    Ok(())
}

/// A kernel that would make requests wait does not get the device, and nothing is left of it.
fn old_kernel() -> Result<(), String> {
    for line in LOWER {
        let mut stack = stack(line, &[Lower]);
        let before = stack.town.site.disks[COW].disk.borrow().visible();
        stack.town.site.kernel.borrow_mut().is_old = true;
        match stack.act(Do::Add(Lower)) {
            Err(why) if why.contains("it needs Linux 6.13 or later") => {}
            other => return Err(format!("{line}: {other:?}")),
        }
        let (there, under) = (stack.town.site.kernel.borrow().devices.len(), stack.under.len());
        if (there, stack.left().len()) != (under, under) {
            return Err(format!("{line}: a device is left"));
        }
        // Of a snapshot no store is begun, and its origin goes on.
        stack.fails = &[Upper];
        stack.act(Do::Add(Lower))?;
        match stack.act(Do::Add(Upper)) {
            Err(why) if why.contains("it needs Linux 6.13 or later") => {}
            other => return Err(format!("{line}: {other:?}")),
        }
        if stack.town.site.disks[COW].disk.borrow().visible() != before {
            return Err(format!("{line}: the COW has changed"));
        }
        stack.judge(Lower)?;
        stack.end()?;
    }
    Ok(())
}

#[test]
fn what_the_kernel_cannot_do_is_refused() {
    hold_and_are_noticed(&[
        (upgrade, Mutant::FailingUpgraded),
        (old_kernel, Mutant::DeathUnchecked),
    ]);
}
