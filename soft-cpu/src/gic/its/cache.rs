// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A direct-mapped cache of translations, so that a message needs no table read once it was seen.
//!
//! Holds only valid table entries; any command or register write that can change a mapping clears it. It is not
//! saved: after a restore the tables in guest memory fill it again.

use super::Route;
use crate::gic::spec::command::Event;

/// Entries: a few devices with a vector for each queue.
const ENTRY_COUNT: usize = 256;

/// Routes of events by DeviceID and EventID.
pub struct TranslationCache {
    entries: Vec<Option<(Event, Route)>>,
}

impl TranslationCache {
    pub fn new() -> Self {
        Self { entries: vec![None; ENTRY_COUNT] }
    }

    /// A function of both numbers that keeps the consecutive events of one device apart.
    fn index_of(event: Event) -> usize {
        let mixed = event.event ^ event.device.wrapping_mul(0x9e37_79b1).rotate_left(8);
        mixed as usize % ENTRY_COUNT
    }

    pub fn get(&self, event: Event) -> Option<Route> {
        let (cached, route) = (*self.entries.get(Self::index_of(event))?)?;
        (cached == event).then_some(route)
    }

    pub fn put(&mut self, event: Event, route: Route) {
        if let Some(entry) = self.entries.get_mut(Self::index_of(event)) {
            *entry = Some((event, route));
        }
    }

    pub fn clear(&mut self) {
        self.entries.fill(None);
    }
}
