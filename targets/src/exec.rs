//! The scheduler of all tasks of a group: one thread, no locks held while a task runs.
//!
//! A task is created with a device or snapshot and ends with it, so nothing is allocated per
//! request: a wake pushes an index. Existing executors allocate or use shared atomic queues per
//! wake, and none lets the caller choose the order; here `run_one` takes the position to run, which
//! is how the simulator explores interleavings.
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
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

type Task = Pin<Box<dyn Future<Output = ()>>>;

#[derive(Default)]
struct ReadyQueue(Mutex<VecDeque<u32>>);

impl ReadyQueue {
    fn push(&self, index: u32) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push_back(index);
    }

    #[cfg(any(test, feature = "sim"))]
    fn take(&self, position: usize) -> Option<u32> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(position)
    }

    /// Exchanges all that is queued for an empty list.
    fn exchange(&self, list: &mut VecDeque<u32>) {
        std::mem::swap(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner), list);
    }

    fn len(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

struct TaskWaker {
    index: u32,
    queued: AtomicBool,
    ready: Arc<ReadyQueue>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.queued.swap(true, Ordering::AcqRel) {
            self.ready.push(self.index);
        }
    }
}

struct Slot {
    /// The task and its waker, while it is not running.
    task: Option<(Task, Waker)>,
    shared: Arc<TaskWaker>,
}

#[derive(Default)]
struct Inner {
    slots: RefCell<Vec<Slot>>,
    free: RefCell<Vec<u32>>,
    live: Cell<usize>,
    /// The tasks of the current pass, and memory for the next.
    pass: RefCell<VecDeque<u32>>,
}

/// A single-threaded set of tasks. Clones share the set.
#[derive(Clone, Default)]
pub struct Executor {
    inner: Rc<Inner>,
    ready: Arc<ReadyQueue>,
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
                let slot = &mut slots[index as usize];
                slot.task = Some((task, Waker::from(slot.shared.clone())));
                index
            }
            None => {
                // More than 2^32 tasks cannot exist: each owns heap memory.
                let index = u32::try_from(slots.len()).unwrap_or(u32::MAX);
                let shared = Arc::new(TaskWaker {
                    index,
                    queued: AtomicBool::new(false),
                    ready: self.ready.clone(),
                });
                slots.push(Slot { task: Some((task, Waker::from(shared.clone()))), shared });
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
            self.inner.slots.borrow_mut().iter_mut().filter_map(|slot| slot.task.take()).collect();
        drop(tasks);
    }

    /// Tasks that have not ended.
    pub fn live(&self) -> usize {
        self.inner.live.get()
    }

    /// Tasks that are ready to run.
    pub fn ready(&self) -> usize {
        self.ready.len()
    }

    /// Runs the ready task at a position of the queue, if there is one; returns whether it did. For
    /// the simulator, which chooses the order.
    #[cfg(any(test, feature = "sim"))]
    pub fn run_one(&self, position: usize) -> bool {
        let Some(index) = self.ready.take(position) else { return false };
        self.run(index);
        true
    }

    fn run(&self, index: u32) {
        let (mut task, waker) = {
            let mut slots = self.inner.slots.borrow_mut();
            let slot = &mut slots[index as usize];
            slot.shared.queued.store(false, Ordering::Release);
            // A slot without a task was woken after its task's end.
            let Some(task) = slot.task.take() else { return };
            task
        };
        match task.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Pending => {
                self.inner.slots.borrow_mut()[index as usize].task = Some((task, waker))
            }
            Poll::Ready(()) => {
                self.inner.free.borrow_mut().push(index);
                self.inner.live.set(self.inner.live.get() - 1);
            }
        }
    }

    /// Runs ready tasks in the order they were woken until none is ready.
    pub fn run_ready(&self) {
        loop {
            let mut pass = self.inner.pass.take();
            self.ready.exchange(&mut pass);
            if pass.is_empty() {
                self.inner.pass.replace(pass);
                return;
            }
            for index in pass.drain(..) {
                self.run(index);
            }
            self.inner.pass.replace(pass);
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
                let mut wakers = self.wakers.borrow_mut();
                if !wakers.iter().any(|waker| waker.will_wake(cx.waker())) {
                    wakers.push(cx.waker().clone());
                }
                Poll::Pending
            }
        })
    }

    /// Wakes all waiters.
    pub fn wake_all(&self) {
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
