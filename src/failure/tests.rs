//! Kinds, exit codes and lines of failures, and that all of a failure crosses the control socket.

use super::*;
use crate::protocol::Reply;
use crate::storage::{OpenError, OpenErrorKind, silent};
use crate::ublk::ControlError;
use dm_targets::disk::{DiskError, Errno, FailedOp, OpKind};
use dm_targets::mirror::change_legs::ChangeError;
use dm_targets::mirror::target::OpenError as MirrorError;
use dm_targets::snapshot::store::StoreError;
use dm_targets::units::{Sector, Sectors};

fn across(failure: &Failure) -> Failure {
    let line = serde_json::to_string(&Reply::Failed(failure.clone())).unwrap();
    match serde_json::from_str(&line).unwrap() {
        Reply::Failed(failure) => failure,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_is_added_keeps_kind_and_errno_and_the_line_has_all_in_order() {
    let cause = io::Error::from_raw_os_error(libc::ENOSPC);
    let text = cause.to_string();
    let failure = Failure::from(cause)
        .context("/run/x.json")
        .but("/dev/ublkb3: deleted")
        .ending("; add it again");
    assert_eq!(failure.kind, Kind::System { errno: libc::ENOSPC });
    assert_eq!(failure.errno(), Some(libc::ENOSPC));
    let line = format!("/dev/ublkb3: deleted, but /run/x.json: {text}; add it again");
    assert_eq!(failure.to_string(), line);
}

#[test]
fn a_failure_is_the_same_on_the_other_side_of_the_socket() {
    let failure = Failure::from(io::Error::from_raw_os_error(libc::EIO))
        .context("/dev/sda: cannot be read")
        .ending("; replace it");
    let there = across(&failure);
    assert_eq!(there, failure);
    assert_eq!((there.errno(), there.code()), (Some(libc::EIO), 1));
    assert_eq!(there.to_string(), failure.to_string());
    assert_eq!(across(&wrong_usage("no such word")).code(), 2);
}

#[test]
fn the_answer_of_an_earlier_versions_server_is_read() {
    let reply = serde_json::from_str(r#"{"Failed":{"message":"/dev/ublkb1: busy"}}"#).unwrap();
    let Reply::Failed(failure) = reply else { panic!("{reply:?}") };
    assert_eq!((failure.to_string().as_str(), failure.kind), ("/dev/ublkb1: busy", Kind::Failed));
}

#[test]
fn only_wrong_usage_exits_with_2() {
    for (kind, code) in [
        (Kind::Usage, 2),
        (Kind::NotFound, 1),
        (Kind::InUse, 1),
        (Kind::Refused, 1),
        (Kind::Unsupported, 1),
        (Kind::NoAnswer, 1),
        (Kind::System { errno: libc::EIO }, 1),
        (Kind::Failed, 1),
    ] {
        let failure = Failure::new(kind, "why");
        assert_eq!(failure.code(), code, "{kind:?}");
        assert_eq!(failure.context("/dev/ublkb0").code(), code, "{kind:?} of a device");
    }
}

#[test]
fn notes_follow_a_failure_and_keep_its_kind() {
    let failure = Failure::new(Kind::InUse, "a: busy");
    assert_eq!(failure.clone().and_notes(Vec::<String>::new()), failure);
    let noted = failure.and_notes(["b is stale", "c is lost"]);
    assert_eq!(
        (noted.to_string().as_str(), noted.kind),
        ("a: busy; b is stale; c is lost", Kind::InUse)
    );
}

#[test]
fn several_failures_are_one_line_of_the_first_ones_kind() {
    assert_eq!(Failure::all(Vec::new()), None);
    let all = Failure::all(vec![Failure::new(Kind::InUse, "a"), "b".into(), "c".into()]).unwrap();
    assert_eq!((all.to_string().as_str(), all.kind), ("a; b; c", Kind::InUse));
}

#[test]
fn errors_of_disks_and_of_the_control_plane_have_their_kinds() {
    let io = io::Error::from_raw_os_error;
    let of_disk = |kind| Failure::from(OpenError { path: "/dev/x".into(), kind });
    assert_eq!(of_disk(OpenErrorKind::Missing).kind, Kind::NotFound);
    assert_eq!(of_disk(OpenErrorKind::Busy { by: None }).kind, Kind::InUse);
    assert_eq!(of_disk(OpenErrorKind::Empty).kind, Kind::Refused);
    let awaited = OpenErrorKind::Awaited { name: "s1".to_owned(), id: 3 };
    assert_eq!(of_disk(awaited).kind, Kind::InUse);
    let unclear = OpenErrorKind::Unclear { why: io(libc::EACCES).into() };
    assert_eq!(of_disk(unclear).kind, Kind::System { errno: libc::EACCES });
    assert_eq!(silent::no_answer("/dev/x").context("/dev/ublkb0").kind, Kind::NoAnswer);
    let broken = of_disk(OpenErrorKind::Io(io(libc::EIO)));
    assert_eq!(
        (broken.errno(), broken.starts_with("cannot open /dev/x: ")),
        (Some(libc::EIO), true)
    );

    let of_kernel = |errno| {
        Failure::from(ControlError::Command { command: "STOP_DEV", device: Some(4), errno })
    };
    assert_eq!(of_kernel(libc::EBUSY).errno(), Some(libc::EBUSY));
    assert!(of_kernel(libc::ENODEV).contains("/dev/ublkb4"));
    let absent = ControlError::DriverAbsent { reason: "no module".to_owned() };
    assert_eq!(Failure::from(absent).kind, Kind::Unsupported);
    let late = io::Error::new(io::ErrorKind::TimedOut, "its server has not answered");
    assert_eq!(Failure::from(late).kind, Kind::NoAnswer);
}

/// The limit is that of the process in which the error occurred: it is named there, once.
#[test]
fn a_limit_of_open_files_that_is_reached_is_named() {
    for (errno, limit) in [(libc::EMFILE, "ulimit -Hn"), (libc::ENFILE, "fs.file-max")] {
        let failure = || Failure::from(io::Error::from_raw_os_error(errno)).context("/run/x");
        let said = failure().to_string();
        assert_eq!(said.matches(limit).count(), 1, "{said}");
        assert!(said.starts_with("/run/x: ") && !said.contains("kernel log"), "{said}");
        assert_eq!(failure().errno(), Some(errno));
        let again = Failure::from(io::Error::from(failure())).context("add").to_string();
        assert_eq!(again, format!("add: {said}"), "named once");
        let of_kernel = ControlError::System {
            what: "open /dev/ublk-control".to_owned(),
            hint: "see the kernel log",
            source: io::Error::from_raw_os_error(errno),
        };
        let said = Failure::from(of_kernel).to_string();
        assert!(said.contains(limit) && !said.contains("kernel log"), "{said}");
    }
    let other = Failure::from(io::Error::from_raw_os_error(libc::EIO)).to_string();
    assert_eq!(other, io::Error::from_raw_os_error(libc::EIO).to_string());
}

#[test]
fn a_failure_travels_whole_as_an_io_error_and_between_processes() {
    let no_space = io::Error::from_raw_os_error(libc::ENOSPC);
    let failure = Failure::from(no_space).context("/run/x.json").ending("; make room");
    assert_eq!(Failure::read(&failure.written()), failure);
    assert_eq!(Failure::read("interrupted by a signal"), "interrupted by a signal".into());
    let error = io::Error::from(failure.clone());
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    assert_eq!(Kind::of(&error), Kind::System { errno: libc::ENOSPC });
    assert_eq!(Failure::from(error), failure);
    let late = io::Error::from(silent::no_answer("/dev/x"));
    assert_eq!((late.kind(), Kind::of(&late)), (io::ErrorKind::TimedOut, Kind::NoAnswer));
    // Wrapped once more, as a file that was replaced and could not be synced.
    #[derive(Debug)]
    struct Wrapped(io::Error);
    impl fmt::Display for Wrapped {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "in doubt: {}", self.0)
        }
    }
    impl Error for Wrapped {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            Some(&self.0)
        }
    }
    let doubtful = io::Error::other(Wrapped(io::Error::from_raw_os_error(libc::EIO)));
    let failure = Failure::from(doubtful);
    assert_eq!(failure.errno(), Some(libc::EIO));
    assert!(failure.starts_with("in doubt: "));
}

