//! The events of a server's devices in a file beside its log, one object on each line, for
//! `ublk-dm monitor`. It is bounded like the log, and stays when the devices are gone.

use std::time::SystemTime;

use log::kv::{self, Key, Value, VisitSource};
use log::{Level, Record};

use super::system::{Fields, utc};
use crate::protocol::EventLine;

/// The fields of a record: those of an event, or none.
pub(super) fn fields_of(record: &Record<'_>) -> Fields {
    struct Collect(Fields);
    impl<'kvs> VisitSource<'kvs> for Collect {
        fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), kv::Error> {
            self.0.push((key.to_string(), value.to_string()));
            Ok(())
        }
    }
    let mut fields = Collect(Vec::new());
    // A collector refuses nothing.
    drop(record.key_values().visit(&mut fields));
    fields.0
}

/// An event as a line.
pub(super) fn line_of(at: SystemTime, level: Level, fields: &Fields, message: &str) -> String {
    let mut event = EventLine::at(utc(at));
    fields.iter().for_each(|(name, value)| event.set(name, value));
    event.priority = match level {
        Level::Error => "error",
        Level::Warn => "warning",
        _ => "notice",
    }
    .to_owned();
    // The name stands in a field of its own.
    let rest = message.strip_prefix(&event.device).and_then(|rest| rest.strip_prefix(": "));
    event.message = rest.unwrap_or(message).to_owned();
    serde_json::to_string(&event).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_of_an_event_are_in_its_line() {
        let pairs = [("event", "leg-failed"), ("device", "m"), ("leg", "1"), ("disk", "/dev/b")];
        let record = Record::builder().key_values(&pairs).build();
        let fields = fields_of(&record);
        assert_eq!(fields.len(), 4);
        let line = line_of(SystemTime::UNIX_EPOCH, Level::Warn, &fields, "m: leg 1 failed");
        let event: EventLine = serde_json::from_str(&line).unwrap();
        assert_eq!((event.event.as_str(), event.device.as_str()), ("leg-failed", "m"));
        assert_eq!((event.leg, event.disk.as_deref()), (Some(1), Some("/dev/b")));
        assert_eq!((event.priority.as_str(), event.message.as_str()), ("warning", "leg 1 failed"));
        assert_eq!(event.time, "1970-01-01T00:00:00Z");
        assert!(fields_of(&Record::builder().build()).is_empty());
    }
}
