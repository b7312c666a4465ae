//! Opening, suspending, resuming and closing a mirror.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use super::Event;
use super::bits::Bits;
use super::config::{MirrorConfig, check_leg};
use super::flushes::Flushes;
use super::format::MAX_REGIONS;
use super::leg_ios::IdleLegIos;
use super::leg_set::MAX_LEGS;
use super::leg_state::Past;
use super::legs::Legs;
use super::log::{SyncError, Work};
use super::open_error::OpenError;
use super::open_log::{Known, read_known};
use super::regions::Regions;
use super::table::InitialSync;
use super::target::{CLEAN_DELAY_MS, Cleaner, Mirror, Phase, Recovery, Requests, State};
use crate::exec::{Executor, WaitQueue};
use crate::gate::Gate;
use crate::mutant::{self, Mutant};
use crate::units::RegionSize;

/// Fewest legs.
const MIN_LEGS: usize = 2;

impl Mirror {
    /// Opens a mirror: checks its disks and reads its log. Nothing is written; [`Mirror::activate`]
    /// makes the mirror usable.
    ///
    /// # Errors
    /// The legs, the log and the sizes do not fit together. An unreadable log is not an error: the
    /// mirror starts with nothing in sync, and with a failed log, as in the kernel.
    pub async fn open(mut config: MirrorConfig<'_>) -> Result<Rc<Mirror>, OpenError> {
        let (region_size, regions) = check_config(&config)?;
        let identities: Vec<u64> = config.legs.iter().map(|leg| leg.identity).collect();
        let known = read_known(&mut config, regions, &identities).await?;
        let legs = legs_of(&config, &known);
        let Known { log, identity, bits, .. } = known;
        let mut regions = Regions::new(bits, log.on_disk());
        if matches!(config.past, Past::None) {
            regions.begin_flushed();
        }
        let state = State { regions, legs };
        Ok(Rc::new(Mirror {
            host: config.host.clone(),
            copy: config.copy.clone(),
            disks: RefCell::new(config.legs),
            state: RefCell::new(state),
            log,
            len: Cell::new(config.len),
            region_size,
            initial_sync: config.initial_sync,
            handle_errors: config.handle_errors,
            listener: config.listener,
            recorder: config.recorder,
            recorded: Cell::new(None),
            left: Cell::new(None),
            former: RefCell::new(
                config.past.state().map_or(vec![], |past| past.former(&identities)),
            ),
            was_in_sync: Cell::new(config.past.was_in_sync(&identities)),
            log_identity: identity,
            log_written: Cell::new(false),
            requests: Requests {
                phase: Cell::new(Phase::Running),
                gate: Gate::default(),
                held: Cell::new(0),
                changes: Cell::new(0),
                given_up: Cell::new(false),
                released: WaitQueue::default(),
            },
            recovery: Recovery::default(),
            cleaner: Cleaner {
                delay_ms: Cell::new(CLEAN_DELAY_MS),
                batches: Cell::new(0),
                flags_pending: Cell::new(false),
                flags_lost: Cell::new(false),
                wanted: WaitQueue::default(),
            },
            flushes: Flushes::default(),
            ios: IdleLegIos::default(),
            tasks: Cell::new(0),
            operation_ended: WaitQueue::default(),
        }))
    }

