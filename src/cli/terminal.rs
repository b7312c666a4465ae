//! What a command prints for people: results on stdout, bars where there is a terminal.

use std::io::{IsTerminal, Write};

use dm_targets::units::Sectors;
use indicatif::{ProgressBar, ProgressStyle};

/// A line on stdout. A reader that has gone away is no reason to fail.
pub fn print(line: &str) {
    if let Err(error) = writeln!(std::io::stdout(), "{line}") {
        log::debug!("stdout: {error}");
    }
}

/// A bar on a terminal, nothing elsewhere.
pub fn progress_bar(total: Sectors) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(total.bytes());
    let template = "{wide_bar} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta}";
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}
