//! Opening a mirror's log, and what it says beside the record of the legs and the user's words.
//!
//! Rules kept here: where record and log leave no leg that is known to be up to date, none is
//! chosen, as where another program has used a log that had stale legs; a mirror without some of
//! its legs has a log that knows the others as up to date; and the bits of a log are not used for
//! regions of another size.

use std::rc::Rc;

use super::beginning::{Beginning, begin};
use super::bits::Bits;
use super::config::MirrorConfig;
use super::leg_flags::NO_IDENTITY;
use super::leg_set::LegSet;
use super::leg_state::{FoundLog, Past};
use super::log::{Log, Unusable};
use super::no_source::KnownOfLegs;
use super::open_error::OpenError;
use super::table::InitialSync;
use crate::mutant::{self, Mutant};

/// What a mirror's log and its past say when it is opened.
pub(super) struct Known {
    pub(super) log: Log,
    pub(super) identity: u64,
    pub(super) bits: Bits,
    pub(super) stale: LegSet,
    pub(super) begun: Beginning,
    /// The first recovery goes on, and the log has what was copied in it.
    pub(super) first: bool,
    /// Some sources may have data that are not durable: no log has them as healthy, which it has
    /// only of legs that have been flushed.
    pub(super) unflushed: bool,
}

/// Opens the log, and decides what the mirror starts from. `found`: what the log is, once it has
/// been read.
async fn read_log(
    config: &mut MirrorConfig<'_>,
    regions: u64,
    identities: &[u64],
    found: &mut Option<FoundLog>,
) -> Result<Known, OpenError> {
    let mut bits = Bits::zeroes(regions).ok_or(OpenError::NoMemory)?;
    let identity = config.log.as_ref().map(|log| log.identity);
    let disk = config.log.take().map(|log| log.disk);
    let name = disk.as_ref().map(|disk| disk.name().clone());
    let size = (regions, config.region_size);
    let log = Log::new(config.host, disk, size, std::mem::take(&mut config.renamed))
        .map_err(|unusable| unusable_log(unusable, name.clone()))?;
    let begun = begin(&config.past, config.initial_sync, config.source, identity, identities);
    // Also if the log is not asked: the user may want to know what it says.
    let initial = begun.as_ref().map_or(InitialSync::FromLog, |begun| begun.initial);
    let mut stale = log.read(initial, &mut bits, identities).await;
    let identity = identity.unwrap_or(NO_IDENTITY);
    let its = FoundLog { identity, fresh: log.is_fresh(), doubtful: log.is_doubtful(), stale };
    *found = log.on_disk().then_some(its);
    let mut begun = begun?;
    refuse_untold(&log, config.absent, stale)?;
    refuse_if_used(&log, bits.count() < regions, begun.named)?;
    if begun.by_log {
        if config.past.is_unknown_to_log(its, identities) {
            // Another source than the first leg must be confirmed by the log.
            let source = begun.sources.unwrap_or_default();
            let confirmed = !log.is_fresh() && stale.has(0) && source.without(stale) == source;
            if source != LegSet::one(0) && !confirmed {
                return Err(OpenError::NoSource);
            }
            bits = Bits::zeroes(regions).ok_or(OpenError::NoMemory)?;
            stale = LegSet::default();
            log.change_all();
        } else {
            begun.sources = None;
        }
    }
    let lags = begun.unequal && config.past.is_newer_than(stale, identities);
    if begun.unequal {
        begun.sources = sources_of_dead(begun.sources, stale, lags);
    }
    if lags {
        if begun.sources.is_none() {
            return Err(OpenError::NoSource);
        }
        bits = Bits::zeroes(regions).ok_or(OpenError::NoMemory)?;
        log.change_all();
    }
    if begun.sources.is_none() && stale == LegSet::first(identities.len()) {
        return Err(OpenError::NoSource);
    }
    if !fits_regions(&log, &bits, config, name)? {
        bits = Bits::zeroes(regions).ok_or(OpenError::NoMemory)?;
        log.change_all();
    }
    let unflushed = begun.sources.is_some() && !begun.named && (!begun.unequal || lags);
    let first = begun.unequal && !lags && config.past.is_in_first_recovery(identities);
    Ok(Known { log, identity, bits, stale, begun, first, unflushed })
}

