//! What is refused for a device with snapshots in its server, and for these; and which of them are
//! known to be lost.

use super::carried_stack::{COW, DISK, Do, LOWER, Lower, Stack, Top, Upper};
use crate::protocol::{Command, DeviceRef, Reply};
use crate::ublk::device::BLOCK_PATH;

/// A device with a snapshot.
pub(super) fn stack(line: &'static str) -> (Stack, DeviceRef, DeviceRef) {
    let mut stack = Stack::new(line, true);
    for step in [Do::Add(Lower), Do::Write(Lower, 0), Do::Add(Upper)] {
        stack.act(step).unwrap();
    }
    let (lower, upper) = (stack.device(Lower).unwrap(), stack.device(Upper).unwrap());
    (stack, lower, upper)
}

fn refused(stack: &mut Stack, command: Command) -> String {
    match stack.ask(command) {
        Err(why) => why,
        Ok(reply) => panic!("not refused: {reply:?}"),
    }
}

pub(super) fn add(stack: &mut Stack, line: &str) -> Result<Reply, String> {
    let mut spec = super::town::Town::spec(super::town::What::Mirror);
    spec.table = dm_targets::table::Table::parse_table(line).unwrap();
    stack.ask(Command::Add { name: None, id: None, spec })
}

/// A device stays as long as a snapshot of it.
fn ends_after_its_snapshots() {
    for line in LOWER {
        let (mut stack, lower, upper) = stack(line);
        for force in [false, true] {
            let why = refused(&mut stack, Command::Del { devices: vec![lower], force });
            assert!(why.contains("is a snapshot of it: delete that first"), "{why}");
        }
        let spec = crate::protocol::DeviceSpec::of_line("0 8 error");
        let why = refused(&mut stack, Command::Load { device: lower, spec });
        assert!(why.contains("its table cannot be replaced"), "{why}");
        for (keep, defer) in [(false, false), (true, false), (false, true), (true, true)] {
            let (device, bytes_per_second) = (upper, None);
            let merge = Command::Merge { device, force: true, defer, keep, bytes_per_second };
            let why = refused(&mut stack, merge);
            assert!(why.contains("`ublk-dm add origin --origin /dev/ublkb"), "{why}");
        }
        stack.judge(Upper).unwrap();
        stack.ask(Command::Del { devices: vec![lower, upper], force: false }).unwrap();
        let kernel = stack.town.site.kernel.borrow();
        assert_eq!(kernel.devices.len(), stack.under.len(), "{line}");
    }
}

/// A process has a device open, without a claim: neither SIGTERM nor `del` ends its snapshots,
/// which would be lost with the device's next write.
fn stays_with_its_snapshots_while_it_is_open() {
    for line in LOWER {
        for terminated in [false, true] {
            let (mut stack, lower, upper) = stack(line);
            let site = stack.town.site.clone();
            site.kernel.borrow_mut().devices.get_mut(&lower.id).unwrap().open = true;
            if terminated {
                stack.act(Do::Terminate).unwrap();
                stack.act(Do::Recover).unwrap();
            } else {
                let why =
                    refused(&mut stack, Command::Del { devices: vec![lower, upper], force: false });
                assert!(why.contains("it is open"), "{why}");
            }
            assert_eq!((stack.device(Lower), stack.device(Upper)), (Some(lower), Some(upper)));
            stack.act(Do::Write(Lower, 0)).unwrap();
            stack.judge(Upper).unwrap();
            stack.judge(Lower).unwrap();
        }
    }
}

/// While a device is suspended no command waits for what it holds.
fn what_a_suspended_device_holds_is_not_awaited() {
    for line in LOWER {
        let (mut stack, lower, upper) = stack(line);
        stack.act(Do::Suspend(Lower)).unwrap();
        assert_eq!(stack.read(Upper), None, "it waits");
        let del = Command::Del { devices: vec![upper], force: true };
        for command in [Command::Suspend { device: upper, noflush: false }, del] {
            let why = refused(&mut stack, command);
            assert!(why.contains("is suspended and holds its I/O"), "{why}");
        }
        let why = stack.add(Upper).unwrap_err();
        assert!(why.contains("is suspended: resume it first"), "{why}");
        stack.ask(Command::Resume { device: lower }).unwrap();
        stack.judge(Upper).unwrap();
        stack.end().unwrap();
    }
}

/// What cannot be carried, and what is none of the device's business.
fn other_tables() {
    for line in LOWER {
        let (mut stack, lower, _) = stack(line);
        let lower = format!("{BLOCK_PATH}{}", lower.id);
        let why = add(&mut stack, &format!("0 8 snapshot {lower} /a P 2")).unwrap_err();
        assert!(why.contains("/a"), "a disk of the device itself: {why}");
        // A second snapshot, which shows what the first one does not.
        stack.act(Do::Write(Lower, 0)).unwrap();
        add(&mut stack, &format!("0 8 snapshot {lower} /c1 P 2")).unwrap();
        stack.act(Do::Write(Lower, 0)).unwrap();
        stack.judge(Upper).unwrap();
    }
}

/// A snapshot that was deleted while its device was not in use continues as long as the device has
/// not changed, also under a later server.
fn departures() {
    for line in LOWER {
        for (killed, changed) in [(false, false), (false, true), (true, false), (true, true)] {
            let (mut stack, ..) = stack(line);
            stack.act(Do::Del(Upper, false)).unwrap();
            if killed {
                stack.act(Do::Kill).unwrap();
                stack.act(Do::Recover).unwrap();
            }
            if changed {
                stack.act(Do::Write(Lower, 5)).unwrap();
            }
            let added = stack.act(Do::Add(Upper));
            let devices = if changed { 1 } else { 2 } + stack.under.len();
            assert_eq!(stack.left().len(), devices, "{line}, {killed}: {added:?}");
            stack.end().unwrap();
        }
    }
}

