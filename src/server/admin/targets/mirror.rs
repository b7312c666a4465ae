//! Mirrors: opening one before the kernel adds its device, or for a new table.
//!
//! The legs that are up to date are recorded in the run directory before any request that depends
//! on the record is acknowledged ([`crate::rundir`]); the target decides what the record means for
//! a server that takes over.

use std::collections::BTreeSet;
use std::rc::Rc;

use dm_targets::device::{Events, OpenTarget};
use dm_targets::mirror::leg_flags::LegFlags;
use dm_targets::mirror::leg_set::LegSet;
use dm_targets::mirror::leg_state::{LegState, Past};
use dm_targets::mirror::table::{InitialSync, Mirror as Table};
use dm_targets::mirror::target::{LogParts, Mirror, MirrorConfig};
use dm_targets::target::Target;
use dm_targets::units::{Sector, Sectors};

use super::content::refuse_other;
use super::disks::{Sharing, discard_of};
use super::leg_content::{content_of_leg, foreign_content};
use super::leg_names::{identities, identity_of_log, renamed, with_names_of_today};
use super::leg_ranges::{check_ranges, check_region};
use super::leg_record::LegRecorder;
use super::named_source::{note_of_log, refuse_stale_source};
use super::own_legs::parts_of;
use super::reused_disks::{Replaced, ReusedDisk};
use super::segments::refresh;
use crate::failure::Reason;
use crate::protocol::{DeviceSpec, KnownDisk, KnownDisks};
use crate::server::admin::devices::Deps;
use crate::server::admin::held::Held;
use crate::server::admin::machine::{Machine, OpenDisk, Records, Thread};
use crate::server::admin::mutant::{self, Mutant};
use crate::server::admin::new_device::NewDevice;
use crate::server::admin::passing::Passing;
use crate::server::admin::state::Administrator;
use crate::storage::Access;
use crate::storage::signature::SignatureKind;
use crate::ublk::device;

/// Whose disks are opened.
#[derive(Clone, Copy, Default)]
pub(in crate::server::admin) struct Whose<'a> {
    /// The device's name, if it has one.
    pub name: Option<&'a str>,
    /// The disks of the mirror that was closed for this one.
    pub closed: Option<&'a Deps>,
}

/// The open disks of a mirror.
struct Disks<D> {
    legs: Vec<D>,
    /// For each leg, where the replaced table has its disk, if it has it.
    kept: Vec<Option<usize>>,
    log: Option<D>,
    /// The legs that have other users, by their words.
    shared: BTreeSet<String>,
    /// The legs that are not claimed, by their words.
    unclaimed: BTreeSet<String>,
    /// Length of the device.
    len: Sectors,
    /// Largest block size among the legs.
    block: Sectors,
}

impl<M: Machine> Administrator<M> {
    pub(in crate::server::admin) fn prepare_mirror(
        &mut self,
        mirror: &Table,
        spec: DeviceSpec,
        name: Option<&str>,
        again: Option<&KnownDisks>,
    ) -> Result<NewDevice<M>, Reason> {
        // One that exists was judged when it got its table; others may be open before it now.
        let is_beside =
            || self.has_others_than_lower(&spec.table.params, name) || !self.origins.is_empty();
        if again.is_none() && is_beside() {
            return Err(format!(
                "{}: in use by another device of this server; if both have --shared, each mirror \
                 gets a server of its own",
                mirror.legs[0].device
            )
            .into());
        }
        if again.is_none() {
            self.refuse_circle_of(&spec.table.params, None)?;
        }
        let past = if again.is_some() { self.past_of(spec.source) } else { Past::None };
        let past = if mutant::is(Mutant::SourceForgotten) { Past::None } else { past };
        if let Some(Passing { from, .. }) = self.passing.filter(|_| again.is_none()) {
            return self.open_passed_on(from, mirror, spec, name);
        }
        self.open_mirror(mirror, spec, Whose { name, closed: None }, past, again, None)
    }

    /// The record that a dead server has left of a mirror's legs.
    pub(in crate::server::admin) fn past_of(&self, source: Option<usize>) -> Past {
        let left = self.machine.records().legs();
        if let (Err(why), None) = (&left, source) {
            log::error!("the record of the legs cannot be used: {why}");
        }
        Past::TakenOver(left.ok())
    }

