//! A server as its files show it, dead or alive.

use std::fs;
use std::io;
use std::os::unix::net::UnixStream;

use super::directory::RunDir;
use super::state::State;
use crate::failure::{Failure, Reason};
use crate::protocol;

/// The files of a server, dead or alive.
pub struct Server {
    pub key: String,
    pub state: Option<State>,
    /// Why its state file cannot be used, with its path.
    pub damaged: Option<Reason>,
    /// A connection to the server; `None` if it accepts none.
    pub connection: Option<UnixStream>,
    /// A process listens on the socket, whether it answers or not.
    pub lives: bool,
}

impl RunDir {
    /// The names of all devices in the state files of the other servers, and of those that are
    /// being added there or have no table yet.
    pub fn names_beside(&self, key: &str) -> Result<Vec<String>, Reason> {
        // A state file that cannot be read is skipped: its names are unknown.
        let states = self.states_beside(Some(key))?.into_iter();
        let mut names: Vec<String> =
            states.flat_map(|state| state.devices).map(|device| device.name).collect();
        let why = |error: io::Error| Failure::at(&self.path, error);
        names.extend(self.wanted_names(key).map_err(why)?);
        // A name that cannot be read is unknown, too.
        names.extend(self.reserved().unwrap_or_default().into_iter().map(|one| one.name));
        Ok(names)
    }

    /// Removes all files of a server. A record of stale legs is kept for later mirrors.
    pub fn remove(&self, key: &str) {
        self.remove_stale_lock(key);
        let kept = self.keep_legs(key).inspect_err(|why| log::error!("{why}"));
        if let Ok(Some(state)) = &kept {
            log::warn!("the legs of a mirror that has ended: {}", state.told());
        }
        let legs = kept.is_ok().then(|| self.legs_file(key));
        for path in [self.socket(key), self.state_file(key)].into_iter().chain(legs) {
            if let Err(error) = fs::remove_file(&path) {
                if error.kind() != io::ErrorKind::NotFound {
                    log::warn!("{}: {error}", path.display());
                }
            }
        }
    }

    /// Removes the files of a server that ends. If `stays`, some of a device is left that the next
    /// server, `list` and `del` have to know of, and only the socket is removed.
    pub fn remove_ended(&self, key: &str, stays: bool) {
        if stays { self.remove_socket(key) } else { self.remove(key) }
    }

    /// A server's files, if it has any.
    pub fn server(&self, key: &str) -> Option<Server> {
        let (state, damaged) = match self.state(key) {
            Ok(state) => (state, None),
            Err(why) => (None, Some(why)),
        };
        let connection = protocol::connect(&self.socket(key));
        let lives = connection.as_ref().err().is_none_or(|error| !protocol::is_absent(error));
        let known = state.is_some() || damaged.is_some() || lives;
        known.then(|| Server {
            key: key.to_owned(),
            state,
            damaged,
            connection: connection.ok(),
            lives,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_file_tells_of_what_a_server_leaves() {
        let dir = tempfile::tempdir().unwrap();
        let rundir = RunDir::trusted(dir.path().to_owned());
        let files = [rundir.socket("o"), rundir.state_file("o")];
        for (stays, left) in [(true, [false, true]), (false, [false, false])] {
            files.iter().for_each(|path| fs::write(path, "").unwrap());
            rundir.remove_ended("o", stays);
            assert_eq!(files.each_ref().map(|path| path.exists()), left, "stays: {stays}");
        }
    }
}
