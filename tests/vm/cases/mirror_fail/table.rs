//! The kernel's table of the outcome of a mirror's requests when disks fail.

use super::{Ask, BAD, REGION, Row};
use crate::condition::Fault;

const ROW: Row = Row {
    faults: [Fault::None; 3],
    disk_log: false,
    ask: Ask::Write,
    flush_suspend: false,
    known: ["", "", ""],
    own: None,
};

const LEG_1: [Fault; 3] = [Fault::None, BAD, Fault::None];
const LEG_0: [Fault; 3] = [BAD, Fault::None, Fault::None];
const LEGS: [Fault; 3] = [BAD, BAD, Fault::None];

const UNREADABLE: Fault = Fault::Unreadable { sector: 3 * REGION, sectors: REGION };

pub(super) const WRITE: &[Row] = &[
    Row { faults: LEG_1, known: ["Success 7/8 AD c", "Held 7/8 AD c", "Success 7/8 AD c"], ..ROW },
    Row { faults: LEG_0, known: ["Success 7/8 DA c", "Held 7/8 DA c", "Success 7/8 DA c"], ..ROW },
    Row { faults: LEGS, known: ["Eio 7/8 DD c", "Eio 7/8 DD c", "Eio 7/8 DD c"], ..ROW },
];

pub(super) const WRITE_DISK_LOG: &[Row] = &[
    Row {
        faults: LEG_1,
        disk_log: true,
        known: ["Success 7/8 AD A", "Held 7/8 AD A", "Success 7/8 AD A"],
        ..ROW
    },
    Row {
        faults: LEG_0,
        disk_log: true,
        known: ["Success 7/8 DA A", "Held 7/8 DA A", "Success 7/8 DA A"],
        ..ROW
    },
    Row {
        faults: LEGS,
        disk_log: true,
        known: ["Eio 7/8 DD A", "Eio 7/8 DD A", "Eio 7/8 DD A"],
        ..ROW
    },
];

pub(super) const READ: &[Row] = &[
    Row {
        faults: [UNREADABLE, Fault::None, Fault::None],
        ask: Ask::Read,
        known: ["Success 8/8 RA c", "Success 8/8 RA c", "Success 8/8 RA c"],
        ..ROW
    },
    Row {
        faults: [UNREADABLE, UNREADABLE, Fault::None],
        ask: Ask::Read,
        known: ["Eio", "Eio", "Eio"],
        ..ROW
    },
];

pub(super) const FLUSH: &[Row] = &[
    Row {
        faults: [Fault::None, Fault::Flushes, Fault::None],
        ask: Ask::Sync,
        known: ["Success 8/8 AD c", "Held 8/8 AD c", "Success 8/8 AD c"],
        ..ROW
    },
    Row {
        faults: [Fault::Flushes, Fault::None, Fault::None],
        ask: Ask::Sync,
        known: ["Success 8/8 DA c", "Held 8/8 DA c", "Success 8/8 DA c"],
        ..ROW
    },
    Row {
        faults: [Fault::Flushes, Fault::Flushes, Fault::None],
        disk_log: true,
        ask: Ask::Sync,
        known: ["Eio 8/8 DD A", "Eio 8/8 DD A", "Eio 8/8 DD A"],
        ..ROW
    },
];

const LOG_BAD: [Fault; 3] = [Fault::None, Fault::None, Fault::Gone];

pub(super) const LOG: &[Row] = &[
    Row {
        faults: LOG_BAD,
        disk_log: true,
        known: ["Success 8/8 AA D", "Held 8/8 AA D", "Eio 8/8 AA D"],
        ..ROW
    },
    Row {
        faults: [Fault::None, Fault::None, Fault::Flushes],
        disk_log: true,
        known: ["Success 8/8 AA F", "Held 8/8 AA F", "Eio 8/8 AA F"],
        // It writes the log with FUA and needs no flush.
        own: Some("Success 8/8 AA A"),
        ..ROW
    },
];

pub(super) const FLUSH_SUSPEND: &[Row] = &[
    Row {
        faults: LEG_1,
        disk_log: true,
        flush_suspend: true,
        known: ["", "Held 7/8 AD A", ""],
        ..ROW
    },
    Row {
        faults: LOG_BAD,
        disk_log: true,
        flush_suspend: true,
        known: ["", "Held 8/8 AA D", ""],
        ..ROW
    },
];
