//! Users and administrators of the simulated machine: their commands, the results, and what they
//! may then rely on. An exit of 0 is a promise, and is judged as one.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use dm_targets::disk::Memory;
use dm_targets::request::{Request, RequestKind};
use dm_targets::sim::image::{Image, SectorData};
use dm_targets::units::{Sector, Sectors};

use super::kernel::Pending;
use super::model::{self, Content};
use super::process::Process;
use super::site::Site;
use crate::protocol::DeviceRef;
use crate::ublk::DeviceState as DiskState;
use crate::ublk::device::is_ours;

/// Sectors of an origin or mirror.
pub const SECTORS: usize = 8;
pub const CHUNK: u64 = 2;
const COW_SECTORS: u64 = 24;

/// The kind of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum What {
    Origin,
    Snap(usize),
    Mirror,
    /// A device made of ranges.
    Lines,
}

impl What {
    pub fn key(self) -> &'static str {
        match self {
            What::Mirror => "mirror-a",
            What::Lines => "lines",
            What::Origin | What::Snap(_) => "o",
        }
    }
}

pub const COWS: [&str; 2] = ["/c0", "/c1"];

/// A user's knowledge of a device.
pub(super) struct Known {
    pub id: u32,
    pub cookie: u64,
    pub suspended: bool,
    pub in_use: bool,
}

impl Known {
    /// The device, for a command.
    pub fn device(&self) -> DeviceRef {
        DeviceRef { id: self.id, cookie: self.cookie }
    }
}

/// The model's knowledge of a snapshot.
pub(super) struct Snap {
    pub content: Content,
    /// The last life of the origin's device in which the snapshot existed.
    pub life: u64,
    /// It was valid when it was deleted, and its origin has not changed since: it must be usable
    /// again.
    pub owed: bool,
    /// It has been deleted: an origin that is added later finds that recorded.
    pub on_record: bool,
    /// Its state is unknown: an add of it failed half way, or its users did something that no
    /// snapshot survives.
    pub forfeit: bool,
}

/// The machine, the model and the users.
pub struct Town {
    pub site: Rc<Site>,
    pub processes: BTreeMap<&'static str, Process>,
    pub devices: BTreeMap<What, Known>,
    pub origin: Content,
    pub mirror: Content,
    /// Nothing is known of the mirror's legs any more.
    pub mirror_forfeit: bool,
    /// The places of the mirror's legs.
    pub legs: [usize; 2],
    /// Another table was loaded: the disks that it takes back are not tracked.
    pub loaded: bool,
    /// Disks that were legs, and now have another user.
    pub freed: BTreeSet<usize>,
    /// The content of other disks at the paths of ours.
    pub foreign_disks: BTreeMap<usize, Image>,
    /// Devices of another program, which must not be touched.
    pub foreign: Vec<(u32, u64)>,
    pub snaps: [Option<Snap>; 2],
    pub next_value: u32,
    /// Counts the devices that the origin has had.
    pub life: u64,
    /// The families whose files were lost or damaged.
    pub spoilt: BTreeSet<&'static str>,
    /// An event after which a snapshot may be invalid has occurred.
    pub doubtful: [bool; 2],
    /// Disks whose errors may still appear.
    pub failing: BTreeSet<usize>,
    /// The kernel refuses requests.
    pub refusing: bool,
    pub in_flight: Vec<InFlight>,
    pub log: Option<Vec<String>>,
    /// The client of the next command leaves before its end.
    pub client_leaves: bool,
    /// What users were told beside problems, since a test has looked at it.
    pub told: Vec<String>,
    /// Errors may still appear.
    pub faulty: bool,
    /// The family whose server is acting, if any: a process crash ends this server.
    pub acting: Option<&'static str>,
    /// The process that served the family of the last upgrade.
    pub upgrading: Option<u32>,
}

/// A request in flight: its device, the value that it writes (if it is not a flush), and its
/// request in the kernel.
type InFlight = (What, Option<(usize, u32)>, Pending);

/// A rule was broken.
pub type Broken = String;

