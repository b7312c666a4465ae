//! Late commands: between `list` and the command a device's number has been reused.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;

use serde_json::{Value, json};

use crate::Case;
use crate::disk::{MIB, slice};
use crate::server::{self, run_dir};

pub fn cases() -> Vec<Case> {
    let disks = &["n0", "n1"];
    vec![Case { name: "admin-asked-late", bound_s: 90, disks, run: |_| asked_late() }]
}

const SIZE: u64 = 4 * MIB;

/// Sends a command to the only server.
fn ask(question: &Value) -> Value {
    let entries =
        std::fs::read_dir(run_dir()).expect("readable").flatten().map(|entry| entry.path());
    let mut sockets =
        entries.into_iter().filter(|path| path.extension().is_some_and(|end| end == "sock"));
    let mut server = UnixStream::connect(sockets.next().expect("a socket")).expect("a server");
    writeln!(server, "{question}").expect("taken");
    let mut answer = String::new();
    BufReader::new(server).read_line(&mut answer).expect("an answer");
    serde_json::from_str(&answer)
        .unwrap_or_else(|error| panic!("{question}: {error} in {answer:?}"))
}

/// No command for the old device affects the new one.
fn asked_late() {
    let origin = slice("org", "n0", 0, SIZE);
    let (cow, other) = (slice("cow", "n1", 0, SIZE), slice("cow2", "n1", SIZE, SIZE));
    server::add(&format!("origin --origin {origin} --name o"));
    let path = server::add(&format!("snapshot --origin {origin} --cow {cow} --name s"));
    let (id, old) = (server::number("s", "/id"), server::cookie("s"));
    server::del("s");
    assert!(
        server::add(&format!("snapshot --origin {origin} --cow {other} --name t --id {id}"))
            == path
    );
    let line = "0 8192 mirror core 1 1024 2 /dev/null 0 /dev/null 0";
    let device = |cookie: u64| json!({ "id": id, "cookie": cookie });
    let spec = json!({
        "table": line, "force": false, "degraded": false, "source": null,
        "options": {
            "queues": 1, "depth": 64, "read_only": false, "zero_copy": true, "recovery": true,
        },
    });
    for question in [
        json!({ "Del": { "devices": [device(old)], "force": true } }),
        json!({ "Suspend": { "device": device(old), "noflush": false } }),
        json!({ "Resume": { "device": device(old) } }),
        json!({ "Load": { "device": device(old), "spec": spec } }),
        json!({ "Message": { "device": device(old), "words": ["throttle", "50"] } }),
        json!({ "Message": { "device": device(old), "words": ["check"] } }),
        json!({ "Wait": { "device": device(old), "events": 0 } }),
        json!({ "RecoverLeftOut": { "devices": [device(old)] } }),
    ] {
        let answer = ask(&question);
        let said =
            answer["Failed"]["message"].as_str().unwrap_or_else(|| panic!("{question}: {answer}"));
        assert!(said.contains(&format!("{path} is now another device")), "{question}: {said}");
    }
    assert!(server::device("t")["state"] == "live", "{}", server::device("t"));
    assert!(server::device("t").get("cookie").is_none(), "the contract of list --json");
    let new = server::cookie("t");
    assert!(ask(&json!({ "Suspend": { "device": device(new), "noflush": false } })) == "Done");
    assert!(server::device("t")["state"] == "suspended", "{}", server::device("t"));
    server::del("--all");
    server::assert_nothing_left("del --all");
}
