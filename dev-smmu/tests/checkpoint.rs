// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a crash leaves: the checkpoint has the device whole at any moment, an access that was begun may be done again,
//! and what stands there in place of a checkpoint is refused.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may stop at the first surprise")]

mod rig;

use dev_smmu::Smmu;
use dev_smmu::checkpoint::{CheckpointError, CheckpointV1, Keeper};
use dev_smmu::device::show;
use dev_smmu::publish::RegisterSink;
use dev_smmu::saved::{RestoreError, SmmuV1};
use ipc::saved::Writer;
use ipc::shm::checkpoint::Checkpoint;
use ipc::shm::region::Region;
use proptest::prelude::*;
use rig::{Rig, command, sync};
use smmu_arch::spec::commands::{ComplSignal, Opcode};
use smmu_arch::spec::registers::Register;

/// A write to some register, of some width, while the devices answer or not.
#[derive(Clone, Copy, Debug)]
struct Write {
    offset: u64,
    size: u8,
    value: u64,
    busy: bool,
}

fn write() -> impl Strategy<Value = Write> {
    let offset = prop_oneof![
        20 => (0..Register::ALL.len()).prop_map(|index| Register::ALL[index].offset()),
        2 => (0..Register::ALL.len()).prop_map(|index| Register::ALL[index].offset() + 4),
        1 => 0..0x2_0000_u64,
    ];
    let size = prop_oneof![8 => Just(4), 4 => Just(8), 1 => Just(2)];
    // Enable bits and small pointers more often than anything else.
    let value = prop_oneof![0..32_u64, Just(1 << 31 | 1 << 20), any::<u64>()];
    (offset, size, value, any::<bool>()).prop_map(|(offset, size, value, busy)| Write {
        offset,
        size,
        value,
        busy,
    })
}

/// A device with this history, in memory that is full of commands.
fn device_after(history: &[Write]) -> Rig {
    let mut rig = Rig::enabled(4);
    for index in 0..16 {
        rig.put_command(
            index,
            if index % 3 == 0 { sync(ComplSignal::Irq) } else { command(Opcode::CfgiCdAll) },
        );
    }
    for access in history {
        rig.devices.busy = access.busy;
        rig.write(access.offset, access.size, access.value);
        rig.smmu.complete_updates(&mut rig.devices);
        rig.record(8);
    }
    rig
}

fn object() -> (Region, Checkpoint) {
    let region = Checkpoint::create("checkpoint").unwrap();
    let checkpoint = Checkpoint::attach(&region).unwrap();
    (region, checkpoint)
}

fn found(region: &Region, smmu: &Smmu) -> Result<Smmu, CheckpointError> {
    Keeper::new(Checkpoint::attach(region).unwrap()).found(*smmu.registers().model())
}

/// A page whose guest looks into the checkpoint at each register that it is shown.
struct Looking<'a> {
    region: &'a Region,
    smmu: &'a Smmu,
}

impl Looking<'_> {
    fn look(&self, offset: u64, value: u64) {
        let kept = found(self.region, self.smmu).unwrap();
        let register = Register::at(offset).unwrap();
        assert_eq!(kept.registers().get(register), value, "{register:?} is shown and not kept");
    }
}

