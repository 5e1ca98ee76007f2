// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the translation of DMA costs in the software engine, beside what the machine itself takes for the same.
//!
//! All over real guest RAM, measured in turn in one run: an IOTLB hit beside one look into a plain hash map of as many
//! pages; a cold walk (stream table entry, context descriptor, four tables) beside the six dependent loads of those
//! words from those places, unchecked; an invalidation of one page, alone and in batches of a message, beside
//! taking a page out of the hash map. Nanoseconds depend on the machine; the ratios say what checking and
//! bookkeeping add. A limit has none of it: no walk or cache that keeps to the architecture can be faster.
//!
//! `cargo bench -p dev-vfio --bench translate`; run by `cargo xtask bench translate`.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a bench stops at the first surprise")]

use std::collections::HashMap;
use std::hint::black_box;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use dev_vfio::iommu::HostIommu;
use dev_vfio::iommu::software::SoftIommu;
use ipc::addr::{Gpa, Iova, StreamId};
use ipc::protocol::ram::{RamLayout, RamRegion};
use ipc::protocol::stage1::{Attachment, REQUESTS_MAX};
use ipc::shm::dirty_log::DirtyLog;
use ipc::shm::guest_memory::{self, GuestMemory};
use ipc::shm::region::Region;
use smmu_arch::engine::Engine;
use smmu_arch::memory::{Abort, Memory};
use smmu_arch::spec::commands::Opcode;
use smmu_arch::spec::control::Cr0;
use smmu_arch::spec::events::{InputAccess, Requester};
use smmu_arch::spec::tables::{StrtabBase, StrtabBaseCfg};
use smmu_arch::translate::Registers;
use smmu_arch::{Model, Options};

/// How often all are measured in turn, so that a passing disturbance does not hit one alone.
const ROUNDS: usize = 25;
/// Pages in the working set of hits: half of what the IOTLB holds.
const HOT: u64 = 2048;
/// Pages that are mapped: 1 GiB, whose last-level tables (2 MiB) are more than a second-level cache usually has.
const MAPPED: u64 = 1 << 18;
/// Operations of a kind in one round.
const COUNT: u64 = 2048;
/// Commands in a batch: as many as one message of the vSMMU brings.
const BATCH: usize = REQUESTS_MAX;

const STREAM: StreamId = StreamId(8);
const ASID: u64 = 5;
const RAM: u64 = 0x4000_0000;
const STREAMS: u64 = RAM;
const CONTEXT: u64 = RAM + 0x1000;
const LEVELS: [u64; 3] = [RAM + 0x2000, RAM + 0x3000, RAM + 0x4000];
/// The last-level tables, one behind the other.
const LEAVES: u64 = RAM + 0x20_0000;
const RAM_LEN: u64 = 0x40_0000;

struct Line {
    name: &'static str,
    limit: Option<&'static str>,
    nanoseconds: Vec<f64>,
}

impl Line {
    fn new(name: &'static str, limit: Option<&'static str>) -> Line {
        Line { name, limit, nanoseconds: Vec::new() }
    }

    fn measure(&mut self, mut work: impl FnMut()) {
        let start = Instant::now();
        work();
        self.nanoseconds.push(start.elapsed().as_secs_f64() * 1e9 / COUNT as f64);
    }

    fn median(&self) -> f64 {
        let mut sorted = self.nanoseconds.clone();
        sorted.sort_by(f64::total_cmp);
        sorted[sorted.len() / 2]
    }
}

#[derive(Clone)]
struct Ram(GuestMemory);

impl Memory for Ram {
    fn read(&self, address: u64, bytes: &mut [u8]) -> Result<(), Abort> {
        self.0.read(Gpa(address), bytes).map_err(|_| Abort)
    }
}

/// RAM with one stream, one context and a gigabyte of pages, all mapped to one page behind the tables.
fn guest() -> GuestMemory {
    let layout = RamLayout::new(vec![RamRegion { gpa: Gpa(RAM), len: RAM_LEN, file_offset: 0 }]).unwrap();
    let memory = Region::create("bench-ram", RAM_LEN).unwrap();
    let log = DirtyLog::attach(&DirtyLog::create("bench-log", &layout).unwrap(), &layout).unwrap();
    let ram = GuestMemory::new(Arc::new(guest_memory::map(&memory, &layout).unwrap()), Arc::new(log));
    let put = |address: u64, word: u64| ram.write(Gpa(address), &word.to_le_bytes()).unwrap();
    put(STREAMS + u64::from(STREAM.0) * 64, CONTEXT | 0b1011);
    put(STREAMS + u64::from(STREAM.0) * 64 + 8, 0b1101_0100);
    // T0SZ 16: 48 bits, four levels; EPD1, V, IPS 44 bits, AA64, R, A, ASET.
    let flags = 1 << 30 | 1 << 31 | 4 << 32 | 1 << 41 | 1 << 45 | 1 << 46 | 1 << 47;
    put(CONTEXT, 16 | flags | ASID << 48);
    put(CONTEXT + 8, LEVELS[0]);
    put(LEVELS[0], LEVELS[1] | 3);
    put(LEVELS[1], LEVELS[2] | 3);
    for table in 0..MAPPED / 512 {
        put(LEVELS[2] + table * 8, (LEAVES + table * 0x1000) | 3);
    }
    for page in 0..MAPPED {
        // Valid page, AP[1], AF, nG.
        put(LEAVES + page * 8, (RAM + 0x1f_0000) | 3 | 1 << 6 | 1 << 10 | 1 << 11);
    }
    ram
}

