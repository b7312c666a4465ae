//! kcopyd: copies from one disk to several, and zeroing.
//!
//! A [`Client`] belongs to one user (a snapshot's origin, a mirror, a command). It only moves data:
//! it never flushes, never retries and keeps no order between jobs. Its guarantees:
//!
//! * a slice's writes start after its read has completed; all destinations are written in parallel;
//! * memory is bounded: eight slices of 512 KiB per job or, when the shared memory is used up, one
//!   slice at a time in the client's own reserve, so that a job always makes progress;
//! * callbacks of one client run one after the other, never inside the call that submitted the job;
//!   the same holds for results submitted through [`Token::fire`];
//! * read errors and write errors are reported separately, and a write error on one destination
//!   does not stop the writes to the others.
//!
//! [`Client::copy`] and [`Client::zero`] are awaited; [`Client::submit_copy`] and
//! [`Client::submit_zero`] call back. [`Client::run_parts`] is the lower layer: a list of parts
//! that may overlap on the source, for an origin that serves many snapshots with one read. A copy
//! of one slice is made by `short`, all others by `job`.
//!
//! # Examples
//!
//! A disk is copied to two others, and one of these is zeroed again:
//!
//! ```
//! use std::rc::Rc;
//! use dm_targets::copy::{Client, Flags};
//! use dm_targets::disk::{Buffer, Host};
//! use dm_targets::exec::Executor;
//! use dm_targets::io::IoRegion;
//! use dm_targets::ram::{Ram, RamDisk};
//! use dm_targets::units::{Sector, Sectors};
//!
//! let (ram, executor) = (Ram::new(), Executor::new());
//! let host: Rc<dyn Host> = ram.clone();
//! let disks = [0, 1, 2].map(|_| RamDisk::new(&ram, Sectors(4096), RamDisk::LIMITS));
//! let all = |disk: &Rc<RamDisk>| IoRegion {
//!     disk: disk.handle("disk"),
//!     sector: Sector(0),
//!     count: Sectors(4096),
//! };
//! let (from, to) = (all(&disks[0]), [all(&disks[1]), all(&disks[2])]);
//! let mark = Buffer::acquire(&host, 512).unwrap();
//! mark.write(0, &[7; 512]);
//!
//! let client = Client::new(&executor, &host, None).unwrap();
//! ram.run(&executor, async move {
//!     from.disk.write(Sector(4095), Sectors(1), mark.at(0), false).await.unwrap();
//!     assert!(client.copy(&from, &to, Flags::default()).await.is_ok());
//!     assert_eq!(client.moved(), Sectors(4096), "read once, however many it went to");
//!     assert!(client.zero(&to[1..], Flags::default()).await.is_ok());
//!     client.destroy().await;
//! })
//! .unwrap();
//! let last = disks.map(|disk| disk.bytes(Sector(4095), Sectors(1))[0]);
//! assert_eq!(last, [7, 7, 0]);
//! ```
//!
//! With callbacks, which run one after the other. The result of another operation is queued among
//! them:
//!
//! ```
//! # use std::cell::RefCell;
//! # use std::rc::Rc;
//! # use dm_targets::copy::{Client, Flags, Outcome};
//! # use dm_targets::disk::Host;
//! # use dm_targets::exec::Executor;
//! # use dm_targets::io::IoRegion;
//! # use dm_targets::ram::{Ram, RamDisk};
//! # use dm_targets::units::{Sector, Sectors};
//! let (ram, executor) = (Ram::new(), Executor::new());
//! let host: Rc<dyn Host> = ram.clone();
//! let disks = [0, 1].map(|_| RamDisk::new(&ram, Sectors(64), RamDisk::LIMITS).handle("disk"));
//! let [from, to] = disks.map(|disk| IoRegion { disk, sector: Sector(0), count: Sectors(64) });
//! let client = Client::new(&executor, &host, None).unwrap();
//! let ended = Rc::new(RefCell::new(Vec::new()));
//! let note = |what: &'static str| {
//!     let ended = ended.clone();
//!     move |outcome: Outcome| ended.borrow_mut().push((what, outcome.is_ok()))
//! };
//! client.submit_copy(from, vec![to.clone()], Flags::default(), note("copy"));
//! client.submit_zero(vec![to], Flags::default(), note("zero"));
//! let token = client.prepare_callback(note("my own write"));
//! executor.run_ready();
//! token.fire(Outcome::default());
//! assert_eq!(ended.borrow().len(), 2, "never inside the call that has the result");
//! let waiting = client.clone();
//! ram.run(&executor, async move { waiting.flush().await }).unwrap();
//! assert_eq!(*ended.borrow(), [("copy", true), ("zero", true), ("my own write", true)]);
//! ```

mod budget;
mod client;
mod job;
mod part;
mod short;
mod throttle;

pub use client::{Client, JobLease, MAX_DESTINATIONS, Outcome, Token};
pub use job::{Job, SLICES_IN_FLIGHT};
pub use part::{Flags, Part, SLICE_SECTORS};
pub use throttle::{Admission, Throttle};

#[cfg(test)]
mod tests;
