//! The scheduler of all tasks of a group: one thread, no locks held while a task runs.
//!
//! A task is created with a device or snapshot and ends with it, so nothing is allocated per
//! request: a wake links a task to the one woken before it. Existing executors allocate or use
//! shared queues per wake, and none lets the caller choose the order; here `run_one` takes the
//! position to run, which is how the simulator explores interleavings.
//!
//! ```
//! use std::cell::Cell;
//! use std::rc::Rc;
//! use dm_targets::exec::{Executor, WaitQueue};
//!
//! let executor = Executor::new();
//! let (door, open) = (Rc::new(WaitQueue::default()), Rc::new(Cell::new(false)));
//! let (at_door, seen) = (door.clone(), open.clone());
//! executor.spawn(async move { at_door.until(|| seen.get().then_some(())).await });
//! executor.run_ready();
//! assert_eq!(executor.live(), 1, "it waits");
//! open.set(true);
//! door.wake_all();
//! executor.run_ready();
//! assert_eq!(executor.live(), 0);
//! ```

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::task::{Context, Poll, Wake, Waker};

type Task = Pin<Box<dyn Future<Output = ()>>>;

/// Ends the list of woken tasks.
const END: u32 = u32::MAX;

/// What wakers share: a list of woken tasks without a lock, since tasks are also woken by other
/// threads.
struct TaskWaker {
    index: u32,
    queued: AtomicBool,
    /// The task woken before this one, while this one is in the list.
    before: AtomicU32,
    /// The task woken last.
    last: Arc<AtomicU32>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.queued.swap(true, Ordering::AcqRel) {
            return;
        }
        let mut last = self.last.load(Ordering::Relaxed);
        loop {
            self.before.store(last, Ordering::Relaxed);
            let (order, failed) = (Ordering::Release, Ordering::Relaxed);
            match self.last.compare_exchange_weak(last, self.index, order, failed) {
                Ok(_) => return,
                Err(now) => last = now,
            }
        }
    }
}

struct Slot {
    /// The task, until it has ended.
    task: RefCell<Option<Task>>,
    waker: Waker,
    shared: Arc<TaskWaker>,
}

#[derive(Default)]
struct Inner {
    /// Each is held while its task runs, which may add others.
    slots: RefCell<Vec<Rc<Slot>>>,
    free: RefCell<Vec<u32>>,
    live: Cell<usize>,
    /// The woken tasks that are not in the wakers' list any more, in the order of the wakes.
    ready: RefCell<Vec<Rc<Slot>>>,
}

/// A single-threaded set of tasks. Clones share the set.
#[derive(Clone)]
pub struct Executor {
    inner: Rc<Inner>,
    last: Arc<AtomicU32>,
}

impl Default for Executor {
    fn default() -> Executor {
        Executor { inner: Rc::default(), last: Arc::new(AtomicU32::new(END)) }
    }
}

impl Executor {
    /// An executor without tasks.
    pub fn new() -> Executor {
        Executor::default()
    }

