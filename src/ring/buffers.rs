//! The memory for I/O: mappings, allocated in page-aligned powers of two.
//!
//! Rule I6 is kept by counting references: a buffer is reused only when no holder is left,
//! operations in flight included. The mappings themselves live as long as the process, so no
//! operation can ever outlive them.
//!
//! The allocator is a buddy system with its lists in arrays beside the memory: nothing is allocated
//! but when a disk is opened, and acquiring and releasing a buffer take a few steps.

use std::io;
use std::ptr::NonNull;

use crate::sys::mapping::map_anonymous;

/// Memory for copies and metadata of one family. Touched only as far as it is used; when it is
/// exhausted, copy clients fall back to their reserves and wait.
pub const BUFFERS_BYTES: usize = 64 << 20;
/// What each open disk adds to that: more than the store on a COW holds for as long as it is open
/// (72 KiB), so that the stores of any number of snapshots leave the copies what they have.
const DISK_BYTES: usize = 128 << 10;
/// The part that is registered with the ring, and so is always backed by memory. The free lists use
/// it first; it is enough for the copies of one device at full depth, or for twice the slices of
/// one large copy.
const HOT_BYTES: usize = 8 << 20;
/// Alignment of huge pages: the registered part consists of them if the kernel has any.
const HUGE_PAGE_BYTES: usize = 2 << 20;
/// Smallest buffer: what O_DIRECT needs for any block size up to 4096.
const PAGE_BYTES: usize = 4096;
/// Largest buffer: 1 MiB, twice the largest slice of a copy.
const MAX_ORDER: usize = 8;
/// Pages of the largest buffer. The memory grows by as many.
const LARGEST_PAGES: usize = 1 << MAX_ORDER;
/// Pages of a mapping: a multiple of the largest buffer, so that no buffer lies in two.
const PART_PAGES: usize = BUFFERS_BYTES / PAGE_BYTES;
/// Free buffers of one size that are kept for later requests of that size; further ones are joined
/// with their neighbours.
const KEPT: u32 = 64;
const NONE: u32 = u32::MAX;

/// State of the page that starts a buffer.
#[derive(Clone, Copy)]
struct Head {
    order: u8,
    free: bool,
    references: u32,
    next: u32,
    prev: u32,
}

/// The memory and its free lists.
pub struct Buffers {
    /// The mappings, the registered part at the start of the first.
    parts: Vec<NonNull<u8>>,
    /// One for each page that may be used.
    heads: Vec<Head>,
    lists: [u32; MAX_ORDER + 1],
    /// Lengths of the lists.
    counts: [u32; MAX_ORDER + 1],
}

impl Buffers {
    /// Maps the memory.
    pub fn new() -> io::Result<Buffers> {
        let base = map_aligned(BUFFERS_BYTES)?;
        // SAFETY: advice about a part of the mapping just made; it does not change the memory's
        // content.
        if unsafe { libc::madvise(base.as_ptr().cast(), HOT_BYTES, libc::MADV_HUGEPAGE) } != 0 {
            log::debug!("no huge pages: {}", io::Error::last_os_error());
        }
        let (parts, heads) = (vec![base], Vec::new());
        let (lists, counts) = ([NONE; MAX_ORDER + 1], [0; MAX_ORDER + 1]);
        let mut buffers = Buffers { parts, heads, lists, counts };
        buffers.make_room(0)?;
        Ok(buffers)
    }

    /// Grows to what that many open disks need. It never becomes smaller again: there are free
    /// buffers then.
    ///
    /// # Errors
    /// There is no memory for that; what is there can be used.
    pub fn make_room(&mut self, disks: usize) -> io::Result<()> {
        let pages = (BUFFERS_BYTES + disks * DISK_BYTES) / PAGE_BYTES;
        while self.heads.len() + LARGEST_PAGES <= pages {
            if self.heads.len() == self.parts.len() * PART_PAGES {
                self.parts.push(map_aligned(BUFFERS_BYTES)?);
            }
            let page = as_page(self.heads.len());
            let empty = Head { order: 0, free: false, references: 0, next: NONE, prev: NONE };
            self.heads.resize(self.heads.len() + LARGEST_PAGES, empty);
            self.push_last(page);
        }
        Ok(())
    }

