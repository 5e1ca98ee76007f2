// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Whether this host's KVM signals every end of a level interrupt: probed with a guest of a few instructions.
//!
//! A VM of its own takes one level-triggered interrupt, ends it at once, and switches itself off. A KVM without the
//! defect has signalled the resamplefd by then. That of Linux 7.3 has not: it detects the end only of interrupts that
//! were active at an earlier exit of the vCPU. No capability distinguishes the two.

use super::cpu::Cpu;
use super::gic::Gic;
use super::memslots::{Kind, Slot};
use super::registers::core;
use super::sys;
use crate::interrupts::controller::ResampledLine;
use ipc::protocol::control::Failure;
use kvm_bindings::{KVM_ARM_IRQ_TYPE_SHIFT, KVM_ARM_IRQ_TYPE_SPI, KVM_SYSTEM_EVENT_SHUTDOWN};
use kvm_ioctls::{Kvm, VcpuExit};
use machine::layout::{GIC_DISTRIBUTOR, IPA_BITS, RAM_BASE, SPI_BASE};
use std::os::fd::{AsFd, OwnedFd};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::errno::Error as Errno;

/// RAM of the guest: its code and its vectors.
const RAM_LEN: u64 = 0x1_0000;
/// Where the vector of an IRQ from the current exception level lies: VBAR_EL1 is RAM_BASE + 0x800.
const IRQ_VECTOR: u64 = 0x800 + 0x280;

/// The interrupt: the first SPI, whose GSI is 0.
const INTID: u32 = SPI_BASE;

/// The register with the acknowledged INTID. (KVM's ids count core registers in words of 32 bits.)
const X5: u64 = core::X0 + 5 * 2;

/// Enables the interrupt and spins until it comes, a million iterations at most; then switches the VM off (PSCI).
const CODE: [u32; 21] = [
    0xd2a1_0201, // mov   x1, #GICD
    0x5280_0242, // mov   w2, #(ARE | EnableGrp1)
    0xb900_0022, // str   w2, [x1, #GICD_CTLR]
    0x5280_0022, // mov   w2, #1
    0xb900_8422, // str   w2, [x1, #GICD_IGROUPR1]
    0xb901_0422, // str   w2, [x1, #GICD_ISENABLER1]
    0xd2a8_0003, // movz  x3, #0x4000, lsl #16
    0xf281_0003, // movk  x3, #0x800
    0xd518_c003, // msr   vbar_el1, x3
    0xd280_1e02, // mov   x2, #0xf0
    0xd518_4602, // msr   icc_pmr_el1, x2
    0xd280_0022, // mov   x2, #1
    0xd518_cce2, // msr   icc_igrpen1_el1, x2
    0xd503_3fdf, // isb
    0xd2a0_0204, // mov   x4, #0x100000
    0xd503_42ff, // msr   daifclr, #2
    0xf100_0484, // subs  x4, x4, #1
    0x54ff_ffe1, // b.ne  . - 4
    0xd2b0_8000, // mov   x0, #0x84000000
    0xf280_0100, // movk  x0, #0x8
    0xd400_0002, // hvc   #0
];

/// Acknowledges the interrupt, ends it, and switches the VM off.
const HANDLER: [u32; 6] = [
    0xd538_cc05, // mrs   x5, icc_iar1_el1
    0xd518_cc25, // msr   icc_eoir1_el1, x5
    0xd503_3fdf, // isb
    0xd2b0_8000, // mov   x0, #0x84000000
    0xf280_0100, // movk  x0, #0x8
    0xd400_0002, // hvc   #0
];

// The addresses in the code are of this machine's map.
const _: () = assert!(GIC_DISTRIBUTOR.base == 0x0810_0000 && RAM_BASE == 0x4000_0000);

/// Whether the end of a level interrupt may be lost. `line` and `unused` are eventfds of the caller's, not on any
/// irqfd.
pub fn are_lost(kvm: &Kvm, line: &ResampledLine, unused: &OwnedFd, page_len: u64) -> Result<bool, Failure> {
    let fail = |step: &'static str| move |errno: Errno| Failure::new(step, errno);
    let len = RAM_LEN.next_multiple_of(page_len);
    let ram = usize::try_from(len)
        .map_err(|error| error.to_string())
        .and_then(|len| {
            GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(RAM_BASE), len)])
                .map_err(|error| error.to_string())
        })
        .map_err(|why| Failure::new("map the probe's memory", why))?;
    for (offset, words) in [(0, &CODE[..]), (IRQ_VECTOR, &HANDLER)] {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        ram.write_slice(&bytes, GuestAddress(RAM_BASE + offset))
            .map_err(|error| Failure::new("write the probe's code", error))?;
    }
    // Declared after its memory, and so dropped before it.
    let vm = kvm.create_vm_with_ipa_size(IPA_BITS).map_err(fail("create the probe's VM"))?;
    let slot = Slot { number: 0, gpa: RAM_BASE, len, kind: Kind::Ram };
    sys::set_memory(&vm, &slot, &ram, false).map_err(fail("add the probe's memory slot"))?;
    let cpu = Cpu::new(&vm, 0, false)?;
    let _gic = Gic::new(&vm, 1)?;
    cpu.start_at(RAM_BASE, 0)?;
    sys::irqfd(&vm, unused.as_fd(), Some(line.fell.as_fd()), INTID - SPI_BASE, true)
        .map_err(fail("assign the irqfd of the probe's line"))?;
    vm.set_irq_line(KVM_ARM_IRQ_TYPE_SPI << KVM_ARM_IRQ_TYPE_SHIFT | INTID, true)
        .map_err(fail("raise the probe's line"))?;
    let off = loop {
        match cpu.fd().run() {
            Ok(VcpuExit::SystemEvent(KVM_SYSTEM_EVENT_SHUTDOWN, _)) => break Ok(()),
            Ok(VcpuExit::Intr) => {}
            Ok(other) => break Err(format!("KVM_RUN ended with {other:?}")),
            Err(errno) if [libc::EINTR, libc::EAGAIN].contains(&errno.errno()) => {}
            Err(errno) => break Err(format!("KVM_RUN failed: {errno}")),
        }
    };
    off.map_err(|why| Failure::new("run the probe", why))?;
    let taken = cpu.register(X5)?;
    if taken != u64::from(INTID) {
        return Err(Failure::new("run the probe", format!("it took interrupt {taken}, not {INTID}")));
    }
    Ok(rustix::io::read(&line.fell, &mut [0; 8]).is_err())
}

#[cfg(test)]
mod tests;
