//! The order in which devices are deleted and servers recovered, by which stands on which. Nothing
//! here asks the kernel.
//!
//! Rules kept here: a device is deleted before those that it stands on; an origin before its
//! snapshots, so that nothing writes to the origin any more when they are deleted; what other
//! servers have on a device before the device's snapshots, which are lost if that stays; and a
//! server is recovered after the servers that its devices stand on.

use std::collections::BTreeSet;

/// The properties of a device, or of a whole server, that the order depends on.
#[derive(Clone, Debug, Default)]
pub(super) struct Part {
    /// The ids of its devices.
    pub ids: BTreeSet<u32>,
    /// The ids of the devices that it stands on.
    pub below: BTreeSet<u32>,
    /// The server of the device, as an index into the caller's list.
    pub server: usize,
    pub is_origin: bool,
}

impl Part {
    /// Whether this part stands on `other`.
    pub fn stands_on(&self, other: &Part) -> bool {
        !self.below.is_disjoint(&other.ids)
    }

    /// Whether one of the two stands on the other.
    pub fn is_stacked_with(&self, other: &Part) -> bool {
        self.stands_on(other) || other.stands_on(self)
    }

    /// Whether `other` is a snapshot of this origin.
    pub fn is_origin_of(&self, other: &Part) -> bool {
        self.server == other.server && self.is_origin && !other.is_origin
    }
}

/// The indexes of devices in the order of their deletion: from the top down.
pub(super) fn deletion(parts: &[Part]) -> Vec<usize> {
    let must_wait = |one: usize, other: usize| parts[other].stands_on(&parts[one]);
    let after = after_users(parts);
    let should_wait = |one: usize, other: usize| {
        if after.contains(&(one, other)) {
            return true;
        }
        let (one, other) = (&parts[one], &parts[other]);
        one.server == other.server && other.is_origin && !one.is_origin
    };
    order(parts.len(), must_wait, should_wait)
}

/// What stands on a device of its own server, each with what other servers have on that device, or
/// on what stands on it: of that it is known only afterwards whether it goes.
pub(super) fn after_users(parts: &[Part]) -> BTreeSet<(usize, usize)> {
    let users = |below: usize| {
        let all = parts.iter().enumerate();
        let found = all.filter(move |(_, part)| part.stands_on(&parts[below])).map(|(at, _)| at);
        found.collect::<Vec<_>>()
    };
    let mut pairs = BTreeSet::new();
    for (below, carrier) in parts.iter().enumerate() {
        let (mut above, mut next) = (BTreeSet::new(), users(below));
        let own: Vec<usize> =
            next.iter().copied().filter(|user| parts[*user].server == carrier.server).collect();
        if own.is_empty() {
            continue;
        }
        while let Some(one) = next.pop() {
            if above.insert(one) {
                next.extend(users(one));
            }
        }
        let others = above.into_iter().filter(|user| parts[*user].server != carrier.server);
        pairs.extend(others.flat_map(|other| own.iter().map(move |one| (*one, other))));
    }
    pairs
}

/// The indexes of servers in the order of their recovery: from the bottom up.
pub(super) fn recovery(parts: &[Part]) -> Vec<usize> {
    order(parts.len(), |one, other| parts[one].stands_on(&parts[other]), |_, _| false)
}

