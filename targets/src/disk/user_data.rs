//! How a request is named to whoever is told what it waits for.

/// Identifies an operation to whoever is told its completion. Bits 48 to 55 are the *part*: which
/// operation of the request it is, for a target that has several in flight. All other bits are the
/// sender's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UserData(pub u64);

impl UserData {
    const PART_SHIFT: u32 = 48;
    const PART_BITS: u64 = 0xff << UserData::PART_SHIFT;

    /// The same request's data for another of its operations.
    #[inline]
    pub fn with_part(self, part: u8) -> UserData {
        UserData(self.0 & !UserData::PART_BITS | u64::from(part) << UserData::PART_SHIFT)
    }

    /// Which operation of the request it is.
    #[inline]
    pub fn part(self) -> u8 {
        self.0.to_le_bytes()[6]
    }
}
