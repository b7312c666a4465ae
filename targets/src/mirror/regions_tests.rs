//! Every sequence of a few events on three regions, checked against rules that do not depend on the
//! implementation.

use super::*;

const REGIONS: u64 = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    Begin(u64),
    End(u64),
    Fail(u64),
    FailFlush,
    BeginFlush,
    EndFlush(bool),
    Take,
    Cleaned,
    Recover,
    Quiet,
    Recovered(bool),
    Withhold(u64),
    Release(u64),
    SearchAgain,
}

const EVENTS: [Event; 23] = [
    Event::Begin(0),
    Event::Begin(1),
    Event::Begin(2),
    Event::End(0),
    Event::End(1),
    Event::End(2),
    Event::Fail(0),
    Event::Fail(2),
    Event::FailFlush,
    Event::BeginFlush,
    Event::EndFlush(true),
    Event::EndFlush(false),
    Event::Take,
    Event::Cleaned,
    Event::Recover,
    Event::Quiet,
    Event::Recovered(true),
    Event::Recovered(false),
    Event::Withhold(1),
    Event::Withhold(0),
    Event::Release(0),
    Event::Release(1),
    Event::SearchAgain,
];

/// The externally visible state of a region.
#[derive(Clone, Default)]
struct Seen {
    pending: u32,
    in_sync: bool,
    clean: bool,
    /// Withheld for recovery; `withheld`: by another holder.
    recovering: bool,
    withheld: bool,
    /// Taken for cleaning, and not written since.
    taken: bool,
    /// A leg's flush failed while it was withheld.
    spoiled: bool,
    /// Without a log on disk: written since the last successful flush, and before the one under
    /// way.
    fresh: bool,
    flushing: bool,
}

#[derive(Clone)]
struct World {
    regions: Regions,
    seen: Vec<Seen>,
    taken: Vec<RegionIndex>,
    recovering: Option<Span>,
    now_ms: u64,
    logged: bool,
    flush_under_way: bool,
}

impl World {
    fn new(in_sync: u64, logged: bool) -> World {
        let mut bits = Bits::zeroes(REGIONS).unwrap();
        // Earlier writes are not known to have been flushed.
        let mut seen = vec![Seen { fresh: !logged, ..Seen::default() }; 3];
        for region in (0..REGIONS).filter(|region| in_sync >> region & 1 == 1) {
            bits.put(region, true);
            let it = &mut seen[usize::try_from(region).unwrap()];
            (it.in_sync, it.clean) = (true, true);
        }
        let regions = Regions::new(bits, logged);
        World {
            regions,
            seen,
            taken: Vec::new(),
            recovering: None,
            now_ms: 0,
            logged,
            flush_under_way: false,
        }
    }

    fn at(&mut self, region: u64) -> &mut Seen {
        &mut self.seen[usize::try_from(region).unwrap()]
    }

    /// Applies an event; `false` if it is not possible now.
    fn apply(&mut self, event: Event) -> bool {
        self.now_ms += 1;
        let now_ms = self.now_ms;
        match event {
            Event::Begin(region) => return self.begin(region),
            // A write ends or fails only while it is in flight.
            Event::End(region) | Event::Fail(region) if self.at(region).pending == 0 => {
                return false;
            }
            Event::End(region) => self.end(region),
            Event::Fail(region) => {
                self.regions.fail(Span::one(RegionIndex(region)));
                let it = self.at(region);
                (it.in_sync, it.taken) = (false, false);
            }
            Event::FailFlush | Event::BeginFlush | Event::EndFlush(_) => return self.flush(event),
            Event::Take => {
                if !self.taken.is_empty() {
                    return false;
                }
                self.regions.take_idle(now_ms, 0, 8, &mut self.taken);
                for region in self.taken.clone() {
                    assert_eq!(self.at(region.0).pending, 0, "a region in use was taken");
                    self.at(region.0).taken = true;
                }
            }
            Event::Cleaned => {
                let mut cleaned = Vec::new();
                self.regions.finish_cleaning(&self.taken, |region| cleaned.push(region.0));
                for region in std::mem::take(&mut self.taken) {
                    let it = self.at(region.0);
                    let expected = std::mem::take(&mut it.taken) && it.in_sync && !it.clean;
                    assert_eq!(cleaned.contains(&region.0), expected, "region {region:?}");
                    it.clean |= expected;
                }
            }
            Event::Recover | Event::Quiet | Event::Recovered(_) => return self.recover(event),
            Event::Withhold(region) => {
                let free = !self.at(region).withheld && !self.at(region).recovering;
                if !free {
                    return false;
                }
                assert!(self.regions.withhold(RegionIndex(region)));
                self.at(region).withheld = true;
            }
            Event::Release(region) => {
                if !std::mem::take(&mut self.at(region).withheld) {
                    return false;
                }
                self.regions.release(RegionIndex(region), now_ms);
                self.at(region).spoiled = false;
            }
            Event::SearchAgain => self.regions.search_again(RegionIndex(0)),
        }
        true
    }

