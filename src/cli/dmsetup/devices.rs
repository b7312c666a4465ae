//! All devices as dmsetup sees them: by name, with their tables in numbers of disks, and which
//! stands on which.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use dm_targets::table::Table;

use crate::cli::client::{Known, must_answer, open_rundir};
use crate::failure::{Failure, Reason};
use crate::protocol::{DeviceReport, RunState};
use crate::rundir::Reserved;
use crate::server::orphan;
use crate::storage::{DiskId, user_of};
use crate::ublk::device::BLOCK_PATH;

/// Where device-mapper has the nodes of its devices, and udev the links to ours.
const NODES: [&str; 2] = ["/dev/mapper/", "/dev/ublk-dm/"];

/// The number of a block device.
pub(super) type Number = (u32, u32);

/// A device.
pub(super) struct One {
    pub name: String,
    pub uuid: Option<String>,
    /// The N of /dev/ublkbN; one without a table has none, or is to have this.
    pub id: Option<u32>,
    /// `None`: it is no block device yet, or not any more.
    pub number: Option<Number>,
    pub is_suspended: bool,
    pub is_read_only: bool,
    /// Its lines, with the numbers of disks; `None`: it has no table.
    pub table: Option<String>,
    pub status: String,
    /// The lines that are loaded.
    pub inactive: Option<String>,
    pub events: u32,
    /// Why its server cannot be asked.
    pub silent: Option<Reason>,
    /// Its server is gone.
    pub is_orphan: bool,
}

impl One {
    fn of(report: &DeviceReport) -> One {
        let object = &report.object;
        let inactive = report.inactive.as_deref().map(|lines| match Table::parse_table(lines) {
            Ok(table) => orphan::with_numbers(&table),
            Err(_) => lines.to_owned(),
        });
        One {
            name: report.name.clone(),
            uuid: object.uuid.clone(),
            id: Some(report.id),
            number: object.major.zip(object.minor),
            is_suspended: object.state != RunState::Live,
            is_read_only: object.read_only,
            table: Some(report.table.clone()),
            status: report.status.clone(),
            inactive,
            events: object.events.unwrap_or(0),
            silent: must_answer(report).err(),
            is_orphan: matches!(object.state, RunState::Quiesced | RunState::Dead),
        }
    }

    fn without_table(reserved: &Reserved) -> One {
        One {
            name: reserved.name.clone(),
            uuid: reserved.options.uuid.clone(),
            id: reserved.id,
            number: None,
            is_suspended: false,
            is_read_only: reserved.options.read_only,
            table: None,
            status: String::new(),
            inactive: reserved.loaded.as_ref().map(|spec| orphan::with_numbers(&spec.table)),
            events: 0,
            silent: None,
            is_orphan: false,
        }
    }

    /// The word by which the verbs know it, whatever else has its name.
    pub fn word(&self) -> String {
        match (self.id, &self.table) {
            (Some(id), Some(_)) => format!("{BLOCK_PATH}{id}"),
            _ => self.name.clone(),
        }
    }

    /// The lines that a command is about, `of` the live table or the status.
    pub fn lines<'a>(&'a self, of: &'a str) -> impl Iterator<Item = Line<'a>> {
        of.split('\n').filter(|line| !line.is_empty()).map(Line::of)
    }

    /// How many lines its table has.
    pub fn segments(&self) -> usize {
        self.table.as_deref().map_or(0, |table| table.split('\n').count())
    }

    /// The disks of the live table, or of the loaded one, in device-mapper's order: the one that a
    /// table names first is the last.
    pub fn disks(&self, inactive: bool) -> Vec<Number> {
        let lines = if inactive { &self.inactive } else { &self.table };
        lines.as_deref().map_or_else(Vec::new, disks_of)
    }

    /// `MAJ:MIN`; a device without a table has no numbers.
    pub fn devno(&self) -> String {
        self.number.map_or_else(|| "-:-".to_owned(), shown)
    }

    /// The kernel's name of it.
    pub fn block_name(&self) -> Option<String> {
        self.number.map(block_name)
    }

    /// Its path, as a program can open it.
    pub fn path(&self) -> String {
        let link = format!("{}{}", NODES[1], self.name);
        if Path::new(&link).exists() { link } else { self.word() }
    }

    /// In sectors; `None`: there is no block device.
    pub fn read_ahead(&self) -> Option<u64> {
        let (major, minor) = self.number?;
        let path = format!("/sys/dev/block/{major}:{minor}/queue/read_ahead_kb");
        let kib: u64 = fs::read_to_string(path).ok()?.trim().parse().ok()?;
        Some(kib * 2)
    }

    /// The letters of `info -c`.
    pub fn attributes(&self) -> String {
        let letter = |is: bool, letter: char| if is { letter } else { '-' };
        [
            letter(self.table.is_some(), 'L'),
            letter(self.inactive.is_some(), 'I'),
            letter(self.is_suspended, 's'),
            if self.is_read_only { 'r' } else { 'w' },
        ]
        .iter()
        .collect()
    }
}

