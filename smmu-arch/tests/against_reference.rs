// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The translation agrees with the reference on random structures, cached or not, event for event.
//!
//! Memory is a function of a seed: each address has a word that looks like the structure that might be
//! read there often enough for walks to get far, and wrong in one way or another often enough to fault. What came
//! up is counted, and every outcome there is must have.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test may stop at the first surprise"
)]

mod reference;
mod tally;

use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use reference::{Ask, Outcome, Smmu};
use smmu_arch::engine::Engine;
use smmu_arch::memory::{Abort, Memory};
use smmu_arch::spec::control::{Cr0, Cr2};
use smmu_arch::spec::events::{InputAccess, Requester};
use smmu_arch::spec::tables::{StrtabBase, StrtabBaseCfg};
use smmu_arch::translate::{Fault, Registers, Translation};
use smmu_arch::{Granules, Model, Options, StreamId, SubstreamId};
use std::cell::Cell;
use tally::{EVENTS, Tally, event_name};
use zerocopy::IntoBytes;

/// Stream tables, CD tables and translation tables live in regions told apart by address bits 35:34, so
/// that a word can be made for the structure it will be read as.
const STREAM_TABLES: u64 = 0;
const CONTEXT_TABLES: u64 = 1;
const TRANSLATION_TABLES: u64 = 2;

fn region(of: u64, offset: u64) -> u64 {
    of << 34 | offset & 0x3_ffff_ffff
}

/// SplitMix64: a word from two.
fn mix(seed: u64, at: u64) -> u64 {
    let mut z = seed ^ at.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}

struct Synthetic {
    seed: u64,
    reads: Cell<u32>,
}

impl Synthetic {
    fn word(&self, address: u64) -> u64 {
        let random = mix(self.seed, address);
        let dice = mix(self.seed ^ 0xd1ce, address);
        let one_in = |n: u64, salt: u32| dice.rotate_right(salt).is_multiple_of(n);
        let keep = |mask: u64| random & mask;
        match address >> 34 & 3 {
            STREAM_TABLES => match address & 0x38 {
                // Read as an L1STD or as the first word of an STE; with bit 6 of the address an L1STD.
                _ if address & 0x2_0000_0000 != 0 => {
                    let span = if one_in(6, 3) { random >> 20 & 31 } else { 7 };
                    let wild = if one_in(20, 7) { 1 << (36 + random % 14) } else { 0 };
                    span | region(STREAM_TABLES, keep(0x1_ffff_ffc0)) | wild
                }
                0 => {
                    let config = if one_in(5, 3) { random & 7 } else { 5 };
                    let cdmax = if one_in(8, 9) { random >> 30 & 31 } else { random >> 30 & 7 };
                    let wild = if one_in(20, 7) { 1 << (36 + random % 14) } else { 0 };
                    u64::from(!one_in(12, 5))
                        | config << 1
                        | keep(0x30)
                        | region(CONTEXT_TABLES, random & 0x3_ffff_ffc0)
                        | wild
                        | cdmax << 59
                }
                8 => {
                    let dss = if one_in(3, 3) { random & 3 } else { 2 };
                    dss | u64::from(one_in(25, 5)) << 27 | keep(0xffff_0000_0000)
                }
                _ => random,
            },
            CONTEXT_TABLES => {
                if address & 0x2_0000_0000 != 0 {
                    let wild = if one_in(20, 7) { 1 << (36 + random % 14) } else { 0 };
                    // An L1CD, whose leaves lie in the lower half of the region.
                    return u64::from(!one_in(10, 5)) | region(CONTEXT_TABLES, random & 0x1_ffff_f000) | wild;
                }
                match address & 0x38 {
                    0 => {
                        let size = |salt: u32| {
                            let r = random.rotate_right(salt);
                            if one_in(25, salt) { r & 63 } else { 16 + r % 24 }
                        };
                        let flag = |usual: bool, n, salt| u64::from(usual != one_in(n, salt));
                        size(3)
                            | (random >> 6 & 3) << 6
                            | flag(false, 8, 11) << 14
                            | flag(false, 40, 13) << 15
                            | size(23) << 16
                            | (random >> 22 & 3) << 22
                            | flag(false, 8, 17) << 30
                            | flag(true, 40, 19) << 31
                            | (random >> 32 & 7).max(if one_in(4, 21) { 0 } else { 4 }) << 32
                            | keep(0x1f8 << 32) & !(0x20 << 32)
                            | flag(true, 40, 29) << 41
                            | flag(false, 60, 31) << 42
                            | flag(false, 60, 33) << 43
                            | flag(false, 40, 35) << 44
                            | flag(true, 12, 37) << 45
                            | flag(true, 40, 39) << 46
                            | (random >> 48 & 3) << 48
                    }
                    8 | 16 => {
                        let wild = if one_in(20, 7) { 1 << (36 + random % 14) } else { 0 };
                        keep(2) | region(TRANSLATION_TABLES, random & 0x3_ffff_fff0) | wild
                    }
                    _ => random,
                }
            }
            _ => {
                let kind = match dice % 24 {
                    0 => random & 2,
                    1..=6 => 1,
                    _ => 3,
                };
                let wild = if one_in(30, 7) { 1 << (36 + random % 14) } else { 0 };
                let attributes = if one_in(3, 9) { keep(0xfff8_0000_0000_0afc) } else { keep(0xafc) };
                kind | u64::from(!one_in(4, 5)) << 10
                    | region(TRANSLATION_TABLES, random & 0x3_ffff_f000)
                    | wild
                    | attributes
            }
        }
    }
}

