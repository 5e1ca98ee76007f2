// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Drives the model of the vSMMU with arbitrary bytes.
//!
//! The bytes are a program of register accesses, memory writes, steps, events, save/restore turns, and of how late the
//! devices behind it answer. The invariants that hold whatever the guest does are asserted at the end of every
//! operation; a step's budget bounds the work.

use dev_smmu::cmdq::Step;
use dev_smmu::effects::Effects;
use dev_smmu::memory::GuestMemory;
use dev_smmu::regfile::existing_bits;
use dev_smmu::smmu::Smmu;
use dev_smmu::stream::{Stage1Sink, SyncState};
use smmu_arch::command::StreamRange;
use smmu_arch::memory::{Abort, Memory};
use smmu_arch::spec::commands::Command;
use smmu_arch::spec::control::Gbpa;
use smmu_arch::spec::events::{EventRecord, Requester};
use smmu_arch::spec::registers::Register;
use smmu_arch::{Model, Options, StreamId};
use std::cell::RefCell;

/// Bytes of the memory the program runs in; above it, accesses abort.
const MEMORY_LEN: usize = 0x1_0000;
/// Commands one step may consume.
const BUDGET: u32 = 64;

struct SmallMemory(RefCell<Vec<u8>>);

fn range(address: u64, len: usize) -> Option<core::ops::Range<usize>> {
    let start = usize::try_from(address).ok()?;
    Some(start..start.checked_add(len)?)
}

impl Memory for SmallMemory {
    fn read(&self, address: u64, bytes: &mut [u8]) -> Result<(), Abort> {
        let memory = self.0.borrow();
        let source = range(address, bytes.len()).and_then(|range| memory.get(range)).ok_or(Abort)?;
        bytes.copy_from_slice(source);
        Ok(())
    }
}

impl GuestMemory for SmallMemory {
    fn write(&self, address: u64, bytes: &[u8]) -> Result<(), Abort> {
        let mut memory = self.0.borrow_mut();
        let target = range(address, bytes.len()).and_then(|range| memory.get_mut(range)).ok_or(Abort)?;
        target.copy_from_slice(bytes);
        Ok(())
    }
}

/// Devices that answer a request at the given poll after it.
#[derive(Default)]
struct LateDevices {
    delay: u8,
    owed: u8,
}

impl Stage1Sink for LateDevices {
    fn reevaluate(&mut self, _streams: StreamRange) {
        self.owed = self.delay;
    }

    fn invalidate(&mut self, _command: &Command) {
        self.owed = self.delay;
    }

    fn sync(&mut self) -> SyncState {
        if self.owed == 0 {
            return SyncState::Done;
        }
        self.owed -= 1;
        SyncState::Pending
    }
}

/// Runs a program; panics only if an invariant of the model is broken.
pub fn run(program: &[u8]) {
    let Ok(model) = Model::new(smmu_arch::model::MODEL_NAME, Options::default()) else { return };
    let memory = SmallMemory(RefCell::new(vec![0; MEMORY_LEN]));
    let mut smmu = Smmu::new(model);
    let mut devices = LateDevices::default();
    let mut rest = program;
    while let Some((operation, after)) = rest.split_first_chunk::<14>() {
        rest = after;
        let [code, size, o0, o1, o2, o3, value @ ..] = *operation;
        let value = u64::from_le_bytes(value);
        let offset = u64::from(u32::from_le_bytes([o0, o1, o2, o3]));
        let mut effects = Effects::default();
        match code % 7 {
            // Most accesses go to registers that exist.
            0 | 1 => {
                let at = Register::ALL.get(usize::from(o0) % Register::ALL.len());
                let offset = if code < 0xc0 { at.map_or(0, |r| r.offset()) } else { offset };
                smmu.write(offset, if size < 0x80 { 4 } else { 8 }, value, &mut devices);
            }
            2 => smmu.write(offset, size, value, &mut devices),
            3 => {
                let _ = memory.write(offset % MEMORY_LEN as u64, &value.to_le_bytes());
            }
            4 => {
                let before = smmu.registers().command_queue();
                let late = devices.owed > 0 || devices.delay > 0;
                let step = smmu.step(&memory, &mut devices, &mut effects, BUDGET);
                assert!(step != Step::AwaitSync || late, "there is no device to wait for");
                if step == Step::AwaitSync && devices.owed > 0 {
                    let at = smmu.registers().command_queue();
                    let again = smmu.step(&memory, &mut devices, &mut effects, BUDGET);
                    assert!(again == Step::AwaitSync, "a CMD_SYNC does not wait for what is owed");
                    assert!(smmu.registers().command_queue() == at, "a CMD_SYNC that waits is consumed");
                }
                let (queue, _, cons) = smmu.registers().command_queue();
                let consumed = queue.len(cons, before.2).unwrap_or(u32::MAX);
                assert!(consumed <= BUDGET || consumed == u32::MAX, "a step exceeds its budget");
                let who = Requester { stream: StreamId(o0.into()), substream: None };
                smmu.record(&EventRecord::c_bad_ste(who), &memory, &mut effects);
            }
            5 => devices.delay = size % 4,
            // A pause ends every Update, so that none is saved.
            _ if smmu.is_updating() => {}
            _ => {
                let saved = smmu.save();
                let Ok(restored) = Smmu::restore(model, &saved) else {
                    unreachable_state();
                    return;
                };
                assert!(restored.registers() == smmu.registers(), "restore changes a register");
                smmu = restored;
            }
        }
        // What a device owes holds an Update up, and nothing else does.
        let holds = smmu.is_updating() && devices.owed > 0;
        smmu.complete_updates(&mut devices);
        assert!(smmu.is_updating() == holds, "an Update is not acknowledged when its devices have followed");
        check(&smmu, &model);
        let _ = smmu.read(offset, size);
    }
}

fn check(smmu: &Smmu, model: &Model) {
    for &register in Register::ALL {
        let value = match register {
            // Update is there while one is under way.
            Register::GBPA if smmu.is_updating() => {
                Gbpa::from_bits(u32::try_from(smmu.registers().get(register)).unwrap_or(u32::MAX))
                    .with_update(false)
                    .into_bits()
                    .into()
            }
            _ => smmu.registers().get(register),
        };
        let existing = existing_bits(model, register);
        assert!(existing == 0 || value & !existing == 0, "a register has bits it does not have");
    }
    let registers = smmu.registers();
    let acknowledged = registers.get(Register::CR0) == registers.get(Register::CR0ACK);
    assert!(acknowledged || smmu.is_updating(), "an Update is left open");
}

#[expect(clippy::panic, reason = "a fuzz target reports by panicking")]
fn unreachable_state() {
    panic!("a device does not accept its own saved state");
}

#[cfg(test)]
mod tests;
