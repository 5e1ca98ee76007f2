// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The devices behind this SMMU, each at the other end of a stage 1 channel.
//!
//! Orders are collected while commands are consumed and sent in one message when a CMD_SYNC asks, or a batch is full.
//! Which stream has to be attached anew is noted first and looked up when the model can be asked
//! ([`Devices::resolve`]); a device drops all it has cached when it is attached, so the order of the two does
//! not matter, only that both are answered before the CMD_SYNC is. A device that is gone answers nothing any
//! more and does no DMA: it holds nothing up. One that lives and is silent does, as it must; but not for long: then the
//! coordinator is asked to end it ([`crate::patience`]). The thread that serves the guest waits for no device but by the
//! clock of its caller, and never for room in a channel: orders that a full one does not take are replaced by attaching
//! the stream anew, which says them all.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ipc::channel::{Channel, Incoming};
use ipc::deadline::Deadline;
use ipc::error::Error;
use ipc::hello::{Hello, Role};
use ipc::protocol::stage1::{Fault, Notice, ORDERS_MAX, Order, Stage1};
use smmu_arch::command::StreamRange;
use smmu_arch::spec::commands::{Command, Opcode};
use smmu_arch::{Attachment, StreamId};

use crate::patience::{DEBT_MAX, Patience, TURN_SPAN};
use crate::stream::{Stage1Sink, SyncState};

/// The device is started beside us; its end of the channel is there from the beginning.
const HELLO_SPAN: Duration = Duration::from_secs(30);
/// Faults of one device that may wait to be recorded: a full Event queue of them.
const FAULTS_MAX: usize = 4096;

/// What both threads of a link know.
#[derive(Debug, Default)]
struct Progress {
    /// The device has greeted.
    up: bool,
    /// It is gone, or has broken the contract.
    dead: bool,
    /// The coordinator has been asked to end it.
    given_up: bool,
    /// Its channel took no more when something was last to be said.
    full: bool,
    /// When the oldest order was given that it has not answered, or that it had no room for.
    waits_since: Option<Instant>,
    sent: u64,
    answered: u64,
    refused: u64,
    /// Not recorded yet.
    faults: VecDeque<Fault>,
    faults_lost: u64,
}

/// A channel to a device.
#[derive(Debug)]
pub struct Link {
    /// For people.
    pub name: String,
    /// The stream.
    pub stream: StreamId,
    channel: Channel<Stage1>,
    progress: Mutex<Progress>,
    changed: Condvar,
}

impl Link {
    /// Over the SMMU's end of the channel.
    pub fn new(name: String, stream: StreamId, channel: OwnedFd, generation: u32) -> Link {
        let channel = Channel::from_fd(channel, Hello::new(Role::Smmu, generation));
        Link { name, stream, channel, progress: Mutex::default(), changed: Condvar::new() }
    }

    fn progress(&self) -> MutexGuard<'_, Progress> {
        // Plain numbers: whole between any two statements.
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Greets the device and listens to it until it is gone: a thread's whole life. `failed` is called once if it lives and does
    /// not do its part.
    pub fn listen(&self, heard: impl Fn(), failed: impl Fn(&str, String)) {
        let greeted = self.channel.hello(Role::Vfio, Deadline::after(HELLO_SPAN));
        self.progress().up = greeted.is_ok();
        heard();
        let end = greeted.and_then(|()| self.read(&heard, &failed));
        let Err(error): Result<(), Error> = end else { return };
        ipc::log::warn!("smmu: {}: stage-1 channel closed by the device process: {error}", self.name);
        self.progress().dead = true;
        self.changed.notify_all();
        heard();
        if !matches!(error, Error::PeerGone { .. }) {
            failed(&self.name, error.to_string());
        }
    }

    fn read(&self, heard: &impl Fn(), failed: &impl Fn(&str, String)) -> Result<(), Error> {
        let mut patience = Patience::new(Instant::now());
        loop {
            let incoming = self.channel.recv(Deadline::after(TURN_SPAN));
            let (full, given_up) = {
                let mut progress = self.progress();
                let over = patience.is_over(Instant::now(), progress.waits_since);
                let given_up = over && !progress.given_up;
                progress.given_up |= over;
                (progress.full, given_up)
            };
            if given_up {
                failed(
                    &self.name,
                    format!("it has kept the guest's CMD_SYNC waiting for {} s", DEBT_MAX.as_secs()),
                );
            }
            let incoming = match incoming {
                Err(Error::Timeout { .. }) => {
                    if full {
                        // There may be room by now for what could not be said.
                        heard();
                    }
                    continue;
                }
                incoming => incoming?,
            };
            let Incoming::Event { body, .. } = incoming;
            let mut progress = self.progress();
            match body {
                Notice::Done { sequence, refused } => {
                    if sequence > progress.sent || sequence <= progress.answered {
                        return Err(Error::Refused("an answer to orders that were not given"));
                    }
                    progress.answered = sequence;
                    let waits = progress.full || progress.answered < progress.sent;
                    progress.waits_since = waits.then(Instant::now);
                    progress.refused = progress.refused.saturating_add(refused.into());
                    self.changed.notify_all();
                }
                Notice::Fault(fault) if progress.faults.len() < FAULTS_MAX => {
                    progress.faults.push_back(fault)
                }
                Notice::Fault(_) => progress.faults_lost = progress.faults_lost.saturating_add(1),
                Notice::FaultsLost { count } => {
                    progress.faults_lost = progress.faults_lost.saturating_add(count);
                }
                Notice::Orders { .. } => return Err(Error::Refused("orders from a device")),
            }
            drop(progress);
            heard();
        }
    }

