//! The steps in the life of a machine, and random lives.

use dm_targets::sim::Rng;
use dm_targets::sim::disk::Class;

use super::kernel::Control;
use super::town::{self, Town, What};

/// A step.
#[derive(Clone, Copy, Debug)]
pub enum Step {
    Add(What),
    Del(What, bool),
    Write(What, usize),
    Flush(What),
    Suspend(What),
    Resume(What),
    Use(What, bool),
    Recover,
    Terminate(&'static str),
    /// A new program takes a family over, if it starts.
    Upgrade(&'static str, bool),
    Kill(&'static str),
    Attach(usize, bool),
    Full(bool),
    /// The client of the next command leaves before its end.
    Leave,
    Fail(usize, Class, u32),
    Mend,
    /// The kernel does not start this many devices again.
    Refuse(u32),
    LoseFiles(&'static str, bool),
    Foreign,
    Steal(What, bool),
    Replace(usize, usize),
    Load(bool),
    /// The next command line names the legs that the mirror had first.
    FormerLegs,
    Wipe(usize),
    /// The run directory is on a disk from now on.
    KeepFiles,
    /// The dead server was one of 0.2.0, which recorded less.
    ForgetRecords,
    /// The power fails between two commands.
    PowerCut,
    /// A disk does not answer.
    Hang(usize),
    /// All disks answer.
    Answer,
    /// Another disk takes the path of a disk, or the right disk returns.
    Swap(usize),
    /// Another device is added on a snapshot's COW, forced or not.
    Beside(usize, bool),
    /// The kernel refuses a request, some requests later.
    Deny(Control, u32),
    /// The run directory becomes full some changes later.
    FullSoon(u64),
    /// The state file of a family is damaged some changes later.
    DamageSoon(&'static str, u64),
}

const DEVICES: [What; 4] = [What::Origin, What::Snap(0), What::Snap(1), What::Mirror];
const KEYS: [&str; 2] = ["o", "mirror-a"];

/// A life of a machine.
pub fn life(seed: u64) -> Vec<Step> {
    let mut rng = Rng::new(seed);
    let mut steps =
        vec![Step::Add(What::Origin), Step::Write(What::Origin, rng.below(town::SECTORS))];
    if rng.one_in(3) {
        steps = vec![Step::Add(What::Mirror)];
    } else {
        steps.push(Step::Add(What::Snap(0)));
    }
    for _ in 0..rng.below(8) + 2 {
        let what = *rng.pick(&DEVICES);
        let class = *rng.pick(&[Class::Read, Class::Write, Class::Flush]);
        let (disk, skip) = (rng.below(6), u32::try_from(rng.below(4)).unwrap());
        steps.push(match rng.below(54) {
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
                    Step::Steal(what, rng.one_in(2))
                }
            }
            37 => Step::Replace(rng.below(2), 3 + rng.below(3)),
            38 => Step::Load(rng.one_in(2)),
            39 => Step::Wipe(rng.below(2)),
            40 => Step::Hang(disk),
            41 => Step::Answer,
            42..44 => Step::Swap(disk),
            44..46 => Step::Beside(rng.below(2), rng.one_in(2)),
            46..49 => Step::Deny(*rng.pick(&Control::ALL), skip),
            49 => Step::Refuse(1 + skip),
            50..52 => Step::FullSoon(1 + rng.below(20) as u64),
            _ => Step::DamageSoon(KEYS[rng.below(2)], 1 + rng.below(20) as u64),
        });
    }
    with_upgrades(seed, steps)
}

/// A life, every second one with upgrades.
fn with_upgrades(seed: u64, mut steps: Vec<Step>) -> Vec<Step> {
    let mut rng = Rng::new(!seed);
    if rng.one_in(2) {
        for _ in 0..1 + rng.below(3) {
            let (at, key) = (1 + rng.below(steps.len()), KEYS[rng.below(2)]);
            steps.insert(at, Step::Upgrade(key, !rng.one_in(4)));
        }
    }
    steps
}

/// Does one step.
pub fn act(town: &mut Town, step: Step) {
    let told = match step {
        Step::Add(what) => town.add(what),
        Step::Del(what, force) => town.del(what, force),
        Step::Suspend(what) => town.suspend(what),
        Step::Resume(what) => town.resume(what),
        Step::Recover => town.recover(),
        Step::Terminate(key) => town.terminate(key),
        Step::Upgrade(key, starts) => town.upgrade(key, starts),
        Step::Replace(leg, disk) => town.replace(leg, disk),
        Step::Load(short) => town.load(short),
        Step::Beside(at, force) => town.add_beside(at, force),
        event => {
            apply_event(town, event);
            Ok(())
        }
    };
    town.notice_damage();
    if let Some(log) = &mut town.log {
        log.push(format!("{step:?}: {told:?}"));
    }
}

/// Events that happen by themselves, or that users cause.
fn apply_event(town: &mut Town, event: Step) {
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
        Step::Refuse(count) => town.refuse_to_start(count),
        Step::LoseFiles(key, damage) => town.lose_files(key, damage),
        Step::Foreign => town.add_foreign(),
        Step::Steal(what, replaced) => town.steal(what, replaced),
        Step::Wipe(at) => town.wipe(at),
        Step::FormerLegs => {
            town.legs = [3, 4];
            town.freed.clear();
        }
        Step::KeepFiles => town.site.keeps_files.set(true),
        Step::ForgetRecords => town.lose_records(),
        Step::PowerCut => town.crash(true),
        Step::Hang(disk) => town.hang(disk, true),
        Step::Answer => (0..town.site.disks.len()).for_each(|disk| town.hang(disk, false)),
        Step::Swap(disk) => town.swap(disk),
        Step::Deny(control, skip) => town.deny(control, skip),
        Step::FullSoon(later) => town.fill_later(later),
        Step::DamageSoon(key, later) => town.damage_later(key, later),
        _ => {}
    }
}
