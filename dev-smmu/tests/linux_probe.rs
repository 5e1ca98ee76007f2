// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What Linux's arm-smmu-v3 driver does from probe to use, register by register, and what it expects.
//!
//! The driver reads registers from the page, polls acknowledgements and CONS, and gives up after a
//! timeout: here every poll must succeed at the first read after the write.
#![allow(clippy::cast_possible_truncation, reason = "the test cuts addresses it chose itself")]

mod rig;

use dev_smmu::effects::Interrupt;
use rig::{CMDQ, EVENTQ, RAM, Rig, command, sync};
use smmu_arch::command::StreamRange;
use smmu_arch::spec::commands::{CfgiQw1, Command, ComplSignal, Opcode, StreamQw0, TlbiQw0, TlbiQw1};
use smmu_arch::spec::id::{Idr0, Idr1, Idr3, Idr5, StallModel, StreamTableLevels};
use smmu_arch::spec::registers::Register;
use smmu_arch::spec::tables::{CmdqCons, CommandError};

const SMMUEN: u32 = 1;
const EVTQEN: u32 = 4;
const CMDQEN: u32 = 8;

struct Driver {
    rig: Rig,
    prod: u32,
    log2_size: u32,
}

impl Driver {
    fn write_and_poll(&mut self, register: Register, value: u32, ack: Register) {
        self.rig.w32(register, value);
        assert_eq!(self.rig.r32(ack), value, "{ack:?} does not follow {register:?}");
    }

    /// Writes commands and a CMD_SYNC, rings the bell, and polls CONS, as a batch does.
    fn issue(&mut self, commands: &[Command]) {
        for one in commands.iter().chain([&sync(ComplSignal::Sev)]) {
            self.rig.put_command(self.prod & ((1 << self.log2_size) - 1), *one);
            self.prod = (self.prod + 1) & ((2 << self.log2_size) - 1);
        }
        self.rig.w32(Register::CMDQ_PROD, self.prod);
        assert_eq!(self.rig.r32(Register::CMDQ_CONS), self.prod, "CMD_SYNC was not consumed");
    }
}

fn stage1_only_probe(rig: &Rig) -> u32 {
    let idr0 = Idr0::from_bits(rig.r32(Register::IDR0));
    assert_eq!(idr0.st_level(), StreamTableLevels::TwoLevel);
    assert_eq!(idr0.ttendian().0, 2, "little-endian tables");
    assert_eq!(idr0.stall_model(), StallModel::TerminateOnly);
    assert!(idr0.s1p() && !idr0.s2p() && idr0.ttf().0 == 2, "stage 1, AArch64 tables");
    assert!(idr0.cohacc() && idr0.asid16());
    assert!(!idr0.msi() && !idr0.pri() && !idr0.ats() && !idr0.sev() && !idr0.hyp() && idr0.httu() == 0);
    let idr1 = Idr1::from_bits(rig.r32(Register::IDR1));
    assert!(!idr1.tables_preset() && !idr1.queues_preset() && !idr1.rel());
    assert!(idr1.cmdqs() > 6, "the driver refuses a queue no larger than its batch of 64");
    assert_eq!(idr1.sidsize(), 16);
    assert!(Idr3::from_bits(rig.r32(Register::IDR3)).ril());
    let idr5 = Idr5::from_bits(rig.r32(Register::IDR5));
    assert!(idr5.gran4k() && idr5.gran16k() && idr5.gran64k() && idr5.oas().bits() == 44);
    assert_eq!(rig.r32(Register::IIDR), 0, "no erratum applies");
    idr1.cmdqs().into()
}

