// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The device tree of `bulkhead-virt-1` (Devicetree Specification v0.4 and the Linux bindings of each node).
//!
//! Written by the coordinator into guest RAM before the first instruction. It says what [`super::layout`]
//! says and nothing else: a device that is not in the map is not in the tree.

use super::MachineConfig;
use super::layout::{
    GIC_DISTRIBUTOR, GIC_ITS, GIC_REDISTRIBUTORS, MACHINE_NAME, MSI_HOLE, PCI_ECAM, PCI_IO, PCI_MMIO32,
    PCI_MMIO64, RAM_BASE, REDISTRIBUTOR_LEN, RTC, SMMU0, UART, Window, ppi, spi,
};
use vm_fdt::{Error, FdtWriter};

/// The boot protocol's limit for a device tree, in bytes.
pub const FDT_LEN_MAX: u64 = 0x20_0000;

const PHANDLE_GIC: u32 = 1;
const PHANDLE_ITS: u32 = 2;
const PHANDLE_CLOCK: u32 = 3;
const PHANDLE_SMMU0: u32 = 4;
const PHANDLE_MSI_WINDOW: u32 = 5;
/// Of the nested device in slot 0; the others follow by slot.
const PHANDLE_NESTED: u32 = 0x100;

/// First interrupt cell of the GIC binding.
const GIC_SPI: u32 = 0;
const GIC_PPI: u32 = 1;
/// Third interrupt cell: trigger.
const IRQ_EDGE_RISING: u32 = 1;
const IRQ_LEVEL_HIGH: u32 = 4;

/// PCI address space codes in the first cell of `ranges` (IEEE 1275 PCI binding).
const PCI_SPACE_IO: u32 = 0x0100_0000;
const PCI_SPACE_MMIO32: u32 = 0x0200_0000;
const PCI_SPACE_MMIO64_PREFETCHABLE: u32 = 0x4300_0000;
/// Requester ids of the host bridge: all of them.
const REQUESTER_ID_COUNT: u32 = 0x1_0000;
/// `interrupt-map-mask`: device number bits of the first address cell; interrupt pin.
const PCI_DEVICE_MASK: u32 = 0xf800;

/// Guest physical range of the initramfs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InitramfsRange {
    /// First byte.
    pub start: u64,
    /// First byte after it.
    pub end: u64,
}

/// Builds the tree; the error is a name or string that the format cannot hold.
pub fn build(config: &MachineConfig, initramfs: Option<InitramfsRange>) -> Result<Vec<u8>, Error> {
    let mut fdt = FdtWriter::new()?;
    let root = fdt.begin_node("")?;
    fdt.property_string("compatible", "linux,dummy-virt")?;
    fdt.property_string("model", MACHINE_NAME)?;
    fdt.property_u32("#address-cells", 2)?;
    fdt.property_u32("#size-cells", 2)?;
    fdt.property_u32("interrupt-parent", PHANDLE_GIC)?;
    fdt.property_null("dma-coherent")?;

    chosen(&mut fdt, config, initramfs)?;
    memory(&mut fdt, config)?;
    cpus(&mut fdt, config)?;
    psci(&mut fdt)?;
    timer(&mut fdt)?;
    if config.pmu {
        pmu(&mut fdt)?;
    }
    gic(&mut fdt, config)?;
    clock(&mut fdt)?;
    uart(&mut fdt)?;
    rtc(&mut fdt)?;
    smmu(&mut fdt)?;
    pci(&mut fdt, &config.nested_slots)?;
    if !config.nested_slots.is_empty() {
        msi_window(&mut fdt, &config.nested_slots)?;
    }

    fdt.end_node(root)?;
    fdt.finish()
}

fn reg(window: Window) -> [u64; 2] {
    [window.base, window.len]
}

fn node_name(kind: &str, window: Window) -> String {
    format!("{kind}@{:x}", window.base)
}

/// Address or length as the two 32-bit cells that `ranges` wants between other cells.
fn cells(value: u64) -> [u32; 2] {
    let [a, b, c, d, e, f, g, h] = value.to_be_bytes();
    [u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([e, f, g, h])]
}

