// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! GITS: turns a device's message (DeviceID, EventID) into an LPI at a redistributor (IHI 0069 §5).
//!
//! Mappings live in guest memory, in tables that the guest hands over (`tables.rs`), and so travel with
//! RAM in a migration; what this struct holds is registers and a cache of translations that any mapping
//! command empties. Commands run inside accesses, a bounded number at a time (`commands.rs`).

mod cache;
mod commands;
mod registers;
mod tables;

pub use commands::CommandError;

use self::cache::TranslationCache;
use super::TableMemory;
use super::redistributor::Redistributor;
use super::spec::command::Event;
use super::spec::its::{Baser, Cbaser, TableKind};
use super::state::VcpuSet;

/// The ITS.
pub struct Its {
    enabled: bool,
    cbaser: Cbaser,
    /// Byte offsets in the queue, multiples of 32, always inside it.
    cwriter: u64,
    creadr: u64,
    /// The queue could not be read; GITS_CWRITER.Retry continues.
    stalled: bool,
    devices: Baser,
    collections: Baser,
    cache: TranslationCache,
    counters: ItsCounters,
}

/// Counters of guest-caused events, for `inspect`. Not part of the saved state: they describe this process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ItsCounters {
    /// Commands taken from the queue.
    pub commands: u64,
    /// Commands ignored because they are invalid.
    pub command_errors: u64,
    /// The last such error.
    pub last_command_error: Option<CommandError>,
    /// Messages translated to an LPI.
    pub messages: u64,
    /// Messages dropped because nothing is mapped for them.
    pub unmapped_messages: u64,
    /// Times the queue stalled.
    pub stalls: u64,
}

/// Where an event goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Route {
    intid: u32,
    vcpu: usize,
}

/// The redistributors as the ITS sees them.
struct Targets<'a> {
    redists: &'a mut [Redistributor],
    memory: &'a dyn TableMemory,
    touched: &'a mut VcpuSet,
}

impl Targets<'_> {
    /// The redistributor of a processor number, its vCPU marked as touched.
    fn redist(&mut self, vcpu: usize) -> Option<&mut Redistributor> {
        self.touched.add(vcpu);
        self.redists.get_mut(vcpu)
    }

    fn set_lpi(&mut self, route: Route) {
        let memory = self.memory;
        if let Some(redist) = self.redist(route.vcpu) {
            redist.set_lpi(route.intid, memory);
        }
    }
}

impl Its {
    /// Reset state: disabled, no tables.
    pub fn new() -> Self {
        Self {
            enabled: false,
            cbaser: Cbaser::default(),
            cwriter: 0,
            creadr: 0,
            stalled: false,
            devices: Baser::at_reset(TableKind::Devices),
            collections: Baser::at_reset(TableKind::Collections),
            cache: TranslationCache::new(),
            counters: ItsCounters::default(),
        }
    }

    /// The counters since this process began.
    pub fn counters(&self) -> ItsCounters {
        self.counters
    }

    /// A device's message. True if it was translated.
    pub fn signal(
        &mut self,
        event: Event,
        redists: &mut [Redistributor],
        memory: &dyn TableMemory,
        touched: &mut VcpuSet,
    ) -> bool {
        let route = if self.enabled { self.route(event, redists.len(), memory) } else { None };
        let Some(route) = route else {
            self.counters.unmapped_messages = self.counters.unmapped_messages.saturating_add(1);
            return false;
        };
        self.counters.messages = self.counters.messages.saturating_add(1);
        Targets { redists, memory, touched }.set_lpi(route);
        true
    }

    /// Cached translation.
    fn route(&mut self, event: Event, vcpu_count: usize, memory: &dyn TableMemory) -> Option<Route> {
        if let Some(route) = self.cache.get(event) {
            return Some(route);
        }
        let route = self.translate(event, vcpu_count, memory).ok()?;
        self.cache.put(event, route);
        Some(route)
    }
}
