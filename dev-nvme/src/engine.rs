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
mod pace;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering, fence};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use zerocopy::FromBytes;

pub use host::{Host, Interrupts};

use adaptive_poll::{AdaptivePoll, Next};
use batch::Batch;
use pace::Pace;

use crate::controller::{AdminOutcome, BATCH_MAX, Begun, Controller, Job, Outcome, Ticket, Watched};
use crate::dma::{DmaError, HostMemory};
use crate::identity::Identity;
use crate::io::{Buffer, Executed, Io};
use crate::journal::{Journal, Slot};
use crate::media::Media;
use crate::prp;
use crate::queue::Posting;
use crate::spec::command::{COMMAND_LEN, Command};
use crate::spec::status::Status;

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

/// The raw commands of one job.
const BATCH_LEN_MAX: usize = BATCH_MAX as usize * COMMAND_LEN;

/// A command that takes longer than this has waited for a disk, or its thread was preempted.
const QUICK: Duration = Duration::from_micros(100);
/// From this score on the next command is expected to be quick.
const QUICK_FROM: u32 = 64;
/// The highest score.
const QUICK_MAX: u32 = 128;
/// What a slow command subtracts: one preemption changes nothing, three waits for a disk do.
const SLOW_COST: u32 = 32;

/// How long one job polls doorbells: short, so that the connection is served in between.
const LOOK_FOR: Duration = Duration::from_micros(10);

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

    /// The journal stays as it is: what fails from now on fails because the host is gone.
    pub fn freeze_journal(&self) {
        self.lock().journal.iter_mut().for_each(Journal::freeze);
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

    /// Executes jobs until [`Engine::end`].
    pub fn work(&self) {
        let mut buffer = Buffer::default();
        let mut shared = self.lock();
        while !shared.ending {
            if let Some(task) = shared.deferred.pop_front() {
                self.unlock(shared);
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

    /// `helps`: called by the helping thread, which will soon call again.
    fn execute(&self, job: Job, buffer: &mut Buffer, helps: bool) -> Ticket {
        let host = self.host.read().unwrap_or_else(PoisonError::into_inner).clone();
        match job {
            Job::Fetch { ticket, iova, count: _ } if ticket.sqid == 0 => {
                host.raise_posted(self.fetch_admin(&host, ticket, iova));
                ticket
            }
            Job::Fetch { ticket, iova, count } => {
                self.fetch(&host, ticket, iova, count, buffer);
                ticket
            }
            Job::Post { ticket, posting } => {
                host.raise_posted(self.post(&host, ticket, &[posting]));
                ticket
            }
            Job::Look { ticket, watched } => {
                self.look(&host, ticket, watched, helps);
                ticket
            }
            Job::Shutdown { ticket } => {
                let flushed = self.media.flush().is_ok();
                self.with(|controller| controller.shut_down(ticket, flushed));
                ticket
            }
        }
    }

    /// A job has ended.
    fn finish(&self, shared: &mut Shared, ticket: Ticket) {
        shared.controller.finish(ticket);
        shared.keep();
        if shared.draining > 0 {
            self.over.notify_all();
        }
    }

    fn fetch(&self, host: &Host, ticket: Ticket, iova: u64, count: u32, buffer: &mut Buffer) {
        let mut bytes = [0; BATCH_LEN_MAX];
        let bytes = bytes.get_mut(..usize::try_from(count).unwrap_or(0) * COMMAND_LEN).unwrap_or_default();
        let readable = host.memory.read(iova, bytes).is_ok();
        let since = Instant::now();
        let commands = <[Command]>::ref_from_bytes(bytes).unwrap_or_default();
        let (mut batch, slots) = {
            let mut shared = self.lock();
            if !readable && shared.has_lost(host) {
                return;
            }
            let first = shared.controller.fetched_count(ticket.sqid);
            let is_ours = shared.controller.fetched(ticket, count, readable);
            let slots = if is_ours { shared.add(ticket.sqid, first, commands) } else { Vec::new() };
            if !is_ours {
                return self.unlock(shared);
            }
            let (write_cache, may_write) = (shared.controller.write_cache(), shared.pace.may_write(since));
            // Now another thread may fetch the entries after them.
            self.unlock(shared);
            (Batch::new(self, host, ticket, write_cache, may_write, since), slots)
        };
        for (command, slot) in commands.iter().zip(slots) {
            batch.io(command, slot, buffer);
        }
        let span = batch.end().saturating_duration_since(since);
        self.lock().pace.took(span, count);
    }

    /// Polls shadow doorbells for a moment, or until one changes; after a longer time without change, arms them, so
    /// that the host writes the register.
    fn look(&self, host: &Host, ticket: Ticket, mut watched: Vec<Watched>, helps: bool) {
        let mut found = look_once(&*host.memory, &mut watched);
        let mut asleep_since = None;
        if found == Ok(false) {
            let since = Instant::now();
            // Only a helping thread polls again by itself.
            let next = if helps { self.lock().poll.idle(since) } else { Next::Sleep };
            while found == Ok(false) && next != Next::Sleep && since.elapsed() < LOOK_FOR {
                match next {
                    Next::Yield => std::thread::yield_now(),
                    // On a busy host a yield may cost a whole time slice.
                    Next::Spin | Next::Sleep => std::hint::spin_loop(),
                }
                found = look_once(&*host.memory, &mut watched);
            }
            if found == Ok(false) && next == Next::Sleep {
                found = arm(&*host.memory, &watched).and_then(|()| look_once(&*host.memory, &mut watched));
                asleep_since = Some(since);
            }
        }
        if found == Ok(true) && helps {
            found = suppress_register_writes(&*host.memory, &watched).map(|()| true);
        }
        let mut shared = self.lock();
        match (found, asleep_since) {
            (Ok(false), Some(since)) => {
                shared.poll.sleep(since);
                shared.controller.looked(ticket, &watched, true);
            }
            (Ok(changed), _) => {
                if changed {
                    shared.poll.found();
                }
                shared.controller.looked(ticket, &watched, false);
            }
            (Err(_), _) if shared.has_lost(host) => {}
            (Err(_), _) => shared.controller.look_failed(ticket),
        }
        self.unlock(shared);
    }

    /// Reads a command of the admin queue and executes it in one step: what it changes, that it is fetched and its
    /// completion are kept together. Returns the vector to raise.
    fn fetch_admin(&self, host: &Host, ticket: Ticket, iova: u64) -> Option<u16> {
        let mut bytes = [0; COMMAND_LEN];
        let readable = host.memory.read(iova, &mut bytes).is_ok();
        let command: Command = zerocopy::transmute!(bytes);
        let mut shared = self.lock();
        if !shared.controller.is_current(ticket) || !readable && shared.has_lost(host) {
            return None;
        }
        if !readable {
            shared.controller.fetched(ticket, 1, false);
            self.unlock(shared);
            return None;
        }
        let outcome = match shared.controller.admin(&command) {
            AdminOutcome::Held => {
                shared.controller.take_admin(ticket);
                self.unlock(shared);
                return None;
            }
            AdminOutcome::Done(outcome) => outcome,
            AdminOutcome::Data(data) => {
                self.unlock(shared);
                let moved = to_host(&*host.memory, &command, &data);
                shared = self.lock();
                if moved.is_err() && shared.has_lost(host) {
                    return None;
                }
                Outcome::of(moved.err().unwrap_or(Status::SUCCESS))
            }
        };
        if !shared.controller.take_admin(ticket) {
            return None;
        }
        let outcome = Outcome { nsid: command.nsid.get(), ..outcome };
        let posting = shared.controller.complete(ticket, command.cid.get(), &outcome, None);
        self.unlock(shared);
        self.post(host, ticket, posting.as_slice())
    }

    fn defer(&self, deferred: Deferred) {
        let mut shared = self.lock();
        shared.controller.split(deferred.ticket);
        shared.deferred.push_back(Task::Command(deferred));
        self.unlock(shared);
    }

    fn execute_deferred(&self, task: &Task, buffer: &mut Buffer) -> Ticket {
        let host = self.host.read().unwrap_or_else(PoisonError::into_inner).clone();
        let (ticket, vector) = match task {
            Task::Command(deferred) => (deferred.ticket, self.io(&host, deferred, buffer)),
            Task::Post(ticket, posting) => (*ticket, self.post(&host, *ticket, &[*posting])),
        };
        host.raise_posted(vector);
        ticket
    }

    /// Executes a command; may block.
    fn io(&self, host: &Host, deferred: &Deferred, buffer: &mut Buffer) -> Option<u16> {
        let Deferred { ticket, command, slot, write_cache } = *deferred;
        let (identity, media, memory) = (&self.identity, &*self.media, &*host.memory);
        let since = Instant::now();
        let executed = Io { identity, media, memory, write_cache, buffer }.execute(&command);
        self.took(since.elapsed());
        let done = Done { cid: command.cid.get(), slot, executed };
        self.post(host, ticket, &self.complete(host, ticket, [done]))
    }

    /// Assigns Completion Queue slots; completions without one are held back.
    fn complete(&self, host: &Host, ticket: Ticket, done: impl IntoIterator<Item = Done>) -> Vec<Posting> {
        let mut shared = self.lock();
        let mut postings = Vec::new();
        for Done { cid, slot, executed: Executed { outcome, media_failed } } in done {
            if !outcome.status.is_success() && shared.has_lost(host) {
                // It did not fail: its next life executes it again.
                continue;
            }
            let Shared { controller, journal, .. } = &mut *shared;
            if media_failed {
                controller.count_media_error();
            }
            let posting = controller.complete(ticket, cid, &outcome, slot);
            if let (Some(posting), Some(journal)) = (&posting, journal) {
                journal.assign(posting, controller);
            }
            postings.extend(posting);
        }
        shared.keep();
        postings
    }

    /// Writes consecutive completions; returns the vector to raise, which is that of their queue.
    fn post(&self, host: &Host, ticket: Ticket, postings: &[Posting]) -> Option<u16> {
        let Posting { iova, vector, .. } = *postings.first()?;
        let published = host.memory.publish(iova, &batch::entries(postings));
        let mut shared = self.lock();
        if published.is_err() && !shared.has_lost(host) {
            shared.controller.post_failed(ticket);
        }
        if published.is_ok() {
            for posting in postings {
                shared.controller.posted(posting);
                let slot = posting.slot;
                shared.journal.iter_mut().for_each(|journal| journal.free(slot));
            }
        }
        self.unlock(shared);
        published.ok().and(vector)
    }

    /// The next job, kept.
    fn next_job(&self, shared: &mut Shared) -> Option<Job> {
        let room = shared.journal.as_ref().map_or(BATCH_MAX, Journal::room);
        let batch = self.batch(shared).min(room);
        let job = shared.controller.next_job(batch);
        let Shared { controller, journal, .. } = shared;
        if let (Some(Job::Post { posting, .. }), Some(journal)) = (&job, journal) {
            journal.assign(posting, controller);
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

/// An executed command.
struct Done {
    cid: u16,
    slot: Option<Slot>,
    executed: Executed,
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
        let Some(journal) = self.journal.as_mut().filter(|_| !host.memory.is_connected()) else {
            return false;
        };
        journal.freeze();
        true
    }
}

/// Reads the shadow doorbells into `seen`. Returns whether one has changed.
fn look_once(memory: &dyn HostMemory, watched: &mut [Watched]) -> Result<bool, DmaError> {
    let mut changed = false;
    for Watched { at, seen, news, .. } in watched {
        let value = memory.load(*at)?;
        *news |= value != *seen;
        changed |= *news;
        *seen = value;
    }
    Ok(changed)
}

/// Moves each EventIdx just behind its doorbell, so that the host makes no register write while we poll. An EventIdx
/// left in place would be passed once per round of the queue.
fn suppress_register_writes(memory: &dyn HostMemory, watched: &[Watched]) -> Result<(), DmaError> {
    let mut heard = watched.iter().filter(|watched| watched.news);
    heard.try_for_each(|watched| memory.store(watched.event_index, watched.unreached()))
}

/// Sets each EventIdx to its doorbell, so that the host writes the register at the next change. A change before the
/// host sees this is found by one more poll.
fn arm(memory: &dyn HostMemory, watched: &[Watched]) -> Result<(), DmaError> {
    for Watched { event_index, seen, .. } in watched {
        memory.store(*event_index, *seen)?;
    }
    fence(Ordering::SeqCst);
    Ok(())
}

/// Copies an admin command's data to host memory.
fn to_host(memory: &dyn HostMemory, command: &Command, data: &[u8]) -> Result<(), Status> {
    let mut rest = data;
    for segment in &*prp::segments(memory, command.prp1.get(), command.prp2.get(), data.len())? {
        let Some((piece, behind)) = rest.split_at_checked(segment.len) else { break };
        memory.write(segment.iova, piece).map_err(|_| Status::DATA_TRANSFER_ERROR)?;
        rest = behind;
    }
    Ok(())
}
