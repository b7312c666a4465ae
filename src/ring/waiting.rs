//! Which disks have been given something to do and have not answered yet.
//!
//! Operations are numbered in the order in which they start, which costs an addition each; nobody
//! looks at a clock. Whoever wants to know whether a disk hangs asks twice: as long as its oldest
//! operation is the same, it has not answered.

use std::os::fd::{AsFd, AsRawFd};
use std::rc::Rc;

use super::Ring;
use super::inner::{RingFile, Work};

impl Ring {
    /// The disks with operations in flight, by the paths they were opened by, and the number of
    /// each one's oldest.
    pub fn oldest(&self) -> Vec<(String, u64)> {
        let mut oldest: Vec<(Rc<RingFile>, u64)> = Vec::new();
        for slot in self.inner.slots.borrow().iter().filter(|slot| slot.is_in_flight()) {
            let Work::Disk { file, .. } = &slot.work else { continue };
            match oldest.iter_mut().find(|(other, _)| Rc::ptr_eq(other, file)) {
                Some((_, number)) => *number = slot.number.min(*number),
                None => oldest.push((file.clone(), slot.number)),
            }
        }
        oldest.into_iter().map(|(file, number)| (path_of(&file), number)).collect()
    }
}

fn path_of(file: &RingFile) -> String {
    let number = file.as_fd().as_raw_fd();
    let path = std::fs::read_link(format!("/proc/self/fd/{number}"));
    path.map_or_else(|_| format!("descriptor {number}"), |path| path.display().to_string())
}
