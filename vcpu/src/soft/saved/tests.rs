// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The units of software CPUs, byte for byte.

use super::*;
use crate::saved::tests::hex;
use soft_cpu::gic::saved::{
    CpuInterfaceV1, DistributorV1, IrqBankV1, IrqWordV1, PendingLpisV1, RedistributorV1,
};

/// Every register another small number: the encoding of a number below 128 is its byte.
fn vcpu(first: u8) -> VcpuV1 {
    let numbers: Vec<u8> = (0..=u8::MAX).map(|number| number.wrapping_add(first) % 128).collect();
    postcard::take_from_bytes(&numbers).unwrap().0
}

fn example() -> SavedSoft {
    let bank = |count: u8| IrqBankV1 {
        words: vec![IrqWordV1 { group1: 1, enabled: 2, latch: 3, active: 4, line: 5, edge: 6 }],
        priorities: (0..count).collect(),
    };
    let redistributor = RedistributorV1 {
        waker: 6,
        lpis_enabled: true,
        propbaser: 0x4000_0000,
        pendbaser: 0x4001_0000,
        private: bank(3),
        pending_lpis: vec![PendingLpisV1 { index: 2, bits: 1 << 40 }],
    };
    let cpu_interface =
        CpuInterfaceV1 { pmr: 0xf0, bpr0: 1, bpr1: 2, ctlr: 3, igrpen0: 0, igrpen1: 1, ap1r0: 1 << 20 };
    SavedSoft {
        clock: ClockV1 { ticks: 0x0123_4567_89ab_cdef },
        gic: GicV1 {
            distributor: DistributorV1 { ctlr: 0x53, spis: bank(4), routes: vec![0, 1] },
            redistributors: vec![redistributor; 2],
            cpu_interfaces: vec![cpu_interface; 2],
        },
        its: Some(ItsV1 {
            enabled: true,
            cbaser: 0x8000_0000_4000_0000,
            cwriter: 0x40,
            creadr: 0x20,
            stalled: true,
            devices: 0x4100_0000,
            collections: 0x4200_0000,
        }),
        vcpus: vec![vcpu(1), vcpu(60)],
    }
}

fn encode(saved: SavedSoft) -> Vec<u8> {
    let mut writer = Writer::new();
    saved.append(&mut writer).unwrap();
    writer.finish()
}

/// Version 1 as it was frozen. Other bytes are another version.
const GOLDEN: &str = include_str!("golden.hex");

#[test]
fn saved_software_cpus_have_the_bytes_of_version_1_and_are_read_back() {
    let bytes = encode(example());
    assert_eq!(hex(&bytes), GOLDEN.trim(), "now\n{}", hex(&bytes));
    let mut reader = Reader::new(&bytes).unwrap();
    assert_eq!(SavedSoft::take(&mut reader, 2).unwrap(), example());
    reader.finish().unwrap();
    // Names, for three of the numbers.
    let VcpuV1 { x, sp_el0, power_context, .. } = vcpu(1);
    assert_eq!((x[0], x[30], sp_el0), (1, 31, 32));
    assert_ne!(power_context, 0);
}