impl Town {
    pub(super) fn new(seed: u64, log: bool) -> Town {
        let content = |first: u32| (0..).map(move |at| first + at).take(SECTORS);
        let sectors = |first| content(first).map(|value| SectorData::new(&model::sector(value)));
        let image = |first| Image { sectors: sectors(first).collect() };
        let cow = || Image::zeroes(Sectors(COW_SECTORS));
        let blank = Image::zeroes(Sectors(SECTORS as u64));
        let disks = [
            ("/o", image(100)),
            ("/c0", cow()),
            ("/c1", cow()),
            ("/a", image(200)),
            ("/b", image(200)),
            ("/c", blank),
            ("/s", cow()),
        ];
        Town {
            site: Site::new(seed, &disks, seed % 4 != 3),
            processes: BTreeMap::new(),
            devices: BTreeMap::new(),
            origin: Content::of(content(100)),
            mirror: Content::of(content(200)),
            mirror_forfeit: false,
            legs: [3, 4],
            loaded: false,
            freed: BTreeSet::new(),
            foreign_disks: BTreeMap::new(),
            foreign: Vec::new(),
            snaps: [None, None],
            next_value: 1000,
            life: 0,
            spoilt: BTreeSet::new(),
            doubtful: [false; 2],
            failing: BTreeSet::new(),
            refusing: false,
            in_flight: Vec::new(),
            log: log.then(Vec::new),
            client_leaves: false,
            told: Vec::new(),
            faulty: false,
            acting: None,
            upgrading: None,
        }
    }

    pub(super) fn say(&mut self, what: impl FnOnce() -> String) {
        if let Some(log) = &mut self.log {
            log.push(what());
        }
    }

    pub(super) fn content(&mut self, what: What) -> Option<&mut Content> {
        match what {
            What::Origin => Some(&mut self.origin),
            What::Mirror => Some(&mut self.mirror),
            What::Lines => None,
            What::Snap(at) => self.snaps[at].as_mut().map(|snap| &mut snap.content),
        }
    }

    pub(super) fn has(&self, what: What) -> bool {
        self.devices.contains_key(&what)
    }

    /// Ends everything that a crash ends; the next command sees what is left.
    pub(super) fn crash(&mut self, power: bool) {
        let acting = self.acting.take();
        {
            let mut shared = self.site.shared.lock().unwrap();
            if std::mem::take(&mut shared.dead) {
                shared.crash_at = None;
            }
        }
        self.say(|| {
            if power {
                "** the power ends".to_owned()
            } else {
                format!("** the server of {acting:?} ends")
            }
        });
        if power {
            let processes = std::mem::take(&mut self.processes);
            processes.into_values().for_each(Process::kill);
            self.site.power_lost();
            self.devices.clear();
            self.foreign.clear();
            // A core log is not kept: to add the mirror again, the user must know which leg is up
            // to date.
            self.mirror_forfeit = true;
            self.origin.power_lost();
            self.mirror.power_lost();
            self.snaps.iter_mut().flatten().for_each(|snap| snap.content.power_lost());
            if !self.site.keeps_files.get() {
                self.forget_records();
            }
            self.in_flight.clear();
        } else if let Some(process) = acting.and_then(|key| self.processes.remove(key)) {
            process.kill();
        }
        self.collect_replies();
    }

    /// Handles completed requests, after all requests that can complete have completed.
    pub(super) fn collect_replies(&mut self) {
        if !self.site.is_dead() {
            for (what, _, pending) in &self.in_flight {
                if let Some(process) = self.processes.get(what.key()) {
                    drop(self.site.run(&process.executor, || pending.result.borrow().is_some()));
                }
            }
        }
        let mut still = Vec::new();
        for (what, write, pending) in std::mem::take(&mut self.in_flight) {
            let result = pending.result.borrow().clone();
            match result {
                None => still.push((what, write, pending)),
                Some(result) => {
                    self.strike(&pending);
                    self.say(|| format!("   {what:?}: a request ends: {result:?}"));
                    if what == What::Origin && write.is_some() {
                        self.origin_changes();
                    }
                    if result.is_ok() {
                        if let Some(content) = self.content(what) {
                            match write {
                                Some((sector, value)) => content.acknowledge(sector, value),
                                None => content.flush(),
                            }
                        }
                    }
                }
            }
        }
        self.in_flight = still;
    }

