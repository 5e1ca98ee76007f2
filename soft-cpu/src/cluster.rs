// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the CPUs of one machine, and the threads around them, share: kicks, wake-ups, power states, and
//! maintenance that must reach every CPU (TLBI and IC of the inner shareable domain, write-TLB flushes).
//!
//! A CPU is either *executing* guest instructions or outside (parked, in device memory, not in `run`). A request
//! is queued with its ticket and counts as done when the CPU has applied it, or while the CPU is outside: it
//! applies its queue before it executes again. `executing` and `attention` are both sequentially consistent, so
//! either the CPU sees the request or the requester sees that it is outside.

use crate::budget::Budget;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Maintenance of translations or code that one CPU asks of another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Maintenance {
    TlbAll,
    TlbAsid(u16),
    TlbPage(u64),
    /// The decoded instructions of one 64-byte line of physical memory.
    CodeLine(u64),
    CodeAll,
}

/// Whether a CPU is powered, as PSCI sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Power {
    Off,
    /// CPU_ON was called; the CPU takes it up in its run loop.
    Pending {
        entry: u64,
        context: u64,
    },
    On,
}

/// All CPUs of a machine: made first, then given to each.
pub struct Cluster {
    cpus: Box<[Shared]>,
}

/// One CPU's part. Aligned so that a remote look at one CPU does not slow the loop of another.
#[repr(align(128))]
pub(crate) struct Shared {
    /// Operations left until the next check.
    pub budget: Budget,
    /// The inbox has something.
    pub attention: AtomicBool,
    pub executing: AtomicBool,
    asked: AtomicU64,
    done: AtomicU64,
    /// The event register of WFE.
    pub event: AtomicBool,
    inbox: Mutex<Inbox>,
    doorbell: Condvar,
}

pub(crate) struct Inbox {
    pub kicked: bool,
    pub maintenance: Vec<Maintenance>,
    pub power: Power,
}

/// Beyond this many queued entries a CPU is told to flush everything instead.
const MAINTENANCE_MAX: usize = 64;

impl Cluster {
    /// A machine of `vcpu_count` CPUs, all powered off.
    pub fn new(vcpu_count: usize) -> Arc<Cluster> {
        Arc::new(Cluster { cpus: (0..vcpu_count).map(|_| Shared::new()).collect() })
    }

    /// How many CPUs there are.
    pub fn vcpu_count(&self) -> usize {
        self.cpus.len()
    }

    /// A handle to one CPU, if there is one of this index.
    pub fn handle(self: &Arc<Self>, vcpu: usize) -> Option<VcpuHandle> {
        (vcpu < self.cpus.len()).then(|| VcpuHandle { cluster: Arc::clone(self), vcpu })
    }

    pub(crate) fn cpu(&self, vcpu: usize) -> &Shared {
        &self.cpus[vcpu]
    }

    pub(crate) fn get(&self, vcpu: usize) -> Option<&Shared> {
        self.cpus.get(vcpu)
    }

    /// Every CPU but one.
    pub(crate) fn others(&self, vcpu: usize) -> impl Iterator<Item = (usize, &Shared)> {
        self.cpus.iter().enumerate().filter(move |&(index, _)| index != vcpu)
    }
}

impl Shared {
    fn new() -> Shared {
        Shared {
            budget: Budget::new(),
            attention: AtomicBool::new(false),
            executing: AtomicBool::new(false),
            asked: AtomicU64::new(0),
            done: AtomicU64::new(0),
            event: AtomicBool::new(false),
            inbox: Mutex::new(Inbox { kicked: false, maintenance: Vec::new(), power: Power::Off }),
            doorbell: Condvar::new(),
        }
    }

    pub(crate) fn inbox(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets the CPU look at its inbox soon.
    pub(crate) fn interrupt(&self) {
        self.attention.store(true, Ordering::SeqCst);
        self.budget.cut();
    }

    /// Interrupts the CPU and ends its sleep.
    pub(crate) fn wake(&self) {
        // The lock orders this after a sleeper's last look and before its wait.
        let inbox = self.inbox();
        self.interrupt();
        drop(inbox);
        self.doorbell.notify_all();
    }

    /// Queues maintenance; the ticket is for `is_done`.
    pub(crate) fn ask(&self, what: Maintenance) -> u64 {
        let mut inbox = self.inbox();
        if inbox.maintenance.len() >= MAINTENANCE_MAX {
            inbox.maintenance.clear();
            inbox.maintenance.extend([Maintenance::TlbAll, Maintenance::CodeAll]);
        }
        inbox.maintenance.push(what);
        let ticket = self.asked.fetch_add(1, Ordering::SeqCst) + 1;
        self.interrupt();
        ticket
    }

    /// Whether what the ticket stands for can no longer be missed by a guest instruction.
    pub(crate) fn is_done(&self, ticket: u64) -> bool {
        !self.executing.load(Ordering::SeqCst) || self.done.load(Ordering::SeqCst) >= ticket
    }

    /// Takes the queue, for the CPU itself. `finish` with the ticket after applying it.
    pub(crate) fn take_maintenance(&self, inbox: &mut Inbox) -> (Vec<Maintenance>, u64) {
        (std::mem::take(&mut inbox.maintenance), self.asked.load(Ordering::SeqCst))
    }

    pub(crate) fn finish(&self, ticket: u64) {
        self.done.store(ticket, Ordering::SeqCst);
    }

    /// Sleeps until woken or for `timeout`. May return early.
    pub(crate) fn sleep<'a>(
        &'a self,
        inbox: MutexGuard<'a, Inbox>,
        timeout: Option<Duration>,
    ) -> MutexGuard<'a, Inbox> {
        match timeout {
            Some(time) => self.doorbell.wait_timeout(inbox, time).unwrap_or_else(PoisonError::into_inner).0,
            None => self.doorbell.wait(inbox).unwrap_or_else(PoisonError::into_inner),
        }
    }
}

/// Reaches one vCPU from any thread.
#[derive(Clone)]
pub struct VcpuHandle {
    cluster: Arc<Cluster>,
    vcpu: usize,
}

impl VcpuHandle {
    /// Which CPU this is.
    pub fn index(&self) -> usize {
        self.vcpu
    }

    /// Makes `run` return `Exit::Kicked` at an instruction boundary, now or when it is next called.
    pub fn kick(&self) {
        let shared = self.cluster.cpu(self.vcpu);
        shared.inbox().kicked = true;
        shared.wake();
    }

    /// Tells the CPU that its interrupt line rose: it looks soon, and wakes from WFI.
    pub fn wake(&self) {
        self.cluster.cpu(self.vcpu).wake();
    }

    /// Makes the next store to every page mark the dirty log again. Returns once no store can be missed.
    ///
    /// Call it after the bits were taken and before the pages are read. Not from a thread that runs a vCPU.
    pub fn flush_write_tlb(&self) {
        let shared = self.cluster.cpu(self.vcpu);
        let ticket = shared.ask(Maintenance::TlbAll);
        let mut spins = 0u32;
        while !shared.is_done(ticket) {
            spins += 1;
            if spins < 100 {
                std::hint::spin_loop();
            } else {
                std::thread::sleep(Duration::from_micros(20));
            }
            shared.interrupt();
        }
    }
}
