// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The thread that answers the guest: register accesses from the ring, then the commands they made ready.
//!
//! It is told what to do by the control thread (`RingThread::order`) and says when it has done it. Paused,
//! it has emptied the ring and stopped the Command queue, drained or at an exact CONS, and goes on answering
//! what still arrives without starting commands: nothing of the guest's memory changes any more. A vCPU
//! process that breaks the ring's rules ends this thread; the reason is handed to the control thread's next
//! order and to `on_violation`.

use crate::cmdq::Step;
use crate::device::Device;
use crate::devices::Link;
use ipc::deadline::Deadline;
use ipc::error::Violation;
use ipc::protocol::budget;
use ipc::shm::ring::{Interrupt, Responder, ResponderError};
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long an order may take: a full queue of commands (4096) at a generous microsecond each, and devices that are slow
/// to take theirs.
const ORDER_SPAN: Duration = budget::smmu::ORDER;

/// What the thread does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// Answers and consumes commands.
    Running,
    /// Answers only.
    Paused,
    /// Has ended.
    Ended,
}

struct Orders {
    wanted: Mode,
    /// Counts orders, so that a repeated one is followed anew.
    given: u64,
    /// The last order that was followed.
    followed: u64,
    ended: bool,
    violation: Option<Violation>,
}

struct Shared {
    device: Mutex<Device>,
    orders: Mutex<Orders>,
    progress: Condvar,
    interrupt: Interrupt,
}

/// A handle on the thread, and on the device that it shares with the control thread.
pub struct RingThread {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// Why an order was not followed.
#[derive(Debug, thiserror::Error)]
pub enum OrderError {
    /// The ring is closed.
    #[error("the MMIO ring is closed: {0}")]
    Violation(Violation),
    /// The thread is busy with something.
    #[error("the ring thread did not become {wanted:?} in time")]
    Late {
        /// What was ordered.
        wanted: Mode,
    },
}

/// A mutex whose holder never panics while it holds it; if one did, the state is the last whole one.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl RingThread {
    /// Starts the thread, running, and one more for each device behind. `on_violation` is called on it, last, if the ring had to be
    /// closed; `on_failed` on the thread of a device that lives and does not do its part.
    pub fn start(
        device: Device,
        responder: Responder,
        links: Vec<Arc<Link>>,
        on_violation: impl FnOnce(&Violation) + Send + 'static,
        on_failed: impl Fn(&str, String) + Clone + Send + 'static,
    ) -> io::Result<RingThread> {
        let shared = Arc::new(Shared {
            device: Mutex::new(device),
            orders: Mutex::new(Orders {
                wanted: Mode::Running,
                given: 0,
                followed: 0,
                ended: false,
                violation: None,
            }),
            progress: Condvar::new(),
            interrupt: Interrupt::new(),
        });
        for link in links {
            let (theirs, on_failed) = (Arc::clone(&shared), on_failed.clone());
            std::thread::Builder::new().name(link.name.clone()).spawn(move || {
                link.listen(|| theirs.interrupt.raise(), on_failed);
            })?;
        }
        let theirs = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("ring".to_owned()).spawn(move || {
            if let Err(violation) = theirs.run(responder) {
                on_violation(&violation);
            }
        })?;
        Ok(RingThread { shared, thread: Some(thread) })
    }

    /// The device, between two requests.
    pub fn device(&self) -> MutexGuard<'_, Device> {
        lock(&self.shared.device)
    }

    /// Orders a mode and waits until the thread has followed: also if it is in that mode already, so that what
    /// arrived meanwhile is dealt with.
    pub fn order(&self, mode: Mode) -> Result<(), OrderError> {
        let until = Instant::now() + ORDER_SPAN;
        let mut orders = lock(&self.shared.orders);
        orders.wanted = mode;
        orders.given += 1;
        let order = orders.given;
        self.shared.interrupt.raise();
        while orders.followed < order {
            if orders.ended {
                return match &orders.violation {
                    Some(violation) => Err(OrderError::Violation(violation.clone())),
                    None => Ok(()),
                };
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                // A pause that came too late would only surprise whoever has given it up.
                orders.wanted = Mode::Running;
                return Err(OrderError::Late { wanted: mode });
            }
            let waited = self.shared.progress.wait_timeout(orders, left);
            orders = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok(())
    }
}

impl Drop for RingThread {
    fn drop(&mut self) {
        // An ended thread has nothing left to order; a late one is left to the end of the process.
        if self.order(Mode::Ended).is_ok()
            && let Some(thread) = self.thread.take()
        {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn run(&self, mut responder: Responder) -> Result<(), Violation> {
        let end = self.serve(&mut responder);
        let mut orders = lock(&self.orders);
        orders.ended = true;
        orders.violation = end.as_ref().err().cloned();
        self.progress.notify_all();
        end
    }

    fn serve(&self, responder: &mut Responder) -> Result<(), Violation> {
        loop {
            // Taken back before the order is read: one that comes later raises it again.
            self.interrupt.take();
            let (wanted, order) = {
                let orders = lock(&self.orders);
                (orders.wanted, orders.given)
            };
            match wanted {
                Mode::Ended => return Ok(()),
                Mode::Running => {}
                Mode::Paused if self.quiesce(responder, order)? => {}
                // Another order came before the ring was empty.
                Mode::Paused => continue,
            }
            lock(&self.orders).followed = order;
            self.progress.notify_all();
            self.answer(responder, wanted)?;
        }
    }

    /// Answers until there is an order. Commands are consumed between requests, a step at a time.
    fn answer(&self, responder: &mut Responder, mode: Mode) -> Result<(), Violation> {
        let mut more = mode == Mode::Running;
        while !self.interrupt.is_raised() {
            let deadline = if more { Deadline::now() } else { Deadline::after(Deadline::SPAN_MAX) };
            match responder.next(&self.interrupt, deadline) {
                Ok(token) => {
                    let value = lock(&self.device).access(token.access());
                    token.complete(value);
                }
                Err(ResponderError::Stopped(_)) => {}
                Err(ResponderError::Violation(violation)) => return Err(violation),
            }
            // A CMD_SYNC that waits for devices is looked at again when one of them raises the interrupt.
            more = mode == Mode::Running && lock(&self.device).step() == Step::More;
        }
        Ok(())
    }

    /// Empties the ring, then the Command queue. The vCPUs are paused: both end. Says whether it got there: a
    /// vCPU process that goes on asking is waited for only until the control thread gives up.
    fn quiesce(&self, responder: &mut Responder, order: u64) -> Result<bool, Violation> {
        loop {
            match responder.try_next() {
                Ok(Some(token)) => {
                    let value = lock(&self.device).access(token.access());
                    token.complete(value);
                }
                Ok(None) | Err(ResponderError::Stopped(_)) => break,
                Err(ResponderError::Violation(violation)) => return Err(violation),
            }
            let orders = lock(&self.orders);
            if orders.given != order || orders.wanted != Mode::Paused {
                return Ok(false);
            }
        }
        while lock(&self.device).step() == Step::More {}
        Ok(true)
    }
}
