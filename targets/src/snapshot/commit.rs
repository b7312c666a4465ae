//! The committer of a snapshot: the task that makes its exceptions durable, how it ends, and the
//! requests that wait for it.
//!
//! Rules kept here: I1 and I3 with the store (it takes what is ready, in allocation order), I9 (the
//! invalid mark is durable, or recorded, before any waiting write continues), I10 (a record is
//! journaled before its write is acknowledged and erased after its commit; a flush completes when
//! every record journaled before it is durable).

use std::pin::pin;
use std::rc::Rc;

use super::exceptions::{Health, PendingId};
use super::format::{Record, Usage};
use super::state::Phase;
use super::target::Snapshot;
use super::{Cause, Event};
use crate::disk::DiskError;
use crate::exec::Executor;
use crate::mutant::{self, Mutant};
use crate::request::TargetError;

/// Most records of one commit; the next commit takes the rest. Bounds how long a waiter sits in one
/// commit.
const RECORDS_PER_COMMIT: usize = 4096;
/// COW usage, in per cent, that is reported while there is time to grow the COW.
const ANNOUNCED: [u8; 4] = [50, 80, 90, 95];
/// How long a record lingers if no request waits for it: half of the time that disks keep data in
/// their caches, so that a power failure loses little even if the user never flushes.
const LINGER_MS: u64 = 500;

/// The highest announced level that the COW's usage has reached; 0 if it has reached none.
fn level_of(usage: Usage) -> u8 {
    let percent = usage.allocated.0 * 100 / usage.total.0.max(1);
    ANNOUNCED.into_iter().rev().find(|level| percent >= u64::from(*level)).unwrap_or(0)
}

/// What the committer does next.
enum Work {
    Commit,
    Invalidate,
    End,
}

impl Snapshot {
    /// Writes what the store needs, commits the records journaled by a server that died, and starts
    /// the committer, which runs until [`Snapshot::close`].
    pub async fn activate(self: &Rc<Self>, executor: &Executor) -> Result<(), DiskError> {
        if self.store.is_new() {
            // The journaled records belong to a store that no longer exists.
            self.erase_journal();
        }
        self.store.activate().await?;
        if self.store.recorded() == 0 {
            // A merge has ended without being able to say so: with an empty store nothing is left.
            self.store.set_merging(false).await?;
        }
        if self.inherited.lost {
            self.mark_inherited_loss().await;
        }
        let inherited = self.inherited.records.take();
        self.store.commit(&inherited).await?;
        self.erase_journal();
        let snapshot = self.clone();
        executor.spawn(async move { snapshot.commit_loop().await });
        Ok(())
    }

    /// Makes exceptions durable as they become ready, and the invalid mark when it is requested.
    pub(super) async fn commit_loop(&self) {
        let mut records = Vec::with_capacity(RECORDS_PER_COMMIT);
        loop {
            match self.work(&mut records).await {
                Work::Commit => {
                    self.journal_batch(records.len());
                    self.committer.is_busy.set(true);
                    let before = self.store.recorded();
                    let result = self.store.commit(&records).await;
                    self.committer.is_busy.set(false);
                    let done = usize::try_from(self.store.recorded() - before).unwrap_or(0);
                    match result {
                        Ok(()) => self.publish(records.len()),
                        Err(error) => {
                            self.publish(done);
                            if !self.give_up_pending(&error) {
                                self.begin_invalidation(Cause::of_commit(error));
                            }
                        }
                    }
                }
                Work::Invalidate => self.invalidate().await,
                Work::End => break,
            }
        }
        self.committer.phase.set(Phase::Ended);
        self.changed.wake_all();
    }

    /// Waits for work, or until the oldest journaled record has lingered.
    async fn work(&self, records: &mut Vec<Record>) -> Work {
        let mut work = pin!(self.committer.wanted.until(|| self.next_work(records)));
        std::future::poll_fn(|cx| {
            let next = work.as_mut().poll(cx);
            // A journaled record that has lingered is requested already, and waits for earlier
            // allocations.
            let to_ms =
                self.committer.journaled_since_ms.get().map_or(0, |since_ms| since_ms + LINGER_MS);
            if next.is_pending() && to_ms > 0 {
                let now_ms = self.host.now_ms();
                // One timer at a time: the next is set here after this one has expired.
                if to_ms > now_ms && self.committer.lingers_to_ms.get() <= now_ms {
                    self.committer.lingers_to_ms.set(to_ms);
                    self.host.wake_at(to_ms, cx.waker());
                }
            }
            next
        })
        .await
    }

    fn next_work(&self, records: &mut Vec<Record>) -> Option<Work> {
        let mut state = self.state.borrow_mut();
        let lingered = |since_ms| since_ms + LINGER_MS <= self.host.now_ms();
        if self.committer.phase.get() != Phase::Running
            || self.committer.journaled_since_ms.get().is_some_and(lingered)
        {
            state.want_journaled();
        }
        if state.health().is_kept() && state.ready(RECORDS_PER_COMMIT, records).is_err() {
            state.begin_invalidation();
            self.preserved().borrow_mut().forget_all();
        }
        match state.health() {
            Health::Invalidating => return Some(Work::Invalidate),
            Health::Valid | Health::Overflowed if !records.is_empty() => return Some(Work::Commit),
            _ => {}
        }
        let closing = self.committer.phase.get() != Phase::Running;
        (closing && state.pending() == 0).then_some(Work::End)
    }

