//! `doctor`: what is wrong with the machine, its devices and what stands in the run directory, each
//! with the command that mends it.
//!
//! Rules kept here: looking changes nothing, opens no disk of a device and waits for no server
//! beyond its limit; `--fix` does only what loses nothing, so it brings nothing up that a device
//! without a record may have been; and after it the machine is looked at again, so that the exit
//! code is about what is, not about what was tried.

mod devices;
mod finding;
mod left;
mod listed;
mod machine;

use std::process::{Command, ExitCode};
use std::thread::sleep;

use serde::Serialize;

use self::finding::{Finding, Mend, Weight};
use super::args::Doctor;
use super::client::{Known, require_root};
use super::json;
use super::reap;
use super::recover;
use super::terminal::{complain, print};
use super::unrecorded::Unrecorded;
use super::up;
use super::verdict::verdict;
use crate::failure::{Failure, Reason, one_line};
use crate::protocol::RunState;
use crate::rundir::RunDir;
use crate::ublk::Control;

/// The exit code if there is a problem: examined and found bad.
const FOUND_BAD: u8 = 3;

/// The object that `--json` prints for a finding.
#[derive(Serialize)]
struct Printed<'a> {
    /// A word for what was looked at, which stays.
    check: &'a str,
    weight: Weight,
    /// The device, disk or file.
    subject: Option<&'a str>,
    what: &'a str,
    mend: Option<String>,
    /// Whether `--fix` has mended it.
    fixed: bool,
}

/// Looks, mends if it is asked to, and looks again.
pub(super) fn doctor(asked: &Doctor) -> Result<ExitCode, Failure> {
    require_root()?;
    let (mut found, unrecorded) = examine(&[]);
    let mut fixed = Vec::new();
    if asked.fix {
        let tried = carry_out(&found);
        if tried {
            let before = std::mem::replace(&mut found, examine(&unrecorded).0);
            fixed = before.into_iter().filter(|one| !found.iter().any(|it| it.is(one))).collect();
        }
    }
    for (finding, fixed) in with(&fixed, true).chain(with(&found, false)) {
        show(finding, fixed)?;
    }
    if found.is_empty() && fixed.is_empty() && !json::is_on() {
        print("nothing is wrong")?;
    }
    let is_bad = found.iter().any(|finding| finding.weight == Weight::Problem);
    Ok(if is_bad { ExitCode::from(FOUND_BAD) } else { ExitCode::SUCCESS })
}

fn with(findings: &[Finding], fixed: bool) -> impl Iterator<Item = (&Finding, bool)> {
    findings.iter().map(move |finding| (finding, fixed))
}

/// Everything that is looked at, and the numbers of the devices without a record. What cannot be
/// looked at is a finding as well. `before`: the numbers of those that this command has found.
fn examine(before: &[u32]) -> (Vec<Finding>, Vec<u32>) {
    let mut found = machine::examine();
    let mut unrecorded = Vec::new();
    let can_ask = Control::open().is_ok();
    let rundir = match RunDir::open() {
        Ok(rundir) => rundir,
        Err(error) => {
            found.push(Finding::unseen("run-directory", &Failure::from(error)));
            return (found, unrecorded);
        }
    };
    found.extend(left::examine(&rundir));
    // Without the driver there are no devices; why there is none has been said.
    let known = if can_ask { known(&rundir) } else { Ok(Known::default()) };
    match known {
        Ok(known) => {
            if can_ask {
                found.extend(devices::examine(&rundir, &known));
            }
            unrecorded.extend(known.unrecorded.iter().map(Unrecorded::id));
            found.extend(listed::examine(&known, &rundir, before));
        }
        Err(why) => found.push(Finding::unseen("devices", &why)),
    }
    (found, unrecorded)
}

/// All devices, as they are when [`settled`].
fn known(rundir: &RunDir) -> Result<Known, Failure> {
    settled(|| Known::of(rundir), || sleep(reap::SECOND_LOOK))
}

