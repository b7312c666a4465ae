//! `save`: what runs now, as lines of the tab file.
//!
//! Rules kept here: a line that is written makes the same device after the next start of the
//! machine. So disks are named by what stays the same, a mirror is not told again that its legs are
//! equal, and a device of which no line can say that is refused. No device has two lines: one that
//! was renamed has that of its former name. What a person wrote stays: comments, other lines, and
//! the options of the lines that are renewed.

mod beside;
mod names;
mod tables;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use dm_targets::mirror::table::{InitialSync, MirrorLog};
use dm_targets::table::{Table, TargetParams};

use serde_json::json;

use self::names::{Device, Names};
use self::tables::Machine;
use super::args::Common;
use super::client::{Family, Known, open_rundir};
use super::json;
use super::results;
use super::running::Running;
use super::stand_in;
use super::terminal::print;
use super::verdict::verdict;
use crate::failure::{Failure, Reason};
use crate::protocol::{DeviceReport, DeviceState, OnServerDeath};
use crate::rundir::durable;
use crate::storage::{DiskId, lasting_path, ublk_number};
use crate::tab::change::{Line, changed};
use crate::tab::{Disk, Entry, Options, Tab, files};

/// What serializes the commands that write the tab file.
const LOCK: &str = "tab";
/// The mode of a new tab file, like those of other tables in `/etc`.
const MODE: u32 = 0o644;
/// The word for stdout.
const STDOUT: &str = "-";

pub(super) fn save(words: &[String], stdout: bool) -> Result<(), Failure> {
    let rundir = open_rundir()?;
    let prints = stdout || words.iter().any(|word| word == STDOUT);
    let words: Vec<&String> = words.iter().filter(|word| *word != STDOUT).collect();
    let running = Running::of(&rundir)?;
    let known = running.known();
    let states: Vec<DeviceState> =
        rundir.states_beside(None)?.into_iter().flat_map(|state| state.devices).collect();
    let (mut chosen, mut problems) = (Vec::new(), Vec::new());
    if words.is_empty() {
        problems.extend(known.problems.iter().cloned());
        chosen = known.devices();
        // They end with their mirrors.
        chosen.retain(|device| !stand_in::is_one(device));
    }
    for word in &words {
        match known.find(word) {
            Ok((_, device)) => chosen.push(device),
            Err(why) => problems.push(why),
        }
    }
    // Another command must not write in between.
    let _lock = if prints { None } else { Some(rundir.lock_family(LOCK, "save")?) };
    let tab = files::read()?;
    let text = files::text_of(&tab.path)?;
    let saving = Saving::of(&running, &states, &tab);
    let mut devices = Vec::new();
    for device in chosen {
        match saving.line(device) {
            Ok(Some(line)) => devices.push(line),
            Ok(None) if words.is_empty() => {
                log::warn!(
                    "{}: not saved: a transient snapshot ends with the machine",
                    device.name
                );
            }
            Ok(None) => problems.push(
                format!("{}: a transient snapshot ends with the machine", device.name).into(),
            ),
            Err(why) => problems.push(why.context(&device.name)),
        }
    }
    devices.retain(|line| !saving.is_beside(line, &mut problems));
    saving.refuse_taken_names(&mut devices, &mut problems);
    let (lines, new, more) = changed(&text, &devices);
    problems.extend(more);
    let writes = !prints && new != text;
    if writes {
        write(&tab.path, &new)?;
        devices.iter().for_each(|line| saving.tell_of_name(line));
    }
    let file = tab.path.display();
    let object = || json!({ "file": file.to_string(), "written": writes, "lines": lines });
    match prints && !json::is_on() {
        true => lines.iter().try_for_each(|line| print(line))?,
        false => results::show(object)?,
    }
    verdict(problems)
}

/// Replaces the tab file, whose mode stays. A link to it stays a link.
fn write(path: &Path, text: &str) -> Result<(), Failure> {
    let path = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let mode = std::fs::metadata(&path).map_or(MODE, |found| found.permissions().mode() & 0o7777);
    durable::replace_with_mode(&path, text.as_bytes(), mode)
        .map_err(|error| Failure::at(&path, error))
}

/// What the lines of devices depend on.
struct Saving<'a> {
    running: &'a Running,
    known: &'a Known,
    states: &'a [DeviceState],
    tab: &'a Tab,
    /// The names of devices, by those that their lines have.
    names: Names,
}

