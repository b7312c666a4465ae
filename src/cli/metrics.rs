//! `metrics`: what Prometheus collects of the devices, once on stdout or for each scrape.
//!
//! Rules kept here: names, units and labels are Prometheus' own, and are a contract like the keys
//! of `--json`; what is not known of a device has no sample; a device whose server does not answer
//! is among them.

mod families;
mod listen;
mod text;

use clap::Args;

use self::text::{Format, collect};
use super::args::text::OnlyText;
use super::terminal::print_text;
use super::verdict::verdict;
use crate::failure::Failure;

/// The flags of `metrics`.
#[derive(Args)]
pub struct Metrics {
    /// Print OpenMetrics instead of Prometheus' own text, which its textfile collector needs
    #[arg(long, conflicts_with = "listen")]
    openmetrics: bool,
    /// Answer scrapes of /metrics: on a loopback address (127.0.0.1:9876), or on a Unix socket
    /// that is made at this path
    #[arg(long, value_name = "ADDR|SOCKET")]
    listen: Option<String>,
    #[command(flatten)]
    text: OnlyText,
}

pub(super) fn metrics(flags: &Metrics) -> Result<(), Failure> {
    if let Some(listen) = &flags.listen {
        return listen::serve(listen);
    }
    let format = if flags.openmetrics { Format::OpenMetrics } else { Format::Prometheus };
    let (text, problems) = collect(format)?;
    print_text(&text)?;
    verdict(problems)
}
