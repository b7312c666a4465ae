//! The lives of a device, its snapshots and its origin's device in one server: stories that are
//! written down, with an end of the server or of the power at every step.

use super::carried_stack::{COW, DISK, Do, Ground, LOWER, Lower, Stack, Top, UNDER_COW, Upper};

/// Lives a story with an end of the server or of the power at a change, if any. Returns how many
/// changes there were.
pub(super) fn live(
    line: &'static str,
    story: &[Do],
    crash: Option<(u64, bool)>,
    log: bool,
) -> (u64, Result<(), String>, Vec<String>) {
    live_with(Stack::new(line, log), story, crash)
}

/// The same of a stack in which nothing has happened yet.
pub(super) fn live_with(
    mut stack: Stack,
    story: &[Do],
    crash: Option<(u64, bool)>,
) -> (u64, Result<(), String>, Vec<String>) {
    stack.town.site.shared.lock().unwrap().crash_at = crash.map(|(at, _)| at);
    for step in story {
        drop(stack.act(*step));
        if stack.town.site.is_dead() {
            stack.crash(crash.is_some_and(|(_, power)| power), *step);
        }
    }
    let changes = stack.town.site.shared.lock().unwrap().changes;
    stack.town.site.shared.lock().unwrap().crash_at = None;
    let judged = stack.end();
    (changes, judged, stack.town.log.take().unwrap_or_default())
}

/// The stories: the life of a snapshot; one that is suspended and resumed; deleted and continued;
/// a COW, and the device's disk, that are missing when the server has died.
pub(super) fn stories() -> Vec<Vec<Do>> {
    use Do::*;
    let begun = [Add(Lower), Write(Lower, 0), Write(Lower, 3), Add(Upper)];
    let of = |rest: &[Do]| begun.iter().chain(rest).copied().collect::<Vec<_>>();
    vec![
        of(&[Write(Lower, 0), Write(Lower, 4), Write(Upper, 1), Flush(Upper), Write(Lower, 1)]),
        of(&[Use(Lower, true), Write(Lower, 0), Kill, Write(Lower, 3), Recover, Write(Lower, 6)]),
        of(&[Suspend(Lower), Write(Lower, 0), Kill, Recover, Resume(Lower), Write(Lower, 3)]),
        of(&[Suspend(Upper), Write(Upper, 0), Write(Lower, 3), Resume(Upper), Del(Upper, false)]),
        of(&[Write(Upper, 1), Del(Upper, false), Add(Upper), Write(Lower, 3)]),
        of(&[Del(Upper, false), Kill, Recover, Add(Upper), Write(Lower, 3)]),
        of(&[Write(Lower, 3), Kill, Attach(COW, false), Recover, Attach(COW, true), Recover]),
        of(&[Kill, Attach(DISK, false), Recover, Attach(DISK, true), Recover, Write(Lower, 3)]),
        of(&[Use(Lower, true), Write(Lower, 0), Terminate, Recover, Write(Lower, 3)]),
        of(&[Use(Upper, true), Write(Lower, 0), Terminate, Recover, Write(Lower, 3)]),
        of(&[Write(Lower, 0), Terminate]),
        of(&[Write(Lower, 0), Steal(Upper), Write(Lower, 3)]),
        of(&[Write(Lower, 0), Steal(Lower)]),
    ]
}

/// The same with an origin's device: what is written to it is kept for the snapshot, it goes with
/// neither, and a deleted snapshot is lost by it.
fn stories_of_origins() -> Vec<Vec<Do>> {
    use Do::*;
    let begun = [Add(Lower), Write(Lower, 0), Add(Top), Write(Top, 3), Add(Upper)];
    let of = |rest: &[Do]| begun.iter().chain(rest).copied().collect::<Vec<_>>();
    vec![
        of(&[Write(Top, 0), Write(Lower, 4), Write(Upper, 1), Flush(Top), Write(Top, 1)]),
        of(&[Use(Top, true), Write(Top, 0), Kill, Write(Top, 3), Recover, Write(Lower, 6)]),
        of(&[Use(Top, true), Write(Top, 0), Terminate, Recover, Write(Top, 3)]),
        of(&[Del(Upper, false), Write(Top, 3), Add(Upper), Write(Top, 0)]),
        of(&[Suspend(Lower), Write(Top, 0), Kill, Recover, Resume(Lower), Write(Top, 3)]),
        of(&[Suspend(Top), Write(Top, 0), Write(Lower, 3), Kill, Recover, Resume(Top)]),
        of(&[Write(Top, 0), Kill, Attach(COW, false), Recover, Attach(COW, true), Recover]),
        of(&[Kill, Attach(DISK, false), Recover, Attach(DISK, true), Recover, Write(Top, 3)]),
        of(&[Write(Top, 3), Del(Top, false), Write(Lower, 0), Add(Top), Write(Top, 4)]),
        of(&[Write(Top, 0), Terminate]),
    ]
}

