//! The identity of a store and of its origin, in the bytes of the header's block that the kernel
//! does not use. Pure.
//!
//! ```text
//! byte 16   "ublkdmI1"
//! byte 24   the store's id, 16 bytes, never the same twice
//! byte 40   the origin's size in sectors when the store was made
//! byte 48   bytes of the origin's name, 16 bits
//! byte 50   1 while a part of the snapshot has been merged into the origin; 5 bytes of zeroes
//! byte 56   the origin's name, zeroes behind it
//! byte 504  a hash of bytes 16 to 503
//! ```
//!
//! A store that the kernel has made has no identity. While it is merged, its header has "ublkdmM1"
//! at byte 16 instead.
//!
//! The kernel reads the first 16 bytes only, never writes the header of a store that it opens, and
//! writes zeroes here when it creates a store or marks one invalid. So a store made by the kernel
//! has no identity, and an identity found here is correct.

use std::fmt;

use super::header::MAGIC;

/// Bytes of a header that are read and written: the smallest block.
pub const IDENTITY_END: usize = 512;
const IDENTITY_MAGIC: &[u8; 8] = b"ublkdmI1";
const MAGIC_AT: usize = 16;
/// In the place of an identity: a merge has begun.
const MERGING_MAGIC: [u8; 8] = *b"ublkdmM1";
const ID_AT: usize = 24;
const SIZE_AT: usize = 40;
const NAME_LEN_AT: usize = 48;
const MERGING_AT: usize = 50;
const NAME_AT: usize = 56;
const HASH_AT: usize = 504;
/// Bytes of an origin's name that are kept; a longer name keeps its end, which tells paths apart.
const NAME_BYTES: usize = HASH_AT - NAME_AT;
/// Prefix of the name of an origin in a regular file; its birth and number, and its path, follow.
const FILE: &str = "file ";
/// Former prefix of the name of an origin on a loop device, which now has its file's name; its
/// start in the file was not always included.
const LOOP: &str = "loop/backing_file ";

/// Distinguishes a store from all others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreId(pub [u8; 16]);

impl fmt::Display for StoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl StoreId {
    /// Parses an id in its displayed form.
    pub fn parse(text: &str) -> Option<StoreId> {
        let digits = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let number = digits.then(|| u128::from_str_radix(text, 16).ok())??;
        Some(StoreId(number.to_be_bytes()))
    }
}

/// The identity in a store's header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The store's id.
    pub store: StoreId,
    /// The origin's size in sectors when the store was made.
    pub origin_sectors: u64,
    /// The origin's persistent name; empty if it has none.
    pub origin: String,
    /// A merge of the snapshot into its origin has begun and not ended.
    pub merging: bool,
}