    fn end(&mut self, region: u64) {
        let entry = self.regions.index.get(&region).copied().filter(|_| region % 2 == 0);
        match entry {
            Some(entry) => self.regions.end_one(RegionIndex(region), entry, self.now_ms),
            None => self.regions.end_write(Span::one(RegionIndex(region)), self.now_ms),
        };
        self.at(region).pending -= 1;
        let (flush_failed, logged) = (self.regions.flush_failed, self.logged);
        let it = self.at(region);
        it.fresh |= it.in_sync && !logged;
        if it.pending == 0 {
            it.in_sync &= !flush_failed;
            it.taken &= it.in_sync;
            it.clean |= it.in_sync && !logged;
        }
    }

    fn flush(&mut self, event: Event) -> bool {
        match event {
            Event::FailFlush => {
                self.regions.fail_flush();
                for it in &mut self.seen {
                    it.in_sync &= it.clean && !it.fresh && !it.flushing;
                    it.clean &= it.in_sync;
                    it.taken &= it.in_sync;
                    it.spoiled = it.recovering || it.withheld;
                    (it.fresh, it.flushing) = (false, false);
                }
            }
            Event::BeginFlush => {
                let counts = !self.logged && !self.flush_under_way;
                assert_eq!(self.regions.begin_flush(), counts);
                self.flush_under_way |= counts;
                for it in self.seen.iter_mut().filter(|_| counts) {
                    it.flushing |= std::mem::take(&mut it.fresh);
                }
            }
            Event::EndFlush(succeeded) => {
                if !std::mem::take(&mut self.flush_under_way) {
                    return false;
                }
                self.regions.end_flush(succeeded);
                for it in &mut self.seen {
                    it.fresh |= std::mem::take(&mut it.flushing) && !succeeded;
                }
            }
            _ => return false,
        }
        true
    }

    fn begin(&mut self, region: u64) -> bool {
        let access = self.regions.access(RegionIndex(region));
        let it = self.at(region).clone();
        let expected = match it {
            Seen { withheld: true, .. } | Seen { recovering: true, .. } => Access::Withheld,
            Seen { in_sync: true, .. } => Access::InSync,
            _ => Access::OutOfSync,
        };
        assert_eq!(access, expected);
        if access == Access::Withheld || it.pending == 2 {
            return false;
        }
        let (mark, mut marked) = (self.now_ms, false);
        let wait_for =
            self.regions.begin_write(Span::one(RegionIndex(region)), mark, |_| marked = true);
        assert_eq!(marked, it.clean, "I7: exactly what the log calls clean has to be marked");
        assert!(!marked || wait_for == mark);
        let it = self.at(region);
        it.pending += 1;
        (it.clean, it.taken) = (false, false);
        true
    }