    /// Frees a largest buffer that is used when there is no other: the registered part comes first.
    fn push_last(&mut self, page: u32) {
        let mut last = self.lists[MAX_ORDER];
        if last == NONE {
            self.push(page, MAX_ORDER);
            return;
        }
        while self.heads[last as usize].next != NONE {
            last = self.heads[last as usize].next;
        }
        self.heads[last as usize].next = page;
        let order = u8::try_from(MAX_ORDER).unwrap_or(u8::MAX);
        self.heads[page as usize] =
            Head { order, free: true, references: 0, next: NONE, prev: last };
        self.counts[MAX_ORDER] += 1;
    }

    fn push(&mut self, page: u32, order: usize) {
        let next = self.lists[order];
        let order_byte = u8::try_from(order).unwrap_or(u8::MAX);
        self.heads[page as usize] =
            Head { order: order_byte, free: true, references: 0, next, prev: NONE };
        if next != NONE {
            self.heads[next as usize].prev = page;
        }
        self.lists[order] = page;
        self.counts[order] += 1;
    }

    fn unlink(&mut self, page: u32) {
        let head = self.heads[page as usize];
        match head.prev {
            NONE => self.lists[head.order as usize] = head.next,
            prev => self.heads[prev as usize].next = head.next,
        }
        if head.next != NONE {
            self.heads[head.next as usize].prev = head.prev;
        }
        self.heads[page as usize].free = false;
        self.counts[head.order as usize] -= 1;
    }

    /// The registered part: its start and its length in bytes.
    pub fn registered(&self) -> (NonNull<u8>, usize) {
        (self.parts[0], HOT_BYTES)
    }

    /// Whether a buffer is in the registered part.
    pub fn is_registered(&self, page: u32) -> bool {
        // The registered part is a multiple of the largest buffer, so no buffer crosses its end.
        (page as usize) < HOT_BYTES / PAGE_BYTES
    }

    /// A buffer of at least `len_bytes`, with one reference.
    pub fn acquire(&mut self, len_bytes: u32) -> Option<u32> {
        let pages = (len_bytes as usize).div_ceil(PAGE_BYTES).max(1).next_power_of_two();
        let order = pages.trailing_zeros() as usize;
        let room =
            |buffers: &Buffers| (order..=MAX_ORDER).find(|order| buffers.lists[*order] != NONE);
        let from = match room(self) {
            Some(from) => from,
            None => {
                self.join_all();
                room(self)?
            }
        };
        let page = self.lists[from];
        self.unlink(page);
        for split in (order..from).rev() {
            self.push(page + (1 << split), split);
        }
        let order_byte = u8::try_from(order).unwrap_or(u8::MAX);
        self.heads[page as usize] =
            Head { order: order_byte, free: false, references: 1, next: NONE, prev: NONE };
        Some(page)
    }

    /// Adds a holder.
    pub fn retain(&mut self, page: u32) {
        self.heads[page as usize].references += 1;
    }

    /// Removes a holder; after the last one, the buffer is kept or joined with its free neighbours.
    pub fn release(&mut self, page: u32) {
        let head = &mut self.heads[page as usize];
        head.references -= 1;
        if head.references > 0 {
            return;
        }
        let order = head.order as usize;
        if self.counts[order] < KEPT {
            self.push(page, order);
        } else {
            self.join(page, order);
        }
    }

    /// Frees a buffer and joins it with its free neighbours.
    fn join(&mut self, mut page: u32, mut order: usize) {
        while order < MAX_ORDER {
            let buddy = page ^ (1 << order);
            let other = self.heads[buddy as usize];
            if !other.free || other.order as usize != order {
                break;
            }
            self.unlink(buddy);
            page = page.min(buddy);
            order += 1;
        }
        self.push(page, order);
    }

    /// Joins all free buffers that were kept.
    fn join_all(&mut self) {
        for order in 0..MAX_ORDER {
            let mut page = std::mem::replace(&mut self.lists[order], NONE);
            self.counts[order] = 0;
            let mut kept = page;
            while kept != NONE {
                let next = self.heads[kept as usize].next;
                self.heads[kept as usize].free = false;
                kept = next;
            }
            while page != NONE {
                let next = self.heads[page as usize].next;
                self.join(page, order);
                page = next;
            }
        }
    }

