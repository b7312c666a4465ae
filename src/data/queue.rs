//! One hardware queue of a ublk device: the shared descriptors, and the commands for its tags.
//!
//! libublk has a queue plane, but it registers its files and buffers once per ring, so a second
//! device could never join a ring that is in use; here the queues of all devices of a family share
//! one ring. Little is needed: a mapping of request descriptors, and two commands per tag. The
//! numbers and structures are libublk's.
//!
//! Rule kept here: I6 (the mappings outlive the requests: they end with the queue, which ends when
//! all its tags have ended).

use std::cell::Cell;
use std::io;
use std::os::fd::AsFd;
use std::rc::Rc;

use dm_targets::disk::{Memory, PayloadId, UserData};
use dm_targets::exec::WaitQueue;
use dm_targets::request::{Request, RequestKind};
use dm_targets::units::{Sector, Sectors};
use io_uring::opcode::UringCmd16;
use io_uring::squeue;
use libublk::sys;

use crate::ring::{Payload, Ring, RingFile};
use crate::sys::mapping::Mapping;

/// Bytes of one request descriptor.
const DESCRIPTOR_BYTES: usize = size_of::<sys::ublksrv_io_desc>();
/// Pages are 4 KiB wherever ublk is used so far; the kernel rounds descriptor areas up to pages.
const PAGE_BYTES: usize = 4096;

/// A request as the kernel describes it.
pub struct Descriptor {
    /// The request; `None` if targets have no such operation.
    pub request: Option<Request>,
    /// The time of the round in which it arrived.
    pub arrived_ns: u64,
    /// The kernel could not register the request's buffer; this program must.
    pub needs_registration: bool,
}

/// A queue whose tags are being served.
pub struct Queue {
    ring: Ring,
    file: Rc<RingFile>,
    id: u16,
    depth: u16,
    descriptors: Mapping,
    payloads: PayloadId,
    /// Memory that the kernel copies request data to and from; `None` with zero copy.
    mapped: Option<Mapping>,
    /// Length of one request's part of `mapped`, in bytes.
    each: usize,
    /// Tags that have not ended.
    serving: Cell<u16>,
    ended: WaitQueue,
}

/// How a queue is set up.
pub struct QueueOptions {
    /// Its number in the device.
    pub id: u16,
    /// Requests it can hold.
    pub depth: u16,
    /// Largest request.
    pub max_io_bytes: u32,
    /// Requests' pages are used in place.
    pub zero_copy: bool,
}

fn round_to_page(bytes: usize) -> usize {
    bytes.div_ceil(PAGE_BYTES) * PAGE_BYTES
}

impl Queue {
    /// Maps a queue's descriptors and finds room for its payloads.
    pub fn open(ring: &Ring, file: &Rc<RingFile>, options: &QueueOptions) -> io::Result<Rc<Queue>> {
        let descriptors = map_descriptors(file, options)?;
        let depth = usize::from(options.depth);
        let each = options.max_io_bytes as usize;
        let mut mapped = None;
        let mut payloads = vec![Payload::Registered; depth];
        if !options.zero_copy {
            let mapping = mapped.insert(Mapping::anonymous(each * depth)?);
            for (tag, payload) in payloads.iter_mut().enumerate() {
                // SAFETY: the mapping has room for `depth` payloads.
                let address = unsafe { mapping.base().add(tag * each) };
                *payload = Payload::Mapped { address, len_bytes: each };
            }
        }
        let payloads = ring
            .add_payloads(&payloads)
            .ok_or_else(|| io::Error::from_raw_os_error(libc::ENOSPC))?;
        let serving = Cell::new(options.depth);
        let (ring, file, ended) = (ring.clone(), file.clone(), WaitQueue::default());
        Ok(Rc::new(Queue {
            ring,
            file,
            id: options.id,
            depth: options.depth,
            descriptors,
            payloads,
            mapped,
            each,
            serving,
            ended,
        }))
    }

    /// Tags of this queue.
    pub fn depth(&self) -> u16 {
        self.depth
    }

    /// Asks for the first request of a tag. It arrives as a completion with this data.
    pub(super) fn fetch(&self, tag: u16, data: UserData) {
        self.ring.command_with(self.command(sys::UBLK_U_IO_FETCH_REQ, tag, 0), data);
    }

    /// Completes the request of a tag with a result (a length, 0 or a negative errno), and asks for
    /// the next one.
    #[inline]
    pub(super) fn commit(&self, tag: u16, result: i32, data: UserData) {
        let command = self.command(sys::UBLK_U_IO_COMMIT_AND_FETCH_REQ, tag, result);
        self.ring.command_with(command, data);
    }

    /// Has the kernel register the buffer of a request, which it had no memory for when the request
    /// arrived.
    ///
    /// # Errors
    /// The negative errno.
    pub(super) async fn register(&self, tag: u16) -> Result<(), i32> {
        let command = self.command(sys::UBLK_U_IO_REGISTER_IO_BUF, tag, 0);
        succeeded(self.ring.command(command).await)
    }

