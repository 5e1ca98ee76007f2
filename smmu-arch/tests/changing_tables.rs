// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Tables that a guest changes while a device uses them: what was invalidated is never used again, what was not
//! touched keeps working, and both are as the reference has it.
//!
//! Three sets of tables, one for each granule, with both halves; the first has two address spaces over it, so
//! that global entries are shared. After every change the test knows which old translations a TLB may still
//! have, and which invalidations take each of them away by the manual; outside of those, every answer must be that
//! of the reference on the memory of now. Commands are the raw ones of the Command queue.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test may stop at the first surprise"
)]

mod ground;
mod reference;
mod tally;

use ground::{CONTEXT_SETS, Ram, SET_NAMES, SETS, address, coverage, root};
use proptest::prelude::*;
use proptest::test_runner::{TestCaseResult, TestRunner};
use reference::{Ask, Outcome, Smmu};
use smmu_arch::engine::Engine;
use smmu_arch::spec::commands::{Command, Opcode};
use smmu_arch::spec::control::{Cr0, Cr2};
use smmu_arch::spec::events::{InputAccess, Requester};
use smmu_arch::spec::tables::{StrtabBase, StrtabBaseCfg};
use smmu_arch::translate::{Fault, Registers, Translation};
use smmu_arch::{Model, Options, StreamId, SubstreamId};
use tally::{Tally, event_name};
use zerocopy::IntoBytes;

const STREAM: u64 = 3;
const STREAMS: u64 = 0x1000;
const CONTEXTS: u64 = 0x2000;
const TABLES: u64 = 0x100_0000;

/// An old translation that a TLB may still have.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Stale {
    set: usize,
    level: u32,
    first: u64,
    last: u64,
    /// Its address space; none for a global one.
    asid: Option<u64>,
}

struct World {
    ram: Ram,
    registers: Registers,
    smmu: Smmu,
    engine: Engine,
    next_table: u64,
    stale: Vec<Stale>,
    /// Contexts, and the stream, whose change was not announced yet.
    stale_contexts: [bool; 4],
    stale_stream: bool,
}

/// What happens, with numbers to choose from what there is.
#[derive(Clone, Copy, Debug)]
enum Act {
    Change { set: usize, place: u64, high: bool, level: u32, descriptor: u64, kind: u8 },
    ChangeContext { context: usize, kind: u8 },
    ChangeStream { kind: u8 },
    Invalidate { kind: usize, place: u64, high: bool, context: usize, size: u64 },
    Ask { context: usize, place: u64, high: bool, offset: u64, read: bool },
}

const INVALIDATIONS: [&str; 13] = [
    "TLBI_NSNH_ALL",
    "TLBI_NH_ALL",
    "TLBI_NH_ASID",
    "TLBI_NH_VA",
    "TLBI_NH_VA leaf",
    "TLBI_NH_VA range",
    "TLBI_NH_VAA",
    "TLBI_NH_VAA range",
    "CFGI_CD",
    "CFGI_CD_ALL",
    "CFGI_STE",
    "CFGI_STE_RANGE",
    "CFGI_ALL",
];

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let level = prop_oneof![1 => Just(1u32), 2 => Just(2), 6 => Just(3)];
    let change = (0usize..3, any::<u64>(), any::<bool>(), level, any::<u64>(), any::<u8>()).prop_map(
        |(set, place, high, level, descriptor, kind)| Act::Change {
            set,
            place,
            high,
            level,
            descriptor,
            kind,
        },
    );
    let context = (0usize..4, any::<u8>()).prop_map(|(context, kind)| Act::ChangeContext { context, kind });
    let invalidate = (0usize..INVALIDATIONS.len(), any::<u64>(), any::<bool>(), 0usize..4, any::<u64>())
        .prop_map(|(kind, place, high, context, size)| Act::Invalidate { kind, place, high, context, size });
    let ask = (0usize..4, any::<u64>(), any::<bool>(), any::<u64>(), any::<bool>())
        .prop_map(|(context, place, high, offset, read)| Act::Ask { context, place, high, offset, read });
    let act = prop_oneof![
        24 => change,
        2 => context,
        1 => any::<u8>().prop_map(|kind| Act::ChangeStream { kind }),
        16 => invalidate,
        60 => ask,
    ];
    prop::collection::vec(act, 20..200)
}

