//! A device and its snapshot in one server, as users see them: what they wrote, what they read, and
//! which commands they gave.
//!
//! The judge knows what users wrote to the device and to its snapshot, and nothing of who carries
//! what: the snapshot shows what the device held when it was added, whoever writes to the device.

use std::collections::BTreeMap;
use std::rc::Rc;

use dm_targets::disk::Memory;
use dm_targets::request::{Request, RequestKind};
use dm_targets::table::Table;
use dm_targets::units::{Sector, Sectors};

use super::kernel::{Control, Pending};
use super::model::{self, Content};
use super::process::Process;
use super::town::{SECTORS, Town, What};
use crate::protocol::{Command, DeviceRef, DeviceSpec, DeviceState, OnServerDeath, Reply};
use crate::ublk::DeviceState as DiskState;
use crate::ublk::device::is_ours;

/// The family of the device, and so of its snapshots.
pub(super) const KEY: &str = "mirror-a";
/// The place of the COW, and of the only disk of a device made of one range.
pub(super) const COW: usize = 1;
pub(super) const DISK: usize = 3;

/// What the device is made of: disks, or devices of its server.
pub(super) const LOWER: [&str; 6] = [
    "0 8 mirror core 1 2 2 /a 0 /b 0 1 handle_errors",
    "0 8 linear /a 0",
    "0 8 mirror core 1 2 2 /under-a 0 /under-b 0 1 handle_errors",
    "0 4 linear /under-a 0\n4 4 linear /under-a 4",
    "0 8 linear /under-m 0",
    "0 8 snapshot /a /s P 2",
];

/// The devices below it, by the words above.
const UNDER: [(&str, &str); 4] = [
    ("/under-a", "0 8 linear /a 0"),
    ("/under-b", "0 8 linear /b 0"),
    ("/under-m", LOWER[0]),
    (UNDER_COW, "0 24 linear /c0 0"),
];

/// The word of a COW that is a device of the server.
pub(super) const UNDER_COW: &str = "/under-c";

/// A device of the town.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Lower,
    Upper,
    /// The origin's device over the lower one: what it shows is the same.
    Top,
    /// The origin's device of the disk of which the lower one is a snapshot.
    Ground,
}
pub(super) use Part::{Ground, Lower, Top, Upper};

/// A step.
#[derive(Clone, Copy, Debug)]
pub(super) enum Do {
    Add(Part),
    Del(Part, bool),
    Write(Part, usize),
    Flush(Part),
    Suspend(Part),
    Resume(Part),
    /// The device of the COW is suspended, or resumed.
    Hold(bool),
    Use(Part, bool),
    Attach(usize, bool),
    Kill,
    Recover,
    /// SIGTERM.
    Terminate,
    /// Another program stops and deletes a device.
    Steal(Part),
    /// The snapshot is merged into the device, through the origin's device; it is kept, or not.
    Merge(bool),
    /// Another server takes over; the kernel does not let it do one step, if any.
    Upgrade(Option<(Control, u32)>),
}

/// What users know of a device.
pub(super) struct Known {
    pub device: DeviceRef,
    pub content: Content,
    /// Its `add` has ended well, and no command or event since can have ended or invalidated it.
    pub owed: bool,
}

pub(super) struct Stack {
    pub town: Town,
    pub lower_line: &'static str,
    /// The word of the COW.
    pub cow: &'static str,
    /// What the legs hold; the device's content once it is there.
    pub disk: Content,
    /// What the disk holds of which it is a snapshot.
    pub ground: Content,
    pub lower: Option<DeviceRef>,
    /// The devices below it, by their words.
    pub under: BTreeMap<&'static str, DeviceRef>,
    pub upper: Option<Known>,
    /// What the snapshot showed that is deleted and not continued, and whether the device has
    /// changed since.
    pub left: Option<(Content, bool)>,
    /// A snapshot was being merged when the power ended.
    pub was_merging: bool,
    /// A merge was interrupted that no record tells of.
    pub unmerged: bool,
    /// A write of the device waits for the next server.
    pub waits: bool,
    /// The COW has been missing.
    pub away: bool,
    /// The user takes a store that was made for another device.
    pub adopts: bool,
    /// The devices whose requests fail while there is no server.
    pub fails: &'static [Part],
    pub next_value: u32,
}

impl Stack {
    pub fn new(lower_line: &'static str, log: bool) -> Stack {
        let disk = Content::of((200..).take(SECTORS));
        let town = Town::new(0, log);
        Stack {
            town,
            lower_line,
            cow: "/c0",
            ground: Content::of((200..).take(SECTORS)),
            disk,
            lower: None,
            under: BTreeMap::new(),
            upper: None,
            left: None,
            was_merging: false,
            unmerged: false,
            waits: false,
            away: false,
            adopts: false,
            fails: &[],
            next_value: 1000,
        }
    }

