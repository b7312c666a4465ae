//! Slots: an operation or a command from its start to its completion.
//!
//! A slot's number is the completion's user data. Short transfers and interrupted operations are
//! resubmitted for the rest, so that above this file an operation is all or nothing.
//!
//! Rule kept here: I6 (the slot of an operation holds its buffer until the completion has been
//! reaped; slots are never freed earlier, even if the waiter is gone).

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use dm_targets::disk::{OpKind, UserData};

use super::inner::{Inner, NO_SLOT, Slot, Work};

impl Slot {
    /// Whether its operation or command has been started and has not ended.
    pub(super) fn is_in_flight(&self) -> bool {
        self.result.is_none() && !matches!(self.work, Work::None)
    }

    /// Whether a completion is the last of an operation; a short or interrupted one is not.
    fn is_ended_by(&mut self, result: i32) -> bool {
        let Work::Disk { op, done_bytes, .. } = &mut self.work else { return true };
        match (op.kind, result) {
            (_, error) if error == -libc::EAGAIN || error == -libc::EINTR => false,
            (OpKind::Read | OpKind::Write { .. }, moved) if moved > 0 => {
                *done_bytes += u64::from(moved.unsigned_abs());
                *done_bytes >= op.count.bytes()
            }
            _ => true,
        }
    }
}

impl Inner {
    /// Takes a slot for new work.
    pub(super) fn take_slot(&self, work: Work, told_as: Option<UserData>) -> u32 {
        let number = self.started.get() + 1;
        self.started.set(number);
        let mut slots = self.slots.borrow_mut();
        if let Some(index) = self.free.borrow_mut().pop() {
            let slot = &mut slots[index as usize];
            slot.number = number;
            (slot.work, slot.result, slot.waker, slot.detached) = (work, None, None, false);
            slot.told_as = told_as;
            return index;
        }
        let (result, waker, detached, iovecs, next) = (None, None, false, Vec::new(), NO_SLOT);
        slots.push(Slot { work, number, result, waker, told_as, detached, iovecs, next });
        u32::try_from(slots.len() - 1).unwrap_or(u32::MAX)
    }

    fn give_slot(&self, slots: &mut [Slot], index: u32) {
        slots[index as usize].work = Work::None;
        self.free.borrow_mut().push(index);
    }

    /// The kernel has completed what was submitted for a slot: the operation has ended, or its rest
    /// is submitted.
    pub(super) fn complete(&self, index: u32, result: i32) {
        let mut slots = self.slots.borrow_mut();
        let slot = &mut slots[index as usize];
        if slot.next != NO_SLOT {
            drop(slots);
            self.complete_joint(index, result);
        } else if slot.is_ended_by(result) {
            self.end(&mut slots, index, result);
        } else {
            drop(slots);
            self.submit_disk(index);
        }
    }

    /// Ends an operation that has no completion of its own from the kernel.
    pub(super) fn finish(&self, index: u32, result: i32) {
        self.end(&mut self.slots.borrow_mut(), index, result);
    }

    fn end(&self, slots: &mut [Slot], index: u32, result: i32) {
        let slot = &mut slots[index as usize];
        let result = match &slot.work {
            // Nothing moved and no error: the file ends before the range.
            Work::Disk { op, .. }
                if result == 0 && matches!(op.kind, OpKind::Read | OpKind::Write { .. }) =>
            {
                -libc::EIO
            }
            _ => result,
        };
        slot.result = Some(result);
        if let Some(data) = slot.told_as {
            self.told.borrow_mut().push((data, result));
            self.give_slot(slots, index);
        } else if slot.detached {
            self.give_slot(slots, index);
        } else if let Some(waker) = slot.waker.take() {
            waker.wake();
        }
    }

    /// The result of a slot, which is then freed.
    pub(super) fn poll_slot(&self, index: u32, waker: &Waker) -> Poll<i32> {
        let mut slots = self.slots.borrow_mut();
        let slot = &mut slots[index as usize];
        match slot.result {
            Some(result) => {
                self.give_slot(&mut slots, index);
                Poll::Ready(result)
            }
            None => {
                if !slot.waker.as_ref().is_some_and(|old| old.will_wake(waker)) {
                    slot.waker = Some(waker.clone());
                }
                Poll::Pending
            }
        }
    }

    /// Marks a slot as no longer awaited: it is freed when it has its result.
    pub(super) fn detach_slot(&self, index: u32) {
        let mut slots = self.slots.borrow_mut();
        let slot = &mut slots[index as usize];
        slot.detached = true;
        if slot.result.is_some() {
            self.give_slot(&mut slots, index);
        }
    }
}

/// A command in flight.
#[must_use = "a command's result says what the kernel wants next"]
pub struct Command {
    ring: Rc<Inner>,
    slot: u32,
    done: bool,
}

impl Command {
    pub(super) fn new(ring: &Rc<Inner>, slot: u32) -> Command {
        Command { ring: ring.clone(), slot, done: false }
    }
}

impl Future for Command {
    type Output = i32;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<i32> {
        let result = self.ring.poll_slot(self.slot, cx.waker());
        self.done = result.is_ready();
        result
    }
}

impl Drop for Command {
    fn drop(&mut self) {
        if !self.done {
            self.ring.detach_slot(self.slot);
        }
    }
}