/// What a look shows. If a device seems to be lost, that of a second one: for a moment after the
/// end of its server the kernel shows a device as if it had one.
fn settled(look: impl Fn() -> Result<Known, Failure>, pause: impl Fn()) -> Result<Known, Failure> {
    let known = look()?;
    if known.devices().iter().any(|device| device.object.state == RunState::Dead) {
        pause();
        return look();
    }
    Ok(known)
}

/// Does what mends without loss, each thing once. Returns whether anything was tried.
fn carry_out(found: &[Finding]) -> bool {
    let mut tried = Vec::new();
    for mend in found.iter().filter_map(|finding| finding.mend.as_ref()) {
        if tried.contains(&mend.command()) {
            continue;
        }
        let Some(done) = try_to(mend) else { continue };
        tried.push(mend.command());
        if let Err(why) = done {
            complain(&tried_in_vain(&mend.command(), why));
        }
    }
    !tried.is_empty()
}

/// Does what mends without loss; `None`: that is for a person.
fn try_to(mend: &Mend) -> Option<Result<(), Failure>> {
    match mend {
        Mend::ByHand(_) => None,
        Mend::LoadDriver => Some(load_driver()),
        Mend::Recover(name) => Some(recovered(name)),
        Mend::Up(name) => Some(up::up_quietly(name)),
        Mend::Reap => Some(reap::reap_quietly()),
    }
}

/// Has a new server take a device over, and prints nothing on stdout.
fn recovered(name: &String) -> Result<(), Failure> {
    verdict(recover::recovered(std::slice::from_ref(name), false, None)?)
}

fn load_driver() -> Result<(), Failure> {
    let done = Command::new("modprobe").arg("ublk_drv").output();
    let done = done.map_err(|error| Failure::from(error).context("modprobe"))?;
    match done.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&done.stderr).trim().to_owned().into()),
    }
}

fn tried_in_vain(command: &str, why: Failure) -> Reason {
    why.context(format!("`{command}`"))
}

fn show(finding: &Finding, fixed: bool) -> Result<(), Failure> {
    let mend = finding.mend.as_ref().map(|mend| mend.command());
    if json::is_on() {
        return print(&json::line_of(&Printed {
            check: finding.check,
            weight: finding.weight,
            subject: finding.subject.as_deref(),
            what: &finding.what,
            mend,
            fixed,
        })?);
    }
    let weight = if fixed { "fixed" } else { finding.weight.word() };
    print(&one_line(&format!("{weight}: {}", finding.line())))?;
    match mend.filter(|_| !fixed) {
        Some(mend) => print(&format!("    {}", one_line(&mend))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use super::super::client::Family;
    use super::*;
    use crate::protocol::DeviceState;
    use crate::server::orphan;

    /// What is known of a device in this state.
    fn seen(state: RunState) -> Known {
        let device = DeviceState::of_line(1, "x", "0 8 zero");
        let devices = vec![orphan::report(&device, state, None)];
        let families = vec![Family { key: "x".to_owned(), devices }];
        Known { families, ..Known::default() }
    }

    #[test]
    fn what_seems_to_be_lost_is_looked_at_again() {
        let judged = |states: &[RunState]| {
            let (left, pauses) = (RefCell::new(states.iter()), Cell::new(0));
            let look = || Ok(seen(*left.borrow_mut().next().expect("no third look")));
            let known = settled(look, || pauses.set(pauses.get() + 1)).unwrap();
            (known.devices()[0].object.state, pauses.get())
        };
        let dies = [RunState::Dead, RunState::Quiesced];
        assert_eq!(judged(&dies), (RunState::Quiesced, 1), "its server has just died");
        assert_eq!(judged(&[RunState::Dead, RunState::Dead]), (RunState::Dead, 1));
        for alive in [RunState::Live, RunState::Suspended, RunState::Quiesced] {
            assert_eq!(judged(&[alive]), (alive, 0), "nobody waits for nothing");
        }
    }
}
