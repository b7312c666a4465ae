//! What the program says of itself as dmsetup: its usage and its version.

use super::complaint::say;
use crate::cli::terminal;
use crate::failure::Failure;

const USAGE: &str = "\
Usage: udmsetup COMMAND [OPTIONS] [DEVICE...]    (or: ublk-dm dmsetup COMMAND ...)

  create NAME [-n|--notable | --table TABLE | FILE] [-r] [-u UUID] [-m MINOR] [-f]
  create --concise [DEVICES]
  load|reload DEVICE [--table TABLE | FILE] [-f]
  suspend [--noflush] DEVICE... | resume DEVICE... | clear DEVICE...
  rename DEVICE NEW_NAME
  remove [-f] [--retry] DEVICE... | remove_all [-f] | wipe_table DEVICE...
  status|table [--target TARGET] [--inactive] [DEVICE...] | table --concise [DEVICE...]
  info [DEVICE...]
  info -c [-o FIELDS] [-O FIELDS] [-S CRITERIA] [--noheadings] [--separator TEXT] [--rows]
       [--nameprefixes [--unquoted]] [DEVICE...]
  deps [-o devno|blkdevname|devname] [DEVICE...]
  ls [--target TARGET] [--exec COMMAND] [-o devno|blkdevname|devname]
  ls --tree [-o ascii,utf,nodevice,blkdevname,active,open,rw,uuid,inverted]
  message DEVICE SECTOR WORDS... | wait DEVICE [EVENT_NR]
  targets | target-version TARGET... | version | help
  mknodes, mangle, udevcomplete, udevcookies and the like do nothing

A device is a name, /dev/mapper/NAME, /dev/ublk-dm/NAME or /dev/ublkbN, or what -u UUID or
-j MAJOR -m MINOR says. -v shows a device that was created, loaded, suspended, resumed or waited
for.
docs/dmsetup.md says what is different from device-mapper's.";

/// Prints the usage on stderr, as dmsetup does.
pub(super) fn print() {
    USAGE.lines().for_each(say);
}

/// Prints the versions.
pub(super) fn version(driver: &str) -> Result<(), Failure> {
    terminal::print(&format!("Library version:   ublk-dm {}", env!("CARGO_PKG_VERSION")))?;
    terminal::print(&format!("Driver version:    {driver}"))
}
