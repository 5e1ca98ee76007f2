// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The instructions on the CPU itself: registers, memory, the access trap and the other exceptions.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use vm_memory::{GuestAddress, GuestMemoryMmap};

use crate::bus::Mmio;
use crate::clock::Clock;
use crate::cluster::Cluster;
use crate::interrupt::InterruptController;
use crate::op::SP;
use crate::ram::GuestRam;
use crate::vcpu::{Vcpu, VcpuParts};

const RAM: u64 = 0x4000_0000;
const VECTORS: u64 = RAM + 0x1000;
const DATA: u64 = RAM + 0x2000;
const ACCESS_TRAPPED: u64 = 0x07;
const STACK_ALIGNMENT: u64 = 0x26;
const DATA_ABORT_EL1: u64 = 0x25;
const FADD_D0_D1_D2: u32 = 0x1e62_2820;

struct Nothing(AtomicBool);

impl InterruptController for Nothing {
    fn irq_line(&self, _vcpu: usize) -> &AtomicBool {
        &self.0
    }

    fn icc_read(&self, _vcpu: usize, _sysreg: u16) -> Option<u64> {
        None
    }

    fn icc_write(&self, _vcpu: usize, _sysreg: u16, _value: u64) -> bool {
        false
    }

    fn reset_cpu_interface(&self, _vcpu: usize) {}

    fn set_ppi_level(&self, _vcpu: usize, _intid: u32, _high: bool) {}
}

impl Mmio for Nothing {
    fn read(&self, _vcpu: usize, _gpa: u64, _size: u8) -> u64 {
        0
    }

    fn write(&self, _vcpu: usize, _gpa: u64, _size: u8, _value: u64) {}
}

/// A CPU at EL1 in front of `words`, translation off, SIMD&FP accessible; X1 and the stack point to data.
fn cpu(words: &[u32]) -> Vcpu {
    let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(RAM), 0x4000)]).expect("memory");
    let nothing = Arc::new(Nothing(AtomicBool::new(false)));
    let mut vcpu = Vcpu::new(
        0,
        VcpuParts {
            ram: GuestRam::new(Arc::new(memory), None).expect("RAM"),
            interrupts: Arc::clone(&nothing) as _,
            mmio: nothing,
            dirty: Arc::new(()),
            clock: Arc::new(Clock::new()),
            cluster: Cluster::new(1),
        },
    );
    for (at, word) in (RAM..).step_by(4).zip(words) {
        assert!(vcpu.cpu.tlb.ram().write::<2>(at, u64::from(*word)));
    }
    let cpu = &mut vcpu.cpu;
    cpu.sys.cpacr = 3 << 20;
    cpu.sys.vbar = VECTORS;
    cpu.update_regime();
    cpu.pc = RAM;
    cpu.w(1, DATA);
    cpu.w(SP, DATA);
    cpu.v[1] = 1.5f64.to_bits().into();
    cpu.v[2] = 2.25f64.to_bits().into();
    vcpu
}

/// Runs until the program counter has left the words or all of them have run.
fn run(vcpu: &mut Vcpu, words: usize) {
    for _ in 0..2 * words {
        if vcpu.cpu.pc == RAM + 4 * words as u64 || vcpu.cpu.pc >= VECTORS {
            break;
        }
        vcpu.run_steps(1);
    }
}

fn run_words(words: &[u32]) -> Vcpu {
    let mut vcpu = cpu(words);
    run(&mut vcpu, words.len());
    assert_eq!(vcpu.cpu.pc, RAM + 4 * words.len() as u64, "no exception");
    vcpu
}

#[test]
fn arithmetic_and_control_registers_reach_the_cpu() {
    // mov x0, #0xc00000; msr fpcr, x0; fadd d0, d1, d2; fmov x3, d0; fcmp d1, d2
    let vcpu = run_words(&[0xd2a0_1800, 0xd51b_4400, FADD_D0_D1_D2, 0x9e66_0003, 0x1e62_2020]);
    assert_eq!(vcpu.cpu.v[0], u128::from(3.75f64.to_bits()));
    assert_eq!(vcpu.cpu.r(3), 3.75f64.to_bits());
    assert_eq!(vcpu.cpu.flags.bits(), 0b1000);
    assert_eq!(vcpu.cpu.fpcr, 3 << 22);
}

