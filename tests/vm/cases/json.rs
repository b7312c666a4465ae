//! `--json` of the verbs that need devices: every line on stdout and stderr is an object of the
//! schema, and the exit code is that of the verb without the flag.

use serde_json::Value;

use super::admin::kill;
use super::resize::kernel_resizes;
use super::tab::Tab;
use crate::disk::{Buf, Disk, MIB, node, slice};
use crate::json_schema::Schema;
use crate::sh::{Out, binary, run_args, sh, ublk_dm, ublk_dm_as_nobody};
use crate::{Case, server};

pub fn cases() -> Vec<Case> {
    let disks = &["n0", "n1", "n2", "n3"];
    vec![
        Case { name: "json-devices", bound_s: 150, disks, run: |_| devices() },
        Case { name: "json-changes", bound_s: 120, disks, run: |_| changes() },
        Case { name: "json-errors", bound_s: 150, disks, run: |_| errors() },
        Case { name: "json-servers", bound_s: 200, disks, run: |_| servers() },
    ]
}

const LEN: u64 = 8 * MIB;

/// Holds what was printed to the schema. Returns the objects, and those of errors.
fn judged(verb: &str, out: &Out) -> (Vec<Value>, Vec<Value>) {
    let schema = Schema::read();
    let line = |line: &str| {
        let is_log = line.contains("\"log\":");
        let value = schema.assert_line(if is_log { "Log" } else { "Error" }, line);
        (!is_log).then_some(value)
    };
    let errors: Vec<Value> = out.stderr.lines().filter_map(line).collect();
    assert_eq!(matches!(out.code, 1 | 2), !errors.is_empty(), "{}: {}", out.what, out.stderr);
    (schema.assert_lines(verb, &out.stdout), errors)
}

/// What a verb prints that succeeds.
fn said_by(verb: &str, out: Out) -> Vec<Value> {
    let out = out.ok();
    let (objects, _) = judged(verb, &out);
    assert!(!objects.is_empty(), "{} printed nothing", out.what);
    objects
}

/// Runs a verb that succeeds; `verb`: its name in the schema.
fn said(verb: &str, line: &str) -> Vec<Value> {
    said_by(verb, ublk_dm(&format!("{line} --json")))
}

/// Runs a verb that fails. Returns its only error.
fn failed(verb: &str, line: &str) -> Value {
    let out = ublk_dm(&format!("--json {line}"));
    let plain = ublk_dm(line);
    assert_eq!((out.code, out.code == 1), (plain.code, true), "{line}");
    let (_, errors) = judged(verb, &out);
    assert_eq!(errors.len(), plain.stderr.lines().count(), "{line}: {errors:?}");
    errors[0]["error"].clone()
}

/// Runs a verb with a table; the device has this name in the answer.
fn with_table(verb: &str, name: &str, table: &str) {
    let out = run_args(&binary(), &["--json", verb, name, "--table", table]);
    assert_eq!(said_by(verb, out)[0]["device"]["name"], name);
}

/// The name and path of the device that an object is about.
fn device(object: &Value) -> (String, String) {
    let text = |key: &str| object["device"][key].as_str().expect("text").to_owned();
    (text("name"), text("block_device"))
}

