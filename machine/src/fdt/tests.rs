// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
use super::*;

fn config() -> MachineConfig {
    MachineConfig {
        ram_len: 0x2000_0000,
        vcpu_count: 2,
        pmu: true,
        cmdline: "console=ttyS0".into(),
        rng_seed: [7; 64],
        nested_slots: Vec::new(),
    }
}

/// Names and strings of a flattened tree, enough to say what is in it.
fn contains(blob: &[u8], text: &str) -> bool {
    blob.windows(text.len()).any(|window| window == text.as_bytes())
}

#[test]
fn build_names_every_device_of_the_map() {
    let blob = build(&config(), Some(InitramfsRange { start: 0x4800_0000, end: 0x4810_0000 })).unwrap();
    assert_eq!(blob[..4], 0xd00d_feed_u32.to_be_bytes());
    for name in [
        "cpu@0",
        "cpu@1",
        "memory@40000000",
        "interrupt-controller@8100000",
        "msi-controller@8200000",
        "serial@9000000",
        "rtc@9010000",
        "iommu@9050000",
        "pcie@30000000",
        "linux,initrd-start",
        "console=ttyS0",
    ] {
        assert!(contains(&blob, name), "{name} is missing");
    }
    assert!((blob.len() as u64) < FDT_LEN_MAX);
}

#[test]
fn build_describes_the_window_of_nested_devices_and_for_no_others() {
    let without = build(&config(), None).unwrap();
    assert!(!contains(&without, "reserved-memory") && !contains(&without, "iommu-addresses"));
    let with = build(&MachineConfig { nested_slots: vec![1, 31], ..config() }, None).unwrap();
    for name in ["reserved-memory", "msi-window@8000000", "device@1", "device@1f", "memory-region"] {
        assert!(contains(&with, name), "{name} is missing");
    }
    // Both devices, each with three cells of address and two of size: the window, at its own address.
    let cells = [PHANDLE_NESTED + 1, 0x0200_0000, 0, 0x0800_0000, 0, 0x10_0000];
    let cells = [cells, [PHANDLE_NESTED + 31, 0x0200_0000, 0, 0x0800_0000, 0, 0x10_0000]].concat();
    let bytes: Vec<u8> = cells.into_iter().flat_map(u32::to_be_bytes).collect();
    assert!(with.windows(bytes.len()).any(|window| window == bytes));
}

#[test]
fn build_describes_performance_monitors_where_the_cpus_have_them() {
    assert!(contains(&build(&config(), None).unwrap(), "arm,armv8-pmuv3"));
    let without = build(&MachineConfig { pmu: false, ..config() }, None).unwrap();
    assert!(!contains(&without, "arm,armv8-pmuv3"));
}

#[test]
fn build_without_initramfs_does_not_mention_one() {
    assert!(!contains(&build(&config(), None).unwrap(), "linux,initrd-start"));
}

#[test]
fn build_cmdline_with_nul_is_an_error() {
    let config = MachineConfig { cmdline: "a\0b".into(), ..config() };
    assert!(build(&config, None).is_err());
}

#[test]
fn cells_split_high_word_first() {
    assert_eq!(cells(0x80_0000_1234), [0x80, 0x1234]);
}

#[test]
fn mpidr_affinity_clusters_hold_sixteen() {
    assert_eq!(mpidr_affinity(15), 0xf);
    assert_eq!(mpidr_affinity(16), 0x100);
}

#[test]
fn pci_ranges_say_where_each_space_is() {
    let ranges = pci_ranges();
    let (io, memory) = ranges.split_at(7);
    assert_eq!(io, [0x0100_0000, 0, 0, 0, 0x0f00_0000, 0, 0x10_0000], "from I/O address 0 on");
    assert_eq!(memory[..7], [0x0200_0000, 0, 0x1000_0000, 0, 0x1000_0000, 0, 0x2000_0000]);
    assert_eq!(memory[7..], [0x4300_0000, 0x80, 0, 0x80, 0, 0x80, 0]);
    let bytes: Vec<u8> = ranges.iter().flat_map(|cell| cell.to_be_bytes()).collect();
    let blob = build(&config(), None).unwrap();
    assert!(blob.windows(bytes.len()).any(|window| window == bytes));
}

#[test]
fn interrupt_map_swizzles_by_device_number() {
    let map = interrupt_map();
    let line_of = |device: usize, pin: usize| map[(device * 4 + pin - 1) * 10 + 8];
    assert_eq!(line_of(0, 1), spi::PCI_INTX[0]);
    assert_eq!(line_of(1, 1), spi::PCI_INTX[1]);
    assert_eq!(line_of(3, 2), spi::PCI_INTX[0]);
}
