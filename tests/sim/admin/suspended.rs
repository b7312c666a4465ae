//! Errors of suspend, resume and load when the state cannot be recorded: they state what the device
//! does from then on, and nothing else.

use super::town::{Town, What};

const O: What = What::Origin;

fn town(what: What) -> Town {
    let mut town = Town::new(1, true);
    town.add(what).unwrap();
    town
}

fn is_recorded_suspended(town: &Town, what: What) -> bool {
    let cookie = town.devices[&what].cookie;
    town.state(what.key()).unwrap().iter().any(|one| one.cookie == cookie && one.suspended)
}

#[test]
fn a_suspend_that_cannot_be_recorded_leaves_the_device_running() {
    let mut town = town(O);
    town.fill(true);
    let why = town.suspend(O).unwrap_err();
    assert!(why.contains("cannot be recorded") && why.ends_with("; it continues to run"), "{why}");
    assert!(matches!(town.read(O), Some(Ok(_))), "it does not run");
    assert!(!is_recorded_suspended(&town, O));
    assert_eq!(town.end(), Ok(()));
}

#[test]
fn what_is_suspended_on_record_is_suspended_again_without_room() {
    let mut town = town(O);
    town.suspend(O).unwrap();
    town.fill(true);
    assert_eq!(town.suspend(O), Ok(()));
    assert!(town.read(O).is_none(), "it runs");
    assert_eq!(town.end(), Ok(()));
}

#[test]
fn a_suspended_device_of_which_nothing_can_be_recorded_stays_suspended_and_says_so() {
    let mut town = town(O);
    town.suspend(O).unwrap();
    town.kill("o");
    town.fill(true);
    // Its new server has not been able to write anything yet.
    assert!(town.recover().unwrap_err().contains("the next server does not know"));
    let why = town.suspend(O).unwrap_err();
    assert!(why.contains("cannot be recorded") && why.ends_with("; it stays suspended"), "{why}");
    assert!(town.read(O).is_none(), "it runs");
    town.fill(false);
    assert_eq!(town.suspend(O), Ok(()));
    assert!(is_recorded_suspended(&town, O));
    assert_eq!(town.end(), Ok(()));
}

#[test]
fn a_resume_that_is_not_on_record_is_not_done_until_it_is() {
    let mut town = town(O);
    town.suspend(O).unwrap();
    town.fill(true);
    for _ in 0..2 {
        let why = town.resume(O).unwrap_err();
        assert!(why.contains("it runs, but the next server will find it suspended"), "{why}");
        assert!(matches!(town.read(O), Some(Ok(_))), "it does not run");
        assert!(is_recorded_suspended(&town, O));
    }
    town.fill(false);
    assert_eq!(town.resume(O), Ok(()));
    assert!(!is_recorded_suspended(&town, O));
    // A device that is recorded as running needs no room.
    town.fill(true);
    assert_eq!(town.resume(O), Ok(()));
    assert_eq!(town.end(), Ok(()));
}

#[test]
fn a_table_that_cannot_be_recorded_is_not_loaded() {
    let mut town = town(What::Mirror);
    town.fill(true);
    let why = town.load(false).unwrap_err();
    assert!(why.contains("the table cannot be recorded"), "{why}");
    town.fill(false);
    town.suspend(What::Mirror).unwrap();
    assert!(town.state("mirror-a").unwrap().iter().all(|device| device.loaded.is_none()));
    town.resume(What::Mirror).unwrap();
    assert!(matches!(town.read(What::Mirror), Some(Ok(_))));
    assert_eq!(town.end(), Ok(()));
}