/// A line of a table or a status.
pub(super) struct Line<'a> {
    /// START and LENGTH.
    range: String,
    pub target: &'a str,
    arguments: &'a str,
}

impl<'a> Line<'a> {
    fn of(line: &'a str) -> Line<'a> {
        let mut words = line.splitn(4, ' ');
        let mut next = || words.next().unwrap_or_default();
        let range = format!("{} {}", next(), next());
        Line { range, target: next(), arguments: next() }
    }

    /// The same without arguments.
    pub fn bare(&self) -> String {
        format!("{} {} ", self.range, self.target)
    }

    /// As device-mapper prints it: a target without arguments has a space after it.
    pub fn printed(&self) -> String {
        format!("{} {} {}", self.range, self.target, self.arguments)
    }
}

/// The disks of a table, the last one first, each once.
fn disks_of(lines: &str) -> Vec<Number> {
    let words = Table::parse_table(lines).map(|mut table| {
        let words: Vec<String> =
            table.params.devices_mut().into_iter().map(|w| w.clone()).collect();
        words
    });
    let mut found: Vec<Number> = Vec::new();
    for number in words.unwrap_or_default().iter().filter_map(|word| number_of(word)) {
        if !found.contains(&number) {
            found.push(number);
        }
    }
    found.reverse();
    found
}

/// `MAJ:MIN`, read.
fn number_of(word: &str) -> Option<Number> {
    let (major, minor) = word.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// `MAJ:MIN`, written.
pub(super) fn shown((major, minor): Number) -> String {
    format!("{major}:{minor}")
}

/// The kernel's name of a block device, or its number.
pub(super) fn block_name(number: Number) -> String {
    let link = fs::read_link(format!("/sys/dev/block/{}", shown(number)));
    let name = link.ok().and_then(|path| Some(path.file_name()?.to_str()?.to_owned()));
    name.unwrap_or_else(|| shown(number))
}

/// All devices, by name.
pub(super) struct All {
    pub ones: Vec<One>,
    /// What could not be found out.
    pub problems: Vec<Reason>,
}

impl All {
    /// Asks all servers.
    pub fn read() -> Result<All, Failure> {
        let known = Known::of(&open_rundir()?)?;
        let served = known.devices().into_iter().map(One::of);
        let mut ones: Vec<One> =
            served.chain(known.reserved.iter().map(One::without_table)).collect();
        ones.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(All { ones, problems: known.problems })
    }

    /// The device that a word names: its name, or a path that ends in it. A bare number is a name.
    pub fn named(&self, word: &str) -> Option<&One> {
        let by_path = |one: &&One| one.table.is_some() && one.word() == word;
        let name = NODES.iter().find_map(|dir| word.strip_prefix(dir)).unwrap_or(word);
        let found = self.ones.iter().find(|one| one.name == name);
        found.or_else(|| self.ones.iter().find(by_path))
    }

    /// The device with a uuid.
    pub fn with_uuid(&self, uuid: &str) -> Option<&One> {
        self.ones.iter().find(|one| one.uuid.as_deref() == Some(uuid))
    }

    /// The device with a number.
    pub fn numbered(&self, number: Number) -> Option<&One> {
        self.ones.iter().find(|one| one.number == Some(number))
    }

    /// The name of a device, of ublk-dm or device-mapper, or the kernel's name of another disk.
    pub fn device_name(&self, number: Number) -> String {
        if let Some(one) = self.numbered(number) {
            return one.name.clone();
        }
        let named = fs::read_to_string(format!("/sys/dev/block/{}/dm/name", shown(number)));
        named.map_or_else(|_| block_name(number), |name| name.trim().to_owned())
    }

    /// The devices that stand on one.
    pub fn above<'a>(&'a self, one: &One) -> impl Iterator<Item = &'a One> {
        let number = one.number;
        let stands = move |upper: &&One| number.is_some_and(|it| upper.disks(false).contains(&it));
        self.ones.iter().filter(stands)
    }

    /// How often a device is open: ublk does not count, so it is the number of devices that stand
    /// on it, or 1 for any other user.
    pub fn opens(&self, one: &One) -> usize {
        let Some((major, minor)) = one.number else { return 0 };
        match self.above(one).count() {
            0 => usize::from(user_of(DiskId::Block { major, minor }).is_some()),
            above => above,
        }
    }

    /// The disks below all devices that are none of these, in the order in which they are found.
    pub fn leaves(&self) -> Vec<Number> {
        let mut seen = BTreeSet::new();
        let all = self.ones.iter().flat_map(|one| one.disks(false));
        all.filter(|number| self.numbered(*number).is_none() && seen.insert(*number)).collect()
    }
}

#[cfg(test)]
pub(super) mod tests;
