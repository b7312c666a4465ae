//! A merge with requests, with all parameters that determine its course.

use dm_targets::sim::Rng;
use dm_targets::sim::disk::{Fault, Matcher};
use dm_targets::sim::image::Image;
use dm_targets::sim::world::Schedule;

use super::family::Plan;
use crate::stack::Left;
use crate::workload::Op;

/// An action on a family.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Act {
    /// A request.
    Op(Op),
    /// A late snapshot joins.
    Join(usize),
    /// A snapshot leaves.
    Leave(usize),
    /// The merge stops.
    Pause,
    /// The merge continues.
    Unpause,
    /// A merge that has failed goes on, whatever has been mended.
    Restart,
    /// Everything ends and is opened again.
    Reopen,
}

/// A merge with all parameters that determine its course.
#[derive(Clone)]
pub struct Case {
    pub plan: Plan,
    pub left: Left,
    pub acts: Vec<Act>,
    pub depth: usize,
    pub seed: u64,
    pub schedule: Schedule,
    pub faults: Vec<(usize, Fault)>,
    pub holds: Vec<(usize, Matcher)>,
    pub cap: usize,
    pub lives_on: usize,
}

impl Case {
    /// A case with the usual settings.
    pub fn new(plan: &Plan, images: &[Image], acts: &[Act], seed: u64) -> Case {
        let mut rng = Rng::new(seed);
        let mut plan = plan.clone();
        plan.setup.journal = seed % 2 == 0;
        Case {
            plan,
            left: Left::images(images),
            acts: acts.to_vec(),
            depth: 1 + rng.below(3),
            schedule: *rng.pick(&Schedule::RANDOM),
            seed,
            faults: Vec::new(),
            holds: Vec::new(),
            cap: 6,
            lives_on: 60,
        }
    }
}