/// The device of the COW is suspended when the server dies: the device and its snapshot wait until
/// it is resumed, and neither loses anything.
fn stories_of_held_cows() -> Vec<Vec<Do>> {
    use Do::*;
    let begun = [Add(Lower), Write(Lower, 0), Add(Upper), Write(Lower, 3), Hold(true)];
    let of = |rest: &[Do]| begun.iter().chain(rest).copied().collect::<Vec<_>>();
    vec![
        of(&[Kill, Recover, Kill, Recover, Hold(false), Recover, Write(Lower, 4)]),
        of(&[Write(Lower, 5), Kill, Recover, Recover, Hold(false), Recover, Write(Lower, 6)]),
        of(&[Kill, Recover, Hold(false), Kill, Recover, Write(Lower, 4), Write(Upper, 1)]),
    ]
}

/// A snapshot of a snapshot: what is written to the disk of the lower one changes neither of them,
/// and what is written to that one is kept for the upper one.
fn stories_over_a_disk() -> Vec<Vec<Do>> {
    use Do::*;
    let begun = [Add(Lower), Write(Lower, 0), Add(Upper), Add(Ground), Write(Ground, 3)];
    let of = |rest: &[Do]| begun.iter().chain(rest).copied().collect::<Vec<_>>();
    vec![
        of(&[Write(Lower, 3), Write(Ground, 0), Write(Upper, 1), Flush(Upper), Write(Ground, 1)]),
        of(&[Use(Ground, true), Write(Lower, 0), Kill, Write(Ground, 5), Recover, Write(Lower, 6)]),
        of(&[Use(Lower, true), Write(Ground, 5), Terminate, Recover, Write(Lower, 3)]),
        of(&[Use(Ground, true), Write(Ground, 5), Terminate, Recover, Write(Lower, 3)]),
        of(&[Suspend(Lower), Write(Ground, 4), Kill, Recover, Resume(Lower), Write(Lower, 3)]),
        of(&[Del(Upper, false), Write(Ground, 4), Kill, Recover, Add(Upper), Write(Lower, 3)]),
        of(&[Del(Ground, false), Write(Lower, 4), Kill, Recover, Add(Ground), Write(Ground, 4)]),
        of(&[Kill, Attach(COW, false), Recover, Write(Ground, 4), Attach(COW, true), Recover]),
        of(&[Upgrade(None), Write(Ground, 4), Write(Lower, 5), Upgrade(None), Write(Lower, 6)]),
        of(&[Write(Ground, 4), Steal(Ground), Write(Lower, 4), Add(Ground), Write(Ground, 5)]),
        of(&[Write(Lower, 4), Terminate]),
    ]
}

/// The disk of the lower snapshot is missing, and the device of the upper one's COW is served: all
/// levels are taken over by the server that has left them out.
fn stories_of_levels_left_out() -> Vec<Vec<Do>> {
    use Do::*;
    let begun = [Add(Lower), Write(Lower, 0), Add(Upper), Add(Ground), Write(Ground, 3)];
    let left = [Kill, Attach(DISK, false), Recover, Attach(DISK, true), Recover];
    let of = |rest: &[Do]| begun.iter().chain(&left).chain(rest).copied().collect::<Vec<_>>();
    vec![
        of(&[Write(Ground, 4), Write(Lower, 3), Write(Upper, 1)]),
        of(&[Write(Lower, 3), Kill, Recover, Write(Ground, 4)]),
    ]
}

/// A snapshot is merged into the device, which is written through its origin's device.
fn stories_of_merges() -> Vec<Vec<Do>> {
    use Do::*;
    let begun = [Add(Lower), Write(Lower, 0), Add(Upper), Add(Top), Write(Top, 3), Write(Upper, 5)];
    let of = |rest: &[Do]| begun.iter().chain(rest).copied().collect::<Vec<_>>();
    vec![
        of(&[Merge(false), Write(Top, 5), Write(Top, 1), Flush(Top), Write(Lower, 2)]),
        of(&[Merge(false), Kill, Write(Top, 5), Recover, Write(Top, 3)]),
        of(&[Write(Upper, 1), Merge(false), Suspend(Lower), Kill, Recover, Resume(Lower)]),
        of(&[Merge(false), Use(Top, true), Terminate, Recover, Write(Top, 1)]),
        of(&[Merge(false), Upgrade(None), Write(Top, 5), Upgrade(None), Write(Top, 1)]),
        of(&[Use(Lower, true), Merge(false), Use(Lower, false), Merge(false), Write(Top, 4)]),
    ]
}

