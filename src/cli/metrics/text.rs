//! The two texts of the metrics.

use std::fmt;

use prometheus_client::registry::Registry;

use super::families::{Devices, Measured};
use crate::cli::client::{Known, open_rundir};
use crate::failure::{Failure, Reason};
use crate::protocol::DeviceReport;

/// How metrics are written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Format {
    /// Version 0.0.4 of Prometheus' text.
    Prometheus,
    OpenMetrics,
}

/// The metrics of all devices, and why some could not be asked.
pub(super) fn collect(format: Format) -> Result<(String, Vec<Reason>), Failure> {
    let known = Known::of(&open_rundir()?)?;
    let measured = |device: &DeviceReport| Measured {
        object: device.object.clone(),
        durations: device.durations.clone(),
    };
    let devices = known.devices().into_iter().map(measured).collect();
    let mut registry = Registry::with_prefix("ublk_dm");
    registry.register_collector(Box::new(Devices(devices)));
    let mut text = String::new();
    written(format, &mut text, &registry)
        .map_err(|_: fmt::Error| Failure::from("the metrics cannot be written".to_owned()))?;
    Ok((text, known.problems))
}

pub(super) fn written(format: Format, text: &mut String, registry: &Registry) -> fmt::Result {
    match format {
        Format::Prometheus => prometheus_client::encoding::prometheus_text::encode(text, registry),
        Format::OpenMetrics => prometheus_client::encoding::text::encode(text, registry),
    }
}
