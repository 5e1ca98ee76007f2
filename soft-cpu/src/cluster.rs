// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the CPUs of one machine, and the threads around them, share: kicks, wake-ups, power states, and
//! maintenance that must reach every CPU (TLBI and IC of the inner shareable domain, write-TLB flushes).
//!
//! A CPU is either *executing* guest instructions or outside (parked, in device memory, not in `run`). A request
//! is queued with its ticket and counts as done when the CPU has applied it, or while the CPU is outside: it
//! applies its queue before it executes again. Between what each side stores and what it then loads is a full fence, so
//! either the CPU sees the request or the requester sees that it is outside.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use crate::budget::Budget;
use crate::sync::{AtomicBool, AtomicU64, Condvar, Mutex, MutexGuard, Ordering, fence};

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
    /// CPU_ON was called; the CPU powers up in its run loop.
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

/// One CPU's part. Aligned to keep the CPUs' fields in separate cache lines.
#[repr(align(128))]
pub(crate) struct Shared {
    /// Operations left until the next check.
    pub budget: Budget,
    /// The inbox is not empty.
    pub attention: AtomicBool,
    executing: AtomicBool,
    asked: AtomicU64,
    done: AtomicU64,
    /// The event register of WFE.
    event: AtomicBool,
    inbox: Mutex<Inbox>,
    wakeup: Condvar,
}

pub(crate) struct Inbox {
    pub kicked: bool,
    pub maintenance: Vec<Maintenance>,
    pub power: Power,
    /// The CPU sleeps on `wakeup`.
    asleep: bool,
}

/// Beyond this many queued entries they are replaced by a flush of everything.
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
            inbox: Mutex::new(Inbox {
                kicked: false,
                maintenance: Vec::new(),
                power: Power::Off,
                asleep: false,
            }),
            wakeup: Condvar::new(),
        }
    }

    pub(crate) fn inbox(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the CPU check its inbox soon.
    pub(crate) fn interrupt(&self) {
        self.attention.store(true, Ordering::Release);
        // Before a load of `executing`: see the head of this file.
        fence(Ordering::SeqCst);
        self.budget.cut();
    }

    /// Interrupts the CPU and ends its sleep.
    pub(crate) fn wake(&self) {
        // The lock orders this after a sleeper's last check and before its wait.
        let inbox = self.inbox();
        self.interrupt();
        self.notify(inbox);
    }

    /// SEV: sets the event register, and ends a sleep in WFE.
    pub(crate) fn send_event(&self) {
        let inbox = self.inbox();
        self.set_event(true);
        self.notify(inbox);
    }

    /// Ends a sleep, if there is one: to notify a condition variable without waiters would cost a system call.
    fn notify(&self, inbox: MutexGuard<'_, Inbox>) {
        let asleep = inbox.asleep;
        drop(inbox);
        if asleep {
            self.wakeup.notify_all();
        }
    }

    pub(crate) fn has_event(&self) -> bool {
        self.event.load(Ordering::Acquire)
    }

    pub(crate) fn set_event(&self, event: bool) {
        self.event.store(event, Ordering::Release);
    }

    /// Whether there was an event; clears it.
    pub(crate) fn take_event(&self) -> bool {
        self.has_event() && self.event.swap(false, Ordering::AcqRel)
    }

    /// Queues maintenance for the CPU to apply; the ticket is for `is_done`.
    pub(crate) fn ask(&self, what: Maintenance) -> u64 {
        let mut inbox = self.inbox();
        if inbox.maintenance.len() >= MAINTENANCE_MAX {
            inbox.maintenance.clear();
            inbox.maintenance.extend([Maintenance::TlbAll, Maintenance::CodeAll]);
        }
        inbox.maintenance.push(what);
        let ticket = self.asked.fetch_add(1, Ordering::Relaxed) + 1;
        self.interrupt();
        ticket
    }

    /// Whether what the ticket stands for can no longer be missed by a guest instruction.
    pub(crate) fn is_done(&self, ticket: u64) -> bool {
        !self.executing.load(Ordering::Acquire) || self.done.load(Ordering::Acquire) >= ticket
    }

    /// For the CPU itself: it executes guest instructions from here on, with every queued request applied.
    pub(crate) fn step_inside(&self, apply: impl FnMut(Maintenance)) {
        self.begin_executing();
        if self.attention.load(Ordering::Acquire) {
            self.serve(self.inbox(), apply);
        }
    }

    /// For the CPU itself: it leaves guest execution, perhaps for long; requests count as done meanwhile.
    pub(crate) fn step_outside(&self) {
        self.executing.store(false, Ordering::Release);
    }

    /// The caller must check `attention` afterwards.
    fn begin_executing(&self) {
        self.executing.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// Applies the CPU's queued requests, between slices. True if it was kicked.
    pub(crate) fn look(&self, apply: impl FnMut(Maintenance)) -> bool {
        if !self.attention.load(Ordering::Acquire) {
            return false;
        }
        self.attention.swap(false, Ordering::AcqRel);
        let mut inbox = self.inbox();
        let kicked = std::mem::take(&mut inbox.kicked);
        self.serve(inbox, apply);
        kicked
    }

    fn serve(&self, mut inbox: MutexGuard<'_, Inbox>, apply: impl FnMut(Maintenance)) {
        let (asked, ticket) = (std::mem::take(&mut inbox.maintenance), self.asked.load(Ordering::Relaxed));
        drop(inbox);
        asked.into_iter().for_each(apply);
        self.done.store(ticket, Ordering::Release);
    }

    /// For the CPU itself: sleeps until it is woken, or for `timeout`; not at all if a request is queued already, or
    /// with `for_event` an event is pending. May return early.
    pub(crate) fn park(&self, for_event: bool, timeout: Option<Duration>) {
        let mut inbox = self.inbox();
        if self.attention.load(Ordering::Acquire) || (for_event && self.has_event()) {
            return;
        }
        inbox.asleep = true;
        self.step_outside();
        let mut inbox = match timeout {
            Some(time) => self.wakeup.wait_timeout(inbox, time).unwrap_or_else(PoisonError::into_inner).0,
            None => self.wakeup.wait(inbox).unwrap_or_else(PoisonError::into_inner),
        };
        inbox.asleep = false;
        drop(inbox);
        self.begin_executing();
    }
}

/// A handle to one vCPU, for any thread.
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
        let mut inbox = shared.inbox();
        inbox.kicked = true;
        shared.interrupt();
        shared.notify(inbox);
    }

    /// Tells the CPU that its interrupt line rose: it checks for interrupts soon, and wakes from WFI.
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
