//! The administrator on a simulated machine: every command, in any order, with a process death or
//! power loss at every step, and then again. The judge is [`town`], which knows nothing of the
//! administrator's internals.

mod apart;
mod awaited;
mod beside;
mod between;
mod carried;
mod carried_again;
mod carried_growth;
mod carried_judge;
mod carried_lives;
mod carried_merge;
mod carried_refused;
mod carried_stack;
mod carried_tables;
mod carried_twice;
mod carried_upgrade;
#[path = "../told.rs"]
mod carry_out;
mod claims;
mod commands;
mod contents;
mod continued;
mod copies;
mod death;
mod early;
mod ended;
mod ends;
mod events;
mod exchanged;
mod excuses;
mod foreign_disks;
mod former;
mod full;
mod gone;
mod handed_on;
mod handover;
mod hangs;
mod held;
mod joined;
mod journals;
mod kernel;
mod last;
mod left_alone;
mod left_disks;
mod lines;
mod lines_refused;
mod lives;
mod machine;
mod merge_command;
mod merge_deferred;
mod merge_keep;
mod merge_kept_not;
mod merge_refused;
mod merge_silent;
mod merge_words;
mod merging;
mod merging_silent;
mod messages;
mod missed;
mod model;
mod moves;
mod moves_again;
mod moves_foreign;
mod moves_refused;
#[cfg(feature = "mutants")]
mod mutants;
mod named;
mod not_started;
mod open;
mod orphan;
mod own;
mod parts;
mod passed_on;
mod process;
mod ranges;
mod records;
mod refused;
mod removed;
mod renamed;
mod reopened;
mod resize;
mod resize_refused;
mod silent;
mod site;
mod spared;
mod specs;
mod stories;
mod suspended;
mod takeback;
mod thread;
mod told;
mod town;
mod undone;
mod unmade;
mod unmerged;
mod unreadable;
mod upgrade;
mod upgraded;
mod verdict;
mod waiting;

use std::sync::atomic::{AtomicUsize, Ordering};

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

/// Which crashes follow a life that has had so many changes.
type Crashes = fn(u64, u64) -> Box<dyn Iterator<Item = Crash>>;

/// None.
fn no_crash(_: u64, _: u64) -> Box<dyn Iterator<Item = Crash>> {
    Box::new(std::iter::empty())
}

/// Crashes at every change of a life, each alone and each with a second crash.
fn some_crashes(seed: u64, changes: u64) -> Box<dyn Iterator<Item = Crash>> {
    let later = move |at: u64| Some(1 + (seed ^ at).wrapping_mul(0x9E37_79B9_7F4A_7C15) % 60);
    Box::new((1..=changes).flat_map(move |at| {
        [
            (at, false, None),
            (at, true, None),
            (at, false, later(at)),
            (at, at % 2 == 0, later(at + 7)),
        ]
    }))
}

/// The same with every possible second crash.
fn all_crashes(_: u64, changes: u64) -> Box<dyn Iterator<Item = Crash>> {
    let second = |at: u64| (1..60).map(move |later| (at, false, Some(later)));
    Box::new(
        (1..=changes).flat_map(move |at| {
            [(at, false, None), (at, true, None)].into_iter().chain(second(at))
        }),
    )
}

/// Lives a life without a crash, and then with each crash; counts the states, and returns the first
/// that broke a rule.
fn explore_life(seed: u64, steps: &[Step], crashes: Crashes, states: &mut u64) -> Option<String> {
    let (changes, judged, _) = live(seed, steps, None, false);
    *states += 1;
    let broken = judged.err().map(|why| (None, why)).or_else(|| {
        crashes(seed, changes).find_map(|crash| {
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
    let broken =
        { seeds }.find_map(|seed| explore_life(seed, &life(seed), some_crashes, &mut states));
    (states, broken)
}

/// Explores the stories of one of the threads: each without a crash, then with every crash and
/// every second crash.
fn explore_stories(thread: u64) -> (u64, Option<String>) {
    let own: Vec<_> =
        (0..).zip(stories()).filter(|(number, _)| number % THREADS == thread).collect();
    explore_all(&own, &[no_crash, all_crashes])
}

/// Explores stories with one kind of crashes after the other.
fn explore_all(stories: &[(u64, Vec<Step>)], kinds: &[Crashes]) -> (u64, Option<String>) {
    let mut states = 0;
    let mut all = kinds.iter().flat_map(|kind| stories.iter().map(move |story| (*kind, story)));
    let broken =
        all.find_map(|(kind, (number, story))| explore_life(*number, story, kind, &mut states));
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
    let is_wanted =
        |mutant: &Mutant| wanted.as_ref().is_none_or(|wanted| *wanted == format!("{mutant:?}"));
    let mutants: Vec<_> = Mutant::ALL.into_iter().filter(is_wanted).collect();
    let next = AtomicUsize::new(0);
    let hunter = || {
        let mut alive = Vec::new();
        while let Some(mutant) = mutants.get(next.fetch_add(1, Ordering::Relaxed)) {
            let (states, broken) = hunt(*mutant);
            let Some(why) = broken else {
                alive.push(*mutant);
                continue;
            };
            let lines = if wanted.is_some() { usize::MAX } else { 1 };
            let why: Vec<_> = why.lines().take(lines).collect();
            println!("{mutant:?}: killed after {states} states: {}", why.join("\n"));
        }
        alive
    };
    let alive: Vec<_> = std::thread::scope(|scope| {
        let hunters: Vec<_> = (0..THREADS).map(|_| scope.spawn(hunter)).collect();
        hunters.into_iter().flat_map(|hunter| hunter.join().unwrap()).collect()
    });
    assert!(alive.is_empty(), "not noticed: {alive:?}");
}

/// Explores with a broken rule until that shows: what takes the least time first.
fn hunt(mutant: Mutant) -> (u64, Option<String>) {
    mutant::set(Some(mutant));
    let stories: Vec<_> = (0..).zip(stories()).collect();
    let (mut states, mut broken) = explore_all(&stories, &[no_crash, some_crashes, all_crashes]);
    if broken.is_none() {
        let (lived, why) = explore(0..MUTANT_LIVES);
        (states, broken) = (states + lived, why);
    }
    mutant::set(None);
    (states, broken)
}

/// A rule of one subject; the error says how it is broken.
type Rule = fn() -> Result<(), String>;

/// Each rule holds, and is noticed to be broken by its mutant.
fn hold_and_are_noticed(rules: &[(Rule, Mutant)]) {
    for (rule, broken) in rules {
        rule().unwrap_or_else(|why| panic!("{broken:?}: {why}"));
        mutant::set(Some(*broken));
        let wrong = rule();
        mutant::set(None);
        assert_eq!(wrong.is_err(), cfg!(feature = "mutants"), "{broken:?}: nothing is noticed");
    }
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
