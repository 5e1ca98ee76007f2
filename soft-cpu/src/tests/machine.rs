// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A bare machine for tests: one CPU, a little RAM, and a recorder of everything that the CPU does outside of RAM.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use vm_memory::{GuestAddress, GuestMemoryMmap};

use crate::bus::Mmio;
use crate::clock::Clock;
use crate::cluster::Cluster;
use crate::dirty::DirtySink;
use crate::interrupt::InterruptController;
use crate::ram::GuestRam;
use crate::{Vcpu, VcpuParts};

pub const RAM: u64 = 0x4000_0000;
pub const RAM_LEN: u64 = 0x20_0000;
/// Where `step` and `run` put their code.
pub const CODE: u64 = RAM + 0x1000;
pub const VECTORS: u64 = RAM + 0x8000;
pub const DATA: u64 = RAM + 0x1_0000;
pub const TABLES: u64 = RAM + 0x10_0000;
/// Register pages: reads hit memory, writes go to the bus.
pub const READ_ONLY: u64 = 0x0900_0000;
/// An address that only the bus answers for.
pub const DEVICE: u64 = 0x0a00_0000;
pub const NOP: u32 = 0xd503_201f;
/// A branch to itself: what all vectors hold.
const LOOP: u32 = 0x1400_0000;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BusAccess {
    Read { gpa: u64, size: u8 },
    Write { gpa: u64, size: u8, value: u64 },
}

/// What the CPU did to the outside.
#[derive(Default)]
pub struct World {
    pub line: AtomicBool,
    pub accesses: Mutex<Vec<BusAccess>>,
    pub marks: Mutex<Vec<(u64, u64)>>,
    pub levels: Mutex<Vec<(u32, bool)>>,
}

impl Mmio for World {
    fn read(&self, _vcpu: usize, gpa: u64, size: u8) -> u64 {
        self.accesses.lock().unwrap().push(BusAccess::Read { gpa, size });
        0x8877_6655_4433_2211
    }

    fn write(&self, _vcpu: usize, gpa: u64, size: u8, value: u64) {
        self.accesses.lock().unwrap().push(BusAccess::Write { gpa, size, value });
    }
}

impl DirtySink for World {
    fn mark(&self, gpa: u64, len: u64) {
        self.marks.lock().unwrap().push((gpa, len));
    }
}

impl InterruptController for World {
    fn irq_line(&self, _vcpu: usize) -> &AtomicBool {
        &self.line
    }

    fn icc_read(&self, _vcpu: usize, _sysreg: u16) -> Option<u64> {
        None
    }

    fn icc_write(&self, _vcpu: usize, _sysreg: u16, _value: u64) -> bool {
        false
    }

    fn reset_cpu_interface(&self, _vcpu: usize) {}

    fn set_ppi_level(&self, _vcpu: usize, intid: u32, high: bool) {
        self.levels.lock().unwrap().push((intid, high));
        self.line.store(high, Ordering::SeqCst);
    }
}

pub struct Guest {
    pub vcpu: Vcpu,
    pub parts: VcpuParts,
    pub world: Arc<World>,
    /// Next free table page, and the tables of both halves: what `map` builds on.
    next_table: u64,
}

/// Descriptor bits for `map`.
pub mod page {
    pub const VALID: u64 = 3;
    pub const DEVICE: u64 = 1 << 2;
    pub const EL0: u64 = 1 << 6;
    pub const READ_ONLY: u64 = 1 << 7;
    pub const ACCESSED: u64 = 1 << 10;
    pub const NOT_GLOBAL: u64 = 1 << 11;
    pub const PXN: u64 = 1 << 53;
    pub const UXN: u64 = 1 << 54;
    /// Normal memory that EL1 may do anything with.
    pub const KERNEL: u64 = VALID | ACCESSED;
    /// Normal memory that EL0 may read and write.
    pub const USER: u64 = KERNEL | EL0;
}

/// Both halves of 39 bits, 4 KiB granule, 40-bit addresses, 16-bit ASIDs from TTBR0.
pub const TCR: u64 = 25 | 25 << 16 | 2 << 30 | 2 << 32 | 1 << 36;

/// The parts of a machine of `vcpu_count` CPUs.
pub fn parts(vcpu_count: usize) -> (VcpuParts, Arc<World>) {
    let memory = |gpa, len| {
        let ranges = [(GuestAddress(gpa), len as usize)];
        Arc::new(GuestMemoryMmap::from_ranges(&ranges).unwrap())
    };
    let world = Arc::new(World::default());
    let parts = VcpuParts {
        ram: GuestRam::new(memory(RAM, RAM_LEN), Some(memory(READ_ONLY, 0x1000))).unwrap(),
        interrupts: Arc::clone(&world) as _,
        mmio: Arc::clone(&world) as _,
        dirty: Arc::clone(&world) as _,
        clock: Arc::new(Clock::new()),
        cluster: Cluster::new(vcpu_count),
    };
    (parts, world)
}

