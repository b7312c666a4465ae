//! The journals of COWs in the simulated run directory.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use dm_targets::snapshot::format::Record;
use dm_targets::snapshot::journal::{Journal, Journaled};

use super::records::Shared;

/// The content of a journal.
#[derive(Clone, Default)]
pub struct Table {
    places: BTreeMap<usize, Record>,
    recorded: u64,
}

/// The journal of one COW.
pub struct RecordsOfCow {
    pub shared: Arc<Mutex<Shared>>,
    pub cow: String,
}

impl RecordsOfCow {
    fn table<T>(&self, change: bool, work: impl FnOnce(&mut Table) -> T) -> Option<T> {
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        // Memory that is already mapped: it can be written even if the directory is full.
        let goes_on = !change || shared.step();
        goes_on.then(|| work(shared.files.journals.entry(self.cow.clone()).or_default()))
    }

    /// Whether it holds a record.
    pub fn is_left(&self) -> bool {
        self.table(false, |table| !table.places.is_empty()).unwrap_or(false)
    }
}

impl Journal for RecordsOfCow {
    fn left(&self) -> Journaled {
        let left = |table: &mut Table| Journaled {
            records: table.places.values().copied().collect(),
            recorded: table.recorded,
        };
        self.table(false, left).unwrap_or_default()
    }

    fn set_recorded(&self, count: u64) {
        self.table(true, |table| table.recorded = count);
    }

    fn put(&self, place: usize, record: Option<Record>) {
        self.table(true, |table| match record {
            Some(record) => drop(table.places.insert(place, record)),
            None => drop(table.places.remove(&place)),
        });
    }

    fn clear(&self) {
        self.table(true, |table| table.places.clear());
    }

    fn name(&self) -> String {
        format!("journal of {}", self.cow)
    }
}
