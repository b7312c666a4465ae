//! The gate: its waiters continue when they should, and not before.

use std::cell::RefCell;
use std::rc::Rc;

use super::*;
use crate::exec::Executor;

/// A gate, tasks that use it, and what they have done.
#[derive(Default)]
struct Fixture {
    executor: Executor,
    gate: Rc<Gate>,
    done: Rc<RefCell<Vec<&'static str>>>,
}

impl Fixture {
    fn spawn(&self, name: &'static str, task: impl AsyncFnOnce(Rc<Gate>) + 'static) {
        let (gate, done) = (self.gate.clone(), self.done.clone());
        self.executor.spawn(async move {
            task(gate).await;
            done.borrow_mut().push(name);
        });
        self.executor.run_ready();
    }

    fn done(&self) -> Vec<&'static str> {
        self.executor.run_ready();
        self.done.take()
    }
}

#[test]
fn a_held_gate_drains_and_lets_nothing_in_until_it_is_released() {
    let fixture = Fixture::default();
    fixture.gate.enter();
    fixture.gate.enter();
    fixture.gate.hold();
    fixture.spawn("drained", async |gate| gate.drained().await);
    fixture.spawn("came", async |gate| {
        gate.opened().await.unwrap();
        gate.enter();
    });
    fixture.gate.leave();
    assert!(fixture.done().is_empty(), "one is inside, and one waits");
    fixture.gate.leave();
    assert_eq!(fixture.done(), ["drained"]);
    assert_eq!(fixture.gate.inside(), 0);
    fixture.gate.release();
    assert_eq!(fixture.done(), ["came"]);
    assert_eq!((fixture.gate.inside(), fixture.executor.live()), (1, 0));
}

#[test]
fn one_holds_it_alone_at_a_time() {
    let fixture = Fixture::default();
    for name in ["first", "second"] {
        fixture.spawn(name, async |gate| gate.hold_alone().await);
    }
    assert_eq!(fixture.done(), ["first"]);
    fixture.gate.release();
    assert_eq!(fixture.done(), ["second"]);
    assert!(fixture.gate.is_held());
}

#[test]
fn a_closed_gate_ends_what_waits_and_stays_closed() {
    let fixture = Fixture::default();
    fixture.gate.enter();
    fixture.gate.hold();
    fixture.spawn("refused", async |gate| assert_eq!(gate.opened().await, Err(Closed)));
    assert!(fixture.done().is_empty());
    fixture.gate.close();
    assert_eq!(fixture.done(), ["refused"]);
    fixture.gate.hold();
    fixture.gate.release();
    assert!(fixture.gate.is_closed() && !fixture.gate.is_held());
    fixture.spawn("drained", async |gate| gate.drained().await);
    fixture.gate.leave();
    assert_eq!(fixture.done(), ["drained"], "what is inside is waited for as well");
}

#[test]
fn what_the_owner_waits_for_is_looked_at_when_the_gate_changes_and_on_demand() {
    let fixture = Fixture::default();
    let known = Rc::new(Cell::new(0));
    let seen = known.clone();
    fixture.spawn("second", async move |gate| gate.until(|| (seen.get() == 2).then_some(())).await);
    let seen = known.clone();
    fixture.spawn("third", async move |gate| gate.until(|| (seen.get() == 3).then_some(())).await);
    known.set(2);
    assert!(fixture.done().is_empty());
    fixture.gate.wake();
    assert_eq!(fixture.done(), ["second"]);
    known.set(3);
    fixture.gate.hold();
    assert_eq!(fixture.done(), ["third"]);
}
