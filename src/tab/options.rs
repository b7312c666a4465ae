//! The options of a line, separated by commas.
//!
//! Rules kept here: as in crypttab, an option that is not known is ignored, and said; one that is
//! known and has a wrong value refuses its line, because what it was to say is not known.

use std::time::Duration;

use super::words::parts;
use crate::failure::Failure;
use crate::protocol::{OnServerDeath, refuse_odd_uuid};

/// How long the disks of a device are waited for unless its line says something else.
const TIMEOUT: Duration = Duration::from_secs(30);

/// What a line says of its device beside the table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// `up --all` leaves it alone.
    pub noauto: bool,
    /// If it cannot be brought up, that is a warning.
    pub nofail: bool,
    /// Its disks need the network.
    pub netdev: bool,
    /// It is brought up in the initrd already.
    pub initrd_attach: bool,
    /// How long its disks are waited for, in seconds.
    pub timeout_s: Option<u64>,
    /// The N of `/dev/ublkbN`.
    pub id: Option<u32>,
    /// Hardware queues.
    pub queues: Option<u16>,
    /// Requests in flight per queue.
    pub depth: Option<u16>,
    /// The device cannot be written.
    pub read_only: bool,
    /// Request data are copied.
    pub no_zero_copy: bool,
    /// The device ends with its server.
    pub no_recovery: bool,
    /// What its requests do while it has no server.
    pub on_server_death: Option<OnServerDeath>,
    /// Its name for programs.
    pub uuid: Option<String>,
    /// Disks are used that are in use or hold something else.
    pub force: bool,
    /// The disks are not claimed.
    pub shared: bool,
    /// The store on the COW may be of another origin, or of a device that was deleted.
    pub other_origin: bool,
    /// The leg that the others are recovered from.
    pub source: Option<String>,
    /// The device whose server it gets.
    pub beside: Option<String>,
    /// Options that are not known.
    pub unknown: Vec<String>,
}

impl Options {
    /// Reads the options of a line; `-` are none.
    ///
    /// # Errors
    /// An option has no value or a wrong one, or two contradict each other.
    pub(super) fn parse(text: &str) -> Result<Options, Failure> {
        let mut options = Options::default();
        let words = if text == "-" { Vec::new() } else { parts(text) };
        for word in words.iter().filter(|word| !word.is_empty()) {
            match word.split_once('=') {
                None => options.set(word)?,
                Some((name, value)) => options.set_to(word, name, value)?,
            }
        }
        if options.no_recovery && options.on_server_death.is_some() {
            return Err("options no-recovery and on-server-death: only one of them".into());
        }
        Ok(options)
    }

    fn set(&mut self, word: &str) -> Result<(), Failure> {
        let flag = match word {
            "noauto" => &mut self.noauto,
            "nofail" => &mut self.nofail,
            "_netdev" => &mut self.netdev,
            "x-initrd.attach" => &mut self.initrd_attach,
            "read-only" => &mut self.read_only,
            "no-zero-copy" => &mut self.no_zero_copy,
            "no-recovery" => &mut self.no_recovery,
            "force" => &mut self.force,
            "shared" => &mut self.shared,
            "other-origin" => &mut self.other_origin,
            "timeout" | "id" | "queues" | "depth" | "uuid" | "source" | "beside"
            | "on-server-death" => {
                return Err(format!("option {word}: it needs a value, {word}=...").into());
            }
            _ => {
                self.unknown.extend(is_ours(word).then(|| word.to_owned()));
                return Ok(());
            }
        };
        *flag = true;
        Ok(())
    }

    fn set_to(&mut self, word: &str, name: &str, value: &str) -> Result<(), Failure> {
        match name {
            "timeout" => self.timeout_s = Some(number(word, value, 0, MAX_TIMEOUT_S)?),
            "id" => self.id = Some(number(word, value, 0, MAX_ID)?),
            "queues" => self.queues = Some(number(word, value, 1, 64)?),
            "depth" => self.depth = Some(number(word, value, 1, 4096)?),
            "uuid" => {
                refuse_odd_uuid(value)
                    .map_err(|why| Failure::from(why).context(format!("option {word}")))?;
                self.uuid = Some(value.to_owned());
            }
            "source" => self.source = Some(value.to_owned()),
            "beside" => self.beside = Some(value.to_owned()),
            "on-server-death" => {
                self.on_server_death = Some(match value {
                    "wait" => OnServerDeath::Wait,
                    "fail" => OnServerDeath::Fail,
                    _ => return Err(format!("option {word}: it is wait or fail").into()),
                });
            }
            "noauto" | "nofail" | "_netdev" | "x-initrd.attach" | "read-only" | "no-zero-copy"
            | "no-recovery" | "force" | "shared" | "other-origin" => {
                return Err(format!("option {word}: {name} has no value").into());
            }
            _ => self.unknown.extend(is_ours(word).then(|| word.to_owned())),
        }
        Ok(())
    }

