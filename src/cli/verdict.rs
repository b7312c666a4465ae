//! The end of a command that is made of parts: one line for each part that failed, and one exit
//! code for all.
//!
//! Rule kept here: exit 0 is a promise. A command that did only part of its work says which part it
//! did not do, and fails.

use super::terminal::complain;
use crate::failure::{Failure, Reason};

/// Reports all problems but the last, which becomes the command's failure; succeeds if there are no
/// problems.
pub(super) fn verdict(mut problems: Vec<Reason>) -> Result<(), Failure> {
    let Some(last) = problems.pop() else { return Ok(()) };
    for problem in problems {
        complain(&problem);
    }
    Err(last)
}
