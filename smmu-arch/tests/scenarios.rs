// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Translations as a driver sets them up, step by step: tables in memory, caches, invalidation.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may stop at the first surprise")]

use smmu_arch::engine::Engine;
use smmu_arch::memory::{Abort, Memory};
use smmu_arch::spec::cd::{Cd, CdQw0, CdTtb, L1Cd, Tg0, Tg1};
use smmu_arch::spec::commands::{CfgiQw1, Command, InvalidationGranule, Opcode, StreamQw0, TlbiQw0, TlbiQw1};
use smmu_arch::spec::control::{Cr0, Cr2, Gbpa};
use smmu_arch::spec::descriptor::{LeafDescriptor, TableDescriptor};
use smmu_arch::spec::events::{EventRecord, EventType, FaultClass, InputAccess, Requester};
use smmu_arch::spec::id::AddressSize;
use smmu_arch::spec::ste::{ContextTableFormat, DefaultSubstream, L1Std, Ste, SteQw0, SteQw1, StreamConfig};
use smmu_arch::spec::tables::{StreamTableFormat, StrtabBase, StrtabBaseCfg};
use smmu_arch::translate::{Fault, Registers, Translation};
use smmu_arch::{Model, Options, StreamId, SubstreamId};
use std::cell::RefCell;
use std::collections::HashMap;
use zerocopy::IntoBytes;

const L1: u64 = 0x4000_0000;
const L2: u64 = 0x4001_0000;
const CDS: u64 = 0x4002_0000;
const CD_LEAF: u64 = 0x4003_0000;
const TABLES: u64 = 0x4100_0000;
const STREAM: StreamId = StreamId(0x108);

/// Words where something was put; everything below 8 GiB is memory.
#[derive(Default)]
struct Ram(RefCell<HashMap<u64, u64>>);

impl Memory for Ram {
    fn read(&self, address: u64, bytes: &mut [u8]) -> Result<(), Abort> {
        if address >= 0x2_0000_0000 {
            return Err(Abort);
        }
        for (at, chunk) in (address..).step_by(8).zip(bytes.chunks_mut(8)) {
            chunk.copy_from_slice(&self.0.borrow().get(&at).copied().unwrap_or(0).to_le_bytes());
        }
        Ok(())
    }
}

struct System {
    ram: Ram,
    registers: Registers,
    engine: Engine,
}

fn cd(asid: u16, table: u64) -> Cd {
    let qw0 = CdQw0::new()
        .with_t0sz(16)
        .with_tg0(Tg0::Granule4K)
        .with_epd1(true)
        .with_v(true)
        .with_ips(AddressSize::Bits44)
        .with_aa64(true)
        .with_r(true)
        .with_a(true)
        .with_asid(asid);
    Cd { qw0, ttb0: CdTtb::new().with_ttb_51_4(table >> 4), ..Cd::default() }
}

fn page(output: u64) -> LeafDescriptor {
    LeafDescriptor::new()
        .with_valid(true)
        .with_page(true)
        .with_af(true)
        .with_ng(true)
        .with_ap_unprivileged(true)
        .with_address_47_12(output >> 12)
}

fn table(next: u64) -> u64 {
    TableDescriptor::new().with_valid(true).with_table(true).with_address_47_12(next >> 12).into_bits()
}

impl System {
    /// A 2-level stream table, and one stream with one CD and 4 KiB tables over 48 bits.
    fn new(options: Options) -> System {
        let registers = Registers {
            cr0: Cr0::new().with_smmuen(true),
            cr2: Cr2::new().with_recinvsid(true),
            strtab_base: StrtabBase::new().with_addr_51_6(L1 >> 6),
            strtab_base_cfg: StrtabBaseCfg::new()
                .with_log2size(16)
                .with_split(8)
                .with_fmt(StreamTableFormat::TwoLevel),
            ..Registers::default()
        };
        let model = Model::new(smmu_arch::model::MODEL_NAME, options).unwrap();
        let system = System { ram: Ram::default(), registers, engine: Engine::new(model) };
        system.put(L1 + 8, L1Std::new().with_span(9).with_l2ptr_51_6(L2 >> 6).into_bits());
        let config = SteQw0::new().with_v(true).with_config(StreamConfig::Stage1);
        system.put_ste(Ste { qw0: config.with_s1contextptr_51_6(CDS >> 6), ..Ste::default() });
        system.put_all(CDS, cd(1, TABLES).as_bytes());
        // One path: level 0, 1, 2, 3 tables for the lowest 2 MiB, one after another.
        for level in 0..3 {
            system.put(TABLES + level * 0x1000, table(TABLES + (level + 1) * 0x1000));
        }
        system
    }

