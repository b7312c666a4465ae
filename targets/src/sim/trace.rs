//! A trace of events, recorded only where it may have to be read.

use std::cell::RefCell;
use std::rc::Rc;

/// The events, for analysing a failure. Clones share the list.
#[derive(Clone, Default)]
pub struct Trace(Option<Rc<RefCell<Vec<String>>>>);

impl Trace {
    /// A trace that keeps its lines; the default one drops them.
    pub fn recording() -> Trace {
        Trace(Some(Rc::default()))
    }

    /// Adds a line.
    pub fn note(&self, line: impl FnOnce() -> String) {
        if let Some(lines) = &self.0 {
            lines.borrow_mut().push(line());
        }
    }

    /// All lines so far.
    pub fn lines(&self) -> Vec<String> {
        self.0.as_ref().map(|lines| lines.borrow().clone()).unwrap_or_default()
    }
}