/// What is lived: the lower device's table, the word of the COW, and the story.
fn lives() -> Vec<(&'static str, &'static str, Vec<Do>)> {
    let of = |lines: &[&'static str], cow: &'static str, stories: fn() -> Vec<Vec<Do>>| {
        let all = lines.iter().flat_map(|line| stories().into_iter().map(|story| (*line, story)));
        all.map(|(line, story)| (line, cow, story)).collect::<Vec<_>>()
    };
    [
        of(&LOWER, "/c0", stories),
        of(&LOWER[..3], "/c0", stories_of_origins),
        of(&LOWER[1..3], UNDER_COW, stories),
        of(&LOWER[1..2], UNDER_COW, stories_of_origins),
        of(&LOWER[1..3], UNDER_COW, stories_of_held_cows),
        of(&LOWER[5..], "/c0", stories_of_origins),
        of(&LOWER[5..], "/c0", stories_over_a_disk),
        of(&LOWER[5..], UNDER_COW, stories_of_levels_left_out),
        of(&[LOWER[0], LOWER[3], LOWER[5]], "/c0", stories_of_merges),
        of(&LOWER[1..2], UNDER_COW, stories_of_merges),
    ]
    .concat()
}

type Lived = (u64, Result<(), String>, Vec<String>);

fn lived(
    (line, cow, story): &(&'static str, &'static str, Vec<Do>),
    crash: Option<(u64, bool)>,
    log: bool,
) -> Lived {
    live_with(Stack { cow, ..Stack::new(line, log) }, story, crash)
}

#[test]
fn snapshots_of_a_device_of_their_server_live() {
    for life in lives() {
        let (_, judged, log) = lived(&life, None, true);
        assert_eq!(judged, Ok(()), "{life:?}\n{}", log.join("\n"));
    }
}

#[test]
fn snapshots_of_a_device_of_their_server_live_on_after_every_end() {
    let (mut states, mut broken) = (0, Vec::new());
    for life in lives() {
        let (changes, ..) = lived(&life, None, false);
        for crash in (1..=changes).flat_map(|at| [(at, false), (at, true)]) {
            states += 1;
            let (_, judged, _) = lived(&life, Some(crash), false);
            if let Err(why) = judged {
                let (.., log) = lived(&life, Some(crash), true);
                let what = format!("{life:?}, end {crash:?}: {why}");
                println!("{what}");
                broken.push(format!("{what}\n{}", log.join("\n")));
            }
        }
    }
    println!("carried: states={states}");
    broken.truncate(3);
    assert!(broken.is_empty(), "{}", broken.join("\n\n"));
}

/// The violation that any story shows, without an end and with every end.
#[cfg(feature = "mutants")]
fn broken() -> Option<String> {
    let whole = lives().iter().find_map(|life| lived(life, None, false).1.err());
    whole.or_else(|| {
        lives().iter().find_map(|life| {
            let (changes, ..) = lived(life, None, false);
            let mut ends = (1..=changes).flat_map(|at| [(at, false), (at, true)]);
            ends.find_map(|end| lived(life, Some(end), false).1.err())
        })
    })
}

#[cfg(feature = "mutants")]
#[test]
fn every_mutant_of_carried_origins_is_killed() {
    use crate::server::admin::mutant::{self, Mutant};
    let mut alive = Vec::new();
    for mutant in [
        Mutant::CarrierEnds,
        Mutant::OpenCarrierUnseen,
        Mutant::HeldAwaited,
        Mutant::CarrierByNumber,
        Mutant::NotCarriedAgain,
        Mutant::CarrierStartedFirst,
        Mutant::HeldCowLost,
    ] {
        mutant::set(Some(mutant));
        let refused = std::panic::catch_unwind(super::carried_refused::all);
        let why = refused.err().map(|_| "a refusal".to_owned()).or_else(broken);
        mutant::set(None);
        println!("{mutant:?}: {why:?}");
        alive.extend(why.is_none().then_some(mutant));
    }
    assert!(alive.is_empty(), "not noticed: {alive:?}");
}
