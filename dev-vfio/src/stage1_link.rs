// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The device's end of the stage 1 channel: requests in, answers and faults out.
//!
//! Faults are sent in queue order by whichever thread; those of transactions before a request are sent before its
//! `Done`. A vSMMU that is gone loses none but those that were in its channel: they wait for its next life, bounded by
//! the fault queue. One that does not read loses faults (counted) and delays nothing else: each batch of faults has one
//! short timeout, since the lock that keeps the order is held for as long.
//!
//! A vSMMU that is restarted comes by a channel of its own ([`Stage1Link::exchange`]), with a number of its own in
//! every message, and is the one that is followed once it has greeted. The channel of the life before is kept until
//! that is over: a next life that does not come to be leaves it as it was. Until then what comes from there is held up,
//! and is late if the next one stays.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ipc::channel::{Channel, Incoming};
use ipc::deadline::Deadline;
use ipc::error::Error;
use ipc::hello::{Hello, Role};
use ipc::protocol::stage1::{Fault, Notice, Stage1, Stage1Request};

use crate::gate::Gate;
use crate::iommu::fault_queue::{Entry, Losses};
use crate::iommu::{AttachError, HostIommu};

/// The vSMMU is started beside us; its end of the channel is there from the beginning.
const HELLO_SPAN: Duration = Duration::from_secs(30);
/// How long a batch of faults may wait for room in the channel.
const FAULT_SPAN: Duration = Duration::from_millis(10);
/// Faults per batch: a device that faults without end must not delay the answer to a request. The rest stays queued
/// for the next batch.
const FAULTS_PER_TURN: usize = 4096;
/// How long an answer may wait for room: a vSMMU that leaves answers unread is not waiting for one.
const ANSWER_SPAN: Duration = Duration::from_secs(10);

/// How long requests of a life are held back while a later one is followed that is gone: until the thread that listens
/// to it has noticed.
const NOTICE_SPAN: Duration = Duration::from_secs(10);
/// How many lives of the vSMMU are listened to at once: one, its next, and ends that were not noticed yet.
const LISTENERS_MAX: usize = 4;

/// The end of one life's channel.
pub type Stage1Channel = Arc<Channel<Stage1>>;

/// The link.
#[derive(Debug)]
pub struct Stage1Link {
    channels: Mutex<Channels>,
    /// A channel was opened or closed.
    changed: Condvar,
    /// Held by who tells.
    outbox: Mutex<Outbox>,
    /// Faults that found no room, and that the vSMMU was not told of. Changed by who tells.
    lost: AtomicU64,
    /// Faults in the outbox. Changed by who tells.
    held: AtomicU64,
}

/// Faults on their way from the fault queue.
#[derive(Debug, Default)]
struct Outbox {
    losses: Losses,
    /// Those that were taken from the queue when the vSMMU's end was gone: for its next life. At most one batch.
    held: VecDeque<Untold>,
}

/// What is to be told of one entry of the fault queue.
#[derive(Debug)]
struct Untold {
    /// How many faults were lost before it.
    lost: u64,
    fault: Option<Fault>,
}

/// What became of a message about faults.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Told {
    Yes,
    /// There was no room in time.
    NoRoom,
    /// Nobody is at the other end.
    Gone,
}

/// The channels of the lives of the vSMMU.
#[derive(Debug, Default)]
struct Channels {
    /// Those that are open, oldest first: the last one is followed.
    open: Vec<Stage1Channel>,
    /// Threads that listen, or are about to.
    listeners: usize,
}

impl Stage1Link {
    /// Over the device's end of the channel.
    pub fn new(channel: OwnedFd, generation: u32) -> Stage1Link {
        let open = vec![end(channel, generation)];
        let channels = Mutex::new(Channels { open, listeners: 1 });
        Stage1Link {
            channels,
            changed: Condvar::new(),
            outbox: Mutex::default(),
            lost: AtomicU64::new(0),
            held: AtomicU64::new(0),
        }
    }

    /// The channel that is followed now; none if there is no vSMMU any more.
    pub fn current(&self) -> Option<Stage1Channel> {
        lock(&self.channels).open.last().cloned()
    }

