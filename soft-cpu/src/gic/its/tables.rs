// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The three tables in guest memory: devices, events (one ITT a device), collections.
//!
//! The guest must not touch them while the ITS uses them, but it can: every word read is decoded
//! as untrusted and each number in it is checked against the machine. Every walk has a fixed number
//! of steps. Entry formats: `spec/its.rs`.

use super::commands::CommandError;
use super::{Its, Route};
use crate::gic::TableMemory;
use crate::gic::spec::command::Event;
use crate::gic::spec::its::{
    Baser, CollectionEntry, DEVICE_ID_BITS, DeviceEntry, ENTRY_LEN, EVENT_ID_BITS, EventEntry, level1_address,
};
use crate::gic::spec::{LPI_END, LPI_FIRST};

fn read_word(memory: &dyn TableMemory, address: u64) -> Option<u64> {
    let mut bytes = [0; 8];
    memory.read(address, &mut bytes).then(|| u64::from_le_bytes(bytes))
}

pub fn write_word(memory: &dyn TableMemory, address: u64, word: u64) -> Result<(), CommandError> {
    if memory.write(address, &word.to_le_bytes()) { Ok(()) } else { Err(CommandError::TableMemory) }
}

/// Address of entry `index` of a table. An index beyond the table, or in a second-level page that the
/// guest has not provided, has none.
fn entry_address(table: Baser, index: u64, memory: &dyn TableMemory) -> Option<u64> {
    if !table.is_valid() {
        return None;
    }
    if !table.is_indirect() {
        let offset = index * ENTRY_LEN;
        return (offset < table.len()).then_some(table.address() + offset);
    }
    let per_page = table.page_len() / ENTRY_LEN;
    let level1_offset = index / per_page * ENTRY_LEN;
    if level1_offset >= table.len() {
        return None;
    }
    let level1 = read_word(memory, table.address() + level1_offset)?;
    let page = level1_address(level1, table.page_len())?;
    Some(page + index % per_page * ENTRY_LEN)
}

impl Its {
    /// Where the entry of a device is.
    pub(super) fn device_address(&self, device: u32, memory: &dyn TableMemory) -> Result<u64, CommandError> {
        if device >> DEVICE_ID_BITS != 0 {
            return Err(CommandError::DeviceOutOfRange);
        }
        entry_address(self.devices, device.into(), memory).ok_or(CommandError::DeviceOutOfRange)
    }

    /// Where the entry of a collection is.
    pub(super) fn collection_address(
        &self,
        number: u16,
        memory: &dyn TableMemory,
    ) -> Result<u64, CommandError> {
        entry_address(self.collections, number.into(), memory).ok_or(CommandError::CollectionOutOfRange)
    }

    /// Where the entry of a mapped device's event is.
    pub(super) fn event_address(&self, event: Event, memory: &dyn TableMemory) -> Result<u64, CommandError> {
        let address = self.device_address(event.device, memory)?;
        let word = read_word(memory, address).ok_or(CommandError::TableMemory)?;
        let device = DeviceEntry::decode(word).ok_or(CommandError::DeviceUnmapped)?;
        let bits = device.event_bits.min(EVENT_ID_BITS.into());
        if u64::from(event.event) >> bits != 0 {
            return Err(CommandError::EventOutOfRange);
        }
        Ok(device.itt + u64::from(event.event) * ENTRY_LEN)
    }

    /// The mapping of an event.
    pub(super) fn event_entry(
        &self,
        event: Event,
        memory: &dyn TableMemory,
    ) -> Result<EventEntry, CommandError> {
        let address = self.event_address(event, memory)?;
        let word = read_word(memory, address).ok_or(CommandError::TableMemory)?;
        EventEntry::decode(word)
            .filter(|entry| (LPI_FIRST..LPI_END).contains(&entry.intid))
            .ok_or(CommandError::EventUnmapped)
    }

    /// The vCPU of a collection.
    pub(super) fn collection_vcpu(
        &self,
        number: u16,
        vcpu_count: usize,
        memory: &dyn TableMemory,
    ) -> Result<usize, CommandError> {
        let address = self.collection_address(number, memory)?;
        let word = read_word(memory, address).ok_or(CommandError::TableMemory)?;
        CollectionEntry::decode(word)
            .map(|entry| usize::from(entry.vcpu))
            .filter(|vcpu| *vcpu < vcpu_count)
            .ok_or(CommandError::CollectionUnmapped)
    }

    /// Event to LPI and vCPU, through all three tables.
    pub(super) fn translate(
        &self,
        event: Event,
        vcpu_count: usize,
        memory: &dyn TableMemory,
    ) -> Result<Route, CommandError> {
        let entry = self.event_entry(event, memory)?;
        let vcpu = self.collection_vcpu(entry.collection, vcpu_count, memory)?;
        Ok(Route { intid: entry.intid, vcpu })
    }
}
