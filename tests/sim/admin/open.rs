//! An open disk of the simulated machine, as the administrator sees it.

use std::ops::Range;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::task::{Poll, Waker};

use dm_targets::disk::{Backend, Disk, Errno, Limits as DiskLimits, Op, OpId};
use dm_targets::mirror::format::{self as log_format, HEADER_BYTES};
use dm_targets::sim::disk::SimDisk;
use dm_targets::snapshot::format::{Identity, MAGIC};
use dm_targets::units::{Sector, Sectors};

use super::site::Slot;
use crate::failure::Reason;
use crate::protocol::{Cow, DeviceRef, KnownDisk, Place, Which};
use crate::server::admin::machine::OpenDisk;
use crate::storage::signature::{self, Signature};
use crate::storage::{Access, DiskId, Limits, name_of_leg};

pub fn id_of(slot: usize) -> DiskId {
    DiskId::Block { major: 8, minor: u32::try_from(slot).unwrap() }
}

/// The part of a disk that is read when it is opened: the beginnings of all stores, logs and file
/// systems here.
pub const HEAD: Sectors = Sectors(24);

/// Which process has claimed a disk, and by which of its claims.
#[derive(Default)]
pub struct Claimant(Mutex<(Option<u32>, u64)>);

impl Claimant {
    pub fn get(&self) -> Option<u32> {
        self.0.lock().unwrap().0
    }

    /// Claims for a process or, with `None`, ends every claim.
    pub fn set(&self, claimant: Option<u32>) {
        let mut claim = self.0.lock().unwrap();
        *claim = (claimant, claim.1 + 1);
    }

    /// Claims for a process until the hold is dropped, unless there is a claim, be it its own.
    pub fn claim(self: &Arc<Self>, pid: u32) -> Option<Hold> {
        if self.get().is_some() {
            return None;
        }
        self.set(Some(pid));
        let number = self.0.lock().unwrap().1;
        Some(Hold(Some((self.clone(), number))))
    }
}

/// A claim with its number, released with the open disk, or with the target's handle of it.
pub struct Hold(pub Option<(Arc<Claimant>, u64)>);

impl Drop for Hold {
    fn drop(&mut self) {
        if let Some((claimant, number)) = &self.0 {
            if claimant.0.lock().unwrap().1 == *number {
                claimant.set(None);
            }
        }
    }
}

/// A target's disk, with the claim with which it was opened.
pub struct Held {
    disk: Rc<SimDisk>,
    _hold: Hold,
}

impl Held {
    pub fn disk(path: &str, disk: Rc<SimDisk>, hold: Hold) -> Disk {
        Disk::new(path, Rc::new(Held { disk, _hold: hold }))
    }
}

impl Backend for Held {
    fn start(&self, op: Op) -> OpId {
        self.disk.start(op)
    }

    fn poll(&self, id: OpId, waker: &Waker) -> Poll<Result<(), Errno>> {
        self.disk.poll(id, waker)
    }

    fn detach(&self, id: OpId) {
        self.disk.detach(id);
    }

    fn limits(&self) -> DiskLimits {
        self.disk.limits()
    }

    fn size(&self) -> Sectors {
        self.disk.size()
    }

    fn refresh_size(&self) -> Sectors {
        self.disk.refresh_size()
    }
}

/// An open disk, with its first sectors at that time.
pub struct SimOpen {
    pub slot: usize,
    /// The disk that holds its bytes.
    pub place: Place,
    pub path: String,
    /// Its lasting name; empty if it has none.
    pub name: String,
    pub number: u64,
    pub size: Sectors,
    pub bytes: Vec<u8>,
    pub read_only: bool,
    /// No read of it succeeds.
    pub unreadable: bool,
    pub hold: Hold,
    pub limits: Limits,
    /// The device of the server that it is, instead of a disk in a slot.
    pub own: Option<(DeviceRef, DiskId, KnownDisk)>,
}

impl SimOpen {
    /// A device of the server, of which these are the first bytes.
    pub fn of_own(
        own: (DeviceRef, DiskId, KnownDisk),
        path: &str,
        (size, bytes): (Sectors, Vec<u8>),
        limits: Limits,
    ) -> SimOpen {
        SimOpen {
            slot: usize::MAX,
            place: own.2.place.clone(),
            path: path.to_owned(),
            name: own.2.name.clone(),
            number: own.2.number,
            size,
            bytes,
            read_only: limits.read_only,
            unreadable: false,
            hold: Hold(None),
            limits,
            own: Some(own),
        }
    }