    fn put(&self, address: u64, word: u64) {
        self.ram.0.borrow_mut().insert(address, word);
    }

    fn put_all(&self, address: u64, bytes: &[u8]) {
        for (at, chunk) in (address..).step_by(8).zip(bytes.chunks(8)) {
            self.put(at, u64::from_le_bytes(chunk.try_into().unwrap()));
        }
    }

    fn put_ste(&self, ste: Ste) {
        self.put_all(L2 + u64::from(STREAM.0 & 0xff) * 64, ste.as_bytes());
    }

    fn put_page(&self, index: u64, descriptor: LeafDescriptor) {
        self.put(TABLES + 0x3000 + index * 8, descriptor.into_bits());
    }

    fn ask(&mut self, substream: Option<u32>, address: u64, read: bool) -> Result<Translation, Fault> {
        let who = Requester { stream: STREAM, substream: substream.map(SubstreamId) };
        let access = InputAccess { address, read, instruction: false, privileged: false };
        self.engine.translate(&self.registers, &self.ram, who, access)
    }

    fn read(&mut self, address: u64) -> Result<u64, Fault> {
        self.ask(None, address, true).map(|translation| translation.address)
    }
}

fn event(fault: Result<impl core::fmt::Debug, Fault>) -> EventRecord {
    fault.unwrap_err().event.unwrap()
}

fn cfgi_ste() -> Command {
    Command {
        qw0: StreamQw0::new().with_opcode(Opcode::CfgiSte).with_stream_id(STREAM.0).into_bits(),
        qw1: 1,
    }
}

fn tlbi_va(asid: u16, address: u64) -> Command {
    Command {
        qw0: TlbiQw0::new().with_opcode(Opcode::TlbiNhVa).with_asid(asid).into_bits(),
        qw1: TlbiQw1::new().with_leaf(true).with_address_63_12(address >> 12).into_bits(),
    }
}

#[test]
fn a_mapped_page_is_translated_and_its_neighbour_faults() {
    let mut system = System::new(Options::default());
    system.put_page(5, page(0x8_1234_5000));
    let translation = system.ask(None, 0x5678, false).unwrap();
    assert_eq!(translation, Translation { address: 0x8_1234_5678, span: 0x988 });
    let record = event(system.ask(None, 0x6010, false));
    assert_eq!(record.qw0.event_type(), EventType::F_TRANSLATION);
    assert_eq!((record.qw0.stream_id(), record.input_address), (STREAM.0, 0x6010));
    assert_eq!((record.qw1.rnw(), record.qw1.s2(), record.qw1.class()), (false, false, FaultClass::In));
}

#[test]
fn an_unmapped_page_is_gone_once_its_invalidation_is_applied() {
    let mut system = System::new(Options::default());
    for index in 0..16 {
        system.put_page(index, page(0x5000_0000 + index * 0x1000));
        system.read(index * 0x1000).unwrap();
    }
    assert_eq!(system.engine.cached_translations(), 16);
    (0..16).for_each(|index| system.put_page(index, LeafDescriptor::new()));
    assert_eq!(system.read(0x3000), Ok(0x5000_3000), "a cache may answer until the invalidation");
    system.engine.apply(&tlbi_va(2, 0x3000));
    assert!(system.read(0x3000).is_ok(), "another address space");
    system.engine.apply(&tlbi_va(1, 0x3000));
    assert!(system.read(0x3000).is_err());
    assert!(system.read(0x4000).is_ok());
    // A range: pages 4 to 11, as NUM 3 and SCALE 1 say.
    let range = Command {
        qw0: TlbiQw0::new().with_opcode(Opcode::TlbiNhVa).with_asid(1).with_num(3).with_scale(1).into_bits(),
        qw1: TlbiQw1::new().with_tg(InvalidationGranule::Granule4K).with_address_63_12(4).into_bits(),
    };
    system.engine.apply(&range);
    let alive: Vec<u64> = (0..16).filter(|index| system.read(index * 0x1000).is_ok()).collect();
    assert_eq!(alive, [0, 1, 2, 12, 13, 14, 15]);
    let asid = TlbiQw0::new().with_opcode(Opcode::TlbiNhAsid).with_asid(1).into_bits();
    system.engine.apply(&Command { qw0: asid, qw1: 0 });
    assert_eq!(system.engine.cached_translations(), 0);
}