fn hash(bytes: &[u8]) -> u64 {
    // FNV-1a: distinguishes an identity from other bytes; it is no protection against forgery.
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// The end of a name that fits, from the start of a character.
fn kept(name: &str) -> &str {
    let from = name.len().saturating_sub(NAME_BYTES);
    let from = (from..=name.len()).find(|at| name.is_char_boundary(*at)).unwrap_or(name.len());
    &name[from..]
}

/// Whether a header without an identity says that a merge has begun.
pub fn is_marked(block: &[u8; IDENTITY_END]) -> bool {
    block[..4] == MAGIC.to_le_bytes() && block[MAGIC_AT..MAGIC_AT + 8] == MERGING_MAGIC
}

/// Writes into a header without an identity that a merge has begun.
pub fn mark(block: &mut [u8; IDENTITY_END]) {
    block[MAGIC_AT..MAGIC_AT + 8].copy_from_slice(&MERGING_MAGIC);
}

impl Identity {
    /// An identity; a name that is too long keeps its end.
    pub fn new(store: StoreId, origin_sectors: u64, origin: &str) -> Identity {
        Identity { store, origin_sectors, origin: kept(origin).to_owned(), merging: false }
    }

    /// The identity in a header's block; `None` if it has none.
    pub fn decode(block: &[u8]) -> Option<Identity> {
        let field = |at: usize, len: usize| block.get(at..at + len);
        let number = |at: usize| {
            field(at, 8).and_then(|bytes| bytes.try_into().ok()).map(u64::from_le_bytes)
        };
        let is_store = field(0, 4)? == MAGIC.to_le_bytes() && field(MAGIC_AT, 8)? == IDENTITY_MAGIC;
        if !is_store || number(HASH_AT)? != hash(field(MAGIC_AT, HASH_AT - MAGIC_AT)?) {
            return None;
        }
        let len = usize::from(u16::from_le_bytes(field(NAME_LEN_AT, 2)?.try_into().ok()?));
        let name = field(NAME_AT, len.min(NAME_BYTES))?;
        let store = StoreId(field(ID_AT, 16)?.try_into().ok()?);
        let origin = String::from_utf8_lossy(name).into_owned();
        let merging = block[MERGING_AT] & 1 == 1;
        Some(Identity { store, origin_sectors: number(SIZE_AT)?, origin, merging })
    }

    /// Writes the identity into a header's block.
    pub fn encode(&self, block: &mut [u8; IDENTITY_END]) {
        block[MAGIC_AT..].fill(0);
        block[MAGIC_AT..ID_AT].copy_from_slice(IDENTITY_MAGIC);
        block[ID_AT..SIZE_AT].copy_from_slice(&self.store.0);
        block[SIZE_AT..NAME_LEN_AT].copy_from_slice(&self.origin_sectors.to_le_bytes());
        let name = kept(&self.origin).as_bytes();
        let len = u16::try_from(name.len()).unwrap_or(0);
        block[NAME_LEN_AT..NAME_LEN_AT + 2].copy_from_slice(&len.to_le_bytes());
        block[MERGING_AT] = u8::from(self.merging);
        block[NAME_AT..NAME_AT + name.len()].copy_from_slice(name);
        let hash = hash(&block[MAGIC_AT..HASH_AT]);
        block[HASH_AT..].copy_from_slice(&hash.to_le_bytes());
    }

    /// Whether the store was made for an origin of that name, as far as both names are known. A
    /// renamed file still has its birth and number, and a restored file its path.
    pub fn is_for(&self, origin: &str) -> bool {
        let origin = kept(origin);
        if self.origin.is_empty() || origin.is_empty() || self.origin == origin {
            return true;
        }
        let loop_file = self
            .origin
            .strip_prefix(LOOP)
            .map(|name| name.split_once(" start ").map_or(name, |(file, _)| file));
        match (birth_and_path(&self.origin), birth_and_path(origin)) {
            (None, Some((_, path))) => loop_file
                .is_some_and(|file| path.split_once(" +").map_or(path, |(path, _)| path) == file),
            (Some((birth, path)), Some((other_birth, other_path))) => {
                path == other_path || birth == other_birth && !birth.is_empty()
            }
            _ => false,
        }
    }

    /// The origin's name for messages.
    pub fn origin_text(&self) -> &str {
        match birth_and_path(&self.origin) {
            Some((_, path)) => path,
            None if self.origin.is_empty() => "unknown",
            None => &self.origin,
        }
    }
}

/// What distinguishes a file from others on its file system (empty if unknown), and its path;
/// `None` for another disk.
pub fn birth_and_path(name: &str) -> Option<(&str, &str)> {
    name.strip_prefix(FILE)?.split_once(' ')
}

/// The name of an origin in a regular file: what distinguishes it on its file system (empty if
/// nothing does), and its path.
pub fn file_name(birth: &str, path: &str) -> String {
    format!("{FILE}{birth} {path}")
}

#[cfg(test)]
mod tests {
    use super::super::Header;
    use super::*;
    use crate::units::ChunkSize;

    fn block(identity: &Identity) -> [u8; IDENTITY_END] {
        let mut block = [0; IDENTITY_END];
        block[..16]
            .copy_from_slice(&Header::new(ChunkSize::from_sectors(32).unwrap(), true).encode());
        identity.encode(&mut block);
        block
    }

    #[test]
    fn it_comes_back_as_it_was_and_the_header_is_untouched() {
        for name in ["", "wwid eui.0025", "file 12-34 /a b/c", &"/é".repeat(400)] {
            let identity = Identity::new(StoreId([7; 16]), 4096, name);
            let merging = Identity { merging: true, ..identity.clone() };
            assert_eq!(Identity::decode(&block(&merging)), Some(merging));
            let bytes = block(&identity);
            assert_eq!(Identity::decode(&bytes), Some(identity.clone()));
            assert_eq!(bytes[..4], MAGIC.to_le_bytes());
            assert!(identity.is_for(name));
        }
    }

    #[test]
    fn what_is_damaged_or_the_kernels_has_none() {
        let bytes = block(&Identity::new(StoreId([7; 16]), 4096, "serial 1"));
        for at in (0..4).chain(16..IDENTITY_END) {
            let mut damaged = bytes;
            damaged[at] ^= 1;
            assert_eq!(Identity::decode(&damaged), None, "byte {at}");
        }
        assert_eq!(Identity::decode(&bytes[..511]), None);
        assert_eq!(Identity::decode(&[0; IDENTITY_END]), None);
    }

    #[test]
    fn a_loop_device_was_known_by_its_path() {
        let made_for = |name: &str| Identity::new(StoreId([1; 16]), 8, name);
        for name in ["file 5-12 /a b/disk", "file  /a b/disk", "file 5-12+512 /a b/disk +512"] {
            assert!(made_for("loop/backing_file /a b/disk").is_for(name), "{name}");
            assert!(made_for("loop/backing_file /a b/disk start 1").is_for(name), "{name}");
            assert!(!made_for("loop/backing_file /a b").is_for(name), "{name}");
        }
        assert!(!made_for("loop/backing_file /a").is_for("serial 1"));
    }

    #[test]
    fn an_origin_is_known_by_its_name_and_a_file_by_its_birth_or_path() {
        let made_for = |name: &str| Identity::new(StoreId([1; 16]), 8, name);
        assert!(!made_for("serial 1").is_for("serial 2"));
        assert!(made_for("serial 1").is_for("") && made_for("").is_for("serial 2"));
        let file = made_for(&file_name("5-12", "/a/disk"));
        assert!(file.is_for(&file_name("5-12", "/b/disk")), "renamed");
        assert!(file.is_for(&file_name("6-13", "/a/disk")), "restored");
        assert!(!file.is_for(&file_name("6-13", "/b/disk")));
        assert!(
            !made_for(&file_name("", "/a")).is_for(&file_name("", "/b")),
            "nothing known but the path"
        );
        assert_eq!((file.origin_text(), made_for("").origin_text()), ("/a/disk", "unknown"));
    }
}
