//! The tab file, `/etc/ublk-dm.tab`: the devices that a machine is to have, one on each line, in
//! the manner of crypttab.
//!
//! ```text
//! NAME  "TABLE LINE" ["TABLE LINE"...]  [OPTIONS]
//! ```
//!
//! Everything but [`files`] is pure. Rules kept here: a line is used as a whole or refused with its
//! place and the reason, and the other lines count nevertheless; a name that stands on two lines is
//! that of none; a disk is named by something that stays the same from one start of the machine to
//! the next; and what a person wrote is not changed by a program that changes another line.

pub mod change;
mod file;
pub mod files;
mod line;
mod options;
pub mod unit;
mod words;

pub use file::Tab;
pub use line::{Disk, Entry, LINKS};
pub use options::Options;
