// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Drives the NVMe controller with arbitrary bytes.
//!
//! [`client`] is a client of its server, with descriptors; [`run`] a host at the device itself. There the bytes are a
//! program of register accesses, memory writes, steps, resets and migrations. Memory is small and holds queues, lists
//! and data on top of each other, as a hostile guest may arrange them. Nothing may panic, and the medium is never
//! touched beyond its end.

mod client;

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use ipc::vfio_user::feature::MigState;
use vm_memory::VolatileSlice;

use dev_nvme::device::{Device, Region};
use dev_nvme::dma::{DmaError, HostMemory, Loan};
use dev_nvme::engine::{Host, Interrupts};
use dev_nvme::identity::Identity;
use dev_nvme::media::Media;
use dev_nvme::pci::{BAR0_LEN, VECTORS};
use dev_nvme::prp::Segment;
use dev_nvme::spec::command::admin;
use dev_nvme::spec::completion::COMPLETION_LEN;

use crate::program::Program;

pub use client::run as client;

const MEMORY_LEN: usize = 64 << 10;
const MEDIUM_LEN: usize = 32 << 10;
/// Steps after each operation: a host cannot keep the controller busy for longer by one write.
const STEPS: usize = 8;

#[derive(Default)]
struct Memory(Mutex<Vec<u8>>);

impl Memory {
    fn within(
        &self,
        iova: u64,
        len: usize,
        write: bool,
        copy: impl FnOnce(&mut [u8]),
    ) -> Result<(), DmaError> {
        let mut bytes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let range = usize::try_from(iova).ok().and_then(|start| Some(start..start.checked_add(len)?));
        let range = range.and_then(|range| bytes.get_mut(range));
        range.map(copy).ok_or(DmaError { iova, len, write })
    }
}

impl HostMemory for Memory {
    fn read(&self, iova: u64, bytes: &mut [u8]) -> Result<(), DmaError> {
        self.within(iova, bytes.len(), false, |memory| bytes.copy_from_slice(memory))
    }

    fn write(&self, iova: u64, bytes: &[u8]) -> Result<(), DmaError> {
        self.within(iova, bytes.len(), true, |memory| memory.copy_from_slice(bytes))
    }

    fn publish(&self, iova: u64, entries: &[[u8; COMPLETION_LEN]]) -> Result<(), DmaError> {
        self.write(iova, entries.as_flattened())
    }

    fn load(&self, iova: u64) -> Result<u32, DmaError> {
        let mut bytes = [0; 4];
        self.read(iova, &mut bytes).map(|()| u32::from_le_bytes(bytes))
    }

    fn store(&self, iova: u64, dword: u32) -> Result<(), DmaError> {
        self.write(iova, &dword.to_le_bytes())
    }

    fn is_connected(&self) -> bool {
        true
    }

