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
//!
//! A device's process may have a next life, with a link of its own ([`Devices::expect`]). Its stream is attached there
//! at the replay, while the life before keeps what it has; which of the two is followed from then on is said by which
//! of them ends ([`Devices::settle_lives`]).

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipc::instance::InstanceId;
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
    fn new(link: &Arc<Link>) -> DeviceQueue {
        DeviceQueue { link: Arc::clone(link), requests: Vec::new(), stale: true }
    }

    /// Attaches the stream if that may have changed.
    fn resolve(&mut self, attachment: impl Fn(StreamId) -> Attachment) {
        // A device that has not said hello cannot be sent anything; until then it is attached to abort.
        if !self.stale || !self.link.can_be_told() {
            return;
        }
        self.stale = false;
        let stream = self.link.stream;
        self.push(Stage1Request::Attach { stream, to: attachment(stream) });
        self.flush();
    }

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
    /// Those of next lives.
    next: Vec<DeviceQueue>,
    /// Faults from the saved state: reported to the earlier life of this process and not recorded. Recorded first.
    saved: VecDeque<(StreamId, Fault)>,
    /// The device whose fault was recorded last, for round robin: a device that faults without end does not starve
    /// the others.
    turn: usize,
}

impl Devices {
    /// No stream is attached yet.
    pub fn new(links: &[Arc<Link>]) -> Devices {
        Devices { queues: links.iter().map(DeviceQueue::new).collect(), ..Devices::default() }
    }

    /// Takes the channel to the next life of a device's process. To be listened to.
    ///
    /// # Errors
    /// If there is no such device, or it has a next life already.
    pub fn expect(
        &mut self,
        peer: InstanceId,
        channel: OwnedFd,
        epoch: u32,
    ) -> Result<Arc<Link>, &'static str> {
        self.settle_lives();
        if self.next.iter().any(|next| next.link.peer == peer) {
            return Err("it has a next life already");
        }
        let queue = self.queues.iter().find(|queue| queue.link.peer == peer);
        let link = &queue.ok_or("it is not behind this SMMU")?.link;
        let next = Arc::new(link.next(channel, epoch));
        let is_over = {
            let mut progress = link.progress();
            progress.is_leaving = true;
            progress.dma_ended || link.is_left()
        };
        self.next.push(DeviceQueue::new(&next));
        if is_over {
            // It has died, and was reaped: the guest's orders wait for the next one from now on. Of a physical device
            // the DMA goes on as that life has left it, until the next one answers.
            self.settle_lives();
        }
        Ok(next)
    }

    /// Of two lives of a device's process one is followed: the one that is not over. To be called before requests are
    /// sent to devices again.
    pub fn settle_lives(&mut self) {
        for mut next in std::mem::take(&mut self.next) {
            let queue = self.queues.iter_mut().find(|queue| queue.link.peer == next.link.peer);
            let Some(queue) = queue else { continue };
            let is_over = queue.link.is_left() || queue.link.progress().dma_ended;
            let over = if is_over {
                next.link.progress().is_next = false;
                std::mem::swap(queue, &mut next);
                // Reported by the life before, and recorded before what the next one reports.
                let faults = std::mem::take(&mut next.link.progress().faults);
                self.saved.extend(faults.into_iter().map(|fault| (next.link.stream, fault)));
                next
            } else if next.link.is_left() {
                queue.link.progress().is_leaving = false;
                next
            } else {
                self.next.push(next);
                continue;
            };
            // Its process was reaped, or never began: what there is of the device's DMA is the other life's.
            over.link.end_dma();
        }
    }

    /// The DMA of this device has ended. Whether there is such a device.
    pub fn end_dma(&self, peer: InstanceId) -> bool {
        let all = self.queues.iter().chain(&self.next).filter(|queue| queue.link.peer == peer);
        all.map(|queue| queue.link.end_dma()).count() > 0
    }

    /// Gives those up that have not greeted: their names.
    pub fn give_up_ungreeted(&self) -> Vec<String> {
        let all = self.queues.iter().filter(|queue| queue.link.give_up_ungreeted());
        all.map(|queue| queue.link.name.clone()).collect()
    }

    /// Attaches the streams that may have changed, as `attachment` says.
    pub fn resolve(&mut self, attachment: impl Fn(StreamId) -> Attachment) {
        self.queues.iter_mut().for_each(|queue| queue.resolve(&attachment));
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

    /// Attaches every stream, or those of next lives, as `attachment` says, waits for the answers, and returns the
    /// result of each. A stream that ends in abort against its entry is named, since its DMA would fail after a move
    /// that was reported as a success.
    pub fn replay(
        &mut self,
        until: Instant,
        attachment: impl Fn(StreamId) -> Attachment,
    ) -> Vec<StreamReplay> {
        // Next lives are attached beside those before, which keep what they have.
        let queues = if self.next.is_empty() { &mut self.queues } else { &mut self.next };
        let mut refused = Vec::new();
        for queue in &mut *queues {
            queue.link.wait_up(until);
            queue.stale = true;
            refused.push(queue.link.progress().refused);
            queue.resolve(&attachment);
        }
        let answers = queues.iter().zip(refused);
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
        for queue in self.queues.iter_mut().chain(&mut self.next) {
            queue.stale |= streams.contains(queue.link.stream);
        }
    }

    fn invalidate(&mut self, command: &Command) {
        // A stream that is attached again has no need of it.
        self.next.iter_mut().for_each(|next| next.stale = true);
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
