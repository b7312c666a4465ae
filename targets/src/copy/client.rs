//! A client of the copy engine: its reserve, its throttle, its jobs and its callbacks.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::ops::{Deref, DerefMut};
use std::rc::Rc;

use super::budget::Budget;
use super::job::Job;
use super::part::{Flags, Part, SLICE_SECTORS};
use super::throttle::Throttle;
use crate::disk::{Buffer, Disk, DiskError, Errno, FailedOp, Host, Memory};
use crate::exec::{Executor, WaitQueue};
use crate::io::IoRegion;
use crate::units::Sectors;

/// Most destinations of a copy, as in the kernel: their errors are a bitmap of one byte.
pub const MAX_DESTINATIONS: usize = 8;
/// Bytes of the buffer of zeroes, used if a disk has no write-zeroes.
const ZERO_PAGE_BYTES: u32 = 65536;

/// The result of a copy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// The source could not be read.
    pub read_err: bool,
    /// Bit *i* is set if destination *i* was not written completely.
    pub write_err: u8,
    /// The first read error or, without one, the first write error.
    pub first_error: Option<DiskError>,
    /// What has been written to every destination, in sectors of the source.
    pub written: Sectors,
}

impl Outcome {
    /// Whether every destination was written completely, from a readable source.
    pub fn is_ok(&self) -> bool {
        !self.read_err && self.write_err == 0
    }
}

type Callback = Box<dyn FnOnce()>;

struct Shared {
    executor: Executor,
    budget: Budget,
    zero_pages: Rc<[Buffer]>,
    /// Boxed, because a job is moved several times.
    #[allow(clippy::vec_box)]
    idle_jobs: RefCell<Vec<Box<Job>>>,
    callbacks: RefCell<VecDeque<Callback>>,
    /// Jobs and tokens whose callback has not returned.
    unfinished: Cell<usize>,
    closing: Cell<bool>,
    changed: WaitQueue,
}

/// A client of the copy engine. Clones share all state.
#[derive(Clone)]
pub struct Client {
    shared: Rc<Shared>,
}

impl Client {
    /// A client with a reserve of one slice; `None` if the host cannot lend it. The worker task
    /// runs until [`Client::destroy`].
    pub fn new(
        executor: &Executor,
        host: &Rc<dyn Host>,
        throttle: Option<Throttle>,
    ) -> Option<Client> {
        let slice_bytes = u32::try_from(Sectors(SLICE_SECTORS).bytes()).ok()?;
        let throttle = throttle.unwrap_or_else(|| Throttle::new(100));
        let budget = Budget::new(host, throttle, slice_bytes)?;
        let zero_page = Buffer::acquire(host, ZERO_PAGE_BYTES)?;
        zero_page.at(0).clear(0, u64::from(ZERO_PAGE_BYTES));
        let client = Client {
            shared: Rc::new(Shared {
                executor: executor.clone(),
                budget,
                zero_pages: Rc::new([zero_page]),
                idle_jobs: RefCell::default(),
                callbacks: RefCell::default(),
                unfinished: Cell::new(0),
                closing: Cell::new(false),
                changed: WaitQueue::default(),
            }),
        };
        executor.spawn(worker(client.shared.clone()));
        Some(client)
    }

    /// Changes the share of time of this client's throttle, for all clients that share it.
    pub fn set_throttle_percent(&self, percent: u32) {
        self.shared.budget.throttle().set_percent(percent);
    }

    /// The progress of all jobs of this client together: sectors of their sources processed so far.
    pub fn moved(&self) -> Sectors {
        self.shared.budget.moved()
    }

    pub(super) fn budget(&self) -> &Budget {
        &self.shared.budget
    }

    /// A job to fill. When dropped, it returns to the client with its memory.
    pub fn job(&self) -> JobLease {
        let job = self.shared.idle_jobs.borrow_mut().pop().unwrap_or_else(|| Box::new(Job::new()));
        JobLease { job: Some(job), client: self.clone() }
    }

    /// Copies a job's parts from `source`, reading each range once. Results are left in the parts.
    pub fn run_parts(
        &self,
        job: &mut Job,
        source: &Disk,
        flags: Flags,
    ) -> impl Future<Output = ()> {
        job.copy(&self.shared.budget, source, flags)
    }

    /// Copies `from` to up to eight destinations of the same length and waits.
    pub async fn copy(&self, from: &IoRegion, to: &[IoRegion], flags: Flags) -> Outcome {
        let mut job = self.job();
        if !fill(&mut job, from.sector.0, from.count, to) {
            return refused(from);
        }
        job.copy(&self.shared.budget, &from.disk, effective(flags)).await;
        outcome(&job)
    }

    /// Makes up to eight regions of the same length read as zeroes and waits. Uses write-zeroes if
    /// every disk supports it, and ordinary writes otherwise, or if a disk refuses a write-zeroes
    /// that it advertised.
    pub async fn zero(&self, to: &[IoRegion], flags: Flags) -> Outcome {
        let Some(first) = to.first() else { return Outcome::default() };
        let able = to.iter().all(|region| region.disk.limits().max_write_zeroes.0 >= SLICE_SECTORS);
        for zeroes in
            [Memory::None, Memory::Pages { pages: self.shared.zero_pages.clone(), offset_bytes: 0 }]
        {
            let last_way = !matches!(zeroes, Memory::None);
            if !able && !last_way {
                continue;
            }
            let mut job = self.job();
            job.zeroes = zeroes;
            if !fill(&mut job, 0, first.count, to) {
                return refused(first);
            }
            job.run(&self.shared.budget, None, effective(flags)).await;
            let refused =
                job.write_error.as_ref().is_some_and(|error| error.errno.is_unsupported());
            if last_way || !refused {
                return outcome(&job);
            }
        }
        Outcome::default()
    }

