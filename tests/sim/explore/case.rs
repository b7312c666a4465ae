//! A workload of a family of snapshots, with all parameters that determine its course.

use dm_targets::sim::Rng;
use dm_targets::sim::disk::{Fault, Matcher};
use dm_targets::sim::image::Image;
use dm_targets::sim::world::Schedule;

use crate::stack::{Left, Setup};
use crate::workload::Op;

/// A workload with all parameters that determine its course.
#[derive(Clone)]
pub struct Case {
    /// The family.
    pub setup: Setup,
    /// The initial content of the disks.
    pub left: Left,
    /// The requests.
    pub ops: Vec<Op>,
    /// The number of requests in flight.
    pub depth: usize,
    /// The seed of all other choices.
    pub seed: u64,
    /// How the scheduler chooses.
    pub schedule: Schedule,
    /// Errors to come, with the disk they are on.
    pub faults: Vec<(usize, Fault)>,
    /// Operations that complete last of all, with the disk they are on.
    pub holds: Vec<(usize, Matcher)>,
    /// Images to judge per moment, at most.
    pub cap: usize,
    /// One of this many surviving images is used until the next crash; zero for none.
    pub lives_on: usize,
    /// Crash also while the family is opened.
    pub crash_open: bool,
    /// Records use consecutive data chunks.
    pub dense: bool,
}

impl Case {
    /// A case with the usual settings. Servers journal records in every second case.
    pub fn new(setup: &Setup, images: &[Image], ops: &[Op], seed: u64) -> Case {
        let mut rng = Rng::new(seed);
        Case {
            setup: Setup { journal: seed % 2 == 0, ..setup.clone() },
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