#[test]
fn errors_of_the_data_path_have_their_kinds() {
    let failed = || FailedOp {
        kind: OpKind::Read,
        disk: "/dev/x".into(),
        sector: Sector(8),
        count: Sectors(8),
        errno: Errno(libc::EREMOTEIO),
    };
    let disk = || DiskError::from(failed());
    let remote = Kind::System { errno: libc::EREMOTEIO };
    assert_eq!(Failure::from(disk()).kind, remote);
    assert_eq!(Failure::from(StoreError::from(disk())).kind, remote);
    assert_eq!(Failure::from(StoreError::ReadOnly("/dev/x".into())).kind, Kind::Refused);
    let no_memory = Kind::System { errno: libc::ENOMEM };
    assert_eq!(Failure::from(StoreError::NoMemory).kind, no_memory);
    assert_eq!(Failure::from(MirrorError::NoSource).kind, Kind::Refused);
    assert_eq!(Failure::from(ChangeError::Unfit(MirrorError::NoMemory)).kind, no_memory);
    assert_eq!(Failure::from(ChangeError::Busy).kind, Kind::InUse);
}

#[test]
fn what_a_failure_is_about_stays_with_it() {
    let disk = Failure::new(Kind::System { errno: libc::EIO }, "read failed");
    let why = disk.of_disk("/dev/sda").at_sector(8).context("s").of_device("s");
    let why = Failure::read(&why.context("not added").of_device("other").written());
    let about =
        About { device: Some("s".to_owned()), disk: Some("/dev/sda".to_owned()), sector: Some(8) };
    assert_eq!((why.about(), why.kind), (about, Kind::System { errno: libc::EIO }));
    assert_eq!(Failure::from("x").about(), About::default());
}

#[test]
fn a_name_is_said_once() {
    let of = |why: Failure| why.without_start("m").context("m: not upgraded").to_string();
    assert_eq!(of(Failure::new(Kind::Refused, "m: it waits")), "m: not upgraded: it waits");
    assert_eq!(of(Failure::from("it waits").context("m")), "m: not upgraded: it waits");
    assert_eq!(of("mm: it waits".into()), "m: not upgraded: mm: it waits");
}
