//! A record of lost stores that outlives the simulated process and a loss of power, as its contract
//! requires.

use std::cell::Cell;

use crate::snapshot::losses::{Loss, LossRecord};

/// The record of one COW.
pub struct SimLosses {
    cow: [String; 1],
    recorded: Cell<Option<Loss>>,
    /// Nothing can be recorded.
    full: Cell<bool>,
    changes: Cell<u64>,
}

impl SimLosses {
    /// The record of a COW, with its initial content.
    pub fn of(cow: &str, recorded: Option<Loss>) -> SimLosses {
        let (full, changes) = (Cell::new(false), Cell::new(0));
        SimLosses { cow: [cow.to_owned()], recorded: Cell::new(recorded), full, changes }
    }

    /// Sets whether it is full.
    pub fn set_full(&self, full: bool) {
        self.full.set(full);
    }

    /// What is recorded.
    pub fn recorded(&self) -> Option<Loss> {
        self.recorded.get()
    }

    /// Counts its changes.
    pub fn changes(&self) -> u64 {
        self.changes.get()
    }
}

impl LossRecord for SimLosses {
    fn cow(&self) -> &[String] {
        &self.cow
    }

    fn record(&self, loss: Loss) -> Result<(), String> {
        if self.full.get() {
            return Err("no room".into());
        }
        self.recorded.set(Some(loss));
        self.changes.set(self.changes.get() + 1);
        Ok(())
    }
}
