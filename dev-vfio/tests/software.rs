// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The software engine as a device uses it: guest tables in guest RAM, DMA through them, invalidations, faults, and a
//! dirty log that is harvested while the device writes.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test stops at the first surprise, in its helpers too"
)]

mod rig;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use dev_vfio::iommu::software::Terminated;
use dev_vfio::iommu::{AttachError, HostIommu, Invalidated};
use ipc::addr::{Gpa, Iova, StreamId};
use ipc::protocol::stage1::{Attachment, Fault};
use ipc::shm::dirty_log::{self, OwedMap};
use proptest::prelude::*;
use rig::{ASID, PAGES, RAM, Rig, STREAM, cfgi_cd_all, command, tlbi_asid, tlbi_va};
use smmu_arch::spec::commands::Opcode;

fn kinds(rig: &mut Rig) -> Vec<(u64, u64)> {
    let mut found = Vec::new();
    while let Some(entry) = rig.iommu.next_fault() {
        if let Some(Fault::Record([head, how, address, _])) = entry.fault {
            assert_eq!(head >> 32, u64::from(STREAM.0), "the guest's stream id");
            assert_eq!(how & (1 << 31), 0, "not stalled");
            found.push((head & 0xff, address));
        }
    }
    found
}

#[test]
fn a_stream_starts_in_abort_and_tells_every_attempt() {
    let mut rig = Rig::new();
    assert_eq!(rig.iommu.write(Iova(RAM), b"x"), Err(Terminated));
    let entry = rig.iommu.next_fault().unwrap();
    assert_eq!((entry.sequence, entry.fault), (0, Some(Fault::Aborted { stream: STREAM })));
    assert!(rig.iommu.next_fault().is_none());
}

#[test]
fn bypass_reaches_ram_at_its_guest_physical_address_and_nothing_else() {
    let mut rig = Rig::new();
    rig.iommu.attach(STREAM, Attachment::Bypass).unwrap();
    rig.iommu.write(Iova(RAM + 0x1ff0), b"across the page").unwrap();
    let mut back = [0; 15];
    rig.iommu.read(Iova(RAM + 0x1ff0), &mut back).unwrap();
    assert_eq!(&back, b"across the page");
    // Below RAM, above it, across its end, and at the end of the address space: no event, as on a bus.
    for iova in [0, RAM - 1, RAM + rig::RAM_LEN - 7, 1 << 39] {
        assert_eq!(rig.iommu.write(Iova(iova), &[0; 15]), Err(Terminated), "{iova:#x}");
    }
    assert_eq!(kinds(&mut rig), []);
    assert_eq!(rig.iommu.read(Iova(u64::MAX - 3), &mut back), Err(Terminated));
    assert_eq!(kinds(&mut rig), [(0x11, u64::MAX - 3)], "F_ADDR_SIZE");
}

#[test]
fn attachments_that_a_nesting_host_refuses_are_refused_and_change_nothing() {
    let mut rig = Rig::new();
    rig.attach_stage1();
    let Attachment::Stage1([word0, word1]) = rig.stage1() else { unreachable!() };
    for words in [
        [word0 | 1 << 52, word1],
        [word0, word1 | 1 << 30],
        [word0, word1 | 1 << 44],
        [word0 | 0b0110, word1],
    ] {
        let refused = rig.iommu.attach(STREAM, Attachment::Stage1(words));
        assert_eq!(refused, Err(AttachError::Words(words)));
    }
    let other = StreamId(STREAM.0 + 1);
    assert_eq!(rig.iommu.attach(other, Attachment::Bypass), Err(AttachError::Stream(other)));
    rig.map(3, 7, true);
    rig.iommu.write(Iova(0x3000), b"still translated").unwrap();
    assert_eq!(rig.ram_at(7, 16), b"still translated");
    // V=0 is abort.
    rig.iommu.attach(STREAM, Attachment::Stage1([word0 & !1, word1])).unwrap();
    assert_eq!(rig.iommu.write(Iova(0x3000), b"x"), Err(Terminated));
}

