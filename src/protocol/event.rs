//! An event of a device, as a line of a server's event file and of `monitor --json`.

use serde::{Deserialize, Serialize};

/// The version of the object: keys are added, never renamed.
const VERSION: u32 = 1;

/// What happened to a device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventLine {
    pub version: u32,
    /// When: RFC 3339, UTC, in whole seconds.
    pub time: String,
    /// What: a word that stays, such as `invalid`.
    pub event: String,
    /// `error`, `warning` or `notice`, the names of priorities in the journal.
    pub priority: String,
    /// The device's name.
    pub device: String,
    /// The process that served it.
    pub server_pid: u32,
    /// The disk that is concerned.
    pub disk: Option<String>,
    /// The leg's number, from 0.
    pub leg: Option<u64>,
    /// How much of the COW is in use.
    pub percent: Option<u64>,
    /// The event for people.
    pub message: String,
}

impl EventLine {
    /// An event with no fields yet.
    pub fn at(time: String) -> EventLine {
        EventLine { version: VERSION, time, server_pid: std::process::id(), ..EventLine::default() }
    }

    /// Sets the field with a name; others are ignored.
    pub fn set(&mut self, name: &str, value: &str) {
        match name {
            "event" => self.event = value.to_owned(),
            "device" => self.device = value.to_owned(),
            "disk" => self.disk = Some(value.to_owned()),
            "leg" => self.leg = value.parse().ok(),
            "percent" => self.percent = value.parse().ok(),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_reads_back_and_unknown_fields_are_null() {
        let mut event = EventLine::at("2026-01-01T00:00:00Z".to_owned());
        let fields =
            [("event", "filling"), ("device", "s"), ("percent", "80"), ("leg", "x"), ("other", "")];
        fields.iter().for_each(|(name, value)| event.set(name, value));
        let line = serde_json::to_string(&event).unwrap();
        assert!(line.contains(r#""percent":80"#) && line.contains(r#""leg":null"#), "{line}");
        assert_eq!(serde_json::from_str::<EventLine>(&line).unwrap(), event);
    }
}
