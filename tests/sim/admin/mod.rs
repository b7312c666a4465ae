//! The administrator on a simulated machine: every command, in any order, with a process death or
//! power loss at every step, and then again. The judge is [`town`], which knows nothing of the
//! administrator's internals.

mod awaited;
mod beside;
mod between;
mod claims;
mod commands;
mod contents;
mod continued;
mod ended;
mod ends;
mod events;
mod excuses;
mod foreign_disks;
mod former;
mod gone;
mod handed_on;
mod handover;
mod hangs;
mod held;
mod kernel;
mod last;
mod left_alone;
mod lines;
mod lines_refused;
mod lives;
mod machine;
mod merge_command;
mod merge_refused;
mod merge_silent;
mod merging;
mod merging_silent;
mod messages;
mod model;
mod moves;
mod moves_refused;
mod not_started;
mod open;
mod orphan;
mod process;
mod ranges;
mod records;
mod refused;
mod removed;
mod resize;
mod resize_refused;
mod silent;
mod site;
mod specs;
mod stories;
mod suspended;
mod takeback;
mod thread;
mod told;
mod town;
mod undone;
mod unmerged;
mod unreadable;
mod verdict;
mod waiting;

use crate::server::admin::mutant::{self, Mutant};
use lives::{Step, act, life};
use stories::stories;
use town::{Broken, Town, What};

/// A crash: at which change, whether the power fails, and how many changes later a second crash
/// follows, if any.
type Crash = (u64, bool, Option<u64>);

/// Lives a life with a crash at one change, if any; returns how many changes there were.
fn live(
    seed: u64,
    steps: &[Step],
    crash: Option<Crash>,
    log: bool,
) -> (u64, Result<(), Broken>, Vec<String>) {
    let mut town = Town::new(seed, log);
    town.site.shared.lock().unwrap().crash_at = crash.map(|(at, ..)| at);
    for step in steps {
        act(&mut town, *step);
        crash_if_due(&mut town, crash);
    }
    let changes = town.site.shared.lock().unwrap().changes;
    // A crash that has not occurred yet occurs while everything is taken over.
    if crash.is_some() && town.site.shared.lock().unwrap().crash_at.is_some() {
        drop(town.recover());
        crash_if_due(&mut town, crash);
    }
    town.site.shared.lock().unwrap().crash_at = None;
    let judged = town.end();
    (changes, judged, town.log.take().unwrap_or_default())
}

fn crash_if_due(town: &mut Town, crash: Option<Crash>) {
    if !town.site.is_dead() {
        return;
    }
    let Some((at, power, again)) = crash else { return };
    town.crash(power);
    let mut shared = town.site.shared.lock().unwrap();
    let is_first = shared.changes == at;
    shared.crash_at = again.filter(|_| is_first).map(|later| shared.changes + later);
}

/// Crashes at every change of a life, each alone and each with a second crash.
fn crashes(seed: u64, changes: u64) -> impl Iterator<Item = Crash> {
    let later = move |at: u64| Some(1 + (seed ^ at).wrapping_mul(0x9E37_79B9_7F4A_7C15) % 60);
    (1..=changes).flat_map(move |at| {
        [
            (at, false, None),
            (at, true, None),
            (at, false, later(at)),
            (at, at % 2 == 0, later(at + 7)),
        ]
    })
}

/// The same with every possible second crash.
fn all_crashes(changes: u64) -> impl Iterator<Item = Crash> {
    let second = |at: u64| (1..60).map(move |later| (at, false, Some(later)));
    (1..=changes)
        .flat_map(move |at| [(at, false, None), (at, true, None)].into_iter().chain(second(at)))
}

/// Lives a life without a crash, and then with each crash; counts the states, and returns the first
/// that broke a rule.
fn explore_life(
    seed: u64,
    steps: &[Step],
    crashes: impl FnOnce(u64) -> Box<dyn Iterator<Item = Crash>>,
    states: &mut u64,
) -> Option<String> {
    let (changes, judged, _) = live(seed, steps, None, false);
    *states += 1;
    let broken = judged.err().map(|why| (None, why)).or_else(|| {
        crashes(changes).find_map(|crash| {
            *states += 1;
            live(seed, steps, Some(crash), false).1.err().map(|why| (Some(crash), why))
        })
    });
    let (crash, why) = broken?;
    let (_, _, log) = live(seed, steps, crash, true);
    Some(format!("life {seed}, crash {crash:?}: {why}\n{}", log.join("\n")))
}

