//! The requests to a device and its promises: every write in the order it was sent, when it was
//! acknowledged, and which flushes covered it.
//!
//! The load writes marks into the log: a mark `a,DEVICE,N` says that N writes had been
//! acknowledged, `f,DEVICE,N` that a flush completed that was sent after N acknowledgements,
//! `c,DEVICE` that the device exists. Marks are sent after the fact that they state, so a mark in
//! the log holds for everything that follows it.

use std::sync::Mutex;

use crate::disk::us;
use crate::model::{Cell, Ticket, View};

use super::log::Seen;

/// A write to one sector.
#[derive(Clone, Copy)]
struct Change {
    cell: Cell,
    /// Its place in the order of acknowledgements, from 1 on; 0 for the initial content.
    acknowledged: u64,
    /// It was to be durable when acknowledged.
    durable: bool,
}

/// A write that has not been answered.
const NEVER: u64 = u64::MAX;

struct Inner {
    sectors: Vec<Vec<Change>>,
    acknowledged: u64,
}

/// All writes to a device.
pub struct History {
    view: View,
    inner: Mutex<Inner>,
}

/// The promises at a moment.
#[derive(Clone, Copy, Debug, Default)]
pub struct Promise {
    /// Writes known to be acknowledged.
    pub acknowledged: u64,
    /// Writes known to be covered by a flush.
    pub flushed: u64,
    /// The device exists.
    pub created: bool,
}

impl History {
    /// A device that holds these cells, and whose writes will carry `tag`.
    pub fn new(tag: &str, cells: Vec<Cell>) -> History {
        let first = |cell: &Cell| vec![Change { cell: *cell, acknowledged: 0, durable: true }];
        let inner = Inner { sectors: cells.iter().map(first).collect(), acknowledged: 0 };
        History { view: View::with_cells(tag, cells), inner: Mutex::new(inner) }
    }

    /// The content that must be read now.
    pub fn view(&self) -> &View {
        &self.view
    }

    fn inner(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// A write is about to be sent; `None` if the range is in use.
    pub fn begin(&self, sector: u64, sectors: u64, durable: bool) -> Option<Ticket> {
        let ticket = self.view.begin(sector, sectors)?;
        let change = Change { cell: ticket.cell, acknowledged: NEVER, durable };
        let mut inner = self.inner();
        for changes in &mut inner.sectors[us(sector)..us(sector + sectors)] {
            changes.push(change);
        }
        Some(ticket)
    }

    /// A write was acknowledged; returns the number of acknowledged writes.
    pub fn end(&self, ticket: Ticket) -> u64 {
        let mut inner = self.inner();
        inner.acknowledged += 1;
        let now = inner.acknowledged;
        for changes in &mut inner.sectors[us(ticket.sector)..us(ticket.sector + ticket.sectors)] {
            let last = changes.last_mut().expect("begun");
            assert!(last.cell == ticket.cell, "writes to a sector follow one another");
            last.acknowledged = now;
        }
        drop(inner);
        self.view.end(ticket);
        now
    }

    /// Writes acknowledged so far.
    pub fn acknowledged(&self) -> u64 {
        self.inner().acknowledged
    }

    /// The first sector with forbidden content after a cut: neither the last promised content nor
    /// any sent later.
    pub fn first_wrong(
        &self,
        promise: Promise,
        found: impl Iterator<Item = Seen>,
    ) -> Option<(u64, Seen)> {
        let inner = self.inner();
        let mut all = (0..).zip(&inner.sectors).zip(found);
        let wrong = all.find(|((sector, changes), seen)| {
            let elsewhere = seen.cell != 0 && seen.sector != *sector;
            elsewhere || !allows(changes, promise, seen.cell)
        });
        wrong.map(|((sector, _), seen)| (sector, seen))
    }

    /// Whether a content was certainly sent by the time `acknowledged` writes had been
    /// acknowledged.
    pub fn sent_before(&self, sector: u64, cell: Cell, acknowledged: u64) -> bool {
        let inner = self.inner();
        let change = inner.sectors.get(us(sector)).and_then(|c| c.iter().find(|c| c.cell == cell));
        change.is_some_and(|change| change.acknowledged <= acknowledged)
    }

    /// The required content of a sector, for messages.
    pub fn expected(&self, sector: u64, promise: Promise) -> String {
        let inner = self.inner();
        let changes = &inner.sectors[us(sector)];
        let covered = |c: &Change| {
            c.acknowledged <= if c.durable { promise.acknowledged } else { promise.flushed }
        };
        let from = changes.iter().rposition(covered).unwrap_or(0);
        changes[from..].iter().map(|c| crate::model::name(c.cell)).collect::<Vec<_>>().join(", or ")
    }
}

fn allows(changes: &[Change], promise: Promise, cell: Cell) -> bool {
    for change in changes.iter().rev() {
        if change.cell == cell {
            return true;
        }
        let bound = if change.durable { promise.acknowledged } else { promise.flushed };
        if change.acknowledged <= bound {
            return false;
        }
    }
    false
}
