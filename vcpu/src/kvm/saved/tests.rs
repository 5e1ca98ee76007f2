// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
use super::*;

fn example() -> SavedKvm {
    let register = |id, value: &[u8]| KvmRegisterV1 { id, value: value.to_vec() };
    let vcpu = |mp_state| KvmVcpuV1 {
        registers: vec![register(0x6030_0000_0010_0040, &[1, 2, 3, 4, 5, 6, 7, 8])],
        mp_state,
        serror_pending: mp_state == 0,
        serror_syndrome: (mp_state == 0).then_some(0xbe00_0000),
    };
    SavedKvm {
        clock: KvmClockV1 { ticks: 0x0123_4567_89ab_cdef, hz: 62_500_000 },
        vcpus: vec![vcpu(0), vcpu(3)],
        gic: KvmGicV1 {
            distributor: vec![0x43b, 2],
            levels: vec![1 << 5],
            redistributors: vec![KvmRedistributorV1 { registers: vec![7], levels: 1 << 27 }; 2],
            cpu_interfaces: vec![vec![7, 0xf8]; 2],
        },
        its: KvmItsV1 {
            registers: vec![0x8000_0000_4000_0000, 1],
            late_messages: vec![KvmMessageV1 { device_id: 8, event_id: 3 }],
        },
    }
}

fn encode(saved: SavedKvm) -> Vec<u8> {
    let mut writer = Writer::new();
    saved.append(&mut writer).unwrap();
    writer.finish()
}

/// Version 1 as it was frozen. Other bytes are another version.
const GOLDEN: &str = include_str!("golden.hex");

#[test]
fn saved_bytes_are_those_of_version_1() {
    let bytes: String = encode(example()).iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(bytes, GOLDEN.trim().replace('\n', ""));
}

#[test]
fn saved_state_is_read_back_as_it_was() {
    let bytes = encode(example());
    let mut reader = Reader::new(&bytes).unwrap();
    assert_eq!(SavedKvm::take(&mut reader, 2).unwrap(), example());
    reader.finish().unwrap();
}

#[test]
fn saved_state_for_other_vcpus_or_of_another_engine_is_refused() {
    let bytes = encode(example());
    for count in [1, 3] {
        let mut reader = Reader::new(&bytes).unwrap();
        let taken = SavedKvm::take(&mut reader, count).is_ok();
        assert!(!taken || reader.finish().is_err(), "{count} vCPUs");
    }
    assert!(crate::soft::SavedSoft::take(&mut Reader::new(&bytes).unwrap(), 2).is_err());
}
