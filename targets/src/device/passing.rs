//! How requests pass a device: in a task, or without one where the target needs none
//! (`target/remap.rs`).
//!
//! Rules kept here, with the device: a request that the target has is inside its gate until it has
//! ended, so the target is not replaced meanwhile; and no request of a user is under way past an
//! origin that the device has begun to carry (I5).

use super::Device;
use crate::disk::{Errno, UserData};
use crate::gate::Closed;
use crate::mutant::{self, Mutant};
use crate::request::{Request, RequestKind, TargetError};
use crate::snapshot::origin::Origin;
use crate::target::Target;
use crate::target::remap::{Next, Remapped, Rest};

impl Device {
    /// Starts a request of a user that needs no task, with this user data for its operations.
    /// `None`: nothing was started, and it is for [`Device::pass`].
    #[inline]
    pub fn remap(&self, request: &Request, data: UserData) -> Option<Remapped> {
        // Whatever has to wait, or goes through an origin, is for a task.
        let open = self.gate.is_open() || mutant::is(Mutant::RemappedPastGate);
        let free = self.users.is_open() && open && self.carried.borrow().is_none();
        if !free {
            return None;
        }
        let remapped = self.target.borrow().remap(request, data)?;
        self.direct.set(self.direct.get() + 1);
        self.note(request);
        if !mutant::is(Mutant::RemappedPastGate) {
            self.gate.enter();
        }
        Some(remapped)
    }

    /// A completion of a remapped request was told, with this data.
    #[inline]
    pub fn end_io(
        &self,
        request: &Request,
        remapped: &mut Remapped,
        data: UserData,
        result: Result<(), Errno>,
    ) -> Next {
        // Still the one that has remapped it: the request is inside the gate.
        let next = self.target.borrow().end_io(request, remapped, data, result);
        if let Next::Done(_) = next {
            if !mutant::is(Mutant::RemappedPastGate) {
                self.gate.leave();
            }
            self.end_direct();
        }
        next
    }

    /// Carries out what is left of a remapped request.
    ///
    /// # Errors
    /// As [`Device::pass`].
    pub async fn finish(&self, request: &Request, rest: Rest) -> Result<(), TargetError> {
        let (target, swaps) = (self.target(), self.swaps.get());
        let result = target.finish(request, rest).await;
        drop(target);
        match self.end(result, swaps).await {
            Some(result) => result,
            None => self.pass(request).await,
        }
    }

    /// Carries out a request of a user when the device is not suspended: through the origin that
    /// the device carries, if there is one.
    ///
    /// # Errors
    /// The target's; `Ending` if the device is being deleted.
    pub async fn pass(&self, request: &Request) -> Result<(), TargetError> {
        loop {
            if !self.users.is_open() {
                if let Err(Closed) = self.users.opened().await {
                    return Err(TargetError::Ending);
                }
            }
            let origin = self.carried.borrow().clone();
            if let Some(origin) = origin.filter(|_| !mutant::is(Mutant::UsersPassOrigin)) {
                return self.pass_through(&origin, request).await;
            }
            // No await since the gate was found open.
            if self.gate.is_open() {
                self.direct.set(self.direct.get() + 1);
                let (target, swaps) = self.begin(request);
                let result = target.map(request).await;
                drop(target);
                if let Some(result) = self.end(result, swaps).await {
                    return result;
                }
            } else if let Err(Closed) = self.gate.opened().await {
                return Err(TargetError::Ending);
            }
        }
    }

    /// The same through an origin; not beside a merge, which has the origin for itself.
    async fn pass_through(&self, origin: &Origin, request: &Request) -> Result<(), TargetError> {
        let writes = matches!(request.kind, RequestKind::Write { .. } | RequestKind::Discard);
        if writes && origin.has_merge() && !mutant::is(Mutant::WrittenPastMerge) {
            // It would pass the merge, which may copy over it.
            return Err(TargetError::Merging);
        }
        // No await since the gate was found open.
        self.users.enter();
        let result = origin.handle(request).await;
        self.users.leave();
        result
    }

    /// Passes an operation of the origin that the device carries to the target, when the device is
    /// not suspended.
    ///
    /// # Errors
    /// The target's; `Ending` if the device is being deleted.
    pub(crate) async fn pass_down(&self, request: &Request) -> Result<(), TargetError> {
        loop {
            if let Err(Closed) = self.gate.opened().await {
                return Err(TargetError::Ending);
            }
            let (target, swaps) = self.begin(request);
            let result = target.map(request).await;
            drop(target);
            self.gate.leave();
            if !matches!(result, Err(TargetError::Requeue)) {
                return result;
            }
            self.until_changed(swaps).await;
        }
    }

    /// A request that has found the gate open and not awaited since goes to the target, which is
    /// returned with the number of changes so far. It leaves the gate at its end.
    fn begin(&self, request: &Request) -> (Target, u64) {
        self.note(request);
        self.gate.enter();
        (self.target(), self.swaps.get())
    }

    /// A request that the target could not carry out waits for a change: a target that is absent
    /// while its device runs would be asked forever.
    async fn until_changed(&self, swaps: u64) {
        let changed = || !self.gate.is_open() || self.swaps.get() != swaps;
        self.gate.until(|| changed().then_some(())).await;
    }

    /// The target has returned a request; `None` if it is for another target, which is there.
    async fn end(
        &self,
        result: Result<(), TargetError>,
        swaps: u64,
    ) -> Option<Result<(), TargetError>> {
        self.gate.leave();
        if matches!(result, Err(TargetError::Requeue)) {
            self.until_changed(swaps).await;
        }
        self.end_direct();
        match result {
            Err(TargetError::Requeue) => None,
            result => Some(result),
        }
    }

    /// A request is no longer under way past the origin that the device may carry by now.
    #[inline]
    fn end_direct(&self) {
        self.direct.set(self.direct.get() - 1);
        if self.direct.get() == 0 && self.carried.borrow().is_some() {
            self.gate.wake();
        }
    }

    /// Notes that something is written.
    #[inline]
    fn note(&self, request: &Request) {
        if matches!(request.kind, RequestKind::Write { .. } | RequestKind::Discard) {
            self.written.set(true);
        }
    }
}
