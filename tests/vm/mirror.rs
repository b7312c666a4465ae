//! Mirrors, served by the kernel's dm-mirror or by `ublk-dm`: one interface for both.
//!
//! With `UBLK_DM_JUDGE=1` the kernel is on both sides. That tests the cases: the judge itself must
//! meet the requirements on `ublk-dm`.
//!
//! The lines of text about a mirror are in [`lines`].

mod lines;

use std::env;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use crate::disk::{Buf, Disk, MIB};
use crate::ioctl::dm_line;
use crate::model::{Ticket, View, stamped};
use crate::sh::{Out, binary, run_args, ublk_dm};
use crate::{kernel, server};

pub use lines::{Initial, Shape, Status};

/// The server of a mirror.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Engine {
    Kernel,
    Ublk,
}

/// The server in the place of the program under test.
pub fn ours() -> Engine {
    if env::var_os("UBLK_DM_JUDGE").is_some() { Engine::Kernel } else { Engine::Ublk }
}

/// A running mirror.
pub struct Mirror {
    pub engine: Engine,
    pub name: String,
    /// Its block device.
    pub path: String,
    closed: bool,
}

impl Mirror {
    /// Activates a mirror from its table line.
    pub fn open(engine: Engine, name: &str, shape: &Shape) -> Mirror {
        Mirror::try_open(engine, name, shape)
            .unwrap_or_else(|why| panic!("{engine:?} refuses `{}`: {why}", shape.table()))
    }

    pub fn try_open(engine: Engine, name: &str, shape: &Shape) -> Result<Mirror, String> {
        let path = match engine {
            Engine::Kernel => {
                crate::ioctl::dm_create(name, &shape.table(), false).map_err(|e| e.to_string())?
            }
            Engine::Ublk => {
                let out = run_args(&binary(), &["create", name, "--table", &shape.table()]);
                if out.code != 0 {
                    return Err(out.refused().stderr);
                }
                out.line()
            }
        };
        Ok(Mirror { engine, name: name.to_string(), path, closed: false })
    }

    /// `ublk-dm add`, or the same from the kernel. The device is as long as the legs allow.
    pub fn add(engine: Engine, name: &str, shape: &Shape) -> Mirror {
        Mirror::add_with(engine, name, shape, "")
    }

    /// `ublk-dm add --force`.
    pub fn add_forced(engine: Engine, name: &str, shape: &Shape) -> Mirror {
        Mirror::add_with(engine, name, shape, " --force")
    }

    fn add_with(engine: Engine, name: &str, shape: &Shape, more: &str) -> Mirror {
        match engine {
            Engine::Kernel => Mirror::open(engine, name, shape),
            Engine::Ublk => {
                let path = server::add(&format!("{} --name {name}{more}", shape.flags()));
                Mirror { engine, name: name.to_string(), path, closed: false }
            }
        }
    }

    pub fn disk(&self) -> Disk {
        Disk::open(&self.path)
    }

    pub fn status_line(&self) -> String {
        match self.engine {
            Engine::Kernel => kernel::status(&self.name),
            Engine::Ublk => server::status(&self.name),
        }
    }

    pub fn status(&self) -> Status {
        Status::parse(&self.status_line())
    }

    pub fn table(&self) -> String {
        match self.engine {
            Engine::Kernel => kernel::table(&self.name),
            Engine::Ublk => server::table(&self.name),
        }
    }

    /// Waits until status says what `holds` asks for; panics after `seconds`.
    pub fn wait_status(&self, seconds: u64, what: &str, holds: impl Fn(&Status) -> bool) -> Status {
        let until = Instant::now() + Duration::from_secs(seconds);
        loop {
            let status = self.status();
            if holds(&status) {
                return status;
            }
            assert!(
                Instant::now() < until,
                "{:?} {}: waited {seconds} s in vain for {what}, status is {}",
                self.engine,
                self.name,
                status.short()
            );
            thread::sleep(Duration::from_millis(50));
        }
    }

    pub fn wait_in_sync(&self) -> Status {
        self.wait_status(60, "all regions to be in sync", |status| status.in_sync == status.total)
    }

    pub fn suspend(&self, noflush: bool) {
        match self.engine {
            Engine::Kernel => kernel::suspend(&self.name, noflush),
            Engine::Ublk => {
                ublk_dm(&format!(
                    "suspend {}{}",
                    self.name,
                    if noflush { " --noflush" } else { "" }
                ))
                .ok();
            }
        }
    }

    pub fn load(&self, shape: &Shape) {
        match self.engine {
            Engine::Kernel => kernel::load(&self.name, &shape.table()),
            Engine::Ublk => {
                run_args(&binary(), &["load", &self.name, "--table", &shape.table()]).ok();
            }
        }
    }

