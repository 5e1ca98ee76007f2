// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Channels over real socket pairs, against well-behaved and hostile peers.

mod blocking;
mod hostile;
#[cfg(feature = "tokio")]
mod tokio_end;

use core::mem::MaybeUninit;
use std::fs::File;
use std::io::IoSlice;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};

use super::{Channel, pair};
use crate::deadline::Deadline;
use crate::frame::{Header, Kind};
use crate::hello::{Hello, Role};
use crate::protocol::control::{Control, Event, Reply, Request};
use crate::protocol::{Message, Protocol};

const GENERATION: u32 = 7;

fn soon() -> Deadline {
    Deadline::after(Duration::from_millis(30))
}

fn late() -> Deadline {
    Deadline::after(Duration::from_secs(20))
}

fn coordinator() -> Hello {
    Hello::new(Role::Coordinator, GENERATION)
}

fn vcpu() -> Hello {
    Hello::new(Role::Vcpu, GENERATION)
}

/// The coordinator's and a vCPU process' end, greeted.
fn ends() -> (Channel, Channel) {
    let (a, b) = pair().unwrap();
    let (a, b) = (Channel::from_fd(a, coordinator()), Channel::from_fd(b, vcpu()));
    std::thread::scope(|scope| {
        scope.spawn(|| a.hello(Role::Vcpu, late()).unwrap());
        b.hello(Role::Coordinator, late()).unwrap();
    });
    (a, b)
}

/// A header of the control protocol, right in every field.
fn header(kind: Kind, request_id: u64, body: &[u8]) -> Header {
    Header {
        protocol: Control::ID,
        version: Control::VERSION,
        request_id,
        generation: GENERATION,
        kind,
        fd_count: 0,
        body_len: body.len().try_into().unwrap(),
    }
}

/// A frame of the control protocol, right in every way.
fn frame<T: Message>(kind: Kind, request_id: u64, body: &T) -> Vec<u8> {
    let body = postcard::to_stdvec(body).unwrap();
    let mut bytes = header(kind, request_id, &body).to_bytes().to_vec();
    bytes.extend(body);
    bytes
}

fn reply_frame(request_id: u64) -> Vec<u8> {
    frame(Kind::Reply, request_id, &Reply::Done)
}

fn event_frame() -> Vec<u8> {
    frame(Kind::Event, 0, &Event::GuestReset)
}

fn request_frame() -> Vec<u8> {
    frame(Kind::Request, 1, &Request::Go)
}

/// Sends bytes as they are.
fn send_raw(socket: impl AsFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(16))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        assert!(ancillary.push(SendAncillaryMessage::ScmRights(fds)));
    }
    rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut ancillary, SendFlags::NOSIGNAL).unwrap();
}

/// A pipe: its reading end sees the end of file when the last copy of the writing end is closed.
fn pipe() -> (File, OwnedFd) {
    let (reader, writer) = rustix::pipe::pipe().unwrap();
    (reader.into(), writer)
}
