//! The data thread, as the administrator knows it.

use std::future::Future;
use std::rc::Rc;

use dm_targets::disk::Disk;
use dm_targets::group::Group;

use super::own::LiveDisk;
use crate::data::{DataThread, Handle, ZEROES};
use crate::failure::{Failure, Reason};
use crate::server::admin::thread::{Thread, ThreadHandle};

impl Thread for DataThread {
    type Open = LiveDisk;

    fn group(&self) -> &Group {
        &self.group
    }

    fn disk(&self, open: LiveDisk) -> Disk {
        match open {
            LiveDisk::Kernel(open) => DataThread::disk(self, open),
            LiveDisk::Own(own) => self.group.disk_of(own.device.id, &own.path),
        }
    }

    fn rename(&self, id: u32, name: &str) {
        if let Some(served) = self.served(id) {
            served.rename(name);
        }
    }

    fn zeroes(&self) -> Result<Disk, Reason> {
        DataThread::zeroes(self).map_err(|why| Reason::from(why).context(ZEROES))
    }
}

impl ThreadHandle for Handle {
    type Thread = DataThread;

    fn call<T, F>(
        &self,
        job: impl FnOnce(Rc<DataThread>) -> F + Send + 'static,
    ) -> Result<T, Reason>
    where
        T: Send + 'static,
        F: Future<Output = T> + 'static,
    {
        Handle::call(self, job).map_err(Failure::from)
    }
}