#[test]
fn vectors_go_through_memory_unchanged() {
    // stp q1, q2, [sp, #-32]!; ld2 {v4.4s, v5.4s}, [sp], #32; str q4, [x1]; ldr d6, [x1, #8]
    let vcpu = run_words(&[0xadbf_0be1, 0x4cdf_8be4, 0x3d80_0024, 0xfd40_0426]);
    let cpu = &vcpu.cpu;
    assert_eq!(cpu.r(SP), DATA);
    let (one, two) = (1.5f64.to_bits() >> 32, 2.25f64.to_bits() >> 32);
    assert_eq!(cpu.v[5], u128::from(two) << 64 | u128::from(one), "the odd words");
    assert_eq!(cpu.v[4], 0, "the even words");
    assert_eq!(cpu.v[6], 0);
    assert_eq!(cpu.tlb.ram().read::<3>(DATA - 16), Some(2.25f64.to_bits()));
}

#[test]
fn access_is_trapped_as_the_control_register_says() {
    for (control, level, trapped) in
        [(0, 1, true), (1, 1, false), (2, 1, true), (3, 1, false), (1, 0, true), (3, 0, false)]
    {
        for word in [FADD_D0_D1_D2, 0x3dc0_0020, 0x4c40_7020, 0x4f00_0420] {
            let mut vcpu = cpu(&[word]);
            vcpu.cpu.sys.cpacr = control << 20;
            if level == 0 {
                vcpu.cpu.sys.spsr = 0;
                vcpu.cpu.sys.elr = RAM;
                vcpu.cpu.exception_return();
                vcpu.cpu.sys.elr = 0;
            }
            let before = vcpu.cpu.v;
            run(&mut vcpu, 1);
            let cpu = &vcpu.cpu;
            if trapped {
                assert_eq!(cpu.sys.esr, ACCESS_TRAPPED << 26 | 1 << 25 | 1 << 24 | 0xe << 20, "{word:08x}");
                assert_eq!((cpu.sys.elr, cpu.v), (RAM, before), "{word:08x} at EL{level}");
            } else {
                assert_eq!((cpu.pc, cpu.sys.elr), (RAM + 4, 0), "{word:08x} at EL{level}");
            }
        }
    }
}

#[test]
fn unallocated_words_are_undefined_even_without_access() {
    // fadd h0, h1, h2
    for control in [0, 3] {
        let mut vcpu = cpu(&[0x1ee2_2820]);
        vcpu.cpu.sys.cpacr = control << 20;
        run(&mut vcpu, 1);
        assert_eq!((vcpu.cpu.sys.esr, vcpu.cpu.sys.elr), (1 << 25, RAM));
    }
}

#[test]
fn a_misaligned_stack_pointer_faults_before_anything_moves() {
    // ldr q0, [sp], #16
    let mut vcpu = cpu(&[0x3cc1_07e0]);
    vcpu.cpu.sys.sctlr |= 1 << 3;
    vcpu.cpu.update_regime();
    vcpu.cpu.w(SP, DATA + 8);
    run(&mut vcpu, 1);
    assert_eq!(vcpu.cpu.sys.esr >> 26, STACK_ALIGNMENT);
    assert_eq!(vcpu.cpu.r(SP), DATA + 8);
}

#[test]
fn an_abort_reports_the_address_and_keeps_the_registers() {
    // ld1 {v1.16b, v2.16b}, [x1], #32: with translation off memory is Device, where alignment is checked.
    let mut vcpu = cpu(&[0x4cdf_a021]);
    vcpu.cpu.w(1, DATA + 4);
    let before = vcpu.cpu.v;
    run(&mut vcpu, 1);
    let cpu = &vcpu.cpu;
    assert_eq!((cpu.sys.esr >> 26, cpu.sys.esr & 0x7f), (DATA_ABORT_EL1, 0x21));
    assert_eq!((cpu.sys.far, cpu.sys.elr, cpu.r(1)), (DATA + 4, RAM, DATA + 4));
    assert_eq!(cpu.v, before);
}
