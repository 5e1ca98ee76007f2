// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Executes the controller's jobs: DMA and the medium, on as many threads as call [`Engine::work`].
//!
//! The controller is locked for its own short calls only, never while waiting for memory or the medium: a host that
//! answers DMA by messages can always read a register meanwhile. All other code reaches the controller by
//! [`Engine::with`], which wakes a worker if there is a job afterwards. Tests call [`Engine::step`].
//!
//! While the medium does not block (page cache), waking a worker costs more than the work. So the connection's
//! thread, which receives doorbell writes, may do it itself ([`Engine::set_helped`]): it fetches, executes commands
//! that do not block, and defers the others to workers, one command each, so that the disk has all of them in its
//! queue. Whether a read blocks the kernel reports (`RWF_NOWAIT`); a write goes to the page cache and rarely blocks:
//! after one that did, writes are deferred for a while (`pace`).
//!
//! With a journal ([`crate::journal`]) every change of the controller is in it before the lock is given back.

mod adaptive_poll;
mod batch;
mod host;
mod jobs;
mod pace;
mod shadow;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

pub use host::{Host, Interrupts};

use adaptive_poll::AdaptivePoll;
use pace::Pace;

use crate::controller::{BATCH_MAX, Begun, Controller, Job, Ticket};
use crate::identity::Identity;
use crate::io::Buffer;
use crate::journal::{Journal, Slot};
use crate::media::Media;
use crate::queue::Posting;
use crate::spec::command::Command;

/// A controller, its medium, its host, and its worker threads.
pub struct Engine {
    identity: Identity,
    media: Box<dyn Media>,
    shared: Mutex<Shared>,
    /// Signalled when there is a job, or at the end.
    work: Condvar,
    /// A job has ended.
    over: Condvar,
    host: RwLock<Host>,
    /// A thread calls [`Engine::help`] whenever it is idle.
    helped: AtomicBool,
    /// Used without a helping thread: rises with quick commands, and falls faster with slow ones.
    quick: AtomicU32,
}

/// A command that blocks; a job of its own.
#[derive(Clone, Copy)]
struct Deferred {
    ticket: Ticket,
    command: Command,
    slot: Option<Slot>,
    write_cache: bool,
}

/// What is deferred.
enum Task {
    Command(Deferred),
    /// A completion that the life before has left.
    Post(Ticket, Posting),
}

/// Deferred commands at which fetching stops: far more than there are workers.
const DEFERRED_MAX: usize = 128;

struct Shared {
    controller: Controller,
    journal: Option<Journal>,
    /// What the life before had begun, until the device runs.
    begun: Vec<Begun>,
    deferred: VecDeque<Task>,
    /// Workers that wait for a job.
    sleeping: u32,
    /// One of them was woken and does not run yet: it will wake the next one if there is work for two.
    waking: bool,
    /// Threads that wait for idle. Notifying without a waiter costs a system call too.
    draining: u32,
    ending: bool,
    pace: Pace,
    poll: AdaptivePoll,
}

/// A command that takes longer than this has waited for a disk, or its thread was preempted.
const QUICK: Duration = Duration::from_micros(100);
/// From this score on the next command is expected to be quick.
const QUICK_FROM: u32 = 64;
/// The highest score.
const QUICK_MAX: u32 = 128;
/// What a slow command subtracts: one preemption changes nothing, three waits for a disk do.
const SLOW_COST: u32 = 32;

impl Engine {
    /// A controller out of reset, with no host.
    #[must_use]
    pub fn new(identity: Identity, media: Box<dyn Media>) -> Self {
        let controller = Controller::new(identity.clone());
        Self {
            identity,
            media,
            shared: Mutex::new(Shared {
                controller,
                journal: None,
                begun: Vec::new(),
                deferred: VecDeque::new(),
                sleeping: 0,
                waking: false,
                draining: 0,
                ending: false,
                pace: Pace::default(),
                poll: AdaptivePoll::default(),
            }),
            work: Condvar::new(),
            over: Condvar::new(),
            host: RwLock::new(Host::absent()),
            helped: AtomicBool::new(false),
            quick: AtomicU32::new(0),
        }
    }

    /// Connects another host. Only for an idle controller, so that no job uses the previous one.
    pub fn connect(&self, host: Host) {
        *self.host.write().unwrap_or_else(PoisonError::into_inner) = host;
    }

    /// Runs `f` with the controller locked, and wakes a worker if there is a job afterwards.
    pub fn with<T>(&self, use_it: impl FnOnce(&mut Controller) -> T) -> T {
        let mut shared = self.lock();
        let result = use_it(&mut shared.controller);
        self.unlock(shared);
        result
    }

