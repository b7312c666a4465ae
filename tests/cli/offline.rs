//! `check` and `dump`: every crafted image is judged, with its reason, and left unchanged.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use dm_targets::mirror::leg_flags::LegFlags;
use proptest::prelude::*;
use serde_json::Value;
use tempfile::TempDir;

use crate::images::{self, Store};

/// Longest time for an image, in a debug build on a busy machine.
const SLOWEST: Duration = Duration::from_secs(20);
/// Largest address space for an image, in KiB.
const MEMORY_KIB: u32 = 1 << 20;

/// Runs the program with bounded memory, and checks that it ends in time and does not crash.
pub fn run(arguments: &[&str]) -> Output {
    let started = Instant::now();
    let limited = format!("ulimit -v {MEMORY_KIB}; exec \"$0\" \"$@\"");
    let mut command = Command::new("sh");
    command.args(["-c", &limited, env!("CARGO_BIN_EXE_ublk-dm")]).args(arguments);
    let output = command.output().expect("the program starts");
    assert!(started.elapsed() < SLOWEST, "{arguments:?} took {:?}", started.elapsed());
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(
        matches!(output.status.code(), Some(0..=3)),
        "{arguments:?}: {:?}: {stderr}",
        output.status
    );
    output
}

pub fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("text")
}

pub fn json(output: &Output) -> Value {
    let text = stdout(output);
    assert_eq!(text.lines().count(), 1, "one object on one line: {text}");
    serde_json::from_str(&text).expect("JSON")
}

/// An image in a directory of its own.
pub struct Case {
    dir: TempDir,
    path: PathBuf,
}

impl Case {
    pub fn new(bytes: &[u8]) -> Case {
        let dir = TempDir::new().expect("a directory");
        let path = dir.path().join("cow");
        fs::write(&path, bytes).expect("an image");
        Case { dir, path }
    }

    pub fn path(&self) -> &str {
        self.path.to_str().expect("a path")
    }

    pub fn sparse(&self, name: &str, len_bytes: u64) -> PathBuf {
        let path = self.dir.path().join(name);
        File::create(&path).and_then(|file| file.set_len(len_bytes)).expect("a sparse file");
        path
    }

    /// Runs both verbs in both forms and returns the text and the objects: check, dump.
    pub fn all(&self, more: &[&str], code: i32) -> ([String; 2], [Value; 2]) {
        let before = (fs::read(&self.path).expect("image"), modified(&self.path));
        let outputs = ["check", "dump"].map(|verb| {
            let arguments = [&[verb, self.path()], more].concat();
            let (text, object) = (run(&arguments), run(&[&arguments[..], &["--json"]].concat()));
            assert_eq!(text.status.code(), Some(code), "{arguments:?}: {}", stdout(&text));
            assert_eq!(object.status.code(), Some(code), "{arguments:?} --json");
            (stdout(&text), json(&object))
        });
        assert!(
            before == (fs::read(&self.path).expect("image"), modified(&self.path)),
            "the image was touched"
        );
        let [(check, check_object), (dump, dump_object)] = outputs;
        ([check, dump], [check_object, dump_object])
    }
}

fn modified(path: &Path) -> std::time::SystemTime {
    fs::metadata(path).and_then(|data| data.modified()).expect("a time")
}

#[test]
fn bad_images_are_refused_with_their_reason() {
    let images = images::bad_images();
    assert!(images.len() >= 16);
    for image in images {
        let case = Case::new(&image.bytes);
        let origin = image.origin_bytes.map(|len| case.sparse("origin", len).display().to_string());
        let more: Vec<&str> = origin.iter().flat_map(|path| ["--origin", path.as_str()]).collect();
        let (texts, objects) = case.all(&more, 3);
        for text in texts {
            assert!(text.contains(image.reason), "{}: {text}", image.name);
            assert!(
                text.lines().last().is_some_and(|last| last.contains("BAD")),
                "{}: {text}",
                image.name
            );
        }
        for object in objects {
            assert_eq!(object["good"], Value::Bool(false), "{}", image.name);
            let violations = object["violations"].as_array().expect("a list");
            let found = violations.iter().find(|found| {
                found["kind"] == image.kind
                    && found["message"].as_str().is_some_and(|text| text.contains(image.reason))
            });
            let found = found.unwrap_or_else(|| panic!("{}: {object}", image.name));
            assert_eq!(found["offset_bytes"].as_u64(), image.offset_bytes, "{}", image.name);
        }
    }
}

