//! What is known of a mirror's legs when none of them can be the source, for the user who has to
//! name one. Pure.

use std::fmt;
use std::rc::Rc;

use super::leg_set::LegSet;
use super::leg_state::{FoundLog, LegState};

/// What the record and the log say of a mirror's legs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownOfLegs {
    /// Each leg's disk, and whether the record has it as a source, if it has it.
    legs: Vec<(Rc<str>, Option<bool>)>,
    /// The disks of other legs that the record has as sources, separated by commas.
    others: String,
    /// What the log on a disk says, if there is one and it was read.
    log: Option<Told>,
}

/// What a log on a disk says of the legs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    /// It was no mirror's log.
    Fresh,
    /// Another program has used it while it had legs as stale.
    Doubtful,
    /// It has these legs as stale, or does not have them.
    Stale(LegSet),
}

impl KnownOfLegs {
    /// What is known of the legs with these identities and disks.
    pub(super) fn of(
        legs: impl Iterator<Item = (u64, Rc<str>)>,
        record: Option<&LegState>,
        log: Option<FoundLog>,
    ) -> KnownOfLegs {
        let mut others = record.cloned().unwrap_or_default();
        let legs = legs.map(|(id, disk)| {
            let known = others.legs.iter().find(|leg| leg.identity == id).map(|leg| leg.source);
            others.legs.retain(|leg| leg.identity != id);
            (disk, known)
        });
        let legs = legs.collect();
        let told = |log: FoundLog| match (log.fresh, log.doubtful) {
            (true, _) => Told::Fresh,
            (_, true) => Told::Doubtful,
            _ => Told::Stale(log.stale),
        };
        KnownOfLegs { legs, others: others.names(true), log: log.map(told) }
    }
}

impl fmt::Display for KnownOfLegs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let has_record = !self.others.is_empty() || self.legs.iter().any(|(_, it)| it.is_some());
        f.write_str("the record ")?;
        if has_record {
            let words = |known: Option<bool>| match known {
                Some(true) => "is up to date",
                Some(false) => "is stale",
                None => "is unknown",
            };
            let legs = self.legs.iter().map(|(disk, known)| format!("{disk} {}", words(*known)));
            write!(f, "says: {}", legs.collect::<Vec<_>>().join(", "))?;
            if !self.others.is_empty() {
                write!(f, ", and up to date is {}", self.others)?;
            }
        } else {
            f.write_str("says nothing of them")?;
        }
        match self.log {
            None => Ok(()),
            Some(Told::Fresh) => f.write_str("; the log is new"),
            Some(Told::Doubtful) => f.write_str(
                "; the log had stale legs when another program, such as the kernel, used it, which \
                 does not keep account of them",
            ),
            Some(Told::Stale(stale)) => {
                let word = |leg| if stale.has(leg) { "stale or unknown" } else { "up to date" };
                let legs = self.legs.iter().enumerate();
                let legs = legs.map(|(leg, (disk, _))| format!("{disk} is {}", word(leg)));
                write!(f, "; the log says: {}", legs.collect::<Vec<_>>().join(", "))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::leg_state::KnownLeg;
    use super::*;

    fn told(record: &[(u64, bool)], log: Option<FoundLog>) -> String {
        let known = |&(identity, source): &(u64, bool)| KnownLeg {
            identity,
            number: 0,
            name: format!("/{identity}"),
            source,
        };
        let record = LegState { legs: record.iter().map(known).collect(), ..LegState::default() };
        let legs = [1, 2].map(|id| (id, Rc::from(format!("/{id}"))));
        KnownOfLegs::of(legs.into_iter(), Some(&record), log).to_string()
    }

    #[test]
    fn each_leg_is_named_with_what_is_known_of_it() {
        let log = |fresh, stale| {
            Some(FoundLog { identity: 5, fresh, doubtful: false, stale: LegSet(stale) })
        };
        for (record, log, said) in [
            (&[][..], None, "the record says nothing of them"),
            (&[(1, false)], None, "the record says: /1 is stale, /2 is unknown"),
            (
                &[(1, false), (3, true)],
                log(true, 0),
                "the record says: /1 is stale, /2 is unknown, and up to date is /3; the log is new",
            ),
            (
                &[(2, true)],
                log(false, 0b10),
                "the record says: /1 is unknown, /2 is up to date; the log says: /1 is up to date, \
                 /2 is stale or unknown",
            ),
        ] {
            assert_eq!(told(record, log), said);
        }
    }
}