    /// Keeps what the next life needs in `journal` from now on; `begun` is what the life before has left, whose
    /// controller this one is.
    pub fn keep_in(&self, journal: Journal, begun: Vec<Begun>) {
        let mut shared = self.lock();
        shared.journal = Some(journal);
        shared.begun = begun;
    }

    /// No life before goes on: from now on the journal is written.
    pub fn begin_journal(&self) {
        let mut shared = self.lock();
        let Shared { controller, journal, .. } = &mut *shared;
        journal.iter_mut().for_each(|journal| journal.begin(controller));
    }

    /// The journal stays as it is: the host is gone, and what is under way is the next life's.
    pub fn freeze_journal(&self) {
        let mut shared = self.lock();
        shared.freeze();
        self.unlock(shared);
    }

    /// Configuration space or MSI-X table have changed.
    pub fn keep_function(&self, config: Vec<u8>, msix: Vec<u8>) {
        let mut shared = self.lock();
        if let Some(journal) = &mut shared.journal {
            journal.set_function(config, msix);
            shared.controller.touch();
        }
        self.unlock(shared);
    }

    /// Begins to work, with what the life before had begun.
    pub fn go_on(&self) {
        let mut shared = self.lock();
        shared.controller.set_paused(false);
        let write_cache = shared.controller.write_cache();
        let begun = std::mem::take(&mut shared.begun);
        let is_revived = !begun.is_empty();
        shared.deferred.extend(begun.into_iter().map(|begun| match begun {
            Begun::Command { ticket, slot, command } => {
                Task::Command(Deferred { ticket, command, slot: Some(slot), write_cache })
            }
            Begun::Posting { ticket, posting } => Task::Post(ticket, posting),
        }));
        self.unlock(shared);
        if is_revived {
            self.work.notify_all();
        }
    }

    /// Waits until no job is in flight. Returns whether that was before the deadline.
    pub fn wait_idle(&self, deadline: Instant) -> bool {
        let mut shared = self.lock();
        while !shared.controller.is_idle() {
            let Some(left) = deadline.checked_duration_since(Instant::now()) else { return false };
            shared.draining += 1;
            shared = self.over.wait_timeout(shared, left).unwrap_or_else(PoisonError::into_inner).0;
            shared.draining -= 1;
        }
        true
    }

    /// Flushes everything written so far to the medium.
    ///
    /// # Errors
    /// If the I/O on the image fails.
    pub fn flush(&self) -> std::io::Result<()> {
        self.media.flush()
    }

    /// Raises a vector outside of a completion.
    pub fn raise(&self, vector: u16) {
        let host = self.host.read().unwrap_or_else(PoisonError::into_inner).clone();
        host.interrupts.raise(vector);
    }

    /// Executes jobs until [`Engine::end`]. Calls `begins` once, with the first one and before it, which may block.
    pub fn work(&self, begins: impl FnOnce()) {
        let mut begins = Some(begins);
        let mut begin = || begins.take().into_iter().for_each(|begins| begins());
        let mut buffer = Buffer::default();
        let mut shared = self.lock();
        while !shared.ending {
            if let Some(task) = shared.deferred.pop_front() {
                self.unlock(shared);
                begin();
                let ticket = self.execute_deferred(&task, &mut buffer);
                shared = self.lock();
                self.finish(&mut shared, ticket);
                continue;
            }
            let Some(job) = self.next_job(&mut shared) else {
                shared.sleeping += 1;
                shared = self.work.wait(shared).unwrap_or_else(PoisonError::into_inner);
                shared.sleeping -= 1;
                shared.waking = false;
                continue;
            };
            // Remaining commands go to another thread, so that a slow medium has several requests queued.
            self.unlock(shared);
            begin();
            let ticket = self.execute(job, &mut buffer, false);
            shared = self.lock();
            self.finish(&mut shared, ticket);
        }
    }

    /// Sets whether the caller will call [`Engine::help`] whenever it is idle. Not for a thread that itself receives
    /// the answers to DMA messages.
    pub fn set_helped(&self, helped: bool) {
        self.helped.store(helped, Ordering::SeqCst);
        if !helped {
            self.work.notify_all();
        }
    }

    /// Executes a job instead of a worker, if there is one, without waiting for the medium. Returns whether it did.
    pub fn help(&self, buffer: &mut Buffer) -> bool {
        let mut shared = self.lock();
        if !self.is_helped() {
            // A thread that checked just before has woken no worker, counting on the helper.
            self.unlock(shared);
            return false;
        }
        // Workers fetch the rest, when they have done their deferred commands.
        if shared.deferred.len() >= DEFERRED_MAX {
            return false;
        }
        let Some(job) = self.next_job(&mut shared) else { return false };
        self.unlock(shared);
        let ticket = self.execute(job, buffer, true);
        let mut shared = self.lock();
        self.finish(&mut shared, ticket);
        self.unlock(shared);
        true
    }

