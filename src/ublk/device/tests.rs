//! Tests of [`device`](super): cookies, numbers, users.

use super::*;
use crate::protocol::DeviceSpec;
use crate::ublk::{DeviceState, attrs};

fn info(target_flags: u64) -> DeviceInfo {
    DeviceInfo {
        id: 3,
        state: DeviceState::Quiesced,
        queues: 1,
        depth: 1,
        max_io_bytes: 4096,
        flags: 0,
        target_flags,
        server_pid: None,
        owner_uid: 0,
        owner_gid: 0,
    }
}

#[test]
fn a_device_is_known_by_its_cookie() {
    assert!(is_ours(&info(77), 77));
    assert!(!is_ours(&info(78), 77), "another device got the number");
    assert!(!is_ours(&info(0), 77), "another program's device got the number");
    assert!(!is_ours(&info(0), 0), "a cookie that was never given is no cookie");
}

#[test]
fn the_driver_is_told_what_requests_do_without_a_server() {
    let told = |recovery, on_server_death| {
        let options = DeviceSpec::of_line("0 8 zero").options;
        let options = DeviceOptions { recovery, on_server_death, ..options };
        let info = DeviceInfo { flags: recovery_flags(&options), ..info(77) };
        let names = crate::ublk::feature_names(info.flags);
        (names, super::on_server_death(&info))
    };
    let wait = ["USER_RECOVERY", "USER_RECOVERY_REISSUE"].to_vec();
    let (on_wait, on_fail) = (OnServerDeath::Wait, OnServerDeath::Fail);
    assert_eq!(told(true, on_wait), (wait, Some(on_wait)));
    let fail = ["USER_RECOVERY", "USER_RECOVERY_FAIL_IO"].to_vec();
    assert_eq!(told(true, on_fail), (fail, Some(on_fail)), "the driver refuses all three");
    for other in [on_wait, on_fail] {
        assert_eq!(told(false, other), (Vec::new(), None));
    }
}

#[test]
fn only_a_device_without_a_disk_is_unused_for_certain() {
    let claim = |errno| not_claimed(1_048_575, Err(io::Error::from_raw_os_error(errno)));
    for errno in [libc::ENOENT, libc::ENXIO, libc::ENODEV] {
        assert!(claim(errno).is_ok(), "errno {errno}");
    }
    assert!(claim(libc::EBUSY).unwrap_err().contains("in use; end that use first"));
    for errno in [
        libc::EMFILE,
        libc::ENFILE,
        libc::EINTR,
        libc::EIO,
        libc::ENOMEM,
        libc::EPERM,
        libc::EACCES,
    ] {
        let why = claim(errno).unwrap_err();
        assert!(why.contains("cannot determine") && why.contains("os error"), "{why}");
    }
    assert!(not_claimed(0, Ok(())).is_ok());
}

#[test]
fn cookies_differ() {
    let mark = NonZeroU16::new(7).unwrap();
    let cookies: std::collections::HashSet<u64> =
        (0..64).map(|_| new_cookie(mark).unwrap()).collect();
    assert!(cookies.len() == 64 && !cookies.contains(&0));
    assert!(cookies.iter().all(|cookie| has_mark(&info(*cookie), mark)));
    let other = NonZeroU16::new(8).unwrap();
    assert!(cookies.iter().all(|cookie| !has_mark(&info(*cookie), other)), "another run directory");
    assert!(!has_mark(&info(0), mark) && !has_mark(&info(0xffff), mark), "another program");
}

#[test]
fn a_number_that_cannot_be_had_is_named() {
    let error = |errno| ControlError::Command { command: "ADD_DEV", device: Some(7), errno };
    let taken = not_added(Some(7), error(libc::EEXIST));
    assert!(taken.starts_with("--id 7: ") && taken.contains("already"), "{taken}");
    let absent = not_added(Some(7), error(libc::EINVAL));
    assert!(
        absent.starts_with("--id 7: ") && absent.contains("does not allow that number"),
        "{absent}"
    );
    assert!(!not_added(None, error(libc::EINVAL)).contains("--id"));
}

#[test]
fn a_device_whose_users_do_not_flush_gets_no_disk_with_a_volatile_cache() {
    let without = Params { dev_sectors: 8, logical_shift: 9, ..Params::default() };
    let with = Params { attrs: attrs::VOLATILE_CACHE | attrs::FUA, ..without.clone() };
    let why = check_fits(&without, &with, false).unwrap_err();
    assert!(why.contains("volatile cache"), "{why}");
    assert_eq!(check_fits(&with, &without, false), Ok(()));
    assert_eq!(check_fits(&with, &with, false), Ok(()));
}
