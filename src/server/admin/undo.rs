//! Commands that end when their clients have left: those have told their users that the command failed, so it is taken back.

use super::machine::Machine;
use super::mutant::{self, Mutant};
use super::state::Administrator;
use crate::protocol::{Answer, Question};

/// How a command is taken back whose client has left.
#[derive(Clone, Copy)]
pub enum Undo {
    Add,
    Suspend(u32),
    /// It is not: it has been done, whoever knows.
    No,
}

impl Undo {
    /// The one for a command. What was suspended before stays so.
    pub fn of<M: Machine>(question: &Question, admin: &Administrator<M>) -> Undo {
        let runs = |id: &u32| admin.devices.get(id).is_some_and(|entry| !entry.suspended);
        match question {
            Question::Add { .. } => Undo::Add,
            Question::Suspend { device, .. } if runs(&device.id) || mutant::is(Mutant::ResumedUnasked) => {
                Undo::Suspend(device.id)
            }
            _ => Undo::No,
        }
    }
}

impl<M: Machine> Administrator<M> {
    /// Takes back what a command has done whose client has left without waiting for its end: it has told its user that the
    /// command failed.
    pub fn take_back(&mut self, undo: Undo, answer: &Answer) {
        let taken_back = match (undo, answer) {
            (Undo::Add, Answer::Added { .. }) if mutant::is(Mutant::AddNotTakenBack) => return,
            (Undo::Add, Answer::Added { device, .. }) => self.del(&[device.id], true),
            // Not `resume`, which would put a loaded table in place that has not been asked for.
            (Undo::Suspend(id), Answer::Done) => {
                let recorded = self.record_suspended(id, false);
                recorded.and_then(|()| self.let_through(id, true)).map(|()| Answer::Done)
            }
            _ => return,
        };
        match taken_back {
            Ok(_) => log::warn!("taken back: the client of the command has left before its end"),
            Err(error) => log::warn!("cannot be taken back, though the client of the command has left: {error}"),
        }
    }
}
