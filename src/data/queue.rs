//! One hardware queue of a ublk device: the shared descriptors and the tasks that serve its tags.
//!
//! libublk has a queue plane, but it registers its files and buffers once per ring, so a second
//! device could never join a ring that is in use; here the queues of all devices of a family share
//! one ring. Little is needed: a mapping of request descriptors, and two commands per tag. The
//! numbers and structures are libublk's.
//!
//! Rules kept here: I6 (a tag has one task, which completes a request exactly once and only after
//! the target has returned; the mapping outlives the tasks, which hold the queue).

use std::cell::Cell;
use std::io;
use std::os::fd::AsFd;
use std::rc::Rc;

use dm_targets::disk::{Memory, PayloadId};
use dm_targets::exec::WaitQueue;
use dm_targets::request::{Request, RequestKind};
use dm_targets::units::{Sector, Sectors};
use io_uring::opcode::UringCmd16;
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
    needs_registration: bool,
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
    /// Tags whose task has not ended.
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

    /// Serves a tag until the device stops: `handle` carries a request out and returns its result:
    /// a length, 0 or a negative errno.
    pub async fn serve(self: Rc<Self>, tag: u16, handle: impl AsyncFn(&Descriptor) -> i32) {
        let mut result = self.command(sys::UBLK_U_IO_FETCH_REQ, tag, 0).await;
        while result == i32::try_from(sys::UBLK_IO_RES_OK).unwrap_or(0) {
            let descriptor = self.descriptor(tag);
            let outcome = if descriptor.needs_registration {
                self.handle_unregistered(tag, &descriptor, &handle).await
            } else {
                handle(&descriptor).await
            };
            result = self.command(sys::UBLK_U_IO_COMMIT_AND_FETCH_REQ, tag, outcome).await;
        }
        self.serving.set(self.serving.get() - 1);
        self.ended.wake_all();
    }

    /// The kernel had no memory to register the request's buffer with the request: a separate
    /// command tries once more.
    async fn handle_unregistered(
        &self,
        tag: u16,
        descriptor: &Descriptor,
        handle: &impl AsyncFn(&Descriptor) -> i32,
    ) -> i32 {
        let registered = self.command(sys::UBLK_U_IO_REGISTER_IO_BUF, tag, 0).await;
        if registered < 0 {
            return registered;
        }
        let outcome = handle(descriptor).await;
        let removed = self.command(sys::UBLK_U_IO_UNREGISTER_IO_BUF, tag, 0).await;
        if removed < 0 { removed } else { outcome }
    }

    /// Whether the task of every tag has ended.
    pub fn has_ended(&self) -> bool {
        self.serving.get() == 0
    }

    /// Waits until the task of every tag has ended.
    pub async fn all_ended(&self) {
        self.ended.until(|| self.has_ended().then_some(())).await;
    }

    /// Sends a command for a tag. `result` is the request's result, for a commit.
    fn command(&self, op: u32, tag: u16, result: i32) -> crate::ring::Command {
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
        self.ring.command(UringCmd16::new(fd, op).cmd(bytes).addr(auto).build().flags(flags))
    }

    fn descriptor(&self, tag: u16) -> Descriptor {
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

/// The mappings end with the queue. Only the tag tasks use them, which hold the queue and so have
/// all ended; every request's operations were awaited before its tag was completed.
impl Drop for Queue {
    fn drop(&mut self) {
        self.ring.remove_payloads(self.payloads, usize::from(self.depth));
    }
}

fn map_descriptors(file: &Rc<RingFile>, options: &QueueOptions) -> io::Result<Mapping> {
    let len = round_to_page(usize::from(options.depth) * DESCRIPTOR_BYTES);
    // Each queue's area has the size of the largest possible queue's.
    let stride = round_to_page(sys::UBLK_MAX_QUEUE_DEPTH as usize * DESCRIPTOR_BYTES);
    let offset =
        libc::off_t::try_from(stride * usize::from(options.id)).map_err(io::Error::other)?;
    Mapping::of_file(file.as_fd(), offset, len)
}
