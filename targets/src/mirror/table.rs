//! The arguments of `mirror`:
//! `LOG_TYPE COUNT LOG_ARGUMENT... LEGS (DEVICE OFFSET)... [COUNT FEATURE...]`.
//!
//! The log's arguments are `REGION_SIZE [sync|nosync]`, for `disk` after the log's device.

use std::fmt;

use crate::units::{Sector, Sectors};
use crate::words::{Quoted, TableError, Words, shown};

/// The parameters of a mirror.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirror {
    /// Where the dirty log is kept.
    pub log: MirrorLog,
    /// The size of a dirty-log region.
    pub region_size: Sectors,
    /// The initial state of the regions.
    pub initial_sync: InitialSync,
    /// The legs; the first is the default leg.
    pub legs: Vec<Leg>,
    /// Hold writes that did not reach every leg, and stop using failed legs.
    pub handle_errors: bool,
    /// Keep using the log when a leg fails; only together with `handle_errors`.
    pub keep_log: bool,
}

/// Where a mirror keeps its dirty log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MirrorLog {
    /// In memory.
    Core,
    /// On a device.
    Disk {
        /// The log's device word.
        device: String,
    },
}

/// The initial state of the regions, when the log is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InitialSync {
    /// Neither word: as recorded in the log.
    FromLog,
    /// `sync`: nothing is in sync.
    Sync,
    /// `nosync`: everything is in sync.
    NoSync,
}

/// One leg of a mirror.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leg {
    /// The device word.
    pub device: String,
    /// The leg's first sector on the device.
    pub offset: Sector,
}

impl Mirror {
    /// Fewest legs.
    pub const MIN_LEGS: usize = 2;
    /// Most legs: kcopyd copies from one to at most eight others.
    pub const MAX_LEGS: usize = 9;
    /// Smallest region.
    pub const MIN_REGION: Sectors = Sectors(2);

    pub(crate) fn parse(words: &mut Words, len: Sectors) -> Result<Mirror, TableError> {
        let (log, region_size, initial_sync) = parse_log(words)?;
        let count = words.number("number of legs", u32::MAX.into())?;
        let mut mirror = Mirror {
            log,
            region_size,
            initial_sync,
            legs: Vec::new(),
            handle_errors: false,
            keep_log: false,
        };
        legs_fit(usize::try_from(count).unwrap_or(usize::MAX))
            .map_err(|error| words.error(error))?;
        for leg in 0..count {
            let device = words.next(&format!("device of leg {leg}"))?;
            let offset = Sector(words.number(&format!("offset of leg {leg}"), u64::MAX)?);
            mirror.legs.push(Leg { device, offset });
        }
        for feature in words.counted_features(2)? {
            match feature.as_str() {
                "handle_errors" => mirror.handle_errors = true,
                "keep_log" => mirror.keep_log = true,
                _ => {
                    return Err(words.error(format_args!("feature {} is unknown", shown(&feature))));
                }
            }
        }
        mirror.check(len).map_err(|error| words.error(error))?;
        Ok(mirror)
    }

    /// The device words, in table order.
    pub(crate) fn devices_mut(&mut self) -> Vec<&mut String> {
        let log = match &mut self.log {
            MirrorLog::Core => None,
            MirrorLog::Disk { device } => Some(device),
        };
        log.into_iter().chain(self.legs.iter_mut().map(|leg| &mut leg.device)).collect()
    }

    /// The log's device word; `None` for a log in memory.
    pub fn log_device(&self) -> Option<&str> {
        match &self.log {
            MirrorLog::Core => None,
            MirrorLog::Disk { device } => Some(device),
        }
    }

    /// Checks the parameters against each other and the device's length, for callers that do not
    /// parse a line.
    ///
    /// # Errors
    /// A value or combination that the kernel also refuses.
    pub fn check(&self, len: Sectors) -> Result<(), TableError> {
        let region = self.region_size.0;
        if !region.is_power_of_two()
            || self.region_size < Self::MIN_REGION
            || self.region_size > len
        {
            let text = format!(
                "region size {region}: must be a power of two from 2 sectors to the length, {len}"
            );
            return Err(TableError::new(text));
        }
        if u32::try_from(len.0.div_ceil(region)).is_err() {
            return Err(TableError::new(format!(
                "region size {region}: makes more than {} regions",
                u32::MAX
            )));
        }
        legs_fit(self.legs.len())?;
        if let Some(at) = self.legs.iter().position(|leg| !leg.offset.has_room_for(len)) {
            let text = format!(
                "offset {} of leg {at}: the leg would end beyond the largest possible device",
                self.legs[at].offset
            );
            return Err(TableError::new(text));
        }
        if self.keep_log && !self.handle_errors {
            return Err(TableError::new("feature keep_log needs handle_errors"));
        }
        Ok(())
    }
}

fn legs_fit(count: usize) -> Result<(), TableError> {
    let (min, max) = (Mirror::MIN_LEGS, Mirror::MAX_LEGS);
    if (min..=max).contains(&count) {
        Ok(())
    } else {
        let legs = if count == 1 { "leg" } else { "legs" };
        Err(TableError::new(format!("{count} {legs}: must be {min} to {max}")))
    }
}

fn parse_log(words: &mut Words) -> Result<(MirrorLog, Sectors, InitialSync), TableError> {
    let kind = words.next("log type")?;
    let least = match kind.as_str() {
        "core" => 1,
        "disk" => 2,
        _ => {
            return Err(
                words.error(format_args!("log type {}: must be core or disk", shown(&kind)))
            );
        }
    };
    let count = words.number("number of log arguments", u32::MAX.into())?;
    if count < least || count > least + 1 {
        let most = least + 1;
        return Err(words
            .error(format_args!("{count} arguments for a {kind} log: must be {least} or {most}")));
    }
    let log = if kind == "disk" {
        MirrorLog::Disk { device: words.next("log device")? }
    } else {
        MirrorLog::Core
    };
    let region_size = Sectors(words.number("region size", u32::MAX.into())?);
    if count == least {
        return Ok((log, region_size, InitialSync::FromLog));
    }
    let word = words.next("sync or nosync")?;
    let initial_sync = match word.as_str() {
        "sync" => InitialSync::Sync,
        "nosync" => InitialSync::NoSync,
        // Before Linux 2.6.22 this was a log argument.
        "block_on_error" => {
            return Err(words.error("log argument block_on_error is now the feature handle_errors"));
        }
        _ => {
            return Err(
                words.error(format_args!("log argument {}: must be sync or nosync", shown(&word)))
            );
        }
    };
    Ok((log, region_size, initial_sync))
}

impl fmt::Display for Mirror {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sync = match self.initial_sync {
            InitialSync::FromLog => "",
            InitialSync::Sync => "sync ",
            InitialSync::NoSync => "nosync ",
        };
        let count = 1 + u8::from(!sync.is_empty());
        match &self.log {
            MirrorLog::Core => write!(f, "core {count} ")?,
            MirrorLog::Disk { device } => write!(f, "disk {} {} ", count + 1, Quoted(device))?,
        }
        write!(f, "{} {sync}{}", self.region_size, self.legs.len())?;
        for leg in &self.legs {
            write!(f, " {} {}", Quoted(&leg.device), leg.offset)?;
        }
        match (self.handle_errors, self.keep_log) {
            (false, _) => Ok(()),
            (true, false) => f.write_str(" 1 handle_errors"),
            (true, true) => f.write_str(" 2 handle_errors keep_log"),
        }
    }
}