#[test]
fn driver_probes_resets_enables_and_uses_the_device() {
    let rig = Rig::new();
    let log2_size = stage1_only_probe(&rig);
    let mut driver = Driver { rig, prod: 0, log2_size };

    // Reset: disabled, and known to be.
    assert_eq!(driver.rig.r32(Register::CR0) & SMMUEN, 0);
    driver.write_and_poll(Register::CR0, 0, Register::CR0ACK);
    driver.rig.w32(Register::CR1, 0xd75);
    driver.rig.w32(Register::CR2, 0b111);
    assert_eq!(driver.rig.r32(Register::CR1), 0xd75);
    assert_eq!(driver.rig.r32(Register::CR2), 0b010, "only RECINVSID exists here");

    // Stream table: 2-level, split 8, 16 StreamID bits, by one 64-bit write.
    let table = RAM + 0x3_0000;
    driver.rig.w64(Register::STRTAB_BASE, table | 1 << 62);
    driver.rig.w32(Register::STRTAB_BASE_CFG, 1 << 16 | 8 << 6 | 16);
    assert_eq!(driver.rig.r32(Register::STRTAB_BASE), table as u32);
    assert_eq!(driver.rig.r32(Register::STRTAB_BASE_CFG), 0x1_0210);

    // Command queue, then CFGI_ALL and TLBI_NSNH_ALL, each with a CMD_SYNC.
    driver.rig.w64(Register::CMDQ_BASE, CMDQ | 1 << 62 | u64::from(log2_size));
    driver.rig.w32(Register::CMDQ_PROD, 0);
    driver.rig.w32(Register::CMDQ_CONS, 0);
    let mut enables = CMDQEN;
    driver.write_and_poll(Register::CR0, enables, Register::CR0ACK);
    driver.rig.devices.reevaluated.clear();
    let all = Command { qw1: CfgiQw1::new().with_range(31).into_bits(), ..command(Opcode::CfgiSteRange) };
    driver.issue(&[all]);
    assert_eq!(driver.rig.devices.reevaluated, [StreamRange::ALL]);
    driver.issue(&[command(Opcode::TlbiNsnhAll)]);
    assert_eq!(driver.rig.devices.invalidated, [Opcode::TlbiNsnhAll]);

    // Event queue.
    driver.rig.w64(Register::EVENTQ_BASE, EVENTQ | 1 << 62 | u64::from(log2_size));
    driver.rig.w32(Register::EVENTQ_PROD, 0);
    driver.rig.w32(Register::EVENTQ_CONS, 0);
    enables |= EVTQEN;
    driver.write_and_poll(Register::CR0, enables, Register::CR0ACK);

    // Interrupts: off, MSI configuration (there is none here), on.
    driver.write_and_poll(Register::IRQ_CTRL, 0, Register::IRQ_CTRLACK);
    driver.rig.w64(Register::GERROR_IRQ_CFG0, 0);
    driver.rig.w64(Register::EVENTQ_IRQ_CFG0, 0);
    driver.write_and_poll(Register::IRQ_CTRL, 0b101, Register::IRQ_CTRLACK);

    // Enable translation.
    driver.rig.devices.reevaluated.clear();
    enables |= SMMUEN;
    driver.write_and_poll(Register::CR0, enables, Register::CR0ACK);
    assert_eq!(driver.rig.devices.reevaluated, [StreamRange::ALL], "SMMUEN re-evaluates every stream");

    // Use: prefetch and install an STE, map and unmap for longer than the queue is.
    let ste = StreamQw0::new().with_opcode(Opcode::CfgiSte).with_stream_id(8);
    let ste = Command { qw0: ste.into_bits(), qw1: 1 };
    driver.issue(&[command(Opcode::PrefetchConfig), ste]);
    let unmap = Command {
        qw0: TlbiQw0::new().with_opcode(Opcode::TlbiNhVa).with_asid(1).with_num(15).into_bits(),
        qw1: TlbiQw1::from_bits(0xffff_f000_0000)
            .with_tg(smmu_arch::spec::commands::InvalidationGranule::Granule4K)
            .with_ttl(3)
            .into_bits(),
    };
    for _ in 0..3 << log2_size {
        driver.issue(&[unmap]);
    }
    assert_eq!(driver.rig.smmu.counters().command_errors, 0);

    // A device touches what it may not: the driver finds the record and gives the slot back.
    driver.rig.record(8);
    assert_eq!(driver.rig.interrupts, [Interrupt::EventQueue]);
    assert_eq!(driver.rig.r32(Register::EVENTQ_PROD), 1);
    assert_eq!(driver.rig.event(0).qw0.stream_id(), 8);
    driver.rig.w32(Register::EVENTQ_CONS, 1);
}

/// The driver's handler of an illegal command: it reads CONS.ERR, overwrites the command in the queue
/// with a CMD_SYNC, acknowledges the error, and goes on polling.
#[test]
fn driver_repairs_an_illegal_command_and_goes_on() {
    let mut rig = Rig::enabled(4);
    rig.put_command(0, command(Opcode::CfgiSte));
    rig.put_command(1, command(Opcode::AtcInv));
    rig.put_command(2, sync(ComplSignal::Sev));
    rig.w32(Register::CMDQ_PROD, 3);
    let cons = CmdqCons::from_bits(rig.r32(Register::CMDQ_CONS));
    assert_eq!((cons.rd(), cons.err()), (1, CommandError::Ill));
    assert_eq!(rig.interrupts, [Interrupt::GlobalError]);
    let (gerror, gerrorn) = (rig.r32(Register::GERROR), rig.r32(Register::GERRORN));
    assert_eq!(gerror ^ gerrorn, 1);

    rig.put_command(1, sync(ComplSignal::None));
    rig.w32(Register::GERRORN, gerror);
    assert_eq!(CmdqCons::from_bits(rig.r32(Register::CMDQ_CONS)).rd(), 3);
    assert_eq!(rig.r32(Register::GERROR) ^ rig.r32(Register::GERRORN), 0);
}

/// kexec: the driver finds the device enabled by its predecessor, makes GBPA abort, and disables it.
#[test]
fn driver_takes_over_an_enabled_device() {
    let mut driver = Driver { rig: Rig::enabled(4), prod: 0, log2_size: 4 };
    driver.rig.w32(Register::GBPA, 1 << 31 | 1 << 20);
    assert_eq!(driver.rig.r32(Register::GBPA), 1 << 20, "the update is complete");
    driver.rig.devices.reevaluated.clear();
    driver.write_and_poll(Register::CR0, 0, Register::CR0ACK);
    assert_eq!(driver.rig.devices.reevaluated, [StreamRange::ALL]);
}