impl World {
    fn new() -> World {
        let options = Options { ssidsize: 4, ..Options::default() };
        let model = Model::new(smmu_arch::model::MODEL_NAME, options).unwrap();
        let registers = Registers {
            cr0: Cr0::new().with_smmuen(true),
            cr2: Cr2::new().with_recinvsid(true),
            strtab_base: StrtabBase::from_bits(STREAMS),
            strtab_base_cfg: StrtabBaseCfg::from_bits(4),
            ..Registers::default()
        };
        let smmu = Smmu {
            ssid_bits: options.ssidsize.into(),
            sid_bits: options.sidsize.into(),
            oas: options.oas.into(),
            granules: [options.granules.gran4k, options.granules.gran16k, options.granules.gran64k],
            strtab_base: STREAMS,
            strtab_base_cfg: 4,
            recinvsid: true,
        };
        let world = World {
            ram: Ram::default(),
            registers,
            smmu,
            engine: Engine::new(model),
            next_table: TABLES,
            stale: Vec::new(),
            stale_contexts: [false; 4],
            stale_stream: false,
        };
        // Valid, stage 1, linear table of four contexts.
        world.ram.put(STREAMS + STREAM * 64, 1 | 5 << 1 | CONTEXTS | 2 << 59);
        for (context, set) in (0u64..).zip(CONTEXT_SETS) {
            let (_, bits, tg0, tg1) = SETS[set];
            let size = u64::from(64 - bits);
            let word0 =
                size | tg0 << 6 | size << 16 | tg1 << 22 | 1 << 31 | 5 << 32 | 1 << 41 | 1 << 45 | 1 << 46;
            let at = CONTEXTS + context * 64;
            world.ram.put(at, word0 | (context + 1) << 48);
            world.ram.put(at + 8, root(set, false));
            world.ram.put(at + 16, root(set, true));
        }
        world
    }

    /// The address of the descriptor for `address` at `level`, with tables made on the way where there are none.
    /// `None`: a block is in the way.
    fn descriptor(&mut self, set: usize, high: bool, address: u64, level: u32) -> Option<u64> {
        let (granule, bits, ..) = SETS[set];
        let stride = granule - 3;
        let mut at = root(set, high);
        let start = 4 - (bits - granule).div_ceil(stride);
        for step in start..=level {
            let index = (address & ((1 << bits) - 1)) >> coverage(set, step) & ((1 << stride) - 1);
            let entry = at + index * 8;
            if step == level {
                return Some(entry);
            }
            let word = self.ram.get(entry);
            at = match word & 3 {
                3 => word & 0xffff_ffff_0000,
                1 => return None,
                _ => {
                    let table = self.next_table;
                    self.next_table += 0x1_0000;
                    self.ram.put(entry, table | 3);
                    table
                }
            };
        }
        None
    }

    /// Every translation at and below a descriptor.
    fn leaves(&self, set: usize, entry: u64, level: u32, base: u64, found: &mut Vec<(u32, u64, u64)>) {
        let word = self.ram.get(entry);
        if word & 1 == 0 {
            return;
        }
        if level == 3 || word & 2 == 0 {
            found.push((level, base, word));
            return;
        }
        // `address` chooses no place beyond these.
        let table = word & 0xffff_ffff_0000;
        for index in 0..8 {
            if self.ram.get(table + index * 8) != 0 {
                let base = base + (index << coverage(set, level + 1));
                self.leaves(set, table + index * 8, level + 1, base, found);
            }
        }
    }