impl<'a> Saving<'a> {
    fn of(running: &'a Running, states: &'a [DeviceState], tab: &'a Tab) -> Saving<'a> {
        let known = running.known();
        let mut saving = Saving { running, known, states, tab, names: Names::new() };
        let uuid = |id| states.iter().find(|one| one.id == id)?.spec.options.uuid.as_deref();
        let devices = known.devices().into_iter().filter(|device| !stand_in::is_one(device));
        let devices = devices.map(|it| Device { name: &it.name, id: it.id, uuid: uuid(it.id) });
        let tables = Machine { running, states };
        saving.names = names::find(&tab.entries, &devices.collect::<Vec<_>>(), &tables);
        saving
    }

    /// The name on a device's line, or what it is to be.
    fn name_on_line<'b>(&'b self, name: &'b str) -> &'b str {
        let former = self.names.iter().find(|(_, new)| *new == name).map(|(old, _)| old.as_str());
        former.unwrap_or(name)
    }

    /// The line of a device, which may be of another name.
    fn entry(&self, name: &str) -> Option<&'a Entry> {
        let on_line = self.name_on_line(name);
        // The line with its name may be another device's.
        if on_line == name && self.names.contains_key(name) {
            return None;
        }
        self.tab.find(on_line).ok()
    }

    /// The line of a device, in parts; `None`: the device ends with the machine.
    fn line(&self, device: &DeviceReport) -> Result<Option<Line>, Failure> {
        let state = self.states.iter().find(|state| state.device() == device.device());
        let state = state.ok_or("it is not in its server's state file")?;
        let name = state.name.clone();
        if let Some(wrong) = self.tab.wrong.iter().find(|it| it.name.as_ref() == Some(&name)) {
            return Err(wrong.why.clone().context("it has a line that cannot be used"));
        }
        if stand_in::is_one(device) {
            return Err("it stands in for a leg that is not there: save the mirror".into());
        }
        let mut table = state.spec.table.clone();
        match &mut table.params {
            TargetParams::Snapshot(snapshot) if snapshot.store.is_transient() => return Ok(None),
            TargetParams::SnapshotMerge(_) => {
                let hint = "save it when the merge has ended";
                return Err(format!("a snapshot is being merged into it: {hint}").into());
            }
            TargetParams::Error if state.loaded.is_some() => {
                return Err("another table is loaded for it: resume it first".into());
            }
            // Once is enough: afterwards the log knows, and without one nothing does.
            TargetParams::Mirror(mirror) => mirror.initial_sync = InitialSync::FromLog,
            _ => {}
        }
        self.put_back_lost_legs(&name, &mut table)?;
        let table = table.with_devices(|word| Ok::<_, Failure>(self.word(word)))?;
        if state.spec.force && self.entry(&name).is_none() {
            log::warn!("{name}: it was made with --force, which is not saved");
        }
        let options = self.options(device, state, &table);
        self.warn_of_twin(device, &options);
        let was = self.name_on_line(&name).to_owned();
        Ok(Some(Line { name, was, table, options }))
    }

    /// Puts the disks of its line in the place of the devices that stand in for a mirror's legs:
    /// the next start looks for them again.
    fn put_back_lost_legs(&self, name: &str, table: &mut Table) -> Result<(), Failure> {
        let TargetParams::Mirror(mirror) = &mut table.params else { return Ok(()) };
        let count = mirror.legs.len();
        let line = match self.entry(name).map(|entry| &entry.table.params) {
            Some(TargetParams::Mirror(line)) if line.legs.len() == count => Some(line),
            _ => None,
        };
        for (at, leg) in mirror.legs.iter_mut().enumerate() {
            let id = DiskId::of_path(Path::new(&leg.device)).ok().and_then(ublk_number);
            let mut devices = self.known.devices().into_iter();
            if !devices.any(|device| Some(device.id) == id && stand_in::is_one(device)) {
                continue;
            }
            let path = line.map(|line| line.legs[at].device.clone());
            leg.device = path.ok_or_else(|| {
                let hint = "replace or remove the leg first";
                format!("it runs without leg {at}, and no line says which disk it was: {hint}")
            })?;
        }
        Ok(())
    }

    /// Warns of another line that may be for the same device.
    fn warn_of_twin(&self, device: &DeviceReport, options: &Options) {
        let name = device.name.as_str();
        let (is_new, own) = (self.entry(name).is_none(), self.name_on_line(name));
        for twin in self.tab.entries.iter().filter(|it| it.name != own) {
            let has_uuid = twin.options.uuid.is_some() && twin.options.uuid == options.uuid;
            let is_up = self.running.device(&twin.name).is_some();
            let has_disks = !twin.table.params.devices().is_empty();
            let same = || !is_up && has_disks && self.running.has_table_of(device, twin);
            let what = match has_uuid {
                true => "uuid",
                false if is_new && same() => "table",
                false => continue,
            };
            let Entry { place, name: other, .. } = twin;
            log::warn!("{name}: {place}: {other} has the same {what}: remove one of the lines");
        }
    }

    /// The number for the line of a device, unless another line has it: `up` could not make both.
    fn number(&self, name: &str, id: u32) -> Option<u32> {
        let own = self.name_on_line(name);
        let has_it = |it: &&Entry| it.name != own && it.options.id == Some(id);
        let other = self.tab.entries.iter().find(has_it).filter(|_| self.entry(name).is_none());
        if let Some(Entry { place, name: other, .. }) = other {
            log::warn!("{name}: saved without its number: {place}: {other} has id={id}");
        }
        other.is_none().then_some(id)
    }