impl Memory for Synthetic {
    fn read(&self, address: u64, bytes: &mut [u8]) -> Result<(), Abort> {
        self.reads.set(self.reads.get() + 1);
        assert_eq!(address % bytes.len() as u64, 0, "structures are aligned to their size");
        if mix(self.seed ^ 0xab0, address / 64).is_multiple_of(40) {
            return Err(Abort);
        }
        for (at, chunk) in bytes.chunks_mut(8).enumerate() {
            chunk.copy_from_slice(&self.word(address + at as u64 * 8).to_le_bytes());
        }
        Ok(())
    }
}

fn any_options() -> impl Strategy<Value = Options> {
    let oas = proptest::sample::select(vec![36u8, 40, 42, 44, 48]);
    let bits = proptest::sample::select(vec![0u8, 4, 8, 16, 20]);
    (bits, oas, any::<[bool; 2]>(), 7u8..=16).prop_map(|(ssidsize, oas, some, sid)| Options {
        ssidsize,
        oas,
        granules: Granules { gran16k: some[0] || some[1], gran64k: some[0] || !some[1], ..Granules::ALL },
        sidsize: sid,
        ..Options::default()
    })
}

fn any_table() -> impl Strategy<Value = (u64, u32)> {
    let two_level = (any::<u64>(), 6u32..=16, proptest::sample::select(vec![6u32, 8, 10, 7])).prop_map(
        |(base, size, split)| {
            (region(STREAM_TABLES, 0x2_0000_0000 | base & 0x1_ffff_ffc0), 1 << 16 | split << 6 | size)
        },
    );
    let linear = (any::<u64>(), prop_oneof![1 => 0u32..=5, 5 => 6u32..=20])
        .prop_map(|(base, size)| (region(STREAM_TABLES, base & 0x1_ffff_ffc0), size));
    prop_oneof![two_level, linear]
}

/// Addresses that have a chance: small, canonical or nearly so, with all kinds of top bytes.
fn any_address() -> impl Strategy<Value = u64> {
    (any::<u64>(), prop_oneof![6 => 14u32..=40, 1 => 40u32..=64], any::<bool>(), 0u8..8).prop_map(
        |(random, size, high, top)| {
            let low = random & (u64::MAX >> (64 - size));
            let address = if high { !low } else { low };
            if top == 0 { address ^ 0x5a << 56 } else { address }
        },
    )
}

fn any_ask() -> impl Strategy<Value = Ask> {
    let sid = prop_oneof![9 => 0u64..64, 1 => 0u64..1 << 17];
    let ssid =
        prop_oneof![4 => Just(None), 2 => (0u64..16).prop_map(Some), 1 => (0u64..1 << 20).prop_map(Some)];
    (sid, ssid, any_address(), any::<[bool; 3]>()).prop_map(
        |(sid, ssid, address, [read, instruction, privileged])| Ask {
            sid,
            ssid,
            address,
            read,
            instruction,
            privileged,
        },
    )
}

fn ours(result: Result<Translation, Fault>) -> Outcome {
    match result {
        Ok(translation) => Outcome::Address(translation.address),
        Err(Fault { event: None }) => Outcome::Silent,
        Err(Fault { event: Some(event) }) => {
            let bytes = event.as_bytes();
            Outcome::Event(core::array::from_fn(|i| {
                u64::from_le_bytes(bytes[i * 8..i * 8 + 8].try_into().unwrap())
            }))
        }
    }
}

struct Case {
    model: Model,
    registers: Registers,
    smmu: Smmu,
    memory: Synthetic,
}