/// All indexes from 0, each after those it must wait for, and after those it should wait for unless
/// the two conflict. Indexes that wait for each other come last, in their given order.
pub(super) fn order(
    count: usize,
    must_wait: impl Fn(usize, usize) -> bool,
    should_wait: impl Fn(usize, usize) -> bool,
) -> Vec<usize> {
    let mut left: Vec<usize> = (0..count).collect();
    let mut ordered = Vec::new();
    while !left.is_empty() {
        let free = |wait: &dyn Fn(usize, usize) -> bool, one: usize| {
            !left.iter().any(|other| *other != one && wait(one, *other))
        };
        let best = left.iter().position(|one| free(&must_wait, *one) && free(&should_wait, *one));
        let place =
            best.or_else(|| left.iter().position(|one| free(&must_wait, *one))).unwrap_or(0);
        ordered.push(left.remove(place));
    }
    ordered
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(id: u32, below: &[u32], server: usize, is_origin: bool) -> Part {
        Part { ids: [id].into(), below: below.iter().copied().collect(), server, is_origin }
    }

    #[test]
    fn a_stack_goes_sort_top_down_down() {
        // A snapshot, a snapshot of that one, a mirror on the latter; their ids do not matter.
        let parts = [part(5, &[], 0, false), part(2, &[5], 1, false), part(3, &[2], 2, false)];
        assert_eq!(deletion(&parts), [2, 1, 0]);
        let parts = [part(3, &[2], 0, false), part(2, &[5], 1, false), part(5, &[], 2, false)];
        assert_eq!(deletion(&parts), [0, 1, 2]);
    }

    #[test]
    fn an_origin_goes_before_its_snapshots() {
        let parts = [part(0, &[], 0, false), part(1, &[], 0, false), part(2, &[], 0, true)];
        assert_eq!(deletion(&parts), [2, 0, 1]);
    }

    #[test]
    fn what_stands_on_an_origin_goes_before_it_and_so_before_its_snapshots() {
        // A snapshot (0) of an origin (1) on which a mirror (2) stands.
        let parts = [part(0, &[], 0, false), part(1, &[], 0, true), part(2, &[1], 1, false)];
        assert_eq!(deletion(&parts), [2, 1, 0]);
    }

    #[test]
    fn what_another_server_has_on_a_device_goes_before_its_snapshots() {
        // A mirror (0), its snapshots (1, 2), and devices of other servers on it and on a snapshot.
        let mirror = part(0, &[], 0, false);
        let (one, two) = (part(1, &[0], 0, false), part(2, &[0], 0, false));
        let parts = [mirror.clone(), one.clone(), part(3, &[0], 1, false)];
        assert_eq!(deletion(&parts), [2, 1, 0]);
        assert_eq!(after_users(&parts), BTreeSet::from([(1, 2)]));
        let parts = [mirror, one, two, part(3, &[2], 1, false)];
        assert_eq!(deletion(&parts), [3, 1, 2, 0]);
        assert_eq!(after_users(&parts), BTreeSet::from([(1, 3), (2, 3)]));
    }

    #[test]
    fn a_snapshot_on_its_own_origin_goes_first_all_the_same() {
        let parts = [part(0, &[1], 0, false), part(1, &[], 0, true)];
        assert_eq!(deletion(&parts), [0, 1]);
    }

    #[test]
    fn an_origin_has_its_own_servers_snapshots() {
        let (origin, snapshot) = (part(0, &[], 0, true), part(1, &[], 0, false));
        assert!(
            origin.is_origin_of(&snapshot)
                && !snapshot.is_origin_of(&origin)
                && !origin.is_origin_of(&origin)
        );
        assert!(!origin.is_origin_of(&part(2, &[], 1, false)), "it has another server");
    }

    #[test]
    fn servers_are_recovered_after_what_they_stand_on() {
        // A snapshot's COW is on a mirror whose server has the later name.
        let mut snapshots = part(0, &[7], 0, false);
        snapshots.ids.insert(1);
        let parts = [snapshots, part(7, &[], 1, false), part(9, &[], 2, false)];
        assert_eq!(recovery(&parts), [1, 0, 2]);
    }

    #[test]
    fn a_circle_loses_nothing() {
        let parts = [part(0, &[1], 0, false), part(1, &[0], 1, false), part(2, &[0], 2, false)];
        for order in [deletion(&parts), recovery(&parts)] {
            assert_eq!(order.iter().copied().collect::<BTreeSet<_>>(), BTreeSet::from([0, 1, 2]));
        }
        // A device outside the circle is not held up by it.
        assert_eq!(deletion(&parts)[0], 2);
    }
}
