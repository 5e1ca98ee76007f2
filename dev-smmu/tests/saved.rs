// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The device survives being saved and restored, error handshakes included, and bad state is refused.

#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

mod rig;

use dev_smmu::Smmu;
use dev_smmu::link::FAULTS_MAX;
use dev_smmu::saved::{RestoreError, SmmuV1, SmmuV2};
use ipc::protocol::stage1::Fault;
use ipc::saved::{Reader, SavedState, Writer};
use rig::{Rig, command, sync};
use smmu_arch::spec::commands::{ComplSignal, Opcode};
use smmu_arch::spec::registers::Register;
use smmu_arch::spec::tables::{CmdqCons, CommandError};
use smmu_arch::{Model, Options, StreamId};

fn model() -> Model {
    Model::new(smmu_arch::model::MODEL_NAME, Options { ssidsize: 0, oas: 44, ..Options::default() }).unwrap()
}

fn reborn(rig: Rig) -> Rig {
    let saved = rig.smmu.save();
    let smmu = Smmu::restore(model(), &saved).unwrap();
    assert_eq!(smmu.save(), saved);
    Rig { ram: rig.ram, ..Rig::with(smmu) }
}

#[test]
fn a_pending_command_error_still_blocks_the_queue_after_restore() {
    let mut rig = Rig::enabled(4);
    rig.put_command(0, command(Opcode(0)));
    rig.w32(Register::CMDQ_PROD, 1);
    let mut rig = reborn(rig);
    assert_eq!(CmdqCons::from_bits(rig.r32(Register::CMDQ_CONS)).err(), CommandError::Ill);
    assert!(!rig.smmu.has_commands());
    rig.put_command(0, sync(ComplSignal::None));
    rig.w32(Register::GERRORN, 1);
    assert_eq!(CmdqCons::from_bits(rig.r32(Register::CMDQ_CONS)).rd(), 1);
}

#[test]
fn overflow_and_its_acknowledgement_survive() {
    let mut rig = Rig::enabled(0);
    rig.record(1);
    rig.record(2);
    let before = rig.r32(Register::EVENTQ_PROD);
    assert_eq!(before >> 31, 1);
    let rig = reborn(rig);
    assert_eq!(rig.r32(Register::EVENTQ_PROD), before);
}

#[test]
fn commands_that_waited_are_consumed_after_restore() {
    let mut rig = Rig::enabled(4);
    (0..3).for_each(|index| rig.put_command(index, sync(ComplSignal::None)));
    rig.smmu.write(Register::CMDQ_PROD.offset(), 4, 3, &mut rig.devices);
    rig.step(1);
    let mut rig = reborn(rig);
    assert_eq!(CmdqCons::from_bits(rig.r32(Register::CMDQ_CONS)).rd(), 1);
    rig.step(8);
    assert_eq!(CmdqCons::from_bits(rig.r32(Register::CMDQ_CONS)).rd(), 3);
}

#[test]
fn a_guest_that_knows_another_smmu_is_refused() {
    let saved = Rig::new().smmu.save();
    let other = Options { ssidsize: 0, oas: 48, ..Options::default() };
    let other = Model::new(smmu_arch::model::MODEL_NAME, other).unwrap();
    let error = Smmu::restore(other, &saved).unwrap_err();
    assert_eq!(error, RestoreError::Model { register: "IDR5", saved: 0x74, ours: 0x75 });
}

#[test]
fn impossible_register_values_are_refused() {
    let good = Rig::enabled(4).smmu.save();
    let bad = [
        SmmuV1 { cr0: 0xffff_ffff, cr0ack: 0xffff_ffff, ..good.clone() },
        SmmuV1 { cr0ack: 0, ..good.clone() },
        SmmuV1 { irq_ctrlack: 0, ..good.clone() },
        SmmuV1 { gbpa: 1 << 31, ..good.clone() },
        SmmuV1 { strtab_base: 1 << 50, ..good.clone() },
        SmmuV1 { cmdq_cons: 0x20, ..good.clone() },
        SmmuV1 { gerror: 1 << 8, ..good.clone() },
    ];
    for saved in bad {
        assert!(matches!(Smmu::restore(model(), &saved), Err(RestoreError::Register { .. })), "{saved:?}");
    }
}

/// The bytes of version 1, for ever. A change here is a change of every saved guest.
#[test]
fn version_1_has_these_bytes() {
    let golden = include_bytes!("golden/smmu_v1.bin");
    let mut rig = Rig::enabled(8);
    rig.w32(Register::CR2, 2);
    rig.put_command(0, command(Opcode(0)));
    rig.w32(Register::CMDQ_PROD, 0x101);
    rig.record(3);
    rig.w32(Register::EVENTQ_CONS, 1 << 31 | 1);
    let saved = rig.smmu.save();
    let bytes = postcard::to_stdvec(&saved).unwrap();
    assert_eq!(bytes, golden, "now {bytes:02x?}");
    assert_eq!(postcard::from_bytes::<SmmuV1>(golden).unwrap(), saved);
}

/// The state of `golden/smmu_v1.bin`.
fn golden_v1() -> SmmuV1 {
    postcard::from_bytes(include_bytes!("golden/smmu_v1.bin")).unwrap()
}

fn faults() -> Vec<(StreamId, Fault)> {
    let (stream, other) = (StreamId(8), StreamId(0x10));
    let record = Fault::Record([0x8_0000_0010, 1 << 35, 0xf000, 0]);
    vec![(stream, record), (stream, Fault::Aborted { stream }), (other, Fault::Aborted { stream: other })]
}

/// A unit as it stands in a stream.
fn stream_of(unit: &impl SavedState) -> Vec<u8> {
    let mut writer = Writer::new();
    writer.append(unit).unwrap();
    writer.finish()
}

/// The state in a stream, of either version.
fn state_in(stream: &[u8]) -> SmmuV2 {
    Reader::new(stream).unwrap().take_or_previous::<SmmuV2, SmmuV1>().unwrap()
}

/// The bytes of version 2, for ever.
#[test]
fn version_2_has_these_bytes_and_version_1_loads_without_faults() {
    let golden = include_bytes!("golden/smmu_v2.bin");
    let saved = SmmuV2::new(golden_v1(), faults());
    let bytes = stream_of(&saved);
    assert_eq!(bytes, golden, "now {bytes:02x?}");
    let taken = state_in(golden);
    assert_eq!(taken, saved);
    assert_eq!(taken.faults(&[StreamId(0x10), StreamId(8)]).unwrap(), faults());

    let before = state_in(&stream_of(&golden_v1()));
    assert_eq!((&before.registers, before.faults.len()), (&saved.registers, 0));
    Smmu::restore(model(), &before.registers).unwrap();
}

#[test]
fn faults_of_no_stream_or_too_many_of_them_are_refused() {
    let saved = SmmuV2::new(golden_v1(), faults());
    assert_eq!(saved.faults(&[StreamId(8)]), Err(RestoreError::FaultStream { stream: 0x10 }));
    let stream = StreamId(8);
    let many = SmmuV2::new(golden_v1(), vec![(stream, Fault::Aborted { stream }); FAULTS_MAX + 1]);
    let error = RestoreError::FaultCount { count: FAULTS_MAX + 1, max: FAULTS_MAX };
    assert_eq!(many.faults(&[stream]), Err(error));
}