    /// Adds a task; it first runs on the next pass.
    pub fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        self.spawn_boxed(Box::pin(task));
    }

    fn spawn_boxed(&self, task: Task) {
        let mut slots = self.inner.slots.borrow_mut();
        let index = match self.inner.free.borrow_mut().pop() {
            Some(index) => {
                slots[index as usize].task.replace(Some(task));
                index
            }
            None => {
                // More than 2^32 tasks cannot exist: each owns heap memory.
                let index = u32::try_from(slots.len()).unwrap_or(u32::MAX);
                let shared = Arc::new(TaskWaker {
                    index,
                    queued: AtomicBool::new(false),
                    before: AtomicU32::new(END),
                    last: self.last.clone(),
                });
                let (task, waker) = (RefCell::new(Some(task)), Waker::from(shared.clone()));
                slots.push(Rc::new(Slot { task, waker, shared }));
                index
            }
        };
        self.inner.live.set(self.inner.live.get() + 1);
        slots[index as usize].shared.wake_by_ref();
    }

    /// Ends all tasks where they are, as the death of their process does.
    #[cfg(any(test, feature = "sim"))]
    pub fn clear(&self) {
        let tasks: Vec<_> =
            self.inner.slots.borrow().iter().filter_map(|slot| slot.task.take()).collect();
        drop(tasks);
    }

    /// Tasks that have not ended.
    pub fn live(&self) -> usize {
        self.inner.live.get()
    }

    /// Tasks that are ready to run.
    pub fn ready(&self) -> usize {
        self.take_woken();
        self.inner.ready.borrow().len()
    }

    /// Runs the ready task at a position of the queue, if there is one; returns whether it did. For
    /// the simulator, which chooses the order.
    #[cfg(any(test, feature = "sim"))]
    pub fn run_one(&self, position: usize) -> bool {
        if position >= self.ready() {
            return false;
        }
        let slot = self.inner.ready.borrow_mut().remove(position);
        self.run(&slot);
        true
    }

    /// Moves the woken tasks from the wakers' list, whose first is the last woken, behind those
    /// that are ready.
    fn take_woken(&self) {
        let mut index = self.last.swap(END, Ordering::Acquire);
        if index == END {
            return;
        }
        let (slots, mut ready) = (self.inner.slots.borrow(), self.inner.ready.borrow_mut());
        let first = ready.len();
        while index != END {
            let slot = &slots[index as usize];
            index = slot.shared.before.load(Ordering::Relaxed);
            ready.push(slot.clone());
        }
        ready[first..].reverse();
    }

    fn run(&self, slot: &Slot) {
        // What was done before a wake that found the task queued is visible to its next run.
        slot.shared.queued.swap(false, Ordering::AcqRel);
        let mut task = slot.task.borrow_mut();
        // A slot without a task was woken after its task's end.
        let Some(running) = task.as_mut() else { return };
        if running.as_mut().poll(&mut Context::from_waker(&slot.waker)).is_ready() {
            *task = None;
            self.inner.free.borrow_mut().push(slot.shared.index);
            self.inner.live.set(self.inner.live.get() - 1);
        }
    }

    /// Runs ready tasks in the order they were woken until none is ready.
    pub fn run_ready(&self) {
        while self.ready() > 0 {
            let mut pass = self.inner.ready.take();
            pass.drain(..).for_each(|slot| self.run(&slot));
            let mut ready = self.inner.ready.borrow_mut();
            if ready.is_empty() {
                *ready = pass; // its memory is used again
            }
        }
    }
}

/// Tasks waiting for a change. A woken task always checks again, so a superfluous wake is harmless.
#[derive(Default)]
pub struct WaitQueue {
    wakers: RefCell<Vec<Waker>>,
}

impl WaitQueue {
    /// Waits until `ready` returns a value. It is called immediately and after each wake.
    pub fn until<'a, T>(
        &'a self,
        mut ready: impl FnMut() -> Option<T> + 'a,
    ) -> impl Future<Output = T> + 'a {
        std::future::poll_fn(move |cx| match ready() {
            Some(value) => Poll::Ready(value),
            None => {
                self.add(cx.waker());
                Poll::Pending
            }
        })
    }

    /// Has a waker woken with the waiters.
    pub(crate) fn add(&self, waker: &Waker) {
        let mut wakers = self.wakers.borrow_mut();
        if !wakers.iter().any(|other| other.will_wake(waker)) {
            wakers.push(waker.clone());
        }
    }

    /// Wakes all waiters.
    #[inline]
    pub fn wake_all(&self) {
        // Most changes have no waiter.
        if !self.wakers.borrow().is_empty() {
            self.wake_each();
        }
    }

    fn wake_each(&self) {
        // The list keeps its memory: it is taken out only while waking, and wakers never run tasks
        // themselves.
        for waker in self.wakers.borrow_mut().drain(..) {
            waker.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_tasks_run_after_a_wake_and_slots_are_used_again() {
        let executor = Executor::new();
        let queue = Rc::new(WaitQueue::default());
        let (flag, done) = (Rc::new(Cell::new(false)), Rc::new(Cell::new(0)));
        for _ in 0..3 {
            let (queue, flag, done) = (queue.clone(), flag.clone(), done.clone());
            executor.spawn(async move {
                queue.until(|| flag.get().then_some(())).await;
                done.set(done.get() + 1);
            });
        }
        executor.run_ready();
        assert_eq!((executor.live(), done.get()), (3, 0));
        queue.wake_all();
        executor.run_ready();
        assert_eq!(
            (executor.live(), done.get()),
            (3, 0),
            "a wake without the condition changes nothing"
        );
        flag.set(true);
        queue.wake_all();
        executor.run_ready();
        assert_eq!((executor.live(), done.get()), (0, 3));
        executor.spawn(async {});
        assert_eq!(executor.inner.slots.borrow().len(), 3, "an ended task's slot is taken again");
        executor.run_ready();
    }
}
