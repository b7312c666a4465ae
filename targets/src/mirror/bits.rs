//! Sets of regions as bits, in the bit order and words of the dirty log. Pure.
//!
//! Region *r* is bit *r* mod 64 of word *r*/64; written as little-endian words this is the log's
//! bitset, lowest bit first. Bits after the last region are always zero, so that [`Bits::count`] is
//! exact.

/// Bits of a word.
const WORD_BITS: u64 = 64;

/// One bit for each region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bits {
    words: Vec<u64>,
    len: u64,
}

impl Bits {
    /// `len` zero bits; `None` if there is no memory for them.
    pub fn zeroes(len: u64) -> Option<Bits> {
        let count = usize::try_from(len.div_ceil(WORD_BITS)).ok()?;
        let mut words = Vec::new();
        words.try_reserve_exact(count).ok()?;
        words.resize(count, 0);
        Some(Bits { words, len })
    }

    /// The same set with room for `len` bits, no fewer than it has; the new ones are zero. `None`
    /// if there is no memory for them.
    pub fn grown(&self, len: u64) -> Option<Bits> {
        let mut grown = Bits::zeroes(len)?;
        for (word, own) in grown.words.iter_mut().zip(&self.words) {
            *word = *own;
        }
        Some(grown)
    }

    /// The number of bits.
    #[allow(clippy::len_without_is_empty)] // there is always a region
    pub fn len(&self) -> u64 {
        self.len
    }

    /// The words of the set; the last is padded with zeroes.
    pub fn words(&self) -> &[u64] {
        &self.words
    }

    /// Replaces a word; bits after the last region are dropped.
    pub fn set_word(&mut self, at: usize, word: u64) {
        self.words[at] = word;
        self.trim();
    }

    /// Keeps the first `len` bits, no more than it has.
    pub fn cut(&mut self, len: u64) {
        self.words.truncate(usize::try_from(len.div_ceil(WORD_BITS)).unwrap_or(usize::MAX));
        self.len = len;
        self.trim();
    }

    /// Whether a bit is set; a bit behind the last one is not.
    pub fn get(&self, at: u64) -> bool {
        self.words.get(index(at)).is_some_and(|word| word >> (at % WORD_BITS) & 1 == 1)
    }

    /// Sets or clears a bit; returns whether it changed. A bit behind the last one stays zero.
    pub fn put(&mut self, at: u64, value: bool) -> bool {
        if at >= self.len {
            return false;
        }
        let (word, mask) = (&mut self.words[index(at)], 1 << (at % WORD_BITS));
        let old = *word & mask != 0;
        if value {
            *word |= mask;
        } else {
            *word &= !mask;
        }
        old != value
    }

    /// Sets or clears all bits from `first` on.
    pub fn fill_from(&mut self, first: u64, value: bool) {
        let mut at = first;
        while at < self.len && at % WORD_BITS != 0 {
            self.put(at, value);
            at += 1;
        }
        if at < self.len {
            self.words[index(at)..].fill(if value { u64::MAX } else { 0 });
            self.trim();
        }
    }

    /// The number of bits that are set.
    pub fn count(&self) -> u64 {
        self.words.iter().map(|word| u64::from(word.count_ones())).sum()
    }

    /// The first zero at or after a position.
    pub fn next_zero(&self, from: u64) -> Option<u64> {
        let mut at = from;
        while at < self.len {
            let zeroes = !self.words[index(at)] >> (at % WORD_BITS);
            if zeroes != 0 {
                let found = at + u64::from(zeroes.trailing_zeros());
                return (found < self.len).then_some(found);
            }
            at = (at / WORD_BITS + 1) * WORD_BITS;
        }
        None
    }

    /// Clears the bits that are not set in `other`, a set of the same length.
    pub fn intersect(&mut self, other: &Bits) {
        for (word, other) in self.words.iter_mut().zip(&other.words) {
            *word &= other;
        }
    }

    fn trim(&mut self) {
        if let Some(last) = self.words.last_mut().filter(|_| self.len % WORD_BITS != 0) {
            *last &= (1 << (self.len % WORD_BITS)) - 1;
        }
    }
}

/// Lends the current bits.
pub(super) trait WithBits {
    /// Calls `work` with the bits.
    fn with_bits(&self, work: impl FnOnce(&Bits));
}

/// The index of a bit's word; the vector exists, so its indices fit `usize`.
fn index(at: u64) -> usize {
    usize::try_from(at / WORD_BITS).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Checks every operation against a list of booleans, at lengths around word boundaries.
    #[test]
    fn bits_are_a_list_of_booleans() {
        for len in [1, 2, 63, 64, 65, 127, 128, 130] {
            let mut bits = Bits::zeroes(len).unwrap();
            let mut list = vec![false; usize::try_from(len).unwrap()];
            for step in 0..len * 3 {
                let (at, value) = (step * 37 % len, step * 13 % 5 < 2);
                let changed = list[usize::try_from(at).unwrap()] != value;
                list[usize::try_from(at).unwrap()] = value;
                assert_eq!(bits.put(at, value), changed);
                assert_eq!(bits.count(), list.iter().filter(|bit| **bit).count() as u64);
                for from in 0..=len {
                    let first = (from..len).find(|at| !list[usize::try_from(*at).unwrap()]);
                    assert_eq!(bits.next_zero(from), first, "{len} {from}");
                }
            }
            for from in 0..=len {
                for value in [true, false] {
                    let mut filled = bits.clone();
                    filled.fill_from(from, value);
                    for at in 0..len {
                        let expected =
                            if at < from { list[usize::try_from(at).unwrap()] } else { value };
                        assert_eq!(filled.get(at), expected);
                    }
                    let ones =
                        filled.words().iter().map(|word| u64::from(word.count_ones())).sum::<u64>();
                    assert_eq!(
                        ones,
                        (0..len).filter(|at| filled.get(*at)).count() as u64,
                        "padding stays zero"
                    );
                }
            }
        }
    }

    #[test]
    fn a_set_grows_with_zeroes() {
        for (len, more) in [(1, 1), (63, 64), (64, 65), (65, 200)] {
            let mut bits = Bits::zeroes(len).unwrap();
            bits.fill_from(0, true);
            let grown = bits.grown(more).unwrap();
            assert_eq!((grown.len(), grown.count()), (more, len));
            assert_eq!(grown.next_zero(0), (more > len).then_some(len));
        }
    }

    #[test]
    fn a_set_is_cut_and_has_nothing_behind_its_end() {
        for (len, less) in [(1, 1), (65, 64), (70, 65), (200, 3)] {
            let mut bits = Bits::zeroes(len).unwrap();
            bits.fill_from(0, true);
            bits.cut(less);
            assert_eq!((bits.len(), bits.count(), bits.next_zero(0)), (less, less, None));
            for at in [less, less + 63, less + 64] {
                assert!(!bits.put(at, true) && !bits.get(at));
            }
            assert_eq!(bits.grown(len).unwrap().next_zero(0), (len > less).then_some(less));
        }
    }

    #[test]
    fn padding_is_dropped_and_sets_intersect() {
        let mut bits = Bits::zeroes(65).unwrap();
        bits.set_word(0, u64::MAX);
        bits.set_word(1, u64::MAX);
        assert_eq!((bits.count(), bits.words()), (65, &[u64::MAX, 1][..]));
        let mut other = Bits::zeroes(65).unwrap();
        other.put(64, true);
        bits.intersect(&other);
        assert_eq!((bits.count(), bits.get(64)), (1, true));
    }
}
