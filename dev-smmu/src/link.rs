// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The channel to one device behind this SMMU: requests out, answers and faults in, by a thread of its own.
//!
//! What was in force before a request is over when the device has answered it, or when the coordinator has said that
//! the device's DMA has ended ([`Link::end_dma`]). Nothing else proves it: a channel that closes says that its process
//! is gone, or has been taken over, or has cut us off, and a physical device goes on without its process. One that does
//! not do its part is named to the coordinator ([`crate::response_budget`]), which ends it, and says so when it has.
//!
//! Each life of a device's process has a link of its own. A next life is followed when the one before is over; until
//! then it is not named, whatever it does: by its name the coordinator would end the other one.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ipc::channel::{Channel, Incoming};
use ipc::deadline::Deadline;
use ipc::error::Error;
use ipc::hello::{Hello, Role};
use ipc::instance::InstanceId;
use ipc::protocol::budget;
use ipc::protocol::stage1::{Fault, Notice, Stage1, Stage1Request};
use smmu_arch::StreamId;

use crate::response_budget::{DEBT_MAX, ResponseBudget, TURN_SPAN};

/// The device's process is armed beside us, and greets once its device is open, or has its state.
const HELLO_SPAN: Duration = budget::sum(&[budget::vfio::RESTORING, budget::SLACK]);
/// Faults of one device that may wait to be recorded: a full Event queue of them.
pub const FAULTS_MAX: usize = 4096;

/// What all threads of a link know.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// The device has greeted.
    pub up: bool,
    /// The channel has ended, or the device has broken the contract: nothing is sent or received any more.
    pub closed: bool,
    /// The coordinator has said that the device does no DMA any more, and never will.
    pub dma_ended: bool,
    /// The coordinator has been asked to end it.
    pub given_up: bool,
    /// It is a next life of the device's process, and the one before is not over.
    pub is_next: bool,
    /// A next life is there.
    pub is_leaving: bool,
    /// Its channel took no more when something was last to be said.
    pub full: bool,
    /// When the oldest request was made that it has not answered, or that could not be sent.
    waits_since: Option<Instant>,
    pub sent: u64,
    pub answered: u64,
    pub refused: u64,
    /// Not recorded yet.
    pub faults: VecDeque<Fault>,
    pub faults_lost: u64,
}

impl Progress {
    fn is_answered(&self) -> bool {
        self.dma_ended || self.answered == self.sent
    }

    /// Whether an answer may still come.
    fn hears(&self) -> bool {
        self.up && !self.closed && !self.dma_ended
    }
}

/// A channel to a device.
#[derive(Debug)]
pub struct Link {
    /// Its process.
    pub peer: InstanceId,
    /// For people.
    pub name: String,
    /// StreamID of its DMA.
    pub stream: StreamId,
    channel: Channel<Stage1>,
    progress: Mutex<Progress>,
    changed: Condvar,
}

impl Link {
    /// Over the SMMU's end of the channel.
    pub fn new(peer: InstanceId, stream: StreamId, channel: OwnedFd, generation: u32) -> Link {
        let channel = Channel::from_fd(channel, Hello::new(Role::Smmu, generation));
        let name = peer.to_string();
        Link { peer, name, stream, channel, progress: Mutex::default(), changed: Condvar::new() }
    }

    /// To a next life of the device's process: its messages carry this number.
    pub fn next(&self, channel: OwnedFd, epoch: u32) -> Link {
        let link = Self::new(self.peer, self.stream, channel, epoch);
        link.progress().is_next = true;
        link
    }

    /// Whether nobody is at the other side of the channel any more.
    pub(crate) fn is_left(&self) -> bool {
        self.channel.is_left()
    }

    pub(crate) fn progress(&self) -> MutexGuard<'_, Progress> {
        // Plain numbers: whole between any two statements.
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The device does no DMA any more: its process was reaped, and nothing of the host's does it instead.
    pub fn end_dma(&self) {
        let mut progress = self.progress();
        progress.dma_ended = true;
        progress.waits_since = None;
        self.changed.notify_all();
    }

    /// Greets the device and listens to it until its DMA is over: a thread's whole life. `failed` is called once if it
    /// lives and does not do its part.
    pub fn listen(&self, heard: impl Fn(), failed: impl Fn(&str, String)) {
        let greeted = self.channel.hello(Role::Vfio, Deadline::after(HELLO_SPAN));
        self.progress().up = greeted.is_ok();
        // Who waits for the greeting ([`Self::wait_up`]), and the thread that serves the guest.
        self.changed.notify_all();
        heard();
        let mut response_budget = ResponseBudget::new(Instant::now());
        let end = greeted.and_then(|()| self.read(&mut response_budget, &heard, &failed));
        let Err(error): Result<(), Error> = end else { return };
        let is_named = {
            let mut progress = self.progress();
            progress.closed = true;
            let is_named = !matches!(error, Error::PeerGone { .. }) && !progress.is_next;
            progress.given_up |= is_named;
            if !progress.is_answered() {
                progress.waits_since.get_or_insert_with(Instant::now);
            }
            let what = "stage-1 channel closed by the device process";
            if progress.is_leaving || progress.is_next {
                ipc::log::info!("smmu: {}: {what}, of which there is another life: {error}", self.name);
            } else {
                ipc::log::warn!("smmu: {}: {what}: {error}", self.name);
            }
            is_named
        };
        self.changed.notify_all();
        if is_named {
            failed(&self.name, error.to_string());
        }
        heard();
        self.await_end(&mut response_budget, &failed);
        heard();
    }

