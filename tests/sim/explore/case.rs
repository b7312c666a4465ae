//! A workload of a family of snapshots, and everything that decides how it goes.

use dm_targets::sim::Rng;
use dm_targets::sim::disk::{Fault, Matcher};
use dm_targets::sim::image::Image;
use dm_targets::sim::world::Schedule;

use crate::stack::{Left, Setup};
use crate::workload::Op;

/// A workload and everything that decides how it goes.
#[derive(Clone)]
pub struct Case {
    /// The family.
    pub setup: Setup,
    /// What the family finds at first.
    pub left: Left,
    /// The requests.
    pub ops: Vec<Op>,
    /// How many of them are in flight together.
    pub depth: usize,
    /// Decides everything that is not decided here.
    pub seed: u64,
    /// How the scheduler chooses.
    pub schedule: Schedule,
    /// Errors to come, with the disk they are on.
    pub faults: Vec<(usize, Fault)>,
    /// Operations that complete last of all, with the disk they are on.
    pub holds: Vec<(usize, Matcher)>,
    /// Images to look at per moment, at most.
    pub cap: usize,
    /// Of so many survivors one lives on to the next crash; zero for none.
    pub lives_on: usize,
    /// Crash also while the family is opened.
    pub crash_open: bool,
    /// Records use data chunks one after the other.
    pub dense: bool,
}

impl Case {
    /// A case with the usual settings. Servers note records in every other one.
    pub fn new(setup: &Setup, images: &[Image], ops: &[Op], seed: u64) -> Case {
        let mut rng = Rng::new(seed);
        Case {
            setup: Setup { notes: seed % 2 == 0, ..setup.clone() },
            left: Left::images(images),
            ops: ops.to_vec(),
            depth: 1 + rng.below(3),
            schedule: *rng.pick(&Schedule::RANDOM),
            seed,
            faults: Vec::new(),
            holds: Vec::new(),
            cap: 12,
            lives_on: 40,
            crash_open: false,
            dense: true,
        }
    }
}
