//! A snapshot as the data thread opens it: its store is read and checked, nothing is written.

use std::rc::Rc;

use dm_targets::device::{Events, OpenTarget};
use dm_targets::snapshot::Event;
use dm_targets::snapshot::exceptions::Health;
use dm_targets::snapshot::journal::Journal;
use dm_targets::snapshot::losses::LossRecord;
use dm_targets::snapshot::store::Ownership;
use dm_targets::snapshot::table::{Snapshot as Table, StoreType};
use dm_targets::snapshot::target::{OnFull, Options, Parts, Snapshot};
use dm_targets::target::Target;
use dm_targets::units::{ChunkSize, Sectors};

use super::continued::{self, Store};
use super::merge::{self, OpenMerge, is_invalid};
use super::wipe::zero_start;
use crate::failure::Reason;
use crate::protocol::MergeOptions;
use crate::server::admin::machine::Thread;
use crate::server::admin::missed::Kept;
use crate::server::admin::mutant::{self, Mutant};
use crate::server::events::tell;
use crate::storage::DiskId;

/// An origin was opened, but no target keeps it open.
pub(super) const NO_ORIGIN: &str = "the family has no origin";

/// What the data thread knows of a snapshot that it has opened.
pub(super) struct Found {
    pub(super) chunk: ChunkSize,
    pub(super) len: Sectors,
    /// The store is made when the target is activated.
    pub(super) is_new: bool,
    /// The store was on the COW already, and is valid.
    continued: Option<Store>,
    /// What the store keeps of before, if it may have missed changes of the origin.
    pub(super) kept: Option<Kept>,
}

impl Found {
    /// What the user of a new device must know of its store. `expected`: that it is there is known.
    pub(super) fn note(
        &self,
        snapshot: &Table,
        block_bytes: u32,
        expected: bool,
    ) -> Option<String> {
        let place = (snapshot.cow.as_str(), block_bytes);
        if expected && snapshot.chunk_size.is_none_or(|wanted| wanted == self.chunk) {
            return None;
        }
        let note = |store| continued::note(place, store, self.chunk, snapshot.chunk_size);
        self.continued.map(note)
    }
}

/// How a snapshot is opened.
pub(super) struct Opening<L> {
    /// Its table.
    pub(super) table: Table,
    /// Length of the device.
    pub(super) len: Sectors,
    /// The COW's content may be overwritten.
    pub(super) overwrite: bool,
    /// Opened by a later server than the one that created it.
    pub(super) again: bool,
    /// Its store may not be made yet.
    pub(super) unmade: bool,
    /// An invalid snapshot is accepted.
    pub(super) allow_invalid: bool,
    /// Its store is recorded as lost.
    pub(super) lost: bool,
    /// Its user expects the store to be there, and of an earlier moment.
    pub(super) continues: bool,
    /// The id of a new store, and the origin that an existing store must belong to.
    pub(super) ownership: Ownership,
    /// The record of the COW's losses.
    pub(super) losses: L,
    /// Its name in messages while its device has not started.
    pub(super) label: String,
    pub(super) origin: DiskId,
    /// It is merged into the origin.
    pub(super) merges: bool,
    /// How its merge runs.
    pub(super) merge: Option<MergeOptions>,
}

