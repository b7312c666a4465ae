//! A short copy: one read, and its writes. Most are the copy of a chunk that is about to be
//! overwritten, and need none of the slices, orders and pauses of `job`.
//!
//! Rule kept here: I6 (every started operation is awaited).

use super::budget::Budget;
use super::client::Client;
use super::job::Job;
use super::part::{Flags, SLICE_SECTORS, start_write};
use crate::disk::{Buffer, Disk, OpKind};
use crate::units::{Sector, Sectors};

impl Client {
    /// Memory for the copy of a chunk by a request that carries the copy out itself, operation by
    /// operation; [`Client::end_short`] returns it. `None` if there is none to spare, or copies are
    /// throttled: then it is a job.
    pub(crate) fn short_buffer(&self, count: Sectors) -> Option<Buffer> {
        let budget = self.budget();
        let fits = (1..=SLICE_SECTORS).contains(&count.0) && !budget.throttle().counts_time();
        if fits { budget.spare_buffer(count.0) } else { None }
    }

    /// Such a copy has ended, of `moved` sectors.
    pub(crate) fn end_short(&self, buffer: Buffer, moved: Sectors) {
        self.budget().add_moved(moved.0);
        self.budget().give_back(buffer);
    }
}

impl Job {
    /// Carries the job out: copies from `source`.
    pub(super) async fn copy(&mut self, budget: &Budget, source: &Disk, flags: Flags) {
        let range = self.short_range().filter(|_| !budget.throttle().counts_time());
        let buffer = range.and_then(|(_, count)| budget.spare_buffer(count.0));
        let (Some((from, count)), Some(buffer)) = (range, buffer) else {
            return self.run(budget, Some(source), flags).await;
        };
        self.written = Sectors(0);
        let (mut written, mut readable) = (count, true);
        let (kind, memory) = (OpKind::Read, buffer.at(0));
        let mut read = source.begin(kind, from, count, memory);
        if let Err(errno) = (&mut read).await {
            self.read_error.get_or_insert(read.error(kind, from, count, errno));
            readable = flags.ignore_error;
            // As in dm-io: unreadable data is written as zeroes.
            buffer.at(0).clear(0, count.bytes());
        }
        if readable {
            let start = |part| start_write(part, part.at, count.0, buffer.at(0));
            self.writes.extend(self.parts.iter().map(start));
        } else {
            self.parts.iter_mut().for_each(|part| part.failed = true);
            written = Sectors(0);
        }
        for (io, part) in self.writes.iter_mut().zip(&mut self.parts) {
            if let Err(error) = io.await {
                self.write_error.get_or_insert(error);
                part.failed = true;
                written = Sectors(0);
            }
        }
        self.writes.clear();
        self.written = written;
        budget.add_moved(count.0);
        budget.give_back(buffer);
    }

    /// The range of the source, if it is the same for all parts and fits a slice.
    fn short_range(&self) -> Option<(Sector, Sectors)> {
        let first =
            self.parts.first().filter(|part| (1..=SLICE_SECTORS).contains(&part.count.0))?;
        let range = (first.from, first.count);
        self.parts[1..].iter().all(|part| (part.from, part.count) == range).then_some(range)
    }
}
