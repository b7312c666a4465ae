//! Why something failed: which kind of failure it is, what was being done, what caused it and what
//! the user can do; and the exit code of a command that fails so.
//!
//! One type for servers and commands: it crosses the control socket as it is. Rules kept here: what
//! a caller decides by is the kind or the errno, never the text; a context that
//! is added keeps the kind and the errno of the cause.

use std::fmt;
use std::io;

use serde::{Deserialize, Serialize};

/// What went wrong, in one line for the user.
pub type Reason = Failure;

/// What a caller can tell failures apart by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// The command line makes no sense.
    Usage,
    /// There is no such device or file.
    NotFound,
    /// A device or a disk has users.
    InUse,
    /// The state or content of a device or a disk forbids it.
    Refused,
    /// The kernel does not have it.
    Unsupported,
    /// A server, a disk or the kernel has not answered within a limit.
    NoAnswer,
    /// A system call failed.
    System {
        /// The kernel's number.
        errno: i32,
    },
    /// Anything of which the line says enough.
    #[default]
    Failed,
}

impl Kind {
    /// The kind of a failed system call.
    pub fn of(error: &io::Error) -> Kind {
        match error.raw_os_error() {
            Some(errno) => Kind::System { errno },
            None if error.kind() == io::ErrorKind::TimedOut => Kind::NoAnswer,
            None => Kind::Failed,
        }
    }
}

/// Why something failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Of which kind the cause is.
    #[serde(default)]
    pub kind: Kind,
    /// What failed, on which device, with the mark between that and the cause; the whole line if
    /// there is no cause.
    #[serde(alias = "message")] // so named by servers of earlier versions
    context: String,
    /// What caused it.
    #[serde(default)]
    source: Option<Box<Failure>>,
    /// What the line ends with after the cause, with its mark: what to do, or what is left.
    #[serde(default)]
    end: String,
}

impl Failure {
    /// A failure without a cause.
    pub fn new(kind: Kind, context: impl Into<String>) -> Failure {
        Failure { kind, context: context.into(), source: None, end: String::new() }
    }

    /// What this has made fail: the line reads `context: this`. The kind stays the cause's.
    pub fn context(self, context: impl fmt::Display) -> Failure {
        self.after(format!("{context}: "))
    }

    /// What was done all the same: the line reads `context, but this`.
    pub fn but(self, context: impl fmt::Display) -> Failure {
        self.after(format!("{context}, but "))
    }

    /// The same after some words, which end in the mark between.
    pub fn after(self, words: impl Into<String>) -> Failure {
        Failure {
            kind: self.kind,
            context: words.into(),
            source: Some(Box::new(self)),
            end: String::new(),
        }
    }

    /// All of some failures in one line; their kind is the first one's.
    pub fn all(failures: Vec<Failure>) -> Option<Failure> {
        failures.into_iter().reduce(|first, next| first.ending(format!("; {next}")))
    }

    /// The same with something at the end of the line: what to do, or what is left.
    pub fn ending(mut self, end: impl AsRef<str>) -> Failure {
        self.end.push_str(end.as_ref());
        self
    }

    /// The exit code of a command that ends so.
    pub fn code(&self) -> u8 {
        match self.kind {
            Kind::Usage => 2,
            _ => 1,
        }
    }
}

/// What a test looks for in the line.
#[cfg(test)]
impl Failure {
    /// The kernel's number, if a system call is at the bottom of it.
    pub fn errno(&self) -> Option<i32> {
        match self.kind {
            Kind::System { errno } => Some(errno),
            _ => self.source.as_ref().and_then(|source| source.errno()),
        }
    }

    pub fn contains(&self, words: &str) -> bool {
        self.to_string().contains(words)
    }

    pub fn starts_with(&self, words: &str) -> bool {
        self.to_string().starts_with(words)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.context)?;
        if let Some(source) = &self.source {
            write!(f, "{source}")?;
        }
        f.write_str(&self.end)
    }
}

impl From<String> for Failure {
    fn from(message: String) -> Failure {
        Failure::new(Kind::Failed, message)
    }
}

impl From<&str> for Failure {
    fn from(message: &str) -> Failure {
        Failure::new(Kind::Failed, message)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        Failure::new(Kind::of(&error), error.to_string())
    }
}

/// A command line that makes no sense.
pub fn wrong_usage(message: impl Into<String>) -> Failure {
    Failure::new(Kind::Usage, message)
}

#[cfg(test)]
mod tests;
