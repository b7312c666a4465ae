//! A journal in memory that outlives the simulated process, but not a loss of power.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use crate::snapshot::format::Record;
use crate::snapshot::journal::{Noted, Notes, PLACES};

/// A simulated journal.
#[derive(Default)]
pub struct SimNotes {
    places: RefCell<BTreeMap<usize, Record>>,
    recorded: Cell<u64>,
    changes: Cell<u64>,
}

impl SimNotes {
    /// A journal with what a process that died has left.
    pub fn holding(noted: &Noted) -> SimNotes {
        let places = RefCell::new(noted.records.iter().copied().enumerate().collect());
        SimNotes { places, recorded: Cell::new(noted.recorded), changes: Cell::new(0) }
    }

    /// Counts its changes.
    pub fn changes(&self) -> u64 {
        self.changes.get()
    }
}

impl Notes for SimNotes {
    fn left(&self) -> Noted {
        Noted {
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
        "the notes".into()
    }
}
