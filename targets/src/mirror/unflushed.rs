//! Regions written since the legs were last flushed, for mirrors without a log on disk. Pure.
//!
//! Up to [`MAX_PAGES`] pages of [`PAGE`] consecutive regions are listed; if there are more, the set
//! is "any region". Every write adds its regions, so a page is found by an index and not by a
//! look-up of a table. Regions that are added one after the other share pages.

/// Regions of a word: one bit for each.
const WORD: u64 = u64::BITS as u64;
/// Words of a page: a line of the processor's cache.
const WORDS: usize = 8;
/// Regions of a page.
const PAGE: u64 = WORD * WORDS as u64;
/// Most pages listed; if there are more, all regions are copied after a failed flush. Bounds memory
/// to a few MiB if users write everywhere and never flush, beside 4 bytes for each page of the
/// mirror, a sixteenth of a bit for a region.
const MAX_PAGES: usize = 65_536;

/// The listed regions of a page.
#[derive(Clone)]
struct Page {
    number: u64,
    /// One bit for each region.
    words: [u64; WORDS],
}

/// A list of regions, or any region.
#[derive(Clone, Default)]
pub(super) struct Lost {
    /// The pages that have regions in the list.
    pages: Vec<Page>,
    /// For each page of the mirror, as far as regions were added: its place in `pages` plus one, or
    /// zero.
    places: Vec<u32>,
    pub(super) any: bool,
}

impl Lost {
    /// The regions of the list.
    pub(super) fn regions(&self) -> impl Iterator<Item = u64> + '_ {
        self.pages.iter().flat_map(|page| {
            let first = page.number * PAGE;
            (0..PAGE)
                .filter(|at| page.words[word_of(*at)] >> (at % WORD) & 1 == 1)
                .map(move |at| first + at)
        })
    }

    #[inline]
    fn add(&mut self, region: u64) {
        let page = self.page(region / PAGE);
        if let Some(page) = page {
            page.words[word_of(region)] |= 1 << (region % WORD);
        }
    }

    /// The page with this number, listed from now on; `None` if the list is "any region".
    #[inline]
    fn page(&mut self, number: u64) -> Option<&mut Page> {
        let place = self.places.get(index(number)).map_or(0, |place| *place as usize);
        let place = if place == 0 { self.list_page(number)? } else { place };
        self.pages.get_mut(place - 1)
    }

    /// Lists a page and returns its place plus one. Off the path of most writes.
    #[cold]
    fn list_page(&mut self, number: u64) -> Option<usize> {
        if self.pages.len() == MAX_PAGES {
            self.add_any();
        }
        if self.any {
            return None;
        }
        if self.places.len() <= index(number) {
            self.places.resize(index(number) + 1, 0);
        }
        self.pages.push(Page { number, words: [0; WORDS] });
        let place = self.pages.len();
        // No more than `MAX_PAGES`.
        self.places[index(number)] = u32::try_from(place).unwrap_or(0);
        Some(place)
    }

    fn add_any(&mut self) {
        self.clear();
        self.any = true;
    }

    /// Moves all regions of another set into this one.
    fn absorb(&mut self, other: &mut Lost) {
        if !self.any && self.pages.is_empty() {
            std::mem::swap(self, other);
            return;
        }
        if other.any {
            self.add_any();
        }
        for theirs in &other.pages {
            let Some(page) = self.page(theirs.number) else { break };
            page.words.iter_mut().zip(theirs.words).for_each(|(word, theirs)| *word |= theirs);
        }
        other.clear();
    }

    fn clear(&mut self) {
        for page in self.pages.drain(..) {
            self.places[index(page.number)] = 0;
        }
        self.any = false;
    }
}

/// The word of a page that has a region.
fn word_of(region: u64) -> usize {
    index(region / WORD % WORDS as u64)
}

