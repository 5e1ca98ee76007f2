// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The server of a function link: requests of a PCI function's process about windows, vectors and the pin.
//!
//! One channel and one thread per function, so that no function's process can affect another function or block it.
//! Requests follow from earlier guest accesses, so they are served whether the guest runs or not. An invalid request
//! is refused; a breach of the protocol, or the end of the channel, fails the device.
//!
//! A next life of that process comes by a channel of its own ([`FunctionLink::expect`]), and announces its windows
//! there while the life before is still the guest's. Which of the two goes on is decided by which of them ends: while
//! both live nothing of the next one is seen by the guest, and [`FunctionLink::settle`] says so before the guest runs.
//!
//! A link that has no life any more is over for good, and takes no other. When all of its threads have closed their
//! channels, with what was sent in them and not read, and its windows are unmapped, nothing here holds a physical
//! device any more: the coordinator is told so, and not before.

use super::health::Health;
use super::interrupts::intx::Pins;
use super::interrupts::vectors::Vectors;
use super::windows::Windows;
use ipc::channel::{Channel, Incoming};
use ipc::deadline::Deadline;
use ipc::error::Error;
use ipc::hello::{Hello, Role};
use ipc::instance::InstanceId;
use ipc::protocol::budget::vcpu::{LINK_ANSWER, LINK_TURN};
use ipc::protocol::control::Event;
use ipc::protocol::function_link::{self as protocol, FunctionReply, FunctionRequest};
use process::Events;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// How many lives of the function's process there are at once: one, and its next.
const LIVES_MAX: usize = 2;

/// The end of one life's channel.
pub type FunctionChannel = Arc<Channel<protocol::FunctionLink>>;

/// The objects that one function's process may change.
#[derive(Debug)]
pub struct FunctionLink {
    /// The function's process.
    pub peer: InstanceId,
    /// The function's windows.
    pub windows: Arc<Windows>,
    /// The function's health: it is marked failed when the link ends.
    pub health: Arc<Health>,
    /// The pins of all functions.
    pub pins: Arc<Pins>,
    /// The vectors of all functions.
    pub vectors: Arc<Vectors>,
    /// The DeviceID of the function's messages.
    pub device_id: u32,
    /// INTID of the line that the function's pin is on.
    pub intid: u32,
    /// The lives of its process.
    pub lives: Lives,
    /// Tells the coordinator that nothing of a physical device is held here any more.
    pub events: Events,
}

/// The lives of a function's process.
#[derive(Debug, Default)]
pub struct Lives {
    known: Mutex<Known>,
    /// One is over.
    changed: Condvar,
}

/// What is known of them.
#[derive(Debug, Default)]
struct Known {
    /// The channels of those that are not over: the first one is the guest's.
    open: Vec<FunctionChannel>,
    /// How many channels, of these or others, are not closed yet.
    channel_count: usize,
    /// None is left, and none is taken any more.
    are_over: bool,
}

impl Lives {
    fn lock(&self) -> MutexGuard<'_, Known> {
        // Each change is one call.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits a short time until this life is the guest's.
    fn await_turn(&self, channel: &FunctionChannel) {
        let is_next = |known: &mut Known| known.open.iter().skip(1).any(|next| Arc::ptr_eq(next, channel));
        drop(self.changed.wait_timeout_while(self.lock(), LINK_TURN, is_next));
    }

    fn place_of(&self, channel: &FunctionChannel) -> Option<usize> {
        self.lock().place_of(channel)
    }
}

impl Known {
    fn place_of(&self, channel: &FunctionChannel) -> Option<usize> {
        self.open.iter().position(|open| Arc::ptr_eq(open, channel))
    }
}

impl FunctionLink {
    /// The process's first life, or its next one, whose messages carry `epoch`, at the other end of `channel`.
    ///
    /// # Errors
    /// If it has a next life already, or is over.
    pub fn expect(&self, channel: OwnedFd, epoch: u32) -> Result<FunctionChannel, String> {
        self.settle();
        let mut lives = self.lives.lock();
        if lives.are_over {
            return Err("its device is lost".to_owned());
        }
        if lives.open.len() >= LIVES_MAX {
            return Err("it has a next life already".to_owned());
        }
        if !lives.open.is_empty() {
            self.windows.expect(epoch);
        }
        let channel = Arc::new(Channel::from_fd(channel, Hello::new(Role::Vcpu, epoch)));
        lives.open.push(Arc::clone(&channel));
        lives.channel_count = lives.channel_count.saturating_add(1);
        Ok(channel)
    }

    /// Starts the thread that serves this life.
    ///
    /// # Errors
    /// If the kernel gives no thread.
    pub fn follow(self: &Arc<Self>, channel: FunctionChannel) -> Result<(), String> {
        let (link, known) = (Arc::clone(self), Arc::downgrade(&channel));
        let thread = std::thread::Builder::new().name("function link".to_owned());
        // The thread alone has it, but for the list of lives.
        let started = thread.spawn(move || link.serve(channel));
        started.map(drop).map_err(|error| {
            let channel = known.upgrade();
            channel.into_iter().for_each(|channel| self.end(channel, "nobody serves it".to_owned()));
            format!("no thread for it: {error}")
        })
    }