    /// The address of a buffer's byte, for an operation of `len_bytes` from there; `None` if the
    /// range ends outside the buffer.
    pub fn address(&self, page: u32, offset_bytes: u32, len_bytes: usize) -> Option<NonNull<u8>> {
        let size = PAGE_BYTES << self.heads[page as usize].order;
        let offset = offset_bytes as usize;
        if offset.checked_add(len_bytes)? > size {
            return None;
        }
        let (part, at) = (page as usize / PART_PAGES, page as usize % PART_PAGES);
        // SAFETY: the page index comes from this memory and the range was just found to lie inside
        // its buffer, which lies inside one mapping.
        Some(unsafe { self.parts.get(part)?.add(at * PAGE_BYTES + offset) })
    }

    /// Copies out of a buffer; a range outside it reads as nothing.
    pub fn read(&self, page: u32, offset_bytes: u32, out: &mut [u8]) {
        if let Some(address) = self.address(page, offset_bytes, out.len()) {
            // SAFETY: the range is inside the mapping, `out` is ordinary memory elsewhere, and no
            // operation is writing to a buffer whose bytes its owner looks at (the owner awaited
            // it).
            unsafe { std::ptr::copy_nonoverlapping(address.as_ptr(), out.as_mut_ptr(), out.len()) }
        }
    }

    /// Copies into a buffer; a range outside it is left alone.
    pub fn write(&self, page: u32, offset_bytes: u32, bytes: &[u8]) {
        if let Some(address) = self.address(page, offset_bytes, bytes.len()) {
            // SAFETY: as in `read`, with the directions exchanged.
            unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), address.as_ptr(), bytes.len()) }
        }
    }
}

fn as_page(index: usize) -> u32 {
    u32::try_from(index).unwrap_or(NONE)
}

/// Memory that lives as long as the process, aligned to a huge page.
fn map_aligned(len_bytes: usize) -> io::Result<NonNull<u8>> {
    let base = map_anonymous(len_bytes + HUGE_PAGE_BYTES)?;
    let ahead = base.as_ptr().align_offset(HUGE_PAGE_BYTES);
    // SAFETY: the mapping is longer by the most that the start can move. The rest is never touched.
    Ok(unsafe { base.add(ahead) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_split_and_join_again() {
        let mut buffers = Buffers::new().unwrap();
        let mut held: Vec<u32> = std::iter::from_fn(|| buffers.acquire(512)).collect();
        assert_eq!(held.len(), BUFFERS_BYTES / PAGE_BYTES);
        held.sort_unstable();
        held.dedup();
        assert_eq!(held.len(), BUFFERS_BYTES / PAGE_BYTES, "no page is handed out twice");
        for page in held {
            buffers.release(page);
        }
        let large: Vec<u32> = std::iter::from_fn(|| buffers.acquire(1 << 20)).collect();
        assert_eq!(large.len(), BUFFERS_BYTES >> 20, "everything joined to the largest size");
    }

    #[test]
    fn the_stores_of_a_thousand_snapshots_leave_the_copies_their_memory() {
        let mut buffers = Buffers::new().unwrap();
        let disks = 1000;
        buffers.make_room(disks).unwrap();
        buffers.make_room(disks - 1).unwrap();
        let mut held = Vec::new();
        for _ in 0..disks {
            held.extend([1 << 16, 4096, 4096].map(|bytes| buffers.acquire(bytes).unwrap()));
        }
        let first: Vec<_> = held[..300].iter().map(|page| buffers.is_registered(*page)).collect();
        assert!(first.contains(&true), "the registered part is used first");
        let large = std::iter::from_fn(|| buffers.acquire(1 << 19)).count();
        assert!(large << 19 >= BUFFERS_BYTES, "{large} slices");
        // The last one lies in another mapping.
        let last = *held.last().unwrap();
        buffers.write(last, 1, b"kept");
        let mut bytes = [0; 4];
        buffers.read(last, 1, &mut bytes);
        assert_eq!(&bytes, b"kept");
        held.sort_unstable();
        held.dedup();
        assert_eq!(held.len(), 3 * disks, "no page is handed out twice");
    }

    #[test]
    fn a_held_buffer_is_not_handed_out_again() {
        let mut buffers = Buffers::new().unwrap();
        let page = buffers.acquire(4096).unwrap();
        buffers.retain(page);
        buffers.release(page);
        let other = buffers.acquire(4096).unwrap();
        assert_ne!(page, other);
        buffers.write(page, 100, b"kept");
        let mut bytes = [0; 4];
        buffers.read(page, 100, &mut bytes);
        assert_eq!(&bytes, b"kept");
        assert!(buffers.address(page, 4000, 97).is_none());
    }
}
