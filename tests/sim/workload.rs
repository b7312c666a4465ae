//! Requests, and the generation and shortening of sequences of requests.

use std::fmt;

use dm_targets::sim::Rng;

/// The kind of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Read and compare.
    Read,
    /// Write; the flag asks for FUA.
    Write(bool),
    /// Flush.
    Flush,
    /// Discard, for snapshots only.
    Discard,
    /// The snapshot is deleted; no request to it follows.
    Leave,
}

/// A request to a device: 0 is the origin, the others are snapshots.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Op {
    /// Which device.
    pub device: usize,
    /// Its kind.
    pub kind: Kind,
    /// Where it starts.
    pub first: u64,
    /// Its sectors.
    pub count: u64,
}

/// A write.
pub const fn write(device: usize, first: u64, count: u64) -> Op {
    Op { device, kind: Kind::Write(false), first, count }
}

/// A write with FUA.
pub const fn write_fua(device: usize, first: u64, count: u64) -> Op {
    Op { device, kind: Kind::Write(true), first, count }
}

/// A read.
pub const fn read(device: usize, first: u64, count: u64) -> Op {
    Op { device, kind: Kind::Read, first, count }
}

/// A flush.
pub const fn flush(device: usize) -> Op {
    Op { device, kind: Kind::Flush, first: 0, count: 0 }
}

/// A discard.
pub const fn discard(device: usize, first: u64, count: u64) -> Op {
    Op { device, kind: Kind::Discard, first, count }
}

/// The end of a snapshot while its origin goes on.
pub const fn leave(device: usize) -> Op {
    Op { device, kind: Kind::Leave, first: 0, count: 0 }
}

impl fmt::Debug for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let device =
            if self.device == 0 { "origin".into() } else { format!("snap{}", self.device) };
        let (first, count) = (self.first, self.count);
        match self.kind {
            Kind::Read => write!(f, "{device}.read({first}+{count})"),
            Kind::Write(false) => write!(f, "{device}.write({first}+{count})"),
            Kind::Write(true) => write!(f, "{device}.write_fua({first}+{count})"),
            Kind::Flush => write!(f, "{device}.flush"),
            Kind::Leave => write!(f, "{device}.leave"),
            Kind::Discard => write!(f, "{device}.discard({first}+{count})"),
        }
    }
}

/// A random request to one of the devices of an origin of that size.
pub fn random_op(rng: &mut Rng, devices: usize, sectors: u64, block: u64) -> Op {
    let device = rng.below(devices);
    let blocks = usize::try_from(sectors / block).unwrap();
    let first = rng.below(blocks);
    let count = 1 + rng.below((blocks - first).min(4));
    let (first, count) = (first as u64 * block, count as u64 * block);
    let kind = match rng.below(10) {
        0..=5 => Kind::Write(false),
        6 => Kind::Write(true),
        7 => Kind::Flush,
        _ => Kind::Read,
    };
    if kind == Kind::Flush { flush(device) } else { Op { device, kind, first, count } }
}

/// A random sequence.
pub fn random_ops(rng: &mut Rng, len: usize, devices: usize, sectors: u64, block: u64) -> Vec<Op> {
    (0..len).map(|_| random_op(rng, devices, sectors, block)).collect()
}

/// The shortest sequence found by leaving out requests that still fails. `fails` is asked again and
/// again.
pub fn shrink(ops: &[Op], mut fails: impl FnMut(&[Op]) -> bool) -> Vec<Op> {
    let mut ops = ops.to_vec();
    loop {
        let shorter = (0..ops.len()).find_map(|left_out| {
            let mut shorter = ops.clone();
            shorter.remove(left_out);
            fails(&shorter).then_some(shorter)
        });
        match shorter {
            Some(shorter) => ops = shorter,
            None => return ops,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shrinking_keeps_what_matters() {
        let ops = [flush(0), write(1, 0, 1), flush(1), write(1, 3, 1), read(0, 0, 1)];
        let shorter = shrink(&ops, |ops| {
            ops.iter().filter(|op| matches!(op.kind, Kind::Write(_))).count() == 2
        });
        assert_eq!(shorter, [write(1, 0, 1), write(1, 3, 1)]);
    }
}
