//! The command line of `merge`: what its help says, and what is wrong usage.

use crate::offline::run;

#[test]
fn the_help_of_merge_has_an_example_and_every_flag() {
    let output = run(&["merge", "--help"]);
    let said = String::from_utf8(output.stdout).expect("text");
    let flags = ["--pause", "--resume", "--json", "--defer", "--keep"];
    for part in flags.into_iter().chain(["ublk-dm merge monday --wait --rate 50MiB"]) {
        assert!(said.contains(part), "it lacks {part}: {said}");
    }
}

#[test]
fn flags_that_contradict_each_other_are_wrong_usage() {
    for words in [
        &[][..],
        &["s", "--pause", "--resume"],
        &["s", "--pause", "--wait"],
        &["s", "--pause", "--rate", "1MiB"],
        &["s", "--resume", "--force"],
        &["s", "--resume", "--rate", "1"],
        &["s", "--defer", "--force"],
        &["s", "--defer", "--pause"],
        &["s", "--defer", "--resume"],
        &["s", "--rate", "1.5MiB"],
        &["s", "--rate", "1MB"],
        &["s", "--rate", "-1"],
        &["s", "--rate"],
        &["s", "t"],
        &["s", "--keep", "--pause"],
        &["s", "--keep", "--resume"],
    ] {
        let output = run(&[&["merge"], words].concat());
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{words:?}: {said}");
        assert!(output.stdout.is_empty() && said.lines().count() == 1, "{words:?}: {said}");
    }
}
