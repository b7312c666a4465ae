//! What a failure is about, for programs: people read it in the line.
//!
//! Rule kept here: nothing decides by the text of a failure. Its device, disk and sector are noted
//! where the failure is made; only the commands that it advises are taken from the line, where each
//! stands in backticks.

use serde::{Deserialize, Serialize};

/// The program's name, with which a command begins that a line advises.
const PROGRAM: &str = "ublk-dm ";

/// The device, the disk and the sector that a failure is about.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    /// The device's name, or the word that should have named one.
    #[serde(default)]
    pub device: Option<String>,
    /// The path of the disk or image.
    #[serde(default)]
    pub disk: Option<String>,
    /// The sector of the disk at which the operation began.
    #[serde(default)]
    pub sector: Option<u64>,
}

/// The commands that a line advises, in its order.
pub fn commands_in(line: &str) -> Vec<String> {
    let quoted = line.split('`').skip(1).step_by(2);
    quoted.filter(|words| words.starts_with(PROGRAM)).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_in_backticks_are_advice() {
        let line = "s: `ublk-dm recover s` or `ublk-dm del --force s`; not `mount`";
        assert_eq!(commands_in(line), ["ublk-dm recover s", "ublk-dm del --force s"]);
        assert_eq!(commands_in("a path with ` in it"), Vec::<String>::new());
    }
}