    fn change(&mut self, act: Act, tally: &Tally) {
        let Act::Change { set, place, high, level, descriptor, kind } = act else { return };
        let (granule, ..) = SETS[set];
        // Blocks: level 2 for all granules, level 1 for 4 KiB.
        let level = if level == 1 && granule != 12 { 2 } else { level };
        let address = address(set, place, high);
        let Some(entry) = self.descriptor(set, high, address, level) else { return };
        let bits = coverage(set, level);
        let base = address >> bits << bits;
        let mut old = Vec::new();
        self.leaves(set, entry, level, base, &mut old);
        let is_table = level < 3 && self.ram.get(entry) & 3 == 3;
        let usually = |salt: u32| u64::from(descriptor >> salt & 7 != 0);
        let attributes = descriptor & (1 << 7 | 1 << 11) | usually(24) << 6 | usually(20) << 10;
        let output = descriptor & 0xff_ffff_ffff >> bits << bits;
        let (word, name) = match kind % 16 {
            0 => (0, "unmap"),
            // APTable, UXNTable: for everything below.
            1..=4 if is_table => (self.ram.get(entry) ^ (descriptor & 7) << 60, "table attributes"),
            _ if level == 3 => (output | attributes | 3, "page"),
            // Blocks are rare, for they hide what is below.
            5..=8 => (output | attributes | 1, "block"),
            _ => return,
        };
        self.ram.put(entry, word);
        tally.count("change", format!("{} {name}", SET_NAMES[set]));
        for (level, first, word) in old {
            let last = first + ((1 << coverage(set, level)) - 1);
            let global = word & 1 << 11 == 0;
            let spaces = CONTEXT_SETS.iter().zip(1u64..).filter(|(of, _)| **of == set);
            let asids: Vec<Option<u64>> =
                if global { vec![None] } else { spaces.map(|(_, asid)| Some(asid)).collect() };
            for asid in asids {
                let stale = Stale { set, level, first, last, asid };
                if !self.stale.contains(&stale) {
                    self.stale.push(stale);
                }
            }
        }
    }

    fn change_context(&mut self, context: usize, kind: u8, tally: &Tally) {
        // R, EPD0, V; the tables stay, and with them what is cached of them.
        let (bit, usual, name) =
            [(45, 1, "CD.R"), (14, 0, "CD.EPD0"), (31, 1, "CD.V")][usize::from(kind % 3)];
        let value = if kind < 0x40 { usual ^ 1 } else { usual };
        let at = CONTEXTS + context as u64 * 64;
        self.ram.put(at, self.ram.get(at) & !(1 << bit) | value << bit);
        self.stale_contexts[context] = true;
        tally.count("change", name);
    }

