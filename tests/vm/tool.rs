//! One script for the kernel's device-mapper and for ublk-dm: what both can do with a device, by
//! tables. Scenarios of other projects' users and test suites run on both in the same words.

use crate::ioctl::dm_create;
use crate::sh::{binary, run_args, ublk_dm};
use crate::{kernel, server};

/// Who has the devices.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Tool {
    Kernel,
    Ours,
}

use Tool::{Kernel, Ours};

/// Runs a script on the kernel's targets, then on ours.
pub fn both(seed: u64, script: fn(Tool, u64)) {
    script(Kernel, seed);
    script(Ours, seed);
    server::assert_nothing_left("the script");
}

impl Tool {
    /// Makes a device with a table. LVM has two tables on the same extents for a moment, of which
    /// one is suspended.
    pub fn create(self, name: &str, line: &str) -> String {
        match self {
            Kernel => kernel::create(name, line),
            Ours => run_args(&binary(), &["create", name, "--force", "--table", line]).ok().line(),
        }
    }

    /// Whether a device can be made with a table. It is removed at once.
    pub fn takes(self, name: &str, line: &str) -> bool {
        match self {
            Kernel => dm_create(name, line, false).is_ok().then(|| self.remove(name)).is_some(),
            Ours => {
                let out = run_args(&binary(), &["create", name, "--table", line]);
                (out.code == 0).then(|| self.remove(name)).is_some()
            }
        }
    }

    /// Stores a table for the next resume.
    pub fn load(self, name: &str, line: &str) {
        match self {
            Kernel => kernel::load(name, line),
            Ours => drop(run_args(&binary(), &["load", name, "--force", "--table", line]).ok()),
        }
    }

    /// Holds a device's I/O.
    pub fn suspend(self, name: &str) {
        match self {
            Kernel => kernel::suspend(name, false),
            Ours => drop(ublk_dm(&format!("suspend {name}")).ok()),
        }
    }

    /// Puts the loaded table in place, if any, and lets I/O through.
    pub fn resume(self, name: &str) {
        match self {
            Kernel => kernel::resume(name),
            Ours => drop(ublk_dm(&format!("resume {name}")).ok()),
        }
    }

    /// Puts another table under a device that is in use.
    pub fn swap(self, name: &str, line: &str) {
        self.load(name, line);
        self.suspend(name);
        self.resume(name);
    }

    /// The same, without waiting for requests that the old table cannot end.
    pub fn swap_noflush(self, name: &str, line: &str) {
        self.load(name, line);
        match self {
            Kernel => kernel::suspend(name, true),
            Ours => drop(ublk_dm(&format!("suspend {name} --noflush")).ok()),
        }
        self.resume(name);
    }

    /// Makes a device longer that is in use: its table is the same, but for the length.
    pub fn grow(self, name: &str, line: &str) {
        let sectors = line.split(' ').nth(1).expect("a line has a length");
        match self {
            Kernel => kernel::swap(name, line),
            Ours => drop(ublk_dm(&format!("resize {name} {sectors}s")).ok()),
        }
    }

    /// Removes a device.
    pub fn remove(self, name: &str) {
        match self {
            Kernel => kernel::remove(name),
            Ours => server::del(name),
        }
    }

    /// A device's status line.
    pub fn status(self, name: &str) -> String {
        match self {
            Kernel => kernel::status(name),
            Ours => server::status(name),
        }
    }

    /// Waits until all regions of a mirror are in sync.
    pub fn wait_in_sync(self, name: &str) {
        server::wait_for(60, &format!("{name} to be in sync"), || {
            let status = self.status(name);
            let regions = status.split(' ').find_map(|word| word.split_once('/'));
            regions.is_some_and(|(synced, all)| synced == all)
        });
    }
}