fn devices() {
    let (origin, cow) = (slice("origin", "n0", 0, LEN), slice("cow", "n1", 0, LEN));
    let [one, two] = ["n2", "n3"].map(|disk| slice(&format!("leg-{disk}"), disk, 0, LEN));
    let added = said("add-origin", &format!("add origin --origin {origin} --name o"));
    let (name, path) = device(&added[0]);
    assert!(name == "o" && std::fs::exists(&path).expect("/dev"), "{path}");
    said("add-snapshot", &format!("add snapshot --origin {origin} --cow {cow} --name s"));
    said("add-mirror", &format!("add mirror --leg {one} --leg {two} --name m"));
    said("wait", "wait m --in-sync");
    assert_eq!(said("wait", "wait m 77")[0]["device"]["name"], "m");
    with_table("create", "l", "0 2048 zero");
    with_table("load", "l", "0 2048 error");
    let table = said("table", "table --inactive l");
    assert_eq!(
        (&table[0]["table"][0], &table[0]["inactive"]),
        (&"0 2048 error".into(), &true.into())
    );
    said("clear", "clear l");
    said("suspend", "suspend l");
    said("resume", "resume l");
    assert_eq!(device(&said("rename", "rename l k")[0]).0, "k");
    let disk = Disk::open(&path);
    (0..LEN / 2).step_by(128).for_each(|at| disk.write(at, &Buf::new(128)));
    drop(disk);
    let shown = said("list", "list");
    assert_eq!(shown[0]["devices"].as_array().map(Vec::len), Some(4), "{shown:?}");
    assert_eq!(said("status", "status").len(), 4);
    assert_eq!(said("table", "table").len(), 4);
    assert_eq!(said("message", "message m check")[0]["reply"], Value::Array(Vec::new()));
    Disk::open(&two).write_bytes(64, &[7; 4096]);
    let out = ublk_dm("message m check --json");
    assert_eq!(out.code, 3, "{}", out.stderr);
    let (differs, _) = judged("message", &out);
    assert_eq!(differs[0]["reply"][0]["start_bytes"], 64 * 512, "{differs:?}");
    // What fails says of what.
    let error =
        failed("add-snapshot", &format!("add snapshot --origin {origin} --cow {one} --name p"));
    assert_eq!((&error["kind"], &error["disk"]), (&"in_use".into(), &one.into()), "{error}");
    let error = failed("message", "message k check");
    assert_eq!(error["device"], "k", "{error}");
    assert_eq!(failed("suspend", "suspend none")["kind"], "not_found");
    // The snapshot flows back, slowly enough to be paused.
    assert_eq!(said("merge", "merge s --rate 128KiB")[0]["result"], "begun");
    assert_eq!(said("merge", "merge o --pause")[0]["result"], "paused");
    assert_eq!(said("merge", "merge o --resume")[0]["result"], "resumed");
    let out = ublk_dm("merge o --wait --rate 0 --json").ok();
    judged("merge", &out);
    let features = said("features", "features");
    assert!(features[0]["bits"].as_u64().is_some_and(|bits| bits > 0), "{features:?}");
    let deleted = said("del", "del --all");
    assert_eq!(deleted[0]["deleted"].as_array().map(Vec::len), Some(3), "{deleted:?}");
    server::forget_ended_legs();
    server::assert_nothing_left("del");
}

/// What grows a device, and what defers a merge.
fn changes() {
    let (origin, cow) = (slice("origin", "n0", 0, LEN), slice("cow", "n1", 0, LEN));
    with_table("create", "l", &format!("0 2048 linear {} 0", node("n2")));
    if kernel_resizes() {
        assert_eq!(device(&said("resize", "resize l 4096s")[0]).0, "l");
        assert_eq!(server::number("l", "/size_bytes"), 4096 * 512);
        let error = failed("resize", "resize l 2048s");
        assert_eq!((&error["kind"], &error["device"]), (&"refused".into(), &"l".into()), "{error}");
    } else {
        assert_eq!(failed("resize", "resize l 4096s")["kind"], "unsupported");
    }
    let path = server::add(&format!("origin --origin {origin} --name o"));
    server::add(&format!("snapshot --origin {origin} --cow {cow} --name s"));
    let error = failed("merge", "merge o --pause");
    assert_eq!((&error["kind"], &error["device"]), (&"refused".into(), &"o".into()), "{error}");
    let claim = crate::disk::claim(&path).expect("it is not in use");
    let deferred = said("merge", "merge s --defer");
    assert_eq!((device(&deferred[0]).0, &deferred[0]["result"]), ("s".into(), &"deferred".into()));
    let merge = &said("list", "list")[0]["devices"][2]["snapshot"]["merge"];
    assert_eq!(merge["state"], "deferred", "{merge}");
    said("merge", "merge s --pause");
    drop(claim);
    assert_eq!(said("merge", "merge s --defer")[0]["result"], "begun", "nobody uses them");
    server::wait_for(20, "the merge", || server::device("o")["health"] == "ok");
    // By both of its names there is no merge any more.
    let error = failed("merge", "merge o --pause");
    let message = error["message"].as_str().expect("text");
    assert!(message.ends_with("no merge is running: that of the snapshot s into it has ended"));
    let error = failed("merge", "merge s --pause");
    assert_eq!((&error["kind"], &error["device"]), (&"not_found".into(), &"s".into()), "{error}");
    assert_eq!(failed("merge", "merge o")["kind"], "refused", "it is no snapshot");
    server::del("--all");
    server::assert_nothing_left("json-changes");
}

