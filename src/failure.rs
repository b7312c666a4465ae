//! Why something failed: the kind of failure, what was being done, the cause and what the user can
//! do; and the exit code of a command that ends with the failure.
//!
//! One type for servers and commands: it is sent over the control socket unchanged. Rules kept
//! here: callers decide by the kind or the errno, never by the text; adding a context keeps the
//! kind and the errno of the cause.

use std::error::Error;
use std::fmt;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::sys::descriptors::limit_hint;
pub use about::About;

/// The exit code of a command that has examined something and found it bad. No failure has it.
pub const FOUND_BAD: u8 = 3;

/// What went wrong, in one line for the user.
pub type Reason = Failure;

/// The kind of a failure, by which a caller decides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// The command line is invalid.
    Usage,
    /// There is no such device or file.
    NotFound,
    /// A device or a disk is in use.
    InUse,
    /// The state or content of a device or a disk forbids the operation.
    Refused,
    /// The kernel does not support the operation.
    Unsupported,
    /// A server, a disk or the kernel did not answer within a limit.
    NoAnswer,
    /// A system call failed.
    System {
        /// The errno.
        errno: i32,
    },
    /// Any other failure: the line says enough.
    #[default]
    Failed,
}

impl Kind {
    /// The word for the kind, for programs.
    pub fn word(self) -> &'static str {
        match self {
            Kind::Usage => "usage",
            Kind::NotFound => "not_found",
            Kind::InUse => "in_use",
            Kind::Refused => "refused",
            Kind::Unsupported => "unsupported",
            Kind::NoAnswer => "no_answer",
            Kind::System { .. } => "system",
            Kind::Failed => "failed",
        }
    }

    /// The kind of a failed system call, whatever was added to it on the way.
    pub fn of(error: &io::Error) -> Kind {
        if let Some(errno) = error.raw_os_error() {
            return Kind::System { errno };
        }
        let inner = error.get_ref();
        if let Some(failure) = inner.and_then(|inner| inner.downcast_ref::<Failure>()) {
            return failure.kind;
        }
        let cause = inner.and_then(|inner| inner.source());
        match cause.and_then(|cause| cause.downcast_ref::<io::Error>()) {
            Some(cause) => Kind::of(cause),
            None if error.kind() == io::ErrorKind::TimedOut => Kind::NoAnswer,
            None => Kind::Failed,
        }
    }
}

/// Why something failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The kind of the cause.
    #[serde(default)]
    pub kind: Kind,
    /// What failed and on which device, with the separator before the cause; the whole line if
    /// there is no cause.
    #[serde(rename = "message")] // as in earlier versions, whose commands show this much
    context: String,
    /// The cause.
    #[serde(default)]
    source: Option<Box<Failure>>,
    /// The end of the line after the cause, with its separator: what to do, or what is left.
    #[serde(default)]
    end: String,
    /// What it is about, if that was noted here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    about: Option<Box<About>>,
}

impl Failure {
    /// A failure without a cause.
    pub fn new(kind: Kind, context: impl Into<String>) -> Failure {
        Failure { kind, context: context.into(), source: None, end: String::new(), about: None }
    }

    /// Adds what failed because of this failure: the line reads `context: this`. The kind is kept.
    pub fn context(self, context: impl fmt::Display) -> Failure {
        self.after(format!("{context}: "))
    }

    /// Without a name that the line begins with: the caller puts it before more than this.
    pub fn without_start(mut self, name: &str) -> Failure {
        let rest = self.context.strip_prefix(name).and_then(|rest| rest.strip_prefix(": "));
        if let Some(rest) = rest.map(str::to_owned) {
            self.context = rest;
        }
        self
    }

    /// Adds the path of the file that an operation failed on.
    pub fn at(path: &Path, why: impl Into<Failure>) -> Failure {
        why.into().context(path.display())
    }

    /// Adds what was done nevertheless: the line reads `context, but this`.
    pub fn but(self, context: impl fmt::Display) -> Failure {
        self.after(format!("{context}, but "))
    }

    /// Without what to do, or what is left: another line says that better.
    pub fn without_end(mut self) -> Failure {
        self.end.clear();
        self
    }

    /// Puts `words`, which end with their separator, before this failure.
    pub fn after(self, words: impl Into<String>) -> Failure {
        Failure {
            kind: self.kind,
            context: words.into(),
            source: Some(Box::new(self)),
            end: String::new(),
            about: None,
        }
    }

