//! Which tag a completion is of: the user data of a data thread.
//!
//! A *line* is a device's place in the table of those that are served. Bits 0 to 15 of the data are
//! the tag, 16 to 31 the queue, 32 to 47 the line, 48 to 55 the part of the request
//! ([`UserData::part`]); bit 62 tells a command of the tag from an operation of its request.

use dm_targets::disk::UserData;

use crate::ring::TOLD;

const QUEUE_SHIFT: u32 = 16;
const LINE_SHIFT: u32 = 32;
const COMMAND: u64 = 1 << 62;

/// A tag, as user data names it.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub(super) line: u16,
    pub(super) queue: u16,
    pub(super) tag: u16,
}

impl Place {
    /// The data of the operations of its requests.
    #[inline]
    pub(super) fn operation(self) -> UserData {
        let (queue, line) = (u64::from(self.queue), u64::from(self.line));
        UserData(TOLD | line << LINE_SHIFT | queue << QUEUE_SHIFT | u64::from(self.tag))
    }

    /// The data of its commands.
    #[inline]
    pub(super) fn command(self) -> UserData {
        UserData(self.operation().0 | COMMAND)
    }

    /// The tag of a completion, and whether it is one of a command.
    #[inline]
    pub(super) fn of(data: UserData) -> (Place, bool) {
        // Each is the 16 bits that its name says.
        #[allow(clippy::cast_possible_truncation)]
        let part = |shift| (data.0 >> shift) as u16;
        let (line, queue, tag) = (part(LINE_SHIFT), part(QUEUE_SHIFT), part(0));
        (Place { line, queue, tag }, data.0 & COMMAND != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_data_names_the_tag_and_the_kind() {
        let place = Place { line: 0xfedc, queue: 0x1234, tag: 0xabcd };
        for (data, command) in [(place.operation(), false), (place.command(), true)] {
            let (found, is_command) = Place::of(data.with_part(7));
            assert_eq!((found.line, found.queue, found.tag), (0xfedc, 0x1234, 0xabcd));
            assert_eq!((is_command, data.with_part(7).part()), (command, 7));
            assert!(data.0 >= TOLD && data.0 != u64::MAX, "not a slot, nor the wake-up");
        }
    }
}