    /// Before a commit all its records are in the journal, including those whose writes wait for
    /// the commit: a record that the next server finds on the COW beyond the journal's count, and
    /// not in the journal, was written by another program.
    fn journal_batch(&self, count: usize) {
        let Some(journal) = &self.journal else { return };
        self.state
            .borrow()
            .unjournaled(count)
            .for_each(|(slot, record)| journal.put(slot as usize, Some(record)));
    }

    fn publish(&self, count: usize) {
        // Counted before they are erased from the journal: in between they are in both, never in
        // neither.
        if let Some(journal) = &self.journal {
            journal.set_recorded(self.store.recorded());
        }
        let mut state = self.state.borrow_mut();
        for _ in 0..count {
            let Some(slot) = state.publish() else { break };
            self.journal_slot(slot, None);
            self.wake_waiting(slot);
        }
        let journaled = state.journaled();
        drop(state);
        self.committer.journaled_since_ms.set((journaled > 0).then(|| self.host.now_ms()));
        self.changed.wake_all();
        self.announce_level();
    }

    /// Announces the level of the COW's usage if it has risen. The size is read again before that,
    /// since the COW may have grown; a level that has fallen is announced when it is reached again.
    fn announce_level(&self) {
        let mut level = level_of(self.known_usage());
        if level > self.told.filling.get() {
            level = level_of(self.usage());
        }
        if level > self.told.filling.replace(level) {
            (self.listener)(Event::Filling(level));
        }
    }

    async fn invalidate(&self) {
        let marked = self.mark().await;
        self.state.borrow_mut().invalidate(marked);
        if marked {
            self.erase_journal();
        }
        for queue in self.waiting.borrow().iter() {
            queue.wake_all(&*self.host);
        }
        self.changed.wake_all();
        if !self.told.end.replace(true) {
            let cause = self.cause.borrow_mut().get_or_insert(Cause::Full).clone();
            (self.listener)(Event::Invalidated(cause));
        }
    }

    pub(super) fn wake_waiting(&self, slot: u32) {
        if let Some(queue) = self.waiting.borrow().get(slot as usize) {
            queue.wake_all(&*self.host);
        }
    }

    /// Journals exceptions of a snapshot write whose data is in the COW: they are visible before
    /// they are recorded. Returns `false` if that is impossible; the write must await their
    /// records.
    pub(super) fn journal(&self, created: &[PendingId]) -> bool {
        if self.journal.is_none() || !self.health().is_kept() || self.store.fills_area() {
            return false;
        }
        for id in created {
            let Some(record) = self.state.borrow_mut().journal(*id) else { continue };
            self.journal_slot(id.slot, Some(record));
            self.wake_waiting(id.slot);
        }
        let first = self.committer.journaled_since_ms.get().is_none();
        if first {
            self.committer.journaled_since_ms.set(Some(self.host.now_ms()));
        }
        // The committer has no timer before the first, or a request waits for the record behind
        // these.
        if first || self.state.borrow().journaled_is_due() {
            self.committer.wanted.wake_all();
        }
        true
    }

    pub(super) fn journal_slot(&self, slot: u32, record: Option<Record>) {
        let skip = record.is_some() && mutant::is(Mutant::NotJournaled);
        if let Some(journal) = self.journal.as_ref().filter(|_| !skip) {
            journal.put(slot as usize, record);
        }
    }

    /// Erases every place of the journal.
    pub(super) fn erase_journal(&self) {
        if let Some(journal) = &self.journal {
            journal.set_recorded(self.store.recorded());
            journal.clear();
        }
        self.committer.journaled_since_ms.set(None);
    }

    /// Waits until all journaled records are durable; returns `false` if there were none.
    pub(super) async fn record_journaled(&self) -> bool {
        let Some(to) = self.state.borrow_mut().want_journaled() else { return false };
        self.committer.wanted.wake_all();
        self.changed.until(|| self.state.borrow().is_recorded(to).then_some(())).await;
        true
    }

    /// Makes every acknowledged write durable; an error if the snapshot could not be kept.
    pub(super) async fn flush(&self) -> Result<(), TargetError> {
        let commit_runs = self.committer.is_busy.get();
        let recorded = !mutant::is(Mutant::FlushLeavesJournal) && self.record_journaled().await;
        // A commit that began after the flush arrived has flushed the COW as well.
        if !recorded || commit_runs {
            self.cow.flush().await?;
        }
        self.still_kept()
    }

    /// Acknowledged writes may be lost with the snapshot: a request for durability must fail then.
    pub(super) fn still_kept(&self) -> Result<(), TargetError> {
        if self.health().is_kept() || mutant::is(Mutant::LossNotTold) {
            Ok(())
        } else {
            Err(TargetError::Invalid)
        }
    }
}