fn chosen(
    fdt: &mut FdtWriter,
    config: &MachineConfig,
    initramfs: Option<InitramfsRange>,
) -> Result<(), Error> {
    let node = fdt.begin_node("chosen")?;
    fdt.property_string("bootargs", &config.cmdline)?;
    fdt.property_string("stdout-path", &format!("/{}", node_name("serial", UART)))?;
    // BARs are placed by us and stay where they are.
    fdt.property_u32("linux,pci-probe-only", 1)?;
    let (kaslr, rng) = config.rng_seed.split_at(8);
    fdt.property("kaslr-seed", kaslr)?;
    fdt.property("rng-seed", rng)?;
    if let Some(range) = initramfs {
        fdt.property_u64("linux,initrd-start", range.start)?;
        fdt.property_u64("linux,initrd-end", range.end)?;
    }
    fdt.end_node(node)
}

fn memory(fdt: &mut FdtWriter, config: &MachineConfig) -> Result<(), Error> {
    let node = fdt.begin_node(&format!("memory@{RAM_BASE:x}"))?;
    fdt.property_string("device_type", "memory")?;
    fdt.property_array_u64("reg", &[RAM_BASE, config.ram_len])?;
    fdt.end_node(node)
}

fn cpus(fdt: &mut FdtWriter, config: &MachineConfig) -> Result<(), Error> {
    let cpus = fdt.begin_node("cpus")?;
    fdt.property_u32("#address-cells", 1)?;
    fdt.property_u32("#size-cells", 0)?;
    for index in 0..config.vcpu_count {
        let mpidr = mpidr_affinity(index);
        let node = fdt.begin_node(&format!("cpu@{mpidr:x}"))?;
        fdt.property_string("device_type", "cpu")?;
        fdt.property_string("compatible", "arm,armv8")?;
        fdt.property_string("enable-method", "psci")?;
        fdt.property_u32("reg", mpidr)?;
        fdt.end_node(node)?;
    }
    fdt.end_node(cpus)
}

/// Affinity of a vCPU as in MPIDR_EL1: 16 to a cluster, since a GICv3 SGI target list has 16 bits.
pub fn mpidr_affinity(vcpu_index: u32) -> u32 {
    (vcpu_index & 0xf) | (vcpu_index >> 4) << 8
}

fn psci(fdt: &mut FdtWriter) -> Result<(), Error> {
    let node = fdt.begin_node("psci")?;
    fdt.property_string_list("compatible", vec!["arm,psci-1.0".into(), "arm,psci-0.2".into()])?;
    fdt.property_string("method", "hvc")?;
    fdt.end_node(node)
}

fn timer(fdt: &mut FdtWriter) -> Result<(), Error> {
    let node = fdt.begin_node("timer")?;
    fdt.property_string("compatible", "arm,armv8-timer")?;
    let lines = [ppi::TIMER_SECURE, ppi::TIMER_PHYSICAL, ppi::TIMER_VIRTUAL, ppi::TIMER_HYPERVISOR];
    let interrupts: Vec<u32> = lines.iter().flat_map(|line| [GIC_PPI, *line, IRQ_LEVEL_HIGH]).collect();
    fdt.property_array_u32("interrupts", &interrupts)?;
    fdt.property_null("always-on")?;
    fdt.end_node(node)
}

fn pmu(fdt: &mut FdtWriter) -> Result<(), Error> {
    let node = fdt.begin_node("pmu")?;
    fdt.property_string("compatible", "arm,armv8-pmuv3")?;
    fdt.property_array_u32("interrupts", &[GIC_PPI, ppi::PMU, IRQ_LEVEL_HIGH])?;
    fdt.end_node(node)
}