    /// Sends orders, if the device is there to take them and has room.
    fn send(&self, orders: &[Order]) -> bool {
        // Held until they are sent, which waits for nothing: an answer does not overtake its count.
        let mut progress = self.progress();
        if progress.dead {
            return true;
        }
        if !progress.up {
            return false;
        }
        let sequence = progress.sent.saturating_add(1);
        let notice = Notice::Orders { sequence, orders: orders.to_vec() };
        match self.channel.event::<OwnedFd>(&notice, &[], Deadline::now()) {
            Ok(()) => {
                progress.sent = sequence;
                progress.full = false;
                progress.waits_since.get_or_insert_with(Instant::now);
                true
            }
            // The thread that listens finds out as well, and says so.
            Err(Error::PeerGone { .. } | Error::Violation(_)) => {
                progress.dead = true;
                true
            }
            Err(_) => {
                progress.full = true;
                progress.waits_since.get_or_insert_with(Instant::now);
                false
            }
        }
    }

    fn is_settled(&self) -> bool {
        let progress = self.progress();
        progress.dead || progress.answered == progress.sent
    }

    fn wait_settled(&self, until: Instant) {
        let mut progress = self.progress();
        while !progress.dead && progress.answered < progress.sent {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            let waited = self.changed.wait_timeout(progress, left);
            progress = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// Orders for one device that are not sent, as the thread that steps the Command queue collects them.
#[derive(Debug)]
struct DeviceQueue {
    link: Arc<Link>,
    orders: Vec<Order>,
    stale: bool,
}

impl DeviceQueue {
    fn push(&mut self, order: Order) {
        self.orders.push(order);
        if self.orders.len() >= ORDERS_MAX {
            self.flush();
        }
    }

    fn flush(&mut self) {
        if self.orders.is_empty() {
            return;
        }
        // Not up, it has nothing cached; full, it drops what it has cached when it is attached anew: which says it all.
        self.stale |= !self.link.send(&self.orders);
        self.orders.clear();
    }

    /// Whether the device has carried out everything, or is gone.
    fn is_settled(&self) -> bool {
        !self.stale && self.orders.is_empty() && self.link.is_settled()
    }
}

/// All devices behind the SMMU.
#[derive(Debug, Default)]
pub struct Devices {
    queues: Vec<DeviceQueue>,
}

impl Devices {
    /// Nothing is attached yet.
    pub fn new(links: &[Arc<Link>]) -> Devices {
        let queue =
            |link: &Arc<Link>| DeviceQueue { link: Arc::clone(link), orders: Vec::new(), stale: true };
        Devices { queues: links.iter().map(queue).collect() }
    }

    /// Attaches what may have to be attached anew, as `attachment` says.
    pub fn resolve(&mut self, attachment: impl Fn(StreamId) -> Attachment) {
        for queue in &mut self.queues {
            // Before the device has greeted nothing can be sent; until then it is attached to abort.
            if !queue.stale || !queue.link.progress().up {
                continue;
            }
            queue.stale = false;
            let stream = queue.link.stream;
            queue.push(Order::Attach { stream, to: attachment(stream) });
            queue.flush();
        }
    }

    /// Whether some stream has to be looked up again by [`Devices::resolve`].
    pub fn is_stale(&self) -> bool {
        self.queues.iter().any(|queue| queue.stale)
    }

    /// The oldest fault that was told and not recorded yet, and whose it is.
    pub fn next_fault(&mut self) -> Option<(StreamId, Fault)> {
        self.queues
            .iter()
            .find_map(|queue| Some((queue.link.stream, queue.link.progress().faults.pop_front()?)))
    }

    /// Waits until everything sent is answered, but not for long.
    pub fn wait_settled(&self, span: Duration) {
        let until = Instant::now() + span;
        self.queues.iter().for_each(|queue| queue.link.wait_settled(until));
    }

    /// Counters for people and tests.
    pub fn each(&self, mut show: impl FnMut(String, u64)) {
        for queue in &self.queues {
            let progress = queue.link.progress();
            let Progress {
                up, dead, given_up, full, sent, answered, refused, ref faults, faults_lost, ..
            } = *progress;
            let name = &queue.link.name;
            show(format!("{name}.up"), u64::from(up && !dead));
            show(format!("{name}.given_up"), u64::from(given_up));
            show(format!("{name}.full"), u64::from(full));
            show(format!("{name}.orders_sent"), sent);
            show(format!("{name}.orders_answered"), answered);
            show(format!("{name}.orders_refused"), refused);
            show(format!("{name}.faults_waiting"), u64::try_from(faults.len()).unwrap_or(u64::MAX));
            show(format!("{name}.faults_lost"), faults_lost);
        }
    }
}

impl Stage1Sink for Devices {
    fn reevaluate(&mut self, streams: StreamRange) {
        for queue in &mut self.queues {
            queue.stale |= streams.contains(queue.link.stream);
        }
    }

    fn invalidate(&mut self, command: &Command) {
        let about_stream = matches!(command.opcode(), Opcode::CfgiCd | Opcode::CfgiCdAll | Opcode::AtcInv);
        for queue in &mut self.queues {
            if !about_stream || command.stream_qw0().stream_id() == queue.link.stream.0 {
                queue.push(Order::Invalidate([command.qw0, command.qw1]));
            }
        }
    }

    fn sync(&mut self) -> SyncState {
        self.queues.iter_mut().for_each(DeviceQueue::flush);
        // A device that is gone, or not there yet, has nothing cached and nothing attached.
        let settled = |queue: &DeviceQueue| {
            let Progress { up, dead, .. } = *queue.link.progress();
            dead || !up || queue.is_settled()
        };
        if self.queues.iter().all(settled) { SyncState::Done } else { SyncState::Pending }
    }
}
