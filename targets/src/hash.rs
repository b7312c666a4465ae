//! Tables of chunks and regions by number.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// A table whose keys are chunk or region numbers.
pub type NumberTable<V> = HashMap<u64, V, BuildHasherDefault<NumberHasher>>;

/// A multiplicative hash: chunk and region numbers are not chosen by an adversary who could exploit
/// collisions, and the tables are on every request's path.
#[derive(Default)]
pub struct NumberHasher(u64);

impl Hasher for NumberHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, value: u64) {
        // The golden ratio spreads neighbours; the fold moves the well-mixed high bits down to
        // those that tables use.
        let product = (self.0 ^ value).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        self.0 = product ^ (product >> 32);
    }
}
