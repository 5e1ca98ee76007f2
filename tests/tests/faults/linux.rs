// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A fault under a stock Linux: the line of its SMMU driver in its log.
//!
//! The NVMe driver is unbound, which leaves the device in its DMA domain with nothing mapped. Then the controller is
//! driven from the guest's user space, by its registers, to fetch its first command where no translation is.

use tests::guest::GuestFiles;

use crate::{
    image,
    nvme::STREAM,
    smmu::F_TRANSLATION,
    support::{BOOT, COMMAND, STRICT, launch_with},
};

/// The device's folder, and an address within the guest's DMA domain that nothing is mapped at.
const DEVICE: &str = "/sys/bus/pci/devices/0000:00:01.0";
const UNMAPPED: u64 = 0x1234_5000;

/// Prints the lines of the SMMU driver since the last time.
const LOG: &str = "dmesg -c | grep arm-smmu-v3";

#[test]
fn linux_logs_a_translation_fault_with_stream_and_address_and_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let image = image(&folder);
    let images = std::slice::from_ref(&image);
    let Some(mut vm) = launch_with(GuestFiles::cached(), "faultlog", STRICT, images) else { return };
    vm.console.shell(BOOT).unwrap();
    let mut run = |command: &str| {
        let answer = vm.console.run(command, COMMAND).unwrap();
        assert_eq!(answer.code, 0, "{command}: {}", answer.output);
        answer.output.trim().to_owned()
    };
    let read = "dd if=/dev/nvme0n1 of=/dev/null bs=1M count=4";
    run(read);
    run("echo 0000:00:01.0 >/sys/bus/pci/drivers/nvme/unbind");
    assert_eq!(run(&format!("cat {DEVICE}/iommu_group/type")), "DMA");
    // The driver's end has taken away the right to do DMA and to be addressed: Memory Space, Bus Master.
    run(&format!("printf '\\006\\000' | dd of={DEVICE}/config bs=1 seek=4 conv=notrunc"));
    let resource = run(&format!("head -n1 {DEVICE}/resource"));
    let bar = resource.split_whitespace().next().unwrap().trim_start_matches("0x");
    let bar = u64::from_str_radix(bar, 16).unwrap();
    run(&format!("{LOG} || true"));

    let store = |offset: u64, value: u64| format!("devmem {:#x} 32 {value:#x}", bar + offset);
    run(&store(0x14, 0)); // CC
    run(&store(0x24, 0x000f_000f)); // AQA: sixteen entries each
    run(&store(0x28, UNMAPPED)); // ASQ
    run(&store(0x2c, 0));
    run(&store(0x30, UNMAPPED + 0x1000)); // ACQ
    run(&store(0x34, 0));
    run(&store(0x14, 0x0046_0001)); // CC.EN
    run(&store(0x1000, 1)); // the admin Submission Queue has one entry
    run("for i in $(seq 30); do dmesg | grep -q 'event 0x' && break; sleep 1; done; sleep 1");
    let log = run(LOG);
    // The driver's wording differs between versions; the record that it prints is the manual's.
    let word = |value: u64| format!("{value:#018x}");
    for expected in [word(F_TRANSLATION | STREAM << 32), word(1 << 35 | 2 << 40), word(UNMAPPED)] {
        assert!(log.contains(&expected), "no {expected} in the guest's log:\n{log}");
    }
    let records = log.matches("event 0x10 received").count();
    assert_eq!(records, 1, "{log}");

    // The driver comes back, and so does the disk.
    run(&store(0x14, 0));
    run("echo 0000:00:01.0 >/sys/bus/pci/drivers/nvme/bind");
    run("for i in 1 2 3 4 5 6 7 8 9 10; do [ -e /dev/nvme0n1 ] && break; sleep 1; done");
    run(read);
    assert_eq!(run(&format!("{LOG} | grep event || true")), "");
    vm.finish(COMMAND).unwrap();
}