    pub(in crate::server::admin) fn open_mirror(
        &mut self,
        mirror: &Table,
        spec: DeviceSpec,
        whose: Whose<'_>,
        past: Past,
        again: Option<&KnownDisks>,
        over: Option<Replaced>,
    ) -> Result<NewDevice<M>, Reason> {
        let disks = self.open_disks(mirror, &spec, whose.closed, again, over)?;
        let deps = self.deps_of(mirror, &disks, again)?;
        check_region(mirror, disks.len, disks.block)?;
        let taken_over = matches!(past, Past::TakenOver(_));
        let mirror = &synced_over(mirror, over);
        let past = match over.and_then(|over| over.data_on) {
            Some(leg) => self.with_ended_over(leg, past, mirror, &disks.legs, &spec)?,
            None => self.with_ended(past, mirror, &disks.legs, &spec)?,
        };
        let mirror = &stale_synced(mirror, over.is_some(), &past, &disks.legs);
        let note = Self::note_of_ended(&past, mirror, &disks.legs, &spec);
        let note =
            note.or_else(|| note_of_log(disks.log.as_ref(), &disks.legs, mirror, &spec, &past));
        if !taken_over {
            check_log(&disks, spec.force)?;
            refuse_stale_source(disks.log.as_ref(), &disks.legs, mirror, &spec, &past)?;
            check_legs(&disks, mirror, &spec, &past)?;
        }
        let limits: Vec<_> = disks.legs.iter().map(|leg| leg.limits()).collect();
        // A leg with a volatile cache may be added later; without flushes from users it would not
        // be flushed. Flushes of legs without such a cache cost nothing.
        let read_only = spec.options.read_only;
        // Discards go to all legs or to none, each with its own offset.
        let discard = discard_of(&limits, Sector(0));
        let params = device::params(&limits, true, disks.len, read_only, discard);
        let force = !disks.shared.is_empty();
        let past = with_names_of_today(past, &mirror.legs, &disks.legs);
        let absent = spec.lost.iter().copied().collect();
        let label = whose.name.map_or_else(|| mirror.legs[0].device.clone(), str::to_owned);
        let target = self.open_legs(mirror, disks, (spec.source, absent), past, label, over)?;
        // The source, and the permission to overwrite, applied to this moment: from now on the
        // record decides.
        Ok(NewDevice {
            params,
            target,
            deps,
            read_only,
            spec: DeviceSpec { source: None, lost: Vec::new(), force, ..spec },
            cow: None,
            note,
        })
    }

    /// The disks by their words. Refuses a disk that `again` describes differently.
    fn deps_of(
        &self,
        mirror: &Table,
        disks: &Disks<M::Open>,
        again: Option<&KnownDisks>,
    ) -> Result<Deps, Reason> {
        let legs = disks.legs.iter().zip(mirror.legs.iter().map(|leg| leg.device.as_str()));
        let mut deps = Deps::default();
        for (disk, word) in legs.chain(disks.log.iter().zip(mirror.log_device())) {
            let (shared, unclaimed) = (disks.shared.contains(word), disks.unclaimed.contains(word));
            let known = KnownDisk { shared, unclaimed, ..self.recognized(word, disk, again)? };
            deps.insert(word, disk.id(), known);
        }
        Ok(deps)
    }

