//! A disk of the real machine: one of the kernel's, or a device of this server.
//!
//! Rule kept here: a device of this server is never reached through its node, not even to look at
//! it: a process that has died while it waited for itself would not end before another server has
//! taken over, which waits for that end.

use std::io;
use std::ops::Range;
use std::path::Path;
use std::rc::Rc;

use dm_targets::disk::Buffer;
use dm_targets::mirror::format::{self, HEADER_BYTES};
use dm_targets::snapshot::format::{Identity, MAGIC};
use dm_targets::units::{Sector, Sectors};

use crate::data::{DataThread, Handle};
use crate::failure::{Failure, Reason};
use crate::protocol::{Cow, DeviceRef, KnownDisk, Place, Which};
use crate::server::admin::machine::OpenDisk as Open;
use crate::storage::signature::{self, Signature};
use crate::storage::{DiskId, Limits, OpenDisk, silent};

/// Bytes that are read at once: no more than the data thread can lend.
const PIECE_BYTES: u64 = 64 * 1024;

/// A disk.
pub enum LiveDisk {
    /// The kernel's.
    Kernel(OpenDisk),
    /// A device of this server.
    Own(OwnDisk),
}

/// A device of this server as a disk.
pub struct OwnDisk {
    pub device: DeviceRef,
    pub path: String,
    pub id: DiskId,
    pub size: Sectors,
    pub limits: Limits,
    pub known: KnownDisk,
    pub handle: Handle,
}

impl OwnDisk {
    /// Reads bytes from any place.
    fn read(&self, at: u64, buffer: &mut [u8]) -> Result<(), Reason> {
        let mut done = 0;
        while done < buffer.len() {
            let piece = self.piece(at + done as u64)?;
            let len = piece.len().min(buffer.len() - done);
            if len == 0 {
                return Err(format!("{}: it is shorter than expected", self.path).into());
            }
            buffer[done..done + len].copy_from_slice(&piece[..len]);
            done += len;
        }
        Ok(())
    }

    /// Bytes from a place to the end of the piece in which it is, through the device.
    fn piece(&self, at: u64) -> Result<Vec<u8>, Reason> {
        let start = at / PIECE_BYTES * PIECE_BYTES;
        let len = PIECE_BYTES.min(self.size.bytes().saturating_sub(start));
        let (id, path, handle) = (self.device.id, self.path.clone(), self.handle.clone());
        let job = move |thread: Rc<DataThread>| async move {
            let disk = thread.group.disk_of(id, &path);
            let bytes = u32::try_from(len).unwrap_or_default();
            let buffer = Buffer::acquire(&thread.group.host, bytes);
            let buffer = buffer.ok_or_else(|| Failure::from("no memory to read it"))?;
            let (sector, count) = (Sector(start / 512), Sectors::from_bytes(len));
            let read = disk.read(sector, count, buffer.at(0)).await;
            read.map_err(|error| Failure::from(io::Error::from_raw_os_error(error.errno.0)))?;
            let mut found = vec![0; bytes as usize];
            buffer.read(0, &mut found);
            Ok::<_, Failure>(found)
        };
        let read = silent::within_limit(Path::new(&self.path), move || handle.call(job))?;
        let read = read.map_err(Failure::from)?;
        let mut found = read.map_err(|why| why.context(&self.path))?;
        let skip = usize::try_from(at - start).unwrap_or(found.len()).min(found.len());
        found.drain(..skip);
        Ok(found)
    }

    fn first(&self) -> Result<[u8; 512], Reason> {
        let mut first = [0; 512];
        self.read(0, &mut first).map(|()| first)
    }
}

/// The one of the two.
macro_rules! either {
    ($disk:expr, $kernel:ident => $one:expr, $own:ident => $other:expr) => {
        match $disk {
            LiveDisk::Kernel($kernel) => $one,
            LiveDisk::Own($own) => $other,
        }
    };
}

impl Open for LiveDisk {
    fn id(&self) -> DiskId {
        either!(self, disk => disk.id(), own => own.id)
    }

    fn path(&self) -> String {
        either!(self, disk => disk.path(), own => own.path.clone())
    }

    fn size(&self) -> Sectors {
        either!(self, disk => disk.size(), own => own.size)
    }

    fn limits(&self) -> &Limits {
        either!(self, disk => Open::limits(disk), own => &own.limits)
    }

    fn own(&self) -> Option<DeviceRef> {
        either!(self, _disk => None, own => Some(own.device))
    }

    fn is_read_only(&self) -> bool {
        either!(self, disk => disk.is_read_only(), own => own.limits.read_only)
    }

    fn number_in_boot(&self) -> u64 {
        either!(self, disk => disk.number_in_boot(), own => own.known.number)
    }

    fn name(&self) -> String {
        either!(self, disk => disk.name(), own => own.known.name.clone())
    }

    fn place(&self) -> Place {
        either!(self, disk => disk.place(), own => own.known.place.clone())
    }

    fn lasting_name(&self) -> String {
        either!(self, disk => disk.lasting_name(), own => own.path.clone())
    }

    fn former_name(&self) -> String {
        either!(self, disk => disk.former_name(), own => own.path.clone())
    }

    fn content(&self) -> Result<Option<Signature>, Reason> {
        either!(self, disk => disk.content(), own => {
            signature::find(|at, buffer: &mut [u8]| own.read(at, buffer), own.size.bytes())
        })
    }

    fn content_of(&self, start: Sector, len: Sectors) -> Result<Option<Signature>, Reason> {
        either!(self, disk => disk.content_of(start, len), own => {
            let read = |at: u64, buffer: &mut [u8]| own.read(start.bytes() + at, buffer);
            signature::find(read, len.bytes())
        })
    }

    fn partitions(&self) -> Result<Option<Vec<Range<u64>>>, Reason> {
        either!(self, disk => disk.partitions(), own => {
            let read = |at: u64, buffer: &mut [u8]| own.read(at, buffer);
            signature::partitions(read, own.size.bytes(), own.limits.logical_block_size)
        })
    }

    fn mirror_log(&self) -> Result<Option<Box<[u8; HEADER_BYTES]>>, Reason> {
        either!(self, disk => disk.mirror_log(), own => {
            let mut header = Box::new([0; HEADER_BYTES]);
            own.read(0, &mut header[..])?;
            Ok(header.starts_with(&format::MAGIC.to_le_bytes()).then_some(header))
        })
    }

    fn store(&self) -> Result<Option<Option<Identity>>, Reason> {
        either!(self, disk => disk.store(), own => {
            let first = own.first()?;
            Ok(first.starts_with(&MAGIC.to_le_bytes()).then(|| Identity::decode(&first)))
        })
    }

    fn as_cow(&self, store: Which, origin: &str) -> Cow {
        either!(self, disk => disk.as_cow(store, origin), own => {
            let (names, former) = (vec![own.path.clone()], own.path.clone());
            Cow { store, names, former, number: own.known.number, origin: origin.to_owned() }
        })
    }

    fn starts_with_zeroes(&self) -> Result<bool, Reason> {
        either!(self, disk => disk.starts_with_zeroes(), own => {
            Ok(own.first()?.iter().all(|byte| *byte == 0))
        })
    }
}
