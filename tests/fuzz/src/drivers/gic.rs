// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Drives the GIC and its ITS with arbitrary bytes: any input is a sequence of accesses, none of them may panic.
//!
//! Besides, it checks what must hold in any state: an acknowledge answers exactly when the line is high, and
//! a state that is saved, restored and saved again is the same. The first bytes of each operation choose it;
//! values come either from the input or from a list of those that make tables and queues land in memory.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use soft_cpu::gic::{Gic, GicConfig, TableMemory};

use crate::program::Program;

/// `ICC_IAR1_EL1` and `ICC_PMR_EL1`, by Op0, Op1, CRn, CRm and Op2 (IHI 0069 section 12.2).
const ICC_IAR1: u16 = 3 << 14 | 12 << 7 | 12 << 3;
const ICC_PMR: u16 = 3 << 14 | 4 << 7 | 6 << 3;
/// No interrupt is pending (section 2.2.1).
const INTID_SPURIOUS: u64 = 1023;

const RAM_BASE: u64 = 0x4000_0000;
const RAM_LEN: usize = 0x4_0000;
const CONFIG: GicConfig = GicConfig { vcpu_count: 3, spi_count: 64, its: true };
/// Enough to reach any state that a few registers make, little enough for many inputs a second.
const OPERATION_COUNT_MAX: usize = 2000;

/// Values that mean something to some register: tables, queue, enables, identity of the first devices.
const KNOWN_VALUES: [u64; 12] = [
    0,
    1,
    u64::MAX,
    RAM_BASE | 0xf,
    1 << 63 | RAM_BASE,
    1 << 63 | RAM_BASE | 0x1_0000 | 0x100,
    1 << 63 | 1 << 62 | RAM_BASE | 0x1000,
    1 << 63 | RAM_BASE | 0x2_0000 | 0xf,
    RAM_BASE | 0x3_0000,
    0xf0,
    0x40,
    1 << 40,
];

struct Ram(Mutex<Vec<u8>>);

impl Ram {
    fn with(&self, gpa: u64, len: usize, use_bytes: impl FnOnce(&mut [u8])) -> bool {
        let Some(start) = gpa.checked_sub(RAM_BASE).and_then(|start| usize::try_from(start).ok()) else {
            return false;
        };
        let mut bytes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let range = bytes.get_mut(start..).and_then(|rest| rest.get_mut(..len));
        range.map(use_bytes).is_some()
    }
}

impl TableMemory for Ram {
    fn read(&self, gpa: u64, buffer: &mut [u8]) -> bool {
        self.with(gpa, buffer.len(), |bytes| buffer.copy_from_slice(bytes))
    }

    fn write(&self, gpa: u64, bytes: &[u8]) -> bool {
        self.with(gpa, bytes.len(), |to| to.copy_from_slice(bytes))
    }
}

/// Mostly a value that means something.
fn value(program: &mut Program<'_>) -> u64 {
    let choice = program.byte();
    match KNOWN_VALUES.get(usize::from(choice)) {
        Some(known) => *known,
        None => program.fixed(8),
    }
}

/// One of the vCPUs, or the one after the last.
fn vcpu(program: &mut Program<'_>) -> usize {
    usize::from(program.byte()) % (CONFIG.vcpu_count + 1)
}

/// Any encoding, most often one in the ICC space (CRn 12 or 4).
fn register(program: &mut Program<'_>) -> u16 {
    let low = u16::from(program.byte());
    match program.byte() {
        0..=31 => u16::from(program.byte()) << 8 | low,
        32..=63 => ICC_PMR,
        _ => (3 << 14) | (12 << 7) | (low & 0x7f),
    }
}

/// Runs the accesses that `data` describes against a GIC at reset, then migrates it.
pub fn run(data: &[u8]) {
    let ram = Arc::new(Ram(Mutex::new(vec![0; RAM_LEN])));
    let Ok(gic) = Gic::new(CONFIG, ram.clone(), Box::new(|_| ())) else { return };
    let mut program = Program::new(data);
    for _ in 0..OPERATION_COUNT_MAX {
        if program.is_over() {
            break;
        }
        operate(&gic, &ram, &mut program);
    }
    check_acknowledge(&gic);
    check_restore(&gic, ram);
}

fn operate(gic: &Gic, ram: &Ram, program: &mut Program<'_>) {
    let operation = program.byte();
    let size = 1 << (program.byte() % 5);
    match operation % 16 {
        0 | 1 => gic.dist_write(program.fixed(2), size, value(program)),
        2 => _ = gic.dist_read(program.fixed(2), size),
        3 | 4 => gic.redist_write(program.fixed(3), size, value(program)),
        5 => _ = gic.redist_read(program.fixed(3), size),
        6 | 7 => gic.its_write(program.fixed(2), size, value(program)),
        8 => _ = gic.its_read(program.fixed(3), size),
        9 => _ = gic.icc_write(vcpu(program), register(program), value(program)),
        10 => _ = gic.icc_read(vcpu(program), register(program)),
        11 => gic.set_level(u32::from(program.byte()), operation & 16 != 0),
        12 => gic.set_ppi_level(vcpu(program), u32::from(program.byte()), operation & 16 != 0),
        13 => gic.pulse(u32::from(program.byte())),
        14 => _ = gic.signal_msi(u32::from(program.byte() % 4), u32::from(program.byte() % 32)),
        _ => {
            ram.write(RAM_BASE + program.fixed(3), &value(program).to_le_bytes());
            gic.its_step(u32::from(size));
        }
    }
}

/// Each vCPU takes what it is told of until nothing is left to preempt with.
fn check_acknowledge(gic: &Gic) {
    for vcpu in 0..CONFIG.vcpu_count {
        // Each acknowledge raises the running priority, of which there are 32.
        for _ in 0..=32 {
            let high = gic.irq_line(vcpu).load(Ordering::Acquire);
            let intid = gic.icc_read(vcpu, ICC_IAR1);
            let spurious = intid == Some(INTID_SPURIOUS);
            assert!(high != spurious, "line of vCPU {vcpu} was {high}, acknowledged {intid:?}");
            if !high {
                break;
            }
        }
        assert!(!gic.irq_line(vcpu).load(Ordering::Acquire), "vCPU {vcpu} preempts without end");
    }
}

fn check_restore(gic: &Gic, ram: Arc<Ram>) {
    let (saved, its) = (gic.save(), gic.save_its());
    let again = Gic::restore(CONFIG, ram, Box::new(|_| ()), &saved, its.as_ref());
    let Ok(again) = again else { unreachable!("a state of the same shape is accepted") };
    assert!(again.save() == saved, "the GIC's state changed over a restore");
    assert!(again.save_its() == its, "the ITS's state changed over a restore");
}

#[cfg(test)]
mod tests;