/// Refuses a log that another program has used and that has regions out of sync: its source may
/// have been any leg, whatever is on record of our own.
fn refuse_if_used(log: &Log, is_marked: bool, is_named: bool) -> Result<(), OpenError> {
    match log.is_doubtful() && is_marked && !is_named {
        true => Err(OpenError::NoSource),
        false => Ok(()),
    }
}

/// Refuses a mirror without some of its legs unless its log can be read and has each `absent` leg
/// as none of its own, so that what stands in for one is no source: nothing else remembers whether
/// the legs that are left have missed a write.
fn refuse_untold(log: &Log, absent: LegSet, stale: LegSet) -> Result<(), OpenError> {
    let is_told = !log.health().is_dead()
        && !log.is_fresh()
        && !log.is_doubtful()
        && absent.without(stale).is_empty();
    match absent.is_empty() || is_told || mutant::is(Mutant::AbsentUntold) {
        true => Ok(()),
        false => Err(OpenError::NoSource),
    }
}

/// Makes sources of all legs that the log has as up to date, if others are not there: no region can
/// be recovered as long as a leg fails, so each of them has to get every write.
fn with_all_sources(mut known: Known, absent: LegSet, legs: usize) -> Known {
    let Known { log, stale, begun, .. } = &mut known;
    let is_told = begun.sources.is_none() && log.tells_sources();
    if !absent.is_empty() && is_told && !mutant::is(Mutant::OthersNotSources) {
        begun.sources = Some(LegSet::first(legs).without(*stale));
        // A request that was in flight may have reached some of them.
        begun.unequal = true;
    }
    known
}

/// Whether the bits of a log are about regions of the mirror's size.
///
/// # Errors
/// They are not, and they have regions in sync; and no record says which legs are right, so that
/// this may be a slip of the user.
fn fits_regions(
    log: &Log,
    bits: &Bits,
    config: &MirrorConfig<'_>,
    name: Option<Rc<str>>,
) -> Result<bool, OpenError> {
    let other = log.other_region_size().filter(|_| bits.count() > 0);
    let (Some(recorded), Some(disk)) = (other, name) else { return Ok(true) };
    match config.past {
        _ if mutant::is(Mutant::RegionSizeUnasked) => Ok(true),
        Past::TakenOver(_) | Past::Replaced(_) => Ok(false),
        Past::None | Past::Ended(_) => {
            Err(OpenError::LogRegionSize { disk, recorded, given: config.region_size })
        }
    }
}

/// The legs that a dead server's mirror is continued from: each source on record that the log does
/// not contradict, as a leg may fail at any moment. `lags`: the log lacks a stale leg on record, so
/// that it contradicts nothing: it is an old copy, or that server died between the two.
fn sources_of_dead(recorded: Option<LegSet>, stale: LegSet, lags: bool) -> Option<LegSet> {
    let agreed = recorded.map(|legs| legs.without(stale)).filter(|legs| !legs.is_empty());
    let agreed = agreed.filter(|_| !mutant::is(Mutant::OtherSourcesForgotten));
    agreed.or(recorded.filter(|_| lags))
}

/// As [`read_log`]; an error for lack of a source has what is known of the legs.
pub(super) async fn read_known(
    config: &mut MirrorConfig<'_>,
    regions: u64,
    identities: &[u64],
) -> Result<Known, OpenError> {
    let mut log = None;
    let known = read_log(config, regions, identities, &mut log).await;
    let known = known.map(|known| with_all_sources(known, config.absent, identities.len()));
    known.map_err(|why| {
        if why != OpenError::NoSource {
            return why;
        }
        let legs = config.legs.iter().map(|leg| (leg.identity, leg.disk.name().clone()));
        OpenError::NoSourceAmong(KnownOfLegs::of(legs, config.past.state(), log).to_string())
    })
}

/// Why a log cannot be used that is on a disk of this name, or in memory.
fn unusable_log(unusable: Unusable, name: Option<Rc<str>>) -> OpenError {
    match (unusable, name) {
        (Unusable::TooSmall(needed), Some(disk)) => OpenError::LogTooSmall { disk, needed },
        _ => OpenError::NoMemory,
    }
}
