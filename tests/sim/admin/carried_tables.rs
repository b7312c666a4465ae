//! Other tables and other sizes of a device and of its snapshot in one server.
//!
//! Rules held here: a snapshot's table is replaced while its device carries the origin, which is
//! not opened for that (the live store is handed over); a device that has carried an origin grows
//! as a whole; and one that gets another table shows nothing that its deleted snapshots were taken
//! of (I9).

use dm_targets::request::RequestKind;

use super::carried_refused::{add, stack};
use super::carried_stack::{Do, LOWER, Lower, Stack, Upper};
use super::model::{self, Content};
use super::resize::{LONG, long_image};
use super::town::SECTORS;
use crate::protocol::{Command, DeviceRef, DeviceSpec, Reply};
#[cfg(feature = "mutants")]
use crate::server::admin::mutant::{self, Mutant};
use crate::ublk::device::BLOCK_PATH;

fn load(stack: &mut Stack, device: DeviceRef, line: &str) -> Result<(), String> {
    stack.ask(Command::Load { device, spec: DeviceSpec::of_line(line) }).map(drop)
}

fn resume(stack: &mut Stack, device: DeviceRef) -> Result<(), String> {
    stack.ask(Command::Resume { device }).map(drop)
}

fn judge(stack: &mut Stack) {
    for part in [Lower, Upper] {
        stack.judge(part).unwrap();
        assert!(matches!(stack.read(part), Some(Ok(_))), "{part:?} does not answer");
    }
}

/// The table of the snapshot on record.
fn recorded(stack: &Stack) -> String {
    let left = stack.left();
    left.iter().find(|one| one.carrier().is_some()).unwrap().spec.table.to_string()
}

/// Ranges in the place of a snapshot are none in the place of the mirror of which it was.
pub(super) fn the_record_of_a_live_mirror_stays() {
    for line in LOWER {
        let (mut stack, _, upper) = stack(line);
        stack.act(Do::Write(Lower, 3)).unwrap();
        load(&mut stack, upper, "0 8 error").unwrap();
        resume(&mut stack, upper).unwrap();
        assert!(matches!(stack.read(Upper), Some(Err(_))));
        for step in [Do::Kill, Do::Recover, Do::Write(Lower, 4), Do::Kill, Do::Recover] {
            stack.act(step).unwrap();
        }
        stack.judge(Lower).unwrap();
        assert!(matches!(stack.read(Lower), Some(Ok(_))));
    }
}

#[test]
fn the_table_of_a_snapshot_of_a_mirror_is_replaced() {
    the_record_of_a_live_mirror_stays();
}

#[test]
fn the_store_of_a_snapshot_is_handed_over() {
    for (line, is_suspended) in LOWER.iter().flat_map(|line| [(line, false), (line, true)]) {
        let (mut stack, lower, upper) = stack(line);
        stack.act(Do::Write(Upper, 1)).unwrap();
        let table = format!("0 8 snapshot {BLOCK_PATH}{} /c0 PO 2", lower.id);
        load(&mut stack, upper, &table).unwrap();
        stack.act(Do::Write(Lower, 3)).unwrap();
        if is_suspended {
            stack.act(Do::Suspend(Upper)).unwrap();
            stack.act(Do::Write(Lower, 4)).unwrap();
        }
        resume(&mut stack, upper).unwrap();
        judge(&mut stack);
        assert!(recorded(&stack).contains(" PO "), "{}", recorded(&stack));
        for step in [Do::Write(Lower, 5), Do::Write(Upper, 6), Do::Kill, Do::Recover] {
            stack.act(step).unwrap();
        }
        judge(&mut stack);
        assert!(recorded(&stack).contains(" PO "), "{}", recorded(&stack));
        // Not to another device, or to none; and not while the operations that it needs are held.
        for other in ["/a", "/dev/ublkb99"] {
            let table = format!("0 8 snapshot {other} /c0 P 2");
            let put = load(&mut stack, upper, &table).and_then(|()| resume(&mut stack, upper));
            put.unwrap_err();
        }
        stack.act(Do::Suspend(Lower)).unwrap();
        let why = load(&mut stack, upper, &table).unwrap_err();
        assert!(why.contains("is suspended: resume it first"), "{why}");
        stack.act(Do::Resume(Lower)).unwrap();
        stack.end().unwrap();
    }
}

