//! The lines of a mirror: its table, as the kernel and `ublk-dm` accept it, and its status.
//!
//! Rule kept here: both engines get the same mirror from one [`Shape`], and a status that is not
//! exactly the kernel's ends the case.

use crate::disk::us;

/// Where a mirror keeps its log and what it assumes at first.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Initial {
    FromLog,
    Sync,
    NoSync,
}

/// A mirror's table.
#[derive(Clone, Debug)]
pub struct Shape {
    /// Sectors.
    pub len: u64,
    /// Sectors of a region.
    pub region: u64,
    /// Paths and offsets.
    pub legs: Vec<(String, u64)>,
    /// The log's device; in memory if none.
    pub log: Option<String>,
    pub initial: Initial,
    /// `handle_errors`, `keep_log`.
    pub features: &'static [&'static str],
}

impl Shape {
    /// Legs without offsets, a log in memory, no features.
    pub fn new(len: u64, region: u64, legs: &[&str]) -> Shape {
        let legs = legs.iter().map(|path| (path.to_string(), 0)).collect();
        Shape { len, region, legs, log: None, initial: Initial::FromLog, features: &[] }
    }

    pub fn log(mut self, path: &str) -> Shape {
        self.log = Some(path.to_string());
        self
    }

    pub fn initial(mut self, initial: Initial) -> Shape {
        self.initial = initial;
        self
    }

    pub fn features(mut self, features: &'static [&'static str]) -> Shape {
        self.features = features;
        self
    }

    /// Regions, the last one perhaps short.
    pub fn regions(&self) -> u64 {
        self.len.div_ceil(self.region)
    }

    /// The table line.
    pub fn table(&self) -> String {
        let mut args = vec![self.region.to_string()];
        args.splice(0..0, self.log.clone());
        match self.initial {
            Initial::FromLog => {}
            Initial::Sync => args.push("sync".to_string()),
            Initial::NoSync => args.push("nosync".to_string()),
        }
        let kind = if self.log.is_some() { "disk" } else { "core" };
        let legs: Vec<String> =
            self.legs.iter().map(|(path, offset)| format!("{path} {offset}")).collect();
        let mut line = format!(
            "0 {} mirror {kind} {} {} {} {}",
            self.len,
            args.len(),
            args.join(" "),
            legs.len(),
            legs.join(" ")
        );
        if !self.features.is_empty() {
            line += &format!(" {} {}", self.features.len(), self.features.join(" "));
        }
        line
    }

    /// The arguments of `ublk-dm add` for the same mirror; the length is then that of the legs.
    pub fn flags(&self) -> String {
        let mut line = format!("mirror --region-size {}s", self.region);
        for (path, offset) in &self.legs {
            line += &if *offset == 0 {
                format!(" --leg {path}")
            } else {
                format!(" --leg {path}:{offset}s")
            };
        }
        if let Some(log) = &self.log {
            line += &format!(" --log {log}");
        }
        match self.initial {
            Initial::FromLog => {}
            Initial::Sync => line += " --sync",
            Initial::NoSync => line += " --nosync",
        }
        for feature in self.features {
            line += &format!(" --{}", feature.replace('_', "-"));
        }
        line
    }
}

/// The content of a status line.
#[derive(Clone, Debug, PartialEq)]
pub struct Status {
    pub in_sync: u64,
    pub total: u64,
    /// One health letter a leg.
    pub letters: String,
    /// The log's letter; `c` for a log in memory.
    pub log: String,
}

impl Status {
    /// Takes `0 LEN mirror N DEV... IN/TOTAL 1 LETTERS 1 core | 3 disk DEV LETTER` apart.
    pub fn parse(line: &str) -> Status {
        let bad = || -> ! { panic!("no status of a mirror: {line:?}") };
        let number = |text: &str| text.parse::<u64>().unwrap_or_else(|_| bad());
        let words: Vec<&str> = line.split(' ').collect();
        let legs = us(number(words.get(3).unwrap_or_else(|| bad())));
        let rest = words.get(4 + legs..).unwrap_or_else(|| bad());
        let (in_sync, total) =
            rest.first().and_then(|word| word.split_once('/')).unwrap_or_else(|| bad());
        let log = match rest.get(3..) {
            Some(["1", "core"]) => "c",
            Some(["3", "disk", _, letter]) => letter,
            _ => bad(),
        };
        assert!(rest[1] == "1" && rest[2].len() == legs, "letters of {legs} legs in {line:?}");
        Status {
            in_sync: number(in_sync),
            total: number(total),
            letters: rest[2].to_string(),
            log: log.to_string(),
        }
    }

    /// As in the tables of these cases: `7/8 AD c`.
    pub fn short(&self) -> String {
        format!("{}/{} {} {}", self.in_sync, self.total, self.letters, self.log)
    }
}