    fn invalidate(&mut self, act: Act, tally: &Tally) {
        let Act::Invalidate { kind, place, high, context, size } = act else { return };
        // What there is to be invalidated, most of the time; or anything.
        let wanted = self.stale.get((place >> 32) as usize % (self.stale.len() + 1)).copied();
        let set = wanted.map_or(CONTEXT_SETS[context], |stale| stale.set);
        let context = match wanted.map(|stale| stale.asid) {
            Some(Some(asid)) => asid as usize - 1,
            Some(None) => CONTEXT_SETS.iter().position(|of| *of == set).unwrap(),
            None => context,
        };
        let (granule, ..) = SETS[set];
        let asid = context as u64 + 1;
        // Anywhere in it.
        let inside = |stale: Stale| stale.first + size % (stale.last - stale.first + 1);
        let address = wanted.map_or(address(set, place, high), inside);
        let name = INVALIDATIONS[kind];
        // With TG, a number of granules, and sometimes the level.
        let (num, scale, ttl) = (size >> 33 & 3, size >> 36 & 1, size >> 38 & 3);
        let len = ((num + 1) << scale) << granule;
        // A range begins, or ends, at what is wanted.
        let at_end = name.ends_with("range") && size >> 40 & 1 == 1;
        let address = if at_end { address - (len - (1 << granule)) } else { address };
        let opcode = |opcode: Opcode| u64::from(opcode.0);
        let stream = STREAM << 32;
        let va = |op: Opcode, asid: u64| [opcode(op) | asid << 48, address & !0xfff];
        let ttl = if ttl == 1 && granule != 12 { 0 } else { ttl };
        let hint = num << 12 | scale << 20;
        let range_of = |word: [u64; 2]| {
            let tg = u64::from(granule - 10) / 2;
            [word[0] | hint, word[1] | ttl << 8 | tg << 10]
        };
        let words = match name {
            "TLBI_NSNH_ALL" => [opcode(Opcode::TlbiNsnhAll), 0],
            "TLBI_NH_ALL" => [opcode(Opcode::TlbiNhAll), 0],
            "TLBI_NH_ASID" => [opcode(Opcode::TlbiNhAsid) | asid << 48, 0],
            "TLBI_NH_VA" => va(Opcode::TlbiNhVa, asid),
            "TLBI_NH_VA leaf" => {
                let [word0, word1] = va(Opcode::TlbiNhVa, asid);
                [word0, word1 | 1]
            }
            "TLBI_NH_VA range" => range_of(va(Opcode::TlbiNhVa, asid)),
            "TLBI_NH_VAA" => va(Opcode::TlbiNhVaa, 0),
            "TLBI_NH_VAA range" => range_of(va(Opcode::TlbiNhVaa, 0)),
            "CFGI_CD" => [opcode(Opcode::CfgiCd) | (context as u64) << 12 | stream, 0],
            "CFGI_CD_ALL" => [opcode(Opcode::CfgiCdAll) | stream, 0],
            "CFGI_STE" => [opcode(Opcode::CfgiSte) | stream, 0],
            "CFGI_STE_RANGE" => [opcode(Opcode::CfgiSteRange) | stream, size & 3],
            _ => [opcode(Opcode::CfgiSteRange), 31],
        };
        self.engine.apply(&Command { qw0: words[0], qw1: words[1] });
        tally.count("invalidation", name);

        let before = self.stale.len();
        let one = (address, address);
        // A range without a number, scale and level is illegal, and does nothing.
        let legal = (num, scale, ttl) != (0, 0, 0);
        let first = address >> granule << granule;
        let range = (first, first.saturating_add(len - 1));
        let within = |stale: &Stale, (first, last): (u64, u64)| stale.first <= last && first <= stale.last;
        let in_range = |stale: &Stale| {
            // Only tables of this granule, and entries of this level, need to be looked at.
            legal && stale.set == set && (ttl == 0 || u64::from(stale.level) == ttl) && within(stale, range)
        };
        let own = |stale: &Stale| stale.asid.is_none() || stale.asid == Some(asid);
        let gone = |stale: &Stale| match name {
            "TLBI_NSNH_ALL" | "TLBI_NH_ALL" => true,
            "TLBI_NH_ASID" => stale.asid == Some(asid),
            "TLBI_NH_VA" | "TLBI_NH_VA leaf" => own(stale) && within(stale, one),
            "TLBI_NH_VA range" => own(stale) && in_range(stale),
            "TLBI_NH_VAA" => within(stale, one),
            "TLBI_NH_VAA range" => in_range(stale),
            _ => false,
        };
        self.stale.retain(|stale| !gone(stale));
        if self.stale.len() < before {
            tally.count("effective invalidation", name);
        }
        let contexts_before = self.stale_contexts;
        let stream_before = self.stale_stream;
        match name {
            "CFGI_CD" => self.stale_contexts[context] = false,
            "CFGI_CD_ALL" => self.stale_contexts = [false; 4],
            "CFGI_STE" | "CFGI_STE_RANGE" | "CFGI_ALL" => {
                self.stale_contexts = [false; 4];
                self.stale_stream = false;
            }
            _ => {}
        }
        if (contexts_before, stream_before) != (self.stale_contexts, self.stale_stream) {
            tally.count("effective invalidation", name);
        }
    }

