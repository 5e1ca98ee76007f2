// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The command queue (IHI 0069 §5.3).
//!
//! Design: a write to GITS_CWRITER (or one that enables the ITS) runs up to [`BUDGET_PER_ACCESS`] units of
//! work at once, which is all that a guest usually queues. What is left runs when the guest polls GITS_CREADR
//! (another budget each read) or when the owner calls `Gic::its_step`. So a queue of any length
//! costs bounded time an access, and a guest that polls CREADR, as the architecture says, always makes progress.
//!
//! An invalid command is counted and skipped (the architecture lets an ITS do so). A slot that cannot be
//! read from memory stalls the queue: CREADR.Stalled is one until CWRITER.Retry is written.

use super::tables::write_word;
use super::{Its, Targets};
use crate::gic::spec::command::{self, Command, Event};
use crate::gic::spec::its::{CollectionEntry, DeviceEntry, EVENT_ID_BITS, EventEntry};
use crate::gic::spec::{LPI_END, LPI_FIRST};

/// Units of work inside one access: a microsecond-scale bound for plain commands.
pub const BUDGET_PER_ACCESS: u32 = 64;
/// Units of a command that visits all LPIs of a redistributor.
const COST_OF_ALL_LPIS: u32 = 32;

/// Why a command was ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommandError {
    /// Not a command.
    Unknown(u8),
    /// DeviceID beyond the device table, or in a second-level page that is not there.
    DeviceOutOfRange,
    /// The device is not mapped.
    DeviceUnmapped,
    /// MAPD asks for more EventID bits than there are.
    EventBitsOutOfRange,
    /// EventID beyond the device's ITT.
    EventOutOfRange,
    /// The event is not mapped, or its entry is not one of ours.
    EventUnmapped,
    /// Collection number beyond the collection table.
    CollectionOutOfRange,
    /// The collection is not mapped, or its entry is not one of ours.
    CollectionUnmapped,
    /// The INTID is not an LPI.
    IntidOutOfRange,
    /// RDbase is not a vCPU.
    RedistributorOutOfRange,
    /// A table is not in memory.
    TableMemory,
}

impl Its {
    /// True when a command waits that could run.
    pub fn has_work(&self) -> bool {
        self.enabled && !self.stalled && self.cbaser.address().is_some() && self.creadr != self.cwriter
    }

    /// Runs commands until the queue is empty, stalls, or the budget is spent.
    pub(super) fn run(&mut self, targets: &mut Targets<'_>, mut budget: u32) {
        while budget > 0 && self.has_work() {
            let Some(queue) = self.cbaser.address() else { return };
            let mut bytes = [0; command::LEN];
            if !targets.memory.read(queue + self.creadr, &mut bytes) {
                self.stalled = true;
                self.counters.stalls = self.counters.stalls.saturating_add(1);
                return;
            }
            let command = Command::from_bytes(&bytes);
            self.counters.commands = self.counters.commands.saturating_add(1);
            if let Err(error) = self.execute(command, targets) {
                self.counters.command_errors = self.counters.command_errors.saturating_add(1);
                self.counters.last_command_error = Some(error);
            }
            self.creadr = (self.creadr + command::LEN as u64) % self.cbaser.len();
            budget = budget.saturating_sub(cost_of(command));
        }
    }

    fn execute(&mut self, command: Command, targets: &mut Targets<'_>) -> Result<(), CommandError> {
        if changes_mappings(command) {
            self.cache.clear();
        }
        match command {
            Command::MapDevice { device, event_bits, itt } => {
                self.map_device(device, event_bits, itt, targets)
            }
            Command::UnmapDevice { device } => {
                let address = self.device_address(device, targets.memory)?;
                write_word(targets.memory, address, 0)
            }
            Command::Mapc { collection, target } => self.map_collection(collection, target, targets),
            Command::Mapti { event, intid, collection } => self.map_event(event, intid, collection, targets),
            Command::Movi(event, collection) => self.move_event(event, collection, targets),
            Command::Movall { from, to } => move_all(from, to, targets),
            Command::Int(event) => {
                let route = self.translate(event, targets.redists.len(), targets.memory)?;
                targets.set_lpi(route);
                Ok(())
            }
            Command::Clear(event) => self.clear_event(event, targets),
            Command::Discard(event) => {
                // The LPI stops being pending where it is, if its collection still says where.
                let cleared = self.clear_event(event, targets);
                if matches!(cleared, Err(error) if error != CommandError::CollectionUnmapped) {
                    return cleared;
                }
                write_word(targets.memory, self.event_address(event, targets.memory)?, 0)
            }
            Command::Inv(event) => {
                let route = self.translate(event, targets.redists.len(), targets.memory)?;
                let memory = targets.memory;
                if let Some(redist) = targets.redist(route.vcpu) {
                    redist.invalidate_lpi(route.intid, memory);
                }
                Ok(())
            }
            Command::Invall(collection) => {
                let memory = targets.memory;
                let vcpu = self.collection_vcpu(collection, targets.redists.len(), memory)?;
                if let Some(redist) = targets.redist(vcpu) {
                    redist.invalidate_all_lpis(memory);
                }
                Ok(())
            }
            // Everything before it has already taken effect.
            Command::Sync => Ok(()),
            Command::Unknown(number) => Err(CommandError::Unknown(number)),
        }
    }