    /// Copies in the background; `notify` is called by the client's worker.
    pub fn submit_copy(
        &self,
        from: IoRegion,
        to: Vec<IoRegion>,
        flags: Flags,
        notify: impl FnOnce(Outcome) + 'static,
    ) {
        let token = self.prepare_callback(notify);
        let client = self.clone();
        self.shared.executor.spawn(async move { token.fire(client.copy(&from, &to, flags).await) });
    }

    /// Zeroes in the background; `notify` is called by the client's worker.
    pub fn submit_zero(
        &self,
        to: Vec<IoRegion>,
        flags: Flags,
        notify: impl FnOnce(Outcome) + 'static,
    ) {
        let token = self.prepare_callback(notify);
        let client = self.clone();
        self.shared.executor.spawn(async move { token.fire(client.zero(&to, flags).await) });
    }

    /// Reserves a callback for the result of another operation, to be run in order with those of
    /// copies.
    pub fn prepare_callback(&self, notify: impl FnOnce(Outcome) + 'static) -> Token {
        self.shared.unfinished.set(self.shared.unfinished.get() + 1);
        Token { notify: Box::new(notify), shared: self.shared.clone() }
    }

    /// Waits until every queued callback has run.
    pub async fn flush(&self) {
        let shared = self.shared.clone();
        self.shared.changed.until(move || shared.callbacks.borrow().is_empty().then_some(())).await;
    }

    /// Waits until every job and token has been called back, and ends the worker.
    pub async fn destroy(&self) {
        let shared = self.shared.clone();
        self.shared.changed.until(move || (shared.unfinished.get() == 0).then_some(())).await;
        self.shared.closing.set(true);
        self.shared.changed.wake_all();
    }
}

/// Runs the callbacks of a client, one after the other.
async fn worker(shared: Rc<Shared>) {
    loop {
        let next = shared
            .changed
            .until(|| match shared.callbacks.borrow_mut().pop_front() {
                Some(callback) => Some(Some(callback)),
                None => shared.closing.get().then_some(None),
            })
            .await;
        let Some(callback) = next else { return };
        callback();
        shared.unfinished.set(shared.unfinished.get() - 1);
        shared.changed.wake_all();
    }
}

/// A prepared callback, which must be fired exactly once; the client cannot be destroyed before.
#[must_use = "a prepared callback holds its client until it is fired"]
pub struct Token {
    notify: Box<dyn FnOnce(Outcome)>,
    shared: Rc<Shared>,
}

impl Token {
    /// Submits the result; the client's worker calls the callback with it.
    pub fn fire(self, outcome: Outcome) {
        let notify = self.notify;
        self.shared.callbacks.borrow_mut().push_back(Box::new(move || notify(outcome)));
        self.shared.changed.wake_all();
    }
}

/// A job borrowed from its client.
pub struct JobLease {
    job: Option<Box<Job>>,
    client: Client,
}

impl Deref for JobLease {
    type Target = Job;
    fn deref(&self) -> &Job {
        // Present until dropped.
        self.job
            .as_ref()
            .unwrap_or_else(|| unreachable!("a lease holds its job until it is dropped"))
    }
}

impl DerefMut for JobLease {
    fn deref_mut(&mut self) -> &mut Job {
        self.job
            .as_mut()
            .unwrap_or_else(|| unreachable!("a lease holds its job until it is dropped"))
    }
}

impl Drop for JobLease {
    fn drop(&mut self) {
        if let Some(mut job) = self.job.take() {
            job.clear();
            self.client.shared.idle_jobs.borrow_mut().push(job);
        }
    }
}

fn effective(flags: Flags) -> Flags {
    Flags { ignore_error: flags.ignore_error && !flags.sequential_write, ..flags }
}

/// Adds one part per destination; `false` if the request is invalid.
fn fill(job: &mut Job, from: u64, count: Sectors, to: &[IoRegion]) -> bool {
    if to.is_empty() || to.len() > MAX_DESTINATIONS || to.iter().any(|region| region.count != count)
    {
        return false;
    }
    let part = |region: &IoRegion| Part {
        from: crate::units::Sector(from),
        count,
        to: region.disk.clone(),
        at: region.sector,
        failed: false,
    };
    job.parts.extend(to.iter().map(part));
    true
}

/// The outcome of a request that could not be issued: all bits set, as in the kernel.
fn refused(region: &IoRegion) -> Outcome {
    let error = FailedOp {
        kind: crate::disk::OpKind::Read,
        disk: region.disk.name().clone(),
        sector: region.sector,
        count: region.count,
        errno: Errno::EINVAL,
    };
    Outcome {
        read_err: true,
        write_err: u8::MAX,
        first_error: Some(error.into()),
        written: Sectors(0),
    }
}

fn outcome(job: &Job) -> Outcome {
    let mut write_err = 0;
    if job.write_error.is_some() {
        for (index, part) in job.parts.iter().enumerate() {
            write_err |= u8::from(part.failed) << index;
        }
    }
    let first_error = job.read_error.clone().or_else(|| job.write_error.clone());
    let (read_err, written) = (job.read_error.is_some(), job.written);
    Outcome { read_err, write_err, first_error, written }
}