    fn ask(&mut self, act: Act, tally: &Tally) -> TestCaseResult {
        let Act::Ask { context, place, high, offset, read } = act else { return Ok(()) };
        let set = CONTEXT_SETS[context];
        let (granule, ..) = SETS[set];
        let address = address(set, place, high) + offset % (1 << granule);
        let ssid = Some(context as u64);
        let ask = Ask { sid: STREAM, ssid, address, read, instruction: false, privileged: false };
        let who = Requester { stream: StreamId(STREAM as u32), substream: Some(SubstreamId(context as u32)) };
        let access = InputAccess { address, read, instruction: false, privileged: false };
        self.ram.reads.set(0);
        let result = self.engine.translate(&self.registers, &self.ram, who, access);
        let reads = self.ram.reads.get();
        let asid = context as u64 + 1;
        let about = |stale: &Stale| {
            (stale.asid.is_none() || stale.asid == Some(asid))
                && stale.first <= address
                && address <= stale.last
        };
        let expected = reference::translate(&self.smmu, &self.ram, &ask);
        if self.stale_stream || self.stale_contexts[context] || self.stale.iter().any(about) {
            // The old or the new, as the caches have it.
            let seen = if ours(result) == expected { "as of now" } else { "as it was" };
            tally.count("before its invalidation", seen);
            return Ok(());
        }
        prop_assert_eq!(ours(result), expected, "{:?}", ask);
        let side = if high { "TTB1" } else { "TTB0" };
        let how = if reads == 0 { "hit" } else { "miss" };
        let name = match expected {
            Outcome::Address(_) => {
                tally.count("lookup", format!("{} {side} {how}", SET_NAMES[set]));
                "an address"
            }
            Outcome::Silent => "silent abort",
            Outcome::Event(words) => event_name(words[0] & 0xff),
        };
        tally.count("outcome", name);
        Ok(())
    }
}

fn ours(result: Result<Translation, Fault>) -> Outcome {
    match result {
        Ok(translation) => Outcome::Address(translation.address),
        Err(Fault { event: None }) => Outcome::Silent,
        Err(Fault { event: Some(event) }) => {
            let words = event.as_bytes().as_chunks::<8>().0;
            Outcome::Event(core::array::from_fn(|at| u64::from_le_bytes(words[at])))
        }
    }
}

#[test]
fn what_was_invalidated_is_never_used_again() {
    let tally = Tally::default();
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) };
    let result = TestRunner::new(config).run(&acts(), |acts| {
        let mut world = World::new();
        for act in acts {
            match act {
                Act::Change { .. } => world.change(act, &tally),
                Act::ChangeContext { context, kind } => world.change_context(context, kind, &tally),
                Act::ChangeStream { kind } => {
                    let at = STREAMS + STREAM * 64;
                    world.ram.put(at, world.ram.get(at) & !1 | u64::from(kind >= 0x40));
                    world.stale_stream = true;
                    tally.count("change", "STE.V");
                }
                Act::Invalidate { .. } => world.invalidate(act, &tally),
                Act::Ask { .. } => world.ask(act, &tally)?,
            }
        }
        Ok(())
    });
    let lookups: Vec<String> = SET_NAMES
        .iter()
        .flat_map(|set| ["TTB0", "TTB1"].map(|side| format!("{set} {side}")))
        .flat_map(|tables| ["hit", "miss"].map(|how| format!("{tables} {how}")))
        .collect();
    let lookups: Vec<&str> = lookups.iter().map(String::as_str).collect();
    let changes: Vec<String> = SET_NAMES
        .iter()
        .flat_map(|set| {
            ["page", "block", "unmap", "table attributes"].map(|change| format!("{set} {change}"))
        })
        .collect();
    let mut changes: Vec<&str> = changes.iter().map(String::as_str).collect();
    changes.extend(["CD.R", "CD.EPD0", "CD.V", "STE.V"]);
    let outcomes =
        ["an address", "silent abort", "F_TRANSLATION", "F_ACCESS", "F_PERMISSION", "C_BAD_CD", "C_BAD_STE"];
    tally.finish(
        "changing tables against the reference",
        3,
        &[
            ("invalidation", &INVALIDATIONS),
            ("effective invalidation", &INVALIDATIONS),
            ("lookup", &lookups),
            ("change", &changes),
            ("outcome", &outcomes),
            ("before its invalidation", &["as of now", "as it was"]),
        ],
    );
    result.unwrap();
}
