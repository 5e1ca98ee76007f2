// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Random guests of the software CPU: any words, any state, any exception level; nothing may panic.
//!
//! A guest's registers are given as saved state, which the CPU takes through the checks of a guest's own writes.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};

use soft_cpu::bus::Mmio;
use soft_cpu::clock::Clock;
use soft_cpu::cluster::Cluster;
use soft_cpu::interrupt::InterruptController;
use soft_cpu::ram::GuestRam;
use soft_cpu::saved::VcpuV1;
use soft_cpu::{Vcpu, VcpuParts};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

/// Where the random guest's RAM is, and how much.
const RAM: u64 = 0x4000_0000;
const RAM_LEN: usize = 0x4_0000;
/// Operations that each CPU of a random guest may run: it may well loop.
const STEPS_MAX: u32 = 2000;
/// Operations of one CPU before it is the other's turn: a prime, so that the turns fall everywhere.
const TURN: u32 = 37;

struct Silent {
    line: AtomicBool,
}

impl InterruptController for Silent {
    fn irq_line(&self, _vcpu: usize) -> &AtomicBool {
        &self.line
    }

    fn icc_read(&self, _vcpu: usize, _sysreg: u16) -> Option<u64> {
        Some(0)
    }

    fn icc_write(&self, _vcpu: usize, _sysreg: u16, _value: u64) -> bool {
        true
    }

    fn reset_cpu_interface(&self, _vcpu: usize) {}

    fn set_ppi_level(&self, _vcpu: usize, _intid: u32, _high: bool) {}
}

impl Mmio for Silent {
    fn read(&self, _vcpu: usize, gpa: u64, _size: u8) -> u64 {
        gpa
    }

    fn write(&self, _vcpu: usize, _gpa: u64, _size: u8, _value: u64) {}
}

/// Runs the bytes as a guest of two CPUs: 32 of them set up registers, the rest is code, executed from the start of
/// RAM.
///
/// Register values are mostly addresses in RAM, so that loads, stores and table walks find something. The CPUs take
/// turns on this thread, so equal bytes give equal runs: what is between them is their memory, maintenance and events.
pub fn run(bytes: &[u8]) {
    let (setup, code) = bytes.split_at(bytes.len().min(32));
    let Some(parts) = parts(code) else { return };
    let seed = setup.iter().fold(0x9e37_79b9_7f4a_7c15_u64, |state, &byte| {
        (state ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3).rotate_left(29)
    });
    let mut random = Random(seed | 1);
    let code_len = (code.len() as u64 & !3).min(RAM_LEN as u64 / 2);
    // The second begins half-way through.
    let starts = [RAM, RAM + ((code_len / 2) & !3)];
    let vcpus = starts.into_iter().enumerate().map(|(index, pc)| {
        let state = state(&mut random, pc)?;
        Vcpu::restore(index, parts.clone(), &state).ok()
    });
    let Some(mut vcpus) = vcpus.collect::<Option<Vec<Vcpu>>>() else { return };
    for _ in 0..STEPS_MAX / TURN {
        vcpus.iter_mut().for_each(|vcpu| vcpu.run_steps(TURN));
    }
}

struct Random(u64);

impl Random {
    fn number(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn table(&mut self) -> u64 {
        RAM + ((self.number() % RAM_LEN as u64) & !0xfff)
    }
}

/// A CPU that runs from `pc`, with what else the random source says.
fn state(random: &mut Random, pc: u64) -> Option<VcpuV1> {
    let mut state = at_reset()?.clone();
    for x in &mut state.x {
        let value = random.number();
        *x = if value & 3 == 0 { value } else { RAM + value % RAM_LEN as u64 };
    }
    let choice = random.number();
    state.tcr = random.number();
    state.ttbr0 = random.table();
    state.ttbr1 = random.table();
    state.mair = random.number();
    state.vbar = RAM;
    state.cpacr = if choice & 1 == 0 { 3 << 20 } else { 0 };
    state.sctlr = if choice & 2 == 0 { random.number() & !1 } else { random.number() };
    state.mdscr = if choice & 0x70 == 0 { 1 } else { 0 };
    state.os_lock = u64::from(choice & 0x80 == 0);
    state.spsr = random.number();
    state.elr = RAM;
    state.pc = pc;
    state.power = POWER_ON;
    if choice & 4 == 0 {
        // As if it had returned from an exception; a mode that there is none of is an illegal return.
        let mode = state.spsr & 0x1f;
        let (mode, illegal) = if [EL0T, EL1T, EL1H].contains(&mode) { (mode, 0) } else { (EL1H, 1 << 20) };
        state.pstate = state.spsr & PSTATE_BITS | mode | illegal;
        state.pc = RAM;
    }
    Some(state)
}

/// `VcpuV1::power` of a CPU that is on.
const POWER_ON: u64 = 1;
/// Modes, as SPSR_EL1.M has them.
const EL0T: u64 = 0b0_0000;
const EL1T: u64 = 0b0_0100;
const EL1H: u64 = 0b0_0101;
/// NZCV, SS and DAIF in SPSR_EL1.
const PSTATE_BITS: u64 = 0xf << 28 | 1 << 21 | 0xf << 6;

/// What a CPU is before anybody has written to it.
fn at_reset() -> Option<&'static VcpuV1> {
    static STATE: OnceLock<Option<VcpuV1>> = OnceLock::new();
    STATE.get_or_init(|| Some(Vcpu::new(0, parts(&[])?).save())).as_ref()
}

/// What two CPUs work with: `code` stands from the start of RAM on, over and over, so that jumps land on something.
fn parts(code: &[u8]) -> Option<VcpuParts> {
    let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(RAM), RAM_LEN)]).ok()?;
    let words = code.as_chunks::<4>().0;
    let all: Vec<u8> = words.iter().cycle().take(RAM_LEN / 4).flatten().copied().collect();
    memory.write_slice(&all, GuestAddress(RAM)).ok()?;
    let silent = Arc::new(Silent { line: AtomicBool::new(false) });
    Some(VcpuParts {
        ram: GuestRam::new(Arc::new(memory), None).ok()?,
        interrupts: Arc::clone(&silent) as _,
        mmio: silent,
        dirty: Arc::new(()),
        clock: Arc::new(Clock::new()),
        cluster: Cluster::new(2),
    })
}

#[cfg(test)]
mod tests;