impl RegisterSink for Looking<'_> {
    fn store_u32(&mut self, offset: u64, value: u32) {
        self.look(offset, value.into());
    }

    fn store_u64(&mut self, offset: u64, value: u64) {
        self.look(offset, value);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn device_is_found_as_it_was_kept_at_any_moment(history in prop::collection::vec(write(), 0..24)) {
        let (region, checkpoint) = object();
        let mut keeper = Keeper::new(checkpoint);
        let rig = device_after(&history);
        keeper.keep(&Rig::new().smmu);
        keeper.keep(&rig.smmu);
        let found = found(&region, &rig.smmu).unwrap();
        prop_assert_eq!(found.registers(), rig.smmu.registers());
    }

    #[test]
    fn guest_is_shown_nothing_that_is_not_in_the_checkpoint(histories in prop::collection::vec(
        prop::collection::vec(write(), 0..8),
        1..5,
    )) {
        let (region, checkpoint) = object();
        let (mut keeper, mut publisher) = (Keeper::new(checkpoint), None);
        for history in histories {
            let smmu = device_after(&history).smmu;
            show(&mut keeper, &mut publisher, &smmu, &mut Looking { region: &region, smmu: &smmu }, false);
        }
    }

    /// All registers of an SMMU are idempotent (IHI 0070 §6.3): a write is a store of its value, also where that
    /// toggles something, and an Update that is under way is not begun again.
    #[test]
    fn access_that_is_done_twice_leaves_the_device_as_once(
        history in prop::collection::vec(write(), 0..24),
        access in write(),
    ) {
        let Rig { smmu, mut devices, .. } = device_after(&history);
        devices.busy = access.busy;
        let mut once = smmu.clone();
        once.write(access.offset, access.size, access.value, &mut devices);
        let mut twice = Smmu::from_checkpoint(*once.registers().model(), &once.checkpoint()).unwrap();
        twice.write(access.offset, access.size, access.value, &mut devices);
        prop_assert_eq!(twice.registers(), once.registers());
    }

    #[test]
    fn bytes_of_any_author_are_refused_or_are_a_device(
        history in prop::collection::vec(write(), 0..8),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let (region, mut checkpoint) = object();
        let rig = device_after(&history);
        let mut writer = Writer::new();
        writer.append(&rig.smmu.checkpoint()).unwrap();
        let mut bytes = writer.finish();
        for (place, value) in changes {
            let place = place.index(bytes.len());
            bytes[place] = value;
        }
        checkpoint.write(&bytes).unwrap();
        if let Ok(device) = found(&region, &rig.smmu) {
            let again = Smmu::from_checkpoint(*rig.smmu.registers().model(), &device.checkpoint()).unwrap();
            prop_assert_eq!(again.registers(), device.registers());
        }
    }

    /// The same of one who writes the checksums himself.
    #[test]
    fn registers_of_any_author_are_refused_or_are_a_device(
        words in prop::collection::vec(any::<u32>(), 4),
        cr0 in any::<u32>(),
        cr0ack in any::<u32>(),
        gbpa_is_updating in any::<bool>(),
    ) {
        let good = Rig::enabled(4).smmu;
        let registers = SmmuV1 {
            cr0,
            cr0ack,
            cmdq_prod: words[0],
            cmdq_cons: words[1],
            eventq_prod: words[2],
            gerror: words[3],
            ..good.save()
        };
        let found = Smmu::from_checkpoint(*good.registers().model(), &CheckpointV1 { registers, gbpa_is_updating });
        if let Ok(device) = found {
            prop_assert_eq!((cr0 ^ cr0ack) & !1, 0);
            let again = Smmu::from_checkpoint(*good.registers().model(), &device.checkpoint()).unwrap();
            prop_assert_eq!(again.registers(), device.registers());
        }
    }
}

#[test]
fn update_that_was_under_way_is_acknowledged_by_the_next_life_and_not_before_the_devices_have_answered() {
    let mut rig = Rig::enabled(4);
    rig.w32(Register::CR0, 0b1100);
    rig.devices.busy = true;
    rig.w32(Register::CR0, 0b1101);
    let mut next = Smmu::from_checkpoint(*rig.smmu.registers().model(), &rig.smmu.checkpoint()).unwrap();
    next.complete_updates(&mut rig.devices);
    assert_eq!(next.registers().get(Register::CR0ACK), 0b1100);
    rig.devices.busy = false;
    next.complete_updates(&mut rig.devices);
    assert_eq!(next.registers().get(Register::CR0ACK), 0b1101);
}

#[test]
fn object_without_a_checkpoint_and_one_of_another_smmu_are_refused() {
    let (region, mut checkpoint) = object();
    let smmu = Rig::new().smmu;
    assert!(matches!(found(&region, &smmu), Err(CheckpointError::None)));
    checkpoint.write(b"no unit").unwrap();
    assert!(matches!(found(&region, &smmu), Err(CheckpointError::Unit(_))));
    let mut writer = Writer::new();
    let registers = SmmuV1 { idr0: 0, ..smmu.save() };
    writer.append(&CheckpointV1 { registers, gbpa_is_updating: false }).unwrap();
    checkpoint.write(&writer.finish()).unwrap();
    let error = found(&region, &smmu).unwrap_err();
    assert!(
        matches!(error, CheckpointError::Device(RestoreError::Model { register: "IDR0", .. })),
        "{error}"
    );
}