/// Pages in an order that no cache expects.
fn scattered(count: u64, from: u64) -> impl Iterator<Item = u64> {
    (0..COUNT).map(move |n| (n + from).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20 & (count - 1))
}

fn tlbi_va(page: u64) -> [u64; 2] {
    [u64::from(Opcode::TlbiNhVa.0) | ASID << 48, page << 12 | 1]
}

fn main() -> ExitCode {
    if std::env::args().any(|argument| argument == "--list") {
        // A test runner looking for tests: there are none here.
        return ExitCode::SUCCESS;
    }
    let ram = guest();
    let model = Model::new(smmu_arch::model::MODEL_NAME, Options::default()).unwrap();
    let mut iommu = SoftIommu::new(model, ram.clone(), STREAM);
    iommu.attach(STREAM, Attachment::Stage1([CONTEXT | 0b1011, 0b1101_0100])).unwrap();
    let registers = Registers {
        cr0: Cr0::new().with_smmuen(true),
        strtab_base: StrtabBase::from_bits(STREAMS),
        strtab_base_cfg: StrtabBaseCfg::from_bits(4),
        ..Registers::default()
    };
    let mut engine = Engine::new(model);
    let view = Ram(ram.clone());
    let words: Vec<u64> = (0..RAM_LEN / 8)
        .map(|at| {
            let mut bytes = [0; 8];
            ram.read(Gpa(RAM + at * 8), &mut bytes).unwrap();
            u64::from_le_bytes(bytes)
        })
        .collect();
    let word = |address: u64| words[usize::try_from((address - RAM) / 8).unwrap()];
    let map = || -> HashMap<u64, u64> { (0..HOT).map(|page| (page, page << 12)).collect() };
    let hot = map();
    let fill = |iommu: &mut SoftIommu| (0..HOT).for_each(|page| touch(iommu, page));

    let [mut bare_look, mut hit, mut bare_loads, mut walk] = [
        Line::new("a look into a hash map", None),
        Line::new("IOTLB hit", Some("a look into a hash map")),
        Line::new("six dependent loads", None),
        Line::new("cold walk, 4 levels", Some("six dependent loads")),
    ];
    let [mut bare_removal, mut single, mut batch] = [
        Line::new("a removal from a hash map", None),
        Line::new("invalidation of a page, alone", Some("a removal from a hash map")),
        Line::new("the same in batches", Some("a removal from a hash map")),
    ];
    for round in 0..ROUNDS as u64 {
        let from = round * COUNT;
        fill(&mut iommu);
        hit.measure(|| scattered(HOT, from).for_each(|page| touch(&mut iommu, page)));
        bare_look.measure(|| {
            scattered(HOT, from).for_each(|page| {
                black_box(hot.get(&black_box(page)));
            });
        });
        walk.measure(|| {
            for page in scattered(MAPPED, from) {
                engine.flush();
                let who = Requester { stream: STREAM, substream: None };
                let access =
                    InputAccess { address: page << 12, read: true, instruction: false, privileged: false };
                black_box(engine.translate(&registers, &view, who, access)).unwrap();
            }
        });
        bare_loads.measure(|| {
            for page in scattered(MAPPED, from) {
                let context = word(STREAMS + u64::from(STREAM.0) * 64) & !0x3f;
                let mut table = word(black_box(context) + 8);
                for level in 0..3 {
                    table = word(table + (page >> (27 - 9 * level) & 511) * 8) & !0xfff;
                }
                black_box(word(table + (page & 511) * 8));
            }
        });
        fill(&mut iommu);
        single.measure(|| (0..HOT).for_each(|page| invalidate(&mut iommu, &[tlbi_va(page)])));
        assert_eq!(iommu.cached_translations(), 0, "what was invalidated is gone");
        fill(&mut iommu);
        let commands: Vec<[u64; 2]> = (0..HOT).map(tlbi_va).collect();
        batch.measure(|| commands.chunks(BATCH).for_each(|chunk| invalidate(&mut iommu, chunk)));
        assert_eq!(iommu.cached_translations(), 0, "what was invalidated is gone");
        let mut map = map();
        bare_removal.measure(|| {
            (0..HOT).for_each(|page| {
                black_box(map.remove(&black_box(page)));
            });
        });
    }
    report(&[bare_look, hit, bare_loads, walk, bare_removal, single, batch]);
    ExitCode::SUCCESS
}

/// A translation, as the engine of a device does it, without the copying.
fn touch(iommu: &mut SoftIommu, page: u64) {
    black_box(iommu.write_target(Iova(black_box(page) << 12))).unwrap();
}

fn invalidate(iommu: &mut SoftIommu, commands: &[[u64; 2]]) {
    assert!(!black_box(iommu.invalidate(commands)).refused);
}

fn report(lines: &[Line]) {
    for line in lines {
        let median = line.median();
        print!("{:<32} {median:>9.1} ns {:>12.0}/s", line.name, 1e9 / median);
        match line.limit.and_then(|limit| lines.iter().find(|other| other.name == limit)) {
            Some(limit) => println!("  {:>6.2} x {}", median / limit.median(), limit.name),
            None => println!(),
        }
    }
}
