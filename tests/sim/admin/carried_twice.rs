//! A disk, a snapshot of it, a snapshot of that one, and a snapshot of that: one server, an origin
//! each.

use dm_targets::request::RequestKind;

use super::carried_refused::add;
use super::carried_stack::{COW, Do, Ground, LOWER, Lower, Stack, Upper};
use super::model;
use super::town::SECTORS;
use crate::protocol::{Command, DeviceRef, DeviceState, Reply};
use crate::ublk::device::BLOCK_PATH;

/// A snapshot of a disk with an origin's device, and a snapshot of it.
fn stack() -> (Stack, [DeviceRef; 3]) {
    let mut stack = Stack::new(LOWER[5], true);
    for step in [Do::Add(Lower), Do::Write(Lower, 0), Do::Add(Upper), Do::Add(Ground)] {
        stack.act(step).unwrap();
    }
    let devices = [Ground, Lower, Upper].map(|part| stack.device(part).unwrap());
    (stack, devices)
}

fn added(stack: &mut Stack, line: &str) -> DeviceRef {
    match add(stack, line) {
        Ok(Reply::Added { device, .. }) => device,
        other => panic!("{other:?}"),
    }
}

fn node(device: DeviceRef) -> String {
    format!("{BLOCK_PATH}{}", device.id)
}

fn read(stack: &mut Stack, device: DeviceRef) -> Vec<u32> {
    stack.io(device, RequestKind::Read, 0, vec![0; SECTORS * 512]).unwrap().unwrap()
}

fn write(stack: &mut Stack, device: DeviceRef, sector: usize, value: u32) {
    let kind = RequestKind::Write { fua: false };
    stack.io(device, kind, sector, model::sector(value)).unwrap().unwrap();
}

#[test]
fn every_level_shows_its_own_moment() {
    let (mut stack, [ground, lower, upper]) = stack();
    let third = added(&mut stack, &format!("0 8 snapshot {} /c1 P 2", node(upper)));
    let devices = [ground, lower, upper, third];
    let mut shown: Vec<Vec<u32>> = devices.iter().map(|one| read(&mut stack, *one)).collect();
    for round in 0..2 {
        for (at, device) in devices.into_iter().enumerate() {
            let (sector, value) = (2 * at + round, 5000 + u32::try_from(10 * at + round).unwrap());
            write(&mut stack, device, sector, value);
            shown[at][sector] = value;
            // The same place of the others as well.
            for (other, own) in devices.iter().zip(&shown) {
                assert_eq!(&read(&mut stack, *other), own, "a write to {device:?}");
            }
        }
        stack.act(Do::Kill).unwrap();
        stack.act(Do::Recover).unwrap();
    }
    let state = stack.left();
    let carriers: Vec<_> = state.iter().filter_map(DeviceState::carrier).collect();
    assert_eq!(carriers, [lower, upper]);
    // From the top down, whatever the order of the words.
    let why = stack.ask(Command::Del { devices: vec![lower, upper], force: true }).unwrap_err();
    assert!(why.contains("is a snapshot of it: delete that first"), "{why}");
    stack.ask(Command::Del { devices: devices.to_vec(), force: false }).unwrap();
    assert!(stack.left().is_empty());
}

/// Where the COW of the lower snapshot is.
const LOWER_COW: usize = 6;

/// What is on record of left-out snapshots when one of the origins can change.
fn a_left_out_snapshot_is_recorded_as_lost_with_its_own_origin() {
    let lost = |stack: &Stack, which: DeviceRef| {
        stack.left().into_iter().find(|one| one.device() == which).unwrap().lost
    };
    // The disk can change: the snapshot of the snapshot that is lost with that is none of it.
    let (mut stack, [_, lower, upper]) = stack();
    for step in [Do::Kill, Do::Attach(LOWER_COW, false)] {
        stack.act(step).unwrap();
    }
    stack.act(Do::Recover).unwrap_err();
    assert_eq!((lost(&stack, lower), lost(&stack, upper)), (true, false));
    // The snapshot can, and nobody writes to the disk: another snapshot of it waits.
    let (mut stack, [ground, ..]) = self::stack();
    stack.ask(Command::Del { devices: vec![ground], force: false }).unwrap();
    let other = added(&mut stack, "0 8 snapshot /a /c1 P 2");
    for step in [Do::Kill, Do::Attach(COW + 1, false)] {
        stack.act(step).unwrap();
    }
    stack.act(Do::Recover).unwrap_err();
    assert!(!lost(&stack, other));
}

