//! The owner of a data thread, which starts and ends it.

use std::future::Future;
use std::io;
use std::rc::Rc;
use std::sync::mpsc;

use super::handle::Handle;
use super::thread::DataThread;

/// The control thread's access to its data thread.
pub struct Owner {
    handle: Handle,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Owner {
    /// Starts a data thread. `lost` is called on the data thread with the id of each device that
    /// the kernel has stopped, for whatever reason.
    pub fn start(lost: impl Fn(u32) + Send + 'static) -> io::Result<Owner> {
        let handle = Handle::new()?;
        let (report, started) = mpsc::channel();
        let (theirs, listen) = (handle.mailbox.clone(), handle.wake.try_clone()?);
        let thread = std::thread::Builder::new().name("data".into()).spawn(move || {
            match DataThread::new(listen, Rc::new(lost)) {
                Ok(own) => {
                    if report.send(Ok(())).is_ok() {
                        own.run(&theirs);
                    }
                }
                // If the receiver is gone, the error is dropped.
                Err(error) => drop(report.send(Err(error))),
            }
        })?;
        started
            .recv()
            .unwrap_or_else(|_| Err(io::Error::other("the data thread ended immediately")))?;
        Ok(Owner { handle, thread: Some(thread) })
    }

    /// A handle for other threads.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Like [`Handle::call`].
    pub fn call<T, F>(
        &self,
        job: impl FnOnce(Rc<DataThread>) -> F + Send + 'static,
    ) -> io::Result<T>
    where
        T: Send + 'static,
        F: Future<Output = T> + 'static,
    {
        self.handle.call(job)
    }

    /// Ends the thread, which closes its disks. Its devices must be gone.
    pub fn stop(&mut self) -> io::Result<()> {
        self.handle.post(|mailbox| mailbox.stop = true)?;
        let thread = self.thread.take();
        thread.map_or(Ok(()), |thread| {
            thread.join().map_err(|_| io::Error::other("the data thread panicked"))
        })
    }
}
