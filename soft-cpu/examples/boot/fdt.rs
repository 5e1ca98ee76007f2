// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The device tree of the machine.

use vm_fdt::{FdtWriter, FdtWriterResult};

use crate::Options;
use crate::machine::{GICD, GICR, GICR_LEN, RAM, UART, UART_SPI};

const GIC_PHANDLE: u32 = 1;

pub fn build(options: &Options, ram_len: u64, initrd: Option<(u64, u64)>) -> Vec<u8> {
    write(options, ram_len, initrd).expect("a device tree")
}

fn write(options: &Options, ram_len: u64, initrd: Option<(u64, u64)>) -> FdtWriterResult<Vec<u8>> {
    let mut fdt = FdtWriter::new()?;
    let root = fdt.begin_node("")?;
    fdt.property_string("compatible", "linux,dummy-virt")?;
    fdt.property_u32("#address-cells", 2)?;
    fdt.property_u32("#size-cells", 2)?;
    fdt.property_u32("interrupt-parent", GIC_PHANDLE)?;

    let chosen = fdt.begin_node("chosen")?;
    fdt.property_string("bootargs", &options.append)?;
    if let Some((start, end)) = initrd {
        fdt.property_u64("linux,initrd-start", start)?;
        fdt.property_u64("linux,initrd-end", end)?;
    }
    fdt.end_node(chosen)?;

    let memory = fdt.begin_node(&format!("memory@{RAM:x}"))?;
    fdt.property_string("device_type", "memory")?;
    fdt.property_array_u64("reg", &[RAM, ram_len])?;
    fdt.end_node(memory)?;

    let cpus = fdt.begin_node("cpus")?;
    fdt.property_u32("#address-cells", 1)?;
    fdt.property_u32("#size-cells", 0)?;
    for vcpu in 0..options.vcpus as u32 {
        let affinity = (vcpu >> 4) << 8 | vcpu & 0xf;
        let cpu = fdt.begin_node(&format!("cpu@{affinity:x}"))?;
        fdt.property_string("device_type", "cpu")?;
        fdt.property_string("compatible", "arm,armv8")?;
        fdt.property_string("enable-method", "psci")?;
        fdt.property_u32("reg", affinity)?;
        fdt.end_node(cpu)?;
    }
    fdt.end_node(cpus)?;

    let psci = fdt.begin_node("psci")?;
    fdt.property_string_list("compatible", vec!["arm,psci-1.0".to_owned(), "arm,psci-0.2".to_owned()])?;
    fdt.property_string("method", "hvc")?;
    fdt.end_node(psci)?;

    // Private interrupts 13, 14, 11, 10, level triggered.
    let timer = fdt.begin_node("timer")?;
    fdt.property_string("compatible", "arm,armv8-timer")?;
    fdt.property_array_u32("interrupts", &[1, 13, 4, 1, 14, 4, 1, 11, 4, 1, 10, 4])?;
    fdt.property_null("always-on")?;
    fdt.end_node(timer)?;

    let gic = fdt.begin_node(&format!("interrupt-controller@{GICD:x}"))?;
    fdt.property_string("compatible", "arm,gic-v3")?;
    fdt.property_null("interrupt-controller")?;
    fdt.property_u32("#interrupt-cells", 3)?;
    fdt.property_array_u64("reg", &[GICD, 0x1_0000, GICR, GICR_LEN * options.vcpus as u64])?;
    fdt.property_u32("phandle", GIC_PHANDLE)?;
    fdt.end_node(gic)?;

    // Shared interrupt, rising edge.
    let uart = fdt.begin_node(&format!("serial@{UART:x}"))?;
    fdt.property_string("compatible", "ns16550a")?;
    fdt.property_array_u64("reg", &[UART, 0x1000])?;
    fdt.property_array_u32("interrupts", &[0, UART_SPI, 1])?;
    fdt.property_u32("clock-frequency", 1_843_200)?;
    fdt.end_node(uart)?;

    fdt.end_node(root)?;
    fdt.finish()
}
