//! A data thread that does not answer, and devices that are about to be taken over.

use std::collections::BTreeMap;
use std::sync::mpsc::channel;
use std::time::Instant;

use super::*;
use crate::data::Owner;
use crate::protocol::{DeviceReport, Health, ask, connect};

fn device(id: u32, suspended: bool) -> Device {
    Device { suspended, ..Device::of_line(id, "l", "0 64 linear /nonsense/a 8") }
}

fn reports(path: &std::path::Path) -> Vec<DeviceReport> {
    match ask(connect(path).unwrap(), &Command::Report).unwrap() {
        Reply::Devices(devices) => devices,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_blocked_data_thread_delays_reports_up_to_a_limit_and_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("family.sock");
    let mut owner = Owner::start(|_| {}).unwrap();
    let directory = Directory::default();
    let known: BTreeMap<u32, Device> =
        [(1_048_574, device(1_048_574, false)), (1_048_575, device(1_048_575, true))].into();
    directory.publish(&known, &BTreeMap::new());
    let (control, _commands) = channel();
    let socket = UnixListener::bind(&path).unwrap();
    Listener::open(socket, &directory, owner.handle(), &AtWork::default(), control).unwrap();
    assert!(reports(&path).is_empty(), "the data thread answers and has no such device");

    let (release, blocked) = channel::<()>();
    drop(
        owner
            .handle()
            .begin(move |_| async move { assert!(blocked.recv().is_err()) }, || {})
            .unwrap(),
    );
    // The client gives a server up after four times that limit.
    let found = reports(&path);
    let states: Vec<_> = found.iter().map(|one| (one.object.state, one.object.answers)).collect();
    assert_eq!(states, [(RunState::Live, false), (RunState::Suspended, false)]);
    assert_eq!(found[0].object.server_pid, Some(std::process::id()));
    assert_eq!(found[0].object.health, Health::Unknown);
    assert_eq!(found[0].table, "0 64 linear /nonsense/a 8");
    // Nothing is waited for a second time.
    let begun = Instant::now();
    for _ in 0..20 {
        assert_eq!(reports(&path).len(), 2);
        let pinged = ask(connect(&path).unwrap(), &Command::Ping).unwrap();
        assert!(matches!(pinged, Reply::Doing(Doing { oldest, .. }) if oldest.is_empty()));
    }
    assert!(begun.elapsed() < 10 * REPORT_LIMIT, "{:?}", begun.elapsed());
    drop(release);
    let begun = Instant::now();
    while !reports(&path).is_empty() {
        assert!(begun.elapsed() < 20 * REPORT_LIMIT, "the data thread answers again");
        std::thread::sleep(Duration::from_millis(10));
    }
    owner.stop().unwrap();
}

/// `list` must not miss a device because its next server is at work.
#[test]
fn a_device_that_is_being_taken_over_is_reported_as_waiting() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("family.sock");
    let mut owner = Owner::start(|_| {}).unwrap();
    let directory = Directory::default();
    let (one, other) = (device(1_048_574, false).state(), device(1_048_575, false).state());
    directory.publish_coming(vec![one.clone(), other.clone()]);
    let (control, commands) = channel();
    let socket = UnixListener::bind(&path).unwrap();
    Listener::open(socket, &directory, owner.handle(), &AtWork::default(), control).unwrap();
    let states = || {
        let found = reports(&path);
        assert!(found.iter().all(|one| one.object.server_pid.is_none()), "none serves it");
        found.iter().map(|one| (one.id, one.object.state)).collect::<Vec<_>>()
    };
    assert_eq!(states(), [one.id, other.id].map(|id| (id, RunState::Quiesced)));
    // Nothing is done because of that: an idle server would end.
    assert!(commands.try_recv().is_err());
    // Each is reported once, as what has become of it.
    let left_out =
        LeftOut { device: one.clone(), waits: false, for_good: false, origin_changed: false };
    directory.publish(&BTreeMap::new(), &[(one.id, left_out)].into());
    assert_eq!(states(), [(other.id, RunState::Quiesced), (one.id, RunState::Dead)]);
    directory.publish(&BTreeMap::new(), &BTreeMap::new());
    directory.publish_coming(Vec::new());
    assert!(reports(&path).is_empty());
    owner.stop().unwrap();
}
