//! The legs that a dirty log names, in bytes of its header that the kernel keeps. Pure: no I/O.
//!
//! Rules kept here: the log's bits apply to the legs that it names, and to no other disk; and flags
//! are not believed that another program has kept without knowing them.

use super::format::{HEADER_BYTES, OLD_VERSION, VERSION, WORDS_BYTES, Words, is_log};
use super::leg_set::{LegSet, MAX_LEGS};
use crate::mutant::{self, Mutant};

/// The legs of a log and which of them missed a write, in bytes that the kernel preserves and does
/// not interpret.
///
/// ```text
/// byte 16     "dmlegs", format 1, number of legs
/// byte 24     one bit a leg: it missed something, or has not been recovered yet, and must not be
///             copied from (64 bits)
/// byte 32     the identity of each leg, nine times 64 bits, in the order of the bits
/// byte 104    a checksum of the 88 bytes before it (64 bits)
/// ```
///
/// A leg is known by its identity, whatever its index in the table. A log gets a record when a
/// mirror of this program first writes it, and keeps it from then on: a disk in the place of a leg,
/// or a leg that was removed and comes back, is distinguished from those that stayed. LVM's fresh
/// headers are all zeroes or all ones there, which is not a record.
///
/// The kernel keeps flags of which it knows nothing, and may copy to and from any leg. A log with
/// flags therefore has the format's old version, which the kernel accepts and replaces by the
/// present one when it uses the log, and a mark that this was so:
///
/// ```text
/// byte 136    "dmuser", format 1, zero
/// byte 144    a checksum of the record (64 bits), which an earlier version of this program changes
///             with the flags: they are its own then
/// ```
///
/// The old version is the same as the present one on little-endian machines only; on others there
/// is no such mark.
pub struct LegFlags;

/// No identity: the leg is known by its index alone.
pub const NO_IDENTITY: u64 = 0;

/// The identity for a description of a leg: its disk, by a stable name, and the leg's offset on it.
pub fn identity_of(text: &str) -> u64 {
    checksum(text.as_bytes()).max(NO_IDENTITY + 1)
}

/// FNV-1a: detects garbage and torn writes, not an adversary.
pub(super) fn checksum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xCBF2_9CE4_8422_2325, |sum, byte| {
        (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01B3)
    })
}

/// A 64-bit number in a record.
pub(super) fn number(record: &[u8], at: usize) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&record[at..at + 8]);
    u64::from_le_bytes(bytes)
}

impl LegFlags {
    const START: usize = WORDS_BYTES;
    const IDENTITIES: usize = 16;
    const CONTENT: usize = Self::IDENTITIES + 8 * MAX_LEGS;
    /// Bytes of the record.
    pub const BYTES: usize = Self::CONTENT + 8;
    /// The byte of the header behind the record.
    pub const END: usize = Self::START + Self::BYTES;
    const MAGIC: [u8; 7] = *b"dmlegs\x01";
    /// Behind the size of a region.
    const MARK: usize = Self::END + 24;
    const MARK_SUM: usize = Self::MARK + 8;
    /// The byte of the header behind the mark.
    pub const MARK_END: usize = Self::MARK_SUM + 8;
    const MARK_MAGIC: [u8; 8] = *b"dmuser\x01\0";
    /// The version field of a header.
    const VERSION: std::ops::Range<usize> = 4..8;

    /// Whether another program has used the log since it got flags, and the flags may be wrong.
    pub fn are_doubtful(header: &[u8; HEADER_BYTES]) -> bool {
        Record::read(header).is_some_and(|record| record.flags != 0) && Self::used_by_other(header)
    }

    fn used_by_other(header: &[u8; HEADER_BYTES]) -> bool {
        let mut first = [0; WORDS_BYTES];
        first.copy_from_slice(&header[..WORDS_BYTES]);
        is_log(header)
            && Words::decode(&first).version != OLD_VERSION
            && header[Self::MARK..].starts_with(&Self::MARK_MAGIC)
            && number(header, Self::MARK_SUM) == checksum(&header[Self::START..Self::END])
            && !mutant::is(Mutant::OtherUserUnseen)
    }

