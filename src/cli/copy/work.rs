//! The work of `copy` and `zero`: the writes, and the flushes at their end.
//!
//! Rule kept here: what counts as written is durable.

use dm_targets::copy::{Client, Flags, Outcome};
use dm_targets::disk::DiskError;
use dm_targets::io::IoRegion;
use dm_targets::units::Sectors;

/// Copies a region to others and flushes them. What counts as written is on all of them for sure.
pub(super) async fn copy_on(client: &Client, from: &IoRegion, regions: &[IoRegion]) -> Outcome {
    let outcome = client.copy(from, regions, Flags::default()).await;
    let flushed = flush(regions).await;
    // What is on one of the disks for sure is not on all of them.
    let written = if flushed.failed == 0 { outcome.written } else { Sectors(0) };
    flushed.added_to(Outcome { written, ..outcome })
}

/// Zeroes regions and flushes them. What counts as written is on its disk for sure.
pub(super) async fn zero_on(client: &Client, regions: &[IoRegion]) -> Outcome {
    let (mut all, mut written) = (Outcome::default(), Vec::new());
    // One after the other: the ranges may have different lengths.
    for (index, region) in regions.iter().enumerate() {
        let outcome = client.zero(std::slice::from_ref(region), Flags::default()).await;
        all.write_err |= outcome.write_err << index;
        all.first_error = all.first_error.or(outcome.first_error);
        written.push(outcome.written.0);
    }
    let flushed = flush(regions).await;
    let durable = written.iter().enumerate().filter(|(index, _)| !flushed.has_failed(*index));
    all.written = Sectors(durable.map(|(_, written)| written).sum());
    flushed.added_to(all)
}

/// The result of the flushes at the end.
#[derive(Default)]
struct Flushed {
    /// Bit *i* is set if what was written to region *i* may not be durable.
    failed: u8,
    first_error: Option<DiskError>,
}

impl Flushed {
    fn has_failed(&self, index: usize) -> bool {
        self.failed & (1 << index) != 0
    }

    /// The result of the writes with that of the flushes.
    fn added_to(self, outcome: Outcome) -> Outcome {
        let write_err = outcome.write_err | self.failed;
        let first_error = outcome.first_error.or(self.first_error);
        Outcome { write_err, first_error, ..outcome }
    }
}

/// Makes the writes durable before the command reports success; a disk that fails does not keep the
/// others from it.
async fn flush(regions: &[IoRegion]) -> Flushed {
    let mut flushed = Flushed::default();
    for (index, region) in regions.iter().enumerate() {
        if let Err(error) = region.disk.flush().await {
            flushed.failed |= 1 << index;
            flushed.first_error.get_or_insert(error);
        }
    }
    flushed
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;
    use std::task::{Poll, Waker};

    use dm_targets::disk::{Backend, Disk, Errno, Host, Limits, Op, OpId, OpKind};
    use dm_targets::exec::Executor;
    use dm_targets::ram::{Ram, RamDisk};
    use dm_targets::units::Sector;

    use super::*;

    /// A disk whose cache cannot be written back.
    struct Unflushable(Rc<RamDisk>);

    impl Backend for Unflushable {
        fn start(&self, op: Op) -> OpId {
            if op.kind == OpKind::Flush {
                return OpId(Errno::EIO.0.unsigned_abs());
            }
            self.0.start(op)
        }

        fn poll(&self, id: OpId, waker: &Waker) -> Poll<Result<(), Errno>> {
            self.0.poll(id, waker)
        }

        fn detach(&self, _: OpId) {}

        fn limits(&self) -> Limits {
            Limits { volatile_cache: true, ..self.0.limits() }
        }

        fn size(&self) -> Sectors {
            self.0.size()
        }
    }

    /// The results of a copy and of zeroing with these destinations: `true` is a disk that cannot
    /// be flushed.
    fn results(destinations: &[bool]) -> [Outcome; 2] {
        let (ram, executor) = (Ram::new(), Executor::new());
        let host: Rc<dyn Host> = ram.clone();
        let disk = || RamDisk::new(&ram, Sectors(64), RamDisk::LIMITS);
        let all = |disk| IoRegion { disk, sector: Sector(0), count: Sectors(64) };
        let from = all(disk().handle("from"));
        let regions = destinations.iter().map(|fails| {
            let fails = if *fails {
                Disk::new("bad", Rc::new(Unflushable(disk())))
            } else {
                disk().handle("good")
            };
            all(fails)
        });
        let regions: Vec<_> = regions.collect();
        let client = Client::new(&executor, &host, None).unwrap();
        let work = async move {
            [copy_on(&client, &from, &regions).await, zero_on(&client, &regions).await]
        };
        ram.run(&executor, work).unwrap()
    }

    #[test]
    fn what_cannot_be_flushed_is_not_written() {
        let written = |all: [Outcome; 2]| all.map(|one| (one.write_err, one.written.0));
        assert_eq!(written(results(&[false, false])), [(0, 64), (0, 128)]);
        assert_eq!(written(results(&[true, false, true])), [(0b101, 0), (0b101, 64)]);
        for outcome in results(&[false, true]) {
            assert_eq!(outcome.write_err, 0b10);
            let why = outcome.first_error.unwrap();
            assert_eq!((why.kind, &*why.disk), (OpKind::Flush, "bad"));
        }
    }
}
