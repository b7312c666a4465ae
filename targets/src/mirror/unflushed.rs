//! Regions written since the legs were last flushed, for mirrors without a log on disk. Pure.
//!
//! Up to [`MAX_GROUPS`] groups of [`GROUP`] consecutive regions are listed; if there are more, the
//! set is "any region". Recovery adds region after region, so a group costs one look-up of the
//! table for each of its regions, and one insertion.

use crate::hash::NumberTable;

/// Regions of a group: one bit of a word for each.
const GROUP: u64 = u64::BITS as u64;
/// Most groups listed; if there are more, all regions are copied after a failed flush. Bounds
/// memory to a few MiB if users write everywhere and never flush.
const MAX_GROUPS: usize = 65_536;

/// A list of regions, or any region.
#[derive(Clone, Default)]
pub(super) struct Lost {
    /// The groups that have regions in the list, each with these regions' bits.
    groups: NumberTable<u64>,
    pub(super) any: bool,
}

impl Lost {
    /// The regions of the list.
    pub(super) fn regions(&self) -> impl Iterator<Item = u64> + '_ {
        let of_group = |(group, bits): (&u64, &u64)| {
            let (first, bits) = (group * GROUP, *bits);
            (0..GROUP).filter(move |bit| bits >> bit & 1 == 1).map(move |bit| first + bit)
        };
        self.groups.iter().flat_map(of_group)
    }

    fn add(&mut self, region: u64) {
        self.add_to_group(region / GROUP, 1 << (region % GROUP));
    }

    fn add_to_group(&mut self, group: u64, bits: u64) {
        if self.any {
            return;
        }
        if let Some(present) = self.groups.get_mut(&group) {
            *present |= bits;
        } else if self.groups.len() == MAX_GROUPS {
            self.add_any();
        } else {
            self.groups.insert(group, bits);
        }
    }

    fn add_any(&mut self) {
        self.any = true;
        self.groups.clear();
    }

    /// Moves all regions of another set into this one.
    fn absorb(&mut self, other: &mut Lost) {
        if !self.any && self.groups.is_empty() {
            std::mem::swap(self, other);
            return;
        }
        if other.any {
            self.add_any();
        }
        other.groups.drain().for_each(|(group, bits)| self.add_to_group(group, bits));
        other.any = false;
    }

    fn clear(&mut self) {
        self.groups.clear();
        self.any = false;
    }
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
    fn too_many_groups_are_any_region() {
        let mut unflushed = Unflushed::default();
        for group in 0..MAX_GROUPS as u64 {
            unflushed.add(group * GROUP + group % GROUP);
        }
        unflushed.add(1);
        assert!(!unflushed.clone().take().any, "the region's group is listed already");
        assert_eq!(listed(&unflushed.clone().take()).len(), MAX_GROUPS + 1);
        unflushed.add(MAX_GROUPS as u64 * GROUP);
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
            8 => (0_u64..200).prop_map(Step::Add),
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
