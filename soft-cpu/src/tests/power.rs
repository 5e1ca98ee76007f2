// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! PSCI and SMCCC.

use super::machine::{CODE, Guest, parts};
use crate::cluster::Power;
use crate::{Exit, Vcpu};

const HVC: u32 = 0xd400_0002;

fn call(guest: &mut Guest, id: u32, arguments: [u64; 3]) -> i64 {
    guest.set_x(0, u64::from(id));
    for (slot, value) in (1..).zip(arguments) {
        guest.set_x(slot, value);
    }
    guest.step(HVC);
    guest.expect_none();
    guest.x(0) as i64
}

#[test]
fn versions_and_features_are_reported() {
    let mut guest = Guest::new();
    assert_eq!(call(&mut guest, 0x8400_0000, [0; 3]), 0x1_0001);
    assert_eq!(call(&mut guest, 0x8000_0000, [0; 3]), 0x1_0001);
    for implemented in
        [0x8400_0000u32, 0x8400_0002, 0x8400_0008, 0x8400_0009, 0xc400_0001, 0xc400_0003, 0x8400_0004]
    {
        assert_eq!(call(&mut guest, 0x8400_000a, [u64::from(implemented), 0, 0]), 0, "{implemented:#x}");
    }
    for missing in [0x8400_0005u32, 0xc400_0002, 0x8400_000c, 0xc400_0012] {
        assert_eq!(call(&mut guest, 0x8400_000a, [u64::from(missing), 0, 0]), -1, "{missing:#x}");
        assert_eq!(call(&mut guest, missing, [0; 3]), -1, "{missing:#x}");
    }
    assert_eq!(call(&mut guest, 0x8400_0006, [0; 3]), 2);
}

#[test]
fn affinities_are_known_or_refused() {
    let mut guest = Guest::new();
    guest.vcpu.cpu.shared().inbox().power = Power::On;
    assert_eq!(call(&mut guest, 0xc400_0004, [0, 0, 0]), 0);
    assert_eq!(call(&mut guest, 0xc400_0004, [1, 0, 0]), -2);
    assert_eq!(call(&mut guest, 0xc400_0003, [0, CODE, 0]), -4);
    assert_eq!(call(&mut guest, 0xc400_0003, [0x100, CODE, 0]), -2);
    assert_eq!(call(&mut guest, 0xc400_0003, [1 << 32, CODE, 0]), -2);
}

/// Puts code into RAM at `CODE` and starts CPU 0 on it.
fn start(code: &[u32], vcpu_count: usize) -> (Vec<Vcpu>, crate::VcpuParts) {
    let (parts, _) = parts(vcpu_count);
    for (index, word) in (0..).zip(code) {
        parts.ram.write::<2>(CODE + 4 * index, u64::from(*word));
    }
    let mut vcpus: Vec<_> = (0..vcpu_count).map(|index| Vcpu::new(index, parts.clone())).collect();
    vcpus[0].start(CODE, 7);
    (vcpus, parts)
}

#[test]
fn machine_is_switched_off_and_reset() {
    for (low, exit) in [(8, Exit::PowerOff), (9, Exit::Reset)] {
        let (mut vcpus, _) = start(&[0xd2b0_8000, 0xf280_0000 | low << 5, HVC], 1); // mov x0, #0x8400_0000 + low
        assert_eq!(vcpus[0].run(), exit);
    }
}

#[test]
fn started_cpu_runs_and_can_turn_itself_off() {
    let code = [
        0xd2b8_8000, // mov x0, #0xc400_0000
        0xf280_0060, // movk x0, #3 (CPU_ON)
        0xd280_0021, // mov x1, #1
        0xd2a8_0002, // mov x2, #0x4000_0000
        0xf282_0802, // movk x2, #0x1040
        0xd280_0b43, // mov x3, #0x5a
        HVC,         //
        0xd503_207f, // wfi
        0x17ff_ffff, // b, to the wfi
        0,
        0,
        0,
        0,
        0,
        0,
        0,           //
        0xd2a8_0021, // at 0x1040: mov x1, #0x4001_0000
        0xf900_0020, // str x0, [x1]
        0xd2b0_8000, // mov x0, #0x8400_0000
        0xf280_0040, // movk x0, #2 (CPU_OFF)
        HVC,         //
    ];
    let (vcpus, parts) = start(&code, 2);
    let handles: Vec<_> = (0..2).filter_map(|vcpu| parts.cluster.handle(vcpu)).collect();
    let threads: Vec<_> =
        vcpus.into_iter().map(|mut vcpu| std::thread::spawn(move || (vcpu.run(), vcpu))).collect();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while parts.ram.read::<3>(super::machine::DATA) != Some(0x5a)
        || parts.cluster.cpu(1).inbox().power != Power::Off
    {
        assert!(std::time::Instant::now() < deadline, "the second CPU did its work and turned itself off");
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    handles.iter().for_each(|handle| handle.kick());
    for thread in threads {
        let (exit, vcpu) = thread.join().unwrap();
        assert_eq!(exit, Exit::Kicked);
        let first = vcpu.cpu.index == 0;
        assert_eq!(
            vcpu.cpu.r(0),
            if first { 0 } else { 0x8400_0002 },
            "CPU_ON succeeded; CPU_OFF did not return"
        );
    }
}