    pub fn spec(&self, part: Part) -> DeviceSpec {
        let carrier = self.lower.map_or(99, |lower| lower.id);
        let line = match part {
            Lower => self.lower_line.to_owned(),
            Upper => format!("0 8 snapshot /dev/ublkb{carrier} {} P 2", self.cow),
            Top if self.unmerged => {
                format!("0 8 snapshot-merge /dev/ublkb{carrier} {} P 2", self.cow)
            }
            Top => format!("0 8 snapshot-origin /dev/ublkb{carrier}"),
            Ground => "0 8 snapshot-origin /a".to_owned(),
        };
        let named = |line: String, (word, device): (&&str, &DeviceRef)| {
            line.replace(word, &format!("/dev/ublkb{}", device.id))
        };
        let line = self.under.iter().fold(line, named);
        let (table, other_origin) = (Table::parse_table(&line).unwrap(), self.adopts);
        let mut spec = DeviceSpec { table, other_origin, ..Town::spec(What::Mirror) };
        if self.fails.contains(&part) {
            spec.options.on_server_death = OnServerDeath::Fail;
        }
        spec
    }

    pub fn device(&self, part: Part) -> Option<DeviceRef> {
        match part {
            Lower => self.lower,
            Upper => self.upper.as_ref().map(|known| known.device),
            Top | Ground => {
                let is_it =
                    |one: &DeviceState| is_origins(one, part == Top) && !self.is_dead(one.device());
                self.left().iter().find(|one| is_it(one)).map(DeviceState::device)
            }
        }
    }

    /// Sends a command to the server.
    pub fn ask(&mut self, command: Command) -> Result<Reply, String> {
        self.town.ask(KEY, command)
    }

    pub fn add(&mut self, part: Part) -> Result<DeviceRef, String> {
        self.begin()?;
        self.add_under(part)?;
        self.add_spec(self.spec(part))
    }

    /// Starts a server if there is none.
    pub fn begin(&mut self) -> Result<(), String> {
        if self.town.processes.contains_key(KEY) {
            return Ok(());
        }
        if !self.left().is_empty() {
            return Err("its server has died".to_owned());
        }
        let process = Process::start(&self.town.site, KEY).ok_or("no server")?;
        self.town.processes.insert(KEY, process);
        Ok(())
    }

    pub fn add_spec(&mut self, spec: DeviceSpec) -> Result<DeviceRef, String> {
        match self.ask(Command::Add { name: None, id: None, spec })? {
            Reply::Added { device, .. } => Ok(device),
            other => Err(format!("{other:?}")),
        }
    }

    /// Adds the devices below one that are not there.
    fn add_under(&mut self, part: Part) -> Result<(), String> {
        for (word, line) in UNDER {
            let is_wanted = match part {
                Lower => self.lower_line.contains(word),
                Upper => self.cow == word,
                Top => self.unmerged && self.cow == word,
                Ground => false,
            };
            if is_wanted && !self.under.contains_key(word) {
                let table = Table::parse_table(line).unwrap();
                let device = self.add_spec(DeviceSpec { table, ..Town::spec(What::Mirror) })?;
                if !self.town.site.is_dead() {
                    self.under.insert(word, device);
                }
            }
        }
        Ok(())
    }

