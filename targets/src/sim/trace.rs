//! A record of what happened, kept only where somebody may have to read it.

use std::cell::RefCell;
use std::rc::Rc;

/// What happened, for the one who has to understand a failure. Clones share the list.
#[derive(Clone, Default)]
pub struct Trace(Option<Rc<RefCell<Vec<String>>>>);

impl Trace {
    /// A trace that keeps what it is told; the default one forgets it.
    pub fn recording() -> Trace {
        Trace(Some(Rc::default()))
    }

    /// Notes something.
    pub fn note(&self, line: impl FnOnce() -> String) {
        if let Some(lines) = &self.0 {
            lines.borrow_mut().push(line());
        }
    }

    /// Everything noted so far.
    pub fn lines(&self) -> Vec<String> {
        self.0.as_ref().map(|lines| lines.borrow().clone()).unwrap_or_default()
    }
}
