//! A mirror in use gets below its own device: a new device takes it from the suspended one, which
//! is made of the new one then. The users of the first one notice nothing, at whatever step the
//! server dies, and the mirror knows afterwards what it knew of its legs.

use dm_targets::sim::disk::Class;

use super::carried_stack::{DISK, Do, LOWER, Lower, Stack};
use super::kernel::Control;
use crate::protocol::{Command, DeviceRef, DeviceSpec, DeviceState, Reply};
#[cfg(feature = "mutants")]
use crate::server::admin::mutant::{self, Mutant};
use crate::ublk::device::BLOCK_PATH;

/// The mirrors: over disks, and over devices of their server.
fn lines() -> [&'static str; 2] {
    [LOWER[0], LOWER[2]]
}

/// A mirror whose first leg has missed a write, and is not recovered.
fn stack(line: &'static str) -> Stack {
    let mut stack = Stack::new(line, true);
    for step in [Do::Add(Lower), Do::Write(Lower, 0)] {
        stack.act(step).unwrap();
    }
    stack.town.break_down(DISK, Class::Write, false);
    stack.act(Do::Write(Lower, 1)).unwrap();
    stack.town.mend();
    for step in [Do::Write(Lower, 2), Do::Suspend(Lower)] {
        stack.act(step).unwrap();
    }
    stack
}

/// What is on record of the device.
fn recorded(stack: &Stack) -> DeviceState {
    let lower = stack.device(Lower).unwrap();
    stack.left().into_iter().find(|one| one.device() == lower).unwrap()
}

/// The device that has taken the mirror.
fn below(stack: &Stack) -> Option<DeviceRef> {
    let lower = stack.device(Lower);
    let is_mirror = |one: &DeviceState| one.spec.table.params.name() == "mirror";
    let is_it = |one: &DeviceState| {
        let device = one.device();
        is_mirror(one) && Some(device) != lower && !stack.is_dead(device)
    };
    stack.left().iter().find(|one| is_it(one)).map(DeviceState::device)
}

fn add(stack: &mut Stack, force: bool) -> Result<DeviceRef, String> {
    let spec = DeviceSpec { force, ..stack.spec(Lower) };
    match stack.ask(Command::Add { name: None, id: None, spec })? {
        Reply::Added { device, .. } => Ok(device),
        other => Err(format!("{other:?}")),
    }
}

/// Puts the mirror below its device, as far as that has not been done.
fn pass_on(stack: &mut Stack) -> Result<DeviceRef, String> {
    let lower = stack.device(Lower).unwrap();
    let new = match below(stack) {
        Some(new) => new,
        None => {
            // Its mirror may have gone with a device that never was there.
            if recorded(stack).spec.table.params.name() == "error" {
                stack.ask(Command::Resume { device: lower })?;
                stack.ask(Command::Suspend { device: lower, noflush: false })?;
            }
            add(stack, true)?
        }
    };
    if recorded(stack).spec.table.params.name() != "snapshot-origin" {
        let spec = DeviceSpec::of_line(&format!("0 8 snapshot-origin {BLOCK_PATH}{}", new.id));
        stack.ask(Command::Load { device: lower, spec })?;
    }
    stack.ask(Command::Resume { device: lower })?;
    Ok(new)
}

fn judge(stack: &mut Stack) {
    stack.judge(Lower).unwrap();
    assert!(matches!(stack.read(Lower), Some(Ok(_))), "it does not answer");
}

/// It can be written, and the next server has what was written.
fn goes_on(stack: &mut Stack) {
    judge(stack);
    for step in [Do::Write(Lower, 3), Do::Kill, Do::Recover] {
        stack.act(step).unwrap();
    }
    judge(stack);
}

/// The mirror is passed on, written, killed, and can be deleted.
fn passed_on(line: &'static str) {
    let mut stack = stack(line);
    let new = pass_on(&mut stack).unwrap();
    // The first leg would show 201 for the second sector.
    let shown = vec![1001, 1002, 1003, 203, 204, 205, 206, 207];
    assert_eq!(stack.read(Lower), Some(Ok(shown)));
    judge(&mut stack);
    for step in [Do::Write(Lower, 3), Do::Kill, Do::Write(Lower, 4), Do::Recover] {
        stack.act(step).unwrap();
    }
    judge(&mut stack);
    assert_eq!(below(&stack), Some(new));
    let both = vec![stack.device(Lower).unwrap(), new];
    stack.ask(Command::Del { devices: both, force: false }).unwrap();
}

