// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The controller: registers, doorbells, queues, and the jobs that come of them. Pure: no I/O, no waiting.
//!
//! ```text
//!   register write --> Controller --next_job--> Job --(DMA, media: engine.rs)--> fetched, complete, finish
//! ```
//!
//! The engine takes a job with [`Controller::next_job`], does its I/O without the controller's lock, and returns the
//! result. A job belongs to an *epoch*: a reset begins a new one, and results of an old one are dropped. A reset, a
//! pause and a queue deletion are complete only when no job is left that could still do DMA. NVMe 1.4 sections 3
//! (registers), 4.1 (queues), 7.6 (initialisation, shutdown).

mod admin;
mod events;
mod features;
mod identify;
mod jobs;
mod logs;
mod registers;
mod revival;
mod shadow;
mod state;

use crate::identity::Identity;
use crate::queue::{Completed, CompletionQueue, Posting, QUEUES_MAX, SubmissionQueue};
use crate::spec::registers::{Aqa, Cc, Csts, SHST_COMPLETE};
use crate::spec::status::Status;

pub use admin::AdminOutcome;
pub use events::{AsyncEvent, Events};
pub use features::Features;
pub use jobs::{BATCH_MAX, Job, Ticket};
pub use logs::{Counters, ErrorLog};
pub use revival::{Begun, Unkept};
pub use shadow::{Shadow, Watched};

/// The largest transfer, as a power of two of pages: `MDTS`. 1 MiB.
pub const MDTS: u8 = 8;

/// Blocks that a command moved, for the counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moved {
    /// Blocks read.
    pub read: u32,
    /// Blocks written.
    pub written: u32,
}

/// The result of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Status for the completion queue entry.
    pub status: Status,
    /// Dword 0 of the completion.
    pub dw0: u32,
    /// Blocks transferred.
    pub moved: Moved,
    /// The namespace it was for, for the error log.
    pub nsid: u32,
    /// Its first block, for the error log.
    pub lba: u64,
}

impl Outcome {
    /// A completion without data or counters.
    #[must_use]
    pub const fn of(status: Status) -> Self {
        Self { status, dw0: 0, moved: Moved { read: 0, written: 0 }, nsid: 0, lba: 0 }
    }
}

/// The writable registers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Registers {
    /// `CC`.
    pub cc: Cc,
    /// `CSTS`.
    pub csts: Csts,
    /// `AQA`.
    pub aqa: Aqa,
    /// `ASQ`.
    pub asq: u64,
    /// `ACQ`.
    pub acq: u64,
}

/// Queues by identifier; 0 are the admin queues.
pub type Queues<T> = [Option<T>; QUEUES_MAX as usize + 1];

/// Registers, queues and features of an NVMe controller; makes jobs and does no I/O.
#[derive(Debug)]
pub struct Controller {
    identity: Identity,
    registers: Registers,
    submission: Queues<SubmissionQueue>,
    completion: Queues<CompletionQueue>,
    features: Features,
    events: Events,
    counters: Counters,
    errors: ErrorLog,
    /// Shadow doorbells, if the host uses them.
    shadow: Option<Shadow>,
    shadow_offered: bool,
    epoch: u64,
    /// Jobs taken and not finished, of any epoch.
    in_flight: u32,
    /// A reset is waiting for them.
    resetting: bool,
    /// The reset is of the whole device, not only a controller reset.
    full_reset: bool,
    /// `CC.SHN` was written, and the medium has to be flushed.
    shutdown_wanted: bool,
    paused: bool,
    /// The Submission Queue that was served last.
    last_served: u16,
    /// Completions of the admin queue that were assigned an entry and perhaps not written yet.
    unposted: Vec<Posting>,
    /// What has changed since it was last taken.
    unkept: Unkept,
    /// The life before has died, and the device does not run yet.
    is_revived: bool,
}