/// Opens a snapshot on a COW, or its merge into the origin; `merged` is called when that has ended.
///
/// # Errors
/// The family has no origin, or the store cannot be used.
pub(super) async fn open<T: Thread>(
    thread: &Rc<T>,
    cow: T::Open,
    journal: Option<impl Journal + 'static>,
    opening: Opening<impl LossRecord + 'static>,
    merged: Box<dyn Fn() + Send>,
) -> Result<(OpenTarget, Found), Reason> {
    let Opening { table, again, merges, allow_invalid, .. } = opening;
    let group = thread.group();
    let origin = group.origin(opening.origin.key()).ok_or(NO_ORIGIN)?;
    let cow = thread.disk(cow);
    let block_bytes = cow.limits().logical_block_bytes;
    let zero = zero_start(&table.cow, block_bytes);
    let events = Rc::new(Events::named(opening.label));
    let persistent = !table.store.is_transient();
    let parts = Parts {
        executor: &group.executor,
        host: &group.host,
        copy: origin.copy(),
        origin: origin.disk(),
        cow: &cow,
        chunk_size: table.chunk_size,
        persistent,
        overwrite: opening.overwrite,
        ownership: Some(&opening.ownership),
        // The content of a transient store is lost with its server.
        lost: opening.lost || again && !persistent,
        losses: Rc::new(opening.losses),
        len: Some(opening.len),
        options: options_of(&table),
        journal: journal.map(|journal| Rc::new(journal) as Rc<dyn Journal>),
        listener: Rc::new(listener(events.clone(), merged)),
    };
    if merges {
        let options = opening.merge.as_ref();
        let opened = merge::open(parts, &origin, events, allow_invalid, options);
        let OpenMerge { opened, chunk, len, keeps } = opened.await?;
        if let Some(carrier) = group.carrier_of(&origin).filter(|_| !again) {
            // What its users have written is on it; from now on they cannot.
            carrier.drain_users().await;
        }
        let keeps = keeps && !again && !opening.ownership.adopt;
        let kept = keeps.then_some(Kept { zero, is_empty: false });
        return Ok((opened, Found { chunk, len, is_new: false, continued: None, kept }));
    }
    let changes = origin.changes();
    let snapshot = Snapshot::open(parts).await?;
    refuse_unusable(&snapshot, (&table.cow, block_bytes), again && !opening.unmade, allow_invalid)?;
    let is_new = persistent && snapshot.store().is_new();
    let is_continued =
        persistent && !snapshot.store().is_new() && snapshot.health() != Health::Invalid;
    let continued = is_continued.then(|| Store::with(snapshot.exceptions()));
    let (chunk, len) = (snapshot.chunk_size(), snapshot.len());
    let expected = opening.continues && !mutant::is(Mutant::MissedEmpty);
    let is_empty = matches!(continued, Some(Store::Empty));
    let keeps = if is_empty { expected } else { continued.is_some() };
    let kept = (keeps && !again && !opening.ownership.adopt).then_some(Kept { zero, is_empty });
    if kept.is_some() && !mutant::is(Mutant::MissedMeanwhile) {
        snapshot.must_have_all_since(changes);
    }
    let found = Found { chunk, len, is_new, continued, kept };
    Ok((OpenTarget { target: Target::Snapshot(snapshot), events }, found))
}

/// Refuses a snapshot whose store is not the one that the device had, or is invalid.
fn refuse_unusable(
    snapshot: &Snapshot,
    (path, block_bytes): (&str, u32),
    has_store: bool,
    allow_invalid: bool,
) -> Result<(), Reason> {
    if has_store && snapshot.store().is_new() {
        // The dead server had a store: the COW's content now is not this snapshot's.
        return Err(format!("{path}: it no longer holds a snapshot store").into());
    }
    if snapshot.health() == Health::Invalid && !allow_invalid {
        return Err(is_invalid(path, block_bytes));
    }
    Ok(())
}

/// What a table says of a snapshot beside its disks.
fn options_of(snapshot: &Table) -> Options {
    let (StoreType::Persistent { overflow } | StoreType::Transient { overflow }) = snapshot.store;
    let on_full = if overflow { OnFull::Overflow } else { OnFull::Invalidate };
    let Table { discard_zeroes_cow, discard_passdown_origin, .. } = *snapshot;
    Options { on_full, discard_zeroes_cow, discard_passdown_origin }
}

/// Logs a target's events and counts them; `merged`: what is called when a merge has ended.
fn listener(events: Rc<Events>, merged: Box<dyn Fn() + Send>) -> impl Fn(Event) + 'static {
    move |event| {
        let percent = match event {
            Event::Filling(percent) => percent.to_string(),
            _ => String::new(),
        };
        let fields = [("percent", percent.as_str())];
        let fields = if percent.is_empty() { &[][..] } else { &fields[..] };
        tell(priority(&event), word(&event), &events.name(), fields, &event);
        events.notify();
        if matches!(event, Event::Merged) {
            merged();
        }
    }
}

/// The word of an event, which stays.
fn word(event: &Event) -> &'static str {
    match event {
        Event::Invalidated(_) => "invalid",
        Event::MarkFailed(..) => "mark-failed",
        Event::Overflowed => "overflow",
        Event::Filling(_) => "filling",
        Event::Merged => "merged",
        Event::MergeFailed(_) => "merge-failed",
    }
}

/// Lost data is an error, data that may be lost is a warning.
fn priority(event: &Event) -> log::Level {
    match event {
        Event::Invalidated(_) | Event::MarkFailed(..) | Event::MergeFailed(_) => log::Level::Error,
        Event::Overflowed | Event::Filling(_) => log::Level::Warn,
        Event::Merged => log::Level::Info,
    }
}