    /// How long the disks are waited for.
    pub fn timeout(&self) -> Duration {
        self.timeout_s.map_or(TIMEOUT, Duration::from_secs)
    }
}

/// The largest id of a ublk device, as for `--id`.
const MAX_ID: u32 = (1 << 20) - 1;
/// The longest timeout: a day.
const MAX_TIMEOUT_S: u64 = 24 * 60 * 60;

/// Whether an option that is not known was meant for this program: those that begin with `x-` are
/// for others.
fn is_ours(word: &str) -> bool {
    !word.starts_with("x-")
}

fn number<N>(word: &str, value: &str, min: N, max: N) -> Result<N, Failure>
where
    N: std::str::FromStr + PartialOrd + std::fmt::Display,
{
    let digits = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
    let number = value.parse().ok().filter(|number| digits && (&min..=&max).contains(&number));
    number.ok_or_else(|| format!("option {word}: it takes a number from {min} to {max}").into())
}

/// The options as a line has them, in a fixed order.
impl std::fmt::Display for Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let flags = [
            (self.noauto, "noauto"),
            (self.nofail, "nofail"),
            (self.netdev, "_netdev"),
            (self.initrd_attach, "x-initrd.attach"),
            (self.read_only, "read-only"),
            (self.no_zero_copy, "no-zero-copy"),
            (self.no_recovery, "no-recovery"),
            (self.force, "force"),
            (self.shared, "shared"),
            (self.other_origin, "other-origin"),
        ];
        let flags = flags.into_iter().filter(|(is_set, _)| *is_set);
        let mut words: Vec<String> = flags.map(|(_, word)| word.to_owned()).collect();
        let on_death = self.on_server_death.map(|policy| match policy {
            OnServerDeath::Wait => "wait".to_owned(),
            OnServerDeath::Fail => "fail".to_owned(),
        });
        let values = [
            ("timeout", self.timeout_s.map(|value| value.to_string())),
            ("id", self.id.map(|value| value.to_string())),
            ("queues", self.queues.map(|value| value.to_string())),
            ("depth", self.depth.map(|value| value.to_string())),
            ("on-server-death", on_death),
            ("uuid", self.uuid.clone()),
            ("source", self.source.clone()),
            ("beside", self.beside.clone()),
        ];
        let values = values.into_iter().filter_map(|(name, value)| Some((name, value?)));
        words.extend(
            values.map(|(name, value)| format!("{name}={}", super::words::escaped(&value, ","))),
        );
        words.extend(self.unknown.iter().map(|word| super::words::escaped(word, ",")));
        f.write_str(&words.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_read_back() {
        for text in [
            "",
            "noauto,nofail,_netdev,x-initrd.attach,read-only,no-zero-copy,no-recovery,force,shared",
            "other-origin",
            "timeout=0,id=1048575,queues=64,depth=4096,on-server-death=fail,uuid=LVM-1",
            r"source=/dev/a\ b\,c,beside=l0",
            "on-server-death=wait,discard",
        ] {
            let options = Options::parse(text).unwrap();
            assert_eq!(options.to_string(), text);
        }
        assert_eq!(Options::parse("-").unwrap(), Options::default());
        assert_eq!(Options::parse(",,nofail,").unwrap().to_string(), "nofail");
        assert_eq!(Options::parse("id=3,id=4").unwrap().id, Some(4), "the last one counts");
        let given = |text| Options::parse(text).unwrap().timeout();
        assert_eq!((given(""), given("timeout=5")), (TIMEOUT, Duration::from_secs(5)));
    }

    #[test]
    fn unknown_options_are_kept_apart_and_those_of_others_are_ignored() {
        let unknown = |text: &str| Options::parse(text).unwrap().unknown;
        assert_eq!(unknown("luks,nofail,cipher=aes"), ["luks", "cipher=aes"]);
        assert_eq!(unknown("x-systemd.device-timeout=9,x-mine"), [""; 0]);
    }

    #[test]
    fn a_wrong_value_refuses_the_line() {
        for (text, why) in [
            ("timeout", "needs a value"),
            ("timeout=", "from 0 to 86400"),
            ("timeout=1s", "from 0 to 86400"),
            ("timeout=86401", "from 0 to 86400"),
            ("id=-1", "from 0 to 1048575"),
            ("id=+1", "from 0 to 1048575"),
            ("id=1048576", "from 0 to 1048575"),
            ("queues=0", "from 1 to 64"),
            ("depth=99999999999999999999", "from 1 to 4096"),
            ("on-server-death=maybe", "it is wait or fail"),
            ("nofail=1", "nofail has no value"),
            ("source", "needs a value"),
            ("uuid=", "it is empty"),
            ("no-recovery,on-server-death=fail", "only one of them"),
        ] {
            let refused = Options::parse(text).unwrap_err();
            assert!(refused.contains(why), "{text}: {refused}");
        }
    }
}
