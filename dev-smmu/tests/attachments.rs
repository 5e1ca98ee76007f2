// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What each stream is attached to, in every state of registers and tables.
#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

mod rig;

use dev_smmu::memory::GuestMemory;
use rig::{RAM, Rig};
use smmu_arch::spec::registers::Register;
use smmu_arch::spec::ste::{L1Std, Ste, SteQw0, SteQw1, StreamConfig};
use smmu_arch::{Attachment, StreamId};
use zerocopy::IntoBytes;

const TABLE: u64 = RAM + 0x3_0000;
const LEAF: u64 = RAM + 0x4_0000;
const CONTEXT: u64 = RAM + 0x5_0000;

fn ste(config: StreamConfig) -> Ste {
    let qw0 = SteQw0::new().with_v(true).with_config(config).with_s1contextptr_51_6(CONTEXT >> 6);
    // Linux' attributes of CD fetches, plus what this SMMU does not have: EATS, SHCFG, substreams.
    let qw1 = SteQw1::new().with_s1cir(1).with_s1cor(1).with_s1csh(3).with_eats(1).with_shcfg(1);
    Ste { qw0: qw0.with_s1cdmax(5), qw1, rest: [0; 6] }
}

/// 2-level table, split 8, with one leaf of 256 entries for streams 0x100 to 0x1ff.
fn rig() -> Rig {
    let mut rig = Rig::new();
    let l1 = L1Std::new().with_span(9).with_l2ptr_51_6(LEAF >> 6);
    rig.ram.write(TABLE + 8, l1.as_bytes()).unwrap();
    rig.w64(Register::STRTAB_BASE, TABLE);
    rig.w32(Register::STRTAB_BASE_CFG, 1 << 16 | 8 << 6 | 16);
    rig
}

fn put(rig: &Rig, stream: u64, ste: Ste) {
    rig.ram.write(LEAF + (stream & 0xff) * 64, ste.as_bytes()).unwrap();
}

#[test]
fn a_disabled_smmu_attaches_as_gbpa_says() {
    let mut rig = rig();
    put(&rig, 0x108, ste(StreamConfig::Stage1));
    assert_eq!(rig.smmu.attachment(&rig.ram, StreamId(0x108)), Attachment::Bypass);
    rig.w32(Register::GBPA, 1 << 31 | 1 << 20);
    assert_eq!(rig.smmu.attachment(&rig.ram, StreamId(0x108)), Attachment::Abort);
}

#[test]
fn an_enabled_smmu_attaches_as_the_entry_says_and_aborts_on_any_failure() {
    let mut rig = rig();
    rig.w32(Register::CR0, 1);
    put(&rig, 0x108, ste(StreamConfig::Stage1));
    put(&rig, 0x109, ste(StreamConfig::Bypass));
    put(&rig, 0x10a, ste(StreamConfig::Abort));
    put(&rig, 0x10b, ste(StreamConfig::Nested));
    put(&rig, 0x10c, Ste { qw0: ste(StreamConfig::Stage1).qw0.with_v(false), ..ste(StreamConfig::Stage1) });
    let attachment = |stream| rig.smmu.attachment(&rig.ram, StreamId(stream));
    // Stage 1 keeps what a nesting host may be given: V, Config, S1ContextPtr; S1CIR, S1COR, S1CSH.
    assert_eq!(attachment(0x108), Attachment::Stage1([CONTEXT | 0b1011, 0b1101_0100]));
    assert_eq!(attachment(0x109), Attachment::Bypass);
    for stream in [0x10a, 0x10b, 0x10c, 0x10d, 0x208, 0x1_0000, u32::MAX] {
        assert_eq!(attachment(stream), Attachment::Abort, "stream {stream:#x}");
    }
}

#[test]
fn a_table_outside_memory_aborts() {
    let mut rig = Rig::new();
    rig.w64(Register::STRTAB_BASE, 0x1000_0000);
    rig.w32(Register::STRTAB_BASE_CFG, 4);
    rig.w32(Register::CR0, 1);
    assert_eq!(rig.smmu.attachment(&rig.ram, StreamId(1)), Attachment::Abort);
}