    pub(super) fn spawn<F: Future<Output = ()> + 'static>(
        self: &Rc<Self>,
        executor: &Executor,
        task: impl FnOnce(Rc<Self>) -> F,
    ) {
        self.tasks.set(self.tasks.get() + 1);
        let (mirror, task) = (self.clone(), task(self.clone()));
        executor.spawn(async move {
            task.await;
            mirror.tasks.set(mirror.tasks.get() - 1);
            mirror.operation_ended.wake_all();
        });
    }

    /// The log's task: writes changed blocks until the mirror is closed.
    pub(super) async fn log_loop(&self) {
        while self.log.work.until(|| self.log.next_work()).await == Work::Write {
            let known = self.log.health().is_dead();
            if let Err(error) = self.log.write(&self.state).await {
                // A later server must not trust this log; requests that wait for the mark retry the
                // record.
                self.try_record();
                if !known {
                    (self.listener)(Event::LogFailed(Some(error)));
                }
            }
        }
    }

    pub(super) fn tell_of_log(&self, SyncError { error, is_news }: SyncError) {
        if is_news {
            (self.listener)(Event::LogFailed(Some(error)));
        }
    }

    /// Suspends the mirror: recovery stops, dirty regions are cleaned in the log, and held requests
    /// end, with [`crate::request::TargetError::Requeue`] if `noflush` and with `EIO` otherwise.
    /// New requests wait. If the suspend is given up before all disks have answered, a running
    /// mirror continues to run, and what it holds stays held.
    pub async fn suspend(&self, noflush: bool) {
        let suspended = self.requests.phase.get().is_suspended();
        let phase = if noflush { Phase::SuspendedNoflush } else { Phase::SuspendedFlush };
        let early = mutant::is(Mutant::HeldFailEarly);
        self.requests.phase.set(if suspended || early { phase } else { Phase::Suspending });
        self.requests.gate.hold();
        if !suspended {
            let rests = self.come_to_rest(|| self.requests.gate.inside() == 0).await;
            if rests {
                self.clean_everything().await;
            }
            if self.requests.given_up.get() {
                return self.run_on();
            }
        }
        // No disk is waited for from here on: the suspend can no longer be given up.
        self.requests.phase.set(phase);
        self.requests.gate.wake();
        self.until_idle().await;
        if suspended {
            self.clean_everything().await;
        }
    }

    /// Whether no request is under way or held.
    fn is_idle(&self) -> bool {
        self.requests.gate.inside() + self.requests.held.get() == 0
    }

    /// Waits until no request is under way or held.
    pub(super) async fn until_idle(&self) {
        self.requests.gate.until(|| self.is_idle().then_some(())).await;
    }

    /// Pauses recovery, until [`Mirror::go_on`], and waits until recovery, requests and the cleaner
    /// have ended. `false` if the wait was given up, because it waits for a disk.
    pub(super) async fn come_to_rest(&self, is_idle: impl Fn() -> bool) -> bool {
        self.recovery.paused.set(self.recovery.paused.get() + 1);
        self.requests.given_up.set(false);
        let unless = |rests: bool| (rests || self.requests.given_up.get()).then_some(());
        self.operation_ended.until(|| unless(self.recovery.running.get() == 0)).await;
        self.requests.gate.until(|| unless(is_idle())).await;
        self.operation_ended.until(|| unless(self.cleaner.batches.get() == 0)).await;
        !self.requests.given_up.get()
    }

    /// Gives up a suspend, or a change of legs, that waits for requests under way: nothing has been
    /// changed then, and nothing will be.
    pub fn give_up(&self) {
        self.requests.given_up.set(true);
        self.operation_ended.wake_all();
        self.requests.gate.wake();
    }

    /// Runs again as before, after [`Mirror::come_to_rest`] has been given up.
    pub(super) fn run_on(&self) {
        self.requests.phase.set(Phase::Running);
        self.requests.gate.release();
        self.go_on();
    }

    /// Cleans every region that can be cleaned, and makes the log durable.
    pub(super) async fn clean_everything(&self) {
        let mut taken = Vec::new();
        loop {
            self.operation_ended.until(|| (self.cleaner.batches.get() == 0).then_some(())).await;
            if !self.clean(0, &mut taken).await {
                break;
            }
        }
        if let Err(error) = self.log.sync().await {
            self.tell_of_log(error);
        }
    }

    /// Resumes the mirror after [`Mirror::suspend`]: the log is read and written again, and
    /// recovery searches all regions that are out of sync. With `sync` and a log on disk these are
    /// all regions, as in the kernel. On a running mirror it does nothing, as in the kernel.
    pub async fn resume(&self) {
        let suspended = self.requests.phase.get().is_suspended();
        if !suspended && !mutant::is(Mutant::ResumedWhileRunning) {
            return;
        }
        self.left.set(None);
        if self.log.on_disk() {
            self.look_at_log_again().await;
        }
        self.state.borrow_mut().regions.restart();
        self.write_log().await;
        self.try_record();
        self.requests.phase.set(Phase::Running);
        self.requests.gate.release();
        self.report_in_sync();
        self.go_on();
    }

    /// Keeps in sync the regions that are in sync both in the log and in memory.
    async fn look_at_log_again(&self) {
        let regions = self.state.borrow().regions.count();
        let Some(mut bits) = Bits::zeroes(regions) else { return };
        let known = self.log.health().is_dead();
        let initial = if self.initial_sync == InitialSync::Sync {
            InitialSync::Sync
        } else {
            InitialSync::FromLog
        };
        let readable = self.log.read_again(initial, &mut bits, &self.identities()).await;
        if readable || initial == InitialSync::Sync {
            let State { regions, legs } = &mut *self.state.borrow_mut();
            regions.distrust(&bits);
            if !regions.all_in_sync() && legs.sources() == legs.all() {
                legs.diverge();
            }
        }
        self.log.change_all();
        if !known && self.log.health().is_dead() {
            (self.listener)(Event::LogFailed(self.log.failure.borrow().clone()));
        }
        self.remember_stale();
    }

    /// Closes the mirror: afterwards no request is held or in flight, and all tasks have ended.
    /// Requests that waited because the mirror was suspended are requeued for the next table. No
    /// request may arrive from now on.
    pub async fn close(&self) {
        if !self.requests.phase.get().is_suspended() {
            self.requests.phase.set(Phase::SuspendedFlush);
            self.requests.gate.hold();
        }
        self.pause_recovery().await;
        self.until_idle().await;
        self.clean_everything().await;
        self.requests.gate.close();
        self.recovery.work.wake_all();
        self.cleaner.wanted.wake_all();
        self.log.close();
        self.operation_ended.until(|| (self.tasks.get() == 0).then_some(())).await;
    }
}

/// The legs as they begin.
fn legs_of(config: &MirrorConfig<'_>, known: &Known) -> Legs {
    let (count, sources) = (config.legs.len(), known.begun.sources);
    let (handle_errors, keep_log) = (config.handle_errors, config.keep_log);
    let mut legs = Legs::new(count, handle_errors, keep_log, known.stale, sources);
    if known.begun.unequal {
        legs.expect_unequal();
    }
    if known.first {
        legs.expect_copies();
    }
    if known.unflushed {
        legs.forget_flushed();
    }
    legs
}

/// Checks the number of legs, their sizes and the region size. Returns the region size and the
/// number of regions.
fn check_config(config: &MirrorConfig<'_>) -> Result<(RegionSize, u64), OpenError> {
    let count = config.legs.len();
    if !(MIN_LEGS..=MAX_LEGS).contains(&count) {
        return Err(OpenError::LegCount(count));
    }
    if let Some(leg) = config.source.filter(|leg| *leg >= count) {
        return Err(OpenError::NoSuchLeg(leg));
    }
    let wrong_size = OpenError::RegionSize(config.region_size);
    let region_size = RegionSize::from_sectors(config.region_size.0).ok_or(wrong_size.clone())?;
    let regions = region_size.regions_in(config.len);
    if config.region_size > config.len || regions > MAX_REGIONS {
        return Err(wrong_size);
    }
    for leg in &config.legs {
        check_leg(leg, leg.disk.size(), config.len, region_size)?;
    }
    Ok((region_size, regions))
}