    pub(super) fn strike(&self, ended: &Pending) {
        for device in self.site.kernel.borrow_mut().devices.values_mut() {
            device.pending.retain(|other| !Rc::ptr_eq(&other.result, &ended.result));
        }
    }

    /// Sends a user's request, and runs the machine. The request may keep waiting.
    pub(super) fn send(
        &mut self,
        what: What,
        kind: RequestKind,
        sector: usize,
        bytes: Vec<u8>,
    ) -> Option<Pending> {
        let Known { id, cookie, .. } = *self.devices.get(&what)?;
        let count = Sectors(bytes.len() as u64 / 512);
        let payload = self.site.payload(bytes);
        let request = Request {
            kind,
            sector: Sector(sector as u64),
            count,
            memory: Memory::payload(payload),
        };
        let pending = Pending { request, payload, result: Rc::default() };
        {
            let mut kernel = self.site.kernel.borrow_mut();
            let device =
                kernel.devices.get_mut(&id).filter(|device| is_ours(&device.info, cookie))?;
            match device.info.state {
                DiskState::Dead => return None,
                DiskState::FailIo => {
                    *pending.result.borrow_mut() = Some(Err("there is no server".to_owned()));
                    return Some(pending);
                }
                DiskState::Live | DiskState::Quiesced => device.pending.push(pending.clone()),
            }
            if device.info.state != DiskState::Live {
                return Some(pending);
            }
        }
        if let Some(process) = self.processes.get(what.key()) {
            self.acting = Some(what.key());
            process.pass(id, &pending);
            let result = pending.result.clone();
            drop(self.site.run(&process.executor, || result.borrow().is_some()));
        }
        Some(pending)
    }

    pub(super) fn write(&mut self, what: What, sector: usize) {
        let busy = self.in_flight.iter().any(|(other, ..)| *other == what);
        if busy || !self.has(what) {
            return;
        }
        self.next_value += 1;
        let value = self.next_value;
        if let Some(pending) =
            self.send(what, RequestKind::Write { fua: false }, sector, model::sector(value))
        {
            if let Some(content) = self.content(what) {
                content.begin(sector, value);
            }
            if what == What::Origin {
                self.origin_changes();
            }
            self.in_flight.push((what, Some((sector, value)), pending));
        }
        self.collect_replies();
    }

    pub(super) fn flush(&mut self, what: What) {
        let busy = self.in_flight.iter().any(|(other, ..)| *other == what);
        if busy || !self.has(what) {
            return;
        }
        if let Some(pending) = self.send(what, RequestKind::Flush, 0, Vec::new()) {
            self.in_flight.push((what, None, pending));
        }
        self.collect_replies();
    }

    /// Reads a whole device; `None` if it does not answer.
    pub(super) fn read(&mut self, what: What) -> Option<Result<Vec<u32>, String>> {
        let pending = self.send(what, RequestKind::Read, 0, vec![0; SECTORS * 512])?;
        let result = pending.result.borrow().clone()?;
        self.strike(&pending);
        let bytes = self.site.take_payload(pending.payload);
        self.collect_replies();
        Some(result.map(|()| model::values(&bytes)))
    }

    /// Reads a device and compares it.
    pub(super) fn judge(&mut self, what: What) -> Result<(), Broken> {
        if what == What::Mirror && self.mirror_forfeit {
            return Ok(());
        }
        let Some(read) = self.read(what) else { return Ok(()) };
        self.say(|| format!("   {what:?} shows {read:?}"));
        if let What::Snap(at) = what {
            if self.snaps[at].as_ref().is_none_or(|snap| snap.forfeit) {
                return Ok(());
            }
        }
        let owed =
            matches!(what, What::Snap(at) if self.snaps[at].as_ref().is_some_and(|snap| snap.owed));
        let owed = owed && !self.hindered();
        match (read, self.content(what)) {
            (Err(why), _) if owed => Err(format!("{what:?} is owed, and fails: {why}")),
            (Ok(seen), Some(content)) => {
                content.judge(&seen).map_err(|why| format!("{what:?} is wrong: {why}"))
            }
            (Err(why), _) => self.judge_error(what, &why),
            (Ok(_), None) => Ok(()),
        }
    }
}
