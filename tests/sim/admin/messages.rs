//! Messages to a mirror that mean nothing: what is wrong with each is said in its own words.

use super::town::{Town, What};
use crate::failure::Kind;
use crate::protocol::Command;

#[test]
fn a_message_of_which_a_word_is_missing_is_not_unknown() {
    let mut town = Town::new(1, true);
    town.add(What::Mirror).unwrap();
    let mut refused = |message: &str| {
        let device = town.devices[&What::Mirror].device();
        let words = message.split(' ').map(str::to_owned).collect();
        let admin = &mut town.processes.get_mut("mirror-a").unwrap().admin;
        let why =
            admin.carry_out(Command::Message { device, words, named: Vec::new() }).unwrap_err();
        // As wrong words of a table.
        assert_eq!(why.kind, Kind::Usage, "{why}");
        why.to_string()
    };
    for message in ["throttle", "throttle 1 2", "replace", "replace 1", "add-leg", "remove-leg"] {
        let why = refused(message);
        assert!(why.starts_with(&format!("message '{message}': wrong number of words")), "{why}");
        assert!(why.contains("throttle PERCENT"), "{why}");
    }
    for percent in ["0", "101", "-1", "half"] {
        let why = refused(&format!("throttle {percent}"));
        assert_eq!(why, "throttle: must be a percentage from 1 to 100");
    }
    assert!(refused("nonsense").contains("unknown"));
}