    /// The opposite of [`Queue::register`].
    ///
    /// # Errors
    /// The negative errno.
    pub(super) async fn unregister(&self, tag: u16) -> Result<(), i32> {
        let command = self.command(sys::UBLK_U_IO_UNREGISTER_IO_BUF, tag, 0);
        succeeded(self.ring.command(command).await)
    }

    /// A tag has ended: the kernel sends no more requests for it.
    pub(super) fn end_tag(&self) {
        self.serving.set(self.serving.get() - 1);
        self.ended.wake_all();
    }

    /// Whether every tag has ended.
    pub fn has_ended(&self) -> bool {
        self.serving.get() == 0
    }

    /// Waits until every tag has ended.
    pub async fn all_ended(&self) {
        self.ended.until(|| self.has_ended().then_some(())).await;
    }

    /// A command for a tag. `result` is the request's result, for a commit.
    #[inline]
    fn command(&self, op: u32, tag: u16, result: i32) -> squeue::Entry {
        let registered =
            op == sys::UBLK_U_IO_REGISTER_IO_BUF || op == sys::UBLK_U_IO_UNREGISTER_IO_BUF;
        let payload = self.payloads.0 + u32::from(tag);
        let mut address = 0;
        let mut auto = None;
        match &self.mapped {
            // The kernel copies to and from here.
            Some(mapping) => {
                // SAFETY: the mapping has room for `depth` payloads and the tag is below it.
                address = unsafe { mapping.base().add(usize::from(tag) * self.each) }
                    .as_ptr()
                    .expose_provenance() as u64;
            }
            None if registered => address = u64::from(payload),
            // Where the kernel registers the next request's buffer: index in the low 16 bits, flags
            // above.
            None => {
                auto = Some(u64::from(payload) | u64::from(sys::UBLK_AUTO_BUF_REG_FALLBACK) << 16)
            }
        }
        let mut bytes = [0; 16];
        let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        // The structure `ublksrv_io_cmd` in the machine's own byte order, as the kernel reads it.
        #[allow(clippy::host_endian_bytes)]
        {
            put(0, &self.id.to_ne_bytes());
            put(2, &tag.to_ne_bytes());
            put(4, &result.to_ne_bytes());
            put(8, &address.to_ne_bytes());
        }
        let (fd, flags) = self.file.target();
        UringCmd16::new(fd, op).cmd(bytes).addr(auto).build().flags(flags)
    }

    /// The request that has arrived for a tag.
    #[inline]
    pub(super) fn descriptor(&self, tag: u16) -> Descriptor {
        // SAFETY: the mapping holds `depth` descriptors, the tag is below it, and the kernel writes
        // a tag's descriptor only while it has not handed the tag to us. The read is volatile
        // because the kernel wrote it.
        let raw = unsafe {
            let all = self.descriptors.base().as_ptr().cast::<sys::ublksrv_io_desc>();
            all.add(usize::from(tag)).read_volatile()
        };
        let fua = raw.op_flags & sys::UBLK_IO_F_FUA != 0;
        let kind = match raw.op_flags & 0xff {
            sys::UBLK_IO_OP_READ => Some(RequestKind::Read),
            sys::UBLK_IO_OP_WRITE => Some(RequestKind::Write { fua }),
            sys::UBLK_IO_OP_FLUSH => Some(RequestKind::Flush),
            sys::UBLK_IO_OP_DISCARD => Some(RequestKind::Discard),
            _ => None,
        };
        let count = if kind == Some(RequestKind::Flush) { 0 } else { u64::from(raw.nr_sectors) };
        let memory = Memory::payload(PayloadId(self.payloads.0 + u32::from(tag)));
        let request = kind.map(|kind| Request {
            kind,
            sector: Sector(raw.start_sector),
            count: Sectors(count),
            memory,
        });
        let has_data = matches!(kind, Some(RequestKind::Read | RequestKind::Write { .. }));
        let needs_registration =
            has_data && self.mapped.is_none() && raw.op_flags & sys::UBLK_IO_F_NEED_REG_BUF != 0;
        let arrived_ns = self.ring.round_ns();
        Descriptor { request, arrived_ns, needs_registration }
    }
}

/// The mappings end with the queue. Whoever serves its tags holds it until all have ended; every
/// request's operations have ended before its tag was completed.
impl Drop for Queue {
    fn drop(&mut self) {
        self.ring.remove_payloads(self.payloads, usize::from(self.depth));
    }
}

/// The result of a command that returns 0 or a negative errno.
fn succeeded(result: i32) -> Result<(), i32> {
    if result < 0 { Err(result) } else { Ok(()) }
}

fn map_descriptors(file: &Rc<RingFile>, options: &QueueOptions) -> io::Result<Mapping> {
    let len = round_to_page(usize::from(options.depth) * DESCRIPTOR_BYTES);
    // Each queue's area has the size of the largest possible queue's.
    let stride = round_to_page(sys::UBLK_MAX_QUEUE_DEPTH as usize * DESCRIPTOR_BYTES);
    let offset =
        libc::off_t::try_from(stride * usize::from(options.id)).map_err(io::Error::other)?;
    Mapping::of_file(file.as_fd(), offset, len)
}
