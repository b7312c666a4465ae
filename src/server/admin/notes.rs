//! Notes: what the user of a command must know beside its result.

/// Several notes as one.
pub(super) fn joined(notes: impl Iterator<Item = String>) -> Option<String> {
    notes.reduce(|all, next| format!("{all}; {next}"))
}
