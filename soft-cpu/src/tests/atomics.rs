// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Exclusive, ordered and atomic accesses, on one CPU and on two at once.

use std::time::{Duration, Instant};

use super::machine::{CODE, DATA, DEVICE, Guest, page, parts};
use crate::cluster::VcpuHandle;
use crate::{Exit, Vcpu};

const LDXR: u32 = 0xc85f_7c20; // ldxr x0, [x1]
const STXR: u32 = 0xc802_7c23; // stxr w2, x3, [x1]
const LDXP: u32 = 0xc87f_1020; // ldxp x0, x4, [x1]
const STXP: u32 = 0xc822_1423; // stxp w2, x3, x5, [x1]
const CLREX: u32 = 0xd503_3f5f;

fn guest() -> Guest {
    let mut guest = Guest::translated();
    guest.write(DATA, 10);
    guest.write(DATA + 8, 20);
    guest.set_x(1, DATA);
    guest.set_x(2, 9);
    guest.set_x(3, 30);
    guest.set_x(5, 50);
    guest
}

#[test]
fn store_exclusive_succeeds_after_its_load() {
    let mut guest = guest();
    guest.run(&[LDXR, STXR]);
    assert_eq!((guest.x(0), guest.x(2), guest.read(DATA)), (10, 0, 30));
    // The monitor is used up.
    guest.step(STXR);
    assert_eq!(guest.x(2), 1);
}

#[test]
fn store_exclusive_fails_without_its_load_or_after_a_change() {
    let mut fresh = guest();
    fresh.step(STXR);
    assert_eq!((fresh.x(2), fresh.read(DATA)), (1, 10));
    let mut cleared = guest();
    cleared.run(&[LDXR, CLREX, STXR]);
    assert_eq!((cleared.x(2), cleared.read(DATA)), (1, 10));
    let mut changed = guest();
    changed.step(LDXR);
    changed.write(DATA, 11);
    changed.step(STXR);
    assert_eq!((changed.x(2), changed.read(DATA)), (1, 11));
    let mut elsewhere = guest();
    elsewhere.step(LDXR);
    elsewhere.set_x(1, DATA + 8);
    elsewhere.step(STXR);
    assert_eq!((elsewhere.x(2), elsewhere.read(DATA + 8)), (1, 20));
}

#[test]
fn pairs_are_compared_as_a_whole() {
    let mut guest = guest();
    guest.run(&[LDXP, STXP]);
    assert_eq!((guest.x(0), guest.x(4), guest.x(2)), (10, 20, 0));
    assert_eq!((guest.read(DATA), guest.read(DATA + 8)), (30, 50));
    guest.step(LDXP);
    guest.write(DATA + 8, 51);
    guest.step(STXP);
    assert_eq!((guest.x(2), guest.read(DATA)), (1, 30));
}

#[test]
fn exclusives_must_be_aligned_and_in_memory() {
    let mut guest = guest();
    guest.set_x(1, DATA + 4);
    guest.step(LDXR);
    guest.expect_exception(0x25, 0b10_0001, 0x200);
    guest.set_x(1, DATA + 8);
    guest.step(LDXP);
    guest.expect_exception(0x25, 0b10_0001, 0x200);
    guest.map(DEVICE, DEVICE | page::KERNEL | page::DEVICE);
    guest.set_x(1, DEVICE);
    guest.step(0xf820_0023); // ldadd x0, x3, [x1]
    guest.expect_exception(0x25, 0b11_0101 | 1 << 6, 0x200);
}

#[test]
fn atomics_return_the_old_value_and_store_the_new() {
    let old = 0xffff_ffff_ffff_ff80u64;
    for (word, operand, result, after) in [
        (0xf820_0023, 5, old, old.wrapping_add(5)),    // ldadd x0, x3, [x1]
        (0xf820_1023, 0xff, old, old & !0xff),         // ldclr
        (0xf820_2023, 0xff, old, old ^ 0xff),          // ldeor
        (0xf820_3023, 0xff, old, old | 0xff),          // ldset
        (0xf820_4023, 1, old, 1),                      // ldsmax
        (0xf820_5023, 1, old, old),                    // ldsmin
        (0xf820_6023, 1, old, old),                    // ldumax
        (0xf820_7023, 1, old, 1),                      // ldumin
        (0xf820_8023, 7, old, 7),                      // swp
        (0x3820_4023, 1, 0x80, 0xffff_ffff_ffff_ff01), // ldsmaxb w0, w3, [x1]
        (0xb8e0_1023, 0x80, 0xffff_ff80, 0xffff_ffff_ffff_ff00), // ldclral w0, w3, [x1]
    ] {
        let mut guest = guest();
        guest.write(DATA, old);
        guest.set_x(0, operand);
        guest.step(word);
        guest.expect_none();
        assert_eq!((guest.x(3), guest.read(DATA)), (result, after), "{word:08x}");
    }
}

