// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The server of a function link: requests of a PCI function's process about windows, vectors and the pin.
//!
//! One channel and one thread per function, so that no function's process can affect another function or block it.
//! Requests follow from earlier guest accesses, so they are served whether the guest runs or not. An invalid request
//! is refused; a breach of the protocol, or the end of the channel, fails the device.

use super::health::Health;
use super::interrupts::intx::Pins;
use super::interrupts::vectors::Vectors;
use super::windows::Windows;
use ipc::channel::{Channel, Incoming};
use ipc::deadline::Deadline;
use ipc::error::Error;
use ipc::hello::{Hello, Role};
use ipc::protocol::function_link::{self as protocol, FunctionReply, FunctionRequest};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

/// How long an answer may wait for room in the channel: longer means that the process does not read answers.
const ANSWER_SPAN: Duration = Duration::from_secs(10);

/// The objects that one function's process may change.
#[derive(Debug)]
pub struct FunctionLink {
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
}

impl FunctionLink {
    /// Serves the function's process until the channel closes or the process breaks the protocol.
    pub fn serve(&self, channel: OwnedFd, generation: u32) {
        let channel = Channel::<protocol::FunctionLink>::from_fd(channel, Hello::new(Role::Vcpu, generation));
        let end = channel.hello(Role::Vfio, Deadline::after(Deadline::SPAN_MAX)).and_then(|()| {
            loop {
                match channel.recv(Deadline::after(Deadline::SPAN_MAX)) {
                    Ok(Incoming::Request { request_id, body, fds }) => {
                        let reply = self.carry_out(body, fds);
                        channel.reply::<OwnedFd>(request_id, &reply, &[], Deadline::after(ANSWER_SPAN))?;
                    }
                    Ok(Incoming::Event { body, .. }) => match body {},
                    Err(Error::Timeout { .. }) => {}
                    Err(error) => return Err(error),
                }
            }
        });
        let Err(error): Result<(), _> = end else { return };
        // No other process can hide its windows. One that the host refuses to unmap stays until the VM ends.
        let _ = self.windows.close();
        self.health.fail(match error {
            Error::PeerGone { .. } => "its end of the function link is closed".to_owned(),
            error => format!("function link closed: {error}"),
        });
    }

    fn carry_out(&self, request: FunctionRequest, fds: Vec<OwnedFd>) -> FunctionReply {
        let Self { windows, health: _, pins, vectors, device_id, intid } = self;
        let done = match (request, fds.into_iter().next()) {
            (FunctionRequest::AddWindow(window), Some(file)) => windows.add(&window, file),
            // The channel has checked the number of fds already; these arms only make the match complete.
            (FunctionRequest::AddWindow(_), None) => Err("the request has no memory descriptor".to_owned()),
            (FunctionRequest::ShowWindows { shown }, _) => windows.show(shown),
            (FunctionRequest::LowerIntx, _) => {
                pins.lower(*intid);
                Ok(())
            }
            (FunctionRequest::AddVector { index }, Some(eventfd)) => vectors.add(*device_id, index, eventfd),
            (FunctionRequest::AddVector { .. }, None) => Err("the request has no eventfd".to_owned()),
            (FunctionRequest::RouteVector { index, event }, _) => vectors.route(*device_id, index, event),
        };
        done.map_or_else(FunctionReply::Refused, |()| FunctionReply::Done)
    }
}

#[cfg(test)]
mod tests;
