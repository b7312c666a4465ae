//! The administrator on a simulated machine: every command, in any order, with an end of its process or of the power at
//! every step, and then again. The judge is [`town`], which knows nothing of the administrator's insides.

mod commands;
mod ends;
mod events;
mod hangs;
mod kernel;
mod machine;
mod model;
mod open;
mod records;
mod site;
mod strangers;
mod town;

use dm_targets::sim::Rng;
use dm_targets::sim::disk::Class;
use town::{Broken, Town, What};

/// What happens.
#[derive(Clone, Copy, Debug)]
enum Step {
    Add(What),
    Del(What, bool),
    Write(What, usize),
    Flush(What),
    Suspend(What),
    Resume(What),
    Use(What, bool),
    Recover,
    Terminate(&'static str),
    Kill(&'static str),
    Attach(usize, bool),
    Full(bool),
    /// The client of the next command leaves before its end.
    Leave,
    Fail(usize, Class, u32),
    Mend,
    LoseFiles(&'static str, bool),
    Foreign,
    Steal(What),
    Replace(usize, usize),
    Load,
    Wipe(usize),
}

const DEVICES: [What; 4] = [What::Origin, What::Snap(0), What::Snap(1), What::Mirror];
const KEYS: [&str; 2] = ["o", "mirror-a"];

/// A life of a machine.
fn life(seed: u64) -> Vec<Step> {
    let mut rng = Rng::new(seed);
    let mut steps = vec![Step::Add(What::Origin), Step::Write(What::Origin, rng.below(town::SECTORS))];
    if rng.one_in(3) {
        steps = vec![Step::Add(What::Mirror)];
    } else {
        steps.push(Step::Add(What::Snap(0)));
    }
    for _ in 0..rng.below(8) + 2 {
        let what = *rng.pick(&DEVICES);
        let class = *rng.pick(&[Class::Read, Class::Write, Class::Flush]);
        let (disk, skip) = (rng.below(6), u32::try_from(rng.below(4)).unwrap());
        steps.push(match rng.below(40) {
            0..3 => Step::Add(what),
            3..5 => Step::Del(what, false),
            5 => Step::Del(what, true),
            6..13 => Step::Write(what, rng.below(town::SECTORS)),
            13 => Step::Flush(what),
            14 => Step::Suspend(what),
            15 => Step::Resume(what),
            16..18 => Step::Use(what, true),
            18 => Step::Use(what, false),
            19..22 => Step::Recover,
            22 => Step::Terminate(KEYS[rng.below(2)]),
            23..26 => Step::Kill(KEYS[rng.below(2)]),
            26 => Step::Attach(disk, false),
            27 => Step::Attach(disk, true),
            28 => Step::Full(true),
            29 => Step::Full(false),
            30 => Step::Leave,
            31..34 => Step::Fail(disk, class, skip),
            34 => Step::Mend,
            35 => Step::LoseFiles(KEYS[rng.below(2)], rng.one_in(2)),
            36 => {
                if rng.one_in(2) {
                    Step::Foreign
                } else {
                    Step::Steal(what)
                }
            }
            37 => Step::Replace(rng.below(2), 3 + rng.below(3)),
            38 => Step::Load,
            _ => Step::Wipe(rng.below(2)),
        });
    }
    steps
}

/// Does one step.
fn act(town: &mut Town, step: Step) {
    let told = match step {
        Step::Add(what) => town.add(what),
        Step::Del(what, force) => town.del(what, force),
        Step::Suspend(what) => town.suspend(what),
        Step::Resume(what) => town.resume(what),
        Step::Recover => town.recover(),
        Step::Terminate(key) => town.terminate(key),
        Step::Replace(leg, disk) => town.replace(leg, disk),
        Step::Load => town.load(),
        event => {
            happen(town, event);
            Ok(())
        }
    };
    if let Some(log) = &mut town.log {
        log.push(format!("{step:?}: {told:?}"));
    }
}

/// What happens by itself, or is done by users.
fn happen(town: &mut Town, event: Step) {
    match event {
        Step::Write(what, sector) => town.write(what, sector),
        Step::Flush(what) => town.flush(what),
        Step::Use(what, in_use) => town.set_use(what, in_use),
        Step::Kill(key) => town.kill(key),
        Step::Attach(disk, there) => town.attach(disk, there),
        Step::Full(full) => town.fill(full),
        Step::Leave => town.client_leaves = true,
        Step::Fail(disk, class, skip) => town.fail(disk, class, skip),
        Step::Mend => town.mend(),
        Step::LoseFiles(key, damage) => town.lose_files(key, damage),
        Step::Foreign => town.add_foreign(),
        Step::Steal(what) => town.steal(what),
        Step::Wipe(at) => town.wipe(at),
        _ => {}
    }
}

/// An end: at which change, whether the power goes, and how many changes later it comes once more, if it does.
type Crash = (u64, bool, Option<u64>);

/// Lives a life with a crash at one change, if any; returns how many changes there were.
fn live(seed: u64, steps: &[Step], crash: Option<Crash>, log: bool) -> (u64, Result<(), Broken>, Vec<String>) {
    let mut town = Town::new(seed, log);
    town.site.shared.lock().unwrap().crash_at = crash.map(|(at, ..)| at);
    for step in steps {
        act(&mut town, *step);
        crash_if_due(&mut town, crash);
    }
    let changes = town.site.shared.lock().unwrap().changes;
    // What has not come yet comes while everything is taken over.
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

/// Explores lives, and returns how many were judged, and the first that broke a rule.
fn explore(seeds: impl Iterator<Item = u64>) -> (u64, Option<String>) {
    let mut states = 0;
    for seed in seeds {
        let steps = life(seed);
        let (changes, judged, _) = live(seed, &steps, None, false);
        states += 1;
        let later = |at: u64| Some(1 + (seed ^ at).wrapping_mul(0x9E37_79B9_7F4A_7C15) % 60);
        let crashes = (1..=changes).flat_map(|at| {
            [(at, false, None), (at, true, None), (at, false, later(at)), (at, at % 2 == 0, later(at + 7))]
        });
        let broken = judged.err().map(|why| (None, why)).or_else(|| {
            crashes.into_iter().find_map(|crash| {
                states += 1;
                live(seed, &steps, Some(crash), false).1.err().map(|why| (Some(crash), why))
            })
        });
        if let Some((crash, why)) = broken {
            let (_, _, log) = live(seed, &steps, crash, true);
            return (states, Some(format!("seed {seed}, crash {crash:?}: {why}\n{}", log.join("\n"))));
        }
    }
    (states, None)
}

#[test]
fn lives_with_crashes() {
    let count: u64 = std::env::var("SIM_ADMIN_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(200);
    let first: u64 = std::env::var("SIM_ADMIN_FIRST").ok().and_then(|text| text.parse().ok()).unwrap_or(0);
    let (states, broken) = explore(first..first + count);
    println!("{states} states of the administrator");
    if let Some(broken) = broken {
        panic!("{broken}");
    }
}
