//! What identifies a snapshot's COW when it is opened again: its store, and its disk.

use dm_targets::snapshot::format::StoreId;
use serde::{Deserialize, Serialize};

/// Which store is on a COW, or will be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "Option<String>", from = "Option<String>")]
pub enum Which {
    /// The store with this id.
    Id(StoreId),
    /// A store that the kernel made.
    WithoutId,
    /// The COW could not be read, or its store dies with its server.
    #[default]
    Unknown,
}

impl Which {
    /// The word for it in a record.
    pub fn word(self) -> Option<String> {
        match self {
            Which::Id(id) => Some(id.to_string()),
            Which::WithoutId => Some("without id".to_owned()),
            Which::Unknown => None,
        }
    }
}

impl From<Which> for Option<String> {
    fn from(which: Which) -> Option<String> {
        which.word()
    }
}

impl From<Option<String>> for Which {
    fn from(word: Option<String>) -> Which {
        match word.as_deref() {
            None => Which::Unknown,
            Some(id) => StoreId::parse(id).map_or(Which::WithoutId, Which::Id),
        }
    }
}

impl Cow {
    /// Whether `other` is or may be on the same disk, or has the same store.
    pub fn is_near(&self, other: &Cow) -> bool {
        let same_store = matches!(self.store, Which::Id(_)) && self.store == other.store;
        same_store || self.names.iter().any(|name| other.names.contains(name))
    }

    /// Whether both are on one disk: it has one of the names, or the number in this boot.
    pub fn is_on_disk_of(&self, other: &Cow) -> bool {
        self.number != 0 && self.number == other.number
            || self.names.iter().any(|name| other.names.contains(name))
    }

    /// Whether both are or may be the same store on the same disk.
    pub fn may_be_here(&self, other: &Cow) -> bool {
        let is_copy = matches!(self.store, Which::Id(_)) && !self.is_on_disk_of(other);
        self.may_be(other) && !is_copy
    }

    /// Whether both are or may be the same store: another one may be at the same path by now.
    pub fn may_be(&self, other: &Cow) -> bool {
        match (self.store, other.store) {
            (Which::Id(one), Which::Id(other)) => one == other,
            _ => self.is_near(other),
        }
    }
}

/// A COW and its origin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cow {
    /// The store on the COW.
    pub store: Which,
    /// The names of the COW's disk, best first.
    pub names: Vec<String>,
    /// The disk's name in earlier versions.
    pub former: String,
    /// The disk's number in this boot; zero if it has none.
    pub number: u64,
    /// The lasting name of the origin; empty if it has none.
    pub origin: String,
}