fn case(seed: u64, options: Options, table: (u64, u32), recinvsid: bool) -> Case {
    let model = Model::new(smmu_arch::model::MODEL_NAME, options).unwrap();
    let registers = Registers {
        cr0: Cr0::new().with_smmuen(true),
        cr2: Cr2::new().with_recinvsid(recinvsid),
        strtab_base: StrtabBase::from_bits(table.0),
        strtab_base_cfg: StrtabBaseCfg::from_bits(table.1),
        ..Registers::default()
    };
    let smmu = Smmu {
        ssid_bits: options.ssidsize.into(),
        sid_bits: options.sidsize.into(),
        oas: options.oas.into(),
        granules: [options.granules.gran4k, options.granules.gran16k, options.granules.gran64k],
        strtab_base: table.0,
        strtab_base_cfg: table.1.into(),
        recinvsid,
    };
    Case { model, registers, smmu, memory: Synthetic { seed, reads: Cell::new(0) } }
}

fn request(ask: &Ask) -> (Requester, InputAccess) {
    let substream = ask.ssid.map(|ssid| SubstreamId(ssid as u32));
    let access = InputAccess {
        address: ask.address,
        read: ask.read,
        instruction: ask.instruction,
        privileged: ask.privileged,
    };
    (Requester { stream: StreamId(ask.sid as u32), substream }, access)
}

fn runner(cases: u32) -> TestRunner {
    TestRunner::new(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(cases) })
}

fn outcome_name(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Address(_) => "an address",
        Outcome::Silent => "silent abort",
        Outcome::Event(words) => event_name(words[0] & 0xff),
    }
}

#[test]
fn translation_equals_the_reference() {
    let tally = Tally::default();
    let asks = proptest::collection::vec(any_ask(), 1..12);
    let inputs = (any::<u64>(), any_options(), any_table(), any::<bool>(), asks);
    let result = runner(12_000).run(&inputs, |(seed, options, table, recinvsid, asks)| {
        let case = case(seed, options, table, recinvsid);
        for ask in &asks {
            let (who, access) = request(ask);
            case.memory.reads.set(0);
            let result = Engine::new(case.model).translate(&case.registers, &case.memory, who, access);
            let fetches = case.memory.reads.get();
            prop_assert!(fetches <= 8, "a translation reads at most eight structures");
            let expected = reference::translate(&case.smmu, &case.memory, ask);
            prop_assert_eq!(ours(result), expected, "{:?}", ask);
            tally.count("outcome", outcome_name(&expected));
            tally.count("structures read", fetches.to_string());
            let table = if table.1 >> 16 & 1 == 1 { "2-level stream table" } else { "linear stream table" };
            tally.count(
                "structure",
                format!("{table}, {}", if ask.ssid.is_some() { "substream" } else { "no substream" }),
            );
            // Everything in the span is translated alike.
            if let Ok(Translation { address, span }) = result {
                let last = Ask { address: ask.address.wrapping_add(span - 1), ..*ask };
                let expected = Outcome::Address(address + (span - 1));
                prop_assert_eq!(reference::translate(&case.smmu, &case.memory, &last), expected);
            }
        }
        Ok(())
    });
    let title = "synthetic structures against the reference";
    let outcomes = [&EVENTS[..], &["an address", "silent abort"]].concat();
    let structures = [
        "linear stream table, substream",
        "linear stream table, no substream",
        "2-level stream table, substream",
        "2-level stream table, no substream",
    ];
    let reads = ["0", "1", "2", "3", "4", "5", "6", "7", "8"];
    let expected = [("outcome", &outcomes[..]), ("structure", &structures), ("structures read", &reads)];
    tally.finish(title, 5, &expected);
    result.unwrap();
}

/// Caches change nothing while memory does not change. Every stream here has its own ASIDs: the
/// synthetic CDs reuse them freely, so the test gives each stream an engine of its own.
#[test]
fn a_cached_translation_equals_a_fresh_one() {
    let tally = Tally::default();
    let others = proptest::collection::vec((0u64..1 << 22, any::<[bool; 3]>()), 1..40);
    let inputs = (any::<u64>(), any_options(), any_table(), any_ask(), others);
    let result = runner(4000).run(&inputs, |(seed, options, table, ask, others)| {
        let case = case(seed, options, table, true);
        let mut engine = Engine::new(case.model);
        for (offset, [read, instruction, privileged]) in others {
            let ask = Ask { address: ask.address ^ offset, read, instruction, privileged, ..ask };
            let (who, access) = request(&ask);
            case.memory.reads.set(0);
            let cached = engine.translate(&case.registers, &case.memory, who, access);
            let fetches = case.memory.reads.get();
            let fresh = Engine::new(case.model).translate(&case.registers, &case.memory, who, access);
            prop_assert_eq!(cached, fresh);
            let kind = if cached.is_ok() { "an address" } else { "a fault" };
            tally.count("lookup", format!("{kind}, {}", if fetches == 0 { "hit" } else { "miss" }));
        }
        Ok(())
    });
    let expected = ["an address, hit", "an address, miss", "a fault, hit", "a fault, miss"];
    tally.finish("cached translations against fresh ones", 30, &[("lookup", &expected)]);
    result.unwrap();
}