    fn map_device(
        &mut self,
        device: u32,
        event_bits: u64,
        itt: u64,
        targets: &Targets<'_>,
    ) -> Result<(), CommandError> {
        if event_bits > EVENT_ID_BITS.into() {
            return Err(CommandError::EventBitsOutOfRange);
        }
        let address = self.device_address(device, targets.memory)?;
        write_word(targets.memory, address, DeviceEntry { itt, event_bits }.encode())
    }

    fn map_collection(
        &mut self,
        collection: u16,
        target: Option<u64>,
        targets: &Targets<'_>,
    ) -> Result<(), CommandError> {
        let address = self.collection_address(collection, targets.memory)?;
        let word = match target {
            Some(rdbase) => CollectionEntry { vcpu: processor(rdbase, targets)? }.encode(),
            None => 0,
        };
        write_word(targets.memory, address, word)
    }

    fn map_event(
        &mut self,
        event: Event,
        intid: u32,
        collection: u16,
        targets: &Targets<'_>,
    ) -> Result<(), CommandError> {
        if !(LPI_FIRST..LPI_END).contains(&intid) {
            return Err(CommandError::IntidOutOfRange);
        }
        // The collection need not be mapped yet, but the table must have it.
        self.collection_address(collection, targets.memory)?;
        let address = self.event_address(event, targets.memory)?;
        write_word(targets.memory, address, EventEntry { intid, collection }.encode())
    }

    fn move_event(
        &mut self,
        event: Event,
        collection: u16,
        targets: &mut Targets<'_>,
    ) -> Result<(), CommandError> {
        let (memory, count) = (targets.memory, targets.redists.len());
        let from = self.translate(event, count, memory)?;
        let to = self.collection_vcpu(collection, count, memory)?;
        let address = self.event_address(event, memory)?;
        write_word(memory, address, EventEntry { intid: from.intid, collection }.encode())?;
        let was_pending = targets.redist(from.vcpu).is_some_and(|redist| redist.clear_lpi(from.intid));
        if was_pending {
            targets.set_lpi(super::Route { vcpu: to, ..from });
        }
        Ok(())
    }

    fn clear_event(&mut self, event: Event, targets: &mut Targets<'_>) -> Result<(), CommandError> {
        let route = self.translate(event, targets.redists.len(), targets.memory)?;
        if let Some(redist) = targets.redist(route.vcpu) {
            redist.clear_lpi(route.intid);
        }
        Ok(())
    }
}

fn move_all(from: u64, to: u64, targets: &mut Targets<'_>) -> Result<(), CommandError> {
    let (from, to) = (processor(from, targets)?, processor(to, targets)?);
    let memory = targets.memory;
    let moved = targets.redist(from.into()).map(|redist| redist.take_lpis()).unwrap_or_default();
    if let Some(redist) = targets.redist(to.into()) {
        redist.add_lpis(moved, memory);
    }
    Ok(())
}

/// RDbase as a processor number of this machine (GITS_TYPER.PTA is 0).
fn processor(rdbase: u64, targets: &Targets<'_>) -> Result<u16, CommandError> {
    u16::try_from(rdbase)
        .ok()
        .filter(|vcpu| usize::from(*vcpu) < targets.redists.len())
        .ok_or(CommandError::RedistributorOutOfRange)
}

fn changes_mappings(command: Command) -> bool {
    match command {
        Command::Movi(..)
        | Command::MapDevice { .. }
        | Command::UnmapDevice { .. }
        | Command::Mapc { .. }
        | Command::Mapti { .. }
        | Command::Discard(_) => true,
        Command::Int(_)
        | Command::Clear(_)
        | Command::Sync
        | Command::Inv(_)
        | Command::Invall(_)
        | Command::Movall { .. }
        | Command::Unknown(_) => false,
    }
}

fn cost_of(command: Command) -> u32 {
    match command {
        Command::Invall(_) | Command::Movall { .. } => COST_OF_ALL_LPIS,
        _ => 1,
    }
}