#[test]
fn what_was_invalid_needs_no_invalidation_to_become_valid() {
    let mut system = System::new(Options::default());
    assert!(system.read(0x1000).is_err());
    system.put_page(1, page(0x5000_0000));
    assert_eq!(system.read(0x1000), Ok(0x5000_0000));
}

#[test]
fn stream_and_context_are_cached_until_configuration_is_invalidated() {
    let mut system = System::new(Options::default());
    system.put_page(0, page(0x5000_0000));
    assert!(system.read(0).is_ok());
    let bypass = SteQw0::new().with_v(true).with_config(StreamConfig::Bypass);
    system.put_ste(Ste { qw0: bypass, ..Ste::default() });
    assert_eq!(system.read(0), Ok(0x5000_0000));
    system.engine.apply(&cfgi_ste());
    assert_eq!(system.read(0), Ok(0));

    // CFGI_ALL drops contexts as well as entries.
    let mut system = System::new(Options::default());
    system.put_page(0, page(0x5000_0000));
    assert!(system.read(0).is_ok());
    system.put_all(CDS, Cd::default().as_bytes());
    assert!(system.read(0).is_ok());
    let all = StreamQw0::new().with_opcode(Opcode::CfgiSteRange).into_bits();
    system.engine.apply(&Command { qw0: all, qw1: CfgiQw1::new().with_range(31).into_bits() });
    assert_eq!(event(system.read(0)).qw0.event_type(), EventType::C_BAD_CD);
}

#[test]
fn a_disabled_smmu_obeys_gbpa_and_records_nothing() {
    let mut system = System::new(Options::default());
    system.registers.cr0 = Cr0::new();
    assert_eq!(system.ask(Some(3), 0x1234, true).map(|t| t.address), Ok(0x1234));
    assert_eq!(system.read(1 << 44), Err(Fault::SILENT), "beyond the output address size");
    system.registers.gbpa = Gbpa::new().with_abort(true);
    assert_eq!(system.read(0x1234), Err(Fault::SILENT));
}

#[test]
fn streams_out_of_the_table_are_recorded_only_if_asked_for() {
    let mut system = System::new(Options::default());
    for stream in [0x1_0000, 0x300, u32::MAX] {
        let who = Requester { stream: StreamId(stream), substream: None };
        let access = InputAccess { address: 0, read: true, instruction: false, privileged: false };
        let fault = system.engine.translate(&system.registers, &system.ram, who, access);
        assert_eq!(event(fault), EventRecord::c_bad_streamid(who));
        let mut silent = system.registers;
        silent.cr2 = Cr2::new();
        assert_eq!(system.engine.translate(&silent, &system.ram, who, access), Err(Fault::SILENT));
    }
}

