//! What `merge` asks a server for, what it shows while it waits, and how long it waits.

use serde_json::{Value, json};

use super::*;
use crate::protocol::DeviceState;
use crate::server::orphan;

fn merging(state: &str) -> MergeObject {
    let object = json!({ "state": state, "merged_bytes": 512, "left_bytes": 1024,
        "error": null });
    serde_json::from_value(object).unwrap()
}

#[test]
fn what_an_earlier_server_does_not_tell_is_not_known() {
    let merge = merging("merging");
    assert_eq!((merge.paused, merge.seconds_left, merge.snapshot), (None, None, None));
}

#[test]
fn a_device_that_a_living_server_takes_over_is_waited_for() {
    let state = r#"{"id":1048575,"cookie":7,"name":"m","disks":[],"spec":{
        "table":"0 8 snapshot-merge /o /c P 8","force":false,"degraded":false,"source":null,
        "options":{"queues":1,"depth":1,"read_only":false,"zero_copy":true,"recovery":true}}}"#;
    let state: DeviceState = serde_json::from_str(state).unwrap();
    let refused = |run_state, lives, seconds| {
        let device = orphan::report(&state, run_state, None);
        let coming = must_be_coming(&device, lives, Duration::from_secs(seconds));
        coming.err().map(|why| why.to_string())
    };
    assert_eq!(refused(RunState::Quiesced, true, 59), None);
    for (run_state, lives, seconds, words) in [
        (RunState::Quiesced, true, 60, "m: its server has not taken it over; "),
        (RunState::Dead, true, 0, "m: its server has not taken it over; "),
        (RunState::Quiesced, false, 0, "m: its server has died; "),
    ] {
        let why = refused(run_state, lives, seconds).unwrap();
        assert!(why.starts_with(words) && why.contains("`ublk-dm recover m`"), "{why}");
    }
}

#[test]
fn a_line_has_the_merge_and_its_device() {
    let merge = merging("failed");
    let line = Line { name: "o", block_device: "/dev/ublkb0", merge: &merge };
    let line: Value = serde_json::to_value(&line).unwrap();
    assert_eq!((&line["name"], &line["state"]), (&json!("o"), &json!("failed")));
    assert_eq!((&line["left_bytes"], &line["seconds_left"]), (&json!(1024), &Value::Null));
}

/// A family of an origin and a snapshot, whose merge is deferred or not.
fn family(deferred: bool) -> Family {
    let device = |id: u32, table: &str, merge: Value| {
        let state = json!({ "id": id, "cookie": 7, "name": if id == 0 { "o" } else { "s" },
            "disks": [], "spec": { "table": table, "force": false, "degraded": false,
                "source": null, "merge": merge, "options": { "queues": 1, "depth": 1,
                    "read_only": false, "zero_copy": true, "recovery": true } } });
        let state: DeviceState = serde_json::from_value(state).unwrap();
        orphan::report_with(&state, RunState::Live, None, str::to_owned)
    };
    let wish = json!({ "snapshot": "s", "paused": false, "bytes_per_second": null });
    let merge = if deferred { wish } else { Value::Null };
    let origin = device(0, "0 8 snapshot-origin /o", Value::Null);
    let devices = vec![origin, device(1, "0 8 snapshot /o /c P 8", merge)];
    Family { key: "o".to_owned(), devices }
}

#[test]
fn the_rate_of_a_deferred_merge_does_not_begin_it_and_that_of_an_ended_one_is_done() {
    let nothing = || Merge {
        device: String::new(),
        wait: false,
        rate: None,
        force: false,
        defer: false,
        keep: false,
        pause: false,
        resume: false,
    };
    let ask = |asked: Merge, device: usize, deferred: bool| {
        let family = family(deferred);
        command(&asked, &family, &family.devices[device])
    };
    let rate = || Merge { rate: Some(4096), ..nothing() };
    for device in 0..2 {
        let why = ask(rate(), device, true).unwrap_err().to_string();
        assert!(why.starts_with("s: its merge is deferred and has not begun: "), "{why}");
    }
    assert!(matches!(ask(rate(), 0, false), Ok(None)), "it has ended");
    for asked in [Merge { defer: true, ..rate() }, nothing(), Merge { wait: true, ..rate() }] {
        assert!(matches!(ask(asked, 1, true), Ok(Some(Command::Merge { .. }))));
    }
    assert!(matches!(ask(rate(), 1, false), Ok(Some(Command::Merge { .. }))), "it begins one");
    let waited = |merged: Option<bool>| {
        let mut family = family(false);
        assert_eq!(family.devices[0].merged, Some(false));
        family.devices[0].merged = merged;
        command(&Merge { wait: true, ..nothing() }, &family, &family.devices[0])
    };
    let why = waited(Some(false)).unwrap_err();
    assert!(why.starts_with("o: no merge of a snapshot into it has begun") && why.code() == 1);
    assert!(matches!(waited(Some(true)), Ok(None)), "one has ended meanwhile");
    assert!(matches!(waited(None), Ok(None)), "an earlier server does not tell");
    assert!(matches!(ask(nothing(), 0, false), Ok(Some(Command::Merge { .. }))), "refused there");
}