impl Controller {
    /// A controller out of reset.
    #[must_use]
    pub fn new(identity: Identity) -> Self {
        Self {
            identity,
            registers: Registers::default(),
            submission: Queues::default(),
            completion: Queues::default(),
            features: Features::default(),
            events: Events::default(),
            counters: Counters { power_cycles: 1, ..Counters::default() },
            errors: ErrorLog::default(),
            shadow: None,
            shadow_offered: false,
            epoch: 0,
            in_flight: 0,
            resetting: false,
            full_reset: false,
            shutdown_wanted: false,
            paused: false,
            last_served: 0,
            unposted: Vec::new(),
            unkept: Unkept::default(),
            is_revived: false,
        }
    }

    /// A controller that was enabled and has failed, and has no queues: the host has to reset it.
    #[must_use]
    pub fn failed(identity: Identity) -> Self {
        let mut failed = Self { paused: true, ..Self::new(identity) };
        failed.registers.cc.set_en(true);
        failed.fail();
        failed
    }

    /// What it is.
    #[must_use]
    pub const fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Fatal error: the host sees `CSTS.CFS` and has to reset the controller.
    fn fail(&mut self) {
        self.registers.csts.set_cfs(true);
        self.unkept.control = true;
    }

    /// Requests a reset: done at once if nothing is in flight, otherwise when the last job is finished. `full` resets
    /// the whole device, features and admin queue registers included.
    pub fn begin_reset(&mut self, full: bool) {
        self.epoch += 1;
        self.resetting = true;
        self.unkept.control = true;
        self.full_reset |= full;
        let csts = self.registers.csts;
        if full && csts.rdy() && csts.shst() != SHST_COMPLETE {
            self.counters.unsafe_shutdowns = self.counters.unsafe_shutdowns.saturating_add(1);
        }
        self.shutdown_wanted = false;
        self.end_reset_if_idle();
    }

    fn end_reset_if_idle(&mut self) {
        if !self.resetting || self.in_flight > 0 {
            return;
        }
        self.resetting = false;
        self.unkept = Unkept { control: true, is_reset: true, ..Unkept::default() };
        self.unposted.clear();
        self.submission = Queues::default();
        self.completion = Queues::default();
        self.shadow = None;
        self.events.reset();
        self.registers.csts = Csts::new();
        if std::mem::take(&mut self.full_reset) {
            self.registers = Registers::default();
        }
        self.features = Features::default();
        if self.registers.cc.en() {
            // `CC.EN` was set again before the reset was complete.
            self.enable();
        }
    }

    /// Whether no job is in flight and no reset is pending.
    #[must_use]
    pub const fn is_idle(&self) -> bool {
        self.in_flight == 0 && !self.resetting
    }

    /// Stops or resumes making jobs. The stop is complete once [`Controller::is_idle`].
    pub fn set_paused(&mut self, paused: bool) {
        self.paused = paused;
    }

    /// Interrupt vectors of Completion Queues with entries that the host has not consumed: raised again after a
    /// restore, since the source's interrupts may have been lost.
    #[must_use]
    pub fn vectors_to_repeat(&self) -> Vec<u16> {
        let waiting = self.completion.iter().flatten().filter(|queue| !queue.is_empty());
        waiting.filter_map(|queue| queue.vector).collect()
    }

    /// Completes an admin command outside of a job.
    fn hold_admin(&mut self, cid: u16, status: Status, dw0: u32) {
        if let Some(cq) = get_mut(&mut self.completion, 0) {
            cq.held.push_back(Completed { dw0, sqid: 0, cid, status, slot: None });
            self.unkept.control = true;
        }
    }
}

fn get<T>(queues: &Queues<T>, id: u16) -> Option<&T> {
    queues.get(usize::from(id)).and_then(Option::as_ref)
}

fn get_mut<T>(queues: &mut Queues<T>, id: u16) -> Option<&mut T> {
    queues.get_mut(usize::from(id)).and_then(Option::as_mut)
}

fn set<T>(queues: &mut Queues<T>, id: u16, queue: Option<T>) {
    if let Some(slot) = queues.get_mut(usize::from(id)) {
        *slot = queue;
    }
}