/// What goes wrong most often has its kind, and the device or disk that it is about.
fn errors() {
    let (origin, cow) = (slice("origin", "n0", 0, LEN), slice("cow", "n1", 0, LEN));
    let small = slice("small", "n1", LEN, 32);
    let judge = |line: &str, kind: &str, about: &str, which: &str| {
        let verb = line.split(' ').take(if line.starts_with("add") { 2 } else { 1 });
        let error = failed(&verb.collect::<Vec<_>>().join("-"), line);
        let right = error["kind"] == kind && (about.is_empty() || error[about] == which);
        assert!(right, "{line}: not {kind}, {about} {which}: {error}");
    };
    let add = |cow: &str| format!("add snapshot --origin {origin} --cow {cow} --name t");
    let path = server::add(&format!("origin --origin {origin} --name o"));
    server::add(&format!("snapshot --origin {origin} --cow {cow} --name s"));
    let claim = crate::disk::claim(&path).expect("it is not in use");
    judge("del o", "in_use", "device", "o");
    judge("merge s", "in_use", "device", "s");
    drop(claim);
    for verb in ["del", "resume", "upgrade", "recover"] {
        judge(&format!("{verb} none"), "not_found", "device", "none");
    }
    judge(&add(&cow), "in_use", "disk", &cow);
    judge(&format!("zero --to {origin}"), "in_use", "disk", &origin);
    judge(&add("/dev/nonsense"), "not_found", "disk", "/dev/nonsense");
    judge(&format!("{} --chunk-size 64k", add(&small)), "refused", "disk", &small);
    let other = node("n2");
    Disk::open(&other).write_bytes(0, &[7; 4096]);
    judge(&add(&other), "refused", "disk", &other);
    judge("add origin --origin /dev/nonsense", "not_found", "disk", "/dev/nonsense");
    // No permission: root has every one.
    let out = ublk_dm_as_nobody("suspend o --json");
    let (_, denied) = judged("suspend", &out);
    assert!(denied[0]["error"]["errno"]["name"] == "EPERM", "{denied:?}");
    // A server that is stopped.
    let pid = server::number("o", "/server_pid");
    sh(&format!("kill -STOP {pid}")).ok();
    judge("suspend o", "no_answer", "device", "o");
    judge("upgrade o", "no_answer", "device", "o");
    sh(&format!("kill -CONT {pid}")).ok();
    server::wait_for(20, "an answer", || server::device("o")["state"] == "live");
    kill("o");
    judge("suspend s", "no_answer", "device", "s");
    ublk_dm("recover --all").ok();
    server::del("--all");
    server::assert_nothing_left("json-errors");
}

/// Runs `monitor` for a moment.
fn past_events() -> Vec<Value> {
    let out = run_args("timeout", &["3", &binary(), "monitor", "--past", "--json"]);
    judged("monitor", &Out { code: 0, ..out }).0
}

fn servers() {
    let (origin, cow) = (slice("origin", "n0", 0, LEN), slice("cow", "n1", 0, MIB / 2));
    let tab = Tab::of("");
    let run = |verb: &str, line: &str| said_by(verb, tab.run(&format!("{line} --json")));
    let path = server::add(&format!("origin --origin {origin} --name o"));
    server::add(&format!("snapshot --origin {origin} --cow {cow} --chunk-size 4096 --name s"));
    let saved = run("save", "save");
    assert_eq!(
        (&saved[0]["written"], saved[0]["lines"].as_array().map(Vec::len)),
        (&true.into(), Some(2))
    );
    assert_eq!(run("down", "down --all")[0]["deleted"].as_array().map(Vec::len), Some(2));
    let up = run("up", "up --all");
    assert_eq!(up[0]["up"][0]["name"], "o", "{up:?}");
    assert_eq!(said("upgrade", "upgrade --all").len(), 2);
    kill("o");
    let error = failed("suspend", "suspend o");
    assert_eq!(
        (&error["device"], &error["advice"][0]),
        (&"o".into(), &format!("ublk-dm recover {path}").into())
    );
    let out = ublk_dm("doctor --json");
    assert_eq!(out.code, 3, "{}", out.stdout);
    let (found, _) = judged("doctor", &out);
    assert!(found.iter().any(|one| one["subject"] == "o" || one["subject"] == "s"), "{found:?}");
    assert_eq!(said("recover", "recover --all")[0]["recovered"].as_array().map(Vec::len), Some(2));
    assert_eq!(said("recover", "recover --all")[0]["recovered"], Value::Array(Vec::new()));
    // The COW is too small.
    let disk = Disk::open(&path);
    (0..LEN / 8).step_by(4).for_each(|at| disk.write(at * 8, &Buf::new(8)));
    drop(disk);
    server::wait_for(20, "the event", || past_events().iter().any(|it| it["event"] == "invalid"));
    judged("doctor", &ublk_dm("doctor --json --fix"));
    assert_eq!(said("reap", "reap")[0]["deleted"], Value::Array(Vec::new()));
    // A name that is not there does not keep the others.
    let out = ublk_dm("del o s none --json");
    let (deleted, errors) = judged("del", &out);
    assert_eq!((out.code, deleted[0]["deleted"].as_array().map(Vec::len)), (1, Some(2)));
    assert_eq!(errors[0]["error"]["device"], "none");
    server::assert_nothing_left("del");
}
