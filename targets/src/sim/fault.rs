//! Rules for the errors of a simulated disk: which operations, how many pass first, which errno.

use crate::disk::{Errno, Op, OpKind};

/// The operations that a rule applies to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Reads.
    Read,
    /// Writes, with FUA or without, and writes of zeroes.
    Write,
    /// Writes with FUA.
    WriteFua,
    /// Flushes.
    Flush,
    /// Discards.
    Discard,
    /// All of them.
    Any,
}

impl Class {
    fn covers(self, kind: OpKind) -> bool {
        match self {
            Class::Read => kind == OpKind::Read,
            Class::Write => matches!(kind, OpKind::Write { .. } | OpKind::WriteZeroes),
            Class::WriteFua => kind == OpKind::Write { fua: true },
            Class::Flush => kind == OpKind::Flush,
            Class::Discard => kind == OpKind::Discard,
            Class::Any => true,
        }
    }
}

/// Operations of a class that touch a range; the range does not matter for flushes.
#[derive(Clone, Copy, Debug)]
pub struct Matcher {
    /// Their class.
    pub class: Class,
    /// First sector of the range.
    pub first: u64,
    /// First sector after it.
    pub end: u64,
}

impl Matcher {
    /// All operations of a class.
    pub fn all(class: Class) -> Matcher {
        Matcher { class, first: 0, end: u64::MAX }
    }

    pub(super) fn covers(&self, op: &Op) -> bool {
        let touches = op.sector.0 < self.end && self.first < op.sector.0 + op.count.0;
        self.class.covers(op.kind) && (touches || op.kind == OpKind::Flush)
    }
}

/// An injected error.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    /// Which operations.
    pub matcher: Matcher,
    /// How many of them pass before the fault acts.
    pub skip: u32,
    /// How many of them fail.
    pub times: u32,
    /// The errno they fail with.
    pub errno: Errno,
}
