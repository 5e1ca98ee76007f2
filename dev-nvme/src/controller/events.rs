// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Asynchronous events, NVMe 1.4 section 5.2: each completes an Asynchronous Event Request, and masks its type until
//! the log page is read.

use super::{Controller, admin::AdminOutcome};
use crate::spec::log::page;
use crate::spec::status::Status;

/// The most Asynchronous Event Requests that may wait: `AERL` + 1.
pub const REQUESTS_MAX: usize = 4;

/// Events kept while no request is outstanding: one of each kind.
const EVENTS_MAX: usize = 16;

/// An event: type, information and log page, as dword 0 of a completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AsyncEvent(pub u32);

impl AsyncEvent {
    /// A doorbell of a queue that does not exist was written.
    pub const INVALID_DOORBELL_REGISTER: Self = Self::new(0, 0, page::ERROR);
    /// A doorbell was written with an invalid index.
    pub const INVALID_DOORBELL_VALUE: Self = Self::new(0, 1, page::ERROR);
    /// A temperature threshold was crossed.
    pub const TEMPERATURE: Self = Self::new(1, 1, page::SMART);

    const fn new(kind: u32, information: u32, log: u8) -> Self {
        Self(kind | information << 8 | (log as u32) << 16)
    }

    const fn kind(self) -> u32 {
        self.0 & 7
    }
}

/// Pending events and outstanding requests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Events {
    /// Command identifiers of the outstanding requests.
    pub requests: Vec<u16>,
    /// Not reported yet.
    pub pending: Vec<AsyncEvent>,
    /// Masked types, a bit each: reported, and the log page not read since.
    pub masked: u8,
}

impl Events {
    /// As after a controller reset.
    pub fn reset(&mut self) {
        *self = Self::default();
    }

    /// The host has read the log page: unmasks its type.
    pub fn log_was_read(&mut self, log: u8) {
        for kind in 0..8 {
            let of_this_log = match kind {
                0 => log == page::ERROR,
                1 => log == page::SMART,
                _ => false,
            };
            if of_this_log {
                self.masked &= !(1 << kind);
            }
        }
    }

    /// An event and the request that it completes.
    fn next(&mut self) -> Option<(u16, AsyncEvent)> {
        let masked = self.masked;
        let at = self.pending.iter().position(|event| masked & 1 << event.kind() == 0)?;
        let cid = self.requests.pop()?;
        let event = self.pending.remove(at);
        self.masked |= 1 << event.kind();
        Some((cid, event))
    }
}

impl Controller {
    /// Records an event, if the host has enabled it.
    pub(super) fn raise_event(&mut self, event: AsyncEvent) {
        if self.events.pending.len() < EVENTS_MAX && !self.events.pending.contains(&event) {
            self.events.pending.push(event);
        }
        self.unkept.control = true;
        self.tell_events();
    }

    pub(super) fn tell_events(&mut self) {
        while let Some((cid, event)) = self.events.next() {
            self.hold_admin(cid, Status::SUCCESS, event.0);
        }
    }

    pub(super) fn request_event(&mut self, cid: u16) -> AdminOutcome {
        if self.events.requests.len() >= REQUESTS_MAX {
            return AdminOutcome::status(Status::ASYNC_LIMIT);
        }
        self.events.requests.push(cid);
        self.tell_events();
        AdminOutcome::Held
    }
}