    /// Nobody is at the other end any more; whether the device still does DMA is the coordinator's to say.
    fn await_end(&self, response_budget: &mut ResponseBudget, failed: &impl Fn(&str, String)) {
        loop {
            let progress = self.progress();
            if progress.dma_ended {
                return;
            }
            let waited = self.changed.wait_timeout(progress, TURN_SPAN);
            drop(waited.unwrap_or_else(PoisonError::into_inner));
            self.look(response_budget, failed);
        }
    }

    /// Gives the device up once it has kept the guest waiting for too long. Whether its channel was full.
    fn look(&self, response_budget: &mut ResponseBudget, failed: &impl Fn(&str, String)) -> bool {
        let (full, given_up) = {
            let mut progress = self.progress();
            let over =
                response_budget.is_exhausted(Instant::now(), progress.waits_since) && !progress.is_next;
            let given_up = over && !progress.given_up;
            progress.given_up |= over;
            (progress.full, given_up)
        };
        if given_up {
            let waited = DEBT_MAX.as_secs();
            failed(&self.name, format!("it has kept the guest's CMD_SYNC waiting for {waited} s"));
        }
        full
    }

    fn read(
        &self,
        response_budget: &mut ResponseBudget,
        heard: &impl Fn(),
        failed: &impl Fn(&str, String),
    ) -> Result<(), Error> {
        loop {
            let incoming = self.channel.recv(Deadline::after(TURN_SPAN));
            let full = self.look(response_budget, failed);
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
                        return Err(Error::Refused("an answer to requests that were not sent"));
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
                Notice::Requests { .. } => return Err(Error::Refused("requests from a device")),
            }
            drop(progress);
            heard();
        }
    }

    /// Sends requests. False: they could not be sent, and the device may have stale translations cached. The stream is
    /// then attached again once the channel takes it, which implies them.
    pub(crate) fn send(&self, requests: &[Stage1Request]) -> bool {
        // Held until they are sent, which waits for nothing: an answer does not overtake its count.
        let mut progress = self.progress();
        if progress.dma_ended {
            return true;
        }
        if !progress.up {
            return false;
        }
        if progress.closed {
            progress.waits_since.get_or_insert_with(Instant::now);
            return false;
        }
        let sequence = progress.sent.saturating_add(1);
        let notice = Notice::Requests { sequence, requests: requests.to_vec() };
        match self.channel.event::<OwnedFd>(&notice, &[], Deadline::now()) {
            Ok(()) => {
                progress.sent = sequence;
                progress.full = false;
                progress.waits_since.get_or_insert_with(Instant::now);
                true
            }
            Err(error) => {
                // Of a channel that has ended the thread that listens finds out as well, and says so.
                let ended = matches!(error, Error::PeerGone { .. } | Error::Violation(_));
                progress.closed |= ended;
                progress.full |= !ended;
                progress.waits_since.get_or_insert_with(Instant::now);
                false
            }
        }
    }

    /// Whether a request can be sent to the device.
    pub(crate) fn can_be_told(&self) -> bool {
        self.progress().hears()
    }

    /// Whether all that was sent is answered.
    pub(crate) fn is_answered(&self) -> bool {
        self.progress().is_answered()
    }

    /// Waits until all that was sent is answered, or no answer can come any more. How many invalidations and
    /// attachments the device has refused since it greeted.
    pub(crate) fn wait_answered(&self, until: Instant) -> u64 {
        let mut progress = self.progress();
        while progress.hears() && !progress.is_answered() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let waited = self.changed.wait_timeout(progress, left);
            progress = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        progress.refused
    }

    /// Gives the device up if it has not greeted and still could. True: it is to be named.
    pub fn give_up_ungreeted(&self) -> bool {
        let mut progress = self.progress();
        let is_overdue = !progress.up && !progress.closed && !progress.dma_ended && !progress.is_next;
        is_overdue && !std::mem::replace(&mut progress.given_up, true)
    }

    /// Waits until the device has greeted, or cannot any more.
    pub(crate) fn wait_up(&self, until: Instant) {
        let mut progress = self.progress();
        while !progress.up && !progress.closed && !progress.dma_ended {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let waited = self.changed.wait_timeout(progress, left);
            progress = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}