    /// The channel of the vSMMU's next life, whose messages carry `epoch`. To be greeted by a thread that listens to
    /// it; until then the one before is followed.
    ///
    /// # Errors
    /// If too many lives are listened to already.
    pub fn exchange(&self, channel: OwnedFd, epoch: u32) -> Result<Stage1Channel, String> {
        let mut channels = lock(&self.channels);
        if channels.listeners >= LISTENERS_MAX {
            return Err(format!("{LISTENERS_MAX} lives of the vSMMU are listened to already"));
        }
        channels.listeners += 1;
        Ok(end(channel, epoch))
    }

    /// Exchanges hello with the vSMMU's life at the other end of `channel`, which is followed from then on. To be
    /// called first.
    ///
    /// # Errors
    /// The channel's.
    pub fn greet(&self, channel: &Stage1Channel) -> Result<(), Error> {
        channel.hello(Role::Smmu, Deadline::after(HELLO_SPAN))?;
        let mut channels = lock(&self.channels);
        if !channels.open.iter().any(|open| Arc::ptr_eq(open, channel)) {
            channels.open.push(Arc::clone(channel));
        }
        Ok(())
    }

    /// Nobody listens to `channel` any more. Whether there is another one.
    pub fn close(&self, channel: &Stage1Channel) -> bool {
        let mut channels = lock(&self.channels);
        channels.open.retain(|open| !Arc::ptr_eq(open, channel));
        channels.listeners = channels.listeners.saturating_sub(1);
        self.changed.notify_all();
        !channels.open.is_empty()
    }

    /// Whether `channel` is the one that is followed: if a later one is, that is gone, and is not noticed to be, waits
    /// for that.
    fn await_turn(&self, channel: &Stage1Channel) -> Result<(), Error> {
        let is_ours = |followed: &&Stage1Channel| Arc::ptr_eq(followed, channel);
        let is_ending = |all: &mut Channels| {
            all.open.last().is_some_and(|followed| !is_ours(&followed) && followed.is_left())
        };
        let waited = self.changed.wait_timeout_while(lock(&self.channels), NOTICE_SPAN, is_ending);
        let channels: MutexGuard<'_, Channels> = waited.unwrap_or_else(PoisonError::into_inner).0;
        if channels.open.last().filter(is_ours).is_some() {
            return Ok(());
        }
        Err(Error::Refused("requests of a life of the vSMMU that another one has followed"))
    }

    /// Waits for the next requests on `channel`, carries them out between `before` and `after`, which hold no lock, and
    /// answers.
    ///
    /// # Errors
    /// If the vSMMU is gone or breaks the contract.
    pub fn serve<I: HostIommu>(
        &self,
        channel: &Stage1Channel,
        iommu: &Mutex<I>,
        gate: &Gate,
        before: impl FnOnce(&[Stage1Request]),
        after: impl FnOnce(),
    ) -> Result<(), Error> {
        let incoming = match channel.recv(Deadline::after(Deadline::SPAN_MAX)) {
            Err(Error::Timeout { .. }) => return Ok(()),
            incoming => incoming?,
        };
        let Incoming::Event { body: Notice::Requests { sequence, requests }, .. } = incoming else {
            return Err(Error::Refused("a message that only devices send"));
        };
        self.await_turn(channel)?;
        before(&requests);
        let refused = {
            let _first = gate.go_first();
            carry_out(&mut *lock(iommu), &requests)
        };
        after();
        self.tell_faults(iommu, gate);
        let done = Notice::Done { sequence, refused };
        channel.event::<OwnedFd>(&done, &[], Deadline::after(ANSWER_SPAN))
    }

    /// How many faults the vSMMU was not sent: those in the fault queue, those held for its next life, and those that
    /// found no room in the channel.
    pub fn untold_faults<I: HostIommu>(&self, iommu: &Mutex<I>) -> u64 {
        let ours = self.lost.load(Relaxed).saturating_add(self.held.load(Relaxed));
        ours.saturating_add(lock(iommu).fault_count())
    }

