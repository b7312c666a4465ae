//! What `doctor` finds, and what mends it.

use serde::Serialize;

use crate::failure::Failure;

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Weight {
    /// Something does not work, or data are in danger.
    Problem,
    /// Something could be better, or is as it is because somebody wants it.
    Advice,
}

impl Weight {
    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            Weight::Problem => "problem",
            Weight::Advice => "advice",
        }
    }
}

/// What mends a finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Mend {
    /// A command for a person: it decides something, or may lose something.
    ByHand(String),
    /// Load the driver.
    LoadDriver,
    /// Have a new server take over the device with this name.
    Recover(String),
    /// Bring up the device of the tab file with this name.
    Up(String),
    /// Delete what dead servers have left.
    Reap,
}

impl Mend {
    /// The command, as a person would type it.
    pub fn command(&self) -> String {
        match self {
            Mend::ByHand(command) => command.clone(),
            Mend::LoadDriver => "modprobe ublk_drv".to_owned(),
            Mend::Recover(name) => format!("ublk-dm recover {name}"),
            Mend::Up(name) => format!("ublk-dm up {name}"),
            Mend::Reap => "ublk-dm reap".to_owned(),
        }
    }
}

/// One thing that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Finding {
    pub weight: Weight,
    /// A word for what was looked at.
    pub check: &'static str,
    /// The device, disk or file, if it is about one.
    pub subject: Option<String>,
    pub what: String,
    pub mend: Option<Mend>,
}

impl Finding {
    /// A problem.
    pub fn problem(check: &'static str, what: impl Into<String>) -> Finding {
        let weight = Weight::Problem;
        Finding { weight, check, subject: None, what: what.into(), mend: None }
    }

    /// Advice.
    pub fn advice(check: &'static str, what: impl Into<String>) -> Finding {
        Finding { weight: Weight::Advice, ..Finding::problem(check, what) }
    }

    /// Something that could not be looked at.
    pub fn unseen(check: &'static str, why: &Failure) -> Finding {
        Finding::problem(check, why.to_string())
    }

    /// The same about a device, disk or file.
    pub fn of(self, subject: impl Into<String>) -> Finding {
        Finding { subject: Some(subject.into()), ..self }
    }

    /// The same with what mends it.
    pub fn mend(self, mend: Mend) -> Finding {
        Finding { mend: Some(mend), ..self }
    }

    /// The same with a command for a person.
    pub fn by_hand(self, command: impl Into<String>) -> Finding {
        self.mend(Mend::ByHand(command.into()))
    }

    /// Whether another finding is about the same.
    pub fn is(&self, other: &Finding) -> bool {
        (self.check, &self.subject) == (other.check, &other.subject)
    }

    /// Whether the text names it already. (A device called `a` is not what `a device` begins with.)
    fn begins_with(&self, subject: &str) -> bool {
        self.what.strip_prefix(subject).is_some_and(|rest| rest.starts_with(':'))
    }

    /// The finding for people.
    pub fn line(&self) -> String {
        match &self.subject {
            Some(subject) if !self.begins_with(subject) => format!("{subject}: {}", self.what),
            _ => self.what.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_names_what_it_is_about_once() {
        let line = |what: &str| Finding::advice("x", what).of("a").line();
        assert_eq!(line("a device is not up"), "a: a device is not up");
        assert_eq!(line("a: not up"), "a: not up");
        assert_eq!(Finding::advice("x", "no udev").line(), "no udev");
    }
}
