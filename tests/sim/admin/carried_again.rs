//! A device that is deleted after its snapshot, and made again.
//!
//! Rules held here: a device of the same disks by the same table is the same origin, so the
//! snapshot goes on, unless the device has been written meanwhile: then it is lost (I9). If this
//! program may have written to the disks, through whatever device, or has recovered them from a leg
//! of the user's choice, or the device stands on another one or is a snapshot, it is not known: the
//! user must say so, and nothing is lost.

use super::carried_lives::live;
use super::carried_refused::{add, stack};
use super::carried_stack::{Do, LOWER, Lower, Stack, Upper};
use super::early;
use crate::protocol::{Command, DeviceSpec, Reply};
#[cfg(feature = "mutants")]
use crate::server::admin::mutant::{self, Mutant};

/// The devices that are made of disks.
const OF_DISKS: &[&str] = LOWER.split_at(2).0;
/// Those of which it is not known what they show.
const UNKNOWN: &[&str] = LOWER.split_at(2).1;

/// A device whose snapshot has left it, and that is deleted.
fn deleted(line: &'static str) -> Result<Stack, String> {
    let (mut stack, ..) = stack(line);
    for step in [Do::Write(Upper, 1), Do::Del(Upper, false), Do::Del(Lower, false)] {
        stack.act(step)?;
    }
    Ok(stack)
}

/// The snapshot is added, and both are what they were.
fn goes_on(stack: &mut Stack) -> Result<(), String> {
    for step in [Do::Add(Upper), Do::Write(Lower, 5), Do::Kill, Do::Recover, Do::Write(Lower, 6)] {
        stack.act(step)?;
    }
    stack.judge(Lower)?;
    stack.judge(Upper)?;
    stack.end()
}

/// Another device comes and goes.
fn come_and_go(stack: &mut Stack, line: &str) -> Result<(), String> {
    stack.begin()?;
    let Reply::Added { device, .. } = add(stack, line)? else { return Err("not added".into()) };
    stack.ask(Command::Del { devices: vec![device], force: false }).map(drop)
}

fn refused(stack: &mut Stack, why: &str) -> Result<(), String> {
    match stack.add(Upper) {
        Err(found) if found.contains(why) => Ok(()),
        other => Err(format!("{}: {other:?}, and not {why}", stack.lower_line)),
    }
}

/// Nobody has written anything, or only elsewhere.
fn again(line: &'static str) -> Result<(), String> {
    let mut stack = deleted(line)?;
    stack.act(Do::Add(Lower))?;
    goes_on(&mut stack)?;
    let mut stack = deleted(line)?;
    // Another disk, and once more.
    come_and_go(&mut stack, "0 4 linear /c 0")?;
    for step in [Do::Add(Lower), Do::Del(Lower, false), Do::Add(Lower), Do::Kill, Do::Recover] {
        stack.act(step)?;
    }
    goes_on(&mut stack)
}

/// A device made of the disks of the deleted one is another one, and may change them: the user must
/// say that it has not. What is written to the device itself loses the snapshot.
fn changed_meanwhile() -> Result<(), String> {
    let others = [
        "0 8 linear /a 0",
        "0 4 linear /a 4",
        "0 8 mirror core 1 2 2 /a 0 /c 0",
        "0 8 snapshot-origin /a",
    ];
    for (line, other) in OF_DISKS.iter().flat_map(|line| others.map(|other| (*line, other))) {
        if line == other {
            continue;
        }
        let mut stack = deleted(line)?;
        come_and_go(&mut stack, other)?;
        stack.act(Do::Add(Lower))?;
        another_one(&mut stack)?;
    }
    for line in OF_DISKS {
        let mut stack = deleted(line)?;
        stack.act(Do::Add(Lower))?;
        stack.act(Do::Write(Lower, 3))?;
        refused(&mut stack, "is lost")?;
    }
    Ok(())
}

/// It is refused, and nothing of it is lost.
fn another_one(stack: &mut Stack) -> Result<(), String> {
    refused(stack, "--other-origin` takes it")?;
    stack.adopts = true;
    goes_on(stack)
}

