//! Requests that are carried out as a server does it: in a task of their own only from where the
//! target needs one.

use std::future::Future;

use dm_targets::device::Device;
use dm_targets::disk::{Errno, UserData};
use dm_targets::request::{Request, TargetError};
use dm_targets::sim::host::SimHost;
use dm_targets::target::Target;
use dm_targets::target::remap::{Next, Remapped, Rest};

/// What requests are made to: a target, or a device.
pub trait Maps {
    /// As [`Target::remap`].
    fn remap(&self, request: &Request, data: UserData) -> Option<Remapped>;
    /// As [`Target::end_io`].
    fn end_io(
        &self,
        request: &Request,
        remapped: &mut Remapped,
        data: UserData,
        result: Result<(), Errno>,
    ) -> Next;
    /// As [`Target::finish`].
    fn finish(
        &self,
        request: &Request,
        rest: Rest,
    ) -> impl Future<Output = Result<(), TargetError>>;
    /// As [`Target::map`].
    fn map(&self, request: &Request) -> impl Future<Output = Result<(), TargetError>>;
}

impl Maps for Target {
    fn remap(&self, request: &Request, data: UserData) -> Option<Remapped> {
        self.remap(request, data)
    }
    fn end_io(
        &self,
        request: &Request,
        remapped: &mut Remapped,
        data: UserData,
        result: Result<(), Errno>,
    ) -> Next {
        self.end_io(request, remapped, data, result)
    }
    fn finish(
        &self,
        request: &Request,
        rest: Rest,
    ) -> impl Future<Output = Result<(), TargetError>> {
        self.finish(request, rest)
    }
    fn map(&self, request: &Request) -> impl Future<Output = Result<(), TargetError>> {
        self.map(request)
    }
}

impl Maps for Device {
    fn remap(&self, request: &Request, data: UserData) -> Option<Remapped> {
        self.remap(request, data)
    }
    fn end_io(
        &self,
        request: &Request,
        remapped: &mut Remapped,
        data: UserData,
        result: Result<(), Errno>,
    ) -> Next {
        self.end_io(request, remapped, data, result)
    }
    fn finish(
        &self,
        request: &Request,
        rest: Rest,
    ) -> impl Future<Output = Result<(), TargetError>> {
        self.finish(request, rest)
    }
    fn map(&self, request: &Request) -> impl Future<Output = Result<(), TargetError>> {
        self.pass(request)
    }
}

/// Carries a request out.
pub async fn carry_out(
    host: &SimHost,
    target: &impl Maps,
    request: &Request,
) -> Result<(), TargetError> {
    let told = &host.told;
    let data = told.begin();
    let Some(mut remapped) = target.remap(request, data) else {
        told.end(data);
        return target.map(request).await;
    };
    loop {
        let (told_as, result) = told.next(data).await;
        let next = target.end_io(request, &mut remapped, told_as, result);
        if !matches!(next, Next::Waits) {
            told.end(data);
        }
        match next {
            Next::Waits => {}
            Next::Done(result) => return result,
            Next::Rest(rest) => return target.finish(request, rest).await,
        }
    }
}
