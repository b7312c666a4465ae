//! Work on several families at the same time: a family whose disks or server hang delays only the
//! families that depend on it.
//!
//! For the families this is the same as several commands at once: each piece of work takes the lock
//! of its own family, and a lock belongs to an open file, so threads exclude each other like
//! processes.
//!
//! Rules kept here: a piece of work begins when the earlier ones that it depends on have ended,
//! whether they succeeded or not; the results are in the given order, however long each has taken.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

/// Most pieces of work at the same time. Each starts a process for each of its disks, and may start
/// a server. A disk must answer within 35 s, and one that seems silent because the machine is busy
/// with these starts would be left out; this many starts take a fraction of that time on one slow
/// processor. More families than this that hang do delay others.
const MOST: usize = 16;

/// What is left to do.
struct Board<T> {
    /// Pieces of work that have not begun, in order.
    waiting: Vec<usize>,
    /// Which have ended.
    ended: Vec<bool>,
    results: Vec<Option<T>>,
}

/// The board, and a signal that a piece of work has ended.
struct Shared<T> {
    board: Mutex<Board<T>>,
    changed: Condvar,
}

/// Does `count` pieces of work, and returns their results in order. `must_wait(one, other)` says
/// for an `other` before `one` that `one` begins after the end of `other`.
pub(super) fn run<T: Send>(
    count: usize,
    must_wait: impl Fn(usize, usize) -> bool + Sync,
    work: impl Fn(usize) -> T + Sync,
) -> Vec<T> {
    let results = (0..count).map(|_| None).collect();
    let board = Board { waiting: (0..count).collect(), ended: vec![false; count], results };
    let shared = Shared { board: Mutex::new(board), changed: Condvar::new() };
    let all = || {
        while let Some(one) = shared.next(&must_wait) {
            let ended = Ended { shared: &shared, one };
            let result = work(one);
            shared.board().results[one] = Some(result);
            drop(ended);
        }
    };
    thread::scope(|scope| {
        // This thread works as well: a single piece of work needs no other.
        for _ in 1..count.min(MOST) {
            let started = thread::Builder::new().name("family".into()).spawn_scoped(scope, all);
            if let Err(error) = started {
                log::debug!("fewer families at the same time: {error}");
            }
        }
        all();
    });
    let board = shared.board.into_inner().unwrap_or_else(PoisonError::into_inner);
    board.results.into_iter().flatten().collect()
}

impl<T> Shared<T> {
    fn board(&self) -> MutexGuard<'_, Board<T>> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next piece of work, or `None` if all have begun. Waits until one can begin: the first
    /// that waits does so for earlier ones, which have begun.
    fn next(&self, must_wait: impl Fn(usize, usize) -> bool) -> Option<usize> {
        let mut board = self.board();
        loop {
            if board.waiting.is_empty() {
                return None;
            }
            let is_free =
                |one: &usize| !(0..*one).any(|other| !board.ended[other] && must_wait(*one, other));
            if let Some(at) = board.waiting.iter().position(is_free) {
                return Some(board.waiting.remove(at));
            }
            board = self.changed.wait(board).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// A piece of work that has begun. It has ended when this is dropped, even by a panic: others must
/// not wait for it forever.
struct Ended<'a, T> {
    shared: &'a Shared<T>,
    one: usize,
}

impl<T> Drop for Ended<'_, T> {
    fn drop(&mut self) {
        self.shared.board().ended[self.one] = true;
        self.shared.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_piece_that_hangs_delays_no_other() {
        // The first ends only when all others have ended.
        let others = AtomicUsize::new(0);
        let done = run(
            9,
            |_, _| false,
            |one| {
                if one == 0 {
                    while others.load(Ordering::SeqCst) < 8 {
                        thread::sleep(Duration::from_millis(1));
                    }
                } else {
                    others.fetch_add(1, Ordering::SeqCst);
                }
                one
            },
        );
        assert_eq!(done, [0, 1, 2, 3, 4, 5, 6, 7, 8], "in the given order");
    }

    #[test]
    fn a_piece_begins_after_those_that_it_depends_on() {
        // Each depends on the one two places before it.
        let ended = Mutex::new(Vec::new());
        let before = run(
            40,
            |one, other| other + 2 == one,
            |one| {
                let before = ended.lock().unwrap().clone();
                thread::sleep(Duration::from_millis(u64::from(one % 4 == 0) * 3));
                ended.lock().unwrap().push(one);
                before
            },
        );
        for (one, before) in before.iter().enumerate().skip(2) {
            assert!(before.contains(&(one - 2)), "{one} began after {before:?}");
        }
    }

    #[test]
    fn only_so_many_run_at_once_and_as_many_as_that_do() {
        let (inside, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let full = Barrier::new(MOST);
        run(
            MOST * 3,
            |_, _| false,
            |_| {
                most.fetch_max(inside.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                full.wait();
                inside.fetch_sub(1, Ordering::SeqCst);
            },
        );
        assert_eq!(most.load(Ordering::SeqCst), MOST);
    }

    #[test]
    fn nothing_to_do_is_done() {
        assert_eq!(run(0, |_, _| true, |one| one), Vec::<usize>::new());
        assert_eq!(run(1, |_, _| true, |one| one), [0]);
    }

    #[test]
    fn a_piece_that_panics_holds_up_no_other() {
        let done = AtomicUsize::new(0);
        let ran = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            run(
                3,
                |_, other| other == 0,
                |one| {
                    assert!(one != 0, "the first fails");
                    done.fetch_add(1, Ordering::SeqCst);
                },
            )
        }));
        assert!(ran.is_err() && done.load(Ordering::SeqCst) == 2);
    }
}
