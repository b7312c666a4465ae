//! The states in which a cut may leave the disk.
//!
//! A cut right after an event of the log leaves all that is listed up to it: that is the log's
//! order. In addition, writes that were sent before the cut and not yet promised may be there, each
//! whole, torn by sector or lost:
//!
//! * just before a flush completes, every plain write that the flush covers;
//! * at any moment, plain writes of requests that were acknowledged by then (their stamps and the
//!   marks tell);
//! * just before a FUA write completes, any of its sectors.
//!
//! No other write is used: it is unknown whether a write that is listed later had been sent at all.

use crate::load::Rng;

use super::history::Promise;
use super::log::{Atom, Contents, Event, Seen};
use super::oracle::{Layout, Promises};

/// Random choices among the optional writes of one cut.
const RANDOM_STATES: u64 = 2;
/// The same where a flush is about to complete: there are more writes, and there unordered writes
/// show.
const RANDOM_STATES_BEFORE_FLUSH: u64 = 5;

/// A disk, sector by sector.
pub type Image = Vec<Atom>;

/// A recorded load.
pub struct Record {
    pub contents: Contents,
    pub start: Image,
    pub events: Vec<Event>,
}

/// The number of cuts and states.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    pub cuts: u64,
    pub states: u64,
}

/// Orders the contents that one sector may get in the course of a load, whose tags are `KxxR`: `R`
/// counts the loads that a disk has been through; in one load what was there (`b`) comes before the
/// origin's writes (`o`), and what was copied of these before the snapshot's own (`s`).
fn rank(seen: Seen) -> (u8, u8, u64) {
    let tag = seen.cell.to_be_bytes();
    (tag[3], tag[0], seen.cell & 0xffff_ffff)
}

impl Record {
    /// Puts one sector in place, unless a FUA write listed before it was sent after it.
    fn put(&self, image: &mut Image, fua: &[bool], sector: usize, atom: Atom) {
        let (old, new) = (self.contents.seen(image[sector]), self.contents.seen(atom));
        let stamped = |seen: Seen| seen.cell != 0 && seen.cell != super::log::NO_STAMP;
        if fua[sector] && stamped(old) && stamped(new) && rank(new) < rank(old) {
            return;
        }
        image[sector] = atom;
    }

    /// The content of the disk after all events.
    pub fn end(&self) -> Image {
        let (mut image, mut fua) = (self.start.clone(), vec![false; self.start.len()]);
        for event in &self.events {
            if *event == Event::Flush {
                fua.fill(false);
            }
            for (sector, atom) in Record::sectors(event) {
                self.put(&mut image, &fua, sector, atom);
                fua[sector] |= matches!(event, Event::Write { fua: true, .. });
            }
        }
        image
    }

    fn sectors(event: &Event) -> impl Iterator<Item = (usize, Atom)> {
        let (sector, sectors, first) = match event {
            Event::Write { sector, sectors, first, .. } => (*sector, *sectors, *first),
            _ => (0, 0, 0),
        };
        (0..sectors).zip(first..).map(move |(n, atom)| (crate::disk::us(sector + n), atom))
    }

    /// Calls `judge` with every state of every cut; the position names the last event that
    /// happened.
    pub fn every_cut(
        &self,
        layout: &Layout,
        seed: u64,
        mut judge: impl FnMut(usize, &Image, &[Promise]) -> Result<(), String>,
    ) -> Result<Counts, String> {
        let (mut image, mut fua) = (self.start.clone(), vec![false; self.start.len()]);
        let (mut promises, mut counts) = (Promises::new(layout), Counts::default());
        let mut rng = Rng::new(seed);
        for (position, event) in self.events.iter().enumerate() {
            match event {
                Event::Write { fua: now, .. } => {
                    for (sector, atom) in Record::sectors(event) {
                        self.put(&mut image, &fua, sector, atom);
                        fua[sector] |= *now;
                    }
                    if !now {
                        continue; // it became durable with the flush behind it, not by itself
                    }
                }
                Event::Flush => fua.fill(false),
                Event::Mark(text) => promises.hear(text),
            }
            counts.cuts += 1;
            let states = self.states(position, &image, &fua, layout, &promises, &mut rng);
            for state in &states {
                counts.states += 1;
                judge(position, state, promises.all())?;
            }
        }
        Ok(counts)
    }

    fn states(
        &self,
        position: usize,
        image: &Image,
        fua: &[bool],
        layout: &Layout,
        promises: &Promises,
        rng: &mut Rng,
    ) -> Vec<Image> {
        let mut states = vec![image.clone()];
        let (optional, before_flush) = self.optional(position, layout, promises);
        let chosen = |keep: &mut dyn FnMut(usize) -> bool, torn: &mut dyn FnMut() -> bool| {
            let mut state = image.clone();
            for (n, event) in optional.iter().enumerate() {
                let (whole, tears) = (keep(n), torn());
                for (sector, atom) in Record::sectors(event) {
                    if if tears { torn() } else { whole } {
                        self.put(&mut state, fua, sector, atom);
                    }
                }
            }
            state
        };
        if !optional.is_empty() {
            states.push(chosen(&mut |_| true, &mut || false));
            if optional.len() <= 3 {
                for mask in 1..(1_usize << optional.len()) - 1 {
                    states.push(chosen(&mut |n| mask >> n & 1 == 1, &mut || false));
                }
            }
            let count = if before_flush { RANDOM_STATES_BEFORE_FLUSH } else { RANDOM_STATES };
            for _ in 0..count {
                let (mut some, share) = (Rng::new(rng.next()), 1 + rng.below(7));
                let mut tear = Rng::new(rng.next());
                states.push(chosen(&mut |_| some.below(8) < share, &mut || tear.below(2) == 0));
            }
        }
        if let Some(event @ Event::Write { sectors: 2.., fua: true, .. }) =
            self.events.get(position + 1)
        {
            let mut state = image.clone();
            for (sector, atom) in Record::sectors(event).filter(|_| rng.below(2) == 0) {
                state[sector] = atom;
            }
            states.push(state);
        }
        states
    }

    /// The writes that may also have happened; whether a flush is about to complete.
    fn optional(
        &self,
        position: usize,
        layout: &Layout,
        promises: &Promises,
    ) -> (Vec<&Event>, bool) {
        let rest = &self.events[position + 1..];
        let plain = |event: &&Event| matches!(event, Event::Write { fua: false, .. });
        let group: Vec<&Event> = rest.iter().take_while(plain).collect();
        if !group.is_empty() && rest.get(group.len()) == Some(&Event::Flush) {
            return (group, true);
        }
        let mut flushes = 0;
        // A write may have completed too late for the next flush, never too late for the one after.
        let near = rest.iter().take_while(|event| {
            flushes += u32::from(**event == Event::Flush);
            flushes < 2
        });
        let known = |event: &&Event| {
            Record::sectors(event).all(|(sector, atom)| {
                layout.sent_before(sector as u64, self.contents.seen(atom), promises.all())
            })
        };
        (near.filter(plain).filter(known).collect(), false)
    }
}
