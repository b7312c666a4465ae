//! Reading the log, when a mirror is opened and when it is resumed.
//!
//! Rules kept here: if the log could not be read, or names other legs, nothing is in sync; no word
//! of a table makes a leg valid that the log has as stale, or does not have; and no log has a size
//! of regions that its bits are not about.

use std::rc::Rc;

use super::super::bits::Bits;
use super::super::format::{HEADER_BYTES, is_log, resume};
use super::super::leg_flags::LegFlags;
use super::super::leg_set::LegSet;
use super::super::log_region_size::LogRegionSize;
use super::super::table::InitialSync;
use super::{Log, OnDisk, sector};
use crate::disk::DiskError;
use crate::mutant::{self, Mutant};
use crate::units::Sectors;

/// How a mirror begins whose log may have stale legs: `nosync` states that all legs are the same,
/// and the log knows better.
fn beside_flags(initial: InitialSync, doubtful: bool, overridden: bool) -> InitialSync {
    match initial {
        InitialSync::NoSync if doubtful => InitialSync::FromLog,
        InitialSync::NoSync if !overridden => InitialSync::Sync,
        _ => initial,
    }
}

impl Log {
    /// Reads the log: which regions are in sync, and which of the legs with these identities are
    /// stale. Nothing is written yet. A device error does not fail this call: the log is treated as
    /// empty, and is dead.
    pub(in crate::mirror) async fn read(
        &self,
        initial: InitialSync,
        bits: &mut Bits,
        legs: &[u64],
    ) -> LegSet {
        self.read_all(initial, bits, legs).await.0
    }

    /// The size of the regions that the log's bits are about, if it is another one than the
    /// mirror's.
    fn other_size(&self, header: &[u8; HEADER_BYTES]) -> Option<Sectors> {
        let size = is_log(header).then(|| LogRegionSize::recorded(header)).flatten();
        size.filter(|size| *size != self.header.region_size)
    }

    /// Looks whether the log, as it was found, says of each leg whether it is up to date: an
    /// earlier version, or the kernel, has regions out of sync without saying for which leg.
    fn look_for_sources(&self, header: &[u8; HEADER_BYTES], bits: &Bits, other: Option<Sectors>) {
        let all_in_sync = other.is_none() && bits.count() == bits.len();
        self.header.tells_sources.set(all_in_sync || LegFlags::tells_legs_apart(header));
    }

    /// Like [`Log::read`]; also returns whether the log could be read and understood.
    async fn read_all(
        &self,
        initial: InitialSync,
        bits: &mut Bits,
        legs: &[u64],
    ) -> (LegSet, bool) {
        let Some(device) = &self.device else {
            bits.fill_from(0, initial == InitialSync::NoSync);
            return (LegSet::default(), true);
        };
        let mut header = Box::new([0; HEADER_BYTES]);
        let mut tail = vec![0; self.header.tail.borrow().len()];
        let result = self.read_pieces(device, &mut header, bits, &mut tail).await;
        if let Err(error) = &result {
            self.failure.borrow_mut().get_or_insert(error.clone());
            header.fill(0);
            tail.fill(0);
        }
        let before = (*header, bits.count());
        let doubtful = LegFlags::are_doubtful(&header);
        LegFlags::rename(&mut header, &self.header.renamed, legs);
        let missed = if is_log(&header) { LegFlags::missed(&header, legs) } else { None };
        let overridden = missed.is_none() || mutant::is(Mutant::LogOverridden);
        let initial = beside_flags(initial, doubtful, overridden);
        let other_size = self.other_size(&header);
        self.look_for_sources(&header, bits, other_size);
        let is_used = initial == InitialSync::FromLog;
        self.header.other_size.set(other_size.filter(|_| is_used));
        let mut foreign = false;
        let resumed = resume(&mut header, bits, result.is_ok(), initial);
        if let Some(size) = other_size.filter(|_| !mutant::is(Mutant::SizedBeforeCleared)) {
            // The log is cleared under the size that its bits are about, and gets the new one then.
            LogRegionSize::put(&mut header, size);
            foreign = true;
        }
        self.header.fresh.set(resumed.fresh);
        let trusted = missed.is_none() || mutant::is(Mutant::ForeignLegsTrusted);
        if !trusted && LegFlags::names_foreign_legs(&header, legs) {
            bits.fill_from(0, false);
            foreign = true;
        }
        self.header.doubtful.set(doubtful);
        if !doubtful {
            LegFlags::sign(&mut header);
        }
        let padded = result.unwrap_or(true);
        if padded || before != (*header, bits.count()) {
            self.change_all();
        }
        if resumed.failed {
            self.health.set(self.health.get().after_error());
        }
        if !resumed.failed {
            self.header.foreign.replace(foreign.then(|| Rc::new(*header)));
        }
        *self.header.bytes.borrow_mut() = header;
        self.header.tail.replace(tail);
        (LegSet(missed.unwrap_or(0)), !resumed.failed)
    }

    /// Reads the log of a mirror that is in use; returns whether it could be read and understood.
    /// If not, the header and tail in memory are kept.
    pub(in crate::mirror) async fn read_again(
        &self,
        initial: InitialSync,
        bits: &mut Bits,
        legs: &[u64],
    ) -> bool {
        let (header, tail) =
            (self.header.bytes.borrow().clone(), self.header.tail.borrow().clone());
        let (_, readable) = self.read_all(initial, bits, legs).await;
        if !readable {
            *self.header.bytes.borrow_mut() = header;
            self.header.tail.replace(tail);
        }
        readable
    }

    /// Reads all pieces; returns whether bits after the last region were set.
    async fn read_pieces(
        &self,
        device: &OnDisk,
        header: &mut [u8; HEADER_BYTES],
        bits: &mut Bits,
        tail: &mut [u8],
    ) -> Result<bool, DiskError> {
        let mut padded = false;
        let (layout, buffer) = (self.layout.get(), device.buffer.borrow().clone());
        let mut bytes = vec![0; device.piece_bytes.get() as usize];
        let (mut at, end) = (0, layout.len().bytes());
        while at < end {
            let len = (end - at).min(u64::from(device.piece_bytes.get()));
            device.disk.read(sector(at), Sectors::from_bytes(len), buffer.at(0)).await?;
            let bytes = &mut bytes[..usize::try_from(len).unwrap_or(0)];
            buffer.read(0, bytes);
            padded |= layout.decode(at, bytes, header, bits, tail);
            at += len;
        }
        Ok(padded)
    }
}