    /// Joins failures into one line, with the kind of the first one.
    pub fn all(failures: Vec<Failure>) -> Option<Failure> {
        failures.into_iter().reduce(|first, next| first.ending(format!("; {next}")))
    }

    /// Appends to the end of the line: what to do, or what is left.
    pub fn ending(mut self, end: impl AsRef<str>) -> Failure {
        self.end.push_str(end.as_ref());
        self
    }

    /// Appends what the user must know of what was done nevertheless.
    pub fn and_notes<N: fmt::Display>(self, notes: impl IntoIterator<Item = N>) -> Failure {
        notes.into_iter().fold(self, |why, note| why.ending(format!("; {note}")))
    }

    /// The failure for another process of this program, whole and in one line.
    pub fn written(&self) -> String {
        serde_json::to_string(self).unwrap_or_else(|_| self.to_string())
    }

    /// Reads what another process has [written](Failure::written), or its words.
    pub fn read(line: &str) -> Failure {
        serde_json::from_str(line).unwrap_or_else(|_| line.into())
    }

    /// The exit code of a command that ends with this failure.
    pub fn code(&self) -> u8 {
        match self.kind {
            Kind::Usage => 2,
            _ => 1,
        }
    }
}

impl Failure {
    /// The errno, if the root cause is a failed system call.
    pub fn errno(&self) -> Option<i32> {
        match self.kind {
            Kind::System { errno } => Some(errno),
            _ => self.source.as_ref().and_then(|source| source.errno()),
        }
    }
}

/// What it is about.
impl Failure {
    /// Notes the device, unless the cause has noted one.
    pub fn of_device(self, name: &str) -> Failure {
        self.noting(|about| {
            about.device.get_or_insert_with(|| name.to_owned());
        })
    }

    /// Notes the disk, unless the cause has noted one.
    pub fn of_disk(self, path: impl AsRef<Path>) -> Failure {
        self.noting(|about| {
            about.disk.get_or_insert_with(|| path.as_ref().display().to_string());
        })
    }

    /// Notes the sector of the disk.
    pub fn at_sector(self, sector: u64) -> Failure {
        self.noting(|about| about.sector = Some(sector))
    }

    fn noting(mut self, note: impl FnOnce(&mut About)) -> Failure {
        let mut about = self.about();
        note(&mut about);
        self.about = Some(Box::new(about));
        self
    }

    /// What the failure or its causes are about.
    pub fn about(&self) -> About {
        match (&self.about, &self.source) {
            (Some(about), _) => (**about).clone(),
            (None, Some(source)) => source.about(),
            (None, None) => About::default(),
        }
    }

    /// The commands that the line advises, in its order.
    pub fn advice(&self) -> Vec<String> {
        about::commands_in(&self.to_string())
    }
}

/// Accessors for tests.
#[cfg(test)]
impl Failure {
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

impl Error for Failure {
    // The line contains its causes, so that one line says it all.
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        // A failure that has travelled as an I/O error comes out whole.
        error.downcast().unwrap_or_else(|error| {
            let kind = Kind::of(&error);
            let limit = match kind {
                Kind::System { errno } => limit_hint(errno),
                _ => None,
            };
            let end = limit.map_or_else(String::new, |limit| format!(": {limit}"));
            Failure { end, ..Failure::new(kind, error.to_string()) }
        })
    }
}

/// For functions that report I/O errors: with what failed, and the kind of the cause.
impl From<Failure> for io::Error {
    fn from(failure: Failure) -> io::Error {
        let kind = match failure.kind {
            Kind::System { errno } => io::Error::from_raw_os_error(errno).kind(),
            Kind::NotFound => io::ErrorKind::NotFound,
            Kind::NoAnswer => io::ErrorKind::TimedOut,
            _ => io::ErrorKind::Other,
        };
        io::Error::new(kind, failure)
    }
}

/// The failure of an invalid command line.
pub fn wrong_usage(message: impl Into<String>) -> Failure {
    Failure::new(Kind::Usage, message)
}

/// A message as one line without control characters.
pub fn one_line(message: &str) -> String {
    let mut line = String::with_capacity(message.len());
    for letter in message.chars() {
        match letter {
            '\n' => line.push(' '),
            letter if letter.is_control() => line.extend(letter.escape_default()),
            letter => line.push(letter),
        }
    }
    line
}

mod about;
mod targets;
#[cfg(test)]
mod tests;
