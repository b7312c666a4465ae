//! The gate: its waiters continue when they should, and not before.

use std::cell::RefCell;
use std::rc::Rc;

use super::*;
use crate::exec::Executor;

/// A gate, tasks that use it, and what they have done.
#[derive(Default)]
struct Rig {
    executor: Executor,
    gate: Rc<Gate>,
    done: Rc<RefCell<Vec<&'static str>>>,
}

impl Rig {
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
    let rig = Rig::default();
    rig.gate.enter();
    rig.gate.enter();
    rig.gate.hold();
    rig.spawn("drained", async |gate| gate.drained().await);
    rig.spawn("came", async |gate| {
        gate.opened().await.unwrap();
        gate.enter();
    });
    rig.gate.leave();
    assert!(rig.done().is_empty(), "one is inside, and one waits");
    rig.gate.leave();
    assert_eq!(rig.done(), ["drained"]);
    assert_eq!(rig.gate.inside(), 0);
    rig.gate.release();
    assert_eq!(rig.done(), ["came"]);
    assert_eq!((rig.gate.inside(), rig.executor.live()), (1, 0));
}

#[test]
fn one_holds_it_alone_at_a_time() {
    let rig = Rig::default();
    for name in ["first", "second"] {
        rig.spawn(name, async |gate| gate.hold_alone().await);
    }
    assert_eq!(rig.done(), ["first"]);
    rig.gate.release();
    assert_eq!(rig.done(), ["second"]);
    assert!(rig.gate.is_held());
}

#[test]
fn a_closed_gate_ends_what_waits_and_stays_closed() {
    let rig = Rig::default();
    rig.gate.enter();
    rig.gate.hold();
    rig.spawn("refused", async |gate| assert_eq!(gate.opened().await, Err(Closed)));
    assert!(rig.done().is_empty());
    rig.gate.close();
    assert_eq!(rig.done(), ["refused"]);
    rig.gate.hold();
    rig.gate.release();
    assert!(rig.gate.is_closed() && !rig.gate.is_held());
    rig.spawn("drained", async |gate| gate.drained().await);
    rig.gate.leave();
    assert_eq!(rig.done(), ["drained"], "what is inside is waited for as well");
}

#[test]
fn what_the_owner_waits_for_is_looked_at_when_the_gate_changes_and_on_demand() {
    let rig = Rig::default();
    let known = Rc::new(Cell::new(0));
    let seen = known.clone();
    rig.spawn("second", async move |gate| gate.until(|| (seen.get() == 2).then_some(())).await);
    let seen = known.clone();
    rig.spawn("third", async move |gate| gate.until(|| (seen.get() == 3).then_some(())).await);
    known.set(2);
    assert!(rig.done().is_empty());
    rig.gate.wake();
    assert_eq!(rig.done(), ["second"]);
    known.set(3);
    rig.gate.hold();
    assert_eq!(rig.done(), ["third"]);
}