#[test]
fn good_stores_show_the_kernels_numbers() {
    for store in images::good_stores() {
        let case = Case::new(&store.bytes);
        let (texts, objects) = case.all(&[], 0);
        for text in texts {
            assert!(text.contains(store.status), "{}: {text}", store.name);
            assert!(
                text.lines().last().is_some_and(|last| last.ends_with(" good")),
                "{}: {text}",
                store.name
            );
        }
        for object in &objects {
            let contents = &object["snapshot_store"]["contents"];
            assert_eq!(contents["records"], store.records, "{}", store.name);
            assert_eq!(contents["next_free_chunk"], store.next_free, "{}", store.name);
            assert_eq!(contents["holes"]["chunks"], store.holes, "{}", store.name);
            assert_eq!(
                contents["stale_tail"]["records"].as_u64().unwrap_or(0),
                store.stale,
                "{}",
                store.name
            );
            assert_eq!(contents["status"], store.status, "{}", store.name);
        }
        let areas = objects[1]["areas"].as_array().unwrap();
        let records: usize =
            areas.iter().map(|area| area["records"].as_array().unwrap().len()).sum();
        assert_eq!(records as u64, store.records, "{}", store.name);
    }
}

#[test]
fn dump_folds_runs_for_people_and_lists_records_for_programs() {
    let case = Case::new(&Store::new(8, 4096).filled(256, 100).record(9, 259).bytes());
    let ([_, text], [_, object]) = case.all(&[], 0);
    assert!(text.contains("origin chunks 100-355 -> COW chunks 2-257 (256)"), "{text}");
    assert!(text.contains("area 1 at chunk 258, byte 1056768"), "{text}");
    assert!(text.contains("origin chunk 9 -> COW chunk 259"), "{text}");
    let last = &object["areas"][1]["records"][0];
    assert_eq!(
        last.to_string(),
        r#"{"index":0,"new_chunk":259,"offset_bytes":1056768,"old_chunk":9}"#
    );
}