    fn lend(&self, _: &[Segment], _: Loan, _: &mut dyn FnMut(&[VolatileSlice<'_>])) -> bool {
        false
    }
}

struct Checked;

impl Interrupts for Checked {
    fn raise(&self, vector: u16) {
        assert!(vector < VECTORS, "a vector exists");
    }
}

struct Medium(Mutex<Vec<u8>>);

impl Medium {
    fn range(&self, offset: u64, len: usize, copy: impl FnOnce(&mut [u8])) {
        let mut bytes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let range = bytes.get_mut(start..start.saturating_add(len));
        assert!(range.is_some(), "the medium is not touched beyond its end");
        if let Some(range) = range {
            copy(range);
        }
    }
}

impl Media for Medium {
    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        self.range(offset, bytes.len(), |medium| bytes.copy_from_slice(medium));
        Ok(())
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.range(offset, bytes.len(), |medium| medium.copy_from_slice(bytes));
        Ok(())
    }

    fn read_to(&self, offset: u64, memory: &[VolatileSlice<'_>]) -> io::Result<()> {
        self.range(offset, memory.iter().map(VolatileSlice::len).sum(), |_| ());
        Ok(())
    }

    fn read_at_once(&self, _: u64, _: &[VolatileSlice<'_>]) -> io::Result<bool> {
        Ok(false)
    }

    fn write_from(&self, offset: u64, memory: &[VolatileSlice<'_>]) -> io::Result<()> {
        self.range(offset, memory.iter().map(VolatileSlice::len).sum(), |_| ());
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }

    fn zero(&self, offset: u64, len: u64, _: bool) -> io::Result<()> {
        self.range(offset, usize::try_from(len).unwrap_or(usize::MAX), |medium| medium.fill(0));
        Ok(())
    }

    fn release(&self, offset: u64, len: u64) -> io::Result<()> {
        self.zero(offset, len, true)
    }
}

/// Runs a program; with `enabled`, on a controller whose admin queues are in place.
pub fn run(program: &[u8], enabled: bool) {
    let identity = Identity::new("FUZZ", MEDIUM_LEN as u64, 512);
    let Ok(identity) = identity else { return };
    let memory = Arc::new(Memory(Mutex::new(vec![0; MEMORY_LEN])));
    let device = Device::new(identity, Box::new(Medium(Mutex::new(vec![0; MEDIUM_LEN]))));
    device.connect(Host { memory: Arc::clone(&memory) as _, interrupts: Arc::new(Checked) });
    device.engine().with(|controller| controller.offer_shadow_doorbells(true));
    if enabled {
        for (offset, value) in [(0x24, 0x003f_003f_u32), (0x28, 0), (0x30, 0x1000), (0x14, 0x0046_0001)] {
            let _ = device.write(Region::Bar0, offset, &value.to_le_bytes());
        }
    }
    let mut program = Program::new(program);
    while !program.is_over() {
        operate(&mut program, &device, &memory);
        for _ in 0..STEPS {
            if !device.engine().step() {
                break;
            }
        }
    }
}

fn operate(program: &mut Program<'_>, device: &Device, memory: &Memory) {
    match program.byte() % 8 {
        0 => {
            let (offset, value) = (program.number() % BAR0_LEN, program.number());
            let len = if program.byte().is_multiple_of(4) { 8 } else { 4 };
            let _ = device.write(Region::Bar0, offset, value.to_le_bytes().get(..len).unwrap_or_default());
        }
        1 => {
            let mut bytes = [0; 8];
            device.read(Region::Bar0, program.number() % BAR0_LEN, &mut bytes);
        }
        2 => {
            let (offset, value) = (program.number() % 300, program.byte());
            let _ = device.write(Region::Config, offset, &[value]);
        }
        // A doorbell, of a queue that may exist.
        3 => {
            let (queue, value) = (u64::from(program.byte() % 8), u32::from(program.byte()));
            let _ = device.write(Region::Bar0, 0x1000 + queue * 4, &value.to_le_bytes());
        }
        // A command for some queue's memory, then its doorbell.
        4 | 5 => {
            let slot = u64::from(program.byte() % 64);
            // Nobody knows 3 and 7.
            let opcode = match program.byte() % 16 {
                3 | 7 => admin::DOORBELL_BUFFER_CONFIG,
                opcode => opcode,
            };
            let page = u64::from(program.byte() % 4) * 0x1000;
            let mut command = [0; 64];
            let words = command.as_chunks_mut::<4>().0.iter_mut();
            for (number, word) in words.enumerate() {
                *word = match number {
                    0 => [opcode, 0, program.byte(), 0],
                    1 => [1, 0, 0, 0],
                    _ => u32::try_from(program.number() & 0xffff_ffff).unwrap_or(0).to_le_bytes(),
                };
            }
            let _ = memory.write(page + slot * 64, &command);
            let tail = u32::try_from((slot + 1) % 64).unwrap_or(0);
            let queue = u64::from(program.byte() % 3) * 8;
            let _ = device.write(Region::Bar0, 0x1000 + queue, &tail.to_le_bytes());
        }
        6 => {
            let (at, value) = (program.number(), program.number());
            let _ = memory.write(at, &value.to_le_bytes());
        }
        _ => migrate(program, device),
    }
}

fn migrate(program: &mut Program<'_>, device: &Device) {
    let to = usize::from(program.byte());
    let Some(to) = MigState::ALL.get(to % MigState::ALL.len()) else { return };
    // What is asked while jobs are out would wait for them; here nobody executes them meanwhile.
    // Commands that write doorbells as their data may go on for ever, so not all of them.
    for _ in 0..STEPS * 100 {
        if !device.engine().step() {
            break;
        }
    }
    let _ = device.set_migration_state(*to);
    let data = device.read_migration_data(1 << 20).unwrap_or_default();
    if device.set_migration_state(MigState::Resuming).is_ok() {
        let mut data = data;
        let at = usize::try_from(program.number()).unwrap_or(0);
        if let Some(byte) = data.get_mut(at) {
            *byte ^= program.byte();
        }
        let _ = device.write_migration_data(&data);
        let _ = device.set_migration_state(MigState::Running);
    }
    if device.migration_state() == MigState::Error {
        let _ = device.reset();
    }
}

#[cfg(test)]
mod tests;
