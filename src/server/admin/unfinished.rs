//! Jobs of an administrator `A` that a command started and no longer waits for.

/// The device and the command of a job.
#[derive(Clone, Copy)]
pub(super) struct Errand {
    /// The device that the job works on.
    pub(super) id: Option<u32>,
    /// The command that started the job.
    pub(super) verb: &'static str,
    /// The server does not end before the job, unless it is told to.
    pub(super) keeps_server: bool,
}

impl Errand {
    /// A job for an existing device.
    pub(super) fn on(id: u32, verb: &'static str) -> Errand {
        Errand { id: Some(id), verb, keeps_server: false }
    }
}

/// A job that continues on its own.
pub(super) struct Unfinished<A> {
    pub(super) errand: Errand,
    /// The disk that the job waits for.
    pub(super) disk: String,
    /// Handles the job's result. Returns whether the job has ended.
    pub(super) finish: Box<dyn FnMut(&mut A) -> bool>,
}