fn gic(fdt: &mut FdtWriter, config: &MachineConfig) -> Result<(), Error> {
    let node = fdt.begin_node(&node_name("interrupt-controller", GIC_DISTRIBUTOR))?;
    fdt.property_string("compatible", "arm,gic-v3")?;
    fdt.property_null("interrupt-controller")?;
    fdt.property_u32("#interrupt-cells", 3)?;
    fdt.property_u32("#address-cells", 2)?;
    fdt.property_u32("#size-cells", 2)?;
    fdt.property_null("ranges")?;
    let redistributors = u64::from(config.vcpu_count) * REDISTRIBUTOR_LEN;
    let [base, len] = reg(GIC_DISTRIBUTOR);
    fdt.property_array_u64("reg", &[base, len, GIC_REDISTRIBUTORS.base, redistributors])?;
    fdt.property_phandle(PHANDLE_GIC)?;

    let its = fdt.begin_node(&node_name("msi-controller", GIC_ITS))?;
    fdt.property_string("compatible", "arm,gic-v3-its")?;
    fdt.property_null("msi-controller")?;
    fdt.property_u32("#msi-cells", 1)?;
    fdt.property_array_u64("reg", &reg(GIC_ITS))?;
    fdt.property_phandle(PHANDLE_ITS)?;
    fdt.end_node(its)?;
    fdt.end_node(node)
}

fn clock(fdt: &mut FdtWriter) -> Result<(), Error> {
    let node = fdt.begin_node("apb-pclk")?;
    fdt.property_string("compatible", "fixed-clock")?;
    fdt.property_u32("#clock-cells", 0)?;
    fdt.property_u32("clock-frequency", 24_000_000)?;
    fdt.property_string("clock-output-names", "clk24mhz")?;
    fdt.property_phandle(PHANDLE_CLOCK)?;
    fdt.end_node(node)
}

fn uart(fdt: &mut FdtWriter) -> Result<(), Error> {
    let node = fdt.begin_node(&node_name("serial", UART))?;
    fdt.property_string("compatible", "ns16550a")?;
    fdt.property_array_u64("reg", &reg(UART))?;
    fdt.property_array_u32("interrupts", &[GIC_SPI, spi::UART, IRQ_EDGE_RISING])?;
    fdt.property_u32("clock-frequency", 1_843_200)?;
    fdt.end_node(node)
}

fn rtc(fdt: &mut FdtWriter) -> Result<(), Error> {
    let node = fdt.begin_node(&node_name("rtc", RTC))?;
    fdt.property_string_list("compatible", vec!["arm,pl031".into(), "arm,primecell".into()])?;
    fdt.property_array_u64("reg", &reg(RTC))?;
    fdt.property_array_u32("interrupts", &[GIC_SPI, spi::RTC, IRQ_LEVEL_HIGH])?;
    fdt.property_u32("clocks", PHANDLE_CLOCK)?;
    fdt.property_string("clock-names", "apb_pclk")?;
    fdt.end_node(node)
}

fn smmu(fdt: &mut FdtWriter) -> Result<(), Error> {
    let node = fdt.begin_node(&node_name("iommu", SMMU0))?;
    fdt.property_string("compatible", "arm,smmu-v3")?;
    fdt.property_array_u64("reg", &reg(SMMU0))?;
    let lines = [spi::SMMU0_EVENTQ, spi::SMMU0_GERROR, spi::SMMU0_CMD_SYNC];
    let interrupts: Vec<u32> = lines.iter().flat_map(|line| [GIC_SPI, *line, IRQ_EDGE_RISING]).collect();
    fdt.property_array_u32("interrupts", &interrupts)?;
    let names = ["eventq", "gerror", "cmdq-sync"].map(String::from);
    fdt.property_string_list("interrupt-names", names.to_vec())?;
    fdt.property_u32("#iommu-cells", 1)?;
    fdt.property_null("dma-coherent")?;
    fdt.property_phandle(PHANDLE_SMMU0)?;
    fdt.end_node(node)
}

