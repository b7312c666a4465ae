//! What is needed to open a store, what is in its header, and whose it is.
//!
//! Rule kept here: a store is opened only with the origin that it was made for.

use std::rc::Rc;

use super::format::identity::{self, IDENTITY_END};
use super::format::{self, Found, HEADER_BYTES, Identity, StoreId};
use super::store_error::StoreError;
use crate::disk::{Buffer, Disk, Host};
use crate::exec::Executor;
use crate::mutant::{self, Mutant};
use crate::units::{ChunkSize, Sector, Sectors};

/// What is needed to open a store.
pub struct OpenStore<'a> {
    /// Runs the store's I/O.
    pub executor: &'a Executor,
    /// Lends its buffers.
    pub host: &'a Rc<dyn Host>,
    /// The origin: its size bounds the records, its block size the chunk size.
    pub origin: &'a Disk,
    /// The COW device.
    pub cow: &'a Disk,
    /// The chunk size of a new store; a store on disk has its own.
    pub chunk_size: Option<ChunkSize>,
    /// Whether records are kept on disk.
    pub persistent: bool,
    /// Treat a COW that holds something else as empty.
    pub overwrite: bool,
    /// The identity of a new store and its owner; without it a new store has no identity, like one
    /// made by the kernel.
    pub ownership: Option<&'a Ownership>,
}

/// The identity of a new store, and the origin that stores must have been made for.
#[derive(Clone, Debug)]
pub struct Ownership {
    /// The id of a new store.
    pub store: StoreId,
    /// The origin's persistent name; empty if it has none.
    pub origin: String,
    /// A store that was made for another origin becomes this one's.
    pub adopt: bool,
}

/// The identity that the store has or will have, and whether its header must still be updated; an
/// error if it is another origin's.
pub(super) fn whose(
    open: &OpenStore<'_>,
    found: Found,
    identity: Option<Identity>,
) -> Result<(Option<Identity>, bool), StoreError> {
    let Some(ownership) = open.ownership else { return Ok((identity, false)) };
    let Ownership { store, origin, adopt } = ownership;
    let ours = |store| Identity::new(store, open.origin.size().0, origin);
    match (found, identity) {
        (Found::Empty, _) => Ok((Some(ours(*store)), false)),
        (Found::Store { .. }, Some(identity)) if identity.is_for(origin) => {
            Ok((Some(identity), false))
        }
        (Found::Store { .. }, Some(identity)) if mutant::is(Mutant::OtherOriginTaken) => {
            Ok((Some(identity), false))
        }
        (Found::Store { .. }, Some(identity)) if *adopt => Ok((Some(ours(identity.store)), true)),
        (Found::Store { .. }, Some(identity)) => Err(StoreError::OtherOrigin {
            disk: open.cow.name().clone(),
            made_for: identity.origin_text().into(),
            origin: open.origin.name().clone(),
        }),
        (Found::Store { .. }, None) => Ok((None, false)),
    }
}

/// What is in the header: the store, its identity, and whether it has no identity and is marked as
/// one that is merged.
pub(super) async fn read_header(
    open: &OpenStore<'_>,
) -> Result<(Found, Option<Identity>, bool), StoreError> {
    let block = open.cow.limits().logical_block_bytes;
    let needed = Sectors::from_bytes(u64::from(block));
    if open.cow.size() < needed {
        return Err(StoreError::TooSmall {
            disk: open.cow.name().clone(),
            size: open.cow.size(),
            needed,
        });
    }
    let buffer = Buffer::acquire(open.host, block).ok_or(StoreError::NoMemory)?;
    open.cow.read(Sector(0), needed, buffer.at(0)).await?;
    let (mut bytes, mut header) = ([0; IDENTITY_END], [0; HEADER_BYTES]);
    buffer.read(0, &mut bytes);
    header.copy_from_slice(&bytes[..HEADER_BYTES]);
    let found = format::examine(&header)
        .map_err(|error| StoreError::Header(open.cow.name().clone(), error))?;
    Ok((found, Identity::decode(&bytes), identity::is_marked(&bytes)))
}
