//! Disks of the real machine: opening them, and recognizing their content, is the business of
//! [`storage`](crate::storage).

use std::ops::Range;

use dm_targets::mirror::format::HEADER_BYTES;
use dm_targets::snapshot::format::Identity;
use dm_targets::units::{Sector, Sectors};

use crate::failure::{Failure, Reason};
use crate::protocol::{Cow, Place, Which};
use crate::server::admin::machine::OpenDisk as Open;
use crate::storage::signature::{self, Signature};
use crate::storage::silent;
use crate::storage::{
    Access, DiskId, Limits, OpenDisk, content, lasting_name, lasting_name_of, leg_name, names_of,
};

impl Open for OpenDisk {
    fn id(&self) -> DiskId {
        self.id
    }

    fn path(&self) -> String {
        self.path.display().to_string()
    }

    fn size(&self) -> Sectors {
        Sectors(self.size_sectors)
    }

    fn limits(&self) -> &Limits {
        &self.limits
    }

    fn is_read_only(&self) -> bool {
        self.access == Access::ReadOnly
    }

    fn number_in_boot(&self) -> u64 {
        self.known.number
    }

    fn name(&self) -> String {
        self.known.name.clone()
    }

    fn place(&self) -> Place {
        self.known.place.clone()
    }

    fn lasting_name(&self) -> String {
        leg_name(self)
    }

    fn former_name(&self) -> String {
        lasting_name(self)
    }

    fn store(&self) -> Result<Option<Option<Identity>>, Reason> {
        look(self, |disk| Ok(content::store_on(disk)?.map(|found| found.identity)))
    }

    fn as_cow(&self, store: Which, origin: &str) -> Cow {
        let (names, former) = (names_of(self), lasting_name_of(self.id, &self.path));
        Cow { store, names, former, number: self.known.number, origin: origin.to_owned() }
    }

    fn content(&self) -> Result<Option<Signature>, Reason> {
        look(self, content::of)
    }

    fn content_of(&self, start: Sector, len: Sectors) -> Result<Option<Signature>, Reason> {
        look(self, move |disk| content::of_range(disk, start.bytes(), len.bytes()))
    }

    fn partitions(&self) -> Result<Option<Vec<Range<u64>>>, Reason> {
        look(self, content::partitions_on)
    }

    fn mirror_log(&self) -> Result<Option<Box<[u8; HEADER_BYTES]>>, Reason> {
        look(self, content::mirror_log_on)
    }

    fn starts_with_zeroes(&self) -> Result<bool, Reason> {
        look(self, |disk| {
            let zeroes = signature::starts_with_zeroes(&disk.file, disk.limits.logical_block_size);
            zeroes.map_err(|error| {
                Failure::from(error).context(format!("{}: cannot be read", disk.path.display()))
            })
        })
    }
}

/// Reads from a disk that may stop answering, with the same claim.
fn look<T: Send + 'static>(
    disk: &OpenDisk,
    read: impl FnOnce(&OpenDisk) -> Result<T, Reason> + Send + 'static,
) -> Result<T, Reason> {
    let file = disk.file.try_clone();
    let file = file.map_err(|error| Failure::at(&disk.path, error))?;
    let OpenDisk { id, access, buffered, size_sectors, limits, .. } = *disk;
    let (path, known) = (disk.path.clone(), disk.known.clone());
    let same = OpenDisk { file, path, id, access, buffered, size_sectors, limits, known };
    silent::within_limit(&disk.path, move || read(&same))?
}
