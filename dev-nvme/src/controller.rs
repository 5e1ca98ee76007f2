// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The controller: registers, doorbells, queues, and the jobs that come of them. Pure: no I/O, no waiting.
//!
//! ```text
//!   register write --> Controller --next_job--> Job --(DMA, media: engine.rs)--> fetched, complete, finish
//! ```
//!
//! Whoever executes jobs takes one with [`Controller::next_job`], does its I/O without holding the controller, and brings
//! results back. A job belongs to an *epoch*: a reset begins a new one, and what belongs to an old one changes nothing
//! any more. A reset, a pause and a deletion are complete only when no job is left that could still do DMA.
//! NVMe 1.4 sections 3 (registers), 4.1 (queues), 7.6 (initialisation, shutdown).

mod admin;
mod events;
mod features;
mod identify;
mod logs;
mod shadow;
mod state;

use crate::identity::Identity;
use crate::queue::{
    Completed, CompletionQueue, ENTRIES_MAX, Posting, QUEUES_MAX, SubmissionQueue, entry_address,
};
use crate::spec::command::COMMAND_LEN;
use crate::spec::registers::{
    Aqa, Cap, Cc, Csts, Doorbell, Half, Register, SHST_COMPLETE, SHST_OCCURRING, VERSION,
};
use crate::spec::status::Status;

pub use admin::AdminOutcome;
pub use events::{AsyncEvent, Events};
pub use features::Features;
pub use logs::{Counters, ErrorLog};
pub use shadow::{Shadow, Watched};

/// The largest transfer, as a power of two of pages: `MDTS`. 1 MiB.
pub const MDTS: u8 = 8;

/// The most commands that one job fetches: enough to spread its own cost.
pub const BATCH_MAX: u32 = 16;

/// What a job belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// The Submission Queue.
    pub sqid: u16,
    epoch: u64,
}

/// Something to be done with DMA or the medium.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Job {
    /// Read `count` commands at `iova`, call [`Controller::fetched`], execute them.
    Fetch {
        /// To be given back.
        ticket: Ticket,
        /// Where the commands are.
        iova: u64,
        /// How many.
        count: u32,
    },
    /// Write a completion that was held back.
    Post {
        /// To be given back.
        ticket: Ticket,
        /// The completion.
        posting: Posting,
    },
    /// Look at doorbells in the host's memory, then call [`Controller::looked`].
    Look {
        /// To be given back.
        ticket: Ticket,
        /// What to look at.
        watched: Vec<Watched>,
    },
    /// Flush the medium, then call [`Controller::shut_down`].
    Shutdown {
        /// To be given back.
        ticket: Ticket,
    },
}

/// Blocks that a command moved, for the counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moved {
    /// Blocks read.
    pub read: u32,
    /// Blocks written.
    pub written: u32,
}

/// How a command went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// What the host is told.
    pub status: Status,
    /// What the command returns.
    pub dw0: u32,
    /// What it moved.
    pub moved: Moved,
    /// The namespace it was for, for the error log.
    pub nsid: u32,
    /// Its first block, for the error log.
    pub lba: u64,
}

impl Outcome {
    /// A command that has no more to say.
    #[must_use]
    pub const fn of(status: Status) -> Self {
        Self { status, dw0: 0, moved: Moved { read: 0, written: 0 }, nsid: 0, lba: 0 }
    }
}

/// The registers a host can write.
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