    pub fn resume(&self) {
        match self.engine {
            Engine::Kernel => kernel::resume(&self.name),
            Engine::Ublk => {
                ublk_dm(&format!("resume {}", self.name)).ok();
            }
        }
    }

    /// Removes it; it must not be open.
    pub fn close(mut self) {
        self.closed = true;
        match self.engine {
            Engine::Kernel => kernel::remove(&self.name),
            Engine::Ublk => server::del(&self.name),
        }
    }

    /// It has already been removed by other means.
    pub fn forget(mut self) {
        self.closed = true;
    }
}

impl Drop for Mirror {
    /// A failed case must not leave a write that the kernel would hold forever.
    fn drop(&mut self) {
        if self.closed {
            return;
        }
        match self.engine {
            Engine::Kernel => kernel::break_off(&self.name),
            Engine::Ublk => {
                let out: Out = run_args(
                    "timeout",
                    &["-k", "2", "20", &binary(), "del", "--force", &self.name],
                );
                if out.code != 0 {
                    println!("  `{}` gave exit code {}: {}", out.what, out.code, out.stderr.trim());
                }
            }
        }
    }
}

/// Suspends all mirrors of the kernel permanently; their held requests fail.
pub fn break_off_all() {
    for name in kernel::names() {
        if dm_line(&name, true).is_ok_and(|line| line.split(' ').nth(2) == Some("mirror")) {
            kernel::break_off(&name);
        }
    }
}

/// How a request ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Did {
    Success,
    /// Not at all so far.
    Held,
    Eio,
    /// With another error.
    Other(String),
}

/// A request in flight.
pub struct Request {
    end: Receiver<std::io::Result<()>>,
}

impl Request {
    /// Runs an operation on the device in a thread of its own.
    pub fn start(
        path: &str,
        what: impl FnOnce(&Disk) -> std::io::Result<()> + Send + 'static,
    ) -> Request {
        let (done, end) = channel();
        let disk = Disk::open(path);
        thread::spawn(move || {
            let result = what(&disk);
            drop(disk); // the receiver of the result may remove the device
            done.send(result).ok();
        });
        Request { end }
    }

    pub fn write(path: &str, ticket: Ticket) -> Request {
        Request::start(path, move |disk| disk.try_write(ticket.sector, &stamped(ticket)))
    }

    pub fn read(path: &str, sector: u64, sectors: u64) -> Request {
        Request::start(path, move |disk| disk.try_read(sector, &mut Buf::new(sectors)))
    }

    /// How it ended, or that it has not within the time.
    pub fn did(&self, milliseconds: u64) -> Did {
        match self.end.recv_timeout(Duration::from_millis(milliseconds)) {
            Ok(Ok(())) => Did::Success,
            Ok(Err(e)) if e.raw_os_error() == Some(libc::EIO) => Did::Eio,
            Ok(Err(e)) => Did::Other(e.to_string()),
            Err(RecvTimeoutError::Timeout) => Did::Held,
            Err(RecvTimeoutError::Disconnected) => {
                Did::Other("its thread panicked, or its end was told already".into())
            }
        }
    }
}

/// Copies `len` sectors.
pub fn copy(from: &str, from_at: u64, to: &str, to_at: u64, len: u64) {
    let (from, to) = (Disk::open_read_only(from), Disk::open(to));
    for at in (0..len).step_by(MIB.try_into().expect("small")) {
        let step = MIB.min(len - at);
        to.write(to_at + at, &from.read(from_at + at, step));
    }
}

/// Fills all legs with the view's first content, the same bytes on each.
pub fn fill(view: &View, shape: &Shape) {
    let (first, offset) = &shape.legs[0];
    assert!(*offset == 0, "the first leg of a case has no offset");
    view.fill(&Disk::open(first));
    for (path, offset) in &shape.legs[1..] {
        copy(first, 0, path, *offset, shape.len);
    }
}

/// The regions in which the legs differ.
pub fn differing(shape: &Shape) -> Vec<u64> {
    let legs: Vec<(Disk, u64)> =
        shape.legs.iter().map(|(path, at)| (Disk::open_read_only(path), *at)).collect();
    let differs = |region: &u64| {
        let at = region * shape.region;
        let len = shape.region.min(shape.len - at);
        let first = legs[0].0.read(legs[0].1 + at, len);
        legs[1..].iter().any(|(disk, offset)| *disk.read(offset + at, len) != *first)
    };
    (0..shape.regions()).filter(differs).collect()
}

pub fn assert_legs_equal(shape: &Shape, when: &str) {
    let regions = differing(shape);
    assert!(
        regions.is_empty(),
        "{when}: the legs of `{}` differ in regions {regions:?}",
        shape.table()
    );
}
