// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The function link, served: what the process of a PCI function asks of the guest's address space and interrupts.
//!
//! One channel and one thread per function, so that no function's process can ask for another's, or hold it up. It asks only
//! on behalf of what the guest did before, so it is served whether the guest runs or not. What it says is refused or
//! done here; what breaks the contract, or the end of the channel, is the end of the device.

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

/// How long an answer may wait for room in the channel; a process that leaves answers unread is waited for no longer.
const ANSWER_SPAN: Duration = Duration::from_secs(10);

/// What one function's process may change.
#[derive(Debug)]
pub struct FunctionLink {
    /// The function's memory.
    pub windows: Arc<Windows>,
    /// The function's health: it fails with the link.
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
    /// Serves the function's process until its end of the channel closes, or it breaks the contract.
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
        // No other process will hide its memory. What the host refuses here stays as it is until the VM ends.
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
            // The channel holds the number of fds against the message; this is for completeness.
            (FunctionRequest::AddWindow(_), None) => Err("it came without its memory".to_owned()),
            (FunctionRequest::ShowWindows { shown }, _) => windows.show(shown),
            (FunctionRequest::LowerIntx, _) => {
                pins.lower(*intid);
                Ok(())
            }
            (FunctionRequest::AddVector { index }, Some(eventfd)) => vectors.add(*device_id, index, eventfd),
            (FunctionRequest::AddVector { .. }, None) => Err("it came without its eventfd".to_owned()),
            (FunctionRequest::RouteVector { index, event }, _) => vectors.route(*device_id, index, event),
        };
        done.map_or_else(FunctionReply::Refused, |()| FunctionReply::Done)
    }
}

#[cfg(test)]
mod tests;
