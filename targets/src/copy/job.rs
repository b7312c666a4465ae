//! The engine of a copy job: slices of the source are read once and written to every part that
//! needs them.
//!
//! A job is a list of [`Part`]s, each a range of the source and its destination. Parts may overlap:
//! so one read of an origin serves all its snapshots. The source ranges are cut into slices of at
//! most [`super::SLICE_SECTORS`], of which at most [`SLICES_IN_FLIGHT`] are in flight. Slices start
//! in ascending order and complete in any order; a slice's writes start only after its read has
//! completed. After an error no further slice starts, unless errors are ignored.
//!
//! A copy of one slice needs none of that, see `short`.
//!
//! The engine is one future that moves its slices forward whenever the task is woken, so a job
//! needs no tasks of its own and allocates nothing once its lists have grown.

use std::future::Future;
use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll};

use super::budget::Budget;
use super::part::{Flags, Order, Part, fail_overlapping, run_end, start_write};
use super::throttle::{Admission, PAUSE_MS};
use crate::disk::{Buffer, Disk, DiskError, Io, Memory};
use crate::units::{Sector, Sectors};

/// Slices of one job in flight together, as in the kernel.
pub const SLICES_IN_FLIGHT: usize = 8;

enum State {
    Idle,
    /// Memory is allocated; the throttle has not admitted the read yet.
    WantsRead,
    Reading(Io),
    /// The data has been read; the throttle, or the order of writes, has not admitted the writes
    /// yet.
    WantsWrite,
    Writing,
}

struct Slice {
    state: State,
    from: u64,
    count: u64,
    buffer: Option<Buffer>,
    /// Writes in flight, each with its range of parts.
    writes: Vec<(Io, usize, usize)>,
    /// One of its writes has failed.
    failed: bool,
    pauses: u32,
    wake_at_ms: u64,
}

impl Slice {
    fn new() -> Slice {
        let state = State::Idle;
        Slice {
            state,
            from: 0,
            count: 0,
            buffer: None,
            writes: Vec::new(),
            failed: false,
            pauses: 0,
            wake_at_ms: 0,
        }
    }
}

/// A reusable job: fill `parts`, run the job, check the parts.
pub struct Job {
    /// The ranges to copy. Parts that follow each other in this list and on both disks are written
    /// together. In a long list they should be in the order of the source: each slice searches all
    /// of the others.
    pub parts: Vec<Part>,
    /// The first read error of the last run.
    pub read_error: Option<DiskError>,
    /// The first write error of the last run.
    pub write_error: Option<DiskError>,
    /// What the last run has written to every part that needs it, in sectors of the source.
    pub written: Sectors,
    /// The memory that zeroes are written from when there is no source; `Memory::None` for
    /// write-zeroes.
    pub(super) zeroes: Memory,
    slices: Vec<Slice>,
    /// The writes of a short copy.
    pub(super) writes: Vec<Io>,
    /// Slices that are not idle.
    active: usize,
    /// The number of slices used in this run, from the first on.
    used: usize,
    source: Option<Disk>,
    flags: Flags,
    /// How a slice finds its parts.
    order: Order,
    cursor: u64,
    /// The range from the cursor on that the next slice will take.
    next: Option<(u64, u64)>,
    /// Pieces of slices that could not be read as a whole; the same parts need all of a piece.
    again: Vec<(u64, u64)>,
    write_cursor: u64,
    stopped: bool,
}

impl Job {
    pub(super) fn new() -> Job {
        Job {
            parts: Vec::new(),
            read_error: None,
            write_error: None,
            written: Sectors(0),
            zeroes: Memory::None,
            slices: (0..SLICES_IN_FLIGHT).map(|_| Slice::new()).collect(),
            writes: Vec::new(),
            active: 0,
            used: 0,
            source: None,
            flags: Flags::default(),
            order: Order::Any,
            cursor: 0,
            next: None,
            again: Vec::new(),
            write_cursor: 0,
            stopped: false,
        }
    }

    pub(super) fn clear(&mut self) {
        self.parts.clear();
        self.read_error = None;
        self.write_error = None;
        self.source = None;
        self.zeroes = Memory::None;
    }