fn pci(fdt: &mut FdtWriter, nested_slots: &[u8]) -> Result<(), Error> {
    let node = fdt.begin_node(&node_name("pcie", PCI_ECAM))?;
    fdt.property_string("compatible", "pci-host-ecam-generic")?;
    fdt.property_string("device_type", "pci")?;
    fdt.property_array_u64("reg", &reg(PCI_ECAM))?;
    fdt.property_u32("linux,pci-domain", 0)?;
    fdt.property_array_u32("bus-range", &[0, 0xff])?;
    fdt.property_u32("#address-cells", 3)?;
    fdt.property_u32("#size-cells", 2)?;
    fdt.property_null("dma-coherent")?;
    fdt.property_array_u32("ranges", &pci_ranges())?;
    fdt.property_array_u32("iommu-map", &[0, PHANDLE_SMMU0, 0, REQUESTER_ID_COUNT])?;
    fdt.property_array_u32("msi-map", &[0, PHANDLE_ITS, 0, REQUESTER_ID_COUNT])?;

    fdt.property_u32("#interrupt-cells", 1)?;
    fdt.property_array_u32("interrupt-map-mask", &[PCI_DEVICE_MASK, 0, 0, 7])?;
    fdt.property_array_u32("interrupt-map", &interrupt_map())?;
    for slot in nested_slots.iter().copied().map(u32::from) {
        let device = fdt.begin_node(&format!("device@{slot:x}"))?;
        fdt.property_array_u32("reg", &[slot << 11, 0, 0, 0, 0])?;
        fdt.property_u32("memory-region", PHANDLE_MSI_WINDOW)?;
        fdt.property_phandle(PHANDLE_NESTED + slot)?;
        fdt.end_node(device)?;
    }
    fdt.end_node(node)
}

/// Bus address, CPU address and length of each window. Memory has the same address on both sides, I/O begins at 0 on
/// the bus.
fn pci_ranges() -> Vec<u32> {
    let spaces = [
        (PCI_SPACE_IO, 0, PCI_IO),
        (PCI_SPACE_MMIO32, PCI_MMIO32.base, PCI_MMIO32),
        (PCI_SPACE_MMIO64_PREFETCHABLE, PCI_MMIO64.base, PCI_MMIO64),
    ];
    let of = |(space, bus, window): (u32, u64, Window)| {
        let ([bus_high, bus_low], [high, low]) = (cells(bus), cells(window.base));
        let [len_high, len_low] = cells(window.len);
        [space, bus_high, bus_low, high, low, len_high, len_low]
    };
    spaces.into_iter().flat_map(of).collect()
}

/// The host programs a nested device's messages with addresses in a window of its own, untranslated by us: the guest's
/// stage 1 must map that window flat. A reserved region whose `iommu-addresses` are its own says so; Linux then lists
/// it as `direct` among the group's reserved regions. In it an address has the three cells of the PCI bus, a size has
/// two.
fn msi_window(fdt: &mut FdtWriter, nested_slots: &[u8]) -> Result<(), Error> {
    let reserved = fdt.begin_node("reserved-memory")?;
    fdt.property_u32("#address-cells", 2)?;
    fdt.property_u32("#size-cells", 2)?;
    fdt.property_null("ranges")?;
    let node = fdt.begin_node(&node_name("msi-window", MSI_HOLE))?;
    fdt.property_array_u64("reg", &reg(MSI_HOLE))?;
    fdt.property_null("no-map")?;
    let ([high, low], [len_high, len_low]) = (cells(MSI_HOLE.base), cells(MSI_HOLE.len));
    let of = |slot: u32| [PHANDLE_NESTED + slot, PCI_SPACE_MMIO32, high, low, len_high, len_low];
    let addresses: Vec<u32> = nested_slots.iter().copied().map(u32::from).flat_map(of).collect();
    fdt.property_array_u32("iommu-addresses", &addresses)?;
    fdt.property_phandle(PHANDLE_MSI_WINDOW)?;
    fdt.end_node(node)?;
    fdt.end_node(reserved)
}

/// INTA..INTD of each of bus 0's 32 devices, swizzled over the four lines (PCI-to-PCI Bridge spec §9.1).
fn interrupt_map() -> Vec<u32> {
    let mut map = Vec::new();
    for device in 0..32_u32 {
        for (pin, slot) in (1_u32..=4).zip(device..) {
            let line = spi::PCI_INTX.iter().cycle().nth((slot & 3) as usize).copied().unwrap_or_default();
            map.extend([device << 11, 0, 0, pin, PHANDLE_GIC, 0, 0, GIC_SPI, line, IRQ_LEVEL_HIGH]);
        }
    }
    map
}

#[cfg(test)]
mod tests;
