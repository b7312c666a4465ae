//! Sets of a mirror's legs, and how many there can be. Pure.

/// Most legs of a mirror: kcopyd copies from one to at most eight others.
pub const MAX_LEGS: usize = 9;

/// A set of legs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LegSet(pub u16);

impl LegSet {
    /// The set of one leg.
    pub fn one(leg: usize) -> LegSet {
        LegSet(1 << leg)
    }

    /// The first `count` legs.
    pub fn first(count: usize) -> LegSet {
        LegSet(u16::try_from((1_u32 << count) - 1).unwrap_or(u16::MAX))
    }

    /// Whether a leg is in the set.
    pub fn has(self, leg: usize) -> bool {
        self.0 >> leg & 1 == 1
    }

    /// Adds a leg.
    pub fn add(&mut self, leg: usize) {
        self.0 |= 1 << leg;
    }

    /// The legs that are not in the other set.
    pub fn without(self, other: LegSet) -> LegSet {
        LegSet(self.0 & !other.0)
    }

    /// The same legs after `leg` has been removed and the following ones have moved up.
    pub fn closed_at(self, leg: usize) -> LegSet {
        let before = (1 << leg) - 1;
        LegSet(self.0 & before | self.0 >> 1 & !before)
    }

    /// Whether the set is empty.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The legs in order.
    pub fn iter(self) -> impl Iterator<Item = usize> {
        (0..MAX_LEGS).filter(move |leg| self.has(*leg))
    }
}

impl FromIterator<usize> for LegSet {
    fn from_iter<T: IntoIterator<Item = usize>>(legs: T) -> LegSet {
        let legs = legs.into_iter().filter(|leg| *leg < MAX_LEGS);
        legs.fold(LegSet::default(), |mut all, leg| {
            all.add(leg);
            all
        })
    }
}
