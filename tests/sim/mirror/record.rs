//! The record of a mirror's legs: it outlives the simulated process, is lost at a power loss, and
//! can fail.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use dm_targets::mirror::leg_state::LegState;
use dm_targets::mirror::target::Recorder;

/// Injected errors: how many records succeed first, and how many fail then.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecordFault {
    /// Records that succeed before.
    pub skip: u32,
    /// Records that fail then.
    pub times: u32,
}

/// A place for the state of a mirror's legs.
#[derive(Default)]
pub struct Record {
    state: RefCell<Option<LegState>>,
    fault: Cell<RecordFault>,
    changes: Cell<u64>,
    failed: Cell<u64>,
}

impl Record {
    /// A record with the state that an earlier life has left.
    pub fn holding(state: Option<LegState>, fault: RecordFault) -> Rc<Record> {
        Rc::new(Record { state: RefCell::new(state), fault: Cell::new(fault), ..Record::default() })
    }

    /// The record that a server finds when it takes over.
    pub fn left(&self) -> Option<LegState> {
        self.state.borrow().clone()
    }

    /// Makes records fail from now on.
    pub fn fail(&self, skip: u32, times: u32) {
        self.fault.set(RecordFault { skip, times });
    }

    /// Changes whenever the record may change.
    pub fn changes(&self) -> u64 {
        self.changes.get()
    }

    /// Number of errors so far.
    pub fn failed(&self) -> u64 {
        self.failed.get()
    }

    /// Writes the record, for a mirror.
    pub fn recorder(self: &Rc<Self>) -> Rc<Recorder> {
        let record = self.clone();
        Rc::new(move |state: &LegState| record.put(state))
    }

    fn put(&self, state: &LegState) -> Result<(), String> {
        self.changes.set(self.changes.get() + 1);
        let mut fault = self.fault.get();
        if fault.skip > 0 {
            fault.skip -= 1;
        } else if fault.times > 0 {
            fault.times -= 1;
            self.fault.set(fault);
            self.failed.set(self.failed.get() + 1);
            // Every second failed record is written nevertheless.
            if self.failed.get() % 2 == 0 {
                *self.state.borrow_mut() = Some(state.clone());
            }
            return Err("no space left on device".into());
        }
        self.fault.set(fault);
        *self.state.borrow_mut() = Some(state.clone());
        Ok(())
    }
}
