//! Events of devices, told to the machine's log with fields, and to `monitor`.
//!
//! Rule kept here: telling waits for nothing. An event is a line of the log with fields; the
//! logging thread writes it.

use std::fmt::Display;

use log::{Level, Record};

/// Tells what has happened to a device; `what` is a word that stays (docs/events.md has the list),
/// `fields` are `disk`, `leg` and `percent`.
pub fn tell(
    level: Level,
    what: &str,
    device: &str,
    fields: &[(&str, &str)],
    message: impl Display,
) {
    let mut all = vec![("event", what), ("device", device)];
    all.extend(fields);
    let target = module_path!();
    log::logger().log(
        &Record::builder()
            .level(level)
            .target(target)
            .module_path(Some(target))
            .key_values(&all)
            .args(format_args!("{device}: {message}"))
            .build(),
    );
}