    /// Opens the legs and the log. A disk may hold several legs, side by side.
    fn open_disks(
        &self,
        mirror: &Table,
        spec: &DeviceSpec,
        closed: Option<&Deps>,
        again: Option<&KnownDisks>,
        over: Option<Replaced>,
    ) -> Result<Disks<M::Open>, Reason> {
        let (len, sharing) = (spec.table.len, Sharing::of(spec, again.is_some()));
        let (mut legs, mut kept): (Vec<M::Open>, _) = (Vec::new(), Vec::new());
        let (mut shared, mut unclaimed) = (BTreeSet::new(), BTreeSet::new());
        for leg in &mirror.legs {
            let opened = match self.open_reused(&leg.device, over.map(|over| over.device))? {
                Some(kept) if kept.disk.limits().read_only => {
                    return Err(format!("{}: it is write-protected", leg.device).into());
                }
                Some(kept) => {
                    self.refuse_kept_leg(&leg.device, &kept.disk, over)?;
                    kept
                }
                None => {
                    let id = self.machine.disk_at(&leg.device);
                    let ours = legs.iter().any(|other| Some(other.id()) == id);
                    let had = closed.zip(id).and_then(|(closed, id)| closed.of(id));
                    let sharing = sharing.of_one(&leg.device, again);
                    let sharing = sharing.after(had.as_ref(), spec.force);
                    let unclaimed = sharing.is_unclaimed(&leg.device, again);
                    let sharing = if ours { Sharing::Always } else { sharing };
                    let opened = self.open_sharing(&leg.device, Access::ReadWrite, sharing);
                    let (disk, with_others) = opened?;
                    if again.is_none() && !spec.force {
                        let (known, all) = (self.known_disk(&disk), (Sector(0), disk.size()));
                        self.refuse_awaited(&leg.device, disk.id(), &known, all)?;
                    }
                    if over.is_some() && !matches!(sharing, Sharing::IfBusy | Sharing::BesideIfBusy)
                    {
                        self.refuse_second_name(&leg.device, &disk)?;
                    }
                    let forced = self.is_forced(&leg.device, &disk, sharing, spec);
                    let shared = (with_others || forced) && !ours;
                    ReusedDisk { disk, place: None, shared, unclaimed }
                }
            };
            if opened.shared {
                shared.insert(leg.device.clone());
            }
            if opened.unclaimed {
                unclaimed.insert(leg.device.clone());
            }
            legs.push(opened.disk);
            kept.push(opened.place);
        }
        let log = self.open_log(mirror, &legs, again.is_some())?;
        let block = check_ranges(mirror, &legs, len)?;
        Ok(Disks { legs, kept, log, shared, unclaimed, len, block })
    }

    /// Opens the log, which is shared with nobody. `again`: an existing device's.
    fn open_log(
        &self,
        mirror: &Table,
        legs: &[M::Open],
        again: bool,
    ) -> Result<Option<M::Open>, Reason> {
        let Some(path) = mirror.log_device() else { return Ok(None) };
        let id = self.machine.disk_at(path);
        if legs.iter().any(|leg| Some(leg.id()) == id) {
            return Err(format!("{path}: a leg cannot also be the log").into());
        }
        let sharing = Sharing::of_sole(false, again);
        let (log, _) = self.open_sharing(path, Access::ReadWrite, sharing)?;
        if legs.iter().any(|leg| leg.place().overlaps(&log.place())) {
            return Err(format!("{path}: it is a leg under another name").into());
        }
        Ok(Some(log))
    }

    fn open_legs(
        &mut self,
        mirror: &Table,
        disks: Disks<M::Open>,
        (source, absent): (Option<usize>, LegSet),
        past: Past,
        label: String,
        over: Option<Replaced>,
    ) -> Result<Held<M::Handle>, Reason> {
        let offsets = mirror.legs.iter().map(|leg| leg.offset);
        let known: Vec<_> = offsets.zip(identities(&mirror.legs, &disks.legs)).collect();
        let renamed = renamed(&mirror.legs, &disks.legs);
        let Table { handle_errors, keep_log, region_size, initial_sync, .. } = *mirror;
        let records = self.machine.records().clone();
        let open = move |thread: Rc<M::Thread>| async move {
            let Disks { legs, kept, log, len, .. } = disks;
            let group = thread.group();
            let old = over.and_then(|over| group.device(over.device)).map(|device| device.target());
            let kept = kept.into_iter().map(|place| {
                let disk = |place| old.as_ref()?.disk_at(place);
                let Some(place) = place else { return Ok(None) };
                let disk = disk(place).ok_or("the old table is gone")?;
                refresh(&disk, false)?;
                Ok::<_, Reason>(Some(disk))
            });
            let legs = parts_of(&thread, legs, kept.collect::<Result<_, _>>()?, known);
            let events = Rc::new(Events::named(label));
            let recorder = Rc::new(LegRecorder::new(records, events.clone()));
            let listener = recorder.clone();
            let config = MirrorConfig {
                host: &group.host,
                copy: &group.copy,
                legs,
                log: log.map(|log| LogParts {
                    identity: identity_of_log(&log),
                    disk: thread.disk(log),
                }),
                renamed,
                len,
                region_size,
                initial_sync,
                handle_errors,
                keep_log,
                source,
                absent,
                past,
                recorder: Rc::new(move |state: &LegState| recorder.record(state)),
                listener: Rc::new(move |event| listener.tell(&event)),
            };
            let mirror = Mirror::open(config).await?;
            Ok::<_, Reason>((OpenTarget { target: Target::Mirror(mirror), events }, ()))
        };
        self.open_target(open).map(|(target, ())| target)
    }
}

