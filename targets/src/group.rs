//! The targets and devices of one process: an origin with its snapshots, a mirror, or the linear
//! devices of a disk. Everything that they share stands here, and is used by one thread.
//!
//! Rules kept here: a snapshot joins its origin after its store has been written, and leaves it
//! before its target is taken apart; one that leaves while its origin goes on being changed is
//! marked invalid first (I9).

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

use crate::copy;
use crate::device::{Device, Opened};
use crate::disk::{Disk, Host};
use crate::exec::Executor;
use crate::mirror::target::Mirror;
use crate::snapshot::origin::Origin;
use crate::snapshot::store::Unmade;
use crate::target::Target;

/// Names a target that has been opened and has no device yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ticket(pub u64);

/// The targets and devices of a process.
pub struct Group {
    /// Runs their tasks.
    pub executor: Executor,
    /// Lends memory and time.
    pub host: Rc<dyn Host>,
    /// Copies their chunks and regions.
    pub copy: copy::Client,
    /// The origin, present from the first target on that needs it.
    origin: RefCell<Option<Rc<Origin>>>,
    opened: RefCell<HashMap<Ticket, Opened>>,
    devices: RefCell<BTreeMap<u32, Rc<Device>>>,
}

impl Group {
    /// A group without devices.
    pub fn new(executor: Executor, host: Rc<dyn Host>, copy: copy::Client) -> Group {
        let (origin, opened, devices) =
            (RefCell::default(), RefCell::default(), RefCell::default());
        Group { executor, host, copy, origin, opened, devices }
    }

    /// The origin, if there is one.
    pub fn origin(&self) -> Option<Rc<Origin>> {
        self.origin.borrow().clone()
    }

    /// Makes a disk the origin.
    pub fn set_origin(&self, disk: Disk) {
        *self.origin.borrow_mut() = Some(Origin::new(disk, self.copy.clone()));
    }

    /// Keeps a target that has been opened until it gets a device or is forgotten.
    pub fn keep_opened(&self, ticket: Ticket, opened: Opened) {
        self.opened.borrow_mut().insert(ticket, opened);
    }

    /// A target that has been opened.
    pub fn opened(&self, ticket: Ticket) -> Option<Opened> {
        self.opened.borrow().get(&ticket).cloned()
    }

    /// A target that has been opened, which is no longer kept.
    pub fn take_opened(&self, ticket: Ticket) -> Option<Opened> {
        self.opened.borrow_mut().remove(&ticket)
    }

    /// Lets go of a target that has got no device, or has one no longer, when what its new store
    /// has overwritten has been put back: until then its disks stay claimed.
    ///
    /// # Errors
    /// It cannot be put back.
    pub async fn unmake(&self, ticket: Ticket) -> Result<Unmade, String> {
        let opened = self.take_opened(ticket).map(|opened| opened.target);
        let Some(Target::Snapshot(snapshot)) = opened else { return Ok(Unmade::NotNew) };
        let unmade = snapshot.store().unmake().await.map_err(|error| error.to_string())?;
        if let Some(origin) = self.origin().filter(|_| unmade.is_gone()) {
            origin.forget_departed(&snapshot);
        }
        Ok(unmade)
    }

    /// A device.
    pub fn device(&self, id: u32) -> Option<Rc<Device>> {
        self.devices.borrow().get(&id).cloned()
    }

    /// The mirror that a device has as its target.
    ///
    /// # Errors
    /// There is no such device, or it has another target.
    pub fn mirror(&self, id: u32) -> Result<Rc<Mirror>, String> {
        match self.device(id).map(|device| device.target()) {
            Some(Target::Mirror(mirror)) => Ok(mirror),
            Some(_) => Err(format!("/dev/ublkb{id}: only a mirror takes messages")),
            None => Err(format!("/dev/ublkb{id}: no such device; see `ublk-dm list`")),
        }
    }

    /// All devices, by id.
    pub fn devices(&self) -> BTreeMap<u32, Rc<Device>> {
        self.devices.borrow().clone()
    }

    /// Makes an opened target usable and gives it a device; `serve` serves the device's queues. A
    /// snapshot joins its origin last.
    ///
    /// # Errors
    /// The target cannot be used, or the queues not be served. The target has been closed then.
    pub async fn add(
        &self,
        id: u32,
        ticket: Ticket,
        serve: impl FnOnce(Rc<Device>) -> Result<(), String>,
    ) -> Result<(), String> {
        let opened = self.opened(ticket).ok_or("the target is not open")?;
        let target = opened.target.clone();
        target.activate(&self.executor).await?;
        let device = Rc::new(Device::new(opened));
        if let Err(why) = serve(device.clone()) {
            // Nothing has been acknowledged that could be lost.
            drop(target.close().await);
            return Err(format!("cannot serve the queues: {why}"));
        }
        self.devices.borrow_mut().insert(id, device);
        if let (Target::Snapshot(snapshot), Some(origin)) = (target, self.origin()) {
            origin.join(snapshot).await;
        }
        Ok(())
    }

    /// Gives a suspended device a target that has been opened.
    ///
    /// # Errors
    /// The target cannot be used.
    pub async fn put_target(&self, id: u32, ticket: Ticket) -> Result<(), String> {
        let device = self.device(id).ok_or("the device is gone")?;
        let opened = self.take_opened(ticket).ok_or("the target is not open")?;
        opened.target.activate(&self.executor).await?;
        device.put_target(opened);
        Ok(())
    }

    /// Takes a device's target apart. Its requests have ended. With `outlived` the origin's device
    /// stays and is in use: a snapshot is marked invalid while it still holds the origin's writes
    /// back.
    ///
    /// # Errors
    /// What is lost with it.
    pub async fn remove(&self, id: u32, outlived: bool) -> Result<(), String> {
        let removed = self.devices.borrow_mut().remove(&id);
        let Some(device) = removed else { return Ok(()) };
        let target = device.target();
        // Writes of the origin no longer preserve anything for a snapshot without a device.
        if let (Target::Snapshot(snapshot), Some(origin)) = (&target, self.origin()) {
            if outlived {
                snapshot.give_up().await;
            }
            origin.leave(snapshot);
        }
        target.close().await
    }
}
