//! The parameters of a device to be added, and the kernel's information about a device.
//!
//! Both are the driver's 64-byte `ublksrv_ctrl_dev_info`. The kernel's answer is checked: a state
//! this program does not know is rejected, never guessed.

use libublk::sys;

use super::wire::{NO_DEVICE, get_i32, get_u16, get_u32, get_u64, put_u16, put_u32, put_u64};

/// Size of the structure.
pub(super) const DEV_INFO_BYTES: usize = 64;

/// Offsets in the structure; compared with the driver's header in the tests.
mod at {
    pub(super) const QUEUES: usize = 0;
    pub(super) const DEPTH: usize = 2;
    pub(super) const STATE: usize = 4;
    pub(super) const MAX_IO_BYTES: usize = 8;
    pub(super) const ID: usize = 12;
    pub(super) const SERVER_PID: usize = 16;
    pub(super) const FLAGS: usize = 24;
    pub(super) const TARGET_FLAGS: usize = 32;
    pub(super) const OWNER_UID: usize = 40;
    pub(super) const OWNER_GID: usize = 44;
}

/// A device to be added.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AddDevice {
    /// The wanted N of `/dev/ublkbN`; `None`: the kernel's choice.
    pub id: Option<u32>,
    /// Hardware queues; the kernel clamps it to the number of CPUs.
    pub queues: u16,
    /// Requests in flight per queue, at most 4096.
    pub depth: u16,
    /// The largest request, in bytes: a multiple of the page size, at most 32 MiB.
    pub max_io_bytes: u32,
    /// `UBLK_F_*`.
    pub flags: u64,
    /// 64 bits of our own, kept unchanged by the kernel for as long as the device exists.
    pub target_flags: u64,
}

impl AddDevice {
    /// The structure ADD_DEV takes.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![0; DEV_INFO_BYTES];
        put_u16(&mut bytes, at::QUEUES, self.queues);
        put_u16(&mut bytes, at::DEPTH, self.depth);
        put_u32(&mut bytes, at::MAX_IO_BYTES, self.max_io_bytes);
        put_u32(&mut bytes, at::ID, self.id.unwrap_or(NO_DEVICE));
        put_u64(&mut bytes, at::FLAGS, self.flags);
        put_u64(&mut bytes, at::TARGET_FLAGS, self.target_flags);
        bytes
    }
}

/// The state of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DeviceState {
    /// Added, or stopped: there is no disk.
    Dead,
    /// There is a disk and a server.
    Live,
    /// There is a disk, its server is gone, and I/O waits.
    Quiesced,
    /// There is a disk, its server is gone, and I/O fails.
    FailIo,
}

impl DeviceState {
    /// The state with the kernel's number.
    fn from_number(number: u16) -> Option<DeviceState> {
        match u32::from(number) {
            sys::UBLK_S_DEV_DEAD => Some(DeviceState::Dead),
            sys::UBLK_S_DEV_LIVE => Some(DeviceState::Live),
            sys::UBLK_S_DEV_QUIESCED => Some(DeviceState::Quiesced),
            sys::UBLK_S_DEV_FAIL_IO => Some(DeviceState::FailIo),
            _ => None,
        }
    }
}

/// The kernel's information about a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceInfo {
    /// N of `/dev/ublkbN` and `/dev/ublkcN`.
    pub id: u32,
    /// Its state.
    pub state: DeviceState,
    /// Hardware queues.
    pub queues: u16,
    /// Requests in flight per queue.
    pub depth: u16,
    /// The largest request, in bytes.
    pub max_io_bytes: u32,
    /// `UBLK_F_*` that are in force, including some that were not requested.
    pub flags: u64,
    /// The value of [`AddDevice::target_flags`].
    pub target_flags: u64,
    /// The server's process id at the last start; the server may be dead. `None`: none since it was
    /// added or stopped.
    pub server_pid: Option<i32>,
    /// User who added the device.
    pub owner_uid: u32,
    /// Group of that user.
    pub owner_gid: u32,
}

impl DeviceInfo {
    /// Decodes the kernel's answer of [`DEV_INFO_BYTES`]; `None` if its state is not known.
    pub(super) fn decode(bytes: &[u8]) -> Option<DeviceInfo> {
        Some(DeviceInfo {
            id: get_u32(bytes, at::ID),
            state: DeviceState::from_number(get_u16(bytes, at::STATE))?,
            queues: get_u16(bytes, at::QUEUES),
            depth: get_u16(bytes, at::DEPTH),
            max_io_bytes: get_u32(bytes, at::MAX_IO_BYTES),
            flags: get_u64(bytes, at::FLAGS),
            target_flags: get_u64(bytes, at::TARGET_FLAGS),
            server_pid: Some(get_i32(bytes, at::SERVER_PID)).filter(|&pid| pid > 0),
            owner_uid: get_u32(bytes, at::OWNER_UID),
            owner_gid: get_u32(bytes, at::OWNER_GID),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::mem::{offset_of, size_of};

    use sys::ublksrv_ctrl_dev_info as Info;

    use super::*;

    #[test]
    fn the_offsets_are_the_drivers() {
        assert_eq!(DEV_INFO_BYTES, size_of::<Info>());
        assert_eq!(at::QUEUES, offset_of!(Info, nr_hw_queues));
        assert_eq!(at::DEPTH, offset_of!(Info, queue_depth));
        assert_eq!(at::STATE, offset_of!(Info, state));
        assert_eq!(at::MAX_IO_BYTES, offset_of!(Info, max_io_buf_bytes));
        assert_eq!(at::ID, offset_of!(Info, dev_id));
        assert_eq!(at::SERVER_PID, offset_of!(Info, ublksrv_pid));
        assert_eq!(at::FLAGS, offset_of!(Info, flags));
        assert_eq!(at::TARGET_FLAGS, offset_of!(Info, ublksrv_flags));
        assert_eq!(at::OWNER_UID, offset_of!(Info, owner_uid));
        assert_eq!(at::OWNER_GID, offset_of!(Info, owner_gid));
    }

    #[test]
    fn what_is_asked_reads_back() {
        let wanted = AddDevice {
            id: None,
            queues: 3,
            depth: 128,
            max_io_bytes: 1 << 20,
            flags: 0x1208,
            target_flags: 0xd00d,
        };
        let info = DeviceInfo::decode(&wanted.encode()).unwrap();
        assert_eq!(info.id, NO_DEVICE);
        assert_eq!((info.queues, info.depth, info.max_io_bytes), (3, 128, 1 << 20));
        assert_eq!((info.flags, info.target_flags), (0x1208, 0xd00d));
        assert_eq!((info.state, info.server_pid), (DeviceState::Dead, None));
    }

    #[test]
    fn states_are_the_kernels_numbers() {
        let mut bytes = AddDevice::default().encode();
        for (number, state) in [
            (0, Some(DeviceState::Dead)),
            (1, Some(DeviceState::Live)),
            (2, Some(DeviceState::Quiesced)),
            (3, Some(DeviceState::FailIo)),
            (4, None),
        ] {
            put_u16(&mut bytes, at::STATE, number);
            assert_eq!(DeviceInfo::decode(&bytes).map(|info| info.state), state);
        }
    }
}
