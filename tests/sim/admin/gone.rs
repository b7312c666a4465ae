//! Families of which other programs have left only a state file: the devices in it are completed
//! before they are forgotten.

use super::machine::SimMachine;
use super::town::{Town, What};
use crate::protocol::DeviceState;
use crate::server::admin::machine::Records;
use crate::server::admin::{self, Incomplete};

impl Town {
    /// Completes the deleted devices of a state file and removes the file, as commands do. `own`:
    /// the device that the command has deleted, and whether the file must list it.
    pub(super) fn forget_gone(
        &mut self,
        key: &'static str,
        own: Option<(DeviceState, bool)>,
    ) -> Result<(), String> {
        let mut gone = self.state(key)?;
        if let Some((own, _)) = &own {
            gone.retain(|device| device.cookie != own.cookie);
        }
        // The command acts itself, and its end does not end a server.
        self.acting = None;
        let site = self.site.clone();
        let pid = || u32::try_from(site.next_number()).unwrap();
        let leave = |device: &DeviceState| {
            admin::record_left_behind(&SimMachine::start(&site, key, pid())?, device, &[])
        };
        let (problems, mut owed) = admin::complete_gone(&gone, leave, |device| {
            let pid = pid();
            let machine = SimMachine::start(&site, key, pid)
                .map_err(|why| Incomplete { why, owed: device.lost })?;
            admin::complete(machine, device)
        });
        owed.extend(own.filter(|(_, is_owed)| *is_owed).map(|(device, _)| device));
        let directory = self.site.directory(key);
        if owed.is_empty() {
            directory.remove();
            // Everything else that is missing is recorded elsewhere.
            return Ok(());
        }
        drop(directory.write_state(owed));
        Err(problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))
    }
}

const COW: usize = 1;

/// A snapshot that a state file calls lost, whose COW is missing, in a family without other
/// devices.
fn all_gone() -> Town {
    let mut town = Town::new(1, true);
    town.add(What::Origin).unwrap();
    town.add(What::Snap(0)).unwrap();
    town.kill("o");
    town.attach(COW, false);
    town.recover().unwrap_err();
    town.write(What::Origin, 2);
    // As a server of 0.2.0 left it.
    town.site.files(|files| files.forget_records());
    town.kill("o");
    town.steal(What::Snap(0), false);
    town.steal(What::Origin, false);
    town
}

#[test]
fn a_lost_snapshot_that_can_be_neither_marked_nor_recorded_is_not_forgotten() {
    for by_add in [true, false] {
        let mut town = all_gone();
        town.fill(true);
        let command = |town: &mut Town| match by_add {
            true => town.add(What::Origin),
            false => town.recover(),
        };
        let why = command(&mut town).unwrap_err();
        assert!(why.contains("could not be marked") && why.contains("is not recorded"), "{why}");
        assert!(town.state("o").is_ok_and(|devices| devices.iter().any(|device| device.lost)));
        // With room the loss is recorded, and the files are removed.
        town.fill(false);
        assert_eq!(command(&mut town), Ok(()));
        town.attach(COW, true);
        let why = town.add(What::Snap(0)).unwrap_err();
        assert!(why.contains("is lost"), "{why}");
        assert_eq!(town.end(), Ok(()));
    }
}

#[test]
fn its_cow_is_marked_when_that_is_back() {
    let mut town = all_gone();
    town.fill(true);
    town.recover().unwrap_err();
    town.attach(COW, true);
    assert_eq!(town.recover(), Ok(()));
    town.fill(false);
    let why = town.add(What::Snap(0)).unwrap_err();
    assert!(why.contains("is invalid"), "{why}");
    assert_eq!(town.end(), Ok(()));
}
