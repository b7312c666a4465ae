//! A server's state file: its devices, and how to bring them back after its death.
//!
//! Rules kept here: a device is identified by the cookie that the kernel keeps with it, never by
//! its number alone, which the kernel reuses; a file that cannot be read completely is not used at
//! all; and devices of another boot are gone, whatever the file says.

use std::fs;
use std::io;

use serde::{Deserialize, Serialize};

use super::boot::boot_id;
use super::directory::RunDir;
use super::durable;
use crate::failure::{Failure, Reason};
use crate::protocol::DeviceState;

/// Version of the file; a program reads only what it knows.
const VERSION: u32 = 1;
/// The version of a file with a device that carries another one's origin: a server that ignored
/// that would open its own waiting device, which never answers.
const CARRYING: u32 = 2;
/// The version of a file with a device whose requests fail without a server: a program that did not
/// know would upgrade its server, and fail them. Or with a disk that is used without a claim, or a
/// table that asks for that: a server that ignored it would claim the disk, beside users of other
/// parts.
const LATER: u32 = 3;
/// The version of a file with a device that is a disk of another one of the same server: a server
/// that ignored that would open its own waiting device, which never answers.
const JOINED: u32 = 4;

/// What a server leaves for its successor.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct State {
    pub version: u32,
    /// The boot of the machine in which the devices were added.
    pub boot_id: String,
    pub pid: u32,
    pub devices: Vec<DeviceState>,
}

/// The version field alone, which every version of the file has.
#[derive(Deserialize)]
struct Version {
    version: Option<u32>,
}

impl State {
    /// The state of this process in this boot.
    pub fn new(boot_id: String, devices: Vec<DeviceState>) -> State {
        let carries = devices.iter().any(|device| device.carrier().is_some());
        let is_later = |device: &DeviceState| device.spec.options.fails() || is_unclaimed(device);
        let joins = devices.iter().any(|device| device.joined().next().is_some());
        let version = match devices.iter().any(is_later) {
            _ if joins => JOINED,
            true => LATER,
            false if carries => CARRYING,
            false => VERSION,
        };
        State { version, boot_id, pid: std::process::id(), devices }
    }

    /// Parses a state file; `None`: it is from another boot, so none of its devices is left.
    ///
    /// # Errors
    /// Why the file cannot be used, to follow "PATH: ".
    pub fn parse(bytes: &[u8], boot_id: &str) -> Result<Option<State>, String> {
        let damaged = |error: serde_json::Error| format!("damaged: {error}");
        match serde_json::from_slice::<Version>(bytes).map_err(damaged)?.version {
            Some(VERSION | CARRYING | LATER | JOINED) => {}
            Some(version) => {
                return Err(format!(
                    "of version {version}; this program reads versions {VERSION} to {JOINED}"
                ));
            }
            None => {
                return Err(
                    "written by an earlier version of this program; only that version can read it"
                        .to_owned(),
                );
            }
        }
        let state: State = serde_json::from_slice(bytes).map_err(damaged)?;
        Ok(Some(state).filter(|state| state.boot_id == boot_id))
    }
}

/// Whether a device uses a disk without a claim, now or with its loaded table.
fn is_unclaimed(device: &DeviceState) -> bool {
    let specs = [Some(&device.spec), device.loaded.as_ref()];
    specs.into_iter().flatten().any(|spec| spec.unclaimed)
        || device.known.values().any(|known| known.unclaimed)
}

impl RunDir {
    /// Durably replaces a server's state file.
    ///
    /// # Errors
    /// The reason, with the file's path. The file is unchanged, or the error says that it is
    /// replaced but may revert after a loss of power, which no device survives either.
    pub fn write_state(&self, key: &str, devices: Vec<DeviceState>) -> Result<(), Reason> {
        let path = self.state_file(key);
        let write = || {
            let bytes = serde_json::to_vec_pretty(&State::new(boot_id()?, devices))?;
            durable::replace(&path, &bytes)
        };
        write().map_err(|error: io::Error| Failure::at(&path, error))
    }

    /// Durably replaces the state file of a server that died.
    pub fn rewrite_state(&self, key: &str, state: &State) -> Result<(), Reason> {
        let path = self.state_file(key);
        let write = || durable::replace(&path, &serde_json::to_vec_pretty(state)?);
        write().map_err(|error: io::Error| Failure::at(&path, error))
    }

