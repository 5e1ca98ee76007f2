// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The devices behind this SMMU, each at the other end of a stage 1 channel.
//!
//! Orders are collected while commands are consumed and sent in one message when a CMD_SYNC asks, or a batch is full.
//! Which stream has to be attached anew is noted first and looked up when the model can be asked
//! ([`Devices::resolve`]); a device drops all it has cached when it is attached, so the order of the two does
//! not matter, only that both are answered before the CMD_SYNC is. A device holds a CMD_SYNC, or the acknowledgement of a
//! register, up until it has answered or its DMA is known to have ended ([`crate::link`]); so does one before its greeting: an
//! earlier life of this process may have attached it. The thread that serves the guest waits for no device but by the
//! clock of its caller, and never for room in a channel: orders that a full one does not take are replaced by attaching
//! the stream anew, which says them all.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipc::protocol::control::{ReplayOutcome, StreamReplay};
use ipc::protocol::stage1::{Fault, ORDERS_MAX, Order};
use smmu_arch::command::StreamRange;
use smmu_arch::spec::commands::{Command, Opcode};
use smmu_arch::{Attachment, StreamId};

use crate::link::{Link, Progress};
use crate::stream::{Stage1Sink, SyncState};

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
        // Not up, it is attached anew when it is; full, it drops what it has cached when it is attached anew: which says it all.
        self.stale |= !self.link.send(&self.orders);
        self.orders.clear();
    }

    /// Whether nothing older than what was ordered is in use any more.
    fn is_settled(&self) -> bool {
        let told = !self.stale && self.orders.is_empty();
        self.link.progress().dma_ended || told && self.link.is_answered()
    }

    /// Orders that are not answered, or not even said.
    fn unanswered(&self) -> u64 {
        let progress = self.link.progress();
        let unsaid = u64::from(self.stale || !self.orders.is_empty());
        let sent = progress.sent.saturating_sub(progress.answered);
        if progress.dma_ended { 0 } else { sent.saturating_add(unsaid) }
    }
}

/// All devices behind the SMMU.
#[derive(Debug, Default)]
pub struct Devices {
    queues: Vec<DeviceQueue>,
    /// Faults that an earlier life of this process was told of, and had not recorded when it was saved. Recorded first.
    saved: VecDeque<(StreamId, Fault)>,
    /// Whose fault was recorded last: a device that faults without end does not keep the others' out.
    turn: usize,
}

impl Devices {
    /// Nothing is attached yet.
    pub fn new(links: &[Arc<Link>]) -> Devices {
        let queue =
            |link: &Arc<Link>| DeviceQueue { link: Arc::clone(link), orders: Vec::new(), stale: true };
        Devices { queues: links.iter().map(queue).collect(), saved: VecDeque::new(), turn: 0 }
    }

    /// Attaches what may have to be attached anew, as `attachment` says.
    pub fn resolve(&mut self, attachment: impl Fn(StreamId) -> Attachment) {
        for queue in &mut self.queues {
            // To a device that has not greeted nothing can be sent yet; until then it is attached to abort.
            if !queue.stale || !queue.link.can_be_told() {
                continue;
            }
            queue.stale = false;
            let stream = queue.link.stream;
            queue.push(Order::Attach { stream, to: attachment(stream) });
            queue.flush();
        }
    }

    /// The oldest fault that was told and not recorded yet, and whose it is; devices take turns.
    pub fn next_fault(&mut self) -> Option<(StreamId, Fault)> {
        if let Some(fault) = self.saved.pop_front() {
            return Some(fault);
        }
        let count = self.queues.len();
        for index in (self.turn..).take(count) {
            let Some(queue) = index.checked_rem(count).and_then(|index| self.queues.get(index)) else {
                break;
            };
            if let Some(fault) = queue.link.progress().faults.pop_front() {
                self.turn = index.wrapping_add(1).checked_rem(count).unwrap_or(0);
                return Some((queue.link.stream, fault));
            }
        }
        None
    }

    /// Faults that were told and not recorded yet, oldest first for each device.
    pub fn faults(&self) -> Vec<(StreamId, Fault)> {
        let told = self.queues.iter().flat_map(|queue| {
            let faults: Vec<Fault> = queue.link.progress().faults.iter().copied().collect();
            faults.into_iter().map(|fault| (queue.link.stream, fault))
        });
        self.saved.iter().copied().chain(told).collect()
    }

    /// How many there are.
    pub fn fault_count(&self) -> usize {
        let told = self.queues.iter().map(|queue| queue.link.progress().faults.len());
        told.fold(self.saved.len(), usize::saturating_add)
    }

    /// Puts faults in front that an earlier life had not recorded.
    pub fn restore_faults(&mut self, faults: Vec<(StreamId, Fault)>) {
        self.saved = faults.into();
    }

    /// Orders that the devices have not answered, or were not even told.
    pub fn unanswered(&self) -> u64 {
        self.queues.iter().map(DeviceQueue::unanswered).fold(0, u64::saturating_add)
    }

    /// Asks every device how far it is, by orders that are none: it tells all its faults before it answers.
    pub fn ask_all(&mut self) {
        for queue in &mut self.queues {
            queue.flush();
            if !queue.stale && queue.link.can_be_told() {
                // No room: it is asked again by whoever finds that it has not answered.
                queue.stale |= !queue.link.send(&[]);
            }
        }
    }

    /// Waits until everything sent is answered, but not for long.
    pub fn wait_answered(&self, span: Duration) {
        let until = Instant::now() + span;
        for queue in &self.queues {
            queue.link.wait_answered(until);
        }
    }

    /// Attaches every stream anew, as `attachment` says, and waits for the answers; what came of each. One that ends in abort though
    /// its entry says otherwise would lose the guest's DMA after a move that was called a success: it is named.
    pub fn replay(
        &mut self,
        until: Instant,
        attachment: impl Fn(StreamId) -> Attachment,
    ) -> Vec<StreamReplay> {
        let mut refused = Vec::new();
        for queue in &mut self.queues {
            queue.link.wait_up(until);
            queue.stale = true;
            refused.push(queue.link.progress().refused);
        }
        self.resolve(&attachment);
        let answers = self.queues.iter().zip(refused);
        let outcome = |(queue, refused): (&DeviceQueue, u64)| {
            let (stream, link) = (queue.link.stream, &queue.link);
            let attachment = attachment(stream);
            let now_refused = link.wait_answered(until);
            let outcome = if !queue.is_settled() {
                ReplayOutcome::Aborted("its device's process has not answered".to_owned())
            } else if now_refused != refused && attachment != Attachment::Abort {
                ReplayOutcome::Aborted("its device cannot be attached so".to_owned())
            } else {
                // Also of a device that is lost: it does no DMA at all.
                ReplayOutcome::Attached
            };
            StreamReplay { stream, attachment, outcome }
        };
        answers.map(outcome).collect()
    }

    /// Counters for people and tests.
    pub fn each(&self, mut show: impl FnMut(String, u64)) {
        for queue in &self.queues {
            let progress = queue.link.progress();
            let Progress {
                up,
                closed,
                dma_ended,
                given_up,
                full,
                sent,
                answered,
                refused,
                ref faults,
                faults_lost,
                ..
            } = *progress;
            let name = &queue.link.name;
            show(format!("{name}.up"), u64::from(up && !closed));
            show(format!("{name}.dma_ended"), u64::from(dma_ended));
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
        if self.queues.iter().all(DeviceQueue::is_settled) { SyncState::Done } else { SyncState::Pending }
    }
}
