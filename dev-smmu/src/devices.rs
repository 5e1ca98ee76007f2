// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The devices behind this SMMU, each at the other end of a stage 1 channel.
//!
//! Requests are collected while commands are consumed, and sent in one message at a CMD_SYNC or when a batch is full.
//! Streams to be attached again are recorded first and looked up when the model is accessible ([`Devices::resolve`]);
//! a device drops all it has cached when it is attached, so the order of the two does not matter, only that both are
//! answered before the CMD_SYNC is. A CMD_SYNC, or the acknowledgement of a register, waits for a device until it has
//! answered or its DMA is known to have ended ([`crate::link`]); also for one that has not said hello: an earlier
//! life of this process may have attached it. The thread that serves the guest waits for devices only within its
//! caller's deadline, and never for room in a channel: requests that do not fit are replaced by attaching the stream
//! again, which implies them all.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipc::protocol::control::{ReplayOutcome, StreamReplay};
use ipc::protocol::stage1::{Fault, REQUESTS_MAX, Stage1Request};
use smmu_arch::command::StreamRange;
use smmu_arch::spec::commands::{Command, Opcode};
use smmu_arch::{Attachment, StreamId};

use crate::link::{Link, Progress};
use crate::stream::{Stage1Sink, SyncState};

/// Unsent requests for one device, collected by the thread that steps the Command queue.
#[derive(Debug)]
struct DeviceQueue {
    link: Arc<Link>,
    requests: Vec<Stage1Request>,
    stale: bool,
}

impl DeviceQueue {
    fn push(&mut self, request: Stage1Request) {
        self.requests.push(request);
        if self.requests.len() >= REQUESTS_MAX {
            self.flush();
        }
    }

    fn flush(&mut self) {
        if self.requests.is_empty() {
            return;
        }
        // Before hello, or with the channel full, the requests are dropped: the stream is attached again later, which
        // implies them all.
        self.stale |= !self.link.send(&self.requests);
        self.requests.clear();
    }

    /// Whether all requests have taken effect.
    fn is_settled(&self) -> bool {
        let told = !self.stale && self.requests.is_empty();
        self.link.progress().dma_ended || told && self.link.is_answered()
    }

    /// Requests not answered, or not sent yet.
    fn unanswered(&self) -> u64 {
        let progress = self.link.progress();
        let unsaid = u64::from(self.stale || !self.requests.is_empty());
        let sent = progress.sent.saturating_sub(progress.answered);
        if progress.dma_ended { 0 } else { sent.saturating_add(unsaid) }
    }
}

/// All devices behind the SMMU.
#[derive(Debug, Default)]
pub struct Devices {
    queues: Vec<DeviceQueue>,
    /// Faults from the saved state: reported to the earlier life of this process and not recorded. Recorded first.
    saved: VecDeque<(StreamId, Fault)>,
    /// The device whose fault was recorded last, for round robin: a device that faults without end does not starve
    /// the others.
    turn: usize,
}

impl Devices {
    /// No stream is attached yet.
    pub fn new(links: &[Arc<Link>]) -> Devices {
        let queue =
            |link: &Arc<Link>| DeviceQueue { link: Arc::clone(link), requests: Vec::new(), stale: true };
        Devices { queues: links.iter().map(queue).collect(), saved: VecDeque::new(), turn: 0 }
    }

    /// Attaches the streams that may have changed, as `attachment` says.
    pub fn resolve(&mut self, attachment: impl Fn(StreamId) -> Attachment) {
        for queue in &mut self.queues {
            // A device that has not said hello cannot be sent anything; until then it is attached to abort.
            if !queue.stale || !queue.link.can_be_told() {
                continue;
            }
            queue.stale = false;
            let stream = queue.link.stream;
            queue.push(Stage1Request::Attach { stream, to: attachment(stream) });
            queue.flush();
        }
    }

    /// The oldest unrecorded fault and its device; devices take turns.
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

    /// Unrecorded faults, oldest first for each device.
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

    /// Adds a saved state's faults in front.
    pub fn restore_faults(&mut self, faults: Vec<(StreamId, Fault)>) {
        self.saved = faults.into();
    }

    /// Requests that the devices have not answered, or that were not sent yet.
    pub fn unanswered(&self) -> u64 {
        self.queues.iter().map(DeviceQueue::unanswered).fold(0, u64::saturating_add)
    }

    /// Sends every device an empty request: it reports all its faults before it answers.
    pub fn ask_all(&mut self) {
        for queue in &mut self.queues {
            queue.flush();
            if !queue.stale && queue.link.can_be_told() {
                // No room: sent again when its answer is found missing.
                queue.stale |= !queue.link.send(&[]);
            }
        }
    }

    /// Waits a short time until everything sent is answered.
    pub fn wait_answered(&self, span: Duration) {
        let until = Instant::now() + span;
        for queue in &self.queues {
            queue.link.wait_answered(until);
        }
    }

    /// Attaches every stream as `attachment` says, waits for the answers, and returns the result of each. A stream
    /// that ends in abort against its entry is named, since its DMA would fail after a move that was reported as a
    /// success.
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
                // Holds for a lost device too: it does no DMA at all.
                ReplayOutcome::Attached
            };
            StreamReplay { stream, attachment, outcome }
        };
        answers.map(outcome).collect()
    }

    /// Counters for `inspect` and tests.
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
            show(format!("{name}.requests_sent"), sent);
            show(format!("{name}.requests_answered"), answered);
            show(format!("{name}.requests_refused"), refused);
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
                queue.push(Stage1Request::Invalidate([command.qw0, command.qw1]));
            }
        }
    }

    fn sync(&mut self) -> SyncState {
        self.queues.iter_mut().for_each(DeviceQueue::flush);
        if self.queues.iter().all(DeviceQueue::is_settled) { SyncState::Done } else { SyncState::Pending }
    }
}