/// A snapshot that is left out is lost with the next change of its device, and not before; one
/// whose device is left out is not lost.
fn left_out() {
    for line in LOWER {
        for (away, writes) in [(COW, false), (COW, true), (DISK, true)] {
            let (mut stack, ..) = stack(line);
            for step in [Do::Kill, Do::Attach(away, false)] {
                stack.act(step).unwrap();
            }
            drop(stack.act(Do::Recover));
            if writes {
                stack.act(Do::Write(Lower, 0)).unwrap();
            }
            stack.act(Do::Attach(away, true)).unwrap();
            let back = stack.act(Do::Recover);
            let shows = stack.read(Upper);
            let lost = away == COW && writes;
            let told = stack.town.log.clone().unwrap_or_default().join("\n");
            assert_eq!(matches!(shows, Some(Ok(_))), !lost, "{line}: {back:?}, {shows:?}\n{told}");
            if !lost {
                stack.judge(Upper).unwrap();
            }
        }
    }
}

/// The same if its device was left out with it, and is taken over without it: by a server that has
/// another device.
fn left_out_with_its_device() {
    for line in [LOWER[1], LOWER[3]] {
        let (mut stack, ..) = stack(line);
        add(&mut stack, "0 2 linear /b 0").unwrap();
        for step in [Do::Kill, Do::Attach(COW, false), Do::Attach(DISK, false)] {
            stack.act(step).unwrap();
        }
        drop(stack.act(Do::Recover));
        stack.act(Do::Attach(DISK, true)).unwrap();
        drop(stack.act(Do::Recover));
        stack.act(Do::Write(Lower, 0)).unwrap();
        stack.act(Do::Attach(COW, true)).unwrap();
        let back = stack.act(Do::Recover);
        let shows = stack.read(Upper);
        assert!(!matches!(shows, Some(Ok(_))), "{line}: {back:?}, {shows:?}");
    }
}

/// A server that takes over with another device at the number has no snapshots of that.
fn another_device_at_the_number() {
    let (mut stack, lower, _) = stack(LOWER[1]);
    stack.act(Do::Kill).unwrap();
    if let Some(device) = stack.town.site.kernel.borrow_mut().devices.get_mut(&lower.id) {
        device.info.target_flags += 1000;
    }
    let why = stack.recover().unwrap_err();
    assert!(why.contains("which has no server"), "{why}");
}

/// The COW of a snapshot that is deleted without a server is completed without its device.
fn completed_alone() {
    for line in LOWER {
        let (mut stack, lower, upper) = stack(line);
        stack.act(Do::Write(Upper, 1)).unwrap();
        stack.act(Do::Kill).unwrap();
        stack.town.del_orphan("mirror-a", upper.id, upper.cookie, true).unwrap();
        stack.act(Do::Recover).unwrap();
        assert_eq!(stack.device(Lower), Some(lower));
        stack.judge(Lower).unwrap();
    }
}

/// All of these.
pub(super) fn all() {
    ends_after_its_snapshots();
    what_a_suspended_device_holds_is_not_awaited();
    other_tables();
    departures();
    left_out();
    left_out_with_its_device();
    another_device_at_the_number();
    completed_alone();
    stays_with_its_snapshots_while_it_is_open();
}

#[test]
fn a_device_ends_after_its_snapshots() {
    ends_after_its_snapshots();
}

#[test]
fn no_command_waits_for_what_a_suspended_device_holds() {
    what_a_suspended_device_holds_is_not_awaited();
}

#[test]
fn a_device_carries_snapshots_and_nothing_else() {
    other_tables();
}

#[test]
fn a_snapshot_of_a_device_continues_until_the_device_changes() {
    departures();
}

#[test]
fn a_left_out_snapshot_is_lost_when_its_device_changes() {
    left_out();
    left_out_with_its_device();
}

#[test]
fn a_device_is_found_by_its_cookie() {
    another_device_at_the_number();
}

#[test]
fn a_cow_is_completed_without_the_device() {
    completed_alone();
}

#[test]
fn a_device_that_is_open_stays_with_its_snapshots() {
    stays_with_its_snapshots_while_it_is_open();
}

/// A left-out snapshot cannot be taken over while the origin's device waits for the suspended one
/// below it; that is said at once.
#[test]
fn a_left_out_snapshot_waits_for_a_device_that_is_resumed() {
    for line in LOWER {
        let mut stack = Stack::new(line, true);
        let begun = [Do::Add(Lower), Do::Add(Top), Do::Write(Top, 0), Do::Add(Upper), Do::Kill];
        begun.into_iter().for_each(|step| stack.act(step).unwrap());
        stack.town.attach(COW, false);
        stack.recover().unwrap_err();
        stack.town.attach(COW, true);
        stack.act(Do::Suspend(Lower)).unwrap();
        stack.act(Do::Write(Top, 3)).unwrap();
        let why = stack.recover().unwrap_err();
        assert!(why.contains("resume that one first"), "{line}: {why}");
        stack.act(Do::Resume(Lower)).unwrap();
        [Lower, Top].into_iter().for_each(|part| stack.judge(part).unwrap());
        // What was held has changed the origin.
        let why = stack.recover().unwrap_err();
        assert!(why.contains("it has a server again, but is invalid"), "{line}: {why}");
    }
}
