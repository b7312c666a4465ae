//! A journal in memory that outlives the simulated process, but not a loss of power.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use crate::snapshot::format::Record;
use crate::snapshot::journal::{Journal, Journaled, PLACES};

/// A simulated journal.
#[derive(Default)]
pub struct SimJournal {
    places: RefCell<BTreeMap<usize, Record>>,
    recorded: Cell<u64>,
    changes: Cell<u64>,
}

impl SimJournal {
    /// A journal with what a process that died has left.
    pub fn holding(journaled: &Journaled) -> SimJournal {
        let places = RefCell::new(journaled.records.iter().copied().enumerate().collect());
        SimJournal { places, recorded: Cell::new(journaled.recorded), changes: Cell::new(0) }
    }

    /// Counts its changes.
    pub fn changes(&self) -> u64 {
        self.changes.get()
    }
}

impl Journal for SimJournal {
    fn left(&self) -> Journaled {
        Journaled {
            records: self.places.borrow().values().copied().collect(),
            recorded: self.recorded.get(),
        }
    }

    fn set_recorded(&self, count: u64) {
        self.recorded.set(count);
        self.changes.set(self.changes.get() + 1);
    }

    fn put(&self, place: usize, record: Option<Record>) {
        assert!(place < PLACES, "place {place} does not exist");
        let mut places = self.places.borrow_mut();
        match record {
            Some(record) => {
                let before = places.insert(place, record);
                assert!(before.is_none_or(|before| before == record), "place {place} is taken");
            }
            None => drop(places.remove(&place)),
        }
        self.changes.set(self.changes.get() + 1);
    }

    fn clear(&self) {
        self.places.borrow_mut().clear();
        self.changes.set(self.changes.get() + 1);
    }

    fn name(&self) -> String {
        "the journal".into()
    }
}
