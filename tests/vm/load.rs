//! Load in this process: many threads that write at random, and readers that verify meanwhile.
//!
//! One thread is one request in flight, so 32 writers are a queue depth of 32. Sizes lie between
//! one block and `max_sectors`, small and large ones about equally often.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::nice;

use crate::disk::Disk;
use crate::model::{View, stamped};

/// Pseudo-random numbers (splitmix64), the same for the same seed.
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Rng {
        Rng(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// A range of whole blocks of the device, at most `max` sectors.
    pub fn range(&mut self, sectors: u64, block: u64, max: u64) -> (u64, u64) {
        let exponent = self.below(u64::from(max.ilog2()) + 1);
        let len = (1 + self.below(1 << exponent)).next_multiple_of(block).min(max).min(sectors);
        let start = self.below(sectors - len + 1) / block * block;
        (start, len.max(block))
    }
}

/// The amount of load: it ends after `writes` in total or after `seconds`, whichever comes first.
#[derive(Clone, Copy)]
pub struct Plan {
    pub writers: usize,
    pub max_sectors: u64,
    pub writes: u64,
    pub seconds: u64,
    /// Errors end a writer silently and leave its range unacknowledged (a killed server).
    pub may_break: bool,
}

impl Plan {
    /// Depth 32, one block to 1 MiB.
    pub fn depth_32(writes: u64, seconds: u64) -> Plan {
        Plan { writers: 32, max_sectors: 2048, writes, seconds, may_break: false }
    }
}

/// Ends a load when the thread that directs it panics, so that a failure is reported immediately.
pub struct StopOnDrop<'a>(pub &'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Writes at random until the plan or `stop` ends it; returns the number of writes.
pub fn write(
    view: &View,
    disk: &Disk,
    seed: u64,
    plan: Plan,
    stop: &AtomicBool,
) -> Result<u64, String> {
    let (done, until) = (AtomicU64::new(0), Instant::now() + Duration::from_secs(plan.seconds));
    let one = |thread: u64| -> Result<(), String> {
        let mut rng = Rng::new(seed ^ (thread << 48));
        while !stop.load(Ordering::Relaxed) && Instant::now() < until {
            if done.fetch_add(1, Ordering::Relaxed) >= plan.writes {
                done.fetch_sub(1, Ordering::Relaxed);
                break;
            }
            let (sector, sectors) = rng.range(disk.sectors, disk.block, plan.max_sectors);
            let Some(ticket) = view.begin(sector, sectors) else {
                done.fetch_sub(1, Ordering::Relaxed);
                thread::yield_now();
                continue;
            };
            match disk.try_write(sector, &stamped(ticket)) {
                Ok(()) => view.end(ticket),
                Err(_) if plan.may_break => return Ok(()),
                Err(e) => {
                    return Err(format!(
                        "{}: write of {sectors} sectors at {sector}: {e}",
                        disk.path
                    ));
                }
            }
            if rng.below(64) == 0 && !plan.may_break {
                disk.flush().map_err(|e| format!("{}: flush: {e}", disk.path))?;
            }
        }
        Ok(())
    };
    gather((0..plan.writers as u64).map(|t| move || one(t)).collect(), stop)?;
    Ok(done.load(Ordering::Relaxed))
}

/// Reads at random and verifies until `stop`; returns the number of reads.
pub fn verify(
    view: &View,
    disk: &Disk,
    seed: u64,
    readers: usize,
    stop: &AtomicBool,
) -> Result<u64, String> {
    let done = AtomicU64::new(0);
    let one = |thread: u64| -> Result<(), String> {
        let mut rng = Rng::new(seed ^ (thread << 40));
        while !stop.load(Ordering::Relaxed) {
            let (sector, sectors) = rng.range(disk.sectors, disk.block, 256);
            if view.try_verify(disk, sector, sectors)? {
                done.fetch_add(1, Ordering::Relaxed);
            }
        }
        Ok(())
    };
    gather((0..readers as u64).map(|t| move || one(t)).collect(), stop)?;
    Ok(done.load(Ordering::Relaxed))
}

/// Runs all at once; the first error stops the others and is returned.
fn gather<F: FnOnce() -> Result<(), String> + Send>(
    jobs: Vec<F>,
    stop: &AtomicBool,
) -> Result<(), String> {
    thread::scope(|scope| {
        let run = |job: F| {
            // On one emulated CPU commands would wait for half a minute behind so many threads.
            nice(10).map_err(|error| error.to_string())?;
            let result = job();
            if result.is_err() {
                stop.store(true, Ordering::Relaxed);
            }
            result
        };
        let threads: Vec<_> = jobs.into_iter().map(|job| scope.spawn(move || run(job))).collect();
        let results: Vec<_> = threads
            .into_iter()
            .map(|t| t.join().unwrap_or_else(|_| Err("a thread panicked".into())))
            .collect();
        results.into_iter().collect()
    })
}