/// Puts the mirror back, as far as that has not been done, and deletes the device below.
fn take_back(stack: &mut Stack) -> Result<(), String> {
    let lower = stack.device(Lower).unwrap();
    let is_below = |one: &DeviceState| {
        let name = one.spec.table.params.name();
        one.device() != lower && matches!(name, "mirror" | "error")
    };
    let left = stack.left();
    let below = left.iter().find(|one| is_below(one)).map(DeviceState::device);
    if recorded(stack).spec.table.params.name() == "snapshot-origin" {
        let below = below.ok_or("it is gone")?;
        let mirror = left.iter().find(|one| one.device() == below).unwrap().spec.clone();
        let spec = DeviceSpec { force: true, ..mirror };
        let runs =
            |device: &DeviceRef| !left.iter().any(|one| one.device() == *device && one.suspended);
        for device in [lower, below].into_iter().filter(runs) {
            stack.ask(Command::Suspend { device, noflush: false })?;
        }
        stack.ask(Command::Load { device: lower, spec })?;
    }
    stack.ask(Command::Resume { device: lower })?;
    let below = below.into_iter().collect();
    stack.ask(Command::Del { devices: below, force: false }).map(drop)
}

/// What the device has written last is on its mirror, whoever has had that meanwhile.
fn taken_back(line: &'static str) {
    let mut stack = stack(line);
    pass_on(&mut stack).unwrap();
    stack.act(Do::Write(Lower, 3)).unwrap();
    take_back(&mut stack).unwrap();
    judge(&mut stack);
    for step in [Do::Write(Lower, 5), Do::Kill, Do::Write(Lower, 6), Do::Recover] {
        stack.act(step).unwrap();
    }
    judge(&mut stack);
    assert_eq!(recorded(&stack).spec.table.params.name(), "mirror");
    stack.end().unwrap();
}

#[test]
fn a_device_takes_its_mirror_back() {
    lines().into_iter().for_each(taken_back);
}

#[test]
fn a_mirror_that_is_taken_back_survives_every_end() {
    lines().into_iter().for_each(ends_of_return);
}

fn ends_of_return(line: &'static str) {
    let begin = |stack: &mut Stack| {
        pass_on(stack).unwrap();
        stack.act(Do::Write(Lower, 3)).unwrap();
    };
    survives(line, begin, take_back);
}

/// The mirror stays below if the device cannot have it: it is loaded without force, the one below
/// is not suspended or has a snapshot, or nothing can be recorded.
#[test]
fn a_mirror_that_is_not_taken_back_stays() {
    for (line, refused) in lines().into_iter().flat_map(|line| (0..4).map(move |at| (line, at))) {
        let mut stack = stack(line);
        let below = pass_on(&mut stack).unwrap();
        let lower = stack.device(Lower).unwrap();
        let mirror = stack.left().into_iter().find(|one| one.device() == below).unwrap().spec;
        if refused == 1 {
            let line = format!("0 8 snapshot {BLOCK_PATH}{} /c0 P 2", below.id);
            let spec = DeviceSpec::of_line(&line);
            stack.ask(Command::Add { name: None, id: None, spec }).unwrap();
        }
        stack.ask(Command::Suspend { device: lower, noflush: false }).unwrap();
        if refused != 2 {
            stack.ask(Command::Suspend { device: below, noflush: false }).unwrap();
        }
        let spec = DeviceSpec { force: refused != 0, ..mirror };
        let loaded = stack.ask(Command::Load { device: lower, spec });
        let shared = stack.town.site.shared.clone();
        shared.lock().unwrap().full = refused == 3;
        let resumed = loaded.and_then(|_| stack.ask(Command::Resume { device: lower }));
        assert!(resumed.is_err(), "{refused}: {resumed:?}");
        shared.lock().unwrap().full = false;
        let is_mirror = |one: &DeviceState| one.device() == below;
        let left = stack.left().into_iter().find(is_mirror).unwrap();
        assert_eq!(left.spec.table.params.name(), "mirror", "{refused}");
        for device in [below, lower] {
            if refused == 3 || refused == 0 {
                stack.ask(Command::Clear { device: lower }).unwrap();
            }
            stack.ask(Command::Resume { device }).unwrap();
        }
        goes_on(&mut stack);
    }
}

#[test]
fn a_mirror_in_use_gets_below_its_device() {
    lines().into_iter().for_each(passed_on);
}

/// The server dies at a step and is followed by another one. The device below, which was being
/// added or deleted then, is deleted.
fn ends_at<T>(stack: &mut Stack, crash: u64, act: fn(&mut Stack) -> Result<T, String>) -> bool {
    let has_ended = stack.dies_at(crash, |stack| drop(act(stack)));
    if has_ended && stack.recover().is_err() {
        delete_dead(stack);
    }
    has_ended
}