    /// The word of a device, if it is one below the lower one.
    pub fn under_word(&self, device: &DeviceState) -> Option<&'static str> {
        let line = device.spec.table.to_string();
        let is_below = |word: &str| self.lower_line.contains(word) || self.cow == word;
        let mut all = UNDER.iter().filter(|(word, _)| is_below(word));
        all.find(|(_, other)| Table::parse_table(other).unwrap().to_string() == line)
            .map(|(word, _)| *word)
    }

    /// The devices of the state file that the kernel has.
    pub fn left(&self) -> Vec<DeviceState> {
        self.town.left(KEY).unwrap_or_default()
    }

    /// Takes the devices of the dead server over, or those that the living one has left out.
    pub fn recover(&mut self) -> Result<(), String> {
        let command = if self.town.processes.contains_key(KEY) {
            let devices = self.left().iter().map(DeviceState::device).collect();
            Command::RecoverLeftOut { devices }
        } else {
            let devices = self.town.state(KEY)?;
            if self.left().is_empty() {
                return Ok(());
            }
            let process = Process::start(&self.town.site, KEY).ok_or("no server")?;
            self.town.processes.insert(KEY, process);
            Command::Recover(devices)
        };
        match self.ask(command)? {
            Reply::Recovered { problems, .. } if problems.is_empty() => Ok(()),
            Reply::Recovered { problems, .. } => {
                let all: Vec<String> = problems.iter().map(|one| one.why.to_string()).collect();
                Err(all.join("; "))
            }
            other => Err(format!("{other:?}")),
        }
    }

    /// Sends a request of a user; `None` if it does not end.
    pub fn io(
        &mut self,
        device: DeviceRef,
        kind: RequestKind,
        sector: usize,
        bytes: Vec<u8>,
    ) -> Option<Result<Vec<u32>, String>> {
        let (site, count) = (self.town.site.clone(), Sectors(bytes.len() as u64 / 512));
        let payload = site.payload(bytes);
        let memory = Memory::payload(payload);
        let request = Request { kind, sector: Sector(sector as u64), count, memory };
        let pending = Pending { request, payload, result: Rc::default() };
        {
            let mut kernel = site.kernel.borrow_mut();
            let found = kernel.devices.get_mut(&device.id)?;
            if !is_ours(&found.info, device.cookie) || found.info.state == DiskState::Dead {
                return Some(Err("no such device".to_owned()));
            }
            if found.info.state == DiskState::FailIo {
                return Some(Err("there is no server".to_owned()));
            }
            found.pending.push(pending.clone());
            if found.info.state != DiskState::Live {
                return None;
            }
        }
        self.town.acting = Some(KEY);
        let process = self.town.processes.get(KEY)?;
        process.pass(device.id, &pending);
        let result = pending.result.clone();
        drop(site.run(&process.executor.clone(), || result.borrow().is_some()));
        let result = pending.result.borrow().clone()?;
        self.town.strike(&pending);
        let bytes = site.take_payload(payload);
        Some(result.map(|()| model::values(&bytes)))
    }

    /// Reads a whole device.
    pub fn read(&mut self, part: Part) -> Option<Result<Vec<u32>, String>> {
        let device = self.device(part)?;
        self.io(device, RequestKind::Read, 0, vec![0; SECTORS * 512])
    }

    pub fn content(&mut self, part: Part) -> Option<&mut Content> {
        match part {
            Lower | Top => Some(&mut self.disk),
            Ground => Some(&mut self.ground),
            Upper => self.upper.as_mut().map(|known| &mut known.content),
        }
    }

    pub fn write(&mut self, part: Part, sector: usize) {
        let Some(device) = self.device(part) else { return };
        let passes = part == Lower && self.is_merging();
        if passes || part == Ground && self.lower.is_none() {
            // It is refused; or its snapshot would be lost, which the lives are not about.
            return;
        }
        self.next_value += 1;
        let value = self.next_value;
        if let (Lower | Top, None, Some((_, changed))) = (part, &self.upper, &mut self.left) {
            *changed = true;
        }
        self.content(part).unwrap().begin(sector, value);
        let kind = RequestKind::Write { fua: false };
        let done = self.io(device, kind, sector, model::sector(value));
        if matches!(done, Some(Ok(_))) && !self.town.site.is_dead() {
            self.content(part).unwrap().acknowledge(sector, value);
        }
    }

    pub fn set_use(&mut self, part: Part, in_use: bool) {
        let Some(DeviceRef { id, .. }) = self.device(part) else { return };
        if let Some(device) = self.town.site.kernel.borrow_mut().devices.get_mut(&id) {
            device.in_use = in_use;
        }
    }

    pub fn strike_gone(&mut self) {
        let kernel = self.town.site.kernel.borrow();
        let is_there = |device: DeviceRef| {
            let found = kernel.devices.get(&device.id);
            found.is_some_and(|found| is_ours(&found.info, device.cookie))
        };
        self.lower = self.lower.filter(|device| is_there(*device));
        self.under.retain(|_, device| is_there(*device));
        match self.upper.take() {
            Some(known) if is_there(known.device) => self.upper = Some(known),
            Some(known) if known.owed => self.left = Some((known.content, false)),
            Some(_) => self.left = None,
            None => {}
        }
    }

    /// What a snapshot shows that is added now; `None`: its store must not be used.
    pub fn shown(&self) -> Option<Content> {
        match &self.left {
            None => Some(self.disk.frozen()),
            Some((content, false)) => Some(content.clone()),
            Some((_, true)) => None,
        }
    }
}

/// Whether it is an origin's device: that of the carried one, or of a disk.
pub(super) fn is_origins(device: &DeviceState, carried: bool) -> bool {
    let name = device.spec.table.params.name();
    matches!(name, "snapshot-origin" | "snapshot-merge") && device.carrier().is_some() == carried
}
