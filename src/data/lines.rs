//! The devices that are served, by the user data of their completions.

use std::cell::RefCell;
use std::rc::Rc;

use dm_targets::disk::UserData;

use super::device::ServedDevice;
use super::place::Place;
use crate::ring::Ring;

/// The devices with tags that have not ended.
#[derive(Default)]
pub(super) struct Lines {
    table: RefCell<Vec<Option<Rc<ServedDevice>>>>,
    /// Memory for the completions of a round.
    told: RefCell<Vec<(UserData, i32)>>,
}

impl Lines {
    /// Adds a device that is made for its line; `None` if there is none left.
    pub(super) fn add(
        &self,
        make: impl FnOnce(u16) -> Rc<ServedDevice>,
    ) -> Option<Rc<ServedDevice>> {
        let mut table = self.table.borrow_mut();
        let free = table.iter().position(Option::is_none).unwrap_or(table.len());
        let served = make(u16::try_from(free).ok()?);
        if free == table.len() {
            table.push(None);
        }
        table[free] = Some(served.clone());
        Some(served)
    }

    /// All tags of a device have ended.
    pub(super) fn remove(&self, line: u16) {
        self.table.borrow_mut()[usize::from(line)] = None;
    }

    /// Takes what the ring has to tell to the devices.
    pub(super) fn tell(&self, ring: &Ring) {
        let told = &mut *self.told.borrow_mut();
        while ring.take_told(told) {
            let table = self.table.borrow();
            for (data, result) in told.drain(..) {
                let (place, is_command) = Place::of(data);
                let Some(Some(served)) = table.get(usize::from(place.line)) else {
                    debug_assert!(false, "a completion after the end of its device");
                    continue;
                };
                if is_command {
                    served.commanded(place, result);
                } else {
                    served.completed(place, data, result);
                }
            }
        }
    }
}