    /// Makes another program's use of a log with flags visible; after any other change of the
    /// header.
    pub fn sign(header: &mut [u8; HEADER_BYTES]) {
        let flags = Record::read(header).map_or(0, |record| record.flags);
        let signs = flags != 0 && cfg!(target_endian = "little");
        let is_ours = |version: &u32| header[Self::VERSION] == version.to_le_bytes();
        if ![OLD_VERSION, VERSION].iter().any(is_ours) {
            return;
        }
        let version = if signs { OLD_VERSION } else { VERSION };
        header[Self::VERSION].copy_from_slice(&version.to_le_bytes());
        if signs {
            let sum = checksum(&header[Self::START..Self::END]);
            header[Self::MARK..Self::MARK_SUM].copy_from_slice(&Self::MARK_MAGIC);
            header[Self::MARK_SUM..Self::MARK_END].copy_from_slice(&sum.to_le_bytes());
        } else if header[Self::MARK..].starts_with(&Self::MARK_MAGIC) {
            header[Self::MARK..Self::MARK_END].fill(0);
        }
    }

    /// The legs with these identities that must not be copied from, as bits; `None` if there is no
    /// record, or if it has all of them as healthy.
    ///
    /// A leg that is not in the record counts as one that missed a write. Legs without identities
    /// are matched by index: other disks are not.
    pub fn missed(header: &[u8; HEADER_BYTES], identities: &[u64]) -> Option<u16> {
        let record = Record::decode(header)?;
        if record.is_by_index(identities) {
            return (record.flags != 0).then_some(record.flags);
        }
        let missed = |id: &u64| record.place(*id).is_none_or(|leg| record.flags >> leg & 1 == 1);
        let now = identities
            .iter()
            .enumerate()
            .fold(0, |now, (leg, id)| now | u16::from(missed(id)) << leg);
        (now != 0).then_some(now)
    }

    /// The record without a list of legs: for each leg that it names, whether the leg missed a
    /// write. `None` if there is no record.
    pub fn recorded(header: &[u8; HEADER_BYTES]) -> Option<Vec<bool>> {
        let record = Record::decode(header)?;
        Some((0..record.count).map(|leg| record.flags >> leg & 1 == 1).collect())
    }

    /// Whether the record has a leg that must not be copied from, so that it says of each whether
    /// it may be.
    pub fn tells_legs_apart(header: &[u8; HEADER_BYTES]) -> bool {
        Record::decode(header).is_some_and(|record| record.flags != 0)
    }

    /// Whether legs are missing from the record. The log's bits do not apply to them.
    pub fn names_foreign_legs(header: &[u8; HEADER_BYTES], identities: &[u64]) -> bool {
        let Some(record) = Record::decode(header) else { return false };
        !record.is_by_index(identities) && identities.iter().any(|id| record.place(*id).is_none())
    }

    /// For legs of which the record names some and not all: the first that it names as one that has
    /// missed nothing. `None` if the log's bits apply to all of these legs. `renamed` as in
    /// [`LegFlags::rename`].
    pub fn source_beside_foreign(
        header: &[u8; HEADER_BYTES],
        renamed: &[(u64, u64)],
        identities: &[u64],
    ) -> Option<Option<usize>> {
        let mut today = Box::new(*header);
        Self::rename(&mut today, renamed, identities);
        Self::names_foreign_legs(&today, identities)
            .then(|| Self::sources(header, renamed, identities).iter().next())
    }

    /// The legs with these identities that a record has as up to date; none if there is no record.
    /// `renamed` as in [`LegFlags::rename`].
    pub fn sources(
        header: &[u8; HEADER_BYTES],
        renamed: &[(u64, u64)],
        identities: &[u64],
    ) -> LegSet {
        let mut header = Box::new(*header);
        Self::rename(&mut header, renamed, identities);
        if Record::decode(&header).is_none() {
            return LegSet::default();
        }
        let missed = LegSet(Self::missed(&header, identities).unwrap_or(0));
        LegSet::first(identities.len()).without(missed)
    }

