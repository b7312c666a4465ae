//! The metrics of a device: names, help, units, and where each comes from in `list --json`.

mod durations;

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;

use crate::cli::health;
use crate::protocol::{
    DeviceObject, Durations, LegObject, MergeObject, MirrorObject, RunState, SnapshotObject,
    StatsObject, TargetObject,
};

/// A device whose metrics are written.
#[derive(Debug)]
pub(super) struct Measured {
    /// What `list --json` has of it.
    pub(super) object: DeviceObject,
    /// How long its requests have taken.
    pub(super) durations: Option<Durations>,
}

/// The devices whose metrics are written.
#[derive(Debug)]
pub(super) struct Devices(pub(super) Vec<Measured>);

type Label = (&'static str, String);

/// A sample: its labels beside those of the device, and its value.
type Sample = (Vec<Label>, u64);

/// A metric.
struct Family {
    name: &'static str,
    help: &'static str,
    in_bytes: bool,
    kind: MetricType,
    samples: fn(&DeviceObject) -> Vec<Sample>,
}

/// A value without further labels, if it is known.
fn one(value: Option<u64>) -> Vec<Sample> {
    value.map(|value| (Vec::new(), value)).into_iter().collect()
}

fn stat(device: &DeviceObject, of: fn(&StatsObject) -> u64) -> Vec<Sample> {
    one(device.stats.as_ref().map(of))
}

fn cow(device: &DeviceObject, of: fn(&SnapshotObject) -> Option<u64>) -> Vec<Sample> {
    match &device.parts {
        Some(TargetObject::Snapshot(snapshot)) => one(of(snapshot)),
        _ => Vec::new(),
    }
}

fn merge(device: &DeviceObject, of: fn(&MergeObject) -> u64) -> Vec<Sample> {
    match &device.parts {
        Some(TargetObject::Snapshot(SnapshotObject { merge: Some(merge), .. })) => {
            one(Some(of(merge)))
        }
        _ => Vec::new(),
    }
}

fn mirror(device: &DeviceObject, of: fn(&MirrorObject) -> Option<u64>) -> Vec<Sample> {
    one(device.mirror().and_then(of))
}

fn legs(device: &DeviceObject, of: impl Fn(&LegObject) -> Option<u64>) -> Vec<Sample> {
    let legs = device.mirror().map_or(&[][..], |mirror| &mirror.legs);
    let labels =
        |at: usize, leg: &LegObject| vec![("leg", at.to_string()), ("path", leg.path.clone())];
    let samples = legs.iter().enumerate().map(|(at, leg)| Some((labels(at, leg), of(leg)?)));
    samples.flatten().collect()
}

fn leg_errors(device: &DeviceObject) -> Vec<Sample> {
    type Count = fn(&LegObject) -> Option<u64>;
    let kinds: [(&str, Count); 4] = [
        ("read", |leg| leg.read_errors),
        ("write", |leg| leg.write_errors),
        ("flush", |leg| leg.flush_errors),
        ("sync", |leg| leg.sync_errors),
    ];
    let of = |(kind, count): (&str, Count)| {
        let samples = legs(device, count).into_iter();
        let kind = kind.to_owned();
        samples.map(move |(mut labels, value)| {
            labels.push(("kind", kind.clone()));
            (labels, value)
        })
    };
    kinds.into_iter().flat_map(of).collect()
}

/// One sample for each state that there is: 1 for that of the device.
fn states(device: &DeviceObject) -> Vec<Sample> {
    use RunState::{Dead, Live, Quiesced, Suspended};
    let all = [Live, Suspended, Quiesced, Dead];
    let sample =
        |state: RunState| (vec![("state", state.word().to_owned())], device.state == state);
    all.map(sample).map(|(labels, is)| (labels, u64::from(is))).into()
}

/// The same for each word of health, which are those of `list`.
fn healths(device: &DeviceObject) -> Vec<Sample> {
    let word = health::word_of(device);
    let sample = |one: &'static str| (vec![("health", one.to_owned())], u64::from(one == word));
    health::WORDS.map(sample).into()
}

const fn counter(
    name: &'static str,
    help: &'static str,
    samples: fn(&DeviceObject) -> Vec<Sample>,
) -> Family {
    Family { name, help, in_bytes: false, kind: MetricType::Counter, samples }
}

const fn gauge(
    name: &'static str,
    help: &'static str,
    samples: fn(&DeviceObject) -> Vec<Sample>,
) -> Family {
    Family { name, help, in_bytes: false, kind: MetricType::Gauge, samples }
}

impl Family {
    /// The same in bytes, which the encoder appends to the name.
    const fn bytes(mut self) -> Family {
        self.in_bytes = true;
        self
    }
}

/// What users have done, and what that has cost.
static OPERATIONS: [Family; 10] = [
    counter("reads", "Reads of users that have ended", |it| stat(it, |it| it.reads)),
    counter("read", "Bytes that users have read", |it| stat(it, |it| it.read_bytes)).bytes(),
    counter("writes", "Writes of users that have ended", |it| stat(it, |it| it.writes)),
    counter("written", "Bytes that users have written", |it| stat(it, |it| it.write_bytes)).bytes(),
    counter("flushes", "Flushes of users", |it| stat(it, |it| it.flushes)),
    counter("discards", "Discards of users", |it| stat(it, |it| it.discards)),
    counter("copies", "Chunks or regions that were copied", |it| stat(it, |it| it.copies)),
    counter("copied", "Bytes that were copied", |it| stat(it, |it| it.copy_bytes)).bytes(),
    counter("commits", "Commits of exceptions, or of a dirty log", |it| stat(it, |it| it.commits)),
    counter("errors", "Requests of users that have failed", |it| stat(it, |it| it.errors)),
];

/// What a device is.
static DEVICES: [Family; 4] = [
    gauge("size", "Size of the device", |it| one(Some(it.size_bytes))).bytes(),
    gauge("server_answers", "1 if the device has a server, and it answers", |it| {
        one(Some(u64::from(it.answers)))
    }),
    gauge("state", "1 for the state that the device is in", states),
    gauge("health", "1 for the health of the device", healths),
];

/// What only snapshots, merges and mirrors have.
static TARGETS: [Family; 13] = [
    gauge("cow_size", "Size of a snapshot's COW", |it| cow(it, |it| it.total_bytes)).bytes(),
    gauge("cow_used", "How much of a COW is used", |it| cow(it, |it| it.used_bytes)).bytes(),
    gauge("cow_metadata", "How much of a COW is metadata", |it| cow(it, |it| it.metadata_bytes))
        .bytes(),
    gauge("exceptions", "Chunks that a snapshot has of its own", |it| cow(it, |it| it.exceptions)),
    gauge("merge_left", "What a merge has not copied yet", |it| merge(it, |it| it.left_bytes))
        .bytes(),
    gauge("merged", "What a merge has copied since the server began it", |it| {
        merge(it, |it| it.merged_bytes)
    })
    .bytes(),
    gauge("regions", "Regions of a mirror", |it| mirror(it, |it| it.regions)),
    gauge("in_sync_regions", "Regions that are the same on all legs", |it| {
        mirror(it, |it| it.in_sync_regions)
    }),
    gauge("dirty_regions", "Regions that are being written", |it| {
        mirror(it, |it| it.dirty_regions)
    }),
    gauge("held_writes", "Writes that wait because no leg may be written", |it| {
        mirror(it, |it| it.held)
    }),
    gauge("leg_alive", "1 if no operation on the leg has failed", |it| {
        legs(it, |leg| leg.health.map(|letter| u64::from(letter == 'A')))
    }),
    gauge("leg_stale", "1 if the leg has missed writes", |it| {
        legs(it, |leg| leg.stale.map(u64::from))
    }),
    counter("leg_errors", "Operations on a leg that have failed", leg_errors),
];

impl Collector for Devices {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        for family in DEVICES.iter().chain(&OPERATIONS).chain(&TARGETS) {
            self.encode_family(family, &mut encoder)?;
        }
        let known = self.0.iter().filter_map(|one| {
            let durations = one.durations.as_ref()?;
            Some((labels_of(&one.object), durations))
        });
        durations::encode(known, &mut encoder)
    }
}

/// What each sample of a device has.
fn labels_of(device: &DeviceObject) -> [Label; 2] {
    [("device", format!("ublkb{}", device.id)), ("name", device.name.clone())]
}

impl Devices {
    fn encode_family(&self, family: &Family, encoder: &mut DescriptorEncoder) -> fmt::Result {
        let Family { name, help, in_bytes, kind, samples } = family;
        let labelled = |device: &Measured| {
            let own = labels_of(&device.object);
            let all = samples(&device.object).into_iter();
            all.map(move |(labels, value)| (own.iter().cloned().chain(labels).collect(), value))
                .collect::<Vec<(Vec<Label>, u64)>>()
        };
        let samples: Vec<_> = self.0.iter().flat_map(labelled).collect();
        if samples.is_empty() {
            return Ok(());
        }
        let unit = in_bytes.then_some(Unit::Bytes);
        let mut metric = encoder.encode_descriptor(name, help, unit.as_ref(), *kind)?;
        for (labels, value) in &samples {
            let metric = metric.encode_family(labels)?;
            match kind {
                MetricType::Counter => ConstCounter::new(*value).encode(metric)?,
                _ => ConstGauge::new(*value).encode(metric)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