/// The mirror is made again from a leg of the user's choice.
fn from_another_leg() -> Result<(), String> {
    let mut stack = deleted(LOWER[0])?;
    stack.begin()?;
    let spec = DeviceSpec { source: Some(1), force: true, ..stack.spec(Lower) };
    let added = stack.ask(Command::Add { name: None, id: None, spec })?;
    let Reply::Added { device, .. } = added else { return Err("not added".into()) };
    stack.lower = Some(device);
    another_one(&mut stack)
}

/// A user writes to the device as soon as it is there.
fn written_at_once(line: &'static str) -> Result<(), String> {
    let mut stack = deleted(line)?;
    let written = early::write(&mut stack, 3, 77);
    stack.town.site.kernel.borrow_mut().at_once.push(written);
    stack.act(Do::Add(Lower))?;
    refused(&mut stack, "is lost")
}

/// It is not known what the device was made of.
fn another(line: &'static str) -> Result<(), String> {
    let mut stack = deleted(line)?;
    stack.act(Do::Add(Lower))?;
    another_one(&mut stack)
}

#[test]
fn a_device_that_is_made_again_is_the_same() {
    OF_DISKS.iter().for_each(|line| again(line).unwrap());
}

#[test]
fn what_is_written_meanwhile_makes_it_another_one() {
    changed_meanwhile().unwrap();
    from_another_leg().unwrap();
    OF_DISKS.iter().for_each(|line| written_at_once(line).unwrap());
}

#[test]
fn a_device_over_others_is_another_one() {
    UNKNOWN.iter().for_each(|line| another(line).unwrap());
}

/// The stories: the snapshot goes on, or the device is written without it; also when its server
/// has died before.
fn stories() -> Vec<Vec<Do>> {
    use Do::*;
    let begun = [Add(Lower), Write(Lower, 0), Add(Upper), Del(Upper, false), Del(Lower, false)];
    let of = |rest: &[Do]| begun.iter().chain(rest).copied().collect::<Vec<_>>();
    vec![
        of(&[Add(Lower), Add(Upper), Write(Lower, 3)]),
        of(&[Add(Lower), Write(Lower, 3), Add(Upper), Write(Lower, 4)]),
        of(&[
            Add(Lower),
            Del(Lower, false),
            Add(Lower),
            Kill,
            Recover,
            Write(Lower, 3),
            Add(Upper),
        ]),
        of(&[Add(Lower), Recover, Write(Lower, 3), Del(Lower, false), Add(Lower), Add(Upper)]),
    ]
}

/// The violation that a story shows, without an end and with every end. A device that is left of an
/// `add` which its client does not see the end of is deleted by hand.
fn broken() -> Result<u64, String> {
    let mut states = 0;
    for (line, story) in OF_DISKS.iter().flat_map(|line| stories().into_iter().map(|s| (*line, s)))
    {
        let (changes, judged, _) = live(line, &story, None, false);
        judged.map_err(|why| format!("{line}: {story:?}: {why}"))?;
        for crash in (1..=changes).flat_map(|at| [(at, false), (at, true)]) {
            states += 1;
            let (_, judged, _) = live(line, &story, Some(crash), false);
            judged.map_err(|why| format!("{line}: {story:?}, end {crash:?}: {why}"))?;
        }
    }
    Ok(states)
}

#[test]
fn every_end_makes_nothing_up() {
    println!("made again: states={}", broken().unwrap());
}

#[test]
#[cfg(feature = "mutants")]
fn every_mutant_of_devices_made_again_is_killed() {
    for mutant in [
        Mutant::CarriedAgain,
        Mutant::MadeAgainUnlooked,
        Mutant::MadeOfForgotten,
        Mutant::SourceTakenForSame,
    ] {
        mutant::set(Some(mutant));
        let found = changed_meanwhile()
            .and_then(|()| from_another_leg())
            .and_then(|()| written_at_once(OF_DISKS[0]))
            .and_then(|()| another(UNKNOWN[0]))
            .and_then(|()| broken().map(drop));
        mutant::set(None);
        println!("{mutant:?}: {found:?}");
        assert!(found.is_err(), "{mutant:?} is not noticed");
    }
}