#[test]
fn invalidation_takes_the_commands_of_a_host_and_counts_them() {
    let mut rig = Rig::new();
    rig.attach_stage1();
    let all = command(Opcode::TlbiNhAll);
    let good = [command(Opcode::TlbiNsnhAll), all, tlbi_asid(ASID), tlbi_va(ASID, 0), cfgi_cd_all(STREAM.0)];
    assert_eq!(rig.iommu.invalidate(&good), Invalidated { done: 5, refused: false });
    let cfgi_cd = [command(Opcode::CfgiCd)[0] | u64::from(STREAM.0) << 32, 0];
    let atc = [command(Opcode::AtcInv)[0] | u64::from(STREAM.0) << 32, 52];
    assert_eq!(rig.iommu.invalidate(&[cfgi_cd, atc]), Invalidated { done: 2, refused: false });
    // What the owner of the queue handles itself, what no host takes, and other devices' streams.
    let stranger = cfgi_cd_all(STREAM.0 + 1);
    let refused = [
        command(Opcode::CfgiSte),
        command(Opcode::CfgiSteRange),
        command(Opcode::Sync),
        command(Opcode::PrefetchConfig),
        command(Opcode::TlbiS2Ipa),
        command(Opcode::TlbiEl2All),
        command(Opcode::Resume),
        [0xff, 0],
        stranger,
    ];
    for bad in refused {
        assert_eq!(
            rig.iommu.invalidate(&[all, all, bad, all]),
            Invalidated { done: 2, refused: true },
            "{bad:x?}"
        );
    }
}

#[test]
fn faults_are_the_architectures_with_the_access_that_met_them() {
    let mut rig = Rig::new();
    rig.attach_stage1();
    rig.map(1, 1, true);
    rig.map(2, 2, false);
    let mut bytes = [0; 4];
    assert_eq!(rig.iommu.read(Iova(0x5004), &mut bytes), Err(Terminated));
    assert_eq!(rig.iommu.write(Iova(0x2008), &bytes), Err(Terminated));
    assert_eq!(rig.iommu.write(Iova(0x1ffc), &[0; 8]), Err(Terminated), "its second page is read-only");
    assert_eq!(rig.iommu.read(Iova(1 << 45), &mut bytes), Err(Terminated), "beyond T0SZ");
    rig.clear_access_flag(1);
    assert_eq!(rig.iommu.read(Iova(0x1000), &mut bytes), Ok(()), "cached until it is invalidated");
    rig.iommu.invalidate(&[tlbi_va(ASID, 0x1000)]);
    assert_eq!(rig.iommu.read(Iova(0x1000), &mut bytes), Err(Terminated));
    rig.break_context();
    assert_eq!(rig.iommu.read(Iova(0x2000), &mut bytes), Ok(()));
    rig.iommu.invalidate(&[cfgi_cd_all(STREAM.0)]);
    assert_eq!(rig.iommu.read(Iova(0x2000), &mut bytes), Err(Terminated));
    let (translation, access, permission, bad_cd) = (0x10, 0x12, 0x13, 0x0a);
    assert_eq!(
        kinds(&mut rig),
        [
            (translation, 0x5004),
            (permission, 0x2008),
            (permission, 0x2000),
            (translation, 1 << 45),
            (access, 0x1000),
            (bad_cd, 0)
        ]
    );
}

#[test]
fn tables_in_a_loop_end_at_the_last_level() {
    let mut rig = Rig::new();
    rig.attach_stage1();
    // Three levels of the same table, which at the last level is a page without access flag.
    rig.loop_tables(0);
    assert_eq!(rig.iommu.write(Iova(0), &[1; 8]), Err(Terminated));
    assert_eq!(kinds(&mut rig), [(0x12, 0)], "F_ACCESS");
    // With it, it is a page like any other: the guest has given its own table to the device, which is logged.
    rig.loop_tables(1 << 6 | 1 << 10 | 1 << 11);
    rig.ram.log().enable(1);
    rig.iommu.write(Iova(0), &[0; 8]).unwrap();
    let mut pages = OwedMap::new(&rig.layout);
    dirty_log::rearm_and_harvest(rig.ram.log(), &mut pages);
    assert!(pages.contains(Gpa(RAM + rig.root_page() * 4096)));
    rig.iommu.invalidate(&[tlbi_asid(ASID)]);
    assert_eq!(rig.iommu.write(Iova(0), &[1; 8]), Err(Terminated));
    assert_eq!(kinds(&mut rig), [(0x10, 0)], "F_TRANSLATION: the device has written over the table");
}

