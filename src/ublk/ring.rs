//! The ring that carries control commands, one at a time.
//!
//! Rule I6 for commands: the memory a command reads and writes is owned here until the command has
//! ended. If its end is not seen (the wait fails, or the command cannot be interrupted in time),
//! the memory is leaked rather than freed, and the ring refuses all further commands.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::thread;
use std::time::{Duration, Instant};

use io_uring::{IoUring, opcode, squeue, types};

use super::wire::{put_u16, put_u32, put_u64};

/// Entries of the ring: one command and its cancellation.
const ENTRIES: u32 = 4;
/// How long an interrupted command may take to end.
const CANCEL_PATIENCE: Duration = Duration::from_secs(2);
/// `user_data` of cancellations; commands count from 1.
const CANCEL_KEY: u64 = 0;

/// Offsets in `ublksrv_ctrl_cmd`, the 32 bytes that travel inside the entry.
mod at {
    pub(super) const DEV_ID: usize = 0;
    pub(super) const QUEUE_ID: usize = 4;
    pub(super) const LEN: usize = 6;
    pub(super) const ADDR: usize = 8;
    pub(super) const DATA: usize = 16;
}

/// Why a command has no result.
#[derive(Debug)]
pub(super) enum RingError {
    /// It took longer than the limit.
    Timeout(Duration),
    /// The ring failed.
    Io(io::Error),
}

/// The ring and the device that takes its commands.
pub(super) struct CommandRing {
    ring: IoUring<squeue::Entry128>,
    device: File,
    last_key: u64,
    broken: bool,
}

impl std::fmt::Debug for CommandRing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CommandRing").field("broken", &self.broken).finish_non_exhaustive()
    }
}

impl CommandRing {
    /// A ring for commands to `device`.
    ///
    /// # Errors
    /// Those of `io_uring_setup`: EPERM, ENOSYS, ENOMEM.
    pub(super) fn new(device: File) -> io::Result<CommandRing> {
        let ring = IoUring::<squeue::Entry128>::builder().build(ENTRIES)?;
        Ok(CommandRing { ring, device, last_key: CANCEL_KEY, broken: false })
    }

    /// Sends one command and waits for its end, at most `limit`. Returns its result (negative: an
    /// errno) and the buffer, into which the kernel may have written.
    ///
    /// # Errors
    /// [`RingError`]. After an error whose command may still be running every later call fails with
    /// ENOTCONN.
    pub(super) fn run(
        &mut self,
        op: u32,
        dev_id: u32,
        data: u64,
        mut buffer: Vec<u8>,
        limit: Option<Duration>,
    ) -> Result<(i32, Vec<u8>), RingError> {
        if self.broken {
            return Err(RingError::Io(io::Error::from_raw_os_error(libc::ENOTCONN)));
        }
        let command = encode(dev_id, data, &mut buffer).map_err(RingError::Io)?;
        self.last_key += 1;
        let key = self.last_key;
        let entry =
            opcode::UringCmd80::new(types::Fd(self.device.as_raw_fd()), op).cmd(command).build();
        self.push(entry.user_data(key)).map_err(RingError::Io)?;

        // Set until the end is seen, so that a panic before it also leaves the ring unusable.
        self.broken = true;
        match self.wait_or_cancel(key, limit) {
            Ok((result, timed_out)) => {
                self.broken = false;
                match limit {
                    Some(limit) if timed_out && result < 0 => Err(RingError::Timeout(limit)),
                    _ => Ok((result, buffer)),
                }
            }
            Err(error) => {
                // The command may still be running and may write to the buffer at any time.
                std::mem::forget(buffer);
                Err(error)
            }
        }
    }

    /// Waits for the command `key`; interrupts it when `limit` has passed. Returns its result and
    /// whether it was interrupted.
    fn wait_or_cancel(
        &mut self,
        key: u64,
        limit: Option<Duration>,
    ) -> Result<(i32, bool), RingError> {
        if let Some(result) = self.wait(key, limit).map_err(RingError::Io)? {
            return Ok((result, false));
        }
        let cancel = opcode::AsyncCancel::new(key).build().user_data(CANCEL_KEY);
        self.push(cancel.into()).map_err(RingError::Io)?;
        match self.wait(key, Some(CANCEL_PATIENCE)).map_err(RingError::Io)? {
            Some(result) => Ok((result, true)),
            None => Err(RingError::Timeout(limit.unwrap_or(CANCEL_PATIENCE))),
        }
    }