    /// Serves one life of the function's process until the channel closes or the process breaks the protocol.
    fn serve(&self, channel: FunctionChannel) {
        let end = channel.hello(Role::Vfio, Deadline::after(Deadline::SPAN_MAX)).and_then(|()| {
            loop {
                match channel.recv(Deadline::after(Deadline::SPAN_MAX)) {
                    Ok(Incoming::Request { request_id, body, fds }) => {
                        let reply = self.carry_out(&channel, body, fds);
                        channel.reply::<OwnedFd>(request_id, &reply, &[], Deadline::after(LINK_ANSWER))?;
                    }
                    Ok(Incoming::Event { body, .. }) => match body {},
                    Err(Error::Timeout { .. }) => {}
                    Err(error) => return Err(error),
                }
            }
        });
        let Err(error): Result<(), _> = end else { return };
        self.end(
            channel,
            match error {
                Error::PeerGone { .. } => "its end of the function link is closed".to_owned(),
                error => format!("function link closed: {error}"),
            },
        );
    }

    /// Of two lives one goes on: the one that is not over. To be called before the guest runs on.
    pub fn settle(&self) {
        let mut lives = self.lives.lock();
        while let [first, next, ..] = &lives.open[..] {
            let (first_is_over, next_is_over) = (first.is_left(), next.is_left());
            if first_is_over || next_is_over {
                self.remove(&mut lives, usize::from(!first_is_over));
            } else {
                return;
            }
        }
    }

    /// A life is over. If it was the last one, so is the device.
    fn end(&self, channel: FunctionChannel, why: String) {
        let mut lives = self.lives.lock();
        if let Some(place) = lives.place_of(&channel) {
            self.remove(&mut lives, place);
        }
        lives.are_over |= lives.open.is_empty();
        drop(lives);
        // With it the descriptors that were sent in it, and not read.
        drop(channel);
        let mut lives = self.lives.lock();
        lives.channel_count = lives.channel_count.saturating_sub(1);
        let is_last = lives.are_over && lives.channel_count == 0;
        drop(lives);
        if is_last {
            self.lose(why);
        }
    }

    /// No other process can hide the windows, or give others.
    fn lose(&self, why: String) {
        let closed = self.windows.close();
        self.health.fail(why);
        match closed {
            Ok(()) if self.windows.are_of_host_device() => {
                self.events.tell(Event::Unmapped { name: self.peer.to_string() });
            }
            Ok(()) => {}
            // It stays until the VM ends: of a physical device, that is the coordinator's to see to.
            Err(why) => ipc::log::error!("{}: the host does not unmap its memory: {why}", self.peer),
        }
    }

    fn remove(&self, lives: &mut Known, place: usize) {
        lives.open.remove(place);
        self.lives.changed.notify_all();
        match place {
            // What the host refuses to unmap stays, and is tried again at the device's end.
            0 => drop(self.windows.follow_next()),
            _ => self.windows.forget_next(),
        }
    }

    fn carry_out(
        &self,
        channel: &FunctionChannel,
        request: FunctionRequest,
        fds: Vec<OwnedFd>,
    ) -> FunctionReply {
        let Self { peer: _, windows, health: _, pins, vectors, device_id, intid, lives, events: _ } = self;
        let life = channel.local().generation;
        if matches!(request, FunctionRequest::AddVector { .. }) {
            lives.await_turn(channel);
        }
        let place = lives.place_of(channel);
        let done = match (request, fds.into_iter().next()) {
            _ if place.is_none() => Err("another life of its process has followed".to_owned()),
            (FunctionRequest::AddWindow(window), Some(file)) => windows.add(life, &window, file),
            // The channel has checked the number of fds already; these arms only make the match complete.
            (FunctionRequest::AddWindow(_), None) => Err("the request has no memory descriptor".to_owned()),
            (FunctionRequest::ShowWindows { shown }, _) => windows.show(life, shown),
            // Whoever still asserts its pin on that line says so again.
            (FunctionRequest::LowerIntx, _) => {
                pins.lower(*intid);
                Ok(())
            }
            (FunctionRequest::AddVector { .. } | FunctionRequest::RouteVector { .. }, _)
                if place != Some(0) =>
            {
                Err("its vectors are those of the life before".to_owned())
            }
            (FunctionRequest::AddVector { index }, Some(eventfd)) => {
                vectors.add(*device_id, index, life, eventfd)
            }
            (FunctionRequest::AddVector { .. }, None) => Err("the request has no eventfd".to_owned()),
            (FunctionRequest::RouteVector { index, event }, _) => vectors.route(*device_id, index, event),
        };
        done.map_or_else(FunctionReply::Refused, |()| FunctionReply::Done)
    }
}

#[cfg(test)]
mod tests;
