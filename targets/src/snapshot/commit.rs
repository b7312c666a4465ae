//! The committer of a snapshot: one task that makes its exceptions durable, and its end.
//!
//! Rules kept here: I1 and I3 with the store (it takes what is ready, in the order of allocation), I9 (the invalid mark is
//! durable before it releases anyone).

use super::exceptions::Health;
use super::format::Record;
use super::target::Snapshot;
use super::{Cause, Event};

/// Records a commit takes at most; the rest is taken by the next one. Bounds how long a waiter sits in one commit.
const RECORDS_PER_COMMIT: usize = 4096;
/// Percentages of COW use that are announced: time to grow it.
const ANNOUNCED: [u8; 4] = [50, 80, 90, 95];

/// What the committer does next.
enum Work {
    Commit,
    Invalidate,
    End,
}

impl Snapshot {
    /// Makes exceptions durable as they become ready, and the invalid mark when it is wanted.
    pub(super) async fn commit_loop(&self) {
        let mut records = Vec::with_capacity(RECORDS_PER_COMMIT);
        loop {
            match self.commit_wanted.until(|| self.next_work(&mut records)).await {
                Work::Commit => match self.store.commit(&records).await {
                    Ok(()) => self.publish(records.len()),
                    Err(error) => self.begin_invalidation(Cause::Commit(error)),
                },
                Work::Invalidate => self.invalidate().await,
                Work::End => break,
            }
        }
        self.ended.set(true);
        self.changed.wake_all();
    }

    fn next_work(&self, records: &mut Vec<Record>) -> Option<Work> {
        let mut state = self.state.borrow_mut();
        if state.health().is_kept() && state.ready(RECORDS_PER_COMMIT, records).is_err() {
            state.begin_invalidation();
        }
        match state.health() {
            Health::Invalidating => return Some(Work::Invalidate),
            Health::Valid | Health::Overflowed if !records.is_empty() => return Some(Work::Commit),
            _ => {}
        }
        (self.closing.get() && state.pending() == 0).then_some(Work::End)
    }

    fn publish(&self, count: usize) {
        for _ in 0..count {
            let slot = self.state.borrow_mut().publish();
            let waiting = self.waiting.borrow();
            if let Some(queue) = slot.and_then(|slot| waiting.get(slot as usize)) {
                queue.wake_all();
            }
        }
        self.changed.wake_all();
        let usage = self.store.usage();
        let percent = usage.allocated.0 * 100 / usage.total.0.max(1);
        if let Some(level) = ANNOUNCED.iter().rev().find(|level| percent >= u64::from(**level)) {
            if *level > self.announced.replace((*level).max(self.announced.get())) {
                (self.listener)(Event::Filling(*level));
            }
        }
    }

    async fn invalidate(&self) {
        if let Err(error) = self.store.invalidate().await {
            (self.listener)(Event::MarkFailed(error));
        }
        self.state.borrow_mut().invalidate();
        for queue in self.waiting.borrow().iter() {
            queue.wake_all();
        }
        self.changed.wake_all();
        let cause = self.cause.borrow_mut().take().unwrap_or(Cause::Full);
        (self.listener)(Event::Invalidated(cause));
    }
}