    /// Replaces the identities of an earlier version in a record by those of this version, which
    /// `renamed` has second, if the record has none of the latter: it was written by that version.
    /// A record that has some is not changed: what it does not know is no leg of it.
    pub fn rename(header: &mut [u8; HEADER_BYTES], renamed: &[(u64, u64)], identities: &[u64]) {
        // What is doubtful stays so.
        let record = Record::read(header).filter(|_| !Self::are_doubtful(header));
        let Some(Record { count, flags, identities: mut known }) = record else { return };
        let known = &mut known[..count];
        if known.iter().any(|id| *id != NO_IDENTITY && identities.contains(id)) {
            return;
        }
        for id in known.iter_mut() {
            let today = renamed.iter().find(|(former, _)| former == id);
            *id = today.map_or(*id, |(_, today)| *today);
        }
        LegFlags::name(header, known, flags);
    }

    /// Puts the flags of legs with these identities into a header. A header without a record gets
    /// none as long as there are no flags.
    pub fn encode(header: &mut [u8; HEADER_BYTES], identities: &[u64], flags: u16) {
        let there = header[Self::START..].starts_with(&Self::MAGIC);
        if flags != 0 || there && !mutant::is(Mutant::LegsNotNamed) {
            Self::name(header, identities, flags);
        } else if there {
            header[Self::START..Self::START + Self::BYTES].fill(0);
        }
    }

    /// Like [`LegFlags::encode`], but always writes a record.
    pub fn name(header: &mut [u8; HEADER_BYTES], identities: &[u64], flags: u16) {
        let record = &mut header[Self::START..Self::START + Self::BYTES];
        record.fill(0);
        record[..7].copy_from_slice(&Self::MAGIC);
        record[7] = u8::try_from(identities.len()).unwrap_or(u8::MAX);
        record[8..16].copy_from_slice(&u64::from(flags).to_le_bytes());
        for (place, id) in
            record[Self::IDENTITIES..Self::CONTENT].chunks_exact_mut(8).zip(identities)
        {
            place.copy_from_slice(&id.to_le_bytes());
        }
        let sum = checksum(&record[..Self::CONTENT]);
        record[Self::CONTENT..].copy_from_slice(&sum.to_le_bytes());
    }
}

/// The content of a trusted record.
struct Record {
    count: usize,
    flags: u16,
    identities: [u64; MAX_LEGS],
}

impl Record {
    /// The record, with the flags that are believed.
    fn decode(header: &[u8; HEADER_BYTES]) -> Option<Record> {
        let flags_count = !LegFlags::used_by_other(header);
        let record = Record::read(header)?;
        Some(Record { flags: if flags_count { record.flags } else { 0 }, ..record })
    }

    fn read(header: &[u8; HEADER_BYTES]) -> Option<Record> {
        let record = &header[LegFlags::START..LegFlags::START + LegFlags::BYTES];
        let count = usize::from(record[7]);
        let flags = u16::try_from(number(record, 8)).ok()?;
        let trusted = record[..7] == LegFlags::MAGIC
            && (2..=MAX_LEGS).contains(&count)
            && number(record, LegFlags::CONTENT) == checksum(&record[..LegFlags::CONTENT]);
        // A log that was left for another table has no healthy leg.
        let trusted = trusted && u32::from(flags) < 1 << count;
        let identities = std::array::from_fn(|leg| number(record, LegFlags::IDENTITIES + 8 * leg));
        trusted.then_some(Record { count, flags, identities })
    }

    /// Whether the record, or who asks, knows no identities, so that the indices count.
    fn is_by_index(&self, identities: &[u64]) -> bool {
        let nameless = |ids: &[u64]| ids.iter().all(|id| *id == NO_IDENTITY);
        self.count == identities.len()
            && (nameless(identities) || nameless(&self.identities[..self.count]))
    }

    /// A leg's index in the record.
    fn place(&self, identity: u64) -> Option<usize> {
        self.identities[..self.count]
            .iter()
            .position(|known| *known == identity && identity != NO_IDENTITY)
    }
}
