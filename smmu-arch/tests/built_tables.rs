// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Tables built by the `aarch64-paging` crate, walked by ours: 4 KiB granule, blocks and contiguous hints included.
//!
//! The builder shares no code with the walk or with the reference. What should come out is known from the list of
//! mappings alone.
#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "a test may stop at the first surprise"
)]

mod tally;

use aarch64_paging::descriptor::{El1Attributes, PhysicalAddress};
use aarch64_paging::paging::{Constraints, El1And0, MemoryRegion, RootTable, VaRange};
use aarch64_paging::target::TargetAllocator;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use smmu_arch::engine::Engine;
use smmu_arch::memory::{Abort, Memory};
use smmu_arch::spec::cd::{Cd, CdQw0, CdTtb, Tg0, Tg1};
use smmu_arch::spec::events::{EventType, InputAccess, Requester};
use smmu_arch::spec::id::AddressSize;
use smmu_arch::spec::ste::{Ste, SteQw0, SteQw1, StreamConfig};
use smmu_arch::translate::stream::{StreamAction, check};
use smmu_arch::{Model, Options, StreamId};
use tally::Tally;
use zerocopy::IntoBytes;

const CONTEXT: u64 = 0x1000;
const TABLES: u64 = 0x10_0000;
const PAGE: u64 = 4096;
/// Pages that mappings are about: 6 GiB, so that blocks of both sizes come up.
const PAGES: u64 = 6 << 18;
/// Where they go, in pages: the builder subtracts addresses from these, and checks for no overflow.
const TO: u64 = 1 << 22;

/// A context descriptor, and tables behind it.
struct Image {
    context: Vec<u8>,
    tables: Vec<u8>,
}

impl Memory for Image {
    fn read(&self, address: u64, bytes: &mut [u8]) -> Result<(), Abort> {
        let (base, held) = if address < TABLES { (CONTEXT, &self.context) } else { (TABLES, &self.tables) };
        let at = usize::try_from(address.checked_sub(base).ok_or(Abort)?).map_err(|_| Abort)?;
        bytes.copy_from_slice(held.get(at..at + bytes.len()).ok_or(Abort)?);
        Ok(())
    }
}

#[derive(Clone, Copy, Debug)]
struct Mapping {
    page: u64,
    count: u64,
    to: u64,
    attributes: El1Attributes,
    blocks: bool,
}

fn any_mapping() -> impl Strategy<Value = Mapping> {
    let user = prop_oneof![5 => Just(El1Attributes::USER), 1 => Just(El1Attributes::empty())];
    let read_only = prop_oneof![2 => Just(El1Attributes::empty()), 1 => Just(El1Attributes::READ_ONLY)];
    let accessed = prop_oneof![6 => Just(El1Attributes::ACCESSED), 1 => Just(El1Attributes::empty())];
    let valid = prop_oneof![6 => Just(El1Attributes::VALID), 1 => Just(El1Attributes::empty())];
    let attributes =
        (user, read_only, accessed, valid).prop_map(|(a, b, c, d)| a | b | c | d | El1Attributes::NON_GLOBAL);
    // Aligned to a page, to a 2 MiB block or to one of 1 GiB, at both ends.
    let unit = prop_oneof![4 => Just(1u64), 3 => Just(512), 1 => Just(1 << 18)];
    (unit, any::<u64>(), 1u64..5, any::<u64>(), attributes, any::<bool>(), 0u64..4).prop_map(
        |(unit, page, count, to, attributes, blocks, shift)| {
            let page = page % PAGES / unit * unit;
            let count = (count * unit + shift % unit).min(PAGES - page);
            // A gigabyte of pages would take the builder longer than all the rest.
            let blocks = blocks || unit > 512;
            Mapping { page, count, to: TO + to % (1 << 22) / unit * unit, attributes, blocks }
        },
    )
}

/// What the mappings say of one page: the last one counts.
fn expected(mappings: &[Mapping], page: u64) -> Option<(u64, El1Attributes)> {
    let about = |mapping: &&Mapping| (mapping.page..mapping.page + mapping.count).contains(&page);
    let last = mappings.iter().rev().find(about)?;
    last.attributes.contains(El1Attributes::VALID).then(|| (last.to + page - last.page, last.attributes))
}