#[test]
fn every_end_of_a_handover_leaves_both() {
    for line in LOWER {
        for crash in 1.. {
            let (mut stack, lower, upper) = stack(line);
            let table = format!("0 8 snapshot {BLOCK_PATH}{} /c0 PO 2", lower.id);
            let has_ended = stack.ends_at(crash, |stack| {
                drop(load(stack, upper, &table).and_then(|()| resume(stack, upper)));
            });
            drop(resume(&mut stack, upper));
            judge(&mut stack);
            stack.act(Do::Write(Lower, 3)).unwrap();
            judge(&mut stack);
            stack.end().unwrap();
            if !has_ended {
                break;
            }
        }
    }
}

/// A snapshot that is shorter than its device becomes as long. The device is not opened for that.
#[test]
fn a_snapshot_grows_to_the_length_of_its_device() {
    for line in LOWER {
        let (mut stack, lower, _) = stack(line);
        let table = format!("0 4 snapshot {BLOCK_PATH}{} /c1 P 2", lower.id);
        let Reply::Added { device, .. } = add(&mut stack, &table).unwrap() else { panic!() };
        stack.act(Do::Write(Lower, 1)).unwrap();
        stack.ask(Command::Resize { device, bytes: None }).unwrap();
        let shown = stack.town.site.kernel.borrow().devices[&device.id].params.dev_sectors;
        assert_eq!(shown, SECTORS as u64);
        stack.act(Do::Write(Lower, 6)).unwrap();
        stack.act(Do::Kill).unwrap();
        stack.act(Do::Recover).unwrap();
        let bytes = vec![0; SECTORS * 512];
        stack.io(device, RequestKind::Read, 0, bytes).unwrap().unwrap();
        judge(&mut stack);
        stack.end().unwrap();
    }
}

/// A device grows that has carried an origin; its next snapshot is as long.
#[test]
fn a_device_grows_when_its_snapshots_are_gone() {
    for line in LOWER {
        let mut stack = Stack::new(line, true);
        for disk in [super::carried_stack::DISK, super::carried_stack::DISK + 1] {
            stack.town.site.put(disk, long_image(0));
        }
        stack.disk = Content::of((500..).take(SECTORS));
        for step in [Do::Add(Lower), Do::Write(Lower, 0), Do::Add(Upper), Do::Del(Upper, false)] {
            stack.act(step).unwrap();
        }
        let device = stack.device(Lower).unwrap();
        let bytes = Some(LONG as u64 * 512);
        for under in stack.under.values().copied().collect::<Vec<_>>() {
            stack.ask(Command::Resize { device: under, bytes }).unwrap();
        }
        if line.contains('\n') {
            // A table of several lines has the length of these.
            continue;
        }
        stack.ask(Command::Resize { device, bytes }).unwrap();
        let last = LONG - 1;
        let kind = RequestKind::Write { fua: false };
        stack.io(device, kind, last, model::sector(7)).unwrap().unwrap();
        let table = format!("0 {LONG} snapshot {BLOCK_PATH}{} /c1 P 2", device.id);
        let Reply::Added { device: upper, .. } = add(&mut stack, &table).unwrap() else { panic!() };
        stack.io(device, kind, last, model::sector(8)).unwrap().unwrap();
        for (device, shows) in [(upper, 7), (device, 8)] {
            let read = stack.io(device, RequestKind::Read, last, vec![0; 512]);
            assert_eq!(read, Some(Ok(vec![shows])), "{line}");
        }
    }
}

/// A snapshot has left its device, and that gets another table, with another disk.
fn another_table(is_killed: bool) -> Result<(), String> {
    let (mut stack, lower, _) = stack(LOWER[1]);
    stack.act(Do::Del(Upper, false))?;
    load(&mut stack, lower, "0 8 linear /b 0")?;
    if is_killed {
        stack.act(Do::Kill)?;
        stack.act(Do::Recover)?;
    }
    resume(&mut stack, lower)?;
    match stack.add(Upper) {
        Err(why) if why.contains("is lost") => Ok(()),
        other => Err(format!("killed: {is_killed}: {other:?}")),
    }
}

#[test]
fn what_has_left_a_device_is_lost_with_another_table() {
    another_table(false).unwrap();
    another_table(true).unwrap();
}

#[test]
#[cfg(feature = "mutants")]
fn a_device_with_another_table_is_no_longer_the_same() {
    mutant::set(Some(Mutant::ReplacedUnnoticed));
    let found = another_table(false);
    mutant::set(None);
    assert!(found.is_err(), "it is not noticed");
}
