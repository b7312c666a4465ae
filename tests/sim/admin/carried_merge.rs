//! A snapshot is merged into the device that carries its origin, through the origin's device: below
//! the users of that one, and of nobody else.

use dm_targets::request::RequestKind;

use super::carried_refused::add;
use super::carried_stack::{COW, Do, Ground, KEY, LOWER, Lower, Stack, Top, Upper};
use super::model;
use super::town::SECTORS;
use crate::protocol::{Command, DeviceRef, DeviceSpec};
use crate::ublk::device::BLOCK_PATH;

/// A device, its snapshot, which differs from it, and the origin's device over it.
fn stack(line: &'static str) -> (Stack, [DeviceRef; 3]) {
    let mut stack = Stack::new(line, true);
    for step in [Do::Add(Lower), Do::Write(Lower, 0), Do::Add(Upper), Do::Add(Top)] {
        stack.act(step).unwrap();
    }
    for step in [Do::Write(Top, 3), Do::Write(Upper, 5), Do::Write(Upper, 1)] {
        stack.act(step).unwrap();
    }
    let devices = [Lower, Upper, Top].map(|part| stack.device(part).unwrap());
    (stack, devices)
}

fn merge(device: DeviceRef, (force, keep, defer): (bool, bool, bool)) -> Command {
    Command::Merge { device, force, defer, keep, bytes_per_second: None }
}

fn is_protected(stack: &Stack, device: DeviceRef) -> bool {
    stack.town.site.kernel.borrow().devices[&device.id].protected
}

fn open(stack: &Stack, device: DeviceRef, is_open: bool) {
    stack.town.site.kernel.borrow_mut().devices.get_mut(&device.id).unwrap().open = is_open;
}

fn run(stack: &mut Stack) {
    let process = stack.town.processes.get_mut(KEY).unwrap();
    drop(stack.town.site.run(&process.executor.clone(), || false));
    process.admin.end_merges();
}

/// A process has the device open: the verb and both ways by tables are refused, and change nothing.
fn below_other_users() {
    for line in LOWER {
        let (mut stack, [lower, upper, top]) = stack(line);
        open(&stack, lower, true);
        let refused = "it is open";
        for how in [(false, false, false), (true, false, false), (true, true, false)] {
            let why = stack.ask(merge(upper, how)).unwrap_err();
            assert!(why.contains(refused) && why.contains("use the origin's device"), "{why}");
        }
        let table = format!("0 8 snapshot-merge {BLOCK_PATH}{} /c0 P 2", lower.id);
        let spec = DeviceSpec::of_line(&table);
        stack.ask(Command::Load { device: top, spec }).unwrap();
        let why = stack.ask(Command::Resume { device: top }).unwrap_err();
        assert!(why.contains(refused), "{why}");
        [Lower, Top, Upper].into_iter().for_each(|part| stack.judge(part).unwrap());
        stack.ask(Command::Del { devices: vec![upper, top], force: false }).unwrap();
        let why = add(&mut stack, &table).unwrap_err();
        assert!(why.contains(refused), "{why}");
        assert!(!is_protected(&stack, lower));
        open(&stack, lower, false);
        add(&mut stack, &table).unwrap();
        assert!(is_protected(&stack, lower));
    }
}

/// While it lasts the device's node is read-only, and nothing is written past the merge.
fn nobody_writes_past_it() {
    for line in LOWER {
        let (mut stack, [lower, upper, _]) = stack(line);
        stack.act(Do::Merge(false)).unwrap();
        assert!(stack.is_merging() && is_protected(&stack, lower), "{line}");
        let kind = RequestKind::Write { fua: false };
        let written = stack.io(lower, kind, 5, model::sector(7));
        assert!(written.unwrap().is_err());
        let grown = stack.ask(Command::Resize { device: lower, bytes: None });
        // Several lines have lengths of their own.
        let never = line.contains('\n');
        assert!(grown.is_err_and(|why| never || why.contains("is being merged into")), "{line}");
        stack.act(Do::Kill).unwrap();
        stack.act(Do::Recover).unwrap();
        assert!(is_protected(&stack, lower), "{line}");
        run(&mut stack);
        assert!(!stack.is_merging() && !is_protected(&stack, lower), "{line}");
        assert!(stack.left().iter().all(|one| one.device() != upper));
        stack.act(Do::Write(Lower, 5)).unwrap();
        [Lower, Top].into_iter().for_each(|part| stack.judge(part).unwrap());
    }
}

/// The COW is missing when the server has died: the merge is left out, and goes on when the COW is
/// there, under whichever server.
fn left_out() {
    for line in LOWER {
        let (mut stack, [.., top]) = stack(line);
        stack.act(Do::Merge(false)).unwrap();
        for step in [Do::Kill, Do::Attach(COW, false)] {
            stack.act(step).unwrap();
        }
        stack.act(Do::Recover).unwrap_err();
        let left = stack.left().into_iter().find(|one| one.device() == top).unwrap();
        assert!(!left.lost, "{line}");
        for step in [Do::Kill, Do::Attach(COW, true), Do::Recover] {
            stack.act(step).unwrap();
        }
        run(&mut stack);
        assert!(!stack.is_merging(), "{line}");
        [Lower, Top].into_iter().for_each(|part| stack.judge(part).unwrap());
    }
}

/// A snapshot of a snapshot was deleted; the lower one is merged and kept, and shows the merged
/// disk then, of which the upper one is none.
fn kept_after_a_departure() {
    let mut stack = Stack::new(LOWER[5], true);
    for step in [Do::Add(Lower), Do::Write(Lower, 0), Do::Add(Ground), Do::Add(Upper)] {
        stack.act(step).unwrap();
    }
    stack.act(Do::Del(Upper, false)).unwrap();
    let lower = stack.device(Lower).unwrap();
    stack.ask(merge(lower, (false, true, false))).unwrap();
    run(&mut stack);
    let again = add(&mut stack, &format!("0 8 snapshot {BLOCK_PATH}{} /c0 P 2", lower.id));
    assert!(again.is_err_and(|why| why.contains("lost")));
}

