// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Executes the controller's jobs: DMA and the medium, on as many threads as call [`Engine::work`].
//!
//! The controller is held for its own short calls only, never while memory or the medium is waited for: a host whose
//! DMA is answered by messages can always read a register meanwhile. [`Engine::with`] is how everybody else reaches
//! the controller; it wakes a worker if there is something to do afterwards. Tests call [`Engine::step`].
//!
//! While the medium answers at once (from the page cache), waking a worker costs more than the work. So a thread that
//! brings doorbells may offer to do it itself ([`Engine::set_helped`]): it fetches, executes what needs no waiting, and
//! defers the rest to the workers, a command each, so that a disk is asked for all of them at once. What a read needs, the kernel
//! tells; a write goes to the page cache, and hardly ever waits: the first that did is the last for a while (`pace`).

mod batch;
mod host;
mod pace;
mod patience;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering, fence};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use zerocopy::FromBytes;

pub use host::{Host, Interrupts};

use batch::Batch;
use pace::Pace;
use patience::{Next, Patience};

use crate::controller::{AdminOutcome, BATCH_MAX, Controller, Job, Outcome, Ticket, Watched};
use crate::dma::{DmaError, HostMemory};
use crate::identity::Identity;
use crate::io::{Buffer, Executed, Io};
use crate::media::Media;
use crate::prp;
use crate::queue::Posting;
use crate::spec::command::{COMMAND_LEN, Command};
use crate::spec::status::Status;

/// A controller, its medium, its host, and the threads that work for it.
pub struct Engine {
    identity: Identity,
    media: Box<dyn Media>,
    shared: Mutex<Shared>,
    /// There is a job, or the end.
    work: Condvar,
    /// A job is over.
    over: Condvar,
    host: RwLock<Host>,
    /// A thread calls [`Engine::help`] whenever it has nothing better to do.
    helped: AtomicBool,
    /// While nobody helps: goes up with quick commands, and down faster with slow ones.
    quick: AtomicU32,
}

/// A command that has to be waited for; a job of its own.
struct Deferred {
    ticket: Ticket,
    command: Command,
    write_cache: bool,
}

/// The most commands that are deferred before fetching stops: far more than there are workers.
const DEFERRED_MAX: usize = 128;

struct Shared {
    controller: Controller,
    deferred: VecDeque<Deferred>,
    /// Workers that wait for a job.
    sleeping: u32,
    /// One of them was woken and has not come yet: it wakes the next one if there is work for two.
    waking: bool,
    /// Threads that wait for the last job to be over. Waking nobody costs a system call too.
    draining: u32,
    ending: bool,
    pace: Pace,
    patience: Patience,
}

/// The commands of one job, in bytes.
const BATCH_LEN_MAX: usize = BATCH_MAX as usize * COMMAND_LEN;

/// A command that takes longer than this has waited for a disk, or its thread for a processor.
const QUICK: Duration = Duration::from_micros(100);
/// From this score on the next command is expected to be quick.
const QUICK_FROM: u32 = 64;
/// The highest score.
const QUICK_MAX: u32 = 128;
/// What a slow command costs: a thread that lost its processor once changes nothing, a disk does after three.
const SLOW_COST: u32 = 32;