#[test]
fn substreams_select_contexts_by_the_rules_of_s1dss() {
    let options = Options { ssidsize: 8, ..Options::default() };
    let ste = |format, dss| Ste {
        qw0: SteQw0::new()
            .with_v(true)
            .with_config(StreamConfig::Stage1)
            .with_s1contextptr_51_6(CDS >> 6)
            .with_s1fmt(format)
            .with_s1cdmax(8),
        qw1: SteQw1::new().with_s1dss(dss),
        ..Ste::default()
    };
    for format in
        [ContextTableFormat::Linear, ContextTableFormat::TwoLevel4K, ContextTableFormat::TwoLevel64K]
    {
        let mut system = System::new(options);
        // Each substream's CD has its number as ASID; two are there.
        let leaf = match format {
            ContextTableFormat::Linear => CDS,
            _ => {
                system.put(CDS, L1Cd::new().with_v(true).with_l2ptr_51_12(CD_LEAF >> 12).into_bits());
                CD_LEAF
            }
        };
        system.put_all(leaf, cd(0, TABLES).as_bytes());
        system.put_all(leaf + 5 * 64, cd(5, TABLES).as_bytes());
        system.put_page(0, page(0x5000_0000));
        system.put_ste(ste(format, DefaultSubstream::UseSubstream0));
        let mut kind = |substream| match system.ask(substream, 0, true) {
            Ok(_) => None,
            fault => Some(event(fault).qw0.event_type()),
        };
        assert_eq!(kind(None), None);
        assert_eq!(kind(Some(5)), None);
        assert_eq!(kind(Some(0)), Some(EventType::F_STREAM_DISABLED));
        assert_eq!(kind(Some(6)), Some(EventType::C_BAD_CD));
        assert_eq!(kind(Some(256)), Some(EventType::C_BAD_SUBSTREAMID));
        // Substream 70 lies under an L1CD that is not there, if there are L1CDs of 64.
        let seventy = if format == ContextTableFormat::TwoLevel4K {
            EventType::C_BAD_SUBSTREAMID
        } else {
            EventType::C_BAD_CD
        };
        assert_eq!(kind(Some(70)), Some(seventy));

        system.engine.flush();
        system.put_ste(ste(format, DefaultSubstream::Bypass));
        assert_eq!(system.read(0x9000), Ok(0x9000));
        system.engine.flush();
        system.put_ste(ste(format, DefaultSubstream::Terminate));
        assert_eq!(event(system.read(0)).qw0.event_type(), EventType::F_STREAM_DISABLED);
    }
}

/// §5.4.1: the upper half has its own size, granule and table, and TBI of its own.
#[test]
fn the_upper_half_translates_through_ttb1() {
    let mut system = System::new(Options::default());
    let mut cd = cd(1, 0);
    cd.qw0 = cd.qw0.with_epd0(true).with_epd1(false).with_t1sz(25).with_tg1(Tg1::Granule64K).with_tbi1(true);
    cd.ttb1 = CdTtb::new().with_ttb_51_4((TABLES + 0x10_0000) >> 4);
    system.put_all(CDS, cd.as_bytes());
    // 39 bits, 64 KiB: level 2 has 1024 entries of 512 MiB; the last one is a block.
    let block = page(0x6000_0000).with_page(false);
    system.put(TABLES + 0x10_0000 + 1023 * 8, block.into_bits());
    assert_eq!(system.read(0xffff_ffff_e123_4567), Ok(0x6123_4567));
    assert_eq!(system.read(0x5aff_ffff_e123_4567), Ok(0x6123_4567), "the top byte is ignored");
    assert_eq!(event(system.read(0x0123_4567)).qw0.event_type(), EventType::F_TRANSLATION, "EPD0");
    assert_eq!(event(system.read(0xffff_ff7f_e123_4567)).qw0.event_type(), EventType::F_TRANSLATION);
}

#[test]
fn faults_of_translations_are_silent_without_cd_r_but_configuration_faults_are_not() {
    let mut system = System::new(Options::default());
    let mut cd = cd(1, TABLES);
    cd.qw0 = cd.qw0.with_r(false);
    system.put_all(CDS, cd.as_bytes());
    assert_eq!(system.read(0x1000), Err(Fault::SILENT));
    system.put(TABLES, table(0x3_0000_0000));
    let record = event(system.read(0x1000));
    assert_eq!(record.qw0.event_type(), EventType::F_WALK_EABT);
    assert_eq!((record.second_address, record.qw1.class()), (0x3_0000_0000, FaultClass::Ttd));
}

