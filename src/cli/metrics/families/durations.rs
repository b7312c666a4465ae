//! The histograms of how long requests take.

use std::collections::HashMap;
use std::fmt;

use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::exemplar::Exemplar;
use prometheus_client::registry::Unit;

use crate::protocol::{BOUNDS_NS, Durations, Histogram};

const HELP: &str = "Time from the arrival of a request at the server to its end";
/// Nanoseconds of a second.
const NS: f64 = 1e9;

/// Nobody has exemplars.
const NONE: Option<&HashMap<usize, Exemplar<NoLabelSet, f64>>> = None;

/// The kinds of requests, as a label has them.
fn kinds(all: &Durations) -> [(&'static str, &Histogram); 4] {
    [
        ("read", &all.reads),
        ("write", &all.writes),
        ("flush", &all.flushes),
        ("discard", &all.discards),
    ]
}

/// Encodes the durations of devices, each with the labels of its device.
pub(super) fn encode<'a>(
    devices: impl Iterator<Item = ([(&'static str, String); 2], &'a Durations)>,
    encoder: &mut DescriptorEncoder<'_>,
) -> fmt::Result {
    let mut devices = devices.peekable();
    if devices.peek().is_none() {
        return Ok(());
    }
    let unit = Some(&Unit::Seconds);
    let kind = MetricType::Histogram;
    let mut metric = encoder.encode_descriptor("request_duration", HELP, unit, kind)?;
    for ([device, name], all) in devices {
        for (operation, histogram) in kinds(all) {
            // Another version's server has other ranges.
            let Some(buckets) = buckets(histogram) else { continue };
            let labels = [device.clone(), name.clone(), ("operation", operation.to_owned())];
            let labels = labels.to_vec();
            let (sum, count) = (seconds(histogram.sum_ns), histogram.counts.iter().sum());
            metric.encode_family(&labels)?.encode_histogram(sum, count, &buckets, NONE)?;
        }
    }
    Ok(())
}

/// The ranges with their bounds in seconds; `None`: they are not those of this version.
fn buckets(of: &Histogram) -> Option<Vec<(f64, u64)>> {
    if of.counts.len() != BOUNDS_NS.len() + 1 {
        return None;
    }
    let bounds = BOUNDS_NS.iter().map(|ns| seconds(*ns)).chain([f64::INFINITY]);
    Some(bounds.zip(of.counts.iter().copied()).collect())
}

/// Exact enough: a sum of more than 2^53 ns, 104 days, loses nanoseconds.
#[allow(clippy::cast_precision_loss)]
fn seconds(ns: u64) -> f64 {
    ns as f64 / NS
}