    /// Runs the job: copies from `source`, or writes zeroes if it is `None`.
    pub(super) fn run<'a>(
        &'a mut self,
        budget: &'a Budget,
        source: Option<&Disk>,
        flags: Flags,
    ) -> Run<'a> {
        self.source = source.cloned();
        self.flags = flags;
        self.order = Order::of(&self.parts);
        self.cursor = 0;
        self.next = self.order.next_range(&self.parts, 0);
        self.write_cursor = self.next.map_or(0, |(from, _)| from);
        (self.active, self.used) = (0, 0);
        self.written = Sectors(0);
        self.again.clear();
        self.stopped = false;
        Run { job: self, budget }
    }

    fn done(&self) -> bool {
        self.active == 0 && (self.stopped || self.next.is_none() && self.again.is_empty())
    }

    /// Starts slices while there is data left to copy, an idle slice and memory.
    fn begin(&mut self, budget: &Budget, cx: &mut Context<'_>) {
        let mut index = 0;
        while let Some((from, count)) = self.again.last().copied().or(self.next) {
            if self.stopped || self.active == self.slices.len() {
                return;
            }
            while !matches!(self.slices[index].state, State::Idle) {
                index += 1;
            }
            let slice = &mut self.slices[index];
            slice.state = State::WantsWrite;
            if self.source.is_some() {
                slice.buffer = budget.take_buffer(count, cx);
                slice.state = State::WantsRead;
                if slice.buffer.is_none() {
                    slice.state = State::Idle;
                    return;
                }
            }
            (slice.from, slice.count, slice.pauses, slice.wake_at_ms) = (from, count, 0, 0);
            self.active += 1;
            self.used = self.used.max(index + 1);
            if self.again.pop().is_none() {
                self.cursor = from + count;
                self.next = self.order.next_range(&self.parts, self.cursor);
            }
        }
    }

    /// If an unreadable slice serves several independent parts, cuts it at their ends, and each
    /// piece is read again: a part must not fail because of sectors that only another part needs.
    /// `false` if there is only one piece, or parts are not independent.
    fn cut(&mut self, from: u64, count: u64) -> bool {
        let ends = self.parts.iter().flat_map(|part| [part.from.0, part.end()]);
        let mut cuts: Vec<u64> = ends
            .filter(|at| from < *at && *at < from + count)
            .chain([from, from + count])
            .collect();
        cuts.sort_unstable();
        cuts.dedup();
        let able = self.flags.independent && !self.flags.sequential_write && cuts.len() > 2;
        if able {
            self.again.extend(cuts.windows(2).map(|pair| (pair[0], pair[1] - pair[0])));
        }
        able
    }

    /// Advances one slice; returns whether its state changed.
    fn step(&mut self, index: usize, budget: &Budget, cx: &mut Context<'_>) -> bool {
        match self.slices[index].state {
            State::Idle => false,
            State::WantsRead => self.read(index, budget, cx),
            State::Reading(_) => self.poll_read(index, budget, cx),
            State::WantsWrite => self.write(index, budget, cx),
            State::Writing => self.poll_writes(index, budget, cx),
        }
    }

    /// Whether the throttle lets this slice's next operation start.
    fn admitted(slice: &mut Slice, budget: &Budget, cx: &mut Context<'_>) -> bool {
        let now_ms = budget.throttle_ms();
        if now_ms >= slice.wake_at_ms || !budget.throttle().counts_time() {
            if budget.throttle().admit(now_ms, slice.pauses) == Admission::Admitted {
                slice.pauses = 0;
                return true;
            }
            slice.pauses += 1;
            slice.wake_at_ms = now_ms + PAUSE_MS;
        }
        budget.host().wake_at(slice.wake_at_ms, cx.waker());
        false
    }

    fn read(&mut self, index: usize, budget: &Budget, cx: &mut Context<'_>) -> bool {
        let slice = &mut self.slices[index];
        if !Self::admitted(slice, budget, cx) {
            return false;
        }
        let (Some(source), Some(buffer)) = (&self.source, &slice.buffer) else { return false };
        slice.state =
            State::Reading(source.read(Sector(slice.from), Sectors(slice.count), buffer.at(0)));
        true
    }

    fn poll_read(&mut self, index: usize, budget: &Budget, cx: &mut Context<'_>) -> bool {
        let slice = &mut self.slices[index];
        let State::Reading(io) = &mut slice.state else { return false };
        let Poll::Ready(result) = Pin::new(io).poll(cx) else { return false };
        budget.throttle().done(budget.throttle_ms());
        slice.state = State::WantsWrite;
        if let Err(error) = result {
            self.read_error.get_or_insert(error);
            if self.flags.ignore_error {
                // As in dm-io: unreadable data is written as zeroes.
                if let Some(buffer) = &slice.buffer {
                    buffer.at(0).clear(0, Sectors(slice.count).bytes());
                }
            } else {
                let (from, count) = (slice.from, slice.count);
                if !self.cut(from, count) {
                    self.fail_range(from, count);
                }
                self.end(index, budget);
            }
        }
        true
    }

    fn write(&mut self, index: usize, budget: &Budget, cx: &mut Context<'_>) -> bool {
        let (from, count) = (self.slices[index].from, self.slices[index].count);
        if self.flags.sequential_write && self.write_cursor != from {
            if self.stopped {
                self.fail_range(from, count);
                self.end(index, budget);
                return true;
            }
            return false;
        }
        if !Self::admitted(&mut self.slices[index], budget, cx) {
            return false;
        }
        self.write_cursor = from + count;
        let slice = &mut self.slices[index];
        let Range { start: mut first, end: behind } =
            self.order.overlapping(&self.parts, from, from + count);
        while first < behind {
            let last = run_end(&self.parts[..behind], first);
            let (head, tail) = (&self.parts[first], &self.parts[last]);
            let start = head.from.0.max(from);
            let end = tail.end().min(from + count);
            if start < end {
                let at = Sector(head.at.0 + (start - head.from.0));
                let memory = match &slice.buffer {
                    // A slice is far shorter than 4 GiB.
                    Some(buffer) => {
                        buffer.at(u32::try_from(Sectors(start - from).bytes()).unwrap_or(u32::MAX))
                    }
                    None => self.zeroes.clone(),
                };
                slice.writes.push((start_write(head, at, end - start, memory), first, last));
            }
            first = last + 1;
        }
        (slice.state, slice.failed) = (State::Writing, false);
        true
    }

    fn poll_writes(&mut self, index: usize, budget: &Budget, cx: &mut Context<'_>) -> bool {
        let slice = &mut self.slices[index];
        let (from, end) = (slice.from, slice.from + slice.count);
        let (parts, flags) = (&mut self.parts, self.flags);
        let (write_error, stopped) = (&mut self.write_error, &mut self.stopped);
        let failed = &mut slice.failed;
        slice.writes.retain_mut(|(io, first, last)| match Pin::new(io).poll(cx) {
            Poll::Pending => true,
            Poll::Ready(Ok(())) => false,
            Poll::Ready(Err(error)) => {
                write_error.get_or_insert(error);
                fail_overlapping(&mut parts[*first..=*last], from, end);
                *failed = true;
                *stopped |= !flags.ignore_error && !flags.independent;
                false
            }
        });
        if !slice.writes.is_empty() {
            return false;
        }
        if !slice.failed {
            self.written.0 += slice.count;
        }
        budget.throttle().done(budget.throttle_ms());
        self.end(index, budget);
        true
    }

    fn fail_range(&mut self, from: u64, count: u64) {
        self.stopped |= !self.flags.independent;
        fail_overlapping(&mut self.parts, from, from + count);
    }

    fn end(&mut self, index: usize, budget: &Budget) {
        self.active -= 1;
        let slice = &mut self.slices[index];
        slice.state = State::Idle;
        budget.add_moved(slice.count);
        if let Some(buffer) = slice.buffer.take() {
            budget.give_back(buffer);
        }
    }
}

/// The future of a running job.
pub(super) struct Run<'a> {
    job: &'a mut Job,
    budget: &'a Budget,
}

impl Future for Run<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Run { job, budget } = &mut *self;
        loop {
            job.begin(budget, cx);
            let (active, write_cursor) = (job.active, job.write_cursor);
            for index in 0..job.used {
                while job.step(index, budget, cx) {}
            }
            if job.done() {
                // Parts that no slice reached because the job stopped were not written either.
                if job.stopped {
                    let cursor = job.cursor;
                    for part in job.parts.iter_mut().filter(|part| part.end() > cursor) {
                        part.failed = true;
                    }
                }
                return Poll::Ready(());
            }
            // Other slices are affected only if a slice became idle or the write cursor moved.
            if job.active == active && job.write_cursor == write_cursor {
                return Poll::Pending;
            }
        }
    }
}
