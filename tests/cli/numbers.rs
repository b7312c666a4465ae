//! Numbers on the command line that no device can have.

use crate::offline::run;

#[test]
fn a_device_number_that_does_not_exist_is_wrong_usage() {
    for id in ["4294967295", "4294967296", "99999999", "1048576", "-1"] {
        let arguments =
            ["add", "snapshot", "--origin", "/dev/null", "--cow", "/dev/null", "--id", id];
        let output = run(&arguments);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "--id {id}: {said}");
        assert!(said.contains(id) && said.lines().count() == 1, "--id {id}: {said}");
    }
}