/// How a mirror begins that replaces ranges: a log on disk knows nothing of what was written to
/// them, however clean it is.
fn synced_over(mirror: &Table, over: Option<Replaced>) -> Table {
    let by_log = mirror.initial_sync == InitialSync::FromLog;
    let trusted = over.is_none() || !by_log || mutant::is(Mutant::OldLogTrusted);
    let initial_sync = if trusted { mirror.initial_sync } else { InitialSync::Sync };
    Table { initial_sync, ..mirror.clone() }
}

/// The same for a mirror whose user says that its legs are equal, although one of them is on record
/// as stale.
fn stale_synced(mirror: &Table, replaces: bool, past: &Past, legs: &[impl OpenDisk]) -> Table {
    let ids = identities(&mirror.legs, legs);
    let is_stale = matches!(past, Past::Ended(state) if state.stale_among(&ids).is_some());
    let equal = !replaces || mirror.initial_sync != InitialSync::NoSync || !is_stale;
    let initial_sync = if equal { mirror.initial_sync } else { InitialSync::Sync };
    Table { initial_sync, ..mirror.clone() }
}

/// Refuses a log device that holds other content.
fn check_log(disks: &Disks<impl OpenDisk>, force: bool) -> Result<(), Reason> {
    let Some(log) = disks.log.as_ref().filter(|_| !force) else { return Ok(()) };
    refuse_other(log, Some(SignatureKind::MirrorLog), "a dirty log")
}

/// Refuses to recover over a leg that holds something other than the source does. A log decides by
/// itself what is recovered if it names all of these legs, or none and no source is named.
fn check_legs(
    disks: &Disks<impl OpenDisk>,
    mirror: &Table,
    spec: &DeviceSpec,
    past: &Past,
) -> Result<(), Reason> {
    if spec.force || mirror.initial_sync == InitialSync::NoSync {
        return Ok(());
    }
    let log = disks.log.as_ref().filter(|_| mirror.initial_sync == InitialSync::FromLog);
    let mut by_log = None;
    if let Some(header) = log.map_or(Ok(None), |log| log.mirror_log())? {
        let (renamed, now) = names_of(mirror, disks);
        match LegFlags::source_beside_foreign(&header, &renamed, &now) {
            Some(source) => by_log = source,
            None if spec.source.is_none() || LegFlags::recorded(&header).is_some() => return Ok(()),
            None => {}
        }
    }
    let ids = identities(&mirror.legs, &disks.legs);
    let known = match past {
        Past::Replaced(Some(state)) => state.source_among(&ids),
        Past::Ended(state) => state.choose(&ids, true).unwrap_or(None),
        _ => None,
    };
    let present = || (0..).find(|leg| !spec.lost.contains(leg)).unwrap_or(0);
    let source = spec.source.or(by_log).or(known).unwrap_or_else(present);
    let from = (&disks.legs[source], mirror.legs[source].offset);
    let right = content_of_leg(from.0, from.1, disks.len).map_err(|why| {
        why.ending(
            "; all other legs would be copied from this one, so name a readable leg with --source",
        )
    })?;
    for (at, leg) in disks.legs.iter().enumerate().filter(|(at, _)| *at != source) {
        let offset = mirror.legs[at].offset;
        let mut others = disks.legs.iter().zip(&mirror.legs);
        let beside = offset != Sector(0)
            && others.any(|(other, its)| other.id() == leg.id() && its.offset == Sector(0));
        let found = match foreign_content(leg, offset, disks.len, &right, beside) {
            // A table line has the kernel's meaning: a dead leg is accepted, and the mirror starts
            // without it.
            Err(error) if spec.degraded => {
                log::warn!("{error}: the mirror starts without this leg");
                continue;
            }
            found => found?,
        };
        if let Some(found) = found {
            let (path, source, remedy) = (leg.path(), from.0.path(), found.remedy(&leg.path()));
            return Err(format!(
                "{path}: {found}, which the recovery from {source} would destroy; {remedy}, or \
                 use --force"
            )
            .into());
        }
    }
    Ok(())
}

/// The identities of the legs, and those of an earlier version with those of today.
fn names_of(mirror: &Table, disks: &Disks<impl OpenDisk>) -> (Vec<(u64, u64)>, Vec<u64>) {
    (renamed(&mirror.legs, &disks.legs), identities(&mirror.legs, &disks.legs))
}
