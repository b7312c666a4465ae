//! The columns of `list`, and its object.

use serde_json::{Value, json};

use super::*;

/// A device whose server has died, as an earlier version's server reported it.
fn dead() -> Value {
    json!({
        "id": 3, "name": "l", "target": "linear", "state": "quiesced", "health": "unknown",
        "block_device": "/dev/ublkb3", "char_device": "/dev/ublkc3", "major": null,
        "minor": null, "size_bytes": 512, "server_pid": null, "answers": false, "stats": null,
        "read_only": false, "queues": 1, "queue_depth": 64, "recovery": true,
        "linear": { "path": "/dev/sda", "offset_bytes": 4096 },
    })
}

/// A snapshot with a merge, or without.
fn snapshot(used: u64, merge: Value) -> Value {
    let mut object = dead();
    object.as_object_mut().unwrap().remove("linear");
    object["snapshot"] = json!({ "origin": "/o", "cow": "/c", "store": "persistent",
        "chunk_size_bytes": 4096, "valid": true, "overflow": false, "used_bytes": used,
        "total_bytes": 1000, "metadata_bytes": 0, "exceptions": 0, "merge": merge });
    object
}

fn object(mut object: Value, state: &str, health: &str, answers: bool) -> DeviceObject {
    object["state"] = json!(state);
    object["health"] = json!(health);
    object["answers"] = json!(answers);
    serde_json::from_value(object).unwrap()
}

#[test]
fn a_listing_has_a_version_and_a_list() {
    let object = object(dead(), "quiesced", "unknown", false);
    let listing = |devices| Listing { devices, without_table: Vec::new() };
    let line = json::line_of(&listing(vec![&object])).unwrap();
    let json: Value = serde_json::from_str(&line).unwrap();
    assert_eq!((&json["version"], &json["devices"][0]["name"]), (&json!(1), &json!("l")));
    assert_eq!(json::line_of(&listing(Vec::new())).unwrap(), r#"{"version":1,"devices":[]}"#);
}

#[test]
fn the_health_is_what_needs_attention() {
    let said = |state: &str, health: &str, answers| {
        let device = object(dead(), state, health, answers);
        assert!(health::WORDS.contains(&health::word_of(&device)), "{state} {health}");
        health_of(&device)
    };
    assert_eq!(said("live", "ok", true), "ok");
    assert_eq!(said("live", "ok", false), "hangs");
    assert_eq!(said("suspended", "ok", true), "suspended");
    assert_eq!(said("suspended", "invalid", true), "invalid");
    assert_eq!(said("quiesced", "unknown", false), "quiesced");
    assert_eq!(said("quiesced", "failing", false), "failing");
    assert_eq!(said("dead", "unknown", false), "dead");
    for health in ["invalid", "overflow", "degraded", "recovering", "stalled", "full"] {
        assert_eq!(said("live", health, true), health);
    }
}

#[test]
fn a_merge_is_the_health_of_its_device_until_it_has_ended() {
    for (state, merged, left, paused, said) in [
        ("merging", 12, 88, false, "merging:12%"),
        ("merging", 12, 88, true, "merge-paused:12%"),
        ("merging", 0, 0, false, "merging"),
        ("failed", u64::MAX, u64::MAX, false, "merge-stopped:50%"),
        ("deferred", 0, 0, false, "merge-deferred"),
        ("done", 1, 0, false, "ok"),
    ] {
        let merge = json!({ "state": state, "merged_bytes": merged, "left_bytes": left,
            "error": null, "paused": paused });
        let device = object(snapshot(0, merge), "live", "ok", true);
        assert!(health::WORDS.contains(&health::word_of(&device)), "{state}");
        assert_eq!(health_of(&device), said, "{state}");
    }
}

#[test]
fn the_used_part_of_a_cow_is_rounded_up() {
    let said = |used| {
        let device = object(snapshot(used, Value::Null), "live", "ok", true);
        Field::Used.of(&device)
    };
    assert_eq!([0, 1, 10, 11, 991, 1000].map(said), ["0", "1", "1", "2", "100", "100"]);
    assert_eq!(Field::Used.of(&object(dead(), "live", "ok", true)), "-");
}

#[test]
fn sizes_have_the_largest_unit() {
    for (bytes, said) in [
        (0, "0B"),
        (512, "512B"),
        (1024, "1K"),
        (1536, "1.5K"),
        (512 << 20, "512M"),
        ((16 << 40) - 4096, "15.9T"),
        (u64::MAX, "15.9E"),
    ] {
        assert_eq!(size_of(bytes), said);
    }
}

#[test]
fn words_stand_in_columns() {
    let device = object(snapshot(10, Value::Null), "live", "ok", true);
    let fields = [Field::Name, Field::Used, Field::Disks];
    let of = |of: &dyn Fn(Field) -> String| fields.iter().map(|field| of(*field)).collect();
    let lines = [of(&|field| field.heading().to_owned()), of(&|field| field.of(&device))];
    assert_eq!(aligned(&fields, &lines), ["NAME  USED%  DISKS", "l         1  /o,/c"]);
    assert_eq!(aligned(&fields, &[]), Vec::<String>::new());
}