#[test]
fn holes_and_stale_tails_are_located() {
    let store = Store::new(8, 400).record(1, 2).record(2, 6).record(3, 4).record_at(9, 77, 9);
    let ([check, _], [object, _]) = Case::new(&store.bytes()).all(&[], 0);
    assert!(check.contains("2 chunks lost: 3, 5"), "{check}");
    assert!(check.contains("1 records from byte 4240 on"), "{check}");
    let tail = &object["snapshot_store"]["contents"]["stale_tail"];
    assert_eq!(tail.to_string(), r#"{"area":0,"index":9,"offset_bytes":4240,"records":1}"#);
    assert_eq!(object["warnings"][0]["kind"], "stale_tail");
}

#[test]
fn the_last_chunk_of_an_origin_may_be_short() {
    let case = Case::new(&Store::new(8, 40).record(100, 2).bytes());
    let (whole, short) = (case.sparse("whole", 100 * 4096), case.sparse("short", 100 * 4096 + 512));
    let (_, [object, _]) = case.all(&["--origin", short.to_str().unwrap()], 0);
    assert_eq!(object["snapshot_store"]["contents"]["origin"]["chunks"], 101);
    case.all(&["--origin", whole.to_str().unwrap()], 3);
}

#[test]
fn mirror_logs_are_counted() {
    let dirty = |object: &Value| object["dirty"].to_string();
    let ([check, dump], [_, object]) = Case::new(&images::log(2, 9, &[0x1FB])).all(&[], 0);
    assert!(check.contains("dirty          1"), "{check}");
    assert!(dump.contains("dirty region 2"), "{dump}");
    assert_eq!(dirty(&object), r#"[{"first_region":2,"regions":1}]"#);
    let across = images::log(1, 130, &[u64::MAX >> 4, !1 & !(1 << 7), 0b01]);
    let ([_, dump], [object, again]) = Case::new(&across).all(&[], 0);
    assert!(dump.contains("dirty regions 60-64 (5)"), "{dump}");
    assert_eq!(object["mirror_log"]["dirty_regions"], 7);
    let run = |first: u32, count: u32| format!("{{\"first_region\":{first},\"regions\":{count}}}");
    let runs = format!("[{},{},{}]", run(60, 5), run(71, 1), run(129, 1));
    assert_eq!(dirty(&again), runs);
    let (_, [padded, _]) = Case::new(&images::log(2, 8, &[0x3FF])).all(&[], 0);
    assert_eq!(padded["mirror_log"]["clean_regions"], 8);
    assert_eq!(padded["warnings"][0]["kind"], "log_padding");
    let (_, [unused, _]) = Case::new(&images::log(2, u64::MAX, &[])).all(&[], 0);
    assert_eq!(unused["mirror_log"]["regions"], Value::Null);
}

#[test]
fn mirror_logs_tell_which_legs_are_stale() {
    let mut image = images::log(2, 9, &[0x1FF]);
    let (_, [nothing, _]) = Case::new(&image).all(&[], 0);
    assert_eq!(nothing["mirror_log"]["legs"], Value::Null);
    let header = image.first_chunk_mut().unwrap();
    LegFlags::encode(header, &[7, 8, 9], 0b101);
    let ([check, _], [_, object]) = Case::new(&image).all(&[], 0);
    assert!(check.contains("stale legs     leg 0, leg 2"), "{check}");
    assert_eq!(
        object["mirror_log"]["legs"].to_string(),
        r#"[{"stale":true},{"stale":false},{"stale":true}]"#
    );
    LegFlags::encode(image.first_chunk_mut().unwrap(), &[7, 8, 9], 0);
    let ([check, _], _) = Case::new(&image).all(&[], 0);
    assert!(check.contains("stale legs     none"), "{check}");
}

#[test]
fn huge_sparse_images_are_quick() {
    let case = Case::new(&[]);
    let huge = case.sparse("huge", 8 << 40);
    let far = Store::new(1, 3).record(1 << 40, (8 << 31) - 1).bytes();
    let empty = Store::new(1, 3).bytes();
    let large_chunks = Store::new(1 << 21, 1).bytes()[..512].to_vec();
    for (name, first) in [("far", far), ("empty", empty), ("1 GiB chunks", large_chunks)] {
        use std::os::unix::fs::FileExt;
        let file = File::options().write(true).open(&huge).unwrap();
        file.write_all_at(&first, 0).unwrap();
        for verb in ["check", "dump"] {
            let output = run(&[verb, huge.to_str().unwrap(), "--json"]);
            assert_eq!(output.status.code(), Some(0), "{name}: {}", stdout(&output));
        }
    }
}

#[test]
fn long_lists_of_faults_are_cut_but_counted() {
    let store = (0..3000).fold(Store::new(1, 4000), |store, _| store.record(1, 2));
    let (_, [object, _]) = Case::new(&store.bytes()).all(&[], 3);
    assert_eq!(object["violations_total"], 2999 * 2);
    assert_eq!(object["violations"].as_array().unwrap().len(), 1000);
}

#[test]
fn what_cannot_be_read_is_exit_code_1() {
    let case = Case::new(&Store::new(8, 40).bytes());
    let pipe = case.dir.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let origin = ["check", case.path(), "--origin", "/no/such/origin"];
    let dir = case.dir.path().to_str().unwrap();
    for arguments in
        [&["check", "/no/such/cow"][..], &["dump", dir], &["dump", pipe.to_str().unwrap()], &origin]
    {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        assert!(output.stdout.is_empty(), "{arguments:?}");
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(error.lines().count(), 1, "{error}");
        assert!(error.contains(arguments.last().unwrap()), "{error}");
    }
}

/// Changes to a good image: words and bytes overwritten, mostly in metadata, and perhaps the end
/// cut off.
#[derive(Clone, Debug)]
struct Mutation {
    words: Vec<(usize, u64)>,
    keep_bytes: Option<usize>,
}

fn mutation() -> impl Strategy<Value = Mutation> {
    let place =
        prop_oneof![0..16_usize, 512..1024_usize, 34 * 512..35 * 512_usize, 0..80 * 512_usize];
    let edges = [
        0,
        1,
        2,
        33,
        34,
        79,
        80,
        1 << 32,
        (1 << 56) - 1,
        1 << 56,
        i64::MAX.unsigned_abs(),
        u64::MAX,
    ];
    let value = prop_oneof![prop::sample::select(edges.to_vec()), any::<u64>(), 0..100_u64];
    let words = prop::collection::vec((place, value), 0..6);
    (words, prop::option::of(0..80 * 512_usize))
        .prop_map(|(words, keep_bytes)| Mutation { words, keep_bytes })
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 150,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// Whatever the image: a verdict, the same from both verbs, in bounded time and memory, and
    /// nothing written.
    #[test]
    fn mutated_images_get_a_verdict(base in 0..4_usize, mutation in mutation()) {
        let mut bytes = match base {
            0 => Store::new(1, 80).filled(40, 0).bytes(),
            1 => Store::new(1, 80).filled(32, 7).bytes(),
            2 => Store::new(8, 10).filled(3, 1 << 30).bytes(),
            _ => images::log(2, 300, &[u64::MAX, 7, 0, 1 << 63, 12345]),
        };
        for (at, value) in &mutation.words {
            let end = bytes.len().min(at + 8);
            if let Some(target) = bytes.get_mut(*at..end) {
                let len = target.len();
                target.copy_from_slice(&value.to_le_bytes()[..len]);
            }
        }
        bytes.truncate(mutation.keep_bytes.unwrap_or(usize::MAX));
        let case = Case::new(&bytes);
        let verdicts = ["check", "dump"].map(|verb| {
            let output = run(&[verb, case.path(), "--json"]);
            (output.status.code(), json(&output)["good"].clone())
        });
        prop_assert_eq!(&verdicts[0], &verdicts[1]);
        let agree = [(Some(0), true.into()), (Some(3), false.into())];
        prop_assert!(agree.contains(&verdicts[0]), "{:?}", verdicts);
        let text = run(&["dump", case.path()]);
        prop_assert_eq!(text.status.code(), verdicts[0].0);
        prop_assert!(fs::read(&case.path).is_ok_and(|now| now == bytes));
    }
}