fn delete_dead(stack: &mut Stack) {
    let dead: Vec<_> = stack.left().iter().map(DeviceState::device).collect();
    let dead = dead.into_iter().filter(|device| stack.is_dead(*device)).collect();
    stack.ask(Command::Del { devices: dead, force: true }).unwrap();
}

/// What is done is done again after an end of the server at any of its steps, and nothing is lost.
fn survives<T>(
    line: &'static str,
    begin: impl Fn(&mut Stack),
    act: fn(&mut Stack) -> Result<T, String>,
) {
    for crash in 1.. {
        let mut stack = stack(line);
        begin(&mut stack);
        let has_ended = ends_at(&mut stack, crash, act);
        act(&mut stack).unwrap();
        judge(&mut stack);
        stack.act(Do::Write(Lower, 4)).unwrap();
        judge(&mut stack);
        if !has_ended {
            break;
        }
    }
}

fn ends(line: &'static str) {
    survives(line, |_| {}, pass_on);
}

#[test]
fn a_mirror_that_is_passed_on_survives_every_end() {
    lines().into_iter().for_each(ends);
}

/// The device keeps its mirror if the new one is not added: without force, with another table, not
/// suspended; when the kernel or the run directory refuses it, or its user has left.
fn stays(line: &'static str) {
    for refused in 0..7 {
        let mut stack = stack(line);
        let shared = stack.town.site.shared.clone();
        let mut spec = DeviceSpec { force: true, ..stack.spec(Lower) };
        match refused {
            0 => spec.force = false,
            1 => {
                let line = spec.table.to_string().replace("core 1 2", "core 1 4");
                spec.table = DeviceSpec::of_line(&line).table;
            }
            2 => stack.act(Do::Resume(Lower)).unwrap(),
            3 => stack.town.site.kernel.borrow_mut().denied = vec![(Control::Add, 0)],
            4 => stack.town.site.kernel.borrow_mut().denied = vec![(Control::Start, 0)],
            5 => shared.lock().unwrap().full = true,
            _ => {}
        }
        let added = stack.ask(Command::Add { name: None, id: None, spec });
        match (refused, added) {
            (6, Ok(Reply::Added { device, .. })) => {
                assert_eq!(below(&stack), Some(device));
                stack.ask(Command::TakeBack { device }).unwrap();
            }
            (6, other) => panic!("{other:?}"),
            (_, added) => drop(added.unwrap_err()),
        }
        shared.lock().unwrap().full = false;
        assert_eq!(recorded(&stack).spec.table.params.name(), "mirror", "{refused}");
        assert!(recorded(&stack).loaded.is_none(), "{refused}");
        assert_eq!(below(&stack), None);
        if refused != 2 {
            stack.act(Do::Resume(Lower)).unwrap();
        }
        goes_on(&mut stack);
    }
}

#[test]
fn a_mirror_that_is_not_taken_stays() {
    lines().into_iter().for_each(stays);
}

/// A resume of the suspended device is refused while the new one has its mirror, and gives it back
/// when that one is gone.
#[test]
fn a_mirror_is_taken_back_by_a_resume() {
    for line in lines() {
        let mut stack = stack(line);
        let new = add(&mut stack, true).unwrap();
        for _ in 0..2 {
            let device = stack.device(Lower).unwrap();
            let why = stack.ask(Command::Resume { device }).unwrap_err();
            assert!(why.contains("has its mirror"), "{why}");
            assert!(recorded(&stack).suspended && recorded(&stack).loaded.is_some());
        }
        stack.ask(Command::Del { devices: vec![new], force: false }).unwrap();
        stack.act(Do::Resume(Lower)).unwrap();
        judge(&mut stack);
    }
}

#[cfg(feature = "mutants")]
#[test]
fn the_mutants_are_noticed() {
    let of_lives: fn(&'static str) = ends;
    for (fault, test) in [
        (Mutant::MirrorOnRecordTwice, of_lives),
        (Mutant::LegsNotPassedOn, passed_on),
        (Mutant::MirrorNotGivenBack, stays),
        (Mutant::FlushedAgain, ends_of_return),
    ] {
        let noticed = std::panic::catch_unwind(|| {
            mutant::set(Some(fault));
            lines().into_iter().for_each(test);
        });
        mutant::set(None);
        assert!(noticed.is_err(), "{fault:?} is not noticed");
    }
}