/// Explores lives; returns the number of judged states, and the first that broke a rule.
fn explore(seeds: impl Iterator<Item = u64>) -> (u64, Option<String>) {
    let mut states = 0;
    for seed in seeds {
        let all =
            move |changes| -> Box<dyn Iterator<Item = Crash>> { Box::new(crashes(seed, changes)) };
        let broken = explore_life(seed, &life(seed), all, &mut states);
        if broken.is_some() {
            return (states, broken);
        }
    }
    (states, None)
}

/// Explores the stories: each without a crash, then with every crash and every second crash.
fn explore_stories(thread: u64) -> (u64, Option<String>) {
    let mut states = 0;
    let own = || (0..).zip(stories()).filter(|(number, _)| number % THREADS == thread);
    let none = |_| -> Box<dyn Iterator<Item = Crash>> { Box::new(std::iter::empty()) };
    let all = |changes| -> Box<dyn Iterator<Item = Crash>> { Box::new(all_crashes(changes)) };
    let alone = own().find_map(|(number, story)| explore_life(number, &story, none, &mut states));
    let broken = alone.or_else(|| {
        own().find_map(|(number, story)| explore_life(number, &story, all, &mut states))
    });
    (states, broken)
}

/// Number of lives that are explored: together more than half a million states.
const LIVES: u64 = 6000;
/// Number of lives in which a broken rule must show.
const MUTANT_LIVES: u64 = 300;
/// Threads that explore: as many as every machine has.
const THREADS: u64 = 2;

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

#[test]
fn lives_with_crashes() {
    let (first, count) = (number("SIM_ADMIN_FIRST", 0), number("SIM_ADMIN_SEEDS", LIVES));
    let explored: Vec<_> = std::thread::scope(|scope| {
        let explorers: Vec<_> = (0..THREADS)
            .map(|thread| {
                scope.spawn(move || {
                    let (told, broken) = explore_stories(thread);
                    let (lived, other) =
                        explore((first..first + count).filter(|seed| seed % THREADS == thread));
                    (told + lived, broken.or(other))
                })
            })
            .collect();
        explorers.into_iter().map(|explorer| explorer.join().unwrap()).collect()
    });
    println!(
        "{} states of the administrator",
        explored.iter().map(|(states, _)| states).sum::<u64>()
    );
    let broken: Vec<_> = explored.into_iter().filter_map(|(_, broken)| broken).collect();
    assert!(broken.is_empty(), "{}", broken.join("\n\n"));
}

#[test]
fn every_mutant_of_the_administrator_is_killed() {
    let wanted = std::env::var("SIM_MUTANT").ok();
    let mut alive = Vec::new();
    for mutant in Mutant::ALL {
        if wanted.as_ref().is_some_and(|wanted| *wanted != format!("{mutant:?}")) {
            continue;
        }
        mutant::set(Some(mutant));
        let mut states = 0;
        let told = (0..THREADS).find_map(|thread| {
            let (told, why) = explore_stories(thread);
            states += told;
            why
        });
        let broken = told.or_else(|| {
            let (lived, why) = explore(0..MUTANT_LIVES);
            states += lived;
            why
        });
        mutant::set(None);
        match broken {
            Some(why) if wanted.is_some() => {
                println!("{mutant:?}: killed after {states} states\n{why}")
            }
            Some(why) => println!(
                "{mutant:?}: killed after {states} states: {}",
                why.lines().next().unwrap()
            ),
            None => alive.push(mutant),
        }
    }
    assert!(alive.is_empty(), "not noticed: {alive:?}");
}

/// Prints one of the stories, to see what it leads to.
#[test]
fn a_story_is_told() {
    let stories = stories();
    let wanted = number("SIM_ADMIN_STORY", 0);
    let mutant = std::env::var("SIM_MUTANT").ok();
    mutant::set(
        Mutant::ALL
            .into_iter()
            .find(|known| mutant.as_ref().is_some_and(|name| *name == format!("{known:?}"))),
    );
    let story = &stories[usize::try_from(wanted).unwrap() % stories.len()];
    let crash = Some((number("SIM_ADMIN_CRASH", 0), false, None)).filter(|(at, ..)| *at > 0);
    let (changes, judged, log) = live(wanted, story, crash, true);
    mutant::set(None);
    println!("{}\n{changes} changes, {judged:?}", log.join("\n"));
}