    /// Takes out devices whose name is on the line of another one that is not saved with them.
    fn refuse_taken_names(&self, lines: &mut Vec<Line>, problems: &mut Vec<Reason>) {
        let saved: Vec<String> = lines.iter().map(|line| line.name.clone()).collect();
        lines.retain(|line| {
            let name = &line.name;
            let Some(other) = self.names.get(name).filter(|other| !saved.contains(other)) else {
                return true;
            };
            let why = format!(
                "{name}: the line with this name is that of {other}, which was renamed: run \
                 `ublk-dm save {name} {other}`"
            );
            problems.push(why.into());
            false
        });
    }

    /// Says that a line has another name now.
    fn tell_of_name(&self, Line { name, was, .. }: &Line) {
        let Ok(Entry { place, .. }) = self.tab.find(was) else { return };
        if was != name {
            let what = "fstab and services that have the old name are yours to change";
            log::warn!("{name}: {place}: the line of {was}, as it was called, is renamed; {what}");
        }
    }

    /// The options of a device that has no line yet.
    fn options(&self, device: &DeviceReport, state: &DeviceState, table: &Table) -> Options {
        let options = &state.spec.options;
        let default = Common::unnamed();
        let fails = options.recovery && options.on_server_death == OnServerDeath::Fail;
        Options {
            id: self.number(&state.name, state.id),
            queues: (options.queues != default.queues).then_some(options.queues),
            depth: (options.depth != default.depth).then_some(options.depth),
            read_only: options.read_only,
            no_zero_copy: !options.zero_copy,
            no_recovery: !options.recovery,
            on_server_death: fails.then_some(OnServerDeath::Fail),
            uuid: options.uuid.clone(),
            shared: state.spec.unclaimed,
            source: source_of(device, table),
            beside: self.beside(device, state),
            ..Options::default()
        }
    }

    /// The word of a disk: the name of a device, or a path that stays the same.
    fn word(&self, path: &str) -> String {
        let id = DiskId::of_path(Path::new(path)).ok().and_then(ublk_number);
        let lower =
            id.and_then(|id| self.known.devices().into_iter().find(|device| device.id == id));
        // A name with a colon may look like the numbers of a disk.
        if let Some(lower) = lower.filter(|lower| !lower.name.contains(':')) {
            return lower.name.clone();
        }
        let lasting = lasting_path(Path::new(path));
        lasting.to_str().map_or_else(|| path.to_owned(), str::to_owned)
    }

    /// The device of the same server beside which one made of ranges was put.
    fn beside(&self, device: &DeviceReport, state: &DeviceState) -> Option<String> {
        let has = |family: &&Family| family.devices.iter().any(|it| it.id == device.id);
        let family = self.known.families.iter().find(has)?;
        let is_here = |one: &&DeviceState| {
            let mut here = family.devices.iter().filter(|it| !stand_in::is_one(it));
            here.any(|it| it.device() == one.device())
        };
        let family: Vec<&DeviceState> = self.states.iter().filter(is_here).collect();
        let id = |word: &str| DiskId::of_path(Path::new(word)).ok();
        let same = |one: &str, other: &str| {
            one == other || id(one).is_some_and(|it| id(other) == Some(it))
        };
        beside::beside(state, &family, &same).map(|one| one.name.clone())
    }

    /// Whether a device has its line in a file beside the tab file, which is not written.
    fn is_beside(&self, line: &Line, problems: &mut Vec<Reason>) -> bool {
        let (name, table) = (&line.name, &line.table);
        let Some(entry) = self.entry(name) else { return false };
        if entry.place.file == self.tab.path {
            return false;
        }
        if entry.name != *name {
            let why = format!("{name}: {} has it as {}: change it there", entry.place, entry.name);
            problems.push(why.into());
        } else if self.plain(&entry.table).ok() != self.plain(table).ok() {
            let why = format!("{name}: {} has another table: change it there", entry.place);
            problems.push(why.into());
        }
        true
    }

    /// A table with the words that a line has for its disks.
    fn plain(&self, table: &Table) -> Result<Table, Failure> {
        table.with_devices(|word| {
            Ok::<_, Failure>(match Disk::of(word) {
                Disk::Named(name) => name.to_owned(),
                Disk::Path(path) => self.word(path),
            })
        })
    }
}

/// The leg that a mirror without a log on a disk is read from, if it is not the first: only this
/// one is known to be right.
fn source_of(device: &DeviceReport, table: &Table) -> Option<String> {
    let TargetParams::Mirror(mirror) = &table.params else { return None };
    let place = device.object.mirror()?.legs.iter().position(|leg| leg.default == Some(true))?;
    let needs_source = mirror.log == MirrorLog::Core && place > 0;
    needs_source.then(|| mirror.legs.get(place).map(|leg| leg.device.clone()))?
}