/// The controller.
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
    /// Doorbells in the host's memory, where it keeps them there.
    shadow: Option<Shadow>,
    shadow_offered: bool,
    epoch: u64,
    /// Jobs that were taken and not finished, of whatever epoch.
    in_flight: u32,
    /// A reset waits for them.
    resetting: bool,
    /// The whole device is reset, not the controller only.
    full_reset: bool,
    /// `CC.SHN` was written and the medium is to be flushed.
    shutdown_wanted: bool,
    paused: bool,
    /// The Submission Queue that was served last.
    last_served: u16,
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
        }
    }

    /// What it is.
    #[must_use]
    pub const fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Reads a register; what does not exist, or is read with another width than 4 or 8, reads as 0.
    #[must_use]
    pub fn read_register(&self, offset: u64, len: usize) -> u64 {
        let dword = |offset| {
            let Some((register, half)) = Register::at(offset) else { return 0 };
            let value = match register {
                Register::Cap => u64::from(capabilities()),
                Register::Vs => VERSION.into(),
                Register::Cc => u32::from(self.registers.cc).into(),
                Register::Csts => u32::from(self.registers.csts).into(),
                Register::Aqa => u32::from(self.registers.aqa).into(),
                Register::Asq => self.registers.asq,
                Register::Acq => self.registers.acq,
            };
            match half {
                Half::Low => value & u64::from(u32::MAX),
                Half::High => value >> 32,
            }
        };
        match len {
            4 => dword(offset),
            8 => dword(offset.wrapping_add(4)) << 32 | dword(offset),
            _ => 0,
        }
    }

    /// Writes a register or a doorbell; what does not exist or cannot be written is passed over.
    pub fn write_register(&mut self, offset: u64, len: usize, value: u64) {
        let (low, high) = split(value);
        match len {
            4 => self.write_dword(offset, low),
            8 => {
                self.write_dword(offset, low);
                self.write_dword(offset.wrapping_add(4), high);
            }
            _ => {}
        }
    }

    fn write_dword(&mut self, offset: u64, value: u32) {
        match Doorbell::at(offset) {
            Some(doorbell) if self.kicked(doorbell) => return,
            Some(Doorbell::SubmissionTail(queue)) => return self.ring_tail(queue, value),
            Some(Doorbell::CompletionHead(queue)) => return self.ring_head(queue, value),
            None => {}
        }
        let replace = |old: u64, half: Half| match half {
            Half::Low => old & !u64::from(u32::MAX) | u64::from(value),
            Half::High => old & u64::from(u32::MAX) | u64::from(value) << 32,
        };
        match Register::at(offset) {
            Some((Register::Cc, _)) => self.write_cc(Cc::from(value)),
            Some((Register::Aqa, _)) => self.registers.aqa = sanitise_aqa(Aqa::from(value)),
            // Bits 11:0 are reserved.
            Some((Register::Asq, half)) => self.registers.asq = replace(self.registers.asq, half) & !0xfff,
            Some((Register::Acq, half)) => self.registers.acq = replace(self.registers.acq, half) & !0xfff,
            Some((Register::Cap | Register::Vs | Register::Csts, _)) | None => {}
        }
    }

    fn write_cc(&mut self, cc: Cc) {
        let old = self.registers.cc;
        self.registers.cc = sanitise_cc(cc);
        match (old.en(), cc.en()) {
            (false, true) if !self.resetting => self.enable(),
            (true, false) => self.begin_reset(false),
            _ => {}
        }
        let (before, after) = (old.shn(), self.registers.cc.shn());
        if before == 0 && after != 0 {
            self.registers.csts.set_shst(SHST_OCCURRING);
            self.shutdown_wanted = true;
        }
    }

    fn enable(&mut self) {
        let Registers { cc, aqa, asq, acq, .. } = self.registers;
        let sizes_fit = aqa.asqs() >= 1 && aqa.acqs() >= 1;
        if cc.css() != 0 || cc.mps() != 0 || cc.ams() != 0 || !sizes_fit {
            self.fail();
            return;
        }
        set(&mut self.submission, 0, Some(SubmissionQueue::new(asq, u32::from(aqa.asqs()) + 1, 0)));
        set(&mut self.completion, 0, Some(CompletionQueue::new(acq, u32::from(aqa.acqs()) + 1, Some(0))));
        self.registers.csts.set_rdy(true);
        self.registers.csts.set_shst(0);
    }

    /// The controller cannot go on: the host sees `CSTS.CFS` and resets it.
    fn fail(&mut self) {
        self.registers.csts.set_cfs(true);
    }

    /// Begins a reset: at once if nothing is in flight, otherwise when the last job is finished. `full` resets
    /// the whole device, features and admin queue registers included.
    pub fn begin_reset(&mut self, full: bool) {
        self.epoch += 1;
        self.resetting = true;
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
            // Enabled again before the reset was over.
            self.enable();
        }
    }

    /// Whether no job is out, and no reset is going on.
    #[must_use]
    pub const fn is_idle(&self) -> bool {
        self.in_flight == 0 && !self.resetting
    }

    /// Stops or goes on making jobs. Stopped for good once [`Controller::is_idle`].
    pub fn set_paused(&mut self, paused: bool) {
        self.paused = paused;
    }

    /// Interrupt vectors of queues whose host has something to look at: raised again after a restore, since nobody
    /// knows whether the other end's got through.
    #[must_use]
    pub fn vectors_to_repeat(&self) -> Vec<u16> {
        let waiting = self.completion.iter().flatten().filter(|queue| !queue.is_empty());
        waiting.filter_map(|queue| queue.vector).collect()
    }

    fn ring_tail(&mut self, queue: u16, value: u32) {
        let Some(sq) = get_mut(&mut self.submission, queue) else {
            return self.raise_event(AsyncEvent::INVALID_DOORBELL_REGISTER);
        };
        if value >= sq.size {
            return self.raise_event(AsyncEvent::INVALID_DOORBELL_VALUE);
        }
        sq.tail = value;
    }

    fn ring_head(&mut self, queue: u16, value: u32) {
        let Some(cq) = get_mut(&mut self.completion, queue) else {
            return self.raise_event(AsyncEvent::INVALID_DOORBELL_REGISTER);
        };
        // Only entries that were written can have been looked at.
        let ahead = |to: u32| (to + cq.size - cq.head) % cq.size;
        if value >= cq.size || ahead(value) > ahead(cq.tail) {
            return self.raise_event(AsyncEvent::INVALID_DOORBELL_VALUE);
        }
        cq.head = value;
    }

    /// Whether [`Controller::next_job`] would give one.
    #[must_use]
    pub fn has_job(&self) -> bool {
        self.can_work()
            && (self.shutdown_wanted
                || self.can_look()
                || self.completion.iter().flatten().any(|cq| !cq.held.is_empty() && !cq.is_full())
                || self.submission.iter().flatten().any(|sq| self.can_fetch(sq)))
    }

    fn can_work(&self) -> bool {
        let csts = self.registers.csts;
        !self.paused && !self.resetting && !csts.cfs() && (csts.rdy() || self.shutdown_wanted)
    }

    fn can_fetch(&self, sq: &SubmissionQueue) -> bool {
        let room = get(&self.completion, sq.cqid).is_some_and(|cq| cq.held.is_empty());
        room && !sq.fetching && sq.deletion.is_none() && sq.waiting() > 0 && self.registers.cc.shn() == 0
    }

    /// Takes something to do: at most `batch` commands, one after the other.
    pub fn next_job(&mut self, batch: u32) -> Option<Job> {
        if !self.can_work() {
            return None;
        }
        let job = self.release_job().or_else(|| self.fetch_job(batch));
        let job = job.or_else(|| self.look_job()).or_else(|| self.shutdown_job())?;
        self.in_flight += 1;
        Some(job)
    }

    fn release_job(&mut self) -> Option<Job> {
        let (submission, epoch) = (&self.submission, self.epoch);
        let head = |sqid| get(submission, sqid).map_or(0, |sq| sq.head);
        let posting = self.completion.iter_mut().flatten().find_map(|cq| cq.release(head))?;
        Some(Job::Post { ticket: Ticket { sqid: NO_QUEUE, epoch }, posting })
    }

    /// Commands of the admin queue first, then of the others in turn.
    fn fetch_job(&mut self, batch: u32) -> Option<Job> {
        let first = self.last_served % QUEUES_MAX;
        let turn = (0..QUEUES_MAX).map(|step| (first + step) % QUEUES_MAX + 1);
        let ready = |sqid: &u16| get(&self.submission, *sqid).is_some_and(|sq| self.can_fetch(sq));
        let sqid = core::iter::once(0).chain(turn).find(ready)?;
        let epoch = self.epoch;
        let sq = get_mut(&mut self.submission, sqid)?;
        let count = sq.contiguous().min(batch.clamp(1, BATCH_MAX));
        sq.fetching = true;
        sq.jobs += 1;
        let iova = entry_address(sq.base, sq.head, COMMAND_LEN);
        if sqid != 0 {
            self.last_served = sqid;
        }
        Some(Job::Fetch { ticket: Ticket { sqid, epoch }, iova, count })
    }

    fn shutdown_job(&mut self) -> Option<Job> {
        // What the host has asked for before is done before.
        if !self.shutdown_wanted || self.in_flight > 0 {
            return None;
        }
        self.shutdown_wanted = false;
        Some(Job::Shutdown { ticket: Ticket { sqid: NO_QUEUE, epoch: self.epoch } })
    }

    /// The commands of a fetch were read, or could not be. Returns whether they are to be executed.
    pub fn fetched(&mut self, ticket: Ticket, count: u32, readable: bool) -> bool {
        if ticket.epoch != self.epoch {
            return false;
        }
        if !readable {
            self.fail();
            return false;
        }
        let Some(sq) = get_mut(&mut self.submission, ticket.sqid) else { return false };
        sq.fetching = false;
        sq.advance(count);
        true
    }

    /// A command is done. Returns what to write, if there is room for it now.
    pub fn complete(&mut self, ticket: Ticket, cid: u16, outcome: &Outcome) -> Option<Posting> {
        if ticket.epoch != self.epoch {
            return None;
        }
        self.counters.moved(outcome.moved, self.identity.block_shift);
        if !outcome.status.is_success() {
            self.errors.add(ticket.sqid, cid, outcome);
        }
        let completed = Completed { dw0: outcome.dw0, sqid: ticket.sqid, cid, status: outcome.status };
        let sq = get(&self.submission, ticket.sqid)?;
        let (cqid, head) = (sq.cqid, sq.head);
        get_mut(&mut self.completion, cqid)?.place(completed, head)
    }

    /// A command of this job becomes a job of its own, to be finished by itself.
    pub fn split(&mut self, ticket: Ticket) {
        self.in_flight += 1;
        if ticket.epoch == self.epoch
            && let Some(sq) = get_mut(&mut self.submission, ticket.sqid)
        {
            sq.jobs += 1;
        }
    }

    /// A completion could not be written.
    pub fn post_failed(&mut self, ticket: Ticket) {
        if ticket.epoch == self.epoch {
            self.fail();
        }
    }

    /// The medium was flushed for a shutdown.
    pub fn shut_down(&mut self, ticket: Ticket, flushed: bool) {
        if ticket.epoch != self.epoch {
            return;
        }
        if flushed {
            self.registers.csts.set_shst(SHST_COMPLETE);
        } else {
            self.fail();
        }
    }

    /// A job is over: nothing is done for it any more.
    pub fn finish(&mut self, ticket: Ticket) {
        self.in_flight = self.in_flight.saturating_sub(1);
        if ticket.epoch == self.epoch {
            let mut deleted = None;
            if let Some(sq) = get_mut(&mut self.submission, ticket.sqid) {
                sq.jobs = sq.jobs.saturating_sub(1);
                deleted = sq.deletion.filter(|_| sq.jobs == 0);
            }
            if let Some(cid) = deleted {
                self.delete_submission_queue(ticket.sqid, cid);
            }
        }
        self.end_reset_if_idle();
    }

    fn delete_submission_queue(&mut self, sqid: u16, cid: u16) {
        set(&mut self.submission, sqid, None);
        self.hold_admin(cid, Status::SUCCESS, 0);
    }

    /// Completes an admin command that no job is executing.
    fn hold_admin(&mut self, cid: u16, status: Status, dw0: u32) {
        if let Some(cq) = get_mut(&mut self.completion, 0) {
            cq.held.push_back(Completed { dw0, sqid: 0, cid, status });
        }
    }
}

/// The ticket of a job that has no Submission Queue.
const NO_QUEUE: u16 = u16::MAX;

fn capabilities() -> Cap {
    let entries = u16::try_from(ENTRIES_MAX - 1).unwrap_or(u16::MAX);
    // Bit 0 of CSS: the NVM command set. 10 s until ready: a reset waits for the image's I/O.
    Cap::new().with_mqes(entries).with_cqr(true).with_to(20).with_css(1)
}

/// Keeps of `CC` what is defined. Values that are not offered stay: enabling then fails.
fn sanitise_cc(cc: Cc) -> Cc {
    Cc::from(u32::from(cc) & 0x00ff_fff1)
}

fn sanitise_aqa(aqa: Aqa) -> Aqa {
    Aqa::from(u32::from(aqa) & 0x0fff_0fff)
}

fn split(value: u64) -> (u32, u32) {
    let dword = |value: u64| u32::try_from(value & u64::from(u32::MAX)).unwrap_or(0);
    (dword(value), dword(value >> 32))
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