    /// Reads a server's state file; `None`: there is none, or it is from another boot.
    pub fn state(&self, key: &str) -> Result<Option<State>, Reason> {
        let path = self.state_file(key);
        let why = |why: Failure| Failure::at(&path, why);
        let bytes = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            bytes => bytes.map_err(|error| why(error.into()))?,
        };
        let boot_id = boot_id().map_err(|error| why(error.into()))?;
        State::parse(&bytes, &boot_id).map_err(|error| why(error.into()))
    }

    /// The states of all servers but `own`, including dead ones; files that cannot be read are
    /// skipped.
    pub fn states_beside(&self, own: Option<&str>) -> io::Result<Vec<State>> {
        let keys = self.keys()?;
        let others = keys.iter().filter(|key| Some(key.as_str()) != own);
        Ok(others.filter_map(|key| self.state(key).ok()?).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{KnownDisk, OnServerDeath};

    #[test]
    fn a_state_reads_back() {
        let bytes = serde_json::to_vec(&State::new("b1".to_owned(), Vec::new())).unwrap();
        let state = State::parse(&bytes, "b1").unwrap().unwrap();
        assert_eq!(
            (state.version, state.pid, state.devices.len()),
            (VERSION, std::process::id(), 0)
        );
    }

    #[test]
    fn what_an_earlier_program_must_not_serve_has_another_version() {
        let version = |line: &str, change: fn(&mut DeviceState)| {
            let state = r#"{"id":1,"cookie":7,"name":"s","disks":[],"spec":{
                "table":"LINE","force":false,"degraded":false,"source":null,"options":{
                "queues":1,"depth":1,"read_only":false,"zero_copy":true,"recovery":true}}}"#;
            let mut device = serde_json::from_str(&state.replace("LINE", line)).unwrap();
            change(&mut device);
            let bytes = serde_json::to_vec(&State::new("b1".to_owned(), vec![device.clone()]));
            let state = State::parse(&bytes.unwrap(), "b1").unwrap().unwrap();
            assert_eq!(state.devices, [device]);
            state.version
        };
        let fails = |device: &mut DeviceState| {
            device.spec.options.on_server_death = OnServerDeath::Fail;
        };
        let carried = |device: &mut DeviceState| {
            let device_ref = Some(device.device());
            let known = KnownDisk { device: device_ref, ..KnownDisk::default() };
            device.known.insert("/o".to_owned(), known);
        };
        assert_eq!(version("0 8 snapshot /o /c P 8", |_| {}), VERSION);
        assert_eq!(version("0 8 snapshot /o /c P 8", carried), CARRYING);
        assert_eq!(version("0 8 linear /a 0", fails), LATER);
        let joined = |device: &mut DeviceState| {
            device.spec.options.on_server_death = OnServerDeath::Fail;
            let joined = Some(device.device());
            device.known.insert("/a".to_owned(), KnownDisk { joined, ..KnownDisk::default() });
        };
        assert_eq!(version("0 8 linear /a 0", joined), JOINED);
    }

    #[test]
    fn a_file_with_a_disk_without_a_claim_has_a_version_of_its_own() {
        use crate::protocol::{DeviceSpec, KnownDisk};
        let version = |device: &DeviceState| {
            let state = State::new("b1".to_owned(), vec![device.clone()]);
            let bytes = serde_json::to_vec(&state).unwrap();
            let read = State::parse(&bytes, "b1").unwrap().unwrap();
            assert_eq!(read.devices, std::slice::from_ref(device));
            state.version
        };
        let mut device = DeviceState::of_line(1, "l", "0 8 linear /a 0");
        assert_eq!(version(&device), VERSION);
        let spec = DeviceSpec { unclaimed: true, ..device.spec.clone() };
        device.loaded = Some(spec);
        assert_eq!(version(&device), LATER);
        device.loaded = None;
        let known = KnownDisk { unclaimed: true, ..KnownDisk::default() };
        device.known.insert("/a".to_owned(), known);
        assert_eq!(version(&device), LATER);
    }

    #[test]
    fn devices_of_another_boot_are_gone() {
        let bytes = serde_json::to_vec(&State::new("b1".to_owned(), Vec::new())).unwrap();
        assert!(State::parse(&bytes, "b2").unwrap().is_none());
    }

    #[test]
    fn what_is_not_whole_is_not_used() {
        let bytes = serde_json::to_vec(&State::new("b1".to_owned(), Vec::new())).unwrap();
        for len in 0..bytes.len() {
            let why = State::parse(&bytes[..len], "b1").unwrap_err();
            assert!(why.starts_with("damaged: "), "{len} bytes: {why}");
        }
    }

    #[test]
    fn other_versions_are_told_apart() {
        let why = |text: &str| State::parse(text.as_bytes(), "b1").unwrap_err();
        assert!(why(r#"{"version": 7, "anything": []}"#).contains("version 7"));
        assert!(why(r#"{"pid": 12, "devices": []}"#).contains("earlier version"));
        assert!(why(r#"{"version": 1, "boot_id": "b1", "pid": 1}"#).contains("damaged"));
    }
}
