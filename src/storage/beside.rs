//! Disks that are used beside others, without a claim (`--shared`).
//!
//! Rule kept here: a mounted file system, swap, another server that has claimed the disk, or any
//! other program that has, believes that the whole disk is its own, and so the disk is refused.
//! Only device-mapper, which claims a disk as a whole for tables that use parts of it, may have it
//! as well.

use std::fs::{self, File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use super::DiskId;
use super::busy::{other_user_of, user_of};
use super::error::OpenErrorKind;
use crate::sys::disk::is_locked;

/// How often a claim is looked for: that of another command that looks as well lasts only a moment,
/// and its end wakes nobody.
const LOOKS: u32 = 5;
/// The pause between two looks.
const PAUSE: Duration = Duration::from_millis(10);

/// Refuses an open disk that somebody else has claimed.
pub(super) fn refuse_other_claim(file: &File, id: DiskId) -> Result<(), OpenErrorKind> {
    if matches!(id, DiskId::File { .. }) {
        let locked = is_locked(file).map_err(OpenErrorKind::of_io)?;
        let busy = || OpenErrorKind::Busy { by: other_user_of(id) };
        return if locked { Err(busy()) } else { Ok(()) };
    }
    // The same disk, whatever the path leads to by now.
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    for look in 1..=LOOKS {
        let claimed = OpenOptions::new().read(true).custom_flags(libc::O_EXCL).open(&path);
        match claimed {
            Ok(_) => return Ok(()),
            Err(error) if error.raw_os_error() != Some(libc::EBUSY) => {
                return Err(OpenErrorKind::of_io(error));
            }
            Err(_) if is_mapped(&Path::new("/sys/dev/block").join(id.to_string())) => {
                return Ok(());
            }
            Err(_) if look < LOOKS => std::thread::sleep(PAUSE),
            Err(_) => {}
        }
    }
    Err(OpenErrorKind::Busy { by: user_of(id) })
}

/// Whether the claim of a disk, of which the kernel allows one, is device-mapper's: the devices
/// that hold the disk are its own. A mounted file system or swap is no such device.
fn is_mapped(disk: &Path) -> bool {
    let holders = fs::read_dir(disk.join("holders")).into_iter().flatten();
    let is_its = |holder: &fs::DirEntry| holder.path().join("dm/name").exists();
    let holders: Vec<bool> = holders.map(|holder| holder.is_ok_and(|one| is_its(&one))).collect();
    !holders.is_empty() && holders.into_iter().all(|is_its| is_its)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_device_mappers_if_all_of_its_holders_are() {
        let dir = tempfile::tempdir().unwrap();
        let holders = dir.path().join("holders");
        assert!(!is_mapped(dir.path()), "it has no holders");
        fs::create_dir_all(&holders).unwrap();
        assert!(!is_mapped(dir.path()), "a file system is none");
        let hold = |name: &str, file: &str| {
            fs::create_dir_all(holders.join(name).join("dm")).unwrap();
            fs::write(holders.join(name).join(file), "").unwrap();
        };
        hold("dm-0", "dm/name");
        assert!(is_mapped(dir.path()));
        hold("md0", "size");
        assert!(!is_mapped(dir.path()));
    }
}
