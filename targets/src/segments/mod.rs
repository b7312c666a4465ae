//! Tables of several lines: segments of `linear`, `error` and `zero` that together are a device.
//!
//! A request belongs to the segment on which it lies, and one that crosses a border is split there:
//! each piece goes to its own segment, with its own part of the data. As in the kernel, a request
//! whose pieces do not all succeed fails, and all of its pieces are carried out nevertheless. A
//! flush goes to each disk once, however many segments are on the disk.
//!
//! Rules kept here: I6 (a request returns when no piece of it is in flight), I10 (a flush covers
//! every disk of the table), and: no segment receives a sector that is another segment's.

pub mod table;
pub mod target;