#[derive(Clone, Copy, Debug)]
enum Act {
    Map { page: u64, to: u64, writable: bool },
    Write { page: u64, offset: u64, len: usize },
    Read { page: u64, len: usize },
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let page = 0..PAGES;
    let map = (page.clone(), page.clone(), any::<bool>()).prop_map(|(page, to, writable)| Act::Map {
        page,
        to,
        writable,
    });
    let write = (page.clone(), 0..4096u64, 1..9000usize).prop_map(|(page, offset, len)| Act::Write {
        page,
        offset,
        len,
    });
    let read = (page, 1..9000usize).prop_map(|(page, len)| Act::Read { page, len });
    prop::collection::vec(prop_oneof![map, write, read], 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Against a plain table of what is mapped where: every byte goes where it says, never through what was
    /// invalidated, and the logged pages are exactly those that were written.
    #[test]
    fn dma_follows_the_tables_and_the_log_follows_the_writes(acts in acts()) {
        let mut rig = Rig::new();
        rig.attach_stage1();
        rig.ram.log().enable(1);
        let mut mapped = vec![None; PAGES as usize + 4];
        let mut written = BTreeSet::new();
        for (number, act) in acts.into_iter().enumerate() {
            let fill = number as u8 | 0x80;
            match act {
                Act::Map { page, to, writable } => {
                    rig.map(page, to, writable);
                    mapped[page as usize] = Some((to, writable));
                    rig.iommu.invalidate(&[tlbi_va(ASID, page * 4096)]);
                }
                Act::Write { page, offset, len } => {
                    let iova = page * 4096 + offset;
                    let pages = page..=(iova + len as u64 - 1) / 4096;
                    let open: Vec<u64> = pages.clone().map_while(|page| {
                        mapped[page as usize].and_then(|(to, writable)| writable.then_some(to))
                    }).collect();
                    let done = rig.iommu.write(Iova(iova), &vec![fill; len]);
                    prop_assert_eq!(done.is_ok(), open.len() == pages.count());
                    if let Some(first) = open.first() {
                        prop_assert_eq!(rig.ram_byte(first * 4096 + offset), fill);
                    }
                    written.extend(open);
                }
                Act::Read { page, len } => {
                    let pages = page..=(page * 4096 + len as u64 - 1) / 4096;
                    let open = pages.clone().all(|page| mapped[page as usize].is_some());
                    let mut bytes = vec![0; len];
                    prop_assert_eq!(rig.iommu.read(Iova(page * 4096), &mut bytes).is_ok(), open);
                    if let (true, Some((to, _))) = (open, mapped[page as usize]) {
                        let count = len.min(4096);
                        prop_assert_eq!(&bytes[..count], &rig.ram_at(to, count)[..]);
                    }
                }
            }
        }
        let mut pages = OwedMap::new(&rig.layout);
        dirty_log::rearm_and_harvest(rig.ram.log(), &mut pages);
        let logged: BTreeSet<u64> = (0..PAGES).filter(|page| pages.contains(Gpa(RAM + page * 4096))).collect();
        prop_assert_eq!(logged, written);
    }
}

/// A thread harvests all the time, as a coordinator does; the pages it copied, in the order of its harvests, must be
/// the guest's memory in the end.
#[test]
fn concurrent_harvests_lose_no_write() {
    const WRITES: u64 = 40_000;
    let mut rig = Rig::new();
    rig.attach_stage1();
    for page in 0..PAGES {
        rig.map(page, (page * 7) % PAGES, true);
    }
    rig.ram.log().enable(1);
    let layout = rig.layout.clone();
    let (ram, log) = (rig.ram.clone(), Arc::clone(rig.ram.log()));
    let copy = Arc::new(Mutex::new(vec![0u8; rig::RAM_LEN as usize]));
    let stop = Arc::new(AtomicBool::new(false));
    let harvester = {
        let (ram, copy, stop, layout) = (ram.clone(), Arc::clone(&copy), Arc::clone(&stop), layout.clone());
        let log = Arc::clone(&log);
        std::thread::spawn(move || {
            let mut pages = OwedMap::new(&layout);
            let mut rounds = 0u32;
            loop {
                let last = stop.load(Ordering::Acquire);
                pages.clear_all();
                dirty_log::rearm_and_harvest(&log, &mut pages);
                for range in pages.ranges() {
                    let start = (range.start().0 - RAM) as usize;
                    let bytes = &mut copy.lock().unwrap()[start..start + range.len() as usize];
                    ram.read(range.start(), bytes).unwrap();
                }
                rounds += 1;
                if last {
                    return rounds;
                }
            }
        })
    };
    for number in 0..WRITES {
        let iova = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) % (PAGES * 4096 - 64);
        rig.iommu.write(Iova(iova), &number.to_le_bytes().repeat(8)).unwrap();
    }
    stop.store(true, Ordering::Release);
    let rounds = harvester.join().unwrap();
    let copy = copy.lock().unwrap();
    for page in 0..PAGES {
        let start = page as usize * 4096;
        assert!(
            copy[start..start + 4096] == rig.ram_at(page, 4096)[..],
            "page {page} after {rounds} harvests"
        );
    }
    println!("{WRITES} writes, {rounds} harvests");
    assert!(rounds > 10, "the harvests ran beside the writes: {rounds}");
}