#[test]
fn compare_and_swap_stores_only_on_a_match() {
    let mut guest = guest();
    guest.set_x(0, 10);
    guest.step(0xc8a0_7c23); // cas x0, x3, [x1]
    assert_eq!((guest.x(0), guest.read(DATA)), (10, 30));
    guest.step(0xc8a0_7c23);
    assert_eq!((guest.x(0), guest.read(DATA)), (30, 30));
    guest.set_x(2, 30);
    guest.set_x(3, 20);
    guest.set_x(4, 1);
    guest.set_x(5, 2);
    guest.step(0x4822_7c24); // casp x2, x3, x4, x5, [x1]
    assert_eq!((guest.x(2), guest.x(3)), (30, 20));
    assert_eq!((guest.read(DATA), guest.read(DATA + 8)), (1, 2));
    guest.step(0x4822_7c24);
    assert_eq!((guest.x(2), guest.x(3)), (1, 2), "what was there instead");
    assert_eq!((guest.read(DATA), guest.read(DATA + 8)), (1, 2));
}

#[test]
fn atomic_on_an_unmapped_page_is_reported_as_a_read() {
    let mut guest = guest();
    guest.set_x(1, 0x1000);
    guest.step(0xf820_0023); // ldadd x0, x3, [x1]
    guest.expect_exception(0x25, 0b00_0101, 0x200);
    guest.map(0x1000, DATA | page::KERNEL | page::READ_ONLY);
    guest.step(0xf820_0023);
    guest.expect_exception(0x25, 0b00_1111 | 1 << 6, 0x200);
}

/// Two CPUs add to one word, each `count` times, and then wait; the sum. A lost addition runs into the deadline.
fn race(increment: &[u32], count: u64) -> u64 {
    let (parts, _) = parts(2);
    let branch_back = 0x5400_0001 | ((0x8_0000 - increment.len() as u32 - 1) & 0x7_ffff) << 5;
    let mut code = increment.to_vec();
    code.extend([
        0xf100_04c6, // subs x6, x6, #1
        branch_back, // b.ne, to the start
        0xd503_207f, // wfi
        0x17ff_ffff, // b, to the wfi
    ]);
    for (index, word) in (0..).zip(&code) {
        parts.ram.write::<2>(CODE + 4 * index, u64::from(*word));
    }
    let handles: Vec<VcpuHandle> = (0..2).filter_map(|vcpu| parts.cluster.handle(vcpu)).collect();
    let threads: Vec<_> = (0..2)
        .map(|index| {
            let mut vcpu = Vcpu::new(index, parts.clone());
            std::thread::spawn(move || {
                vcpu.cpu.powered = true;
                vcpu.cpu.shared().inbox().power = crate::cluster::Power::On;
                vcpu.cpu.pc = CODE;
                vcpu.cpu.w(1, DATA);
                vcpu.cpu.w(6, count);
                vcpu.run()
            })
        })
        .collect();
    let deadline = Instant::now() + Duration::from_secs(60);
    while parts.ram.read::<3>(DATA) != Some(2 * count) && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
    }
    for handle in &handles {
        handle.kick();
    }
    threads.into_iter().for_each(|thread| assert_eq!(thread.join().unwrap(), Exit::Kicked));
    parts.ram.read::<3>(DATA).unwrap()
}

#[test]
fn increments_of_two_cpus_are_all_counted() {
    const COUNT: u64 = 200_000;
    let exclusive = [
        0xc85f_7c20, // ldxr x0, [x1]
        0x9100_0403, // add x3, x0, #1
        0xc802_7c23, // stxr w2, x3, [x1]
        0x35ff_ffa2, // cbnz w2, to the ldxr
    ];
    assert_eq!(race(&exclusive, COUNT), 2 * COUNT, "by exclusives");
    let atomic = [
        0xd280_0023, // mov x3, #1
        0xf823_0020, // ldadd x3, x0, [x1]
    ];
    assert_eq!(race(&atomic, COUNT), 2 * COUNT, "by atomics");
}

#[test]
fn load_acquire_of_rcpc_loads_every_size_and_faults_when_unaligned() {
    for (log2, expected) in [(0, 0x88), (1, 0x7788), (2, 0x5566_7788), (3, 0x1122_3344_5566_7788)] {
        let ldapr = 0x38bf_c020 | log2 << 30; // ldaprb, ldaprh, ldapr w0, ldapr x0, [x1]
        let mut guest = Guest::new();
        guest.write(DATA, 0x1122_3344_5566_7788);
        guest.set_x(1, DATA);
        guest.step(ldapr);
        guest.expect_none();
        assert_eq!(guest.x(0), expected);
        if log2 > 0 {
            guest.set_x(1, DATA + 1);
            guest.step(ldapr);
            assert_eq!(guest.syndrome().0, 0x25);
        }
    }
}
