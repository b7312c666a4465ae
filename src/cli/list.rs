//! `list`: the devices in columns, for people, and as one object.
//!
//! Rules kept here: a column has one word for each device, so that scripts can take lines apart;
//! what is not known is `-`; and HEALTH names what needs attention first.

use clap::{Args, ValueEnum};
use serde::Serialize;

use super::client::{Known, open_rundir};
use super::health;
use super::json;
use super::terminal::print;
use super::verdict::verdict;
use crate::failure::{Failure, wrong_usage};
use crate::protocol::{DeviceObject, Health, MergeObject, SnapshotObject, TargetObject};
use crate::rundir::Reserved;

/// The flags of `list`.
#[derive(Args)]
pub struct List {
    /// The columns, with commas between them
    #[arg(short, long, value_name = "FIELDS", value_delimiter = ',', value_enum)]
    output: Vec<Field>,
    /// Do not print the line with the names of the columns
    #[arg(long)]
    no_headings: bool,
}

/// A column.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Field {
    /// The device's name
    Name,
    /// Its name for programs, if it has one
    Uuid,
    /// Its ublk id
    Id,
    /// /dev/ublkbN
    Device,
    /// Its size, in units of 1024
    Size,
    /// Its size in bytes
    Bytes,
    /// The target of its table
    Target,
    /// For a snapshot: how much of the COW is used, in percent
    Used,
    /// live, suspended, quiesced (no server: I/O waits) or dead
    State,
    /// One word about the device: ok, or what needs attention
    Health,
    /// The process that serves it
    Pid,
    /// Its event counter
    Events,
    /// The disks below it, with commas between them
    Disks,
}

impl Field {
    /// Those that are printed by default.
    const DEFAULT: [Field; 7] = [
        Field::Name,
        Field::Device,
        Field::Size,
        Field::Target,
        Field::Used,
        Field::Health,
        Field::Disks,
    ];

    fn heading(self) -> &'static str {
        match self {
            Field::Name => "NAME",
            Field::Uuid => "UUID",
            Field::Id => "ID",
            Field::Device => "DEVICE",
            Field::Size => "SIZE",
            Field::Bytes => "BYTES",
            Field::Target => "TARGET",
            Field::Used => "USED%",
            Field::State => "STATE",
            Field::Health => "HEALTH",
            Field::Pid => "PID",
            Field::Events => "EVENTS",
            Field::Disks => "DISKS",
        }
    }

    /// Whether its words stand at the right.
    fn is_number(self) -> bool {
        use Field::{Bytes, Events, Id, Pid, Size, Used};
        matches!(self, Id | Size | Bytes | Used | Pid | Events)
    }

    fn of(self, device: &DeviceObject) -> String {
        let or_dash = |word: Option<String>| word.unwrap_or_else(|| "-".to_owned());
        match self {
            Field::Name => device.name.clone(),
            Field::Uuid => or_dash(device.uuid.clone()),
            Field::Id => device.id.to_string(),
            Field::Device => device.block_device.clone(),
            Field::Size => size_of(device.size_bytes),
            Field::Bytes => device.size_bytes.to_string(),
            Field::Target => device.target.clone(),
            Field::Used => or_dash(snapshot_of(device).and_then(used)),
            Field::State => device.state.word().to_owned(),
            Field::Health => health_of(device),
            Field::Pid => or_dash(device.server_pid.map(|pid| pid.to_string())),
            Field::Events => or_dash(device.events.map(|events| events.to_string())),
            Field::Disks => or_dash(Some(disks_of(device)).filter(|disks| !disks.is_empty())),
        }
    }

    /// The same of a device that has no table yet.
    fn of_reserved(self, one: &Reserved) -> String {
        match self {
            Field::Name => one.name.clone(),
            Field::Uuid => one.options.uuid.clone().unwrap_or_else(|| "-".to_owned()),
            Field::Id => one.id.map_or_else(|| "-".to_owned(), |id| id.to_string()),
            Field::Health | Field::State => "no-table".to_owned(),
            _ => "-".to_owned(),
        }
    }
}

/// The object that `list --json` prints.
#[derive(Serialize)]
struct Listing<'a> {
    devices: Vec<&'a DeviceObject>,
    /// Names that `create --notable` has taken.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    without_table: Vec<WithoutTable<'a>>,
}

/// A device without a table.
#[derive(Serialize)]
struct WithoutTable<'a> {
    name: &'a str,
    uuid: Option<&'a str>,
    id: Option<u32>,
    inactive_table: Option<String>,
}

impl WithoutTable<'_> {
    fn of(one: &Reserved) -> WithoutTable<'_> {
        let inactive_table = one.loaded.as_ref().map(|spec| spec.table.to_string());
        WithoutTable {
            name: &one.name,
            uuid: one.options.uuid.as_deref(),
            id: one.id,
            inactive_table,
        }
    }
}