/// As LVM does it: the snapshot's device has `error` loaded, which it has beside the merge.
fn another_table_for_the_snapshot() {
    for line in LOWER {
        let (mut stack, [lower, upper, top]) = stack(line);
        for device in [top, upper] {
            stack.ask(Command::Suspend { device, noflush: false }).unwrap();
        }
        let table = format!("0 8 snapshot-merge {BLOCK_PATH}{} /c0 P 2", lower.id);
        for (device, line) in [(upper, "0 8 error"), (top, table.as_str())] {
            stack.ask(Command::Load { device, spec: DeviceSpec::of_line(line) }).unwrap();
        }
        stack.ask(Command::Resume { device: top }).unwrap();
        assert!(stack.is_merging());
        stack.is_merged();
        let is_there = |stack: &Stack| stack.left().into_iter().find(|one| one.device() == upper);
        for _ in 0..2 {
            let state = is_there(&stack).expect("the snapshot's device stays");
            assert!(state.suspended && state.loaded.is_some() && state.cow.is_none());
            stack.act(Do::Kill).unwrap();
            stack.act(Do::Recover).unwrap();
        }
        stack.ask(Command::Resume { device: upper }).unwrap();
        let state = is_there(&stack).unwrap();
        assert_eq!((state.spec.table.params.name(), state.loaded), ("error", None));
        run(&mut stack);
        stack.judge(Top).unwrap();
    }
}

/// A snapshot that is kept is one of the merged device.
#[test]
fn a_kept_snapshot_is_one_of_the_merged_device() {
    for line in LOWER {
        let (mut stack, [_, upper, _]) = stack(line);
        stack.act(Do::Merge(true)).unwrap();
        run(&mut stack);
        assert!(!stack.is_merging());
        let whole = || (RequestKind::Read, 0, vec![0; SECTORS * 512]);
        let (kind, at, bytes) = whole();
        let shown = stack.io(upper, kind, at, bytes).unwrap().unwrap();
        for step in [Do::Write(Top, 2), Do::Write(Lower, 6)] {
            stack.act(step).unwrap();
        }
        for _ in 0..2 {
            let (kind, at, bytes) = whole();
            assert_eq!(stack.io(upper, kind, at, bytes).unwrap().unwrap(), shown, "{line}");
            [Lower, Top].into_iter().for_each(|part| stack.judge(part).unwrap());
            stack.act(Do::Kill).unwrap();
            stack.act(Do::Recover).unwrap();
        }
    }
}

/// A merge that is deferred begins when the devices are unused, the carrier included.
#[test]
fn a_deferred_merge_waits_for_all_users() {
    for line in LOWER {
        let (mut stack, [lower, upper, _]) = stack(line);
        stack.set_use(Top, true);
        stack.ask(merge(upper, (false, false, true))).unwrap();
        stack.set_use(Top, false);
        open(&stack, lower, true);
        stack.act(Do::Kill).unwrap();
        stack.act(Do::Recover).unwrap();
        assert!(!stack.is_merging());
        open(&stack, lower, false);
        stack.act(Do::Kill).unwrap();
        stack.act(Do::Recover).unwrap();
        assert!(stack.is_merging(), "{line}");
        stack.is_merged();
        run(&mut stack);
        [Lower, Top].into_iter().for_each(|part| stack.judge(part).unwrap());
    }
}

/// The device is suspended while a merge goes on: no command waits for what it holds, and the merge
/// ends when it is resumed.
#[test]
fn a_suspended_device_holds_the_merge() {
    for line in LOWER {
        let (mut stack, [lower, _, top]) = stack(line);
        stack.act(Do::Merge(false)).unwrap();
        stack.act(Do::Suspend(Lower)).unwrap();
        let why = stack.ask(Command::Suspend { device: top, noflush: false }).unwrap_err();
        assert!(why.contains("is suspended and holds its I/O"), "{why}");
        run(&mut stack);
        assert!(stack.is_merging());
        stack.ask(Command::Resume { device: lower }).unwrap();
        run(&mut stack);
        assert!(!stack.is_merging(), "{line}");
        [Lower, Top].into_iter().for_each(|part| stack.judge(part).unwrap());
    }
}

#[test]
fn a_merge_needs_the_device_for_itself() {
    below_other_users();
    nobody_writes_past_it();
}

#[test]
fn a_left_out_merge_is_not_lost() {
    left_out();
}

#[test]
fn what_has_left_a_kept_snapshot_is_lost() {
    kept_after_a_departure();
}

#[test]
fn a_device_goes_on_with_its_loaded_table() {
    another_table_for_the_snapshot();
}

#[cfg(feature = "mutants")]
#[test]
fn a_merge_below_other_users_is_noticed() {
    use crate::server::admin::mutant::{self, Mutant};
    for (mutant, check) in [
        (Mutant::MergedUnderUsers, below_other_users as fn()),
        (Mutant::MergedWritable, nobody_writes_past_it),
        (Mutant::OtherTableEnded, another_table_for_the_snapshot),
        (Mutant::GrownBelowMerge, nobody_writes_past_it),
        (Mutant::MergeLostByCarrier, left_out),
        (Mutant::KeptUnnoticed, kept_after_a_departure),
    ] {
        mutant::set(Some(mutant));
        let found = std::panic::catch_unwind(check);
        mutant::set(None);
        assert!(found.is_err(), "{mutant:?}");
    }
}