    /// Submits what was pushed and waits for the command `key`; `None` when `limit` has passed.
    fn wait(&mut self, key: u64, limit: Option<Duration>) -> io::Result<Option<i32>> {
        let end = limit.map(|limit| Instant::now() + limit);
        loop {
            let outcome = match end {
                None => self.ring.submit_and_wait(1),
                Some(end) => {
                    // Never zero: even a call that is late has to submit.
                    let left = end.saturating_duration_since(Instant::now());
                    let time = types::Timespec::from(left.max(Duration::from_millis(1)));
                    let args = types::SubmitArgs::new().timespec(&time);
                    self.ring.submitter().submit_with_args(1, &args)
                }
            };
            if let Some(result) = self.reap(key) {
                return Ok(Some(result));
            }
            match outcome.as_ref().map_err(io::Error::raw_os_error) {
                Ok(_) | Err(Some(libc::EINTR | libc::ETIME)) => {}
                Err(Some(libc::EAGAIN | libc::EBUSY)) => thread::sleep(Duration::from_millis(1)),
                Err(_) => return outcome.map(|_| None),
            }
            if end.is_some_and(|end| Instant::now() >= end) {
                return Ok(None);
            }
        }
    }

    /// Takes completions off the ring; returns the result of `key` if it is among them.
    fn reap(&mut self, key: u64) -> Option<i32> {
        self.ring.completion().filter(|cqe| cqe.user_data() == key).map(|cqe| cqe.result()).last()
    }

    /// Queues one entry.
    fn push(&mut self, entry: squeue::Entry128) -> io::Result<()> {
        // SAFETY: an entry pushed here is a cancellation, which has no memory, or a command. A
        // command's only pointer is to the heap memory of `run`'s buffer, which `run` neither
        // touches nor moves nor frees before the command's completion was seen (it leaks the buffer
        // if it never is). The device's descriptor is open for as long as `self`, and the kernel
        // takes its own reference at submission.
        let pushed = unsafe { self.ring.submission().push(&entry) };
        pushed.map_err(|_| io::Error::from_raw_os_error(libc::EBUSY))
    }
}

/// The command's part of the entry. `buffer`'s heap memory must not move until the command has
/// ended.
///
/// # Errors
/// EINVAL: the buffer is longer than the command's length field can hold.
fn encode(dev_id: u32, data: u64, buffer: &mut Vec<u8>) -> io::Result<[u8; 80]> {
    let len =
        u16::try_from(buffer.len()).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    let mut command = [0; 80];
    put_u32(&mut command, at::DEV_ID, dev_id);
    put_u16(&mut command, at::QUEUE_ID, u16::MAX);
    put_u16(&mut command, at::LEN, len);
    if len > 0 {
        put_u64(&mut command, at::ADDR, buffer.as_mut_ptr().expose_provenance() as u64);
    }
    put_u64(&mut command, at::DATA, data);
    Ok(command)
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use libublk::sys::ublksrv_ctrl_cmd as Raw;

    use super::*;

    #[test]
    fn the_offsets_are_the_drivers() {
        assert_eq!(at::DEV_ID, offset_of!(Raw, dev_id));
        assert_eq!(at::QUEUE_ID, offset_of!(Raw, queue_id));
        assert_eq!(at::LEN, offset_of!(Raw, len));
        assert_eq!(at::ADDR, offset_of!(Raw, addr));
        assert_eq!(at::DATA, offset_of!(Raw, data));
    }

    #[test]
    fn a_command_without_a_buffer_has_no_address() {
        let command = encode(3, 0x1122, &mut Vec::new()).unwrap();
        assert_eq!(super::super::wire::get_u32(&command, at::DEV_ID), 3);
        assert_eq!(super::super::wire::get_u16(&command, at::QUEUE_ID), 0xffff);
        assert_eq!(super::super::wire::get_u64(&command, at::ADDR), 0);
        assert_eq!(super::super::wire::get_u64(&command, at::DATA), 0x1122);
        assert!(encode(3, 0, &mut vec![0; 65536]).is_err());
    }
}
