//! What a disk may hold after the power has gone.
//!
//! A write is *durable* when it completed with FUA, or when a flush that was started after its
//! completion has completed; without a volatile cache completion is enough. Every other write,
//! completed or in flight, is kept, lost or torn, for each unit of the disk by itself: a disk
//! writes back its cache in any order and stops anywhere. So a unit holds either its last durable
//! content or that of any later write to it, and a [`CrashSpace`] is the product of these choices.

use super::Rng;
use super::image::{Image, SectorData, index};
use crate::units::Sector;

/// What dies: the machine, or only the server process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CrashKind {
    /// The power goes: caches are lost.
    Power,
    /// The process dies: what completed stays, what is in flight may or may not happen.
    Process,
}

/// A write that is not durable.
#[derive(Clone, Debug)]
struct Unflushed {
    /// Position in the order of completions.
    order: u64,
    first: usize,
    data: Vec<SectorData>,
    /// A flush failed after it: no flush makes it durable any more.
    doomed: bool,
}

/// The state of a disk's cache and medium.
#[derive(Clone, Debug)]
pub(super) struct Media {
    /// What reads return.
    pub(super) visible: Image,
    durable: Image,
    /// For each sector, the completion that made it durable.
    durable_order: Vec<u64>,
    unflushed: Vec<Unflushed>,
    completions: u64,
}

impl Media {
    pub(super) fn new(image: Image) -> Media {
        let durable_order = vec![0; image.sectors.len()];
        Media {
            visible: image.clone(),
            durable: image,
            durable_order,
            unflushed: Vec::new(),
            completions: 0,
        }
    }

    /// Completions so far: those that a flush that starts now will make durable.
    pub(super) fn mark(&self) -> u64 {
        self.completions
    }

    /// Grows the disk, zeroed.
    pub(super) fn grow(&mut self, sectors: usize) {
        for image in [&mut self.visible, &mut self.durable] {
            image.sectors.resize(sectors, SectorData::zero());
        }
        self.durable_order.resize(sectors, 0);
    }

    /// A write completes: visible from now on, durable if `durable`.
    pub(super) fn write(&mut self, sector: Sector, data: &[SectorData], durable: bool) {
        self.completions += 1;
        let first = index(sector.0);
        self.visible.sectors[first..first + data.len()].clone_from_slice(data);
        if durable {
            self.harden(self.completions, first, data);
            self.drop_superseded();
        } else {
            let (order, data) = (self.completions, data.to_vec());
            self.unflushed.push(Unflushed { order, first, data, doomed: false });
        }
    }

    /// Completes a flush that was started when [`Media::mark`] returned `mark`.
    pub(super) fn flush(&mut self, mark: u64) {
        // In the order of their completion, so that the last one remains.
        for write in std::mem::take(&mut self.unflushed) {
            if write.order <= mark && !write.doomed {
                self.harden(write.order, write.first, &write.data);
            } else {
                self.unflushed.push(write);
            }
        }
        self.drop_superseded();
    }

    /// A flush fails: nothing that was written since the last one will become durable.
    pub(super) fn fail_flush(&mut self) {
        self.unflushed.iter_mut().for_each(|write| write.doomed = true);
    }

    fn harden(&mut self, order: u64, first: usize, data: &[SectorData]) {
        for (at, data) in data.iter().enumerate() {
            if self.durable_order[first + at] < order {
                self.durable_order[first + at] = order;
                self.durable.sectors[first + at] = data.clone();
            }
        }
    }

    fn drop_superseded(&mut self) {
        let durable_order = &self.durable_order;
        self.unflushed.retain(|write| {
            (0..write.data.len()).any(|at| durable_order[write.first + at] < write.order)
        });
    }

    /// What may survive a crash, given the writes in flight.
    pub(super) fn crash_space<'a>(
        &self,
        kind: CrashKind,
        unit: usize,
        in_flight: impl Iterator<Item = (Sector, &'a [SectorData])>,
    ) -> CrashSpace {
        let mut writes: Vec<Candidate> = Vec::new();
        if kind == CrashKind::Power {
            for write in &self.unflushed {
                let live = |(at, data): (usize, &SectorData)| {
                    (self.durable_order[write.first + at] < write.order).then(|| data.clone())
                };
                writes.push(Candidate {
                    first: write.first,
                    data: write.data.iter().enumerate().map(live).collect(),
                });
            }
        }
        let flying = |(sector, data): (Sector, &[SectorData])| Candidate {
            first: index(sector.0),
            data: data.iter().cloned().map(Some).collect(),
        };
        writes.extend(in_flight.map(flying));
        let base = if kind == CrashKind::Power { &self.durable } else { &self.visible };
        CrashSpace { base: base.clone(), writes, unit }
    }
}

/// A write that may or may not survive; sectors that a later durable write has replaced are `None`.
#[derive(Clone, Debug)]
struct Candidate {
    first: usize,
    data: Vec<Option<SectorData>>,
}

/// The fate of one write in a crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Nothing of it survives.
    Lost,
    /// All of it survives.
    Kept,
    /// Only its first units survive.
    Head(usize),
    /// All units survive but this many at the start.
    Tail(usize),
    /// Units survive according to the bits of a mixed seed.
    Scattered(u64),
}

/// All images that may survive on one disk.
#[derive(Clone, Debug)]
pub struct CrashSpace {
    base: Image,
    /// Oldest first, those in flight last.
    writes: Vec<Candidate>,
    /// Sectors that survive or perish together: a logical block.
    unit: usize,
}

impl CrashSpace {
    /// Writes whose fate is open.
    pub fn writes(&self) -> usize {
        self.writes.len()
    }