    fn recover(&mut self, event: Event) -> bool {
        let now_ms = self.now_ms;
        match (event, self.recovering) {
            (Event::Recover, None) => {
                let Some(span) = self.regions.next_recovery(2) else { return false };
                for region in span.numbers() {
                    let it = self.at(region);
                    assert!(
                        !it.in_sync && !it.withheld,
                        "only a region that is out of sync and has no holder is recovered"
                    );
                    assert!(
                        region == span.first.0 || it.pending == 0,
                        "a region in use is not joined"
                    );
                    it.recovering = true;
                }
                self.recovering = Some(span);
            }
            (Event::Quiet, Some(span)) => {
                let drained = span.numbers().all(|region| self.at(region).pending == 0);
                assert_eq!(self.regions.is_drained(span), drained);
            }
            (Event::Recovered(ok), Some(span)) if self.regions.is_drained(span) => {
                self.regions.end_recovery(span, ok, now_ms);
                let logged = self.logged;
                for region in span.numbers() {
                    let it = self.at(region);
                    it.recovering = false;
                    let spoiled = std::mem::take(&mut it.spoiled);
                    let ok = ok && !spoiled;
                    it.in_sync |= ok;
                    it.clean |= ok && !logged;
                    it.fresh |= ok && !logged;
                }
                self.recovering = None;
            }
            _ => return false,
        }
        true
    }

    fn check(&mut self, path: &[Event]) {
        for (region, it) in (0..).zip(&self.seen) {
            assert_eq!(
                self.regions.is_in_sync(RegionIndex(region)),
                it.in_sync,
                "{path:?}: region {region}"
            );
            assert_eq!(self.regions.clean.get(region), it.clean, "{path:?}: region {region}");
            assert!(
                !it.clean || it.in_sync && it.pending == 0,
                "{path:?}: region {region} must not be clean"
            );
        }
        let count = |what: fn(&Seen) -> bool| self.seen.iter().filter(|it| what(it)).count() as u64;
        assert_eq!(self.regions.in_sync_count(), count(|it| it.in_sync), "{path:?}");
        assert_eq!(self.regions.dirty_count(), count(|it| it.in_sync && !it.clean), "{path:?}");
        let entries = self.regions.entries.len() - self.regions.free.len();
        assert_eq!(entries, self.regions.index.len(), "{path:?}");
    }

    /// After everything has ended and been cleaned, no entries are left.
    fn wind_up(mut self, path: &[Event]) {
        for region in 0..REGIONS {
            while self.apply(Event::End(region)) {}
            self.apply(Event::Release(region));
        }
        self.apply(Event::Recovered(true));
        self.apply(Event::Cleaned);
        while self.apply(Event::Take) && !self.taken.is_empty() {
            self.apply(Event::Cleaned);
        }
        self.check(path);
        assert!(self.regions.index.is_empty(), "{path:?} leaves {:?}", self.regions.index);
        assert_eq!(self.regions.dirty_count(), 0, "{path:?}");
    }
}

fn explore(world: &World, path: &mut Vec<Event>, depth: usize, count: &mut u64) {
    *count += 1;
    world.clone().wind_up(path);
    if depth == 0 {
        return;
    }
    for event in EVENTS {
        let mut next = world.clone();
        if next.apply(event) {
            path.push(event);
            next.check(path);
            explore(&next, path, depth - 1, count);
            path.pop();
        }
    }
}

#[test]
fn every_short_sequence_keeps_the_rules() {
    let mut count = 0;
    for logged in [true, false] {
        for in_sync in [0b111, 0b010, 0b000] {
            explore(&World::new(in_sync, logged), &mut Vec::new(), 5, &mut count);
        }
    }
    assert!(count > 100_000, "only {count} sequences");
}

#[test]
fn random_long_sequences_keep_the_rules() {
    let mut seed = 1_u64;
    for round in 0..2000 {
        let mut world = World::new(round % 8, round % 3 > 0);
        let mut path = Vec::new();
        for _ in 0..60 {
            seed = seed
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let event = EVENTS[usize::try_from((seed >> 33) % EVENTS.len() as u64).unwrap()];
            if event != Event::FailFlush || round % 4 == 0 {
                if world.apply(event) {
                    path.push(event);
                }
                world.check(&path);
            }
        }
        world.wind_up(&path);
    }
}