#[test]
fn hierarchical_permissions_apply_unless_disabled() {
    let mut system = System::new(Options::default());
    system.put_page(0, page(0x5000_0000));
    let read_only = TableDescriptor::from_bits(table(TABLES + 0x1000)).with_ap_table_read_only(true);
    system.put(TABLES, read_only.into_bits());
    assert!(system.ask(None, 0, true).is_ok());
    assert_eq!(event(system.ask(None, 0, false)).qw0.event_type(), EventType::F_PERMISSION);

    let mut cd = cd(2, TABLES);
    cd.ttb0 = cd.ttb0.with_had(true);
    system.put_all(CDS, cd.as_bytes());
    system.engine.apply(&cfgi_ste());
    assert!(system.ask(None, 0, false).is_ok());
}

#[test]
fn table_sizes_and_addresses_outside_the_ranges_make_a_context_illegal() {
    let legal = |change: &dyn Fn(&mut Cd)| {
        let mut system = System::new(Options { oas: 40, ..Options::default() });
        let mut cd = cd(1, TABLES);
        change(&mut cd);
        system.put_all(CDS, cd.as_bytes());
        event(system.read(0)).qw0.event_type() != EventType::C_BAD_CD
    };
    assert!(legal(&|_| {}), "the table is empty, the context is legal");
    for (size, expected) in [(15, false), (16, true), (39, true), (40, false)] {
        assert_eq!(legal(&|cd| cd.qw0 = cd.qw0.with_t0sz(size)), expected, "T0SZ {size}");
    }
    // What a disabled half says does not matter.
    assert!(legal(&|cd| cd.qw0 = cd.qw0.with_t1sz(0).with_tg1(Tg1(0))));
    assert!(!legal(&|cd| cd.qw0 = cd.qw0.with_t1sz(0).with_epd1(false)));
    assert!(!legal(&|cd| cd.qw0 = cd.qw0.with_tg0(Tg0(3))));
    // IPS is capped to the output address size of 40 bits.
    assert!(!legal(&|cd| cd.ttb0 = CdTtb::new().with_ttb_51_4(1 << 36)));
    assert!(!legal(&|cd| cd.qw0 = cd.qw0.with_s(true)));
    assert!(!legal(&|cd| cd.qw0 = cd.qw0.with_a(false)));
    assert!(!legal(&|cd| cd.qw0 = cd.qw0.with_ha(true)));
    assert!(!legal(&|cd| cd.qw0 = cd.qw0.with_endi(true)));
    assert!(!legal(&|cd| cd.qw0 = cd.qw0.with_aa64(false)));
}

/// Read, write and execute, unprivileged then privileged, by AP\[2:1\] of the page, as DDI 0487 tabulates.
#[test]
fn permissions_follow_the_table_of_the_architecture() {
    let permitted = |ap: u64, change: &dyn Fn(&mut Cd)| {
        let mut system = System::new(Options::default());
        let leaf = page(0x5000_0000).with_ap_unprivileged(ap & 1 != 0).with_ap_read_only(ap & 2 != 0);
        system.put_page(0, leaf);
        let mut cd = cd(1, TABLES);
        change(&mut cd);
        system.put_all(CDS, cd.as_bytes());
        let who = Requester { stream: STREAM, substream: None };
        let mut text = String::new();
        for privileged in [false, true] {
            for (letter, read, instruction) in [('r', true, false), ('w', false, false), ('x', true, true)] {
                let access = InputAccess { address: 0, read, instruction, privileged };
                let granted = system.engine.translate(&system.registers, &system.ram, who, access).is_ok();
                text.push(if granted { letter } else { '-' });
            }
        }
        text
    };
    for (ap, normal, wxn, pan) in [
        (0, "--xrwx", "--xrw-", "--xrwx"),
        (1, "rwxrw-", "rw-rw-", "rwx---"),
        (2, "--xr-x", "--xr-x", "--xr-x"),
        (3, "r-xr-x", "r-xr-x", "r-x--x"),
    ] {
        assert_eq!(permitted(ap, &|_| {}), normal, "AP {ap}");
        assert_eq!(permitted(ap, &|cd| cd.qw0 = cd.qw0.with_wxn(true)), wxn, "AP {ap} with WXN");
        assert_eq!(permitted(ap, &|cd| cd.qw0 = cd.qw0.with_pan(true)), pan, "AP {ap} with PAN");
    }
}