/// The origin that changes is that of one snapshot, and the other's is as it was.
fn a_left_out_snapshot_is_lost_with_its_own_origin() {
    for (part, is_lost) in [(Ground, false), (Lower, true)] {
        let (mut stack, [.., upper]) = stack();
        for step in [Do::Kill, Do::Attach(COW, false)] {
            stack.act(step).unwrap();
        }
        stack.act(Do::Recover).unwrap_err();
        stack.act(Do::Write(part, 4)).unwrap();
        stack.act(Do::Attach(COW, true)).unwrap();
        let recovered = stack.act(Do::Recover);
        assert_eq!(recovered.is_err(), is_lost, "{part:?}: {recovered:?}");
        let seen = stack.io(upper, RequestKind::Read, 0, vec![0; SECTORS * 512]);
        assert_eq!(seen.unwrap().is_err(), is_lost, "{part:?}");
    }
}

#[test]
fn a_snapshot_is_lost_with_its_own_origin() {
    a_left_out_snapshot_is_recorded_as_lost_with_its_own_origin();
    a_left_out_snapshot_is_lost_with_its_own_origin();
    // And a deleted one.
    for (part, is_lost) in [(Ground, false), (Lower, true)] {
        let (mut stack, [.., upper]) = stack();
        stack.ask(Command::Del { devices: vec![upper], force: false }).unwrap();
        stack.act(Do::Write(part, 4)).unwrap();
        let lower = stack.device(Lower).unwrap();
        let again = add(&mut stack, &format!("0 8 snapshot {} /c0 P 2", node(lower)));
        assert_eq!(again.is_err(), is_lost, "{part:?}: {again:?}");
    }
}

#[test]
fn a_snapshot_with_snapshots_is_not_merged() {
    let (mut stack, [ground, lower, _]) = stack();
    for (keep, defer) in [(false, false), (true, false), (false, true)] {
        let merge =
            Command::Merge { device: lower, force: true, defer, keep, bytes_per_second: None };
        let why = stack.ask(merge).unwrap_err();
        assert!(why.contains("is a snapshot of it"), "{why}");
    }
    let spec = crate::protocol::DeviceSpec::of_line("0 8 snapshot-merge /a /s P 2");
    let loaded = stack.ask(Command::Load { device: ground, spec });
    let told = loaded.and_then(|_| stack.ask(Command::Resume { device: ground }));
    let why = told.unwrap_err();
    assert!(why.contains("it cannot be merged before that is deleted"), "{why}");
    [Ground, Lower, Upper].into_iter().for_each(|part| stack.judge(part).unwrap());
    assert_eq!(stack.device(Lower), Some(lower));
}

/// That the snapshot leaves cannot be recorded when both are deleted: what it stands on stays.
fn a_device_stays_below_one_that_could_not_be_deleted() {
    let mut stack = Stack::new(LOWER[1], true);
    for step in [Do::Add(Lower), Do::Write(Lower, 0), Do::Add(Upper)] {
        stack.act(step).unwrap();
    }
    let [lower, upper] = [Lower, Upper].map(|part| stack.device(part).unwrap());
    let shared = stack.town.site.shared.clone();
    shared.lock().unwrap().full = true;
    let devices = vec![lower, upper];
    let why = stack.ask(Command::Del { devices, force: false }).unwrap_err();
    assert!(why.contains("that one stays"), "{why}");
    shared.lock().unwrap().full = false;
    [Lower, Upper].into_iter().for_each(|part| stack.judge(part).unwrap());
    assert_eq!((stack.device(Lower), stack.device(Upper)), (Some(lower), Some(upper)));
}

#[test]
fn two_levels_are_deleted_from_the_top_down() {
    a_device_stays_below_one_that_could_not_be_deleted();
}

#[cfg(feature = "mutants")]
#[test]
fn what_is_wrong_with_two_levels_is_noticed() {
    use crate::server::admin::mutant::{self, Mutant};
    let lost: fn() = a_left_out_snapshot_is_recorded_as_lost_with_its_own_origin;
    let deleted: fn() = a_device_stays_below_one_that_could_not_be_deleted;
    for (mutant, check) in [(Mutant::OthersLost, lost), (Mutant::DeletedBelow, deleted)] {
        mutant::set(Some(mutant));
        let found = std::panic::catch_unwind(check);
        mutant::set(None);
        assert!(found.is_err(), "{mutant:?}");
    }
}
