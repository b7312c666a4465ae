//! By what the disks of a device are known again when its next server finds something at their
//! paths.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::cow::Which;

/// A disk that a device is made of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownDisk {
    /// What it is called for good; empty if nothing lasts.
    pub name: String,
    /// Its number in this boot; zero if it has none.
    pub number: u64,
    /// The store on it, if it is a COW.
    #[serde(default)]
    pub store: Which,
}

/// The disks of a device by their words in its table. One that a server of an earlier version has
/// opened is missing.
pub type KnownDisks = BTreeMap<String, KnownDisk>;
