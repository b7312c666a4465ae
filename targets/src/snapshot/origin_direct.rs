//! Requests to an origin that need no task (`target/remap.rs`): reads, writes that no snapshot has
//! to be asked about, and with `origin_first` those of a chunk of one snapshot.
//!
//! Rule kept here: I5 (a write is sent in the step in which it was let pass).

use super::first::{Again, Sent};
use super::origin::Origin;
use crate::disk::{Errno, UserData};
use crate::request::{Next, Request, RequestKind, TargetError, op_kind, payload};
use crate::units::Sectors;

impl Origin {
    /// Starts a request that needs no task. A write with FUA does: a merge counts it as a flush.
    #[inline]
    pub(crate) fn remap(&self, request: &Request, data: UserData) -> Option<Sent> {
        if !self.disk().tells() {
            return None;
        }
        match request.kind {
            RequestKind::Read => {
                self.send(request, data);
                Some(Sent::Read)
            }
            RequestKind::Write { fua: false } => {
                if self.lets_pass(request.sector, request.count) {
                    return self.send_passed(request, data).ok();
                }
                self.remap_asking(request, data)
            }
            _ => None,
        }
    }

    #[inline]
    fn send(&self, request: &Request, data: UserData) {
        let kind = op_kind(self.disk(), request.kind);
        let range = (request.sector, request.count);
        self.disk().send(kind, range, payload(request, Sectors(0)), data);
    }

    /// Sends a write that was let pass in this step. It is not sent if a snapshot that has left
    /// would become wrong without a record of that (I9).
    #[inline]
    pub(super) fn send_passed(
        &self,
        request: &Request,
        data: UserData,
    ) -> Result<Sent, TargetError> {
        self.gate.begin()?;
        self.send(request, data);
        Ok(Sent::Change)
    }

    /// What a remapped request waited for has happened.
    #[inline]
    pub(crate) fn end_io(
        &self,
        request: &Request,
        sent: &mut Sent,
        data: UserData,
        result: Result<(), Errno>,
    ) -> Next<Again> {
        match sent {
            Sent::First(id) => {
                let id = *id;
                return self.go_on(request, (sent, id), data, result);
            }
            Sent::Change => self.gate.end(),
            Sent::Read => {}
        }
        let range = (request.sector, request.count);
        Next::Done(self.disk().told(request.kind.into(), range, result).map_err(Into::into))
    }
}
