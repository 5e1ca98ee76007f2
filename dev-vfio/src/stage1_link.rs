// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The device's end of the stage 1 channel: requests in, answers and faults out.
//!
//! Faults are sent in queue order by whichever thread; those of transactions before a request are sent before its
//! `Done`. A vSMMU that does not read loses faults (counted) and delays nothing else: each batch of faults has one
//! short timeout, since the lock that keeps the order is held for as long.

use std::os::fd::OwnedFd;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use ipc::channel::{Channel, Incoming};
use ipc::deadline::Deadline;
use ipc::error::Error;
use ipc::hello::{Hello, Role};
use ipc::protocol::stage1::{Notice, Order, Stage1};

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

/// The link.
#[derive(Debug)]
pub struct Stage1Link {
    channel: Channel<Stage1>,
    /// Held by who tells.
    losses: Mutex<Losses>,
    /// Faults that found no room, and that the vSMMU was not told of. Changed by who tells.
    lost: AtomicU64,
}

impl Stage1Link {
    /// Over the device's end of the channel.
    pub fn new(channel: OwnedFd, generation: u32) -> Stage1Link {
        let channel = Channel::from_fd(channel, Hello::new(Role::Vfio, generation));
        Stage1Link { channel, losses: Mutex::default(), lost: AtomicU64::new(0) }
    }

    /// Exchanges hello with the vSMMU. To be called first.
    ///
    /// # Errors
    /// If the channel fails.
    pub fn greet(&self) -> Result<(), Error> {
        self.channel.hello(Role::Smmu, Deadline::after(HELLO_SPAN))
    }

    /// Waits for the next requests, carries them out between `before` and `after`, which hold no lock, and answers.
    ///
    /// # Errors
    /// If the vSMMU is gone or breaks the contract.
    pub fn serve<I: HostIommu>(
        &self,
        iommu: &Mutex<I>,
        gate: &Gate,
        before: impl FnOnce(&[Order]),
        after: impl FnOnce(),
    ) -> Result<(), Error> {
        let incoming = match self.channel.recv(Deadline::after(Deadline::SPAN_MAX)) {
            Err(Error::Timeout { .. }) => return Ok(()),
            incoming => incoming?,
        };
        let Incoming::Event { body: Notice::Orders { sequence, orders }, .. } = incoming else {
            return Err(Error::Refused("a message that only devices send"));
        };
        before(&orders);
        let refused = {
            let _first = gate.go_first();
            carry_out(&mut *lock(iommu), &orders)
        };
        after();
        self.tell_faults(iommu, gate);
        let done = Notice::Done { sequence, refused };
        self.channel.event::<OwnedFd>(&done, &[], Deadline::after(ANSWER_SPAN))
    }

    /// How many faults the vSMMU was not sent: those in the fault queue, and those that found no room in the channel.
    pub fn untold_faults<I: HostIommu>(&self, iommu: &Mutex<I>) -> u64 {
        self.lost.load(Relaxed).saturating_add(lock(iommu).fault_count())
    }

    /// Sends the fault queue's entries to the vSMMU. Not to be called from within a transfer.
    pub fn tell_faults<I: HostIommu>(&self, iommu: &Mutex<I>, gate: &Gate) {
        let mut losses = lock(&self.losses);
        // Dequeued with priority over the next transfer, since answers to requests wait for this; sent while DMA goes
        // on.
        let entries: Vec<Entry> = {
            let _first = gate.go_first();
            let mut iommu = lock(iommu);
            std::iter::from_fn(|| iommu.next_fault()).take(FAULTS_PER_TURN).collect()
        };
        let until = Deadline::after(FAULT_SPAN);
        let mut has_room = true;
        let mut tell = |notice: &Notice| {
            has_room = has_room && self.channel.event::<OwnedFd>(notice, &[], until).is_ok();
            has_room
        };
        let mut lost = self.lost.load(Relaxed);
        for entry in entries {
            lost = lost.saturating_add(losses.before(&entry).into());
            if lost > 0 && tell(&Notice::FaultsLost { count: lost }) {
                lost = 0;
            }
            if let Some(fault) = entry.fault
                && !tell(&Notice::Fault(fault))
            {
                lost = lost.saturating_add(1);
            }
        }
        // Also when no fault follows: who is about to be saved may have room now.
        if lost > 0 && tell(&Notice::FaultsLost { count: lost }) {
            lost = 0;
        }
        self.lost.store(lost, Relaxed);
    }
}

/// Carries out requests one by one; consecutive invalidations go down in one batch. Returns how many were refused.
pub fn carry_out(iommu: &mut impl HostIommu, orders: &[Order]) -> u32 {
    let mut refused = 0;
    let mut batch = Vec::new();
    for order in orders {
        match order {
            Order::Invalidate(command) => batch.push(*command),
            Order::Attach { stream, to } => {
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
