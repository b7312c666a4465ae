//! What a server could not do with one of several devices.
//!
//! Rule kept here: callers find a device's problem by its number and cookie, never by the text.

use serde::{Deserialize, Serialize};

use super::device::DeviceState;
use super::device_ref::DeviceRef;
use crate::failure::Failure;

/// A failure with the device that it concerns.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// The device; `None` if the failure concerns the whole family, or the server is of an earlier
    /// version, which sends failures alone.
    #[serde(default)]
    pub device: Option<DeviceRef>,
    /// The device's name, if the server knows it.
    #[serde(default)]
    pub name: Option<String>,
    /// What failed. An earlier version's command reads only this.
    #[serde(flatten)]
    pub why: Failure,
}

impl Problem {
    /// A failure that concerns a device.
    pub fn of(device: &DeviceState, why: Failure) -> Problem {
        Problem { device: Some(device.device()), name: Some(device.name.clone()), why }
    }

    /// A failure that concerns a device whose name is no longer known.
    pub fn of_nameless(device: DeviceRef, why: Failure) -> Problem {
        Problem { device: Some(device), name: None, why }
    }
}

impl From<Failure> for Problem {
    fn from(why: Failure) -> Problem {
        Problem { device: None, name: None, why }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Kind;
    use crate::protocol::Reply;

    #[test]
    fn a_problem_is_the_same_on_the_other_side_of_the_socket() {
        let device = DeviceRef { id: 3, cookie: u64::MAX };
        let why = Failure::new(Kind::System { errno: libc::EIO }, "cannot open").context("s1");
        let of_device = Problem { device: Some(device), name: Some("s1".to_owned()), why };
        let problems = vec![of_device, Failure::from("the state file").into()];
        let sent =
            Reply::Recovered { problems: problems.clone(), notes: vec!["s1: told".to_owned()] };
        let line = serde_json::to_string(&sent).unwrap();
        match serde_json::from_str(&line).unwrap() {
            Reply::Recovered { problems: read, notes } => {
                assert_eq!((read, notes), (problems, vec!["s1: told".to_owned()]));
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_answer_of_an_earlier_versions_server_is_read() {
        let line = r#"{"Recovered":{"problems":[{"kind":"InUse","message":"s1: busy"}]}}"#;
        let Reply::Recovered { problems, notes } = serde_json::from_str(line).unwrap() else {
            panic!("{line}")
        };
        assert!(notes.is_empty());
        assert_eq!(problems, [Failure::new(Kind::InUse, "s1: busy").into()]);
    }
}
