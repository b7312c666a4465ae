//! What a `resume` says of its device: what it has led to besides, and what is left if it failed.

use crate::failure::Reason;
use crate::protocol::Reply;

/// What it has led to that a loaded table was put in place.
#[derive(Default)]
pub(super) struct Put {
    /// What the old table has lost.
    pub(super) lost: Option<Reason>,
    /// What the device's user should know; it is logged already.
    pub(super) notes: Vec<String>,
}

impl Put {
    /// Only this was lost.
    pub(super) fn losing(lost: Option<Reason>) -> Put {
        Put { lost, notes: Vec::new() }
    }

    /// The answer to the command, which has put the table in place.
    ///
    /// # Errors
    /// Something was lost.
    pub(super) fn reply(self, id: u32) -> Result<Reply, Reason> {
        let Put { lost, notes } = self;
        match lost {
            Some(lost) => {
                Err(lost.but(format!("/dev/ublkb{id}: the new table is in place")).and_notes(notes))
            }
            None if notes.is_empty() => Ok(Reply::Done),
            None => Ok(Reply::Noted { note: notes.join("; ") }),
        }
    }
}

/// Nothing has changed.
pub(super) const STAYS_LOADED: &str = "; the table stays loaded, and the device is as it was";

/// The table is in place, and the device is not on record as running.
pub(super) fn runs_unrecorded(id: u32, why: Reason) -> Reason {
    why.context(format!("/dev/ublkb{id}: it runs, but the next server will find it suspended"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_resume_leads_to_is_said() {
        assert!(matches!(Put::default().reply(0), Ok(Reply::Done)));
        let notes = || vec!["the snapshot is lost".to_owned(), "its merge as well".to_owned()];
        let told = Put { lost: None, notes: notes() }.reply(0);
        let Ok(Reply::Noted { note }) = told else { panic!("not told: {told:?}") };
        assert_eq!(note, "the snapshot is lost; its merge as well");
        let why = Put { lost: Some("a write is lost".into()), notes: notes() }.reply(0);
        let line = why.map(drop).unwrap_err().to_string();
        assert!(line.starts_with("/dev/ublkb0: the new table is in place, but a write"), "{line}");
        assert!(line.ends_with("; the snapshot is lost; its merge as well"), "{line}");
    }
}
