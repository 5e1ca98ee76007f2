// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Random guests, for fuzz targets and for the tests: any words, any state, any level; nothing may panic.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use vm_memory::{GuestAddress, GuestMemoryMmap};

use crate::bus::Mmio;
use crate::clock::Clock;
use crate::cluster::Cluster;
use crate::interrupt::InterruptController;
use crate::ram::GuestRam;
use crate::vcpu::{Vcpu, VcpuParts};

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

/// Runs the bytes as a guest of two CPUs: 32 of them set up registers, the rest is code, executed from the start of RAM.
///
/// Register values are mostly addresses in RAM, so that loads, stores and table walks find something. The CPUs take turns
/// on this thread, so equal bytes give equal runs: what is between them is their memory, maintenance and events.
pub fn run_words(bytes: &[u8]) {
    let Some(mut vcpus) = machine() else { return };
    let (setup, code) = bytes.split_at(bytes.len().min(32));
    let _ = ram_write(&vcpus[0], code);
    let seed = setup.iter().fold(0x9e37_79b9_7f4a_7c15_u64, |state, &byte| {
        (state ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3).rotate_left(29)
    });
    let mut random = seed | 1;
    let mut next = || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random
    };
    let code_len = (code.len() as u64 & !3).min(RAM_LEN as u64 / 2);
    for vcpu in &mut vcpus {
        let cpu = &mut vcpu.cpu;
        for slot in 0..31 {
            let value = next();
            let value = if value & 3 == 0 { value } else { RAM + value % RAM_LEN as u64 };
            cpu.w(slot, value);
        }
        let choice = next();
        cpu.sys.tcr = crate::sysreg::sanitise::tcr(next());
        cpu.sys.ttbr0 = RAM + ((next() % RAM_LEN as u64) & !0xfff);
        cpu.sys.ttbr1 = RAM + ((next() % RAM_LEN as u64) & !0xfff);
        cpu.sys.mair = next();
        cpu.sys.vbar = RAM;
        cpu.sys.cpacr = if choice & 1 == 0 { 3 << 20 } else { 0 };
        cpu.sys.sctlr = crate::sysreg::sanitise::sctlr(if choice & 2 == 0 { next() & !1 } else { next() });
        cpu.sys.mdscr = if choice & 0x70 == 0 { 1 } else { 0 };
        cpu.sys.os_locked = choice & 0x80 == 0;
        cpu.sys.spsr = crate::sysreg::sanitise::spsr(next());
        cpu.sys.elr = RAM;
        cpu.update_regime();
        // The second begins half-way through.
        cpu.pc = RAM + cpu.index as u64 * ((code_len / 2) & !3);
        cpu.powered = true;
        if choice & 4 == 0 {
            cpu.exception_return();
        }
    }
    for _ in 0..STEPS_MAX / TURN {
        vcpus.iter_mut().for_each(|vcpu| vcpu.run_steps(TURN));
    }
}

fn machine() -> Option<[Vcpu; 2]> {
    let memory: Arc<GuestMemoryMmap> =
        Arc::new(GuestMemoryMmap::from_ranges(&[(GuestAddress(RAM), RAM_LEN)]).ok()?);
    let silent = Arc::new(Silent { line: AtomicBool::new(false) });
    let parts = VcpuParts {
        ram: GuestRam::new(memory, None).ok()?,
        interrupts: Arc::clone(&silent) as _,
        mmio: silent,
        dirty: Arc::new(()),
        clock: Arc::new(Clock::new()),
        cluster: Cluster::new(2),
    };
    Some([Vcpu::new(0, parts.clone()), Vcpu::new(1, parts)])
}

/// Puts code at the start of RAM, over and over: jumps land on something.
fn ram_write(vcpu: &Vcpu, code: &[u8]) -> Option<()> {
    let memory = vcpu.cpu.tlb.ram();
    for (index, word) in
        code.chunks_exact(4).cycle().take(if code.len() < 4 { 0 } else { RAM_LEN / 4 }).enumerate()
    {
        let word = word.iter().rev().fold(0u64, |value, &byte| value << 8 | u64::from(byte));
        memory.write::<2>(RAM + 4 * index as u64, word).then_some(())?;
    }
    Some(())
}
