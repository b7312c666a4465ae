//! The disks that have operations in flight, which they have not answered yet.
//!
//! Operations are numbered in the order in which they start, which costs one addition each and no
//! reading of a clock. To find out whether a disk hangs, a caller asks twice: while the disk's
//! oldest operation is the same, the disk has not answered.

use std::os::fd::{AsFd, AsRawFd};
use std::rc::Rc;

use super::Ring;
use super::inner::{RingFile, Work};

impl Ring {
    /// The disks with operations in flight, by the paths they were opened by, and the number of
    /// each disk's oldest operation.
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