/// A number of pages or words, of which memory has room for all.
fn index(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

/// The regions written to the legs and not known to be flushed.
#[derive(Clone, Default)]
pub(super) struct Unflushed {
    /// Written since the start of the flush under way or, without one, of the last successful
    /// flush.
    fresh: Lost,
    /// Written before the flush under way.
    flushing: Lost,
    /// A flush is under way whose success counts; concurrent flushes count only if they fail.
    under_way: bool,
}

impl Unflushed {
    /// The regions that earlier servers wrote and did not flush are unknown: any region.
    pub(super) fn unknown() -> Unflushed {
        Unflushed {
            fresh: Lost { any: true, ..Lost::default() },
            flushing: Lost::default(),
            under_way: false,
        }
    }

    pub(super) fn add(&mut self, region: u64) {
        self.fresh.add(region);
    }

    /// A flush begins that covers all writes so far; `false` if another flush that counts is under
    /// way.
    pub(super) fn begin_flush(&mut self) -> bool {
        if self.under_way {
            return false;
        }
        self.under_way = true;
        self.flushing.absorb(&mut self.fresh);
        true
    }

    /// The flush that counts has ended.
    pub(super) fn end_flush(&mut self, succeeded: bool) {
        self.under_way = false;
        if succeeded {
            self.flushing.clear();
        } else {
            self.fresh.absorb(&mut self.flushing);
        }
    }

    /// Takes all regions that a failed flush may have lost.
    pub(super) fn take(&mut self) -> Lost {
        let mut lost = std::mem::take(&mut self.fresh);
        lost.absorb(&mut self.flushing);
        lost
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn listed(lost: &Lost) -> BTreeSet<u64> {
        lost.regions().collect()
    }

    #[test]
    fn too_many_pages_are_any_region() {
        let mut unflushed = Unflushed::default();
        for page in 0..MAX_PAGES as u64 {
            unflushed.add(page * PAGE + page % PAGE);
        }
        unflushed.add(1);
        assert!(!unflushed.clone().take().any, "the region's page is listed already");
        assert_eq!(listed(&unflushed.clone().take()).len(), MAX_PAGES + 1);
        unflushed.add(MAX_PAGES as u64 * PAGE);
        assert!(unflushed.clone().take().any);
        assert!(unflushed.begin_flush());
        unflushed.end_flush(false);
        assert!(unflushed.clone().take().any, "a flush that failed changes nothing");
        assert!(unflushed.begin_flush());
        unflushed.end_flush(true);
        let lost = unflushed.take();
        assert!(!lost.any && listed(&lost).is_empty());
    }

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Add(u64),
        Begin,
        End(bool),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            8 => (0_u64..3 * PAGE).prop_map(Step::Add),
            1 => Just(Step::Begin),
            1 => any::<bool>().prop_map(Step::End),
        ]
    }

    proptest! {
        #[test]
        fn it_is_a_set(steps in prop::collection::vec(step(), 0..200)) {
            let mut unflushed = Unflushed::default();
            let (mut fresh, mut flushing) = (BTreeSet::new(), None::<BTreeSet<u64>>);
            for step in steps {
                match step {
                    Step::Add(region) => {
                        unflushed.add(region);
                        fresh.insert(region);
                    }
                    Step::Begin => {
                        prop_assert_eq!(unflushed.begin_flush(), flushing.is_none());
                        if flushing.is_none() {
                            flushing = Some(std::mem::take(&mut fresh));
                        }
                    }
                    Step::End(succeeded) => {
                        let Some(flushed) = flushing.take() else { continue };
                        unflushed.end_flush(succeeded);
                        fresh.extend(flushed.into_iter().filter(|_| !succeeded));
                    }
                }
                let lost = unflushed.clone().take();
                let expected = fresh.iter().chain(flushing.iter().flatten());
                prop_assert_eq!(listed(&lost), expected.copied().collect::<BTreeSet<u64>>());
                prop_assert!(!lost.any);
            }
        }
    }
}