    fn is_helped(&self) -> bool {
        self.helped.load(Ordering::SeqCst)
    }

    /// How many commands one thread takes: just one if it may block, so that other threads execute the others.
    fn batch(&self, shared: &Shared) -> u32 {
        match self.is_helped() {
            true => shared.pace.batch(),
            false if self.quick.load(Ordering::Relaxed) >= QUICK_FROM => BATCH_MAX,
            false => 1,
        }
    }

    /// Updates the score of quick commands.
    fn took(&self, duration: Duration) {
        let quick = self.quick.load(Ordering::Relaxed);
        if duration <= QUICK {
            if quick < QUICK_MAX {
                self.quick.store(quick + 1, Ordering::Relaxed);
            }
            return;
        }
        self.quick.store(quick.saturating_sub(SLOW_COST), Ordering::Relaxed);
    }

    /// Executes one job, if there is one.
    pub fn step(&self) -> bool {
        let mut shared = self.lock();
        if let Some(task) = shared.deferred.pop_front() {
            drop(shared);
            let ticket = self.execute_deferred(&task, &mut Buffer::default());
            let mut shared = self.lock();
            self.finish(&mut shared, ticket);
            self.unlock(shared);
            return true;
        }
        let job = self.next_job(&mut shared);
        self.unlock(shared);
        let Some(job) = job else { return false };
        let ticket = self.execute(job, &mut Buffer::default(), false);
        let mut shared = self.lock();
        self.finish(&mut shared, ticket);
        self.unlock(shared);
        true
    }

    /// Ends every call of [`Engine::work`].
    pub fn end(&self) {
        self.lock().ending = true;
        self.work.notify_all();
    }

    /// A job has ended.
    fn finish(&self, shared: &mut Shared, ticket: Ticket) {
        shared.controller.finish(ticket);
        shared.keep();
        if shared.draining > 0 {
            self.over.notify_all();
        }
    }

    /// The next job, kept.
    fn next_job(&self, shared: &mut Shared) -> Option<Job> {
        let room = shared.journal.as_ref().map_or(BATCH_MAX, Journal::room);
        let batch = self.batch(shared).min(room);
        let job = shared.controller.next_job(batch);
        if let (Some(Job::Post { posting, .. }), Some(journal)) = (&job, &shared.journal) {
            journal.assign(posting);
        }
        shared.keep();
        job
    }

    /// Unlocks the controller, and wakes a worker if there is a job: one at a time and after unlocking, since a
    /// worker that finds no job, or blocks on the lock, costs as much as one that works.
    fn unlock(&self, mut shared: MutexGuard<'_, Shared>) {
        shared.keep();
        let wakes = shared.sleeping > 0 && !shared.waking && self.wants_worker(&shared);
        shared.waking |= wakes;
        drop(shared);
        if wakes {
            self.work.notify_one();
        }
    }

    /// Whether there is work for a worker: any job, or with a helping thread only what that defers.
    fn wants_worker(&self, shared: &Shared) -> bool {
        let Shared { controller, deferred, .. } = shared;
        !deferred.is_empty() || !self.is_helped() && controller.has_job()
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    /// Keeps what has changed. Before the lock is given back, and so before anybody sees it.
    fn keep(&mut self) {
        let unkept = self.controller.take_unkept();
        if let Some(journal) = self.journal.as_mut().filter(|_| !unkept.is_none()) {
            journal.keep(&self.controller, unkept);
        }
    }

    /// Commands were fetched, from this number on.
    fn add(&mut self, sqid: u16, first: u64, commands: &[Command]) -> Vec<Option<Slot>> {
        let Some(journal) = &mut self.journal else { return vec![None; commands.len()] };
        let slots = journal.add(sqid, first, commands);
        journal.keep_fetched(sqid, self.controller.fetched_count(sqid));
        slots
    }

    /// Whether an access failed because the host is gone, which another life of this process will find again. The
    /// journal stays as it is then.
    fn has_lost(&mut self, host: &Host) -> bool {
        let has_lost = self.journal.is_some() && !host.memory.is_connected();
        if has_lost {
            self.freeze();
        }
        has_lost
    }

    /// Leaves what is under way to the next life. The reset drops it here: the host's memory may still be mapped, and
    /// a completion that came into it and not into the journal would be the host's twice.
    fn freeze(&mut self) {
        if let Some(journal) = self.journal.as_mut().filter(|journal| !journal.is_frozen()) {
            journal.freeze();
            self.controller.begin_reset(true);
        }
    }
}