/// While a thread harvests, pages are remapped and written through: what all harvests have had together is what was
/// written, no page more and none less.
#[test]
fn concurrent_harvests_have_exactly_the_pages_written_through_remapped_iovas() {
    const ROUNDS: u64 = 6_000;
    let mut rig = Rig::new();
    rig.attach_stage1();
    rig.ram.log().enable(1);
    let (layout, log) = (rig.layout.clone(), Arc::clone(rig.ram.log()));
    let stop = Arc::new(AtomicBool::new(false));
    let harvester = {
        let stop = Arc::clone(&stop);
        std::thread::spawn(move || {
            let mut pages = OwedMap::new(&layout);
            let (mut all, mut rounds) = (BTreeSet::new(), 0u32);
            loop {
                let last = stop.load(Ordering::Acquire);
                pages.clear_all();
                dirty_log::rearm_and_harvest(&log, &mut pages);
                all.extend((0..PAGES).filter(|page| pages.contains(Gpa(RAM + page * 4096))));
                rounds += 1;
                if last {
                    return (all, rounds);
                }
            }
        })
    };
    let mut written = BTreeSet::new();
    let mut remapped = 0;
    for round in 0..ROUNDS {
        let random = (round + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let (iova, to) = (random >> 8 & 7, random >> 16 & (PAGES - 1));
        // Two pages of three are never given to be written; those are mapped read-only, and written at.
        let writable = to % 3 == 0;
        rig.map(iova, to, writable);
        rig.iommu.invalidate(&[tlbi_va(ASID, iova * 4096)]);
        remapped += 1;
        let done = rig.iommu.write(Iova(iova * 4096 + (random >> 32 & 0xff8)), &round.to_le_bytes());
        assert_eq!(done.is_ok(), writable);
        if writable {
            written.insert(to);
        }
    }
    stop.store(true, Ordering::Release);
    let (harvested, rounds) = harvester.join().unwrap();
    println!(
        "COUNTED: pages logged against pages written, {remapped} by remapped IOVA: {rounds} harvests beside them"
    );
    assert_eq!(harvested, written);
    assert!(written.len() > 15 && rounds > 10, "{} pages, {rounds} harvests", written.len());
}
