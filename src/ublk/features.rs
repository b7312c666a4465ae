//! The driver's features as a table: bit, name, first kernel, purpose.
//!
//! One table serves `features`, `doctor` and messages. Bits that are not in it are reported as
//! numbers, so that a newer kernel is never misread.

use libublk::sys;

/// One feature of the driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Feature {
    /// Its bit, `UBLK_F_*`.
    pub flag: u64,
    /// The kernel's name without `UBLK_F_`.
    pub name: &'static str,
    /// The first kernel in which it works.
    pub since: &'static str,
    /// Its purpose.
    pub purpose: &'static str,
}

/// Declares one row.
macro_rules! feature {
    ($flag:ident, $name:literal, $since:literal, $purpose:literal) => {
        Feature { flag: sys::$flag as u64, name: $name, since: $since, purpose: $purpose }
    };
}

/// Every feature up to Linux 7.3, by bit.
pub const FEATURES: &[Feature] = &[
    feature!(
        UBLK_F_SUPPORT_ZERO_COPY,
        "SUPPORT_ZERO_COPY",
        "6.15",
        "requests' own pages as I/O buffers"
    ),
    feature!(UBLK_F_URING_CMD_COMP_IN_TASK, "URING_CMD_COMP_IN_TASK", "6.0", "always on"),
    feature!(UBLK_F_NEED_GET_DATA, "NEED_GET_DATA", "6.0", "the server requests a write's data"),
    feature!(UBLK_F_USER_RECOVERY, "USER_RECOVERY", "6.1", "a device outlives its server"),
    feature!(
        UBLK_F_USER_RECOVERY_REISSUE,
        "USER_RECOVERY_REISSUE",
        "6.1",
        "a new server gets the pending requests"
    ),
    feature!(UBLK_F_UNPRIVILEGED_DEV, "UNPRIVILEGED_DEV", "6.3", "devices of unprivileged users"),
    feature!(UBLK_F_CMD_IOCTL_ENCODE, "CMD_IOCTL_ENCODE", "6.4", "always on"),
    feature!(UBLK_F_USER_COPY, "USER_COPY", "6.5", "the server copies a request's data itself"),
    feature!(UBLK_F_ZONED, "ZONED", "6.6", "zoned disks"),
    feature!(
        UBLK_F_USER_RECOVERY_FAIL_IO,
        "USER_RECOVERY_FAIL_IO",
        "6.13",
        "I/O fails while the server is gone"
    ),
    feature!(UBLK_F_UPDATE_SIZE, "UPDATE_SIZE", "6.16", "a live device can be resized"),
    feature!(UBLK_F_AUTO_BUF_REG, "AUTO_BUF_REG", "6.16", "zero copy without extra commands"),
    feature!(UBLK_F_QUIESCE, "QUIESCE", "6.16", "a server can exit, the device stays"),
    feature!(UBLK_F_PER_IO_DAEMON, "PER_IO_DAEMON", "6.16", "several threads serve one queue"),
    feature!(
        UBLK_F_BUF_REG_OFF_DAEMON,
        "BUF_REG_OFF_DAEMON",
        "6.17",
        "any thread registers buffers"
    ),
    feature!(UBLK_F_BATCH_IO, "BATCH_IO", "7.0", "one command for many requests"),
    feature!(UBLK_F_INTEGRITY, "INTEGRITY", "7.0", "integrity data"),
    feature!(UBLK_F_SAFE_STOP_DEV, "SAFE_STOP_DEV", "7.0", "refuses to stop a device in use"),
    feature!(UBLK_F_NO_AUTO_PART_SCAN, "NO_AUTO_PART_SCAN", "7.0", "no partition scan at start"),
    feature!(UBLK_F_SHMEM_ZC, "SHMEM_ZC", "7.1", "zero copy through shared memory"),
    // The bindings end before this one.
    Feature {
        flag: 1 << 20,
        name: "IO_DESC_SIZE",
        since: "7.3",
        purpose: "the server chooses the size of a request's descriptor",
    },
];

/// The names of the known features in `flags`, by bit.
pub fn feature_names(flags: u64) -> Vec<&'static str> {
    FEATURES
        .iter()
        .filter(|feature| flags & feature.flag != 0)
        .map(|feature| feature.name)
        .collect()
}

/// The bits of `flags` that have no name here.
pub fn unknown_features(flags: u64) -> u64 {
    FEATURES.iter().fold(flags, |rest, feature| rest & !feature.flag)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_the_bits_in_order() {
        for (bit, feature) in FEATURES.iter().enumerate() {
            assert_eq!(feature.flag, 1 << bit, "{}", feature.name);
        }
    }

    #[test]
    fn names_of_a_kernel() {
        let of_6_12 = 0x1fe;
        assert_eq!(feature_names(of_6_12).len(), 8);
        assert_eq!(feature_names(0x9), ["SUPPORT_ZERO_COPY", "USER_RECOVERY"]);
        assert_eq!(unknown_features(of_6_12 | 1 << 21), 1 << 21);
        assert_eq!(unknown_features(0x1f_ffff), 0);
    }
}