/// How long one job looks at doorbells: short, so that the connection is looked at in between.
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
                deferred: VecDeque::new(),
                sleeping: 0,
                waking: false,
                draining: 0,
                ending: false,
                pace: Pace::default(),
                patience: Patience::default(),
            }),
            work: Condvar::new(),
            over: Condvar::new(),
            host: RwLock::new(Host::absent()),
            helped: AtomicBool::new(false),
            quick: AtomicU32::new(0),
        }
    }

    /// Connects another host. Only while the controller is idle does no job still use the one before.
    pub fn connect(&self, host: Host) {
        *self.host.write().unwrap_or_else(PoisonError::into_inner) = host;
    }

    /// Uses the controller, and wakes a worker if there is something to do afterwards.
    pub fn with<T>(&self, use_it: impl FnOnce(&mut Controller) -> T) -> T {
        let mut shared = self.lock();
        let result = use_it(&mut shared.controller);
        self.unlock(shared);
        result
    }

    /// Waits until no job is out. Returns whether that came before the deadline.
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

    /// Puts everything written so far on the medium.
    ///
    /// # Errors
    /// The host's.
    pub fn flush(&self) -> std::io::Result<()> {
        self.media.flush()
    }

    /// Raises a vector that no completion raises.
    pub fn raise(&self, vector: u16) {
        let host = self.host.read().unwrap_or_else(PoisonError::into_inner).clone();
        host.interrupts.raise(vector);
    }

    /// Executes jobs until [`Engine::end`].
    pub fn work(&self) {
        let mut buffer = Buffer::default();
        let mut shared = self.lock();
        while !shared.ending {
            if let Some(deferred) = shared.deferred.pop_front() {
                self.unlock(shared);
                let ticket = deferred.ticket;
                self.execute_deferred(&deferred, &mut buffer);
                shared = self.lock();
                self.finish(&mut shared, ticket);
                continue;
            }
            let batch = self.batch(&shared);
            let Some(job) = shared.controller.next_job(batch) else {
                shared.sleeping += 1;
                shared = self.work.wait(shared).unwrap_or_else(PoisonError::into_inner);
                shared.sleeping -= 1;
                shared.waking = false;
                continue;
            };
            // What is left is for another thread, so that a slow medium is asked for several things at once.
            self.unlock(shared);
            let ticket = self.execute(job, &mut buffer, false);
            shared = self.lock();
            self.finish(&mut shared, ticket);
        }
    }

    /// Says whether the caller will call [`Engine::help`] whenever it has nothing better to do. Not for a thread whose
    /// host is reached by messages that the thread itself has to answer.
    pub fn set_helped(&self, helped: bool) {
        self.helped.store(helped, Ordering::SeqCst);
        if !helped {
            self.work.notify_all();
        }
    }

    /// Executes a job in place of a worker, if there is one, without waiting for the medium. Returns whether it did.
    pub fn help(&self, buffer: &mut Buffer) -> bool {
        let mut shared = self.lock();
        if !self.is_helped() {
            // Whoever looked just before that ended has woken nobody.
            self.unlock(shared);
            return false;
        }
        // The workers fetch what is left, when they have done what they have.
        if shared.deferred.len() >= DEFERRED_MAX {
            return false;
        }
        let batch = self.batch(&shared);
        let Some(job) = shared.controller.next_job(batch) else { return false };
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

    /// How many commands one thread takes: one that may wait for a disk leaves the others to other threads.
    fn batch(&self, shared: &Shared) -> u32 {
        match self.is_helped() {
            true => shared.pace.batch(),
            false if self.quick.load(Ordering::Relaxed) >= QUICK_FROM => BATCH_MAX,
            false => 1,
        }
    }

    /// Keeps count of quick commands.
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
        let job = {
            let mut shared = self.lock();
            let batch = self.batch(&shared);
            shared.controller.next_job(batch)
        };
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

    /// `helps`: by the thread that helps, which will soon be back for more.
    fn execute(&self, job: Job, buffer: &mut Buffer, helps: bool) -> Ticket {
        let host = self.host.read().unwrap_or_else(PoisonError::into_inner).clone();
        match job {
            Job::Fetch { ticket, iova, count } => {
                self.fetch(&host, ticket, iova, count, buffer);
                ticket
            }
            Job::Post { ticket, posting } => {
                self.announce(&host, self.post(&host, ticket, &[posting]));
                ticket
            }
            Job::Look { ticket, watched } => {
                self.look(&host, ticket, watched, helps);
                ticket
            }
            Job::Shutdown { ticket } => {
                let flushed = self.media.flush().is_ok();
                self.lock().controller.shut_down(ticket, flushed);
                ticket
            }
        }
    }

    /// A job is over.
    fn finish(&self, shared: &mut Shared, ticket: Ticket) {
        shared.controller.finish(ticket);
        if shared.draining > 0 {
            self.over.notify_all();
        }
    }

    fn fetch(&self, host: &Host, ticket: Ticket, iova: u64, count: u32, buffer: &mut Buffer) {
        let mut bytes = [0; BATCH_LEN_MAX];
        let bytes = bytes.get_mut(..usize::try_from(count).unwrap_or(0) * COMMAND_LEN).unwrap_or_default();
        let readable = host.memory.read(iova, bytes).is_ok();
        let since = Instant::now();
        let mut batch = {
            let mut shared = self.lock();
            if !shared.controller.fetched(ticket, count, readable) {
                return;
            }
            let (write_cache, may_write) = (shared.controller.write_cache(), shared.pace.may_write(since));
            // Now another thread may fetch what is behind.
            self.unlock(shared);
            Batch::new(self, host, ticket, write_cache, may_write, since)
        };
        for command in <[Command]>::ref_from_bytes(bytes).unwrap_or_default() {
            match ticket.sqid {
                0 => batch.admin(command),
                _ => batch.io(command, buffer),
            }
        }
        let span = batch.end().saturating_duration_since(since);
        self.lock().pace.took(span, count);
    }

    /// Looks at doorbells in the host's memory until one changes, for a moment; and if nothing came for longer, has the
    /// host write the register.
    fn look(&self, host: &Host, ticket: Ticket, mut watched: Vec<Watched>, helps: bool) {
        let mut found = look_once(&*host.memory, &mut watched);
        let mut asleep_since = None;
        if found == Ok(false) {
            let since = Instant::now();
            // Nobody but a helping thread comes back by itself.
            let next = if helps { self.lock().patience.nothing(since) } else { Next::Sleep };
            while found == Ok(false) && next != Next::Sleep && since.elapsed() < LOOK_FOR {
                match next {
                    Next::Yield => std::thread::yield_now(),
                    // Giving the processor away may cost a busy machine's whole turn.
                    Next::Look | Next::Sleep => std::hint::spin_loop(),
                }
                found = look_once(&*host.memory, &mut watched);
            }
            if found == Ok(false) && next == Next::Sleep {
                found = arm(&*host.memory, &watched).and_then(|()| look_once(&*host.memory, &mut watched));
                asleep_since = Some(since);
            }
        }
        if found == Ok(true) && helps {
            found = hush(&*host.memory, &watched).map(|()| true);
        }
        let mut shared = self.lock();
        match (found, asleep_since) {
            (Ok(false), Some(since)) => {
                shared.patience.sleep(since);
                shared.controller.looked(ticket, &watched, true);
            }
            (Ok(changed), _) => {
                if changed {
                    shared.patience.news();
                }
                shared.controller.looked(ticket, &watched, false);
            }
            (Err(_), _) => shared.controller.look_failed(ticket),
        }
    }

    /// Returns the vector to raise.
    fn admin(&self, host: &Host, ticket: Ticket, command: &Command) -> Option<u16> {
        let outcome = self.with(|controller| controller.admin(command));
        let outcome = match outcome {
            AdminOutcome::Held => return None,
            AdminOutcome::Done(outcome) => outcome,
            AdminOutcome::Data(data) => {
                let moved = to_host(&*host.memory, command, &data);
                Outcome::of(moved.err().unwrap_or(Status::SUCCESS))
            }
        };
        let outcome = Outcome { nsid: command.nsid.get(), ..outcome };
        let posting = self.lock().controller.complete(ticket, command.cid.get(), &outcome);
        self.post(host, ticket, posting.as_slice())
    }

    fn defer(&self, deferred: Deferred) {
        let mut shared = self.lock();
        shared.controller.split(deferred.ticket);
        shared.deferred.push_back(deferred);
        self.unlock(shared);
    }

    fn execute_deferred(&self, deferred: &Deferred, buffer: &mut Buffer) {
        let host = self.host.read().unwrap_or_else(PoisonError::into_inner).clone();
        let vector = self.io(&host, deferred, buffer);
        self.announce(&host, vector);
    }

    /// Executes a command, however long that takes.
    fn io(&self, host: &Host, deferred: &Deferred, buffer: &mut Buffer) -> Option<u16> {
        let Deferred { ticket, command, write_cache } = *deferred;
        let (identity, media, memory) = (&self.identity, &*self.media, &*host.memory);
        let since = Instant::now();
        let executed = Io { identity, media, memory, write_cache, buffer }.execute(&command);
        self.took(since.elapsed());
        self.post(host, ticket, &self.complete(ticket, [(command.cid.get(), executed)]))
    }

    /// Gives completions their places; those without one are held back.
    fn complete(&self, ticket: Ticket, done: impl IntoIterator<Item = (u16, Executed)>) -> Vec<Posting> {
        let controller = &mut self.lock().controller;
        let complete = |(cid, executed): (u16, Executed)| {
            if executed.media_failed {
                controller.count_media_error();
            }
            controller.complete(ticket, cid, &executed.outcome)
        };
        done.into_iter().filter_map(complete).collect()
    }

    /// Writes completions that are one behind the other; returns the vector to raise, which is that of their queue.
    fn post(&self, host: &Host, ticket: Ticket, postings: &[Posting]) -> Option<u16> {
        let Posting { iova, vector, .. } = *postings.first()?;
        if host.memory.publish(iova, &batch::entries(postings)).is_err() {
            self.lock().controller.post_failed(ticket);
            return None;
        }
        vector
    }

    fn announce(&self, host: &Host, vector: Option<u16>) {
        if let Some(vector) = vector {
            host.interrupts.raise(vector);
        }
    }

    /// Lets go of the controller, and wakes a worker if there is something to do: one at a time, and with free hands, since
    /// each that finds nothing, or the door shut, costs as much as one that works.
    fn unlock(&self, mut shared: MutexGuard<'_, Shared>) {
        let wakes = shared.sleeping > 0 && !shared.waking && self.wants_worker(&shared);
        shared.waking |= wakes;
        drop(shared);
        if wakes {
            self.work.notify_one();
        }
    }

    /// Whether there is work for a worker: all of it, or what a helping thread leaves.
    fn wants_worker(&self, shared: &Shared) -> bool {
        let Shared { controller, deferred, .. } = shared;
        !deferred.is_empty() || !self.is_helped() && controller.has_job()
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Puts what doorbells hold into `seen`. Returns whether one has changed.
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

/// Asks for no register write while somebody looks: a host whose doorbell never passes the event index makes none. An index
/// that is left where it is would be passed with each turn of the queue.
fn hush(memory: &dyn HostMemory, watched: &[Watched]) -> Result<(), DmaError> {
    let mut heard = watched.iter().filter(|watched| watched.news);
    heard.try_for_each(|watched| memory.store(watched.event_index, watched.unreached()))
}

/// Asks for a register write with the next change. Whoever changes a doorbell before it sees this is found by another look.
fn arm(memory: &dyn HostMemory, watched: &[Watched]) -> Result<(), DmaError> {
    for Watched { event_index, seen, .. } in watched {
        memory.store(*event_index, *seen)?;
    }
    fence(Ordering::SeqCst);
    Ok(())
}

/// Moves an admin command's data to the host.
fn to_host(memory: &dyn HostMemory, command: &Command, data: &[u8]) -> Result<(), Status> {
    let mut rest = data;
    for segment in &*prp::segments(memory, command.prp1.get(), command.prp2.get(), data.len())? {
        let Some((piece, behind)) = rest.split_at_checked(segment.len) else { break };
        memory.write(segment.iova, piece).map_err(|_| Status::DATA_TRANSFER_ERROR)?;
        rest = behind;
    }
    Ok(())
}