    /// Sends the fault queue's entries to the vSMMU; while there is none they wait for its next life. Not to be called
    /// from within a transfer.
    pub fn tell_faults<I: HostIommu>(&self, iommu: &Mutex<I>, gate: &Gate) {
        let mut outbox = lock(&self.outbox);
        let Some(channel) = self.current() else { return };
        // Dequeued with priority over the next transfer, since answers to requests wait for this; sent while DMA goes
        // on.
        let entries: Vec<Entry> = {
            let _first = gate.go_first();
            let mut iommu = lock(iommu);
            let room = FAULTS_PER_TURN.saturating_sub(outbox.held.len());
            std::iter::from_fn(|| iommu.next_fault()).take(room).collect()
        };
        for entry in entries {
            let lost = outbox.losses.before(&entry).into();
            outbox.held.push_back(Untold { lost, fault: entry.fault });
        }
        let until = Deadline::after(FAULT_SPAN);
        let mut last = Told::Yes;
        let mut tell = |notice: &Notice| {
            if last == Told::Yes {
                last = match channel.event::<OwnedFd>(notice, &[], until) {
                    Ok(()) => Told::Yes,
                    Err(Error::PeerGone { .. }) => Told::Gone,
                    Err(_) => Told::NoRoom,
                };
            }
            last
        };
        let mut lost = self.lost.load(Relaxed);
        while let Some(mut untold) = outbox.held.pop_front() {
            lost = lost.saturating_add(std::mem::take(&mut untold.lost));
            if lost > 0 && tell(&Notice::FaultsLost { count: lost }) == Told::Yes {
                lost = 0;
            }
            let told = untold.fault.map_or(Told::Yes, |fault| tell(&Notice::Fault(fault)));
            match told {
                Told::Yes => {}
                Told::NoRoom => lost = lost.saturating_add(1),
                Told::Gone => {
                    outbox.held.push_front(untold);
                    break;
                }
            }
        }
        // Also when no fault follows: who is about to be saved may have room now.
        if lost > 0 && tell(&Notice::FaultsLost { count: lost }) == Told::Yes {
            lost = 0;
        }
        self.lost.store(lost, Relaxed);
        self.held.store(u64::try_from(outbox.held.len()).unwrap_or(u64::MAX), Relaxed);
    }
}

/// Our end of a channel to a life of the vSMMU.
fn end(channel: OwnedFd, epoch: u32) -> Stage1Channel {
    Arc::new(Channel::from_fd(channel, Hello::new(Role::Vfio, epoch)))
}

/// Carries out requests one by one; consecutive invalidations go down in one batch. Returns how many were refused.
pub fn carry_out(iommu: &mut impl HostIommu, requests: &[Stage1Request]) -> u32 {
    let mut refused = 0;
    let mut batch = Vec::new();
    for request in requests {
        match request {
            Stage1Request::Invalidate(command) => batch.push(*command),
            Stage1Request::Attach { stream, to } => {
                refused += flush(iommu, &mut batch);
                if let Err(error) = iommu.attach(*stream, *to) {
                    refused += 1;
                    ipc::log::warn!("vfio: attaching {to:?} failed: {error}");
                    // A stream that cannot be attached must not keep its old attachment.
                    if !matches!(error, AttachError::Stream(_)) {
                        let _ = iommu.attach(*stream, ipc::protocol::stage1::Attachment::Abort);
                    }
                }
            }
        }
    }
    refused + flush(iommu, &mut batch)
}

/// Applies a batch, and skips the commands that are refused.
fn flush(iommu: &mut impl HostIommu, batch: &mut Vec<[u64; 2]>) -> u32 {
    let mut refused = 0;
    let mut rest = batch.as_slice();
    while !rest.is_empty() {
        let outcome = iommu.invalidate(rest);
        let consumed = outcome.done.saturating_add(usize::from(outcome.refused));
        refused += u32::from(outcome.refused);
        rest = rest.get(consumed.max(1)..).unwrap_or_default();
    }
    batch.clear();
    refused
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // A request that panicked half-way is not repeated: the state is that of the last completed call.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