pub(super) fn list(list: &List) -> Result<(), Failure> {
    if json::is_on() && (list.no_headings || !list.output.is_empty()) {
        return Err(wrong_usage("list: --json has all fields: not with -o or --no-headings"));
    }
    let known = Known::of(&open_rundir()?)?;
    if json::is_on() {
        let devices = known.devices().into_iter().map(|device| &device.object).collect();
        let without_table = known.reserved.iter().map(WithoutTable::of).collect();
        print(&json::line_of(&Listing { devices, without_table })?)?;
        return verdict(known.problems);
    }
    let fields = if list.output.is_empty() { &Field::DEFAULT[..] } else { &list.output };
    let line = |of: &dyn Fn(Field) -> String| fields.iter().map(|field| of(*field)).collect();
    let mut lines: Vec<Vec<String>> = Vec::new();
    lines.extend(known.devices().into_iter().map(|one| line(&|field| field.of(&one.object))));
    lines.extend(known.reserved.iter().map(|one| line(&|field| field.of_reserved(one))));
    if !lines.is_empty() && !list.no_headings {
        lines.insert(0, line(&|field| field.heading().to_owned()));
    }
    aligned(fields, &lines).iter().try_for_each(|line| print(line))?;
    verdict(known.problems)
}

/// Lines of words, in columns.
fn aligned(fields: &[Field], lines: &[Vec<String>]) -> Vec<String> {
    let width = |at: usize| lines.iter().map(|line| line[at].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..fields.len()).map(width).collect();
    let aligned = |line: &Vec<String>| {
        let words = line.iter().zip(fields.iter().zip(&widths));
        let words = words.map(|(word, (field, width))| match field.is_number() {
            true => format!("{word:>width$}"),
            false => format!("{word:<width$}"),
        });
        words.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    lines.iter().map(aligned).collect()
}

/// A size in the largest unit of which there is one, with a decimal if it is no whole number.
fn size_of(bytes: u64) -> String {
    const UNITS: [(&str, u32); 6] =
        [("E", 60), ("P", 50), ("T", 40), ("G", 30), ("M", 20), ("K", 10)];
    let Some((unit, shift)) = UNITS.into_iter().find(|(_, shift)| bytes >> shift > 0) else {
        return format!("{bytes}B");
    };
    let tenths = (u128::from(bytes) * 10) >> shift;
    match tenths % 10 {
        0 => format!("{}{unit}", tenths / 10),
        tenth => format!("{}.{tenth}{unit}", tenths / 10),
    }
}

fn snapshot_of(device: &DeviceObject) -> Option<&SnapshotObject> {
    match &device.parts {
        Some(TargetObject::Snapshot(snapshot)) => Some(snapshot),
        _ => None,
    }
}

/// How much of a COW is used, rounded up: 100 is full.
fn used(snapshot: &SnapshotObject) -> Option<String> {
    let (used, total) = (u128::from(snapshot.used_bytes?), u128::from(snapshot.total_bytes?));
    (used * 100).checked_add(total.checked_sub(1)?)?.checked_div(total).map(|used| used.to_string())
}

/// One word about a device, with the share of a merge or a recovery that is done.
fn health_of(device: &DeviceObject) -> String {
    let word = health::word_of(device);
    let share = match health::merge_of(device) {
        _ if word == Health::Recovering.word() => recovered(device),
        Some((of_merge, merge)) if word == of_merge => merged(merge),
        _ => None,
    };
    with_share(word, share)
}

fn with_share(word: &str, percent: Option<u128>) -> String {
    percent.map_or_else(|| word.to_owned(), |percent| format!("{word}:{percent}%"))
}

fn recovered(device: &DeviceObject) -> Option<u128> {
    let mirror = device.mirror()?;
    (u128::from(mirror.in_sync_regions?) * 100).checked_div(u128::from(mirror.regions?))
}

fn merged(merge: &MergeObject) -> Option<u128> {
    let total = u128::from(merge.merged_bytes) + u128::from(merge.left_bytes);
    (u128::from(merge.merged_bytes) * 100).checked_div(total)
}

/// What a device is made of.
fn disks_of(device: &DeviceObject) -> String {
    let mut paths: Vec<&str> = Vec::new();
    match &device.parts {
        Some(TargetObject::Snapshot(snapshot)) => {
            paths.extend([snapshot.origin.as_str(), &snapshot.cow]);
        }
        Some(TargetObject::Mirror(mirror)) => {
            paths.extend(mirror.legs.iter().map(|leg| leg.path.as_str()));
            paths.extend(Some(mirror.log.as_str()).filter(|log| *log != "core"));
        }
        Some(TargetObject::Origin(origin)) => paths.push(&origin.path),
        Some(TargetObject::Linear(linear)) => paths.push(&linear.path),
        Some(TargetObject::Segments(segments)) => {
            for path in segments.iter().filter_map(|segment| segment.path.as_deref()) {
                if !paths.contains(&path) {
                    paths.push(path);
                }
            }
        }
        None => {}
    }
    paths.join(",")
}

#[cfg(test)]
mod tests;