    /// The units with a choice: where they start and which writes they may show besides the durable
    /// content.
    fn choices(&self) -> Vec<(usize, Vec<usize>)> {
        let mut choices: Vec<(usize, Vec<usize>)> = Vec::new();
        for (number, write) in self.writes.iter().enumerate() {
            for at in
                (0..write.data.len()).step_by(self.unit).filter(|at| write.data[*at].is_some())
            {
                let start = write.first + at;
                match choices.iter_mut().find(|(unit, _)| *unit == start) {
                    Some((_, numbers)) => numbers.push(number),
                    None => choices.push((start, vec![number])),
                }
            }
        }
        choices
    }

    /// How many combinations of units there are; two of them may look the same.
    pub fn combinations(&self) -> u64 {
        let options = |(_, numbers): (usize, Vec<usize>)| numbers.len() as u64 + 1;
        self.choices().into_iter().map(options).fold(1, u64::saturating_mul)
    }

    /// The combination with this number.
    pub fn combination(&self, mut number: u64) -> Image {
        let mut image = self.base.clone();
        for (start, numbers) in self.choices() {
            let options = numbers.len() as u64 + 1;
            let chosen = number % options;
            number /= options;
            if chosen > 0 {
                self.keep_unit(&mut image, &self.writes[numbers[index(chosen - 1)]], start);
            }
        }
        image
    }

    fn keep_unit(&self, image: &mut Image, write: &Candidate, start: usize) {
        let at = start - write.first;
        for (offset, data) in write.data[at..].iter().take(self.unit).enumerate() {
            if let Some(data) = data {
                image.sectors[start + offset] = data.clone();
            }
        }
    }

    /// The image that results from a fate for each write.
    pub fn image(&self, fates: &[Fate]) -> Image {
        let mut image = self.base.clone();
        for (write, fate) in self.writes.iter().zip(fates) {
            let units = write.data.len() / self.unit;
            for unit in 0..units {
                let keep = match *fate {
                    Fate::Lost => false,
                    Fate::Kept => true,
                    Fate::Head(count) => unit < count,
                    Fate::Tail(skipped) => unit >= skipped,
                    Fate::Scattered(seed) => super::mix(seed ^ unit as u64) & 1 == 1,
                };
                if keep {
                    self.keep_unit(&mut image, write, write.first + unit * self.unit);
                }
            }
        }
        image
    }

    /// A fate for one of the writes: torn, kept or lost.
    fn fate(&self, number: usize, rng: &mut Rng) -> Fate {
        let units = self.writes[number].data.len() / self.unit;
        match rng.below(8) {
            0..=2 => Fate::Lost,
            3..=5 => Fate::Kept,
            _ if units < 2 => Fate::Kept,
            _ => match rng.below(3) {
                0 => Fate::Head(1 + rng.below(units - 1)),
                1 => Fate::Tail(1 + rng.below(units - 1)),
                _ => Fate::Scattered(rng.next_u64()),
            },
        }
    }
}

/// The images of several disks after one crash, each disk by itself: all combinations if there are
/// at most `cap`, and otherwise `cap` of them, with the two extremes, single exceptions to either,
/// and everything in between.
pub fn survivors(spaces: &[CrashSpace], cap: usize, rng: &mut Rng) -> Vec<Vec<Image>> {
    let combinations = spaces.iter().map(CrashSpace::combinations).fold(1, u64::saturating_mul);
    if combinations <= cap as u64 {
        return (0..combinations).map(|number| combination(spaces, number)).collect();
    }
    let all =
        |fate: Fate| spaces.iter().map(|space| vec![fate; space.writes()]).collect::<Vec<_>>();
    let mut plans = vec![all(Fate::Lost), all(Fate::Kept)];
    while plans.len() < cap.max(2) {
        plans.push(plan(spaces, rng));
    }
    plans.truncate(cap.max(1));
    let images = |plan: Vec<Vec<Fate>>| {
        spaces.iter().zip(plan).map(|(space, fates)| space.image(&fates)).collect()
    };
    plans.into_iter().map(images).collect()
}

fn combination(spaces: &[CrashSpace], mut number: u64) -> Vec<Image> {
    let one = |space: &CrashSpace| {
        let combinations = space.combinations();
        let image = space.combination(number % combinations);
        number /= combinations;
        image
    };
    spaces.iter().map(one).collect()
}

/// A fate for every write of every disk.
fn plan(spaces: &[CrashSpace], rng: &mut Rng) -> Vec<Vec<Fate>> {
    let shape = rng.below(5);
    let writes: usize = spaces.iter().map(CrashSpace::writes).sum();
    let base = if rng.one_in(2) { Fate::Kept } else { Fate::Lost };
    let (exception, mut number) = (rng.below(writes.max(1)), 0);
    let mut plan = Vec::with_capacity(spaces.len());
    for space in spaces {
        // One disk may have written everything and another nothing.
        let of_disk = if rng.one_in(2) { Fate::Kept } else { Fate::Lost };
        let cut = rng.below(space.writes() + 1);
        let mut fates = Vec::with_capacity(space.writes());
        for at in 0..space.writes() {
            let other = if base == Fate::Kept { Fate::Lost } else { Fate::Kept };
            fates.push(match shape {
                0 if number == exception => other,
                1 if number == exception => space.fate(at, rng),
                0 | 1 => base,
                2 => of_disk,
                3 => {
                    if at < cut {
                        Fate::Kept
                    } else {
                        Fate::Lost
                    }
                }
                _ => space.fate(at, rng),
            });
            number += 1;
        }
        plan.push(fates);
    }
    plan
}

#[cfg(test)]
mod tests;
