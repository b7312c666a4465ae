//! Devices that the kernel has and no file of the run directory knows of: the files were removed.
//!
//! Rules kept here: a device of another program, or of another run directory, is left alone (a
//! device's cookie has the mark of its run directory); a command that does not see a device of this
//! run directory does not exit 0. Nothing here waits for a server or a disk.

use crate::failure::{Failure, Reason};
use crate::protocol::DeviceRef;
use crate::rundir::RunDir;
use crate::ublk::{Control, DeviceInfo, DeviceState, apart, device};

/// A device of the run directory without a record.
pub(super) struct Unrecorded {
    device: DeviceRef,
    /// The process that serves it.
    server: Option<i32>,
}

/// Finds the devices of the run directory that are neither among the reported devices nor in a
/// state file. `listed` are the kernel's numbers from before the reports, so that a device that was
/// added meanwhile is not looked at.
///
/// # Errors
/// The kernel or the run directory cannot be asked.
pub(super) fn find(
    rundir: &RunDir,
    listed: &[u32],
    reported: impl Fn(u32) -> bool,
) -> Result<Vec<Unrecorded>, Reason> {
    let unknown: Vec<u32> = listed.iter().copied().filter(|id| !reported(*id)).collect();
    if unknown.is_empty() {
        return Ok(Vec::new());
    }
    let mut control = Control::open().map_err(Failure::from)?;
    let mut marked: Vec<DeviceInfo> = Vec::new();
    for id in unknown {
        // A device that is gone, or that this process may not ask for, is none of this directory.
        let info = control.info(id).ok();
        marked.extend(info.filter(|info| has_disk(info) && device::has_mark(info, rundir.mark())));
    }
    if marked.is_empty() {
        return Ok(Vec::new());
    }
    // A device is on record before it has a disk, and until it has none: what is not on record now
    // and still has a disk afterwards is not on record at all.
    let Some(recorded) = recorded(rundir)? else { return Ok(Vec::new()) };
    let mut found = Vec::new();
    for info in marked {
        let device = DeviceRef { id: info.id, cookie: info.target_flags };
        if recorded.contains(&device) {
            continue;
        }
        let now = device::ours(&mut control, device.id, device.cookie)?;
        found.extend(now.filter(has_disk).map(|now| Unrecorded { device, server: server(&now) }));
    }
    Ok(found)
}

/// All devices in the state files; `None`: a file cannot be read, so what it has on record is not
/// known. (The file itself is reported.)
///
/// # Errors
/// The run directory cannot be read.
pub(super) fn recorded(rundir: &RunDir) -> Result<Option<Vec<DeviceRef>>, Reason> {
    let mut recorded = Vec::new();
    for key in rundir.keys()? {
        let Ok(state) = rundir.state(&key) else { return Ok(None) };
        let devices = state.into_iter().flat_map(|state| state.devices);
        recorded.extend(devices.map(|device| device.device()));
    }
    Ok(Some(recorded))
}

/// The named devices that no file knows of, and the other words.
pub(super) fn named<'a, 'b>(
    unrecorded: &'a [Unrecorded],
    words: &'b [String],
) -> (Vec<&'a Unrecorded>, Vec<&'b String>) {
    let is_named = |device: &&Unrecorded| words.iter().any(|word| device.is_named(word));
    let is_other = |word: &&String| !unrecorded.iter().any(|device| device.is_named(word));
    (unrecorded.iter().filter(is_named).collect(), words.iter().filter(is_other).collect())
}

/// Whether the device has a disk: one that is being added, or that was stopped, has none.
fn has_disk(info: &DeviceInfo) -> bool {
    info.state != DeviceState::Dead
}

/// The living server of a device.
fn server(info: &DeviceInfo) -> Option<i32> {
    info.server_pid.filter(|_| info.state == DeviceState::Live)
}

impl Unrecorded {
    /// Its number.
    pub fn id(&self) -> u32 {
        self.device.id
    }

    /// The process that serves it, if it lives.
    pub fn server(&self) -> Option<i32> {
        self.server
    }

    /// Why a command does nothing about the device, and what its user can do.
    pub fn problem(&self, rundir: &RunDir) -> Reason {
        let (id, files) = (self.device.id, rundir.path().display());
        match self.server {
            Some(process) => format!(
                "/dev/ublkb{id}: not on record: its files in {files} were removed; its server, \
                 process {process}, continues to serve it, and `kill {process}` deletes it when \
                 it is not in use"
            ),
            None => format!(
                "/dev/ublkb{id}: not on record: its files in {files} were removed and its server \
                 has died, so it cannot be recovered; `{}` deletes it, fails its waiting I/O, and \
                 loses what was written to it and not flushed",
                self.forced()
            ),
        }
        .into()
    }

    /// The command that deletes it if its server has died.
    pub fn forced(&self) -> String {
        format!("ublk-dm del --force /dev/ublkb{}", self.device.id)
    }

    /// Whether a word of a command line names the device.
    fn is_named(&self, word: &str) -> bool {
        let id = self.device.id;
        word == id.to_string() || word == format!("/dev/ublkb{id}")
    }

    /// Deletes the device if its server has died and the user insists.
    ///
    /// # Errors
    /// It is not to be deleted by force, a server serves it, or the kernel does not delete it.
    pub fn delete(&self, rundir: &RunDir, force: bool) -> Result<(), Reason> {
        if self.server.is_some() || !force {
            return Err(self.problem(rundir));
        }
        apart::delete_apart(self.device.id, self.device.cookie)?;
        log::warn!(
            "/dev/ublkb{}: deleted without a record of its disks: if it was a snapshot, do not use \
             its COW again, unless `ublk-dm check` says that the store is being merged: then the \
             origin and the COW are right only together; if it was a mirror, a leg may have missed \
             writes, so name the right one with --source; writes that were not flushed are lost",
            self.device.id
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(state: DeviceState) -> DeviceInfo {
        DeviceInfo {
            id: 3,
            state,
            queues: 1,
            depth: 1,
            max_io_bytes: 4096,
            flags: 0,
            target_flags: 9,
            server_pid: Some(77),
            owner_uid: 0,
            owner_gid: 0,
        }
    }

    #[test]
    fn only_a_device_that_is_live_has_a_server() {
        assert_eq!(server(&device(DeviceState::Live)), Some(77));
        for state in [DeviceState::Quiesced, DeviceState::FailIo] {
            assert_eq!(server(&device(state)), None, "the number may be another process's");
            assert!(has_disk(&device(state)));
        }
        assert!(!has_disk(&device(DeviceState::Dead)), "it may just be added");
    }

    #[test]
    fn a_device_without_a_record_says_who_ends_it() {
        let rundir = RunDir::open().unwrap();
        let of = |server| Unrecorded { device: DeviceRef { id: 3, cookie: 9 }, server };
        let served = of(Some(77)).problem(&rundir).to_string();
        assert!(served.starts_with("/dev/ublkb3: not on record") && served.contains("`kill 77`"));
        let dead = of(None).problem(&rundir).to_string();
        assert!(dead.contains("`ublk-dm del --force /dev/ublkb3`"), "{dead}");
        for force in [false, true] {
            assert!(of(Some(77)).delete(&rundir, force).is_err(), "a server serves it");
        }
        assert!(of(None).delete(&rundir, false).is_err(), "only by force");
        assert!(of(None).is_named("3") && of(None).is_named("/dev/ublkb3"));
        assert!(!of(None).is_named("/dev/ublkb33"));
    }
}
