//! A workload of a mirror, with all parameters that determine its course.

use dm_targets::sim::Rng;
use dm_targets::sim::disk::{Fault, Matcher};
use dm_targets::sim::image::Image;
use dm_targets::sim::world::Schedule;

use crate::mirror::fixture::Setup;
use crate::mirror::record::RecordFault;
use crate::workload::Op;

/// The administrator's action while the workload runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admin {
    /// Nothing.
    Nothing,
    /// Compares the legs, which are the same wherever they are in sync.
    Compare,
    /// Repairs from a leg.
    Repair(usize),
    /// Puts the spare disk, the last one of the world, in the place of a leg.
    Replace(usize),
    /// Adds the spare disk as a leg.
    Add,
    /// Takes a leg out.
    Remove(usize),
    /// Resumes the mirror, although it is running.
    Resume,
    /// Suspends and resumes the mirror.
    Suspend,
    /// Makes the mirror so many sectors long, which its disks have.
    Grow(u64),
}

/// When the administrator acts; at the latest when no other step is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// After so many requests have been started.
    Requests(usize),
    /// As soon as everything is in sync.
    InSync,
}

/// A workload with all parameters that determine its course.
#[derive(Clone, Debug)]
pub struct Case {
    /// The mirror.
    pub setup: Setup,
    /// The initial content of its disks; a spare disk may come last.
    pub images: Vec<Image>,
    /// Places of the legs that the log's bits speak of at first.
    pub told: Vec<usize>,
    /// The requests.
    pub ops: Vec<Op>,
    /// The number of requests in flight.
    pub depth: usize,
    /// The administrator's action.
    pub admin: Admin,
    /// When it begins.
    pub admin_when: When,
    /// The seed of all other choices.
    pub seed: u64,
    /// How the scheduler chooses.
    pub schedule: Schedule,
    /// Errors to come, with the disk they are on.
    pub faults: Vec<(usize, Fault)>,
    /// Operations that complete last of all, with the disk they are on.
    pub holds: Vec<(usize, Matcher)>,
    /// Errors of the record of the legs.
    pub record_fault: RecordFault,
    /// Regions are cleaned as soon as no write to them is in flight.
    pub eager: bool,
    /// Images to judge per moment, at most.
    pub cap: usize,
    /// One of this many surviving images is used until the next crash; zero for none.
    pub lives_on: usize,
}

impl Case {
    /// A case with the usual settings.
    pub fn new(setup: &Setup, images: &[Image], ops: &[Op], seed: u64) -> Case {
        let mut rng = Rng::new(seed);
        Case {
            setup: setup.clone(),
            images: images.to_vec(),
            told: setup.places(),
            ops: ops.to_vec(),
            depth: 1 + rng.below(3),
            admin: Admin::Nothing,
            admin_when: When::Requests(0),
            schedule: *rng.pick(&Schedule::RANDOM),
            seed,
            faults: Vec::new(),
            holds: Vec::new(),
            record_fault: RecordFault::default(),
            eager: !rng.one_in(3),
            cap: 10,
            lives_on: 40,
        }
    }
}
