// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Register accesses of every width, at every place, and the handlers behind them.

mod rig;

use proptest::prelude::*;
use rig::Rig;
use smmu_arch::command::StreamRange;
use smmu_arch::spec::registers::{REGISTER_FILE_LEN, Register};

#[test]
fn a_64_bit_register_is_written_whole_or_by_halves() {
    let mut whole = Rig::new();
    whole.w64(Register::STRTAB_BASE, 0x4000_0123_4567_89c0);
    let mut halves = Rig::new();
    halves.write(0x80, 4, 0x4567_89c0);
    assert_eq!(halves.smmu.read(0x80, 8), 0x4567_89c0);
    halves.write(0x84, 4, 0x4000_0123);
    assert_eq!(halves.smmu.read(0x80, 8), 0x4000_0123_4567_89c0);
    assert_eq!(whole.smmu.registers(), halves.smmu.registers());
    assert_eq!(whole.smmu.read(0x84, 4), 0x4000_0123);
    // The upper half alone keeps the lower one.
    whole.write(0x84, 4, 0x0000_0001);
    assert_eq!(whole.smmu.read(0x80, 8), 0x0000_0001_4567_89c0);
}

#[test]
fn writes_of_other_widths_are_ignored() {
    for (offset, size) in
        [(0x44, 1), (0x44, 2), (0x44, 8), (0x40, 8), (0x46, 4), (0x84, 8), (0x44, 3), (0x44, 0)]
    {
        let mut rig = Rig::new();
        rig.write(offset, size, u64::MAX);
        assert_eq!(rig.smmu.registers(), Rig::new().smmu.registers(), "{size} bytes at {offset:#x}");
        assert_eq!(rig.smmu.counters().mmio_ignored, 1);
    }
}

#[test]
fn the_page_0_places_of_page_1_registers_are_raz_wi() {
    let mut rig = Rig::new();
    rig.write(0xac, 4, 1);
    assert_eq!(rig.r32(Register::EVENTQ_CONS), 0);
    rig.w32(Register::EVENTQ_CONS, 1);
    assert_eq!(rig.smmu.read(0xac, 4), 0);
    assert_eq!(rig.smmu.read(0x1_00ac, 4), 1);
    // Page 1 does not mirror page 0.
    assert_eq!(rig.smmu.read(0x1_0000, 4), 0);
    rig.write(0x1_0044, 4, 1 << 31 | 1 << 20);
    assert_eq!(rig.smmu.read(0x44, 4), 0x1000);
}

#[test]
fn gbpa_takes_effect_only_with_update() {
    let mut rig = Rig::new();
    rig.w32(Register::GBPA, 1 << 20);
    assert_eq!(rig.r32(Register::GBPA), 0x1000);
    assert!(rig.devices.reevaluated.is_empty());
    rig.w32(Register::GBPA, 1 << 31 | 1 << 20);
    assert_eq!(rig.r32(Register::GBPA), 1 << 20);
    assert_eq!(rig.devices.reevaluated, [StreamRange::ALL]);
}

#[test]
fn enabling_and_the_stream_table_reevaluate_every_stream() {
    let mut rig = Rig::new();
    rig.w64(Register::STRTAB_BASE, 0x4000_0000);
    rig.w32(Register::STRTAB_BASE_CFG, 4);
    rig.w32(Register::CR0, 1);
    assert_eq!(rig.devices.reevaluated, [StreamRange::ALL; 3]);
    rig.w64(Register::STRTAB_BASE, 0x5000_0000);
    rig.w32(Register::CR0, 0b101);
    assert_eq!(rig.devices.reevaluated.len(), 3, "guarded, and not a change of SMMUEN");
    assert_eq!(rig.smmu.read(0x80, 8), 0x4000_0000);
    rig.w32(Register::CR0, 0);
    assert_eq!(rig.devices.reevaluated.len(), 4);
}

#[test]
fn absent_features_do_not_acknowledge() {
    let mut rig = Rig::new();
    rig.w32(Register::CR0, u32::MAX);
    assert_eq!((rig.r32(Register::CR0), rig.r32(Register::CR0ACK)), (0b1101, 0b1101));
    rig.w32(Register::IRQ_CTRL, u32::MAX);
    assert_eq!((rig.r32(Register::IRQ_CTRL), rig.r32(Register::IRQ_CTRLACK)), (0b101, 0b101));
}

proptest! {
    /// The page the guest reads and the device's own answer agree, at any place and width, after any writes.
    #[test]
    fn page_and_device_agree(
        writes in proptest::collection::vec((proptest::sample::select(Register::ALL), any::<u64>(), any::<bool>()), 0..30),
        offset in 0..REGISTER_FILE_LEN,
        register in proptest::sample::select(Register::ALL),
        size in proptest::sample::select(vec![1u8, 2, 4, 8]),
    ) {
        let mut rig = Rig::new();
        for (register, value, wide) in writes {
            rig.write(register.offset(), if wide { 8 } else { 4 }, value);
            // The vCPU side stores what the guest wrote; here bits that do not exist are cut again.
            for owned in dev_smmu::publish::GUEST_OWNED {
                let value = rig.smmu.read(owned.offset(), 4);
                dev_smmu::publish::RegisterSink::store_u32(&mut rig.page, owned.offset(), u32::try_from(value).unwrap());
            }
        }
        for place in [offset, register.offset()] {
            let place = place & !(u64::from(size) - 1);
            let start = usize::try_from(place).unwrap();
            let mut bytes = [0; 8];
            bytes[..size.into()].copy_from_slice(&rig.page.0[start..][..size.into()]);
            prop_assert_eq!(rig.smmu.read(place, size), u64::from_le_bytes(bytes));
        }
    }

    /// Misaligned reads are zero, and no read at all panics.
    #[test]
    fn any_read_is_answered(offset: u64, size: u8) {
        let value = Rig::new().smmu.read(offset, size);
        if !matches!(size, 1 | 2 | 4 | 8) || offset % u64::from(size) != 0 {
            prop_assert_eq!(value, 0);
        }
    }
}

#[test]
fn updates_that_change_attachments_are_acknowledged_once_the_devices_have_followed() {
    let mut rig = Rig::new();
    rig.devices.busy = true;
    rig.w32(Register::GBPA, 1 << 31 | 1 << 20);
    assert_eq!(rig.r32(Register::GBPA), 1 << 31 | 1 << 20);
    rig.w32(Register::GBPA, 1 << 31);
    assert_eq!(rig.r32(Register::GBPA), 1 << 31 | 1 << 20, "ignored while an update is under way");
    // Both queues at once; the stream table's registers are not to be written yet.
    rig.w32(Register::CR0, 0b1101);
    assert_eq!((rig.r32(Register::CR0), rig.r32(Register::CR0ACK)), (0b1101, 0b1100));
    rig.w32(Register::CR0, 0b1100);
    rig.w32(Register::CR0, 0b1101);
    assert!(rig.smmu.is_updating());
    rig.devices.busy = false;
    rig.smmu.complete_updates(&mut rig.devices);
    rig.publisher.publish(&rig.smmu, &mut rig.page);
    assert_eq!((rig.r32(Register::CR0ACK), rig.r32(Register::GBPA)), (0b1101, 1 << 20));
    // With SMMUEN, GBPA decides about nothing: it is done at once, whatever devices do.
    rig.devices.busy = true;
    rig.w32(Register::GBPA, 1 << 31);
    assert_eq!(rig.r32(Register::GBPA), 0);
}
