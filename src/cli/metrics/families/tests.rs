//! The metrics of a snapshot and a mirror, in both texts.

use prometheus_client::registry::Registry;
use serde_json::json;

use super::*;
use crate::cli::metrics::text::{Format, written};
use crate::protocol::{BOUNDS_NS, Histogram};

fn objects() -> Vec<Measured> {
    let device = |id: u32, name: &str, target: &str| {
        json!({
            "id": id, "name": name, "target": target, "state": "live", "health": "degraded",
            "block_device": "/dev/ublkb0", "char_device": "/dev/ublkc0", "major": 259,
            "minor": 0, "size_bytes": 4096, "server_pid": 7, "read_only": false, "queues": 1,
            "queue_depth": 64, "recovery": true,
            "stats": { "reads": 1, "read_bytes": 512, "writes": 2, "write_bytes": 1024,
                "flushes": 3, "discards": 4, "copies": 5, "copy_bytes": 2048, "commits": 6,
                "errors": 7 },
        })
    };
    let mut snapshot = device(0, "s \"1\"", "snapshot");
    snapshot["snapshot"] = json!({ "origin": "/o", "cow": "/c", "store": "persistent",
        "chunk_size_bytes": 4096, "valid": true, "overflow": false, "used_bytes": 100,
        "total_bytes": 1000, "metadata_bytes": null, "exceptions": 8, "merge": null });
    let mut mirror = device(1, "m", "mirror");
    let leg = |path: &str, health: &str, errors: u64| {
        json!({ "path": path, "offset_bytes": 0, "health": health, "default": true,
            "source": true, "stale": health != "A", "read_errors": 0, "write_errors": errors,
            "flush_errors": 0, "sync_errors": 0 })
    };
    mirror["mirror"] = json!({ "legs": [leg("/a", "A", 0), leg("/b", "D", 9)], "log": "core",
        "log_health": null, "region_size_bytes": 512, "regions": 8, "in_sync_regions": 7,
        "dirty_regions": 0, "held": null, "recovery": null });
    let mut dead = device(2, "d", "linear");
    dead["state"] = json!("quiesced");
    dead["answers"] = json!(false);
    dead["stats"].take();
    dead["linear"] = json!({ "path": "/a", "offset_bytes": 0 });
    let durations = |counts: Vec<u64>| Durations {
        writes: Histogram { counts, sum_ns: 1_500_000_000 },
        ..Durations::default()
    };
    let mut counts = vec![0; BOUNDS_NS.len() + 1];
    (counts[0], counts[5], counts[13]) = (3, 2, 1);
    let known = [Some(durations(counts)), Some(durations(vec![1])), None];
    let object = |one| serde_json::from_value(one).unwrap();
    let all = [snapshot, mirror, dead].into_iter().zip(known);
    all.map(|(one, durations)| Measured { object: object(one), durations }).collect()
}

fn text(format: Format) -> String {
    let mut registry = Registry::with_prefix("ublk_dm");
    registry.register_collector(Box::new(Devices(objects())));
    let mut text = String::new();
    written(format, &mut text, &registry).unwrap();
    text
}

#[test]
fn metrics_have_names_types_units_and_labels() {
    let text = text(Format::Prometheus);
    for line in [
        "# TYPE ublk_dm_read_bytes_total counter",
        r#"ublk_dm_read_bytes_total{device="ublkb0",name="s \"1\""} 512"#,
        r#"ublk_dm_written_bytes_total{device="ublkb1",name="m"} 1024"#,
        r#"ublk_dm_cow_used_bytes{device="ublkb0",name="s \"1\""} 100"#,
        r#"ublk_dm_leg_alive{device="ublkb1",name="m",leg="1",path="/b"} 0"#,
        r#"ublk_dm_leg_errors_total{device="ublkb1",name="m",leg="1",path="/b",kind="write"} 9"#,
        r#"ublk_dm_health{device="ublkb1",name="m",health="degraded"} 1"#,
        r#"ublk_dm_state{device="ublkb2",name="d",state="quiesced"} 1"#,
        r#"ublk_dm_server_answers{device="ublkb2",name="d"} 0"#,
    ] {
        assert!(text.lines().any(|other| other == line), "{line}\n{text}");
    }
    // Each metric once, with its help; what is not known has no sample.
    let types: Vec<_> = text.lines().filter(|line| line.starts_with("# TYPE ")).collect();
    let mut once = types.clone();
    once.sort_unstable();
    once.dedup();
    assert_eq!(once.len(), types.len());
    assert_eq!(text.matches("# HELP ").count(), types.len());
    assert!(!text.contains("cow_metadata") && !text.contains("reads_total{device=\"ublkb2\""));
}

/// A histogram of Prometheus: each bucket has all that is below its bound.
#[test]
fn durations_are_histograms() {
    let text = text(Format::Prometheus);
    let metric = "ublk_dm_request_duration_seconds";
    let line = |end: &str, more: &str, value: &str| {
        let labels = format!(r#"device="ublkb0",name="s \"1\"",operation="write"{more}"#);
        format!("{metric}_{end}{{{labels}}} {value}")
    };
    for line in [
        format!("# TYPE {metric} histogram"),
        line("bucket", r#",le="1e-05""#, "3"),
        line("bucket", r#",le="0.001""#, "3"),
        line("bucket", r#",le="0.003""#, "5"),
        line("bucket", r#",le="10""#, "5"),
        line("bucket", r#",le="+Inf""#, "6"),
        line("sum", "", "1.5"),
        line("count", "", "6"),
    ] {
        assert!(text.lines().any(|other| other == line), "{line}\n{text}");
    }
    // Of other ranges nothing is known, nor of kinds that a server has not told.
    let of = text.lines().filter(|line| line.starts_with(metric));
    assert_eq!(of.count(), BOUNDS_NS.len() + 3);
}

#[test]
fn the_words_of_health_are_those_of_list() {
    let text = text(Format::Prometheus);
    let healths = |name: &str| {
        let of = |line: &&str| line.starts_with("ublk_dm_health") && line.contains(name);
        text.lines().filter(of).map(str::to_owned).collect::<Vec<_>>()
    };
    let dead = healths(r#"name="d""#);
    assert_eq!(dead.len(), health::WORDS.len());
    let is = |line: &&String| line.ends_with(" 1");
    assert!(dead.iter().filter(is).all(|line| line.contains("quiesced")), "{dead:?}");
    assert_eq!(dead.iter().filter(is).count(), 1);
}

#[test]
fn open_metrics_end_with_their_mark() {
    let text = text(Format::OpenMetrics);
    assert!(text.contains("# TYPE ublk_dm_read_bytes counter\n# UNIT ublk_dm_read_bytes bytes\n"));
    assert!(text.ends_with("# EOF\n"), "{text}");
}