impl Guest {
    /// At EL1 with translation off, floating point on, everything masked, vectors at `VECTORS`.
    pub fn new() -> Guest {
        let (parts, world) = parts(1);
        let mut vcpu = Vcpu::new(0, parts.clone());
        vcpu.cpu.sys.vbar = VECTORS;
        vcpu.cpu.sys.cpacr = 3 << 20;
        vcpu.cpu.powered = true;
        vcpu.cpu.pc = CODE;
        let guest = Guest { vcpu, parts, world, next_table: TABLES + 0x2000 };
        guest.place(VECTORS, &[LOOP; 0x200]);
        guest
    }

    pub fn place(&self, at: u64, words: &[u32]) {
        for (index, word) in (0..).zip(words) {
            assert!(self.parts.ram.write::<2>(at + 4 * index, u64::from(*word)));
        }
    }

    /// Runs one instruction, from `CODE`.
    pub fn step(&mut self, word: u32) {
        self.run(&[word]);
    }

    /// Runs as many operations as there are words, from `CODE`.
    pub fn run(&mut self, words: &[u32]) {
        self.place(CODE, words);
        self.vcpu.cpu.code_changes.push(crate::code::CodeChange::All);
        self.vcpu.cpu.pc = CODE;
        self.vcpu.run_steps(words.len() as u32);
    }

    /// Turns translation on, with RAM below `TABLES` mapped flat for EL1, as global pages.
    pub fn translated() -> Guest {
        let mut guest = Guest::new();
        for gpa in (RAM..DATA + 0x1_0000).step_by(0x1000) {
            guest.map(gpa, gpa | page::KERNEL);
        }
        guest.vcpu.cpu.sys.tcr = TCR;
        guest.vcpu.cpu.sys.ttbr0 = TABLES;
        guest.vcpu.cpu.sys.ttbr1 = TABLES + 0x1000;
        guest.vcpu.cpu.sys.mair = 0x00ff;
        guest.vcpu.cpu.sys.sctlr |= 1;
        guest.vcpu.cpu.update_regime();
        guest
    }

    /// The address of the level 3 descriptor for `va`, making tables as needed.
    pub fn descriptor_at(&mut self, va: u64) -> u64 {
        let mut table = if va >> 63 == 1 { TABLES + 0x1000 } else { TABLES };
        for shift in [30, 21] {
            let entry = table + (va >> shift & 0x1ff) * 8;
            if self.read(entry) == 0 {
                self.write(entry, self.next_table | 3);
                self.next_table += 0x1000;
            }
            table = self.read(entry) & 0xffff_ffff_f000;
        }
        table + (va >> 12 & 0x1ff) * 8
    }

    /// Maps the page of `va` with a level 3 descriptor. Does not flush.
    pub fn map(&mut self, va: u64, descriptor: u64) {
        let at = self.descriptor_at(va);
        self.write(at, descriptor);
    }

    /// Goes to EL0, with translation as it is.
    pub fn drop_to_el0(&mut self) {
        self.vcpu.cpu.sys.spsr = 0;
        self.vcpu.cpu.sys.elr = CODE;
        self.vcpu.cpu.exception_return();
    }

    pub fn x(&self, slot: u8) -> u64 {
        self.vcpu.cpu.r(slot)
    }

    pub fn set_x(&mut self, slot: u8, value: u64) {
        self.vcpu.cpu.w(slot, value);
    }

    pub fn read(&self, gpa: u64) -> u64 {
        self.parts.ram.read::<3>(gpa).unwrap()
    }

    pub fn write(&self, gpa: u64, value: u64) {
        assert!(self.parts.ram.write::<3>(gpa, value));
    }

    /// ESR_EL1.EC of an exception just taken, and the rest of the syndrome.
    pub fn syndrome(&self) -> (u64, u64) {
        let esr = self.vcpu.cpu.sys.esr;
        (esr >> 26, esr & 0x1ff_ffff)
    }

    /// Asserts that the last instruction took a synchronous exception of class `class` from the current level.
    #[track_caller]
    pub fn expect_exception(&self, class: u64, iss: u64, offset: u64) {
        assert_eq!(self.vcpu.cpu.pc, VECTORS + offset, "the vector");
        assert_eq!(self.syndrome(), (class, iss), "class and syndrome {:x?}", self.syndrome());
    }

    /// Asserts that no exception was taken.
    #[track_caller]
    pub fn expect_none(&self) {
        assert!(
            !(VECTORS..VECTORS + 0x800).contains(&self.vcpu.cpu.pc),
            "exception at {:#x}, syndrome {:x?}, far {:#x}",
            self.vcpu.cpu.pc,
            self.syndrome(),
            self.vcpu.cpu.sys.far
        );
    }
}