fn build(mappings: &[Mapping], upper: bool, level: usize) -> Image {
    let side = if upper { VaRange::Upper } else { VaRange::Lower };
    let mut root = RootTable::with_va_range(TargetAllocator::new(TABLES), level, El1And0, side);
    let origin = if upper { (root.size() as u64).wrapping_neg() } else { 0 };
    for mapping in mappings {
        let start = origin.wrapping_add(mapping.page * PAGE);
        let region = MemoryRegion::new(start as usize, start.wrapping_add(mapping.count * PAGE) as usize);
        let mut constraints = Constraints::empty();
        if !mapping.blocks {
            constraints |= Constraints::NO_BLOCK_MAPPINGS;
        }
        let to = PhysicalAddress((mapping.to * PAGE) as usize);
        root.map_range(&region, to, mapping.attributes, constraints).unwrap();
    }
    let table = CdTtb::new().with_ttb_51_4(root.to_physical().0 as u64 >> 4);
    let size = (64 - (root.size() as u64).ilog2()) as u8;
    let qw0 = CdQw0::new()
        .with_t0sz(size)
        .with_t1sz(size)
        .with_tg0(Tg0::Granule4K)
        .with_tg1(Tg1::Granule4K)
        .with_epd0(upper)
        .with_epd1(!upper)
        .with_v(true)
        .with_ips(AddressSize::Bits44)
        .with_aa64(true)
        .with_r(true)
        .with_a(true)
        .with_asid(1);
    let cd = Cd { qw0, ttb0: table, ttb1: table, ..Cd::default() };
    Image { context: cd.as_bytes().to_vec(), tables: root.translation().as_bytes() }
}

#[test]
fn tables_of_another_builder_translate_as_they_were_built() {
    let tally = Tally::default();
    let model = Model::new(smmu_arch::model::MODEL_NAME, Options::default()).unwrap();
    let who = Requester { stream: StreamId(1), substream: None };
    let qw0 = SteQw0::new().with_v(true).with_config(StreamConfig::Stage1);
    let qw0 = qw0.with_s1contextptr_51_6(CONTEXT >> 6);
    let ste = Ste { qw0, qw1: SteQw1::new(), ..Ste::default() };
    let StreamAction::Stage1(stream) = check(&model, &ste, who).unwrap() else { unreachable!() };

    let inputs = (
        prop::collection::vec(any_mapping(), 1..8),
        any::<bool>(),
        0usize..2,
        prop::collection::vec((any::<prop::sample::Index>(), any::<u64>(), any::<[bool; 2]>()), 1..60),
    );
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(1000) };
    let mut runner = TestRunner::new(config);
    let outcome = runner.run(&inputs, |(mappings, upper, level, asks)| {
        let image = build(&mappings, upper, level);
        let origin = if upper { u64::MAX << (48 - 9 * level) } else { 0 };
        let mut engine = Engine::new(model);
        for (pick, random, [near, read]) in asks {
            // At and around the ends of a mapping, or anywhere.
            let Mapping { page, count, .. } = *pick.get(&mappings);
            let page = if near {
                [page, page + count - 1, page + count, page.saturating_sub(1)][(random % 4) as usize] % PAGES
            } else {
                page + (random >> 12) % count
            };
            let address = origin.wrapping_add(page * PAGE + random % PAGE);
            let access = InputAccess { address, read, instruction: false, privileged: false };
            let result = engine.translate_stage1(&stream, &image, who, access);
            let event = |result: Result<_, smmu_arch::translate::Fault>| {
                result.err().and_then(|fault| fault.event).map(|event| event.qw0.event_type())
            };
            let expected = expected(&mappings, page);
            let seen = match expected {
                None => ("F_TRANSLATION", Some(EventType::F_TRANSLATION)),
                Some((_, a)) if !a.contains(El1Attributes::ACCESSED) => {
                    ("F_ACCESS", Some(EventType::F_ACCESS))
                }
                Some((_, a))
                    if !a.contains(El1Attributes::USER) || !read && a.contains(El1Attributes::READ_ONLY) =>
                {
                    ("F_PERMISSION", Some(EventType::F_PERMISSION))
                }
                Some(_) => ("an address", None),
            };
            tally.count("outcome", seen.0);
            if let (Ok(translation), Some((to, _)), None) = (result, expected, seen.1) {
                prop_assert_eq!(translation.address, to * PAGE + random % PAGE);
                // As far as it says, the mappings say so too.
                let last = page + (random % PAGE + translation.span - 1) / PAGE;
                prop_assert_eq!(self::expected(&mappings, last).map(|(to, _)| to), Some(to + last - page));
                let side = if upper { "TTB1" } else { "TTB0" };
                tally.count("tables", format!("{side}, {} levels", 4 - level));
                let leaf = translation.span + translation.address % PAGE;
                tally.count("leaf", if leaf <= PAGE { "page" } else { "block" });
            } else {
                prop_assert_eq!(event(result), seen.1, "{:?}", access);
            }
        }
        Ok(())
    });
    tally.finish(
        "tables built by aarch64-paging",
        100,
        &[
            ("outcome", &["an address", "F_TRANSLATION", "F_ACCESS", "F_PERMISSION"]),
            ("tables", &["TTB0, 4 levels", "TTB0, 3 levels", "TTB1, 4 levels", "TTB1, 3 levels"]),
            ("leaf", &["page", "block"]),
        ],
    );
    outcome.unwrap();
}