    /// The disk at a place of the machine, as it is now.
    pub fn of(found: &Slot, slot: usize, place: Place, access: Access, hold: Hold) -> SimOpen {
        let visible = found.disk.borrow().visible();
        SimOpen {
            slot,
            place,
            path: found.path.clone(),
            name: found.name.borrow().clone(),
            number: found.number.get(),
            size: found.disk.borrow().size_when_opened(),
            bytes: visible.read(Sector(0), HEAD.min(visible.size())),
            read_only: access == Access::ReadOnly,
            unreadable: found.unreadable.get(),
            hold,
            limits: LIMITS,
            own: None,
        }
    }
}

impl SimOpen {
    /// The bytes that it began with; zeroes behind those that are looked at.
    fn look(&self, at: u64, buffer: &mut [u8]) -> Result<(), Reason> {
        if self.unreadable {
            let error = std::io::Error::from_raw_os_error(libc::EIO);
            return Err(Reason::from(error).context(&self.path));
        }
        let known = self.bytes.get(usize::try_from(at).unwrap()..).unwrap_or_default();
        let len = known.len().min(buffer.len());
        buffer[..len].copy_from_slice(&known[..len]);
        Ok(())
    }

    /// The first sector.
    fn first(&self) -> Result<[u8; 512], Reason> {
        let mut first = [0; 512];
        self.look(0, &mut first)?;
        Ok(first)
    }
}

impl OpenDisk for SimOpen {
    fn id(&self) -> DiskId {
        self.own.as_ref().map_or_else(|| id_of(self.slot), |(_, id, _)| *id)
    }

    fn own(&self) -> Option<DeviceRef> {
        self.own.as_ref().map(|(device, ..)| *device)
    }

    fn path(&self) -> String {
        self.path.clone()
    }

    fn size(&self) -> Sectors {
        self.size
    }

    fn limits(&self) -> &Limits {
        &self.limits
    }

    fn is_read_only(&self) -> bool {
        self.read_only
    }

    fn number_in_boot(&self) -> u64 {
        self.number
    }

    fn name(&self) -> String {
        self.name.clone()
    }

    fn place(&self) -> Place {
        self.place.clone()
    }

    fn lasting_name(&self) -> String {
        name_of_leg(&self.name, self.former_name())
    }

    fn former_name(&self) -> String {
        if self.name.is_empty() { self.path.clone() } else { self.name.clone() }
    }

    fn content(&self) -> Result<Option<Signature>, Reason> {
        self.content_of(Sector(0), self.size)
    }

    fn content_of(&self, start: Sector, len: Sectors) -> Result<Option<Signature>, Reason> {
        let read = |at: u64, buffer: &mut [u8]| self.look(start.bytes() + at, buffer);
        signature::find(read, len.bytes())
    }

    fn partitions(&self) -> Result<Option<Vec<Range<u64>>>, Reason> {
        let read = |at: u64, buffer: &mut [u8]| self.look(at, buffer);
        signature::partitions(read, self.size.bytes(), 512)
    }

    fn store(&self) -> Result<Option<Option<Identity>>, Reason> {
        let first = self.first()?;
        Ok(first.starts_with(&MAGIC.to_le_bytes()).then(|| Identity::decode(&first)))
    }

    fn as_cow(&self, store: Which, origin: &str) -> Cow {
        let name = self.former_name();
        let (names, number) = (vec![name.clone()], self.number);
        Cow { store, names, former: name, number, origin: origin.to_owned() }
    }

    fn mirror_log(&self) -> Result<Option<Box<[u8; HEADER_BYTES]>>, Reason> {
        let mut header = Box::new([0; HEADER_BYTES]);
        self.look(0, &mut header[..])?;
        Ok(header.starts_with(&log_format::MAGIC.to_le_bytes()).then_some(header))
    }

    fn starts_with_zeroes(&self) -> Result<bool, Reason> {
        Ok(self.first()?.iter().all(|byte| *byte == 0))
    }
}

/// The capabilities of every disk.
static LIMITS: Limits = Limits {
    logical_block_size: 512,
    physical_block_size: 512,
    io_min: 512,
    io_opt: 0,
    volatile_cache: true,
    fua: true,
    discard_max_bytes: 0,
    discard_granularity: 0,
    write_zeroes_max_bytes: 0,
    dma_alignment: 3,
    max_sectors_kb: 512,
    rotational: false,
    read_only: false,
};
