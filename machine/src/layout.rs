// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The physical address map and interrupt numbers of `bulkhead-virt-1`.
//!
//! This is guest ABI: a guest that was saved on one host finds the same map on the next. Nothing here may
//! change under this name; another map is another machine version. All windows are below 2^40 (the IPA size).
//! 0x0800_0000-0x080f_ffff stays empty: a host with nested translation puts its MSI doorbell window there
//! and an assigned device's guest maps it flat, so neither RAM nor a device of ours may ever sit in it.

/// Name of this machine version, in the device tree and in saved state.
pub const MACHINE_NAME: &str = "bulkhead-virt-1";

/// A half-open window of guest physical address space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// First guest physical address.
    pub base: u64,
    /// Length in bytes.
    pub len: u64,
}

impl Window {
    const fn new(base: u64, len: u64) -> Self {
        Self { base, len }
    }

    /// First guest physical address after the window.
    pub const fn end(&self) -> u64 {
        self.base + self.len
    }

    /// The offset of `gpa` into the window, if it lies inside.
    pub const fn offset_of(&self, gpa: u64) -> Option<u64> {
        if gpa >= self.base && gpa - self.base < self.len { Some(gpa - self.base) } else { None }
    }
}

/// Kept empty for the host's MSI doorbells (128-129 MiB).
pub const MSI_HOLE: Window = Window::new(0x0800_0000, 0x10_0000);
/// GICv3 distributor.
pub const GIC_DISTRIBUTOR: Window = Window::new(0x0810_0000, 0x1_0000);
/// GICv3 ITS: control frame, then the translation frame.
pub const GIC_ITS: Window = Window::new(0x0820_0000, 0x2_0000);
/// Where a device writes its MSI: GITS_TRANSLATER.
pub const GITS_TRANSLATER: u64 = GIC_ITS.base + 0x1_0040;
/// GICv3 redistributors, two 64 KiB frames for each vCPU in order.
pub const GIC_REDISTRIBUTORS: Window = Window::new(0x0840_0000, REDISTRIBUTOR_LEN * VCPU_COUNT_MAX as u64);
/// One vCPU's redistributor: RD_base and SGI_base frames.
pub const REDISTRIBUTOR_LEN: u64 = 0x2_0000;
/// As many vCPUs as the interrupt controller serves.
pub const VCPU_COUNT_MAX: u32 = ipc::protocol::vcpu::VCPUS_MAX;
/// 16550 serial port.
pub const UART: Window = Window::new(0x0900_0000, 0x1000);
/// PL031 real-time clock.
pub const RTC: Window = Window::new(0x0901_0000, 0x1000);
/// The first vSMMUv3: register pages 0 and 1.
pub const SMMU0: Window = Window::new(0x0905_0000, 0x2_0000);
/// PCI I/O: the bus' I/O addresses from 0 on.
pub const PCI_IO: Window = Window::new(0x0f00_0000, 0x10_0000);
/// PCI memory, 32-bit, not prefetchable.
pub const PCI_MMIO32: Window = Window::new(0x1000_0000, 0x2000_0000);
/// PCI configuration space (ECAM), 256 buses.
pub const PCI_ECAM: Window = Window::new(0x3000_0000, 0x1000_0000);
/// First byte of guest RAM.
pub const RAM_BASE: u64 = 0x4000_0000;
/// RAM ends before the 64-bit PCI window.
pub const RAM_LEN_MAX: u64 = PCI_MMIO64.base - RAM_BASE;
/// PCI memory, 64-bit, prefetchable.
pub const PCI_MMIO64: Window = Window::new(0x80_0000_0000, 0x80_0000_0000);
/// Device numbers on a PCI bus.
pub const PCI_SLOT_COUNT: u8 = 32;

/// The configuration space of function 0 of a device on bus 0.
pub const fn pci_config(slot: u8) -> Window {
    Window::new(PCI_ECAM.base + ((slot as u64) << 15), 0x1000)
}

/// Where the 32-bit BARs of a device on bus 0 lie: each device number has an equal share of the window.
pub const fn pci_area32(slot: u8) -> Window {
    let len = PCI_MMIO32.len / PCI_SLOT_COUNT as u64;
    Window::new(PCI_MMIO32.base + len * slot as u64, len)
}

/// Where its 64-bit prefetchable BARs lie.
pub const fn pci_area64(slot: u8) -> Window {
    let len = PCI_MMIO64.len / PCI_SLOT_COUNT as u64;
    Window::new(PCI_MMIO64.base + len * slot as u64, len)
}

/// Where its I/O BARs lie.
pub const fn pci_area_io(slot: u8) -> Window {
    let len = PCI_IO.len / PCI_SLOT_COUNT as u64;
    Window::new(PCI_IO.base + len * slot as u64, len)
}

/// Bits of a guest physical address.
pub const IPA_BITS: u32 = 40;

/// First INTID of the private peripheral interrupts (GICv3 §2.2).
pub const PPI_BASE: u32 = 16;
/// First INTID of the shared peripheral interrupts (GICv3 §2.2).
pub const SPI_BASE: u32 = 32;
/// Shared peripheral interrupts that the distributor implements.
pub const SPI_COUNT: u32 = 96;

/// Shared peripheral interrupt numbers (INTID = [`SPI_BASE`] + SPI).
pub mod spi {
    /// UART, edge.
    pub const UART: u32 = 1;
    /// RTC alarm, level.
    pub const RTC: u32 = 2;
    /// vSMMU event queue, edge.
    pub const SMMU0_EVENTQ: u32 = 3;
    /// vSMMU global error, edge.
    pub const SMMU0_GERROR: u32 = 4;
    /// vSMMU CMD_SYNC completion, edge.
    pub const SMMU0_CMD_SYNC: u32 = 5;
    /// INTA..INTD of the PCI host bridge, level.
    pub const PCI_INTX: [u32; 4] = [8, 9, 10, 11];

    /// Where INTA of a device on bus 0 ends: the lines take turns, as the device tree's `interrupt-map` says.
    pub const fn pci_inta(slot: u8) -> u32 {
        let [a, b, c, d] = PCI_INTX;
        match slot % 4 {
            0 => a,
            1 => b,
            2 => c,
            _ => d,
        }
    }
}

/// Private peripheral interrupt numbers of the generic timer (INTID = 16 + PPI).
pub mod ppi {
    /// Overflow of the performance monitors.
    pub const PMU: u32 = 7;
    /// Secure physical timer (described, never raised).
    pub const TIMER_SECURE: u32 = 13;
    /// Non-secure EL1 physical timer.
    pub const TIMER_PHYSICAL: u32 = 14;
    /// EL1 virtual timer.
    pub const TIMER_VIRTUAL: u32 = 11;
    /// EL2 physical timer (described, never raised).
    pub const TIMER_HYPERVISOR: u32 = 10;
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEVICES: [Window; 11] = [
        MSI_HOLE,
        GIC_DISTRIBUTOR,
        GIC_ITS,
        GIC_REDISTRIBUTORS,
        UART,
        RTC,
        SMMU0,
        PCI_IO,
        PCI_MMIO32,
        PCI_ECAM,
        PCI_MMIO64,
    ];

    #[test]
    fn windows_in_order_do_not_overlap() {
        for pair in DEVICES.windows(2) {
            assert!(pair[0].end() <= pair[1].base, "{:#x?} runs into {:#x?}", pair[0], pair[1]);
        }
        assert!(PCI_ECAM.end() <= RAM_BASE);
        assert_eq!(RAM_BASE + RAM_LEN_MAX, PCI_MMIO64.base);
        assert_eq!(PCI_MMIO64.end(), 1 << IPA_BITS);
    }

    #[test]
    fn offset_of_edges_are_exact() {
        assert_eq!(UART.offset_of(UART.base), Some(0));
        assert_eq!(UART.offset_of(UART.end() - 1), Some(0xfff));
        assert_eq!(UART.offset_of(UART.end()), None);
        assert_eq!(UART.offset_of(UART.base - 1), None);
    }
}
